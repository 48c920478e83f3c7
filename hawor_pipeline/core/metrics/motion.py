"""Errors over time: acceleration and jitter.

Convention: points are (*batch, time, points, 3), metres, neighbouring frames of one track; `fps` is in frames per
second, and `valid` (*batch, time) marks the frames that exist. NaN where a frame lacks neighbours.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hawor_pipeline.core.metrics.points import length
from hawor_pipeline.core.types import promote
from hawor_pipeline.core.units import ARCTIC_FPS

_PIECE = 50_000  # points that are differenced together


def acceleration_error(
    pred: Float[Tensor, "*batch time points 3"],
    target: Float[Tensor, "*batch time points 3"],
    *,
    fps: float = ARCTIC_FPS,
    valid: Bool[Tensor, "*#batch time"] | None = None,
    root: int | None = 0,
) -> Float[Tensor, "*batch time"]:
    """Compute the distance between predicted and true acceleration, per frame.

    Formula: |(p'(t+1) - 2 p'(t) + p'(t-1)) - (the same of p)| fps^2, mean over points. 1 mm/frame^2 at 30 fps is 0.9
        m/s^2.

    Args:
        valid: (*batch, time), frames that exist; a frame counts where it and both neighbours do.
        root: point that both are relative to; None for motion in the camera or world frame.

    Returns:
        (*batch, time), m/s^2; NaN in the first and last frame and next to frames that are not valid.

    Source:
        ARCTIC `compute_error_accel`: root-relative, 30 fps.

    Quirk:
        HaWoR's is not root-relative and drops one more frame at each end; some report mm per frame^2.

    Example:
        >>> acceleration_error(torch.zeros(3, 21, 3), torch.zeros(3, 21, 3))[1].item()
        0.0
    """

    def error(part: slice) -> Tensor:  # differences are linear: the motion of the error is the error of the motion
        return promote(pred[..., part, :, :]) - promote(target[..., part, :, :])

    return _difference_sizes(error, 2, valid, pred, root) * fps**2


def jitter(
    points: Float[Tensor, "*batch time points 3"],
    *,
    fps: float = ARCTIC_FPS,
    valid: Bool[Tensor, "*#batch time"] | None = None,
) -> Float[Tensor, "*batch time"]:
    """Compute the size of the third derivative of a motion, per frame; needs no ground truth.

    Formula: |third difference of p| fps^3, mean over points.

    Returns:
        (*batch, time), m/s^3; NaN for the first frame and the last two, and where frames are missing.

    Source:
        HaWoR `compute_jitter`.

    Quirk:
        HaWoR divides by 10 (its unit is 10 m/s^3) and takes the first 24 points.

    Example:
        >>> jitter(torch.zeros(4, 21, 3))[1].item()
        0.0
    """
    return _difference_sizes(lambda part: promote(points[..., part, :, :]), 3, valid, points) * fps**3


def _difference_sizes(
    values: Callable[[slice], Tensor], order: int, valid: Tensor | None, like: Tensor, root: int | None = None
) -> Tensor:
    """Mean length over points of the order-th difference, at the frame one after its first; NaN elsewhere.

    `values` hands out (*batch, frames, points, 3) of a slice of the frames: long tracks go by in pieces that stay in
    the cache.
    """
    shape, time = like.shape[:-2], like.shape[-3]
    result = torch.full(shape, torch.nan, dtype=promote(like[..., :0, :0, :]).dtype, device=like.device)
    if time <= order:
        return result
    frames = max(_PIECE // max(math.prod(shape[:-1]) * like.shape[-2], 1), 1)
    sizes = []
    for start in range(0, time - order, frames):
        block = values(slice(start, min(start + frames + order, time)))
        sizes.append(length(_differences(block, order), root).mean(-1))
    size = torch.cat(sizes, -1)  # (*b, T - order)
    if valid is not None:
        there = valid.expand(shape).unfold(-1, order + 1, 1).all(-1)
        size = torch.where(there, size, torch.full_like(size, torch.nan))
    result[..., 1 : 1 + time - order] = size
    return result


def _differences(block: Tensor, order: int) -> Tensor:
    """The order-th difference over the frames."""
    if order == 2:
        return torch.sub(block[..., 2:, :, :], block[..., 1:-1, :, :], alpha=2) + block[..., :-2, :, :]
    return block.diff(n=order, dim=-3)
