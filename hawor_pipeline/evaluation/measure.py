"""The numbers of one recording's samples: predictions against ground truth, a value per sample.

Convention: rows of one sequence, sorted by view, side and frame; true side, camera frame, metres in, the units of
`tables.SAMPLE_METRICS` out; NaN where a number is not defined. "Wrist-aligned" means that both wrists are moved onto
each other. Formulas are those of `core.metrics`; this module only decides what they are applied to.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hawor_pipeline.core import metrics
from hawor_pipeline.core.alignment import apply_similarity, procrustes
from hawor_pipeline.core.units import ARCTIC_FPS, m_to_mm, mm_to_m, rad_to_deg
from hawor_pipeline.evaluation.hands import HandModels, HandTruth, PredictedHands
from hawor_pipeline.evaluation.schemas import SAMPLE_METRICS

CROP_SIDE_PX = 256  # the crop in which 2D errors are stated, whatever the network's own size
PCK_3D_MM = (5, 10, 15, 20)
PCK_2D_PX = (5, 10, 15)
F_SCORE_MM = (5, 15)
_MESH_ROWS = 64  # rows whose surfaces one thread compares at once


@dataclass(slots=True)
class Tracks:
    """Who is whose neighbour in time: camera, hand and frame number of each row."""

    view: np.ndarray  # (N,)
    is_right: np.ndarray  # (N,) bool
    frame: np.ndarray  # (N,)

    def follows(self) -> np.ndarray:
        """(N,) bool: the row before is the same hand in the same view, one frame earlier."""
        result = np.zeros(len(self.frame), bool)
        same = (np.diff(self.view) == 0) & (self.is_right[1:] == self.is_right[:-1])
        result[1:] = same & (np.diff(self.frame) == 1)
        return result

    def windows(self, length: int) -> np.ndarray:
        """(M,) first rows of runs of `length` consecutive frames."""
        follows = self.follows()
        if len(follows) < length:
            return np.zeros(0, np.int64)
        runs = np.lib.stride_tricks.sliding_window_view(follows, length)[:, 1:].all(1)
        return np.flatnonzero(runs)

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the right and of the left hand that are in one picture."""
        picture = self.view.astype(np.int64) * 10_000_000 + self.frame
        right, left = np.flatnonzero(self.is_right), np.flatnonzero(~self.is_right)
        _, of_right, of_left = np.intersect1d(picture[right], picture[left], return_indices=True)
        return right[of_right], left[of_left]


@dataclass(slots=True)
class Measurement:
    """Numbers of N samples: `metrics` as named in `SAMPLE_METRICS`, each (N,); joint errors (N, 21)."""

    metrics: dict[str, np.ndarray]
    joint_error_mm: np.ndarray
    joint_error_px: np.ndarray
    mrrpe_mm: np.ndarray  # (pairs,)
    jitter: np.ndarray  # (windows of four frames,) m/s^3
    speed_m_s: np.ndarray  # (N,) of the true joints


def measure(truth: HandTruth, predicted: PredictedHands, models: HandModels, tracks: Tracks) -> Measurement:
    """Every number of one sequence's samples."""
    distances = metrics.point_errors(predicted.joints_m, truth.joints_m, root=0)  # (N, 21)
    pixels = metrics.point_errors(predicted.joints_px, truth.joints_px)  # (N, 21)
    pixels = pixels.masked_fill(~truth.joint_in_frame, torch.nan)
    values = {name: torch.full((len(truth),), torch.nan, dtype=torch.float64) for name in SAMPLE_METRICS}
    values |= _joint_metrics(truth, predicted, distances)
    values |= _picture_metrics(truth, predicted, pixels)
    values |= _pose_metrics(truth, predicted, models)
    _fill_mesh_metrics(values, truth, predicted, models)
    jitter = _fill_motion_metrics(values, truth, predicted, tracks)
    return Measurement(
        metrics={name: values[name].numpy() for name in SAMPLE_METRICS},
        joint_error_mm=m_to_mm(distances).numpy(),
        joint_error_px=pixels.numpy(),
        mrrpe_mm=_relative_wrist_error(truth, predicted, tracks),
        jitter=jitter,
        speed_m_s=_speed(truth.joints_m, tracks),
    )


def _joint_metrics(truth: HandTruth, predicted: PredictedHands, distances: Tensor) -> dict[str, Tensor]:
    placed = torch.isfinite(predicted.translation_m).all(-1)
    camera = metrics.mpjpe(predicted.joints_m, truth.joints_m, root=None).where(placed, torch.nan)
    shares = metrics.share_within(distances, [mm_to_m(limit) for limit in PCK_3D_MM])  # (N, limits)
    values = {
        "mpjpe_mm": m_to_mm(metrics.mpjpe(predicted.joints_m, truth.joints_m)),
        "pa_mpjpe_mm": m_to_mm(metrics.pa_mpjpe(predicted.joints_m, truth.joints_m)),
        "mpjpe_camera_mm": m_to_mm(camera),
        "mpjpe_visible_mm": m_to_mm(metrics.mpjpe(predicted.joints_m, truth.joints_m, mask=truth.joint_visible)),
        "mpjpe_hidden_mm": m_to_mm(metrics.mpjpe(predicted.joints_m, truth.joints_m, mask=~truth.joint_visible)),
        "translation_error_mm": m_to_mm(metrics.translation_error(predicted.translation_m, truth.translation_m)),
        "pck_auc": metrics.pck_auc(
            predicted.joints_m - predicted.joints_m[:, :1], truth.joints_m - truth.joints_m[:, :1]
        ),
    }
    return values | {f"pck_3d_{limit}mm": shares[:, i] for i, limit in enumerate(PCK_3D_MM)}


