"""Declarations of all metrics: each number of an evaluation stands here once, and everything else follows from it.

Columns of the tables, units, titles, lineage, documentation and the measurement itself derive from these declarations;
to add a metric, add one. No torch here: the web UI and the report import this module.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from hawor_pipeline.core.units import mm_to_m

CROP_SIDE_PX = 256  # the crop in which 2D errors are stated, whatever the network's own size
PCK_3D_MM = (5, 10, 15, 20)
PCK_2D_PX = (5, 10, 15)
PCK_BOX_PERCENT = (5, 10, 15)
F_SCORE_MM = (5, 15)
MIDDLE_KNUCKLE = 9  # OpenPose order
HIDDEN, CLEAR = "occlusion>0.5", "occlusion<0.1"  # strata of occlusion_robustness
Inputs = Literal["hands", "surfaces", "motion", "world", "track", "sequence", "images", "summary"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of an evaluation.

    Attributes:
        name: as in the tables.
        unit: of the tables. `function` returns metres for "mm" and radians for "deg", and the unit itself for others.
        better: "lower", "higher" or "" (neither).
        meaning: one line for people.
        made_from: columns of a shard that it depends on.
        function: called with the module `core.metrics` and the inputs.
        inputs: type of the inputs, and number of values that `function` returns.
            "hands": `measure.ComparedHands` of N samples; (N,).
            "surfaces": `measure.ComparedSurfaces` of M samples that have a mesh; (M,).
            "motion": `measure.ComparedMotion`, T consecutive frames of one hand; (T,), NaN without both neighbours.
            "world": `measure.ComparedTrack`, at most 100 consecutive frames of one hand in the world; (T,).
            "track": `measure.ComparedTrack`, all consecutive frames of one hand in the world; (T,).
            "sequence": `measure.ComparedHands` of a sequence; any number. Only the summary has it.
            "images": `measure.MeasuredImages` of a sequence, in the units of the tables; any number. Only the summary.
            "summary": `summary.Summary` of all sequences; a row's value, interval and counts. Only the summary has it.
        title: heading on pages; the name if empty.
    """

    name: str
    unit: str
    better: Literal["lower", "higher", ""]
    meaning: str
    made_from: tuple[str, ...]
    function: Callable[[Any, Any], Any]
    inputs: Inputs = "hands"
    title: str = ""


_JOINTS = ("joints_cam_m",)
_VISIBLE = (*_JOINTS, "joint_visible")
_WORLD = (*_JOINTS, "cam_from_world")
_SHAPE = ("betas_as_right",)
_HAND = ("global_orient", "hand_pose", "betas", "translation_m")
_PIXELS = ("joints_px", "joint_in_frame")
_CROP = (*_PIXELS, "box_center_px", "box_size_px")
_BOXES = ("joints_px", "side")


def _where(values: Any, is_defined: Any) -> Any:
    return values.where(is_defined, math.nan)


def _joint_error(m: Any, hands: Any, **options: Any) -> Any:
    return m.mpjpe(hands.predicted.joints_m, hands.truth.joints_m, **options)


def _bone_scaled_error(m: Any, hands: Any) -> Any:
    errors = m.st_mpjpe(hands.predicted.joints_m, hands.truth.joints_m, scale_joint=MIDDLE_KNUCKLE)
    return _where(errors, errors.isfinite())


def _box_iou(m: Any, hands: Any) -> Any:
    boxes = (m.joint_box(part.joints_px) for part in (hands.predicted, hands.truth))
    return _where(m.box_iou(*boxes), hands.is_projected)


def _detected(m: Any, hands: Any) -> Any:
    return _where(m.detected(hands.predicted.joints_px, hands.truth.joints_px).double(), hands.is_projected)


def _shape_error(m: Any, hands: Any) -> Any:
    return m.shape_vertex_error(hands.predicted.betas, hands.truth.betas_as_right, hands.shape_dirs)


