"""Joint terms: 3D, 2D, and 3D after Procrustes alignment."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hawor_pipeline.core.alignment import apply_similarity, procrustes
from hawor_pipeline.core.losses.robust import (
    CROP_SCALE,
    KEYPOINT_SCALE_M,
    difference,
    masked_mean,
    mixed_penalty,
    root_relative,
    safe_norm,
)
from hawor_pipeline.core.types import promote


def keypoints_3d_loss(
    pred: Float[Tensor, "*batch joints 3"],
    target: Float[Tensor, "*batch joints 3"],
    mask: Bool[Tensor, "*#batch #joints"] | None = None,
    *,
    root: int | None = 0,
    scale_m: float = KEYPOINT_SCALE_M,
) -> Float[Tensor, ""]:
    """Penalise the distance of 3D joints, each set relative to its own root.

    Formula: mean over joints of rho(|(p' - p'_root) - (p - p_root)| / scale), rho the `mixed_penalty`.

    Args:
        pred: (*batch, joints, 3), metres.
        target: (*batch, joints, 3), metres.
        mask: (*batch, joints), joints that count; (*batch, 1) masks whole samples.
        root: joint that both sets are relative to; None compares them as given.
        scale_m: the distance that counts as 1, metres.

    Returns:
        Scalar without unit: the mean over masked joints of `mixed_penalty`.

    Source:
        Root-relative as HaMeR; the penalty is this project's.

    Example:
        >>> keypoints_3d_loss(torch.ones(21, 3), torch.zeros(21, 3)).item()
        0.0
    """
    if root is not None:
        pred, target = root_relative(pred, root), root_relative(target, root)
    return masked_mean(mixed_penalty(safe_norm(difference(pred, target, mask)), scale_m), mask)


def keypoints_2d_loss(
    pred: Float[Tensor, "*batch joints 2"],
    target: Float[Tensor, "*batch joints 2"],
    mask: Bool[Tensor, "*#batch #joints"] | None = None,
    *,
    scale: float = CROP_SCALE,
) -> Float[Tensor, ""]:
    """Penalise the distance of projected joints in units of the box side.

    Formula: mean over joints of rho(|p' - p| / scale), rho the `mixed_penalty`.

    Args:
        pred: (*batch, joints, 2), crop units (the crop spans -0.5 to 0.5).
        target: (*batch, joints, 2), crop units.
        mask: (*batch, joints), joints inside the image.
        scale: the distance that counts as 1, in box sides.

    Returns:
        Scalar without unit.

    Source:
        Crop units as HaMeR; a mean where HaMeR sums, so that it does not grow with the batch.

    Example:
        >>> keypoints_2d_loss(torch.zeros(21, 2), torch.zeros(21, 2)).item()
        0.0
    """
    return masked_mean(mixed_penalty(safe_norm(difference(pred, target, mask)), scale), mask)


def procrustes_keypoints_loss(
    pred: Float[Tensor, "*batch joints 3"],
    target: Float[Tensor, "*batch joints 3"],
    mask: Bool[Tensor, "*#batch #joints"] | None = None,
    *,
    scale_m: float = KEYPOINT_SCALE_M,
) -> Float[Tensor, ""]:
    """Penalise the squared distance of joints after the best similarity alignment.

    The alignment is a constant in the backward pass. For a squared residual that is the exact gradient (the derivative
    by the alignment vanishes at its optimum), and it stays finite for collinear and zero clouds, where that of an SVD
    is not.

    Formula: mean over joints of (|s R p' + t - p| / scale)^2, s, R, t the best similarity.

    Args:
        pred: (*batch, joints, 3), metres.
        target: (*batch, joints, 3), metres.
        mask: (*batch, joints), joints that are aligned and count; (*batch, 1) masks whole samples.
        scale_m: the distance that counts as 1, metres.

    Returns:
        Scalar without unit: mean over masked joints of (distance / scale)^2.

    Source:
        Umeyama 1991 for the alignment; the envelope theorem for the gradient.

    Example:
        >>> cloud = torch.rand(21, 3)
        >>> procrustes_keypoints_loss(2 * cloud + 1, cloud).item() < 1e-6
        True
    """
    pred, target = promote(pred), promote(target)
    if mask is not None:
        mask = mask.expand(pred.shape[:-1])
        keep, zero = mask.unsqueeze(-1), pred.new_zeros(())
        pred, target = torch.where(keep, pred, zero), torch.where(keep, target, zero.to(target.dtype))
    aligned = apply_similarity(pred, *procrustes(pred, target, mask=mask))
    return masked_mean(((aligned - target) / scale_m).square().sum(-1), mask)
