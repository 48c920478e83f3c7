"""Measurement of one sequence's samples: predictions against ground truth, a value per sample.

Convention: rows of one sequence, sorted by view, side and frame; true side, camera frame, metres in, the units of
`declared_metrics` out; NaN where a number is not defined. Each metric's function stands in its declaration; this module
prepares its inputs, which several metrics share, and computes each of them once.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hawor_pipeline.core import metrics
from hawor_pipeline.core.alignment import apply_similarity, procrustes
from hawor_pipeline.core.camera import transform_points
from hawor_pipeline.core.nearest import nearest_distances
from hawor_pipeline.core.units import ARCTIC_FPS, m_to_mm, mm_to_m, rad_to_deg
from hawor_pipeline.errors import NumericalError
from hawor_pipeline.evaluation.declared_metrics import (
    CROP_SIDE_PX,
    F_SCORE_MM,
    SAMPLE_METRICS,
    SUMMARY_METRICS,
    Metric,
)
from hawor_pipeline.evaluation.hands import HandTruth, PredictedHands, own_joints, true_vertices
from hawor_pipeline.evaluation.tracks import Tracks
from hawor_pipeline.sources.hand_models import HandModels

WORLD_CHUNK = 100  # frames, as HaWoR's HOT3D script
LEAST_WORLD_FRAMES = 3  # a shorter track has nothing left to measure beyond the two frames it is fitted to
_MESH_ROWS = 64  # rows whose surfaces one thread compares at once


@dataclass(slots=True)
class Measurement:
    """Numbers of N samples of one sequence, in the units of their declarations."""

    metrics: dict[str, np.ndarray]  # the SAMPLE_METRICS, (N,) each
    of_sequence: dict[str, np.ndarray]  # the metrics of a sequence, with any number of values each
    joint_error_mm: np.ndarray  # (N, 21)
    joint_error_px: np.ndarray  # (N, 21)
    joint_error_box: np.ndarray  # (N, 21) share of the longer side of the tight box
    speed_m_s: np.ndarray  # (N,) of the true joints


@dataclass(frozen=True)  # without slots: cached properties need a dictionary
class ComparedHands:
    """N predictions beside their ground truth, with the quantities that several metrics share."""

    truth: HandTruth
    predicted: PredictedHands
    models: HandModels
    tracks: Tracks | None = None
    mirror_allowed: bool = False

    @cached_property
    def distances_m(self) -> Tensor:
        """(N, 21) distance of each joint, wrists aligned."""
        return metrics.point_errors(self.predicted.joints_m, self.truth.joints_m, root=0)

    @cached_property
    def aligned_m(self) -> Tensor:
        """(N, 21) distance of each joint after the best similarity transform."""
        ours, theirs = self.predicted.joints_m, self.truth.joints_m
        return metrics.pa_errors(ours, theirs, allow_reflection=self.mirror_allowed)

    @cached_property
    def pixels(self) -> Tensor:
        """(N, 21) distance of each joint in the full frame; NaN outside the image."""
        errors = metrics.point_errors(self.predicted.joints_px, self.truth.joints_px)
        return errors.masked_fill(~self.truth.joint_in_frame, torch.nan)

    @cached_property
    def in_crop_px(self) -> Tensor:
        """(N, 21) the same in the 256 px crop."""
        return self.pixels * (CROP_SIDE_PX / self.truth.box_size_px)[:, None]

    @cached_property
    def of_box(self) -> Tensor:
        """(N, 21) the same as a share of the longer side of the box around the true joints in the image."""
        box = metrics.joint_box(self.truth.joints_px, self.truth.joint_in_frame)
        side = (box[:, 2:] - box[:, :2]).amax(-1)
        return self.pixels / side.where(side > 0, torch.nan)[:, None]

    @cached_property
    def is_placed(self) -> Tensor:
        """(N,) true where a place in the camera frame is predicted."""
        return torch.isfinite(self.predicted.translation_m).all(-1)

    @cached_property
    def is_projected(self) -> Tensor:
        """(N,) true where pixels are predicted."""
        return torch.isfinite(self.predicted.joints_px).flatten(1).all(1)

    @cached_property
    def predicted_world_m(self) -> Tensor:
        """(N, 21, 3) predicted joints in the world, by the true cameras; NaN where no place is predicted."""
        in_world = transform_points(torch.linalg.inv(self.truth.cam_from_world), self.predicted.joints_m)
        return in_world.where(self.is_placed[:, None, None], torch.nan)

    @cached_property
    def true_world_m(self) -> Tensor:
        """(N, 21, 3) true joints in the world."""
        return transform_points(torch.linalg.inv(self.truth.cam_from_world), self.truth.joints_m)

    @property
    def wrist_relative_m(self) -> Tensor:
        """(N, 21, 3) predicted joints relative to the wrist."""
        return self.predicted.joints_m - self.predicted.joints_m[:, :1]

    @property
    def shape_dirs(self) -> Tensor:
        """(778, 3, 10) of the right-hand model."""
        return torch.from_numpy(self.models.arrays["right"].shape_dirs)

    @property
    def pairs(self) -> tuple[Tensor, Tensor]:
        """Rows of the right and of the left hand that are in one image."""
        right, left = self.neighbours.pairs()
        return torch.from_numpy(right), torch.from_numpy(left)

    @property
    def neighbours(self) -> Tracks:
        """The tracks, which metrics over time need."""
        if self.tracks is None:
            raise NumericalError("a metric over time needs whole sequences, found single samples; give their tracks.")
        return self.tracks

    def windows(self, length: int) -> Tensor:
        """Return (M, length) rows of `length` consecutive frames of one hand."""
        return torch.from_numpy(self.neighbours.windows(length))[:, None] + torch.arange(length)

    def at_rows(self, rows: Tensor, values: Tensor) -> Tensor:
        """Return (N,) with values at some rows and NaN elsewhere."""
        result = torch.full((len(self.truth),), torch.nan, dtype=torch.float64)
        result[rows] = values
        return result


@dataclass(frozen=True)
class ComparedSurfaces:
    """Predicted and true vertices of M samples, wrists aligned."""

    predicted: Tensor  # (M, 778, 3)
    truth: Tensor  # (M, 778, 3)
    mirror_allowed: bool

    @cached_property
    def aligned(self) -> Tensor:
        """(M, 778, 3) predicted vertices after the best similarity transform."""
        fit = procrustes(self.predicted, self.truth, allow_reflection=self.mirror_allowed)
        return apply_similarity(self.predicted, *fit)

    @cached_property
    def aligned_errors(self) -> Tensor:
        """(M, 778) distances of the aligned vertices."""
        return metrics.point_errors(self.aligned, self.truth)

    @cached_property
    def nearest(self) -> tuple[Tensor, Tensor]:
        """Distances (M, 778) from each predicted vertex to the true ones and back; one search serves all metrics."""
        return nearest_distances(self.predicted, self.truth)

    @cached_property
    def aligned_nearest(self) -> tuple[Tensor, Tensor]:
        """The same after alignment; exact only above the smallest threshold of the F-scores."""
        return nearest_distances(self.aligned, self.truth, enough=mm_to_m(min(F_SCORE_MM)))


@dataclass(frozen=True, slots=True)
class ComparedMotion:
    """Errors of the wrist-relative vertices of T consecutive frames of one hand.

    Differences over time are linear: the motion of the error is the error of the motion.
    """

    errors: Tensor  # (T, 778, 3)

    @property
    def zero(self) -> Tensor:
        """(T, 778, 3) the error of a perfect prediction."""
        return self.errors.new_zeros(()).expand(self.errors.shape)


@dataclass(frozen=True, slots=True)
class ComparedTrack:
    """Predicted and true joints, and MANO's translation, of T consecutive frames of one hand in the world frame."""

    predicted: Tensor  # (T, 21, 3)
    truth: Tensor  # (T, 21, 3)
    predicted_place: Tensor  # (T, 3)
    true_place: Tensor  # (T, 3)


