"""Pictures of the best, the median and the worst samples, and a few meshes that one can turn.

Each picture has three panels: the crop with both skeletons, the true mesh over it, the predicted mesh over it. Meshes
are projected through the real camera and lens, so what is seen is what was measured.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from hawor_pipeline.core.camera import project_distorted
from hawor_pipeline.core.skeleton import BONES
from hawor_pipeline.core.units import m_to_mm
from hawor_pipeline.data.shards import open_shards
from hawor_pipeline.errors import DataError
from hawor_pipeline.evaluation.hands import HandModels, HandTruth, PredictedHands, read_predictions, read_truth
from hawor_pipeline.evaluation.tables import RunIdentity, partition_dir, read_table
from hawor_pipeline.provenance import staging_dir

GALLERY_FILE = "gallery.json"
RANKS = ("best", "median", "worst")
PANEL_PX = 256
GAP_PX = 6
TRUE_RGB = (0.16, 0.47, 0.71)
PREDICTED_RGB = (0.88, 0.42, 0.12)
_SUPERSAMPLE = 2  # pixels per pixel and direction before averaging
_FOV_Y = np.pi / 3  # of the stand-in camera that the rasteriser wants; the picture does not depend on it
_NEAR_M, _FAR_M = 0.02, 20.0


def pick_samples(samples: pa.Table, per_rank: int) -> dict[str, np.ndarray]:
    """Row numbers of the best, median and worst samples by mpjpe_mm, no two of them from one view of one sequence."""
    order = np.argsort(samples["mpjpe_mm"].to_numpy(), kind="stable")
    columns = [samples[name].to_pylist() for name in ("subject", "sequence", "view", "side")]
    track = list(zip(*columns, strict=True))
    middle = len(order) // 2
    nearest_middle = order[np.argsort(np.abs(np.arange(len(order)) - middle), kind="stable")]
    return {
        rank: _first_of_each(rows, track, per_rank)
        for rank, rows in zip(RANKS, (order, nearest_middle, order[::-1]), strict=True)
    }


def _first_of_each(rows: np.ndarray, track: list, count: int) -> np.ndarray:
    chosen: dict[Any, int] = {}
    for row in rows:
        chosen.setdefault(track[row], int(row))
        if len(chosen) == count:
            break
    return np.array(list(chosen.values()), np.int64)


def write_gallery(
    shards_dir: Path | str,
    mano_dir: Path | str,
    metrics_dir: Path | str,
    identity: RunIdentity,
    subjects: Sequence[str] | None = None,
    per_rank: int = 4,
) -> Path:
    """Publish pictures and `gallery.json` of a run under `gallery/run_id=...`; returns that folder."""
    columns = ["sample_id", "subject", "sequence", "view", "side", "mpjpe_mm", "pa_mpjpe_mm", "occlusion", "truncation"]
    samples = read_table(metrics_dir, "samples", identity.run_id, columns)
    samples = samples.filter(pc.is_valid(samples["mpjpe_mm"]))
    shards = open_shards(shards_dir, subjects)
    row_of = {name: row for row, name in enumerate(shards.table["sample_id"].to_pylist())}
    picks = pick_samples(samples, per_rank)
    names = [samples["sample_id"][int(row)].as_py() for rows in picks.values() for row in rows]
    predictions = _predictions_of(metrics_dir, identity.run_id, names)
    models = HandModels.load(mano_dir)
    items, meshes = [], []
    folder = partition_dir(metrics_dir, "gallery", identity.run_id)
    with staging_dir(folder) as staged:
        for rank, rows in picks.items():
            for number, row in enumerate(rows, 1):
                facts = {name: samples[name][int(row)].as_py() for name in columns}
                shard_row = row_of[facts["sample_id"]]
                annotation = shards.table.slice(shard_row, 1)
                hand = _Hand(models, read_truth(annotation), predictions[facts["sample_id"]])
                crop = _decode(shards.jpeg(shard_row), facts["sample_id"])
                picture = hand.picture(crop, annotation)
                name = f"{rank}-{number}.jpg"
                (staged / name).write_bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes())
                size = {"height": picture.shape[0], "width": picture.shape[1]}
                items.append({"rank": rank, "picture": name, **size, **facts})
                if number == 1:
                    meshes.append(
                        {"rank": rank, "sample_id": facts["sample_id"], "mpjpe_mm": facts["mpjpe_mm"], **hand.mesh_mm()}
                    )
        content = {"items": items, "meshes": meshes, "faces": models.faces.tolist()}
        (staged / GALLERY_FILE).write_text(json.dumps(content, separators=(",", ":")))
    return folder


def _decode(jpeg: bytes, sample_id: str) -> np.ndarray:
    crop = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    if crop is None:
        raise DataError(f"crop of {sample_id} is damaged; convert its subject again.")
    return crop


def _predictions_of(metrics_dir: Path | str, run_id: str, names: Sequence[str]) -> dict[str, PredictedHands]:
    table = read_table(metrics_dir, "predictions", run_id)
    wanted = table.filter(pc.is_in(table["sample_id"], value_set=pa.array(sorted(set(names)))))
    hands = read_predictions(wanted.combine_chunks())
    return {name: hands.take(slice(i, i + 1)) for i, name in enumerate(wanted["sample_id"].to_pylist())}


class _Hand:
    """True and predicted mesh of one sample, camera frame, true side."""

    def __init__(self, models: HandModels, truth: HandTruth, predicted: PredictedHands):
        self.truth = truth
        self.predicted = predicted
        is_right = bool(truth.is_right[0])
        self.faces = np.ascontiguousarray(models.faces if is_right else models.faces[:, ::-1]).astype(np.int32)
        self.true_vertices = models.true_vertices(truth)[0]
        mesh, _ = models.predicted_mesh(predicted.rotmats, predicted.betas, predicted.translation_m, truth.is_right)
        self.predicted_vertices = mesh[0]

    def mesh_mm(self) -> dict[str, list]:
        """Both meshes around their wrists, mirrored to right and turned upright for a viewer (x right, y up)."""
        side = 1.0 if bool(self.truth.is_right[0]) else -1.0
        turn = np.array([side, -1.0, -1.0])
        pairs = {
            "true_mm": (self.true_vertices, self.truth.joints_m[0, 0]),
            "predicted_mm": (self.predicted_vertices, self.predicted.joints_m[0, 0]),
        }
        return {name: np.round(m_to_mm((v - wrist).numpy()) * turn, 1).tolist() for name, (v, wrist) in pairs.items()}

    def picture(self, crop: np.ndarray, annotation: pa.Table) -> np.ndarray:
        """Three panels side by side, BGR."""
        scale = PANEL_PX / max(crop.shape[:2])
        panel = cv2.resize(
            crop, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        )
        affine = np.array(annotation["crop_from_image"].combine_chunks().flatten().to_pylist(), np.float64).reshape(
            2, 3
        )
        affine *= scale
        affine[:, 2] += (scale - 1) / 2  # pixel centres
        panels = [
            self._skeletons(panel.copy(), affine),
            self._mesh_over(panel, self.true_vertices, affine, TRUE_RGB),
            self._mesh_over(panel, self.predicted_vertices, affine, PREDICTED_RGB),
        ]
        gap = np.full((panel.shape[0], GAP_PX, 3), 255, np.uint8)
        return np.concatenate([panels[0], gap, panels[1], gap, panels[2]], 1)

    def _pixels(self, points: torch.Tensor, affine: np.ndarray) -> np.ndarray:
        uv, _ = project_distorted(points[None], self.truth.intrinsics, self.truth.distortion)
        return uv[0].numpy() @ affine[:, :2].T + affine[:, 2]

    def _skeletons(self, panel: np.ndarray, affine: np.ndarray) -> np.ndarray:
        for joints, rgb in ((self.truth.joints_m[0], TRUE_RGB), (self.predicted.joints_m[0], PREDICTED_RGB)):
            color = tuple(255 * channel for channel in reversed(rgb))
            points = [
                tuple(int(v) for v in np.round(p * 8)) for p in np.clip(self._pixels(joints, affine), -4000, 4000)
            ]
            for start, end in BONES:
                cv2.line(panel, points[start], points[end], color, 2, cv2.LINE_AA, 3)
            for point in points:
                cv2.circle(panel, point, 16, color, -1, cv2.LINE_AA, 3)
        return panel

    def _mesh_over(
        self, panel: np.ndarray, vertices: torch.Tensor, affine: np.ndarray, rgb: Sequence[float]
    ) -> np.ndarray:
        """The shaded mesh over the panel."""
        size = (panel.shape[0] * _SUPERSAMPLE, panel.shape[1] * _SUPERSAMPLE)
        pixels = self._pixels(vertices, affine) * _SUPERSAMPLE + (_SUPERSAMPLE - 1) / 2
        color, covered = rasterize(
            pixels, vertices[:, 2].numpy(), self.faces, shade(vertices.numpy(), self.faces, rgb), size
        )
        color, covered = (
            cv2.resize(layer, panel.shape[1::-1], interpolation=cv2.INTER_AREA) for layer in (color, covered)
        )
        alpha = 0.92 * covered[..., None]
        blended = panel * (1 - alpha) + 255 * color[..., ::-1] * 0.92
        return np.clip(blended, 0, 255).round().astype(np.uint8)


def shade(vertices: np.ndarray, faces: np.ndarray, rgb: Sequence[float]) -> np.ndarray:
    """(V, 3) colours in [0, 1] of a mesh lit from the camera, a little from above."""
    corners = vertices[faces]
    normals = np.zeros_like(vertices)
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    for corner in range(3):
        np.add.at(normals, faces[:, corner], face_normals)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    light = np.array([-0.25, -0.55, -0.8])  # towards the camera is -z, up is -y
    diffuse = np.clip(normals @ (light / np.linalg.norm(light)), 0, 1)
    gloss = diffuse**20 * 0.25
    return np.clip((0.35 + 0.7 * diffuse)[:, None] * np.array(rgb) + gloss[:, None], 0, 1).astype(np.float32)


def rasterize(
    pixels: np.ndarray, depth_m: np.ndarray, faces: np.ndarray, colors: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw triangles whose corners are given as pixels and depths.

    OpenCV's rasteriser knows only a symmetric pinhole, so each vertex is put where that camera sees it at its pixel.

    Args:
        pixels: (V, 2) in a picture of `size`.
        depth_m: (V,).
        faces: (F, 3).
        colors: (V, 3) in [0, 1].
        size: (height, width).

    Returns:
        colour (height, width, 3) in [0, 1], black where nothing is, and coverage (height, width), 0 or 1.
    """
    height, width = size
    tangent = np.tan(_FOV_Y / 2) / (height / 2)
    offset = (pixels - (np.array([width, height]) - 1) / 2) * tangent
    vertices = np.stack((offset[:, 0] * depth_m, -offset[:, 1] * depth_m, -depth_m), 1).astype(np.float32)
    color = np.zeros((height, width, 3), np.float32)
    depth = np.full((height, width), _FAR_M, np.float32)
    settings = cv2.TriangleRasterizeSettings()
    settings.setShadingType(cv2.RASTERIZE_SHADING_SHADED)
    settings.setCullingMode(cv2.RASTERIZE_CULLING_NONE)
    drawn, distance = cv2.triangleRasterize(
        vertices,
        faces.astype(np.int32),
        colors,
        color,
        depth,
        np.eye(4, dtype=np.float32),
        _FOV_Y,
        _NEAR_M,
        _FAR_M,
        settings,
    )
    return np.asarray(drawn), (np.asarray(distance) < _FAR_M * 0.999).astype(np.float32)