def _acceleration_error(m: Any, hands: Any) -> Any:
    rows = hands.windows(3)
    errors = m.acceleration_error(hands.predicted.joints_m[rows], hands.truth.joints_m[rows])  # (M, 3)
    return hands.at_rows(rows[:, 1], errors[:, 1])


def _world_acceleration_error(m: Any, hands: Any) -> Any:
    rows = hands.windows(5)  # HaWoR's script drops one more frame at each end than the formula needs
    errors = m.acceleration_error(hands.predicted_world_m[rows], hands.true_world_m[rows], root=None)  # (M, 5)
    return hands.at_rows(rows[:, 2], errors[:, 2])


def _camera_auc(m: Any, hands: Any) -> Any:
    errors = m.point_errors(hands.predicted.joints_m, hands.truth.joints_m)
    return _where(m.auc_within(errors), hands.is_placed)


def _wrist_relation_error(m: Any, hands: Any) -> Any:
    right, left = hands.pairs
    ours, theirs = hands.predicted.joints_m[:, 0], hands.truth.joints_m[:, 0]
    both = hands.is_placed[right] & hands.is_placed[left]
    return m.mrrpe(ours[right], ours[left], theirs[right], theirs[left], mask=both)


# fmt: off
def _pck_3d(limit: int) -> Metric:
    return Metric(f"pck_3d_{limit}mm", "1", "higher", f"share of wrist-aligned joints within {limit} mm", _JOINTS,
                  lambda m, hands: m.share_within(hands.distances_m, mm_to_m(limit)), title=f"Joints within {limit} mm")


def _pck_2d(limit: int) -> Metric:
    return Metric(f"pck_2d_{limit}px", "1", "higher",
                  f"share of joints in the image within {limit} px in the 256 px crop", _CROP,
                  lambda m, hands: m.share_within(hands.in_crop_px, float(limit), mask=hands.in_crop_px.isfinite()),
                  title=f"2D joints within {limit} px")


def _pck_box(percent: int) -> Metric:
    return Metric(f"pck_box_{percent}pct", "1", "higher",
                  f"share of joints in the image within {percent} % of the tight box around the hand", _PIXELS,
                  lambda m, hands: m.share_within(hands.of_box, percent / 100, mask=hands.of_box.isfinite()))


def _pck_joints(percent: int) -> Metric:
    return Metric(f"pck_joints_{percent}pct", "1", "higher",
                  f"mean over the joints of each joint's share within {percent} % of the tight box, as HInt's", _PIXELS,
                  lambda m, summary: summary.joint_mean(f"pck_box_{percent}pct"), "summary")


def _f_score(limit: int) -> Metric:
    return Metric(f"f_score_{limit}mm", "1", "higher", f"F-score of the wrist-aligned surfaces at {limit} mm", _HAND,
                  lambda m, surfaces: m.f_score_of_distances(*surfaces.nearest, mm_to_m(limit)), "surfaces",
                  f"F-score at {limit} mm")


def _pa_f_score(limit: int) -> Metric:
    return Metric(f"pa_f_score_{limit}mm", "1", "higher",
                  f"F-score of the Procrustes-aligned surfaces at {limit} mm", _HAND,
                  lambda m, surfaces: m.f_score_of_distances(*surfaces.aligned_nearest, mm_to_m(limit)), "surfaces")


