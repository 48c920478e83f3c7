"""The numbers of one recording's samples: predictions against ground truth, a value per sample.

Convention: rows of one sequence, sorted by view, side and frame; true side, camera frame, metres in, the units of
`tables.SAMPLE_METRICS` out; NaN where a number is not defined. "Wrist-aligned" means that both wrists are moved onto
each other. Formulas are those of `core.metrics`; this module only decides what they are applied to.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hawor_pipeline.core import metrics
from hawor_pipeline.core.alignment import procrustes
from hawor_pipeline.core.rotations import geodesic_angle
from hawor_pipeline.core.units import ARCTIC_FPS, m_to_mm, mm_to_m, rad_to_deg
from hawor_pipeline.evaluation.hands import HandModels, HandTruth, PredictedHands
from hawor_pipeline.evaluation.tables import SAMPLE_METRICS

CROP_SIDE_PX = 256  # the crop in which 2D errors are stated, whatever the network's own size
PCK_3D_MM = (5, 10, 15, 20)
PCK_2D_PX = (5, 10, 15)
F_SCORE_MM = (5, 15)
DETECTION_IOU = 0.5
_MESH_ROWS = 128  # rows whose surfaces are compared at once: 2 x 310 MB of distances would be 512


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
    speed_m_s: np.ndarray  # (N,) of the true joints


def measure(truth: HandTruth, predicted: PredictedHands, models: HandModels, tracks: Tracks) -> Measurement:
    """Every number of one sequence's samples."""
    pixels = torch.linalg.vector_norm(predicted.joints_px - truth.joints_px, dim=-1)  # (N, 21)
    pixels = pixels.masked_fill(~truth.joint_in_frame, torch.nan)
    distances = torch.linalg.vector_norm(_centred(predicted.joints_m) - _centred(truth.joints_m), dim=-1)
    values = {name: torch.full((len(truth),), torch.nan, dtype=torch.float64) for name in SAMPLE_METRICS}
    values |= _joint_metrics(truth, predicted, distances) | _picture_metrics(truth, predicted, pixels)
    values |= _pose_metrics(truth, predicted, models)
    _fill_mesh_metrics(values, truth, predicted, models)
    _fill_motion_metrics(values, truth, predicted, tracks)
    return Measurement(
        metrics={name: values[name].numpy() for name in SAMPLE_METRICS},
        joint_error_mm=m_to_mm(distances).numpy(),
        joint_error_px=pixels.numpy(),
        mrrpe_mm=_relative_wrist_error(truth, predicted, tracks),
        speed_m_s=_speed(truth.joints_m, tracks),
    )


def _centred(joints: Tensor) -> Tensor:
    return joints - joints[:, :1]


def _nanmean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    return torch.nanmean(values if mask is None else values.masked_fill(~mask, torch.nan), -1)


def _joint_metrics(truth: HandTruth, predicted: PredictedHands, distances: Tensor) -> dict[str, Tensor]:
    ours, theirs = _centred(predicted.joints_m), _centred(truth.joints_m)
    placed = torch.isfinite(predicted.translation_m).all(-1)
    camera = metrics.mpjpe(predicted.joints_m, truth.joints_m, root=None)
    thresholds = [mm_to_m(limit) for limit in PCK_3D_MM]
    shares = metrics.pck(ours, theirs, thresholds)  # (N, thresholds)
    values = {
        "mpjpe_mm": m_to_mm(metrics.mpjpe(predicted.joints_m, truth.joints_m)),
        "pa_mpjpe_mm": m_to_mm(metrics.pa_mpjpe(predicted.joints_m, truth.joints_m)),
        "mpjpe_camera_mm": m_to_mm(camera).where(placed, torch.nan),
        "mpjpe_visible_mm": m_to_mm(_nanmean(distances, truth.joint_visible)),
        "mpjpe_hidden_mm": m_to_mm(_nanmean(distances, ~truth.joint_visible)),
        "translation_error_mm": m_to_mm(
            torch.linalg.vector_norm(predicted.translation_m - truth.translation_m, dim=-1)
        ),
        "pck_auc": metrics.pck_auc(ours, theirs),
    }
    return values | {f"pck_3d_{limit}mm": shares[:, i] for i, limit in enumerate(PCK_3D_MM)}


def _picture_metrics(truth: HandTruth, predicted: PredictedHands, pixels: Tensor) -> dict[str, Tensor]:
    in_crop = pixels * (CROP_SIDE_PX / truth.box_size_px)[:, None]
    overlap = _box_iou(predicted.joints_px, truth.joints_px)
    defined = torch.isfinite(overlap)
    values = {
        "mpjpe_px": _nanmean(pixels),
        "mpjpe_crop_px": _nanmean(in_crop),
        "box_iou": overlap,
        "detected": (overlap >= DETECTION_IOU).double().where(defined, torch.nan),
    }
    known = torch.isfinite(in_crop)
    for limit in PCK_2D_PX:
        within = (in_crop <= limit).double().where(known, torch.nan)
        values[f"pck_2d_{limit}px"] = torch.nanmean(within, -1)
    return values


