"""Columns of a shard: name, type, shape, unit and meaning. Schema and documentation derive from them.

Arrays are fixed-size lists in row-major order; the field's metadata carries shape ("3,3"), unit and meaning.
"""

import numpy as np
import pyarrow as pa

from hawor_pipeline.shards.columns import Column

ANNOTATIONS_FILE = "annotations.parquet"
IMAGES_FILE = "images.arrow"
LEDGER_FILE = "ledger.parquet"
DISTANCES_FILE = "distances.parquet"
MANIFEST_FILE = "manifest.json"
# Records per Arrow batch and rows per Parquet row group; fixed, because they determine the bytes of a shard.
BATCH_ROWS = 256
ROW_GROUP_ROWS = 4096


def _columns(kind: pa.DataType, rows: str) -> list[Column]:
    found = []
    for line in rows.strip().splitlines():
        name, shape, unit, meaning = (part.strip() for part in line.split("|"))
        found.append(Column(name, kind, tuple(int(n) for n in shape.split(",") if n), unit, meaning))
    return found


# The texts are metadata of the Parquet files: changing one changes the bytes of every shard.
_ALL = [
    *_columns(
        pa.string(),
        """
        sample_id | | | subject/sequence/view/frame/side
        subject   | | | s01..s10
        sequence  | | | as in the raw files
        object    | | | first field of the sequence name
        action    | | | grab or use
        side      | | | left or right: the hand's true side
        skip_reason | | | rule that a row with valid = false fails, else empty
        """,
    ),
    *_columns(pa.int32(), "view | | | 0 egocentric, 1..8 static\nframe | | | number in the picture's file name"),
    *_columns(
        pa.int32(),
        """
        gt_index     | | | index of the ground truth: frame - ioi_offset
        image_height | | px | of the full frame
        image_width  | | px | of the full frame
        """,
    ),
    *_columns(
        pa.bool_(),
        """
        is_right       | | | true side is right
        joint_in_frame | 21 | | depth > 0.05 m, inside the lens model's monotone radius, inside the picture
        joint_visible  | 21 | | not hidden by the other hand, the object or the hand itself; from ray casting
        valid          | | | passes every rule
        """,
    ),
    *_columns(
        pa.float32(),
        """
        box_center_px   | 2 | px | centre of the square around the projected hand, full frame
        box_size_px     | | px | its side
        crop_from_image | 2,3 | px | affine map from full-frame pixels to pixels of the stored crop
        intrinsics      | 3,3 | px | of the full frame
        cam_from_world  | 4,4 | m | camera pose of the frame
        distortion      | 8 | | rational model in OpenCV's order; zero for static views
        global_orient   | 3 | rad | axis-angle of the hand's root in the camera frame
        hand_pose       | 45 | rad | axis-angle of the 15 finger joints, mean pose included
        betas           | 10 | | shape coefficients of the true side, as in the raw file
        betas_as_right  | 10 | | shape coefficients of the right model closest to the mirrored hand
        betas_as_right_residual_mm | | mm | mean vertex distance that betas_as_right leaves, in the rest pose
        translation_m   | 3 | m | camera frame; vertices = MANO(global_orient, hand_pose, betas) + translation_m
        joints_cam_m    | 21,3 | m | camera frame, OpenPose order
        joints_px       | 21,2 | px | full frame; distorted for the egocentric view
        joints_world_m  | 21,3 | m | world frame
        occlusion       | | | share of the 21 joints that are hidden
        truncation      | | | share of the hand's surface points that are not in the picture
        confidence      | | | 0..1: share of joints seen x sharpness x fit, see conversion/confidence.py
        blur            | | | 0 sharp .. 1 without detail, of the box at the stored resolution
        fitting_err     | | | as in the raw file
        """,
    ),
]
_ORDER = [
    "sample_id",
    "subject",
    "sequence",
    "object",
    "action",
    "view",
    "frame",
    "gt_index",
    "side",
    "is_right",
    "image_height",
    "image_width",
    "box_center_px",
    "box_size_px",
    "crop_from_image",
    "intrinsics",
    "cam_from_world",
    "distortion",
    "global_orient",
    "hand_pose",
    "betas",
    "betas_as_right",
    "betas_as_right_residual_mm",
    "translation_m",
    "joints_cam_m",
    "joints_px",
    "joints_world_m",
    "joint_in_frame",
    "joint_visible",
    "occlusion",
    "truncation",
    "confidence",
    "blur",
    "fitting_err",
    "valid",
    "skip_reason",
]
COLUMNS: dict[str, Column] = {name: next(column for column in _ALL if column.name == name) for name in _ORDER}

# Skipped data: a row per image, hand or view without a sample, and the number of samples that are missing for it.
LEDGER_SCHEMA = pa.schema(
    [
        pa.field(name, kind, False)
        for name, kind in (
            ("subject", pa.string()),
            ("sequence", pa.string()),
            ("view", pa.int32()),
            ("frame", pa.int32()),  # -1: the whole view
            ("side", pa.string()),  # empty: both
            ("reason", pa.string()),
            ("samples", pa.int32()),
        )
    ]
)
# Per moment and hand, not per view: smallest distance of the hand's vertices to the object's surface points.
DISTANCES_SCHEMA = pa.schema(
    [
        pa.field(name, kind, False)
        for name, kind in (
            ("subject", pa.string()),
            ("sequence", pa.string()),
            ("gt_index", pa.int32()),
            ("side", pa.string()),
            ("hand_object_distance_m", pa.float32()),
        )
    ]
)
IMAGES_SCHEMA = pa.schema([pa.field("jpeg", pa.binary(), False)])


def annotations_schema(metadata: dict[str, str]) -> pa.Schema:
    """Return the schema of `annotations.parquet` with text metadata (source, data_version, ...)."""
    return pa.schema([column.field for column in COLUMNS.values()], metadata)


def to_arrow(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> pa.Table:
    """Build a table from one array per column, each (N, *shape)."""
    columns = [column.to_arrow(arrays[column.name]) for column in COLUMNS.values()]
    return pa.Table.from_arrays(columns, schema=annotations_schema(metadata))


def as_numpy(table: pa.Table, name: str) -> np.ndarray:
    """Return a column as an array (N, *shape); text columns become object arrays."""
    chunked = table.column(name)
    column = COLUMNS.get(name)
    if pa.types.is_fixed_size_list(chunked.type):
        shape = column.shape if column is not None else (chunked.type.list_size,)
        parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in chunked.chunks]
        kind = chunked.type.value_type.to_pandas_dtype()
        flat = np.concatenate(parts) if parts else np.zeros(0, kind)
        return flat.reshape(len(table), *shape)
    return chunked.to_numpy(zero_copy_only=False)
