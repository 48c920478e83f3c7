"""Errors of tracks in the world: joints after one alignment per stretch of time, and paths.

Convention: `pred` and `target` are one track without gaps, metres, world frame (`ga_mpjpe` and `fa_mpjpe` take the
camera frame too); the first dimension is time. `chunk` is the number of frames per chunk, the last may be shorter, and
`with_scale` fits a scale too, as HaWoR's code does.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from hawor_pipeline.core.alignment import apply_similarity, procrustes
from hawor_pipeline.core.metrics.points import point_errors


def world_mpjpe(
    pred: Float[Tensor, "time joints 3"],
    target: Float[Tensor, "time joints 3"],
    *,
    align_frames: int | None = 2,
    chunk: int = 100,
    with_scale: bool = True,
) -> Float[Tensor, " time"]:
    """Compute the joint error in the world after one alignment per chunk of a track (W-MPJPE and WA-MPJPE).

    Formula: mean over joints of |s R p' + t - p|, one s, R, t per chunk, fitted to its first frames or to all.

    Args:
        align_frames: frames at the start of each chunk that the alignment is fitted to (2 is W-MPJPE); None fits it to
            the whole chunk (WA-MPJPE).

    Returns:
        (time), metres: mean over joints of each frame.

    Source:
        HaWoR `first_align_joints` and `global_align_joints`, chunks of 100 as its HOT3D script.

    Quirk:
        HaWoR's last chunk may hold one frame, and chunks restart at gaps of the track: give stretches without gaps.

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


def w_mpjpe(
    pred: Float[Tensor, "time joints 3"], target: Float[Tensor, "time joints 3"], *, chunk: int = 100
) -> Float[Tensor, " time"]:
    """Compute the joint error in the world, each chunk aligned by its first two frames; see `world_mpjpe`.

    Formula: mean over joints of |s R p' + t - p|, s, R, t fitted to the first two frames of each chunk.

    Returns:
        (time), metres.

    Source:
        W-MPJPE of WHAM and HaWoR.

    Quirk:
        HaWoR fits a scale to two frames of 21 joints, that is to the size of the hand.

    Example:
        >>> track = torch.rand(5, 21, 3)
        >>> w_mpjpe(track + 1, track).max().item() < 1e-5
        True
    """
    return world_mpjpe(pred, target, align_frames=2, chunk=chunk)


def wa_mpjpe(
    pred: Float[Tensor, "time joints 3"], target: Float[Tensor, "time joints 3"], *, chunk: int = 100
) -> Float[Tensor, " time"]:
    """Compute the joint error in the world, each chunk aligned by all its frames; see `world_mpjpe`.

    Formula: mean over joints of |s R p' + t - p|, s, R, t fitted to all frames of each chunk.

    Returns:
        (time), metres.

    Source:
        WA-MPJPE of WHAM and HaWoR.

    Example:
        >>> track = torch.rand(5, 21, 3)
        >>> wa_mpjpe(track + 1, track).max().item() < 1e-5
        True
    """
    return world_mpjpe(pred, target, align_frames=None, chunk=chunk)


def ga_mpjpe(
    pred: Float[Tensor, "time joints 3"], target: Float[Tensor, "time joints 3"], *, with_scale: bool = True
) -> Float[Tensor, " time"]:
    """Compute the joint error after one alignment of the whole track.

    Formula: mean over joints of |s R p' + t - p|, s, R, t fitted to all frames.

    Returns:
        (time), metres.

    Source:
        GA-MPJPE of HaPTIC, whose chunk length is not published: here the track is one chunk.

    Example:
        >>> track = torch.rand(5, 21, 3)
        >>> ga_mpjpe(track + 1, track).max().item() < 1e-5
        True
    """
    return world_mpjpe(pred, target, align_frames=None, chunk=max(len(pred), 1), with_scale=with_scale)


def fa_mpjpe(
    pred: Float[Tensor, "time joints 3"], target: Float[Tensor, "time joints 3"], *, with_scale: bool = True
) -> Float[Tensor, " time"]:
    """Compute the joint error after aligning the whole track by its first frame.

    Formula: mean over joints of |s R p' + t - p|, s, R, t fitted to the first frame.

    Returns:
        (time), metres.

    Source:
        FA-MPJPE of HaPTIC, whose chunk length is not published: here the track is one chunk.

    Example:
        >>> track = torch.rand(5, 21, 3)
        >>> fa_mpjpe(track + 1, track).max().item() < 1e-5
        True
    """
    return world_mpjpe(pred, target, align_frames=1, chunk=max(len(pred), 1), with_scale=with_scale)


def root_trajectory_error(pred: Float[Tensor, "time 3"], target: Float[Tensor, "time 3"]) -> Float[Tensor, " time"]:
    """Compute the error of a path after rigid alignment, as a share of the true path's length (RTE).

    Formula: |R p' + t - p| / (length of the true path).

    Returns:
        (time), no unit (times 100 is the usual percentage); NaN for a path without length.

    Source:
        HaWoR `compute_rte`.

    Quirk:
        HaWoR divides by zero for a still hand.

    Example:
        >>> path = torch.rand(5, 3)
        >>> root_trajectory_error(path + 1, path).max().item() < 1e-5
        True
    """
    aligned = apply_similarity(pred, *procrustes(pred, target, with_scale=False))
    length = torch.linalg.vector_norm(target.diff(dim=0), dim=-1).sum()
    error = torch.linalg.vector_norm(aligned - target, dim=-1)
    return torch.where(length > 0, error / length, torch.full_like(error, torch.nan))


def absolute_trajectory_error(
    pred: Float[Tensor, "time 3"], target: Float[Tensor, "time 3"], *, with_scale: bool = True
) -> Float[Tensor, ""]:
    """Compute the error of a camera's or wrist's path after alignment: root of the mean square over frames (ATE).

    Formula: sqrt(mean over t of |s R p'(t) + t - p(t)|^2).

    Args:
        with_scale: align by a similarity; False aligns rigidly, so that a wrong scale costs (the ATE-S of HaWoR).

    Returns:
        Scalar, metres; NaN without frames.

    Source:
        Sturm et al. 2012, with Umeyama's alignment.

    Example:
        >>> path = torch.rand(5, 3)
        >>> absolute_trajectory_error(2 * path + 1, path).item() < 1e-5
        True
    """
    aligned = apply_similarity(pred, *procrustes(pred, target, with_scale=with_scale))
    return (aligned - target).square().sum(-1).mean().sqrt()