# The order is that of the columns of the samples table.
METRICS = (
    Metric("mpjpe_mm", "mm", "lower", "mean distance of the 21 joints, wrists aligned", _JOINTS, _joint_error,
           title="Joint error (MPJPE)"),
    Metric("pa_mpjpe_mm", "mm", "lower", "mean joint distance after the best similarity transform (no reflection)",
           _JOINTS, lambda m, hands: hands.aligned_m.mean(-1), title="Aligned joint error (PA-MPJPE)"),
    Metric("mpvpe_mm", "mm", "lower", "mean distance of the 778 vertices, wrists aligned", _HAND,
           lambda m, surfaces: m.point_errors(surfaces.predicted, surfaces.truth).mean(-1), "surfaces",
           "Vertex error (MPVPE)"),
    Metric("pa_mpvpe_mm", "mm", "lower", "mean vertex distance after the best similarity transform", _HAND,
           lambda m, surfaces: surfaces.aligned_errors.mean(-1), "surfaces",
           "Aligned vertex error (PA-MPVPE)"),
    Metric("mpjpe_camera_mm", "mm", "lower", "mean joint distance in the camera frame, without any alignment", _JOINTS,
           lambda m, hands: _where(_joint_error(m, hands, root=None), hands.is_placed),
           title="Joint error in the camera frame"),
    Metric("mpjpe_visible_mm", "mm", "lower", "wrist-aligned distance over the visible joints", _VISIBLE,
           lambda m, hands: _joint_error(m, hands, mask=hands.truth.joint_visible), title="Error of visible joints"),
    Metric("mpjpe_hidden_mm", "mm", "lower", "wrist-aligned distance over the hidden joints", _VISIBLE,
           lambda m, hands: _joint_error(m, hands, mask=~hands.truth.joint_visible), title="Error of hidden joints"),
    Metric("mpjpe_px", "px", "lower", "mean distance of the joints inside the image, full frame, lens included",
           _PIXELS, lambda m, hands: hands.pixels.nanmean(-1)),
    Metric("mpjpe_crop_px", "px", "lower", "the same in the 256 px network crop", _CROP,
           lambda m, hands: hands.in_crop_px.nanmean(-1), title="2D joint error, 256 px crop"),
    *map(_f_score, F_SCORE_MM),
    *map(_pa_f_score, F_SCORE_MM),
    Metric("chamfer_mm", "mm", "lower", "sum of the two mean nearest distances of the wrist-aligned vertices", _HAND,
           lambda m, surfaces: surfaces.nearest[0].mean(-1) + surfaces.nearest[1].mean(-1), "surfaces"),
    Metric("pose_error_deg", "deg", "lower", "mean angle between predicted and true rotation of the 15 finger joints",
           ("hand_pose",), lambda m, hands: m.pose_angle_error(hands.predicted.rotmats, hands.truth.rotmats),
           title="Finger rotation error"),
    Metric("global_orient_error_deg", "deg", "lower", "angle between predicted and true rotation of the wrist",
           ("global_orient",), lambda m, hands: m.global_orient_error(hands.predicted.rotmats, hands.truth.rotmats),
           title="Wrist rotation error"),
    Metric("betas_error", "1", "lower",
           "root of the summed squared differences of the 10 shape parameters, both as a right hand", _SHAPE,
           lambda m, hands: m.betas_error(hands.predicted.betas, hands.truth.betas_as_right)),
    Metric("shape_error_mm", "mm", "lower", "mean distance of the two unposed surfaces", _SHAPE, _shape_error,
           title="Shape error"),
    Metric("translation_error_mm", "mm", "lower", "distance of predicted and true translation in the camera frame",
           ("translation_m",),
           lambda m, hands: m.translation_error(hands.predicted.translation_m, hands.truth.translation_m),
           title="Translation error"),
    Metric("accel_error_m_s2", "m/s^2", "lower", "difference of wrist-relative joint acceleration over three frames",
           _JOINTS, _acceleration_error, title="Acceleration error"),
    Metric("accel_vertices_error_m_s2", "m/s^2", "lower",
           "difference of the acceleration of the wrist-relative vertices over three frames", _HAND,
           lambda m, motion: m.acceleration_error(motion.errors, motion.zero, root=None), "motion"),
    Metric("accel_world_error_m_s2", "m/s^2", "lower",
           "difference of joint acceleration in the world, without the two first and last frames of a track", _WORLD,
           _world_acceleration_error),
    Metric("box_iou", "1", "higher", "overlap of the boxes around the predicted and the true projected joints", _BOXES,
           _box_iou),
    Metric("detected", "1", "higher", "1 where the side is right and box_iou is at least 0.5, else 0", _BOXES,
           _detected, title="Hands found"),
    *map(_pck_3d, PCK_3D_MM),
    *map(_pck_2d, PCK_2D_PX),
    Metric("pck_auc", "1", "higher", "area under the curve of wrist-aligned PCK from 0 to 50 mm, divided by 50 mm",
           _JOINTS, lambda m, hands: m.auc_within(hands.distances_m), title="PCK area, 0 to 50 mm"),
    Metric("pa_pck_auc", "1", "higher", "the same after the best similarity transform", _JOINTS,
           lambda m, hands: m.auc_within(hands.aligned_m)),
    Metric("pa_vertex_pck_auc", "1", "higher", "the same of the vertices after the best similarity transform", _HAND,
           lambda m, surfaces: m.auc_within(surfaces.aligned_errors), "surfaces"),
    Metric("camera_pck_auc", "1", "higher", "the same of the joints in the camera frame, without alignment", _JOINTS,
           _camera_auc),
    Metric("st_mpjpe_mm", "mm", "lower", "mean joint distance, wrists aligned and the middle knuckle's bone scaled",
           _JOINTS, _bone_scaled_error),
    *map(_pck_box, PCK_BOX_PERCENT),
    Metric("w_mpjpe_mm", "mm", "lower",
           "mean joint distance in the world; chunks of 100 frames, fitted to their first two frames", _WORLD,
           lambda m, track: m.world_mpjpe(track.predicted, track.truth), "world"),
    Metric("wa_mpjpe_mm", "mm", "lower", "mean joint distance in the world; chunks of 100 frames, fitted as a whole",
           _WORLD, lambda m, track: m.world_mpjpe(track.predicted, track.truth, align_frames=None), "world"),
    Metric("rte", "1", "lower",
           "error of the wrist's path in the world after rigid alignment, over the path's length; chunks of 100 frames",
           _WORLD, lambda m, track: m.root_trajectory_error(track.predicted[:, 0], track.truth[:, 0]), "world"),
    Metric("rte_track", "1", "lower",
           "error of MANO's translation in the world after one rigid alignment of a track, over its path's length",
           (*_WORLD, "translation_m"),
           lambda m, track: m.root_trajectory_error(track.predicted_place, track.true_place), "track"),
    Metric("mpjpe_image_mm", "mm", "lower", "mpjpe_mm averaged over the hands of an image first", _JOINTS,
           lambda m, images: images.mean_of("mpjpe_mm"), "images"),
    Metric("accel_vertices_image_m_s2", "m/s^2", "lower",
           "accel_vertices_error_m_s2 averaged over the hands of an image first", _HAND,
           lambda m, images: images.mean_of("accel_vertices_error_m_s2"), "images"),
    Metric("mrrpe_mm", "mm", "lower", "error of the vector from right to left wrist, where one image has both hands",
           _JOINTS, _wrist_relation_error, "sequence", "Error between the wrists (MRRPE)"),
    Metric("jitter", "m/s^3", "",
           "size of the third derivative of predicted wrist-relative joints; needs no ground truth", (),
           lambda m, hands: m.jitter(hands.wrist_relative_m[hands.windows(4)])[:, 1], "sequence"),
    Metric("jitter_world", "m/s^3", "",
           "size of the third derivative of predicted joints in the world; needs no ground truth", ("cam_from_world",),
           lambda m, hands: m.jitter(hands.predicted_world_m[hands.windows(4)])[:, 1], "sequence"),
    *map(_pck_joints, PCK_BOX_PERCENT),
    Metric("occlusion_robustness", "1", "lower", "mpjpe_mm at occlusion above 0.5 over mpjpe_mm at occlusion below 0.1",
           _VISIBLE, lambda m, summary: summary.ratio("mpjpe_mm", HIDDEN, CLEAR), "summary", "Hidden over clear hands"),
)
# fmt: on
ALL_METRICS = {metric.name: metric for metric in METRICS}
SUMMARY_METRICS = {name: m for name, m in ALL_METRICS.items() if m.inputs in ("sequence", "images", "summary")}
SAMPLE_METRICS = {name: m for name, m in ALL_METRICS.items() if name not in SUMMARY_METRICS}