def _picture_metrics(truth: HandTruth, predicted: PredictedHands, pixels: Tensor) -> dict[str, Tensor]:
    in_crop = pixels * (CROP_SIDE_PX / truth.box_size_px)[:, None]
    known = torch.isfinite(in_crop)
    projected = torch.isfinite(predicted.joints_px).flatten(1).all(1)
    overlap = metrics.box_iou(metrics.joint_box(predicted.joints_px), metrics.joint_box(truth.joints_px))
    found = metrics.detected(predicted.joints_px, truth.joints_px)
    shares = metrics.share_within(in_crop, [float(limit) for limit in PCK_2D_PX], mask=known)
    values = {
        "mpjpe_px": torch.nanmean(pixels, -1),
        "mpjpe_crop_px": torch.nanmean(in_crop, -1),
        "box_iou": overlap.where(projected, torch.nan),
        "detected": found.double().where(projected, torch.nan),
    }
    return values | {f"pck_2d_{limit}px": shares[:, i] for i, limit in enumerate(PCK_2D_PX)}


def _pose_metrics(truth: HandTruth, predicted: PredictedHands, models: HandModels) -> dict[str, Tensor]:
    shape = metrics.shape_vertex_error(predicted.betas, truth.betas_as_right, models.shape_dirs)
    return {
        "global_orient_error_deg": rad_to_deg(metrics.global_orient_error(predicted.rotmats, truth.rotmats)),
        "pose_error_deg": rad_to_deg(metrics.pose_angle_error(predicted.rotmats, truth.rotmats)),
        "betas_error": metrics.betas_error(predicted.betas, truth.betas_as_right),
        "shape_error_mm": m_to_mm(shape),
    }


def _fill_mesh_metrics(
    values: dict[str, Tensor], truth: HandTruth, predicted: PredictedHands, models: HandModels
) -> None:
    """Surface errors, wrist-aligned or better, of the rows that have a mesh."""
    has_mesh = torch.isfinite(predicted.rotmats).flatten(1).all(1) & torch.isfinite(predicted.betas).all(1)
    parts = [rows for rows in torch.nonzero(has_mesh).flatten().split(_MESH_ROWS) if len(rows)]

    def compare(rows: Tensor) -> dict[str, Tensor]:
        part, hands = truth.take(rows), predicted.take(rows)
        nowhere = torch.zeros_like(part.translation_m)
        mesh, joints = models.predicted_mesh(hands.rotmats, hands.betas, nowhere, part.is_right)
        return _surface_metrics(mesh - joints[:, :1], models.true_vertices(part) - part.joints_m[:, :1])

    with ThreadPoolExecutor(os.cpu_count()) as threads:  # the searches run outside Python's lock
        for rows, surface in zip(parts, threads.map(compare, parts), strict=True):
            for name, value in surface.items():
                values[name][rows] = value.double()


def _surface_metrics(ours: Tensor, theirs: Tensor) -> dict[str, Tensor]:
    aligned = apply_similarity(ours, *procrustes(ours, theirs))
    limits = [mm_to_m(limit) for limit in F_SCORE_MM]
    raw, after = (metrics.f_score(points.float(), theirs.float(), limits) for points in (ours, aligned))  # (N, limits)
    values = {
        "mpvpe_mm": m_to_mm(metrics.point_errors(ours, theirs).mean(-1)),
        "pa_mpvpe_mm": m_to_mm(metrics.point_errors(aligned, theirs).mean(-1)),
        "chamfer_mm": m_to_mm(metrics.chamfer_distance(ours.float(), theirs.float())),
    }
    for i, limit in enumerate(F_SCORE_MM):
        values |= {f"f_score_{limit}mm": raw[:, i], f"pa_f_score_{limit}mm": after[:, i]}
    return values


def _fill_motion_metrics(
    values: dict[str, Tensor], truth: HandTruth, predicted: PredictedHands, tracks: Tracks
) -> np.ndarray:
    """Fill in acceleration errors; returns the jitter of every window of four frames."""
    if len(first := torch.from_numpy(tracks.windows(3))):
        rows = first[:, None] + torch.arange(3)
        errors = metrics.acceleration_error(predicted.joints_m[rows], truth.joints_m[rows])  # (M, 3)
        values["accel_error_m_s2"][first + 1] = errors[:, 1]
    rows = torch.from_numpy(tracks.windows(4))[:, None] + torch.arange(4)
    if not len(rows):
        return np.zeros(0)
    centred = predicted.joints_m - predicted.joints_m[:, :1]
    return metrics.jitter(centred[rows])[:, 1].numpy()


def _relative_wrist_error(truth: HandTruth, predicted: PredictedHands, tracks: Tracks) -> np.ndarray:
    right, left = (torch.from_numpy(rows) for rows in tracks.pairs())
    placed = torch.isfinite(predicted.translation_m).all(-1)
    ours, theirs = predicted.joints_m[:, 0], truth.joints_m[:, 0]
    errors = metrics.mrrpe(ours[right], ours[left], theirs[right], theirs[left], mask=placed[right] & placed[left])
    return m_to_mm(errors).numpy()


def _speed(joints: Tensor, tracks: Tracks) -> np.ndarray:
    speed = np.full(len(joints), np.nan)
    rows = np.flatnonzero(tracks.follows())
    step = joints[rows] - joints[rows - 1]
    speed[rows] = torch.linalg.vector_norm(step, dim=-1).mean(-1).numpy() * ARCTIC_FPS
    return speed
