"""Metrics: pure functions over tensors with free leading batch dimensions, metres (or pixels) in, one value per sample
out.

Only `mpjpe` and `mpvpe` centre by default and `pa_*` align; all others take points as given. NaN means that a sample
has no value; nothing is ever replaced by 0. Inputs are never changed.
"""

from hawor_pipeline.core.metrics.curves import auc_within, pck, pck_auc, pck_box, share_within
from hawor_pipeline.core.metrics.detection import (
    binned_mean,
    box_iou,
    calibration_error,
    detected,
    joint_box,
    match_detections,
    occlusion_robustness,
)
from hawor_pipeline.core.metrics.interaction import contact_deviation, contact_windows, motion_deviation, mrrpe
from hawor_pipeline.core.metrics.motion import acceleration_error, jitter
from hawor_pipeline.core.metrics.objects import articulation_error, field_error, success_rate
from hawor_pipeline.core.metrics.parameters import (
    betas_error,
    global_orient_error,
    pose_angle_error,
    shape_vertex_error,
    translation_error,
)
from hawor_pipeline.core.metrics.points import mpjpe, mpvpe, pa_errors, pa_mpjpe, pa_mpvpe, point_errors, st_mpjpe
from hawor_pipeline.core.metrics.surface import (
    chamfer_distance,
    edge_length_error,
    f_score,
    f_score_of_distances,
    normal_consistency,
    point_to_surface,
)
from hawor_pipeline.core.metrics.world import (
    absolute_trajectory_error,
    fa_mpjpe,
    ga_mpjpe,
    root_trajectory_error,
    w_mpjpe,
    wa_mpjpe,
    world_mpjpe,
)

__all__ = [
    "absolute_trajectory_error",
    "acceleration_error",
    "articulation_error",
    "auc_within",
    "betas_error",
    "binned_mean",
    "box_iou",
    "calibration_error",
    "chamfer_distance",
    "contact_deviation",
    "contact_windows",
    "detected",
    "edge_length_error",
    "f_score",
    "f_score_of_distances",
    "fa_mpjpe",
    "field_error",
    "ga_mpjpe",
    "global_orient_error",
    "jitter",
    "joint_box",
    "match_detections",
    "motion_deviation",
    "mpjpe",
    "mpvpe",
    "mrrpe",
    "normal_consistency",
    "occlusion_robustness",
    "pa_errors",
    "pa_mpjpe",
    "pa_mpvpe",
    "pck",
    "pck_auc",
    "pck_box",
    "point_errors",
    "point_to_surface",
    "pose_angle_error",
    "root_trajectory_error",
    "shape_vertex_error",
    "share_within",
    "st_mpjpe",
    "success_rate",
    "translation_error",
    "w_mpjpe",
    "wa_mpjpe",
    "world_mpjpe",
]
