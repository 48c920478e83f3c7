"""The conventions of published benchmarks, each as one frozen dataclass: what is aligned, counted and averaged how.

Convention: `measure` takes metres (pixels for HInt) and gives one value per sample or frame; `reduce` gives the numbers
that a paper prints, in the same units. `PRESETS` holds them by name. A preset says what the published script does, its
quirks included; where this project departs from it, `departs` says so and why.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hawor_pipeline.core.alignment import aligned_difference
from hawor_pipeline.core.metrics.curves import pck_auc
from hawor_pipeline.core.metrics.interaction import contact_deviation, mrrpe
from hawor_pipeline.core.metrics.motion import acceleration_error
from hawor_pipeline.core.metrics.objects import articulation_error, success_rate
from hawor_pipeline.core.metrics.points import mpjpe, mpvpe, pa_mpjpe, point_errors, st_mpjpe
from hawor_pipeline.core.metrics.surface import f_score
from hawor_pipeline.core.metrics.world import root_trajectory_error, w_mpjpe, wa_mpjpe
from hawor_pipeline.core.units import ARCTIC_FPS, m_to_mm

Values = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Preset:
    """What all presets share: names for people, and the mean over samples that have a value."""

    name: ClassVar[str]
    source: ClassVar[str]
    quirks: ClassVar[tuple[str, ...]]
    departs: ClassVar[tuple[str, ...]] = ()

    def reduce(self, values: Mapping[str, Tensor]) -> Values:
        """Mean of each metric over all samples that have a value; NaN where none has."""
        return {name: torch.nanmean(value.double()) for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class FreiHand(Preset):
    """FreiHAND: joints and surface as given and after Procrustes, which may mirror; AUC over 0 to 50 mm."""

    name = "freihand"
    source = "lmb-freiburg/freihand, eval.py and utils/eval_util.py"
    quirks: ClassVar[tuple[str, ...]] = (
        "The alignment may mirror: a mirrored hand scores 0.",
        "Surfaces are aligned by their own vertices, not by the joints.",
        "The F-score counts distances strictly below the threshold, PCK those equal to it too.",
        "Precision and recall have each other's names; F is the same.",
    )
    departs: ClassVar[tuple[str, ...]] = (
        "The 1e-8 m that its alignment adds to both sizes is left out: it moves points by at most 1e-8 m.",
    )

    max_threshold_m: float = 0.05
    steps: int = 100
    f_thresholds_m: tuple[float, ...] = (0.005, 0.015)
    allow_reflection: bool = True

    def measure(
        self,
        pred_joints: Float[Tensor, "*batch 21 3"],
        target_joints: Float[Tensor, "*batch 21 3"],
        pred_vertices: Float[Tensor, "*batch 778 3"] | None = None,
        target_vertices: Float[Tensor, "*batch 778 3"] | None = None,
    ) -> Values:
        """Per sample: `mpjpe pck_auc pa_mpjpe pa_pck_auc`, and with vertices the same of the surface and F-scores.

        Args:
            pred_joints: (*batch, 21, 3), metres, camera frame.
            target_joints: the same.
            pred_vertices: (*batch, 778, 3), metres, camera frame.
            target_vertices: the same.
        """
        values = self._points("mpjpe", "pck_auc", pred_joints, target_joints)
        if pred_vertices is None or target_vertices is None:
            return values
        values |= self._points("mpvpe", "mesh_auc", pred_vertices, target_vertices)
        aligned = self._aligned(pred_vertices, target_vertices)
        for prefix, surface in (("", pred_vertices), ("pa_", aligned)):
            scores = f_score(surface, target_vertices, self.f_thresholds_m)
            for index, limit in enumerate(self.f_thresholds_m):
                values[f"{prefix}f_score_{m_to_mm(limit):.0f}mm"] = scores[..., index]
        return values

    def _points(self, error: str, area: str, pred: Tensor, target: Tensor) -> Values:
        values = {}
        for prefix, points in (("", pred), ("pa_", self._aligned(pred, target))):
            values[prefix + error] = mpjpe(points, target, root=None)
            values[prefix + area] = pck_auc(points, target, max_threshold=self.max_threshold_m, steps=self.steps)
        return values

    def _aligned(self, pred: Tensor, target: Tensor) -> Tensor:
        return target + aligned_difference(pred, target, allow_reflection=self.allow_reflection)


@dataclass(frozen=True, slots=True)
class Ho3d(FreiHand):
    """HO-3D: as FreiHAND, and joints given the true size and wrist ("scale and translation aligned")."""

    name = "ho3d"
    source = "shreyashampali/ho3d, eval.py and utils/eval_util.py"
    quirks: ClassVar[tuple[str, ...]] = (
        *FreiHand.quirks,
        "Its own joint order puts the middle knuckle at 4 (9 in OpenPose order), whose bone gives the scale.",
        "Coordinates are OpenGL's (y up, z backward); no metric depends on it as long as both sides agree.",
    )
    scale_joint: int = 9

    def measure(
        self,
        pred_joints: Float[Tensor, "*batch 21 3"],
        target_joints: Float[Tensor, "*batch 21 3"],
        pred_vertices: Float[Tensor, "*batch 778 3"] | None = None,
        target_vertices: Float[Tensor, "*batch 778 3"] | None = None,
    ) -> Values:
        """As `FreiHand.measure`, with `st_mpjpe` and `st_pck_auc`."""
        values = FreiHand.measure(self, pred_joints, target_joints, pred_vertices, target_vertices)
        p, t = (x - x[..., :1, :] for x in (pred_joints, target_joints))
        bones = (torch.linalg.vector_norm(x[..., self.scale_joint, :], dim=-1) for x in (t, p))
        scaled = p * (next(bones) / next(bones))[..., None, None]
        values["st_mpjpe"] = st_mpjpe(pred_joints, target_joints, scale_joint=self.scale_joint)
        values["st_pck_auc"] = pck_auc(scaled, t, max_threshold=self.max_threshold_m, steps=self.steps)
        return values


@dataclass(slots=True)
class ArcticScene:
    """One sequence of ARCTIC, true or predicted: frames along the first dimension, metres, camera frame.

    `object_root_m` is the mean of the vertices of the object's bottom part.
    """

    joints_m: dict[str, Float[Tensor, "time 21 3"]]  # by side: "right", "left"
    vertices_m: dict[str, Float[Tensor, "time 778 3"]]
    object_vertices_m: Float[Tensor, "time vertices 3"]
    object_root_m: Float[Tensor, "time 3"]
    articulation: Float[Tensor, " time"]  # radians


@dataclass(frozen=True, slots=True)
class Arctic(Preset):
    """ARCTIC: root-relative hands, their relation to each other and to the object, and motion."""

    name = "arctic"
    source = "zc-alexfan/arctic, src/utils/eval_modules.py, common/metrics.py, src/utils/loss_modules.py"
    quirks: ClassVar[tuple[str, ...]] = (
        "A frame's error is the mean of its valid hands, and frames count alike: a frame with one hand weighs as much "
        "as one with two.",
        "Accelerations need the frame and both neighbours; root-relative vertices at 30 frames per second.",
        "Contact deviation is averaged per frame over touching vertices, then over hands, then over frames.",
    )
    departs: ClassVar[tuple[str, ...]] = (
        "Motion deviation needs pairs of vertices in contact: see `motion_deviation`.",
    )

    fps: float = ARCTIC_FPS
    contact_m: float = 0.003
    success_share: float = 0.05

    def measure(
        self,
        pred: ArcticScene,
        target: ArcticScene,
        valid: Mapping[str, Bool[Tensor, " time"]],
        object_diameter_m: Float[Tensor, ""],
    ) -> Values:
        """Per frame: `mpjpe mpvpe cdev acc_h` (mean of valid hands), `mrrpe_rl mrrpe_ro acc_o aae success_rate`.

        Args:
            pred: predicted scene.
            target: true scene.
            valid: by "right", "left" and "object", the frames (time) in which each is valid.
            object_diameter_m: scalar, metres.

        Returns:
            Values (time): metres, m/s^2, radians, shares; NaN where not valid.
        """
        by_hand = [self._hand(pred, target, valid, side) for side in ("right", "left")]
        values = {name: torch.stack([hand[name] for hand in by_hand]).nanmean(0) for name in by_hand[0]}
        roots = {
            "right": (pred.joints_m["right"][:, 0], target.joints_m["right"][:, 0]),
            "left": (pred.joints_m["left"][:, 0], target.joints_m["left"][:, 0]),
            "object": (pred.object_root_m, target.object_root_m),
        }
        for name, other in (("mrrpe_rl", "left"), ("mrrpe_ro", "object")):
            (p, t), (q, u) = roots["right"], roots[other]
            values[name] = mrrpe(q, p, u, t, mask=valid["right"] & valid[other])
        return values | self._object(pred, target, valid["object"], object_diameter_m)

    def _hand(self, pred: ArcticScene, target: ArcticScene, valid: Mapping[str, Tensor], side: str) -> Values:
        here = valid[side]
        p, t = pred.joints_m[side], target.joints_m[side]
        surface, true_surface = pred.vertices_m[side], target.vertices_m[side]
        cdev = contact_deviation(
            surface, pred.object_vertices_m, true_surface, target.object_vertices_m, contact_m=self.contact_m
        )
        relative = surface - p[:, :1] - (true_surface - t[:, :1])
        return {
            "mpjpe": _where(mpjpe(p, t), here),
            "mpvpe": _where(mpvpe(surface, true_surface, pred_root=p[:, 0], target_root=t[:, 0]), here),
            "cdev": _where(cdev, here & valid["object"]),
            "acc_h": acceleration_error(relative, torch.zeros_like(relative), fps=self.fps, valid=here, root=None),
        }

    def _object(self, pred: ArcticScene, target: ArcticScene, here: Tensor, diameter: Tensor) -> Values:
        p, t = (scene.object_vertices_m - scene.object_root_m[:, None] for scene in (pred, target))
        success = success_rate(p, t, diameter, share=self.success_share)
        return {
            "acc_o": acceleration_error(p, t, fps=self.fps, valid=here, root=None),
            "aae": _where(articulation_error(pred.articulation, target.articulation), here),
            "success_rate": _where(success, here),
        }


@dataclass(frozen=True, slots=True)
class Hot3d(Preset):
    """HOT3D as HaWoR evaluates on it: tracks of one hand in the world."""

    name = "hot3d"
    source = "HaWoR, lib/eval_utils/eval_utils.py and scripts/scripts_eval/eval_hawor_hot3d.py"
    quirks: ClassVar[tuple[str, ...]] = (
        "W-MPJPE fits a scale to the first two frames of each chunk of 100; the last chunk may be one frame long.",
        "Acceleration is that of joints in the world, not relative to the wrist, and one more frame is dropped at each "
        "end than differences need.",
        "Only right hands are evaluated.",
    )
    departs: ClassVar[tuple[str, ...]] = (
        "A path without length gives NaN for RTE, where the script divides by zero.",
        "The script's batched alignment guesses the layout from the batch size and is wrong for batches of 2 or 3 "
        "frames; this one is not.",
    )

    chunk: int = 100
    fps: float = 30.0

    def measure(self, pred_world: Float[Tensor, "time 21 3"], target_world: Float[Tensor, "time 21 3"]) -> Values:
        """Per frame of one track without gaps: `pa_mpjpe w_mpjpe wa_mpjpe rte_percent accel`.

        Args:
            pred_world: (time, 21, 3), metres, world frame.
            target_world: the same.
        """
        accel = acceleration_error(pred_world, target_world, fps=self.fps, root=None)
        accel[:2], accel[-2:] = torch.nan, torch.nan
        return {
            "pa_mpjpe": pa_mpjpe(pred_world, target_world),
            "w_mpjpe": w_mpjpe(pred_world, target_world, chunk=self.chunk),
            "wa_mpjpe": wa_mpjpe(pred_world, target_world, chunk=self.chunk),
            "rte_percent": 100 * root_trajectory_error(pred_world[:, 0], target_world[:, 0]),
            "accel": accel,
        }


@dataclass(frozen=True, slots=True)
class Hint(Preset):
    """HInt as HaMeR evaluates on it: 2D joints in units of the hand's tight box."""

    name = "hint"
    source = "HaMeR, hamer/utils/pose_utils.py `EvaluatorPCK` and eval.py"
    quirks: ClassVar[tuple[str, ...]] = (
        "Joints count where the annotator's confidence is above 0.5.",
        "The share is taken per joint over all samples, then over joints: a joint that is labelled nowhere makes the "
        "mean NaN.",
        "The box is the one before it is enlarged for the network's crop.",
    )

    thresholds: tuple[float, ...] = (0.05, 0.1, 0.15)
    min_confidence: float = 0.5

    def measure(
        self,
        pred_px: Float[Tensor, "batch 21 2"],
        target_px: Float[Tensor, "batch 21 2"],
        confidence: Float[Tensor, "batch 21"],
        box_size_px: Float[Tensor, " batch"],
    ) -> Values:
        """Per sample and joint, 1 for a hit and 0 for a miss: `pck_0.05 ...` (batch, 21); NaN where not labelled.

        Args:
            pred_px: (batch, 21, 2), pixels.
            target_px: the same.
            confidence: (batch, 21), 0 to 1; give 0 where a joint is not of the kind (visible, hidden) in question.
            box_size_px: (batch), longer side of the tight box, pixels.
        """
        error = point_errors(pred_px, target_px) / box_size_px[:, None]
        counted = confidence > self.min_confidence
        return {f"pck_{limit:g}": _where((error <= limit).to(error.dtype), counted) for limit in self.thresholds}

    def reduce(self, values: Mapping[str, Tensor]) -> Values:
        """Per joint over all samples, then over joints; NaN if a joint is labelled nowhere."""
        return {name: value.double().nanmean(0).mean() for name, value in values.items()}


def _where(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, torch.full_like(values, torch.nan))


PRESETS: dict[str, Preset] = {preset.name: preset for preset in (FreiHand(), Ho3d(), Arctic(), Hot3d(), Hint())}
