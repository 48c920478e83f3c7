"""Parameter terms: rotations by their angular distance, and shape coefficients."""

from jaxtyping import Bool, Float
from torch import Tensor

from hawor_pipeline.core.losses.robust import (
    ANGLE_SCALE_RAD,
    BETAS_SCALE,
    difference,
    masked_mean,
    mixed_penalty,
    safe_norm,
)


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

    Args:
        pred: (*batch, 3, 3), rotation matrices.
        target: (*batch, 3, 3), rotation matrices.
        mask: (*batch), rotations that count.
        scale_rad: the angle that counts as 1, radians.

    Returns:
        Scalar without unit.

    Source:
        Huynh 2009, "Metrics for 3D Rotations", the chordal distance.

    Example:
        >>> import torch
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
    """Penalise each shape coefficient's error.

    Formula: mean over coefficients and samples of rho(|b' - b| / scale), rho the `mixed_penalty`.

    Args:
        pred: (*batch, shapes), no unit.
        target: (*batch, shapes), no unit.
        mask: (*batch), samples that count.
        scale: the error that counts as 1.

    Returns:
        Scalar without unit.

    Source:
        `mixed_penalty` per coefficient.

    Example:
        >>> import torch
        >>> betas_loss(torch.zeros(10), torch.zeros(10)).item()
        0.0
    """
    per_sample = mixed_penalty(difference(pred, target, mask).abs(), scale).mean(-1)
    return masked_mean(per_sample, mask)