@dataclass(frozen=True, slots=True)
class MeasuredImages:
    """Values of a sequence's samples, and the images that they are of."""

    values: dict[str, Tensor]  # the SAMPLE_METRICS, (N,) each
    tracks: Tracks

    def mean_of(self, name: str) -> Tensor:
        """Average a metric over the hands of each image that have it; (images,)."""
        _, image = np.unique(self.tracks.images(), return_inverse=True)
        found = np.isfinite(values := self.values[name].numpy())
        total, count = np.bincount(image[found], values[found]), np.bincount(image[found])
        return torch.from_numpy(total[count > 0] / count[count > 0])


def measure(
    truth: HandTruth, predicted: PredictedHands, models: HandModels, tracks: Tracks, *, mirror_allowed: bool = False
) -> Measurement:
    """Compute every declared metric of one sequence's samples.

    Args:
        truth, predicted: N rows each.
        models: the two MANO models.
        tracks: neighbours in time.
        mirror_allowed: Procrustes alignment may mirror (the protocols `freihand` and `ho3d`).

    Raises:
        NumericalError: a declared metric is not computed.
    """
    hands = ComparedHands(truth, predicted, models, tracks, mirror_allowed)
    values = measure_hands(hands, [name for name, metric in SAMPLE_METRICS.items() if metric.inputs == "hands"])
    values |= _surface_metrics(hands)
    values |= _world_metrics(hands, "world", WORLD_CHUNK) | _world_metrics(hands, "track", len(truth))
    if missing := sorted(set(SAMPLE_METRICS) - set(values)):
        raise NumericalError(f"metrics {missing} are declared with unknown inputs, and nothing computes them.")
    inputs = {"sequence": hands, "images": MeasuredImages(values, tracks)}
    of_sequence = [metric for metric in SUMMARY_METRICS.values() if metric.inputs in inputs]
    return Measurement(
        metrics={name: values[name].numpy() for name in SAMPLE_METRICS},
        of_sequence={metric.name: _computed(metric, inputs[metric.inputs]).numpy() for metric in of_sequence},
        joint_error_mm=m_to_mm(hands.distances_m).numpy(),
        joint_error_px=hands.pixels.numpy(),
        joint_error_box=hands.of_box.numpy(),
        speed_m_s=_speed(truth.joints_m, tracks),
    )


