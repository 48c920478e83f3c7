"""Errors over time: acceleration, jitter, and trajectories in the world.

Convention: the dimension before (points, 3) is time, metres, frames per second given; NaN where a frame lacks
neighbours.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hawor_pipeline.core.alignment import apply_similarity, procrustes
from hawor_pipeline.core.metrics.points import point_errors
from hawor_pipeline.core.units import ARCTIC_FPS


def acceleration_error(
    pred: Float[Tensor, "*batch time points 3"],
    target: Float[Tensor, "*batch time points 3"],
    *,
    fps: float = ARCTIC_FPS,
    valid: Bool[Tensor, "*#batch time"] | None = None,
    root: int | None = 0,
) -> Float[Tensor, "*batch time"]:
    """Distance between predicted and true acceleration, per frame.

    Formula: |(p'(t+1) - 2 p'(t) + p'(t-1)) - (the same of p)| fps^2, mean over points. 1 mm/frame^2 at 30 fps is 0.9
        m/s^2.

    Args:
        pred: (*batch, time, points, 3), metres, neighbouring frames of one track.
        target: the same.
        fps: frames per second.
        valid: (*batch, time), frames that exist; a frame counts where it and both neighbours do.
        root: point that both are relative to; None for motion in the camera or world frame.

    Returns:
        (*batch, time), m/s^2; NaN in the first and last frame and next to frames that are not valid.

    Source:
        ARCTIC `compute_error_accel` (root-relative, 30 fps); HaWoR's is not root-relative and drops one more frame at
        each end.

    Example:
        >>> acceleration_error(torch.zeros(3, 21, 3), torch.zeros(3, 21, 3))[1].item()
        0.0
    """
    error = pred - target  # differences are linear
    if root is not None:
        error = error - error[..., root : root + 1, :]
    return _central(error, 2, valid) * fps**2


def jitter(
    points: Float[Tensor, "*batch time points 3"],
    *,
    fps: float = ARCTIC_FPS,
    valid: Bool[Tensor, "*#batch time"] | None = None,
) -> Float[Tensor, "*batch time"]:
    """Size of the third derivative of a motion, per frame; needs no truth.

    Args:
        points: (*batch, time, points, 3), metres, neighbouring frames of one track.
        fps: frames per second.
        valid: (*batch, time), frames that exist.

    Returns:
        (*batch, time), m/s^3; NaN for the first frame and the last two, and where frames are missing.

    Source:
        HaWoR `compute_jitter`, which divides by 10 (its unit is 10 m/s^3) and takes the first 24 points.

    Example:
        >>> jitter(torch.zeros(4, 21, 3))[1].item()
        0.0
    """
    return _central(points, 3, valid) * fps**3


def _central(values: Tensor, order: int, valid: Tensor | None) -> Tensor:
    """Mean length over points of the order-th difference, at the frame one after its first; NaN elsewhere."""
    time = values.shape[-3]
    result = values.new_full(values.shape[:-2], torch.nan)
    if time <= order:
        return result
    size = torch.linalg.vector_norm(values.diff(n=order, dim=-3), dim=-1).mean(-1)  # (*b, T - order)
    if valid is not None:
        there = valid.expand(values.shape[:-2]).unfold(-1, order + 1, 1).all(-1)
        size = torch.where(there, size, torch.full_like(size, torch.nan))
    result[..., 1 : 1 + size.shape[-1]] = size
    return result


def world_mpjpe(
    pred: Float[Tensor, "time joints 3"],
    target: Float[Tensor, "time joints 3"],
    *,
    align_frames: int | None = 2,
    chunk: int = 100,
    with_scale: bool = True,
) -> Float[Tensor, " time"]:
    """Joint error in the world after one alignment per chunk of a track (W-MPJPE and WA-MPJPE).

    Args:
        pred: (time, joints, 3), metres, one track without gaps, world frame.
        target: the same.
        align_frames: frames at the start of each chunk that the alignment is fitted to (2 is W-MPJPE); None fits it to
            the whole chunk (WA-MPJPE).
        chunk: frames per chunk; the last may be shorter.
        with_scale: fit a scale too, as HaWoR's code does.

    Returns:
        (time), metres: mean over joints of each frame.

    Source:
        HaWoR `first_align_joints` and `global_align_joints`, chunks of 100 as its HOT3D script.

    Example:
        >>> track = torch.rand(5, 21, 3)
        >>> world_mpjpe(track + 1, track).max().item() < 1e-5
        True
    """
    parts = []
    for p, t in zip(pred.split(chunk), target.split(chunk), strict=True):
        used = slice(None, align_frames)
        fit = procrustes(p[used].reshape(-1, 3), t[used].reshape(-1, 3), with_scale=with_scale)
        aligned = apply_similarity(p.reshape(-1, 3), *fit).reshape(p.shape)
        parts.append(point_errors(aligned, t).mean(-1))
    return torch.cat(parts) if parts else pred.new_zeros(0)


def root_trajectory_error(pred: Float[Tensor, "time 3"], target: Float[Tensor, "time 3"]) -> Float[Tensor, " time"]:
    """Error of a path after rigid alignment, as a share of the true path's length (RTE).

    Args:
        pred: (time, 3), metres, world frame.
        target: the same.

    Returns:
        (time), no unit (times 100 is the usual percentage); NaN for a path without length.

    Source:
        HaWoR `compute_rte`, which divides by zero for a still hand.

    Example:
        >>> path = torch.rand(5, 3)
        >>> root_trajectory_error(path + 1, path).max().item() < 1e-5
        True
    """
    aligned = apply_similarity(pred, *procrustes(pred, target, with_scale=False))
    length = torch.linalg.vector_norm(target.diff(dim=0), dim=-1).sum()
    error = torch.linalg.vector_norm(aligned - target, dim=-1)
    return torch.where(length > 0, error / length, torch.full_like(error, torch.nan))
