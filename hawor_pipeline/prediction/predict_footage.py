"""Prediction for a user's own footage: a table of hands, a video with the meshes drawn over it, a mesh per hand."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hawor_pipeline.core.box_rule import BoxRule
from hawor_pipeline.core.rotations import rotmat_to_axis_angle
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.evaluation.hands import PredictedHands, predicted_mesh
from hawor_pipeline.evaluation.predict import choose_device
from hawor_pipeline.inspection.drawing import (
    OTHER_RGB,
    PREDICTED_RGB,
    ColoredMesh,
    ImageView,
    draw_meshes,
    resized,
)
from hawor_pipeline.inspection.mp4 import write_mp4
from hawor_pipeline.models.checkpoints import open_checkpoint
from hawor_pipeline.prediction.boxed_frames import BoxedFrames, FrameCamera, crop_settings, cut_frames, predict_boxed
from hawor_pipeline.prediction.boxes import HandBox, read_boxes
from hawor_pipeline.prediction.footage import Footage, require_known_images, require_plausible_boxes
from hawor_pipeline.provenance import staging_dir
from hawor_pipeline.sources.hand_models import HandModels

HANDS_FILE = "hands.parquet"
VIDEO_FILE = "overlay.mp4"
MESH_DIR = "meshes"
PLACE = ("own", "own_footage_01", 0)  # subject, sequence and view of the rows
VIDEO_HEIGHT_PX = 1080  # at most
SIDE_RGB = {True: PREDICTED_RGB, False: OTHER_RGB}


@dataclass(frozen=True, slots=True)
class FootageResult:
    """Counts and camera of a prediction that was written."""

    folder: Path
    frames: int
    hands: int
    focal_px: float
    focal_is_assumed: bool
    box_rule: BoxRule


def predict_footage(
    checkpoint: Path | str,
    source: Path | str,
    boxes_file: Path | str,
    output: Path | str,
    mano_dir: Path | str,
    *,
    focal_px: float | None = None,
    device: str = "auto",
    box_rule: str | None = None,
) -> FootageResult:
    """Predict the boxed hands of a video or a folder of images.

    Args:
        checkpoint: of this project, or of HaWoR or HaMeR.
        source: video file, or folder of images.
        boxes_file: CSV file as described in `prediction.boxes`.
        output: new folder: hands.parquet, overlay.mp4, meshes/FRAME_SIDE.ply.
        mano_dir: folder of the MANO models.
        focal_px: focal length in pixels of the images; None assumes the diagonal of the image.
        device: "auto", "cpu", "cuda", ...
        box_rule: rule of the boxes that the network is given, for `BoxRule.parse`; None: that of its weights.

    Raises:
        ConfigError: a path is missing, or the output folder is not empty.
        DataError: images or boxes are damaged or do not match.
        CheckpointError: the network cannot be read.

    Source: the diagonal as focal length where none is known is CLIFF's (Li et al. 2022).
    """
    if focal_px is not None and not focal_px > 0:
        raise ConfigError(f"--focal {focal_px}: expected the focal length in pixels, above 0")
    folder = Path(output)
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} exists and is not empty; choose another output folder, or remove it")
    where = choose_device(device)
    opened = open_checkpoint(checkpoint, box_rule=box_rule)
    models = HandModels.load(mano_dir)
    footage = Footage(Path(source))
    named = read_boxes(boxes_file)
    if not named:
        raise DataError(f"{boxes_file} holds no box; expected one line per hand")
    names, height, width = _survey(footage, named)
    focal = focal_px or math.hypot(height, width)
    boxes = {number: named[name] for number, name in enumerate(names) if name in named}
    settings = crop_settings(opened)
    images = ((frame.number, frame.image) for frame in footage.frames())
    rows = cut_frames(PLACE, images, boxes, _camera(height, width, focal), settings, opened.box_rule)
    hands = predict_boxed(opened, rows, models, where)
    with staging_dir(folder) as staged:
        facts = {
            "checkpoint_sha256": opened.sha256,
            "focal_px": str(focal),
            "box_rule": str(opened.box_rule),
        }
        _write_table(staged / HANDS_FILE, rows, hands, names, facts)
        vertices = _write_meshes(staged / MESH_DIR, rows, hands, models)
        video = _video(footage, rows, vertices, models, _camera(height, width, focal))
        write_mp4(staged / VIDEO_FILE, video, footage.fps())
    return FootageResult(folder, len(names), rows.table.num_rows, focal, focal_px is None, opened.box_rule)


def _survey(footage: Footage, boxes: Mapping[str, Mapping[str, HandBox]]) -> tuple[list[str], int, int]:
    """Return the names of all frames, and their height and width; every box must belong to one of them."""
    names, height, width = [], 0, 0
    for frame in footage.frames():
        names.append(frame.name)
        height, width = frame.image.shape[:2]
    if not names:
        raise DataError(f"{footage.path}: no frame could be read; expected a video with at least one")
    require_known_images(boxes, set(names), footage.path)
    require_plausible_boxes(boxes, height, width)
    return names, height, width


def _camera(height: int, width: int, focal_px: float) -> FrameCamera:
    """Return a pinhole camera whose principal point is the centre of the image."""
    intrinsics = np.array([[focal_px, 0, (width - 1) / 2], [0, focal_px, (height - 1) / 2], [0, 0, 1]])
    return FrameCamera((height, width), intrinsics, np.zeros(8))


def _write_table(
    path: Path, rows: BoxedFrames, hands: PredictedHands, names: list[str], facts: Mapping[str, str]
) -> None:
    """Write one row per hand: frame and side, MANO parameters on the true side, joints."""
    frames = rows.table["frame"].to_pylist()
    angles = rotmat_to_axis_angle(hands.rotmats).numpy()  # (N, 16, 3)
    arrays = {
        "global_orient": angles[:, 0],
        "hand_pose": angles[:, 1:],
        "betas": hands.betas.numpy(),
        "translation_m": hands.translation_m.numpy(),
        "joints_cam_m": hands.joints_m.numpy(),
        "joints_px": hands.joints_px.numpy(),
    }
    columns: dict[str, Any] = {"frame": frames, "image": [names[frame] for frame in frames]}
    columns["side"] = rows.table["side"]
    for name, values in arrays.items():
        flat = np.ascontiguousarray(values.reshape(len(values), -1))
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1), pa.float64()), flat.shape[1])
    table = pa.table(columns).sort_by([("frame", "ascending"), ("side", "ascending")])
    pq.write_table(table.replace_schema_metadata(dict(facts)), path, compression="zstd")


def _write_meshes(folder: Path, rows: BoxedFrames, hands: PredictedHands, models: HandModels) -> torch.Tensor:
    """Write a PLY file per hand, camera frame, metres, and return the vertices (N, 778, 3)."""
    folder.mkdir()
    is_right = torch.from_numpy(rows.table["is_right"].to_numpy(zero_copy_only=False))
    vertices, _ = predicted_mesh(models, hands.rotmats, hands.betas, hands.translation_m, is_right)
    named = zip(rows.table["frame"].to_pylist(), rows.table["side"].to_pylist(), vertices, strict=True)
    for frame, side, mesh in named:
        faces = models.faces if side == "right" else models.faces[:, ::-1]
        write_ply(folder / f"{frame:06d}_{side}.ply", mesh.numpy(), faces)
    return vertices


def write_ply(path: Path | str, vertices_m: np.ndarray, faces: np.ndarray) -> None:
    """Write one mesh, vertices (V, 3) in metres and outward faces (F, 3), in PLY's binary form, little endian.

    Source: the PLY format (Turk, 1994).
    """
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment metres\n"
        f"element vertex {len(vertices_m)}\nproperty float x\nproperty float y\nproperty float z\n"
        f"element face {len(faces)}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    triangles = np.zeros(len(faces), dtype=[("corners", "u1"), ("index", "<i4", 3)])
    triangles["corners"], triangles["index"] = 3, faces
    Path(path).write_bytes(header.encode() + vertices_m.astype("<f4").tobytes() + triangles.tobytes())


def _video(
    footage: Footage, rows: BoxedFrames, vertices: torch.Tensor, models: HandModels, camera: FrameCamera
) -> Iterator[np.ndarray]:
    """Yield every frame with the meshes of its hands drawn over it, BGR, at most VIDEO_HEIGHT_PX high."""
    at_frame: dict[int, list[ColoredMesh]] = {}
    sides = rows.table["is_right"].to_pylist()
    for frame, is_right, hand in zip(rows.table["frame"].to_pylist(), sides, vertices, strict=True):
        faces = np.ascontiguousarray(models.faces if is_right else models.faces[:, ::-1]).astype(np.int32)
        mesh = ColoredMesh(hand, faces, SIDE_RGB[is_right])
        if mesh.in_front:
            at_frame.setdefault(frame, []).append(mesh)
    scale = min(1.0, VIDEO_HEIGHT_PX / camera.image_size[0])
    view = ImageView(torch.from_numpy(camera.intrinsics), torch.zeros(8, dtype=torch.float64), np.eye(3)[:2])
    for frame in footage.frames():
        image = np.ascontiguousarray(frame.image[..., ::-1])
        image = resized(image, scale) if scale < 1 else image
        yield draw_meshes(image, view.scaled(scale), at_frame.get(frame.number, []))
