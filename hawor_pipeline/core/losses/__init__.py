"""Loss terms: pure functions of tensors with free leading batch dimensions, masks, metres in and one scalar out.

Convention: `pred` and `target` are in metres unless stated otherwise. `mask` selects what counts, by default all; a
last dimension of 1 selects whole samples. `scale` is the error that counts as 1, with its unit as suffix. The result is
a scalar without unit, the mean over what the mask selects; in formulas rho is the `mixed_penalty`.

Every term is finite with finite gradients at identical points, at 0 and 180 degrees, for empty masks and in half
precision (which is promoted to float32 before any difference is taken).
"""

from hawor_pipeline.core.losses.mesh import chamfer_loss, topology_loss, vertices_loss
from hawor_pipeline.core.losses.robust import masked_mean, mixed_penalty
from hawor_pipeline.core.losses.temporal import frame_step, lag_mask, temporal_consistency_loss
from hawor_pipeline.core.losses.terms import (
    betas_loss,
    erasing_consistency_loss,
    keypoints_2d_loss,
    keypoints_3d_loss,
    occlusion_robustness_loss,
    procrustes_keypoints_loss,
    rotation_loss,
)

__all__ = [
    "betas_loss",
    "chamfer_loss",
    "erasing_consistency_loss",
    "frame_step",
    "keypoints_2d_loss",
    "keypoints_3d_loss",
    "lag_mask",
    "masked_mean",
    "mixed_penalty",
    "occlusion_robustness_loss",
    "procrustes_keypoints_loss",
    "rotation_loss",
    "temporal_consistency_loss",
    "topology_loss",
    "vertices_loss",
]