def measure_hands(hands: ComparedHands, names: Sequence[str]) -> dict[str, Tensor]:
    """Compute some of the metrics whose inputs are "hands"; (N,) each."""
    return {name: _computed(SAMPLE_METRICS[name], hands, len(hands.truth)) for name in names}


def _computed(metric: Metric, inputs: Any, count: int | None = None) -> Tensor:
    """Call a metric's function and convert its values to the declared unit."""
    values = metric.function(metrics, inputs)
    if not isinstance(values, Tensor) or values.ndim != 1 or count not in (None, len(values)):
        found = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else repr(values)
        raise NumericalError(
            f"metric {metric.name!r} is declared, but its function returned {found}; expected a tensor of "
            f"{'any number of' if count is None else count} values. Correct its declaration."
        )
    convert = {"mm": m_to_mm, "deg": rad_to_deg}.get(metric.unit)
    return values if convert is None or metric.inputs == "images" else convert(values)


def _by_parts(
    count: int, inputs: str, parts: Sequence[Tensor | slice], prepare: Callable[[Any], Any], run: Callable = map
) -> dict[str, Tensor]:
    """Compute the metrics with these inputs part by part.

    Args:
        count: number of samples; those in no part are NaN.
        inputs: as in the declarations.
        parts: rows of each part.
        prepare: makes the inputs of a part from its rows.
        run: maps a function over the parts.
    """
    declared, index = [metric for metric in SAMPLE_METRICS.values() if metric.inputs == inputs], torch.arange(count)
    values = {metric.name: torch.full((count,), torch.nan, dtype=torch.float64) for metric in declared}

    def compute(rows: Tensor | slice) -> list[Tensor]:
        part = prepare(rows)
        return [_computed(metric, part, len(index[rows])) for metric in declared]

    for rows, results in zip(parts, run(compute, parts), strict=True):
        for metric, result in zip(declared, results, strict=True):
            values[metric.name][rows] = result.double()
    return values


def _surface_metrics(hands: ComparedHands) -> dict[str, Tensor]:
    """Compute the metrics of surfaces, in threads, and of their motion; NaN for rows without a mesh."""
    count = len(hands.truth)
    errors = torch.full((count, 778, 3), torch.nan, dtype=torch.float32)  # of one sequence: posed once for both

    def prepare(rows: Tensor) -> ComparedSurfaces:
        truth, ours = hands.truth.take(rows), hands.predicted.take(rows)
        # without translation: the wrist is subtracted, and NaN must not reach the mesh
        mesh, joints = ours.relative_mesh(hands.models, truth.is_right)
        wrists = own_joints(hands.models, mesh, joints, truth.is_right)[:, :1]
        theirs = true_vertices(hands.models, truth) - truth.joints_m[:, :1]
        surfaces = ComparedSurfaces(mesh - wrists, theirs, hands.mirror_allowed)
        errors[rows] = (surfaces.predicted - surfaces.truth).float()
        return surfaces

    parts = [rows for rows in torch.nonzero(hands.predicted.has_mesh).flatten().split(_MESH_ROWS) if len(rows)]
    found = _by_parts(count, "surfaces", parts, prepare, _threads().map)
    tracks = [slice(start, end) for start, end in hands.neighbours.runs()]
    return found | _by_parts(count, "motion", tracks, lambda rows: ComparedMotion(errors[rows]))


@cache
def _threads() -> ThreadPoolExecutor:
    """Threads for searches, which run outside Python's lock; kept, because each new thread takes memory of its own."""
    return ThreadPoolExecutor(os.cpu_count(), "surfaces")


def _world_metrics(hands: ComparedHands, inputs: str, chunk: int) -> dict[str, Tensor]:
    """Compute the metrics of tracks in the world frame, cut into chunks; the cameras are the true ones."""
    ours, theirs = hands.predicted_world_m, hands.true_world_m
    # the world's rotation turns a hand about its wrist, so translation and wrist keep their distance
    our_place = ours[:, 0] - (hands.predicted.joints_m[:, 0] - hands.predicted.translation_m)
    their_place = theirs[:, 0] - (hands.truth.joints_m[:, 0] - hands.truth.translation_m)
    parts = [
        slice(first, min(first + chunk, end))
        for start, end in hands.neighbours.runs()
        if end - start >= LEAST_WORLD_FRAMES and hands.is_placed[start:end].all()
        for first in range(start, end, chunk)
    ]
    columns = (ours, theirs, our_place, their_place)
    return _by_parts(len(hands.truth), inputs, parts, lambda rows: ComparedTrack(*(column[rows] for column in columns)))


def _speed(joints: Tensor, tracks: Tracks) -> np.ndarray:
    speed = np.full(len(joints), np.nan)
    rows = np.flatnonzero(tracks.follows())
    step = joints[rows] - joints[rows - 1]
    speed[rows] = torch.linalg.vector_norm(step, dim=-1).mean(-1).numpy() * ARCTIC_FPS
    return speed
