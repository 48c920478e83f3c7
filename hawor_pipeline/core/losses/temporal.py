"""Temporal term: errors of motion within a clip, against the ground-truth motion (not towards stillness).

Convention: `valid` (*batch, time) selects the frames that count; `frame` (*batch, time) are original frame numbers.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hawor_pipeline.core.losses.robust import KEYPOINT_SCALE_M, difference, masked_mean, mixed_penalty, safe_norm


def frame_step(frame: Int[Tensor, "*batch time"], valid: Bool[Tensor, "*batch time"]) -> Int[Tensor, "*batch 1"]:
    """Find the distance in frame numbers between neighbours of a clip without gaps.

    Returns:
        (*batch, 1): the smallest positive step between neighbouring valid frames; 1 if there is none.

    Source:
        Definition.

    Example:
        >>> frame_step(torch.tensor([3, 5, 7, 20]), torch.ones(4, dtype=torch.bool)).tolist()
        [2]
    """
    if frame.shape[-1] < 2:
        return torch.ones_like(frame[..., :1])
    steps = frame.diff(dim=-1)
    huge = torch.iinfo(steps.dtype).max
    usable = (steps > 0) & valid[..., 1:] & valid[..., :-1]
    smallest = torch.where(usable, steps, torch.full_like(steps, huge)).amin(-1, keepdim=True)
    return torch.where(smallest == huge, torch.ones_like(smallest), smallest)


def lag_mask(
    valid: Bool[Tensor, "*batch time"], frame: Int[Tensor, "*batch time"], lag: int
) -> Bool[Tensor, "*batch pairs"]:
    """Select the pairs (t, t + lag) of a clip with both frames valid and no gap between them.

    Args:
        lag: distance in positions, at least 1.

    Returns:
        (*batch, time - lag).

    Source:
        Definition.

    Example:
        >>> lag_mask(torch.ones(4, dtype=torch.bool), torch.tensor([3, 4, 5, 9]), 1).tolist()
        [True, True, False]
    """
    span = frame[..., lag:] - frame[..., :-lag]
    return valid[..., lag:] & valid[..., :-lag] & (span == lag * frame_step(frame, valid))


def temporal_consistency_loss(
    pred: Float[Tensor, "*batch time points 3"],
    target: Float[Tensor, "*batch time points 3"],
    valid: Bool[Tensor, "*batch time"],
    frame: Int[Tensor, "*batch time"],
    *,
    window: int = 5,
    scale_m: float = KEYPOINT_SCALE_M,
) -> Float[Tensor, ""]:
    """Penalise errors of velocity and acceleration within clips; give root-relative joints, and the root apart.

    Formula: for lags l = 1 .. window - 1, the distance between predicted and true p(t+l) - p(t), and between predicted
    and true p(t+l) - 2 p(t) + p(t-l); `mixed_penalty`, mean over all allowed frames, points and lags of each kind, the
    two kinds added. Differences never cross a gap in the frame numbers or a frame that is not valid.

    Args:
        window: lags 1 to window - 1 are used; 1 uses none.

    Returns:
        Scalar without unit; 0, linked to the graph, without any allowed pair.

    Source:
        Velocity and acceleration errors as in VIBE's evaluation, taken as a loss.

    Example:
        >>> still = torch.zeros(4, 21, 3)
        >>> temporal_consistency_loss(still, still, torch.ones(4, dtype=torch.bool), torch.arange(4)).item()
        0.0
    """
    # Differences are linear: the motion of the error is the error of the motion.
    error = difference(pred, target, valid.unsqueeze(-1))
    time = error.shape[-3]
    velocity: list[tuple[Tensor, Tensor]] = []
    acceleration: list[tuple[Tensor, Tensor]] = []
    for lag in range(1, min(window, time)):
        mask = lag_mask(valid, frame, lag)  # (*b, T - lag)
        first = error[..., lag:, :, :] - error[..., :-lag, :, :]
        velocity.append((first, mask))
        if time > 2 * lag:
            second = first[..., lag:, :, :] - first[..., :-lag, :, :]
            acceleration.append((second, mask[..., lag:] & mask[..., :-lag]))
    return _mean_penalty(velocity, error, scale_m) + _mean_penalty(acceleration, error, scale_m)


def _mean_penalty(parts: list[tuple[Tensor, Tensor]], error: Tensor, scale_m: float) -> Tensor:
    if not parts:
        return masked_mean(error, torch.zeros((), dtype=torch.bool, device=error.device))
    differences = torch.cat([difference for difference, _ in parts], -3)
    mask = torch.cat([mask for _, mask in parts], -1)
    return masked_mean(mixed_penalty(safe_norm(differences), scale_m), mask.unsqueeze(-1))
