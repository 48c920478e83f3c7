"""The numbers of one recording's samples: predictions against ground truth, a value per sample.

Convention: rows of one sequence, sorted by view, side and frame; true side, camera frame, metres in, the units of
`tables.SAMPLE_METRICS` out; NaN where a number is not defined. "Wrist-aligned" means that both wrists are moved onto
each other. Formulas are those of `core.metrics`; this module only decides what they are applied to.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from hawor_pipeline.core import metrics
from hawor_pipeline.core.alignment import apply_similarity, procrustes
from hawor_pipeline.core.camera import transform_points
from hawor_pipeline.core.metrics.surface import f_score_of_distances
from hawor_pipeline.core.nearest import nearest_distances
from hawor_pipeline.core.units import ARCTIC_FPS, m_to_mm, mm_to_m, rad_to_deg
from hawor_pipeline.evaluation.hands import HandTruth, PredictedHands, predicted_mesh, true_vertices
from hawor_pipeline.evaluation.schemas import SAMPLE_METRICS
from hawor_pipeline.evaluation.tracks import Tracks
from hawor_pipeline.sources.hand_models import HandModels

CROP_SIDE_PX = 256  # the crop in which 2D errors are stated, whatever the network's own size
PCK_3D_MM = (5, 10, 15, 20)
PCK_2D_PX = (5, 10, 15)
PCK_BOX_PERCENT = (5, 10, 15)
F_SCORE_MM = (5, 15)
MIDDLE_KNUCKLE = 9  # OpenPose order
WORLD_CHUNK = 100  # frames, as HaWoR's HOT3D script
LEAST_WORLD_FRAMES = 3  # a shorter track has nothing left to measure beyond the two frames it is fitted to
_MESH_ROWS = 64  # rows whose surfaces one thread compares at once


@dataclass(slots=True)
class Measurement:
    """Numbers of N samples: `metrics` as named in `SAMPLE_METRICS`, each (N,); joint errors (N, 21)."""

    metrics: dict[str, np.ndarray]
    joint_error_mm: np.ndarray
    joint_error_px: np.ndarray
    joint_error_box: np.ndarray  # share of the longer side of the tight box
    mrrpe_mm: np.ndarray  # (pairs,)
    jitter: np.ndarray  # (windows of four frames,) m/s^3
    speed_m_s: np.ndarray  # (N,) of the true joints


def measure(
    truth: HandTruth,
    predicted: PredictedHands,
    models: HandModels,
    tracks: Tracks,
    *,
    mirror_allowed: bool = False,
) -> Measurement:
    """Every number of one sequence's samples.

    Args:
        truth, predicted: N rows each.
        models: the two MANO models.
        tracks: who is whose neighbour.
        mirror_allowed: Procrustes alignment may mirror (the protocols `freihand` and `ho3d`).
    """
    distances, pixels, of_box = _joint_distances(truth, predicted)
    values = {name: torch.full((len(truth),), torch.nan, dtype=torch.float64) for name in SAMPLE_METRICS}
    values |= measure_joints(truth, predicted, mirror_allowed=mirror_allowed)
    values |= _pose_metrics(truth, predicted, models)
    _fill_mesh_metrics(values, truth, predicted, models, mirror_allowed)
    _fill_world_metrics(values, truth, predicted, tracks)
    jitter = _fill_motion_metrics(values, truth, predicted, tracks)
    return Measurement(
        metrics={name: values[name].numpy() for name in SAMPLE_METRICS},
        joint_error_mm=m_to_mm(distances).numpy(),
        joint_error_px=pixels.numpy(),
        joint_error_box=of_box.numpy(),
        mrrpe_mm=_relative_wrist_error(truth, predicted, tracks),
        jitter=jitter,
        speed_m_s=_speed(truth.joints_m, tracks),
    )


def measure_joints(truth: HandTruth, predicted: PredictedHands, *, mirror_allowed: bool = False) -> dict[str, Tensor]:
    """The numbers of samples that need neither meshes nor neighbours: errors of joints in space and in the picture."""
    distances, pixels, of_box = _joint_distances(truth, predicted)
    values = _joint_metrics(truth, predicted, distances)
    values |= _aligned_metrics(truth, predicted, mirror_allowed)
    return values | _image_metrics(truth, predicted, pixels, of_box)


def _joint_distances(truth: HandTruth, predicted: PredictedHands) -> tuple[Tensor, Tensor, Tensor]:
    """(N, 21) each: wrist-aligned distance in metres, distance in px, and that as a share of the tight box."""
    distances = metrics.point_errors(predicted.joints_m, truth.joints_m, root=0)
    pixels = metrics.point_errors(predicted.joints_px, truth.joints_px)
    pixels = pixels.masked_fill(~truth.joint_in_frame, torch.nan)
    return distances, pixels, pixels / _tight_box_side(truth)[:, None]


def _joint_metrics(truth: HandTruth, predicted: PredictedHands, distances: Tensor) -> dict[str, Tensor]:
    placed = torch.isfinite(predicted.translation_m).all(-1)
    camera = metrics.mpjpe(predicted.joints_m, truth.joints_m, root=None).where(placed, torch.nan)
    shares = metrics.share_within(distances, [mm_to_m(limit) for limit in PCK_3D_MM])  # (N, limits)
    values = {
        "mpjpe_mm": m_to_mm(metrics.mpjpe(predicted.joints_m, truth.joints_m)),
        "mpjpe_camera_mm": m_to_mm(camera),
        "mpjpe_visible_mm": m_to_mm(metrics.mpjpe(predicted.joints_m, truth.joints_m, mask=truth.joint_visible)),
        "mpjpe_hidden_mm": m_to_mm(metrics.mpjpe(predicted.joints_m, truth.joints_m, mask=~truth.joint_visible)),
        "translation_error_mm": m_to_mm(metrics.translation_error(predicted.translation_m, truth.translation_m)),
        "pck_auc": metrics.auc_within(distances),
    }
    return values | {f"pck_3d_{limit}mm": shares[:, i] for i, limit in enumerate(PCK_3D_MM)}


def _aligned_metrics(truth: HandTruth, predicted: PredictedHands, mirror_allowed: bool) -> dict[str, Tensor]:
    aligned = metrics.pa_errors(predicted.joints_m, truth.joints_m, allow_reflection=mirror_allowed)
    scaled = metrics.st_mpjpe(predicted.joints_m, truth.joints_m, scale_joint=MIDDLE_KNUCKLE)
    return {
        "pa_mpjpe_mm": m_to_mm(aligned.mean(-1)),
        "pa_pck_auc": metrics.auc_within(aligned),
        "st_mpjpe_mm": m_to_mm(scaled.where(torch.isfinite(scaled), torch.nan)),
    }


def _tight_box_side(truth: HandTruth) -> Tensor:
    """(N,) longer side of the box around the true joints in the picture, px; NaN where it has none."""
    box = metrics.joint_box(truth.joints_px, truth.joint_in_frame)
    side = (box[:, 2:] - box[:, :2]).amax(-1)
    return side.where(side > 0, torch.nan)


def _image_metrics(truth: HandTruth, predicted: PredictedHands, pixels: Tensor, of_box: Tensor) -> dict[str, Tensor]:
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
    values |= {f"pck_2d_{limit}px": shares[:, i] for i, limit in enumerate(PCK_2D_PX)}
    near = metrics.share_within(of_box, [percent / 100 for percent in PCK_BOX_PERCENT], mask=torch.isfinite(of_box))
    return values | {f"pck_box_{percent}pct": near[:, i] for i, percent in enumerate(PCK_BOX_PERCENT)}


def _pose_metrics(truth: HandTruth, predicted: PredictedHands, models: HandModels) -> dict[str, Tensor]:
    shape = metrics.shape_vertex_error(
        predicted.betas, truth.betas_as_right, torch.from_numpy(models.arrays["right"].shape_dirs)
    )
    return {
        "global_orient_error_deg": rad_to_deg(metrics.global_orient_error(predicted.rotmats, truth.rotmats)),
        "pose_error_deg": rad_to_deg(metrics.pose_angle_error(predicted.rotmats, truth.rotmats)),
        "betas_error": metrics.betas_error(predicted.betas, truth.betas_as_right),
        "shape_error_mm": m_to_mm(shape),
    }


def _fill_mesh_metrics(
    values: dict[str, Tensor], truth: HandTruth, predicted: PredictedHands, models: HandModels, mirror_allowed: bool
) -> None:
    """Surface errors, wrist-aligned or better, of the rows that have a mesh."""
    has_mesh = torch.isfinite(predicted.rotmats).flatten(1).all(1) & torch.isfinite(predicted.betas).all(1)
    parts = [rows for rows in torch.nonzero(has_mesh).flatten().split(_MESH_ROWS) if len(rows)]

    def compare(rows: Tensor) -> dict[str, Tensor]:
        part, hands = truth.take(rows), predicted.take(rows)
        nowhere = torch.zeros_like(part.translation_m)
        mesh, joints = predicted_mesh(models, hands.rotmats, hands.betas, nowhere, part.is_right)
        return _surface_metrics(
            mesh - joints[:, :1], true_vertices(models, part) - part.joints_m[:, :1], mirror_allowed
        )

    for rows, surface in zip(parts, _threads().map(compare, parts), strict=True):
        for name, value in surface.items():
            values[name][rows] = value.double()


@cache
def _threads() -> ThreadPoolExecutor:
    """Threads for searches, which run outside Python's lock; kept, because each new thread takes memory of its own."""
    return ThreadPoolExecutor(os.cpu_count(), "surfaces")


