"""Occlusion terms: more weight on hidden joints, and consistency under erasing part of the image."""

from jaxtyping import Bool, Float
from torch import Tensor

from hawor_pipeline.core.losses.robust import (
    KEYPOINT_SCALE_M,
    difference,
    masked_mean,
    mixed_penalty,
    root_relative,
    safe_norm,
)

HIDDEN_EXTRA = 3.0  # a hidden joint weighs 1 + this


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
        pred: (*batch, joints, 3), metres.
        target: (*batch, joints, 3), metres.
        visible: (*batch, joints).
        mask: (*batch, joints) or (*batch, 1), joints that count.
        scale_m: the distance that counts as 1, metres.

    Returns:
        Scalar without unit.

    Source:
        This project's.

    Example:
        >>> import torch
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
    """Penalise the motion of the joints when part of the image is erased.

    The prediction from the whole image is the teacher: no gradient flows into it.

    Formula: mean over joints of rho(|p_erased - p_clean| / scale), root-relative, rho the `mixed_penalty`.

    Args:
        pred_erased: (*batch, joints, 3), metres, from the image with a part erased.
        pred_clean: (*batch, joints, 3), metres, from the whole image.
        mask: (*batch, joints) or (*batch, 1), joints that count.
        scale_m: the distance that counts as 1, metres.

    Returns:
        Scalar without unit.

    Source:
        Consistency training with a stopped teacher, as in mean-teacher methods.

    Example:
        >>> import torch
        >>> erasing_consistency_loss(torch.zeros(21, 3), torch.zeros(21, 3)).item()
        0.0
    """
    distance = safe_norm(difference(root_relative(pred_erased), root_relative(pred_clean.detach()), mask))
    return masked_mean(mixed_penalty(distance, scale_m), mask)
