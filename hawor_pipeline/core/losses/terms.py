"""Terms of joints, by position, after alignment and under occlusion, and of MANO's parameters."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hawor_pipeline.core.alignment import apply_similarity, procrustes
from hawor_pipeline.core.losses.robust import (
    ANGLE_SCALE_RAD,
    BETAS_SCALE,
    CROP_SCALE,
    KEYPOINT_SCALE_M,
    difference,
    masked_mean,
    mixed_penalty,
    root_relative,
    safe_norm,
)
from hawor_pipeline.core.types import promote

HIDDEN_EXTRA = 3.0  # a hidden joint weighs 1 + this


def keypoints_3d_loss(
    pred: Float[Tensor, "*batch joints 3"],
    target: Float[Tensor, "*batch joints 3"],
    mask: Bool[Tensor, "*#batch #joints"] | None = None,
    *,
    root: int | None = 0,
    scale_m: float = KEYPOINT_SCALE_M,
) -> Float[Tensor, ""]:
    """Penalise the distance of 3D joints, each set relative to its own root.

    Formula: mean over joints of rho(|(p' - p'_root) - (p - p_root)| / scale).

    Args:
        root: joint that both sets are relative to; None compares them as given.

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
    """Penalise the distance of projected joints, in crop units: the crop spans -0.5 to 0.5, and 1 is the box side.

    Formula: mean over joints of rho(|p' - p| / scale).

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
    is not. The mask selects what is aligned, too.

    Formula: mean over joints of (|s R p' + t - p| / scale)^2, s, R, t the best similarity.

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


def occlusion_robustness_loss(
    pred: Float[Tensor, "*batch joints 3"],
    target: Float[Tensor, "*batch joints 3"],
    visible: Bool[Tensor, "*#batch #joints"],
    mask: Bool[Tensor, "*#batch #joints"] | None = None,
    *,
    scale_m: float = KEYPOINT_SCALE_M,
) -> Float[Tensor, ""]:
    """Penalise root-relative joint errors with more weight on joints that are hidden in the image.

    Formula: sum(w m e) / sum(w m) with w = 1 + 3 (1 - visible). Dividing by the weights keeps the level independent of
    the share of hidden joints, so the term measures errors only.

    Args:
        visible: joints that are not hidden.

    Source:
        This project's.

    Example:
        >>> occlusion_robustness_loss(torch.zeros(21, 3), torch.zeros(21, 3), torch.ones(21, dtype=torch.bool)).item()
        0.0
    """
    distance = safe_norm(difference(root_relative(pred), root_relative(target), mask))
    weight = 1 + HIDDEN_EXTRA * (1 - visible.to(distance.dtype))
    if mask is not None:
        weight = weight * mask
    return masked_mean(mixed_penalty(distance, scale_m), weight)


def erasing_consistency_loss(
    pred_erased: Float[Tensor, "*batch joints 3"],
    pred_clean: Float[Tensor, "*batch joints 3"],
    mask: Bool[Tensor, "*#batch #joints"] | None = None,
    *,
    scale_m: float = KEYPOINT_SCALE_M,
) -> Float[Tensor, ""]:
    """Penalise the motion of the joints when part of the image is erased, relative to the root.

    The prediction from the whole image is the teacher: no gradient flows into it.

    Formula: mean over joints of rho(|p_erased - p_clean| / scale).

    Source:
        Consistency training with a stopped teacher, as in mean-teacher methods.

    Example:
        >>> erasing_consistency_loss(torch.zeros(21, 3), torch.zeros(21, 3)).item()
        0.0
    """
    distance = safe_norm(difference(root_relative(pred_erased), root_relative(pred_clean.detach()), mask))
    return masked_mean(mixed_penalty(distance, scale_m), mask)


def rotation_loss(
    pred: Float[Tensor, "*batch 3 3"],
    target: Float[Tensor, "*batch 3 3"],
    mask: Bool[Tensor, "*#batch"] | None = None,
    *,
    scale_rad: float = ANGLE_SCALE_RAD,
) -> Float[Tensor, ""]:
    """Penalise the angle between rotations through its chord.

    Formula: chord = |R - R'|_F / sqrt(2) = 2 sin(t / 2), which is the angle t for small angles; then `mixed_penalty`.
    Unlike the arc cosine it has a finite gradient at 0 and at 180 degrees.

    Source:
        Huynh 2009, "Metrics for 3D Rotations", the chordal distance.

    Example:
        >>> rotation_loss(torch.eye(3), torch.eye(3)).item()
        0.0
    """
    chord = safe_norm(difference(pred.flatten(-2), target.flatten(-2), mask)) / 2**0.5
    return masked_mean(mixed_penalty(chord, scale_rad), mask)


def betas_loss(
    pred: Float[Tensor, "*batch shapes"],
    target: Float[Tensor, "*batch shapes"],
    mask: Bool[Tensor, "*#batch"] | None = None,
    *,
    scale: float = BETAS_SCALE,
) -> Float[Tensor, ""]:
    """Penalise each shape coefficient's error (no unit).

    Formula: mean over coefficients and samples of rho(|b' - b| / scale).

    Source:
        `mixed_penalty` per coefficient.

    Example:
        >>> betas_loss(torch.zeros(10), torch.zeros(10)).item()
        0.0
    """
    per_sample = mixed_penalty(difference(pred, target, mask).abs(), scale).mean(-1)
    return masked_mean(per_sample, mask)