def _surface_metrics(ours: Tensor, theirs: Tensor, mirror_allowed: bool) -> dict[str, Tensor]:
    aligned = apply_similarity(ours, *procrustes(ours, theirs, allow_reflection=mirror_allowed))
    limits = [mm_to_m(limit) for limit in F_SCORE_MM]
    forward, backward = nearest_distances(ours, theirs)  # one search serves F-score and Chamfer distance
    raw = f_score_of_distances(forward, backward, limits)  # (N, limits)
    after = metrics.f_score(aligned, theirs, limits)
    values = {
        "mpvpe_mm": m_to_mm(metrics.point_errors(ours, theirs).mean(-1)),
        "pa_mpvpe_mm": m_to_mm(metrics.point_errors(aligned, theirs).mean(-1)),
        "chamfer_mm": m_to_mm(forward.mean(-1) + backward.mean(-1)),
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


def _fill_world_metrics(values: dict[str, Tensor], truth: HandTruth, predicted: PredictedHands, tracks: Tracks) -> None:
    """Errors of each track in the world frame; the cameras are the true ones."""
    world_from_cam = torch.linalg.inv(truth.cam_from_world)
    ours, theirs = (transform_points(world_from_cam, hands.joints_m) for hands in (predicted, truth))
    placed = torch.isfinite(predicted.translation_m).all(-1)
    for start, end in tracks.runs():
        if end - start < LEAST_WORLD_FRAMES or not placed[start:end].all():
            continue
        for first in range(start, end, WORLD_CHUNK):
            rows = slice(first, min(first + WORLD_CHUNK, end))
            values["w_mpjpe_mm"][rows] = m_to_mm(metrics.world_mpjpe(ours[rows], theirs[rows]))
            values["wa_mpjpe_mm"][rows] = m_to_mm(metrics.world_mpjpe(ours[rows], theirs[rows], align_frames=None))
            values["rte"][rows] = metrics.root_trajectory_error(ours[rows, 0], theirs[rows, 0])


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
