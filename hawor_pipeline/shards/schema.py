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


# name | type | shape | unit | meaning, in the order of the file. Units and meanings are metadata of the Parquet files:
# changing one changes the bytes of every shard and needs a new CONVERTER_VERSION.
_TABLE = """
sample_id       | string |      |     | subject/sequence/view/frame/side
subject         | string |      |     | s01..s10
sequence        | string |      |     | as in the raw files
object          | string |      |     | first field of the sequence name
action          | string |      |     | grab or use
view            | int32  |      |     | 0 egocentric, 1..8 static
frame           | int32  |      |     | number in the picture's file name
gt_index        | int32  |      |     | index of the ground truth: frame - ioi_offset
side            | string |      |     | left or right: the hand's true side
is_right        | bool   |      |     | true side is right
image_height    | int32  |      | px  | of the full frame
image_width     | int32  |      | px  | of the full frame
box_center_px   | float  | 2    | px  | centre of the square around the projected hand, full frame
box_size_px     | float  |      | px  | its side
crop_from_image | float  | 2,3  | px  | affine map from full-frame pixels to pixels of the stored crop
intrinsics      | float  | 3,3  | px  | of the full frame
cam_from_world  | float  | 4,4  | m   | camera pose of the frame
distortion      | float  | 8    |     | rational model in OpenCV's order; zero for static views
global_orient   | float  | 3    | rad | axis-angle of the hand's root in the camera frame
hand_pose       | float  | 45   | rad | axis-angle of the 15 finger joints, mean pose included
betas           | float  | 10   |     | shape coefficients of the true side, as in the raw file
betas_as_right  | float  | 10   |     | shape coefficients of the right model closest to the mirrored hand
betas_as_right_residual_mm | float  |      | mm  | mean vertex distance that betas_as_right leaves, in the rest pose
translation_m   | float  | 3    | m   | camera frame; vertices = MANO(global_orient, hand_pose, betas) + translation_m
joints_cam_m    | float  | 21,3 | m   | camera frame, OpenPose order
joints_px       | float  | 21,2 | px  | full frame; distorted for the egocentric view
joints_world_m  | float  | 21,3 | m   | world frame
joint_in_frame  | bool   | 21   |     | depth > 0.05 m, inside the lens model's monotone radius, inside the picture
joint_visible   | bool   | 21   |     | no hand, object or (if the manifest has body_occluder) part of the body hides it
occlusion       | float  |      |     | share of the 21 joints that are hidden
truncation      | float  |      |     | share of the hand's surface points that are not in the picture
confidence      | float  |      |     | 0..1: share of joints seen x sharpness x fit, see data/confidence.py
blur            | float  |      |     | 0 sharp .. 1 without detail, of the box at the stored resolution
fitting_err     | float  |      |     | as in the raw file
valid           | bool   |      |     | passes every rule
skip_reason     | string |      |     | rule that a row with valid = false fails, else empty
"""


def _column(line: str) -> Column:
    name, kind, shape, unit, meaning = (part.strip() for part in line.split("|"))
    return Column(name, pa.type_for_alias(kind), tuple(int(n) for n in shape.split(",") if n), unit, meaning)


def _required(**kinds: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind, False) for name, kind in kinds.items()])


COLUMNS: dict[str, Column] = {column.name: column for column in map(_column, _TABLE.strip().splitlines())}
# Skipped data: a row per image, hand or view without a sample, and the number of samples that are missing for it.
LEDGER_SCHEMA = _required(
    subject=pa.string(),
    sequence=pa.string(),
    view=pa.int32(),
    frame=pa.int32(),  # -1: the whole view
    side=pa.string(),  # empty: both
    reason=pa.string(),
    samples=pa.int32(),
)
# Per moment and hand, not per view: smallest distance of the hand's vertices to the object's surface points.
DISTANCES_SCHEMA = _required(
    subject=pa.string(),
    sequence=pa.string(),
    gt_index=pa.int32(),
    side=pa.string(),
    hand_object_distance_m=pa.float32(),
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
