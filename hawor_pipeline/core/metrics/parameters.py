"""Errors of MANO's parameters: angles in radians, shape without unit or in metres of surface, translation in metres.

Convention: rotations are matrices (*batch, 16, 3, 3) in MANO's order, the whole hand's first; shape coefficients
(*batch, 10) have no unit; translations (*batch, 3) are in metres.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from hawor_pipeline.core.rotations import geodesic_angle


def pose_angle_error(
    pred: Float[Tensor, "*batch 16 3 3"], target: Float[Tensor, "*batch 16 3 3"]
) -> Float[Tensor, "*batch"]:
    """Compute the mean angle between predicted and true rotations of the 15 finger joints.

    Formula: mean over 15 joints of the angle of R'^T R.

    Returns:
        (*batch), radians.

    Source:
        Magnitude of the relative rotation, as `scipy.spatial.transform.Rotation.magnitude`.

    Quirk:
        Angles by arc cosine are NaN or wrong by half a milliradian near 0; this one is exact at both ends.

    Example:
        >>> pose_angle_error(torch.eye(3).expand(16, 3, 3), torch.eye(3).expand(16, 3, 3)).item()
        0.0
    """
    return geodesic_angle(pred[..., 1:, :, :], target[..., 1:, :, :]).mean(-1)


def global_orient_error(
    pred: Float[Tensor, "*batch 16 3 3"], target: Float[Tensor, "*batch 16 3 3"]
) -> Float[Tensor, "*batch"]:
    """Compute the angle between predicted and true rotations of the whole hand.

    Formula: angle of R'^T R.

    Returns:
        (*batch), radians.

    Source:
        Magnitude of the relative rotation.

    Example:
        >>> global_orient_error(torch.eye(3).expand(16, 3, 3), torch.eye(3).expand(16, 3, 3)).item()
        0.0
    """
    return geodesic_angle(pred[..., 0, :, :], target[..., 0, :, :])


def betas_error(pred: Float[Tensor, "*batch 10"], target: Float[Tensor, "*batch 10"]) -> Float[Tensor, "*batch"]:
    """Compute the root of the summed squared errors of the shape coefficients.

    Formula: |b' - b|.

    Returns:
        (*batch), no unit.

    Source:
        Euclidean norm. The coefficients have no common size on the hand: `shape_vertex_error` is the meaningful one.

    Quirk:
        The shape of MANO's left hand has a wrong sign in x in the official file: compare betas of one convention.

    Example:
        >>> round(betas_error(torch.ones(10), torch.zeros(10)).item(), 4)
        3.1623
    """
    return torch.linalg.vector_norm(pred - target, dim=-1)


def shape_vertex_error(
    pred: Float[Tensor, "*batch 10"], target: Float[Tensor, "*batch 10"], shape_dirs: Float[Tensor, "778 3 10"]
) -> Float[Tensor, "*batch"]:
    """Compute the mean distance of the unposed surfaces that two sets of shape coefficients make.

    Formula: mean over vertices of |S (b' - b)|.

    Args:
        shape_dirs: (778, 3, 10), metres, MANO's shape directions (`ManoArrays.shape_dirs`).

    Returns:
        (*batch), metres.

    Source:
        |S (b' - b)| per vertex, mean; the template cancels.

    Example:
        >>> shape_vertex_error(torch.ones(10), torch.ones(10), torch.rand(778, 3, 10)).item()
        0.0
    """
    moved = torch.einsum("vcs,...s->...vc", shape_dirs.to(pred.dtype), pred - target)
    return torch.linalg.vector_norm(moved, dim=-1).mean(-1)


def translation_error(pred: Float[Tensor, "*batch 3"], target: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
    """Compute the distance of predicted and true translation in the camera frame.

    Formula: |t' - t|.

    Returns:
        (*batch), metres.

    Source:
        Euclidean norm.

    Example:
        >>> translation_error(torch.tensor([3.0, 4.0, 0.0]), torch.zeros(3)).item()
        5.0
    """
    return torch.linalg.vector_norm(pred - target, dim=-1)