def _box_iou(ours: Tensor, theirs: Tensor) -> Tensor:
    """Overlap of the tight boxes around two sets of pixels."""
    low_a, high_a, low_b, high_b = ours.amin(1), ours.amax(1), theirs.amin(1), theirs.amax(1)
    shared = (torch.minimum(high_a, high_b) - torch.maximum(low_a, low_b)).clamp_min(0).prod(-1)
    return shared / ((high_a - low_a).prod(-1) + (high_b - low_b).prod(-1) - shared)


def _pose_metrics(truth: HandTruth, predicted: PredictedHands, models: HandModels) -> dict[str, Tensor]:
    angles = rad_to_deg(geodesic_angle(predicted.rotmats, truth.rotmats))  # (N, 16)
    rest = models.rest_vertices(predicted.betas) - models.rest_vertices(truth.betas_as_right)
    return {
        "global_orient_error_deg": angles[:, 0],
        "pose_error_deg": angles[:, 1:].mean(-1),
        "betas_error": (predicted.betas - truth.betas_as_right).abs().mean(-1),
        "shape_error_mm": m_to_mm(torch.linalg.vector_norm(rest, dim=-1).mean(-1)),
    }


def _fill_mesh_metrics(
    values: dict[str, Tensor], truth: HandTruth, predicted: PredictedHands, models: HandModels
) -> None:
    """Surface errors of the rows that have a mesh; a predictor without translation is compared wrist-aligned all the
    same."""
    has_mesh = torch.isfinite(predicted.rotmats).flatten(1).all(1) & torch.isfinite(predicted.betas).all(1)
    for rows in torch.nonzero(has_mesh).flatten().split(_MESH_ROWS):
        part, hands = truth.take(rows), predicted.take(rows)
        mesh, joints = models.predicted_mesh(
            hands.rotmats, hands.betas, torch.zeros_like(part.translation_m), part.is_right
        )
        ours = mesh - joints[:, :1]
        theirs = models.true_vertices(part) - part.joints_m[:, :1]
        for name, value in _surface_metrics(ours, theirs).items():
            values[name][rows] = value.double()


def _surface_metrics(ours: Tensor, theirs: Tensor) -> dict[str, Tensor]:
    scale, rotation, shift = procrustes(ours, theirs)
    aligned = scale[:, None, None] * ours @ rotation.transpose(-1, -2) + shift.unsqueeze(-2)
    values = {
        "mpvpe_mm": m_to_mm(torch.linalg.vector_norm(ours - theirs, dim=-1).mean(-1)),
        "pa_mpvpe_mm": m_to_mm(torch.linalg.vector_norm(aligned - theirs, dim=-1).mean(-1)),
        "chamfer_mm": m_to_mm(metrics.chamfer_distance(ours, theirs)),
    }
    for limit in F_SCORE_MM:
        values[f"f_score_{limit}mm"] = metrics.f_score(ours, theirs, mm_to_m(limit))
        values[f"pa_f_score_{limit}mm"] = metrics.f_score(aligned, theirs, mm_to_m(limit))
    return values


def _fill_motion_metrics(
    values: dict[str, Tensor], truth: HandTruth, predicted: PredictedHands, tracks: Tracks
) -> None:
    ours, theirs = _centred(predicted.joints_m), _centred(truth.joints_m)
    if len(first := torch.from_numpy(tracks.windows(3))):
        rows = first[:, None] + torch.arange(3)
        errors = metrics.acceleration_error(ours[rows], theirs[rows], fps=ARCTIC_FPS)  # (M, 1)
        values["accel_error_m_s2"][first + 1] = errors.reshape(len(first), -1).mean(1)
    if len(first := torch.from_numpy(tracks.windows(4))):
        rows = first[:, None] + torch.arange(4)
        values["jitter_10m_s3"][first + 1] = metrics.jitter(ours[rows], fps=ARCTIC_FPS).reshape(len(first), -1).mean(1)


def _relative_wrist_error(truth: HandTruth, predicted: PredictedHands, tracks: Tracks) -> np.ndarray:
    right, left = (torch.from_numpy(rows) for rows in tracks.pairs())
    placed = torch.isfinite(predicted.translation_m).all(-1)
    both = placed[right] & placed[left]
    right, left = right[both], left[both]
    ours = predicted.joints_m[left, 0] - predicted.joints_m[right, 0]
    theirs = truth.joints_m[left, 0] - truth.joints_m[right, 0]
    return m_to_mm(torch.linalg.vector_norm(ours - theirs, dim=-1)).numpy()


def _speed(joints: Tensor, tracks: Tracks) -> np.ndarray:
    speed = np.full(len(joints), np.nan)
    rows = np.flatnonzero(tracks.follows())
    step = joints[rows] - joints[rows - 1]
    speed[rows] = torch.linalg.vector_norm(step, dim=-1).mean(-1).numpy() * ARCTIC_FPS
    return speed
