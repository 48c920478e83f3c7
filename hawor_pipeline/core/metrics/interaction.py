"""Errors between two bodies: two hands, or a hand and the object it holds.

Convention: hands and objects are vertices (*batch, points, 3) in metres.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hawor_pipeline.core.metrics.points import length
from hawor_pipeline.core.nearest import nearest_points

CONTACT_M = 0.003  # a hand vertex nearer than this to the object touches it
MIN_CONTACT_FRAMES = 15  # half a second


def mrrpe(
    pred_first: Float[Tensor, "*batch 3"],
    pred_second: Float[Tensor, "*batch 3"],
    target_first: Float[Tensor, "*batch 3"],
    target_second: Float[Tensor, "*batch 3"],
    *,
    mask: Bool[Tensor, "*#batch"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Compute the error of the position of one root relative to another (mean relative-root position error).

    Formula: |(a' - b') - (a - b)|, a and b the two roots.

    Args:
        pred_first: (*batch, 3), metres, root of the first body (left wrist), camera frame.
        pred_second: (*batch, 3), root of the second (right wrist, or the object's root).
        target_first: (*batch, 3), its truth.
        target_second: (*batch, 3), its truth.
        mask: (*batch), frames where both are valid.

    Returns:
        (*batch), metres; NaN under the mask.

    Source:
        InterHand2.6M; ARCTIC `compute_mrrpe`.

    Example:
        >>> mrrpe(torch.ones(3), torch.zeros(3), torch.ones(3) + 1, torch.ones(3)).item()
        0.0
    """
    error = torch.linalg.vector_norm((pred_first - pred_second) - (target_first - target_second), dim=-1)
    return error if mask is None else torch.where(mask, error, torch.full_like(error, torch.nan))


def contact_deviation(
    pred_hand: Float[Tensor, "*batch hand 3"],
    pred_object: Float[Tensor, "*batch object 3"],
    target_hand: Float[Tensor, "*batch hand 3"],
    target_object: Float[Tensor, "*batch object 3"],
    *,
    contact_m: float = CONTACT_M,
) -> Float[Tensor, "*batch"]:
    """Compute the distance of predicted hand and object where the true ones touch (CDev).

    Formula: mean of |v'_hand - v'_object| over pairs of a hand vertex and its nearest true object vertex within 3 mm.

    Args:
        contact_m: distance up to which a true hand vertex touches its nearest object vertex.

    Returns:
        (*batch), metres: mean over touching vertices; NaN where nothing touches.

    Source:
        ARCTIC `contact_deviation`.

    Quirk:
        ARCTIC gives NaN for a frame without contact, and averages frames, then hands.

    Example:
        >>> hand = torch.zeros(1, 3)
        >>> contact_deviation(hand + 1, hand + 1, hand, hand).item()
        0.0
    """
    reach, nearest = nearest_points(target_hand, target_object)
    touching = reach <= contact_m
    nearest = nearest.unsqueeze(-1).expand(target_hand.shape)
    distance = length(pred_hand - pred_object.gather(-2, nearest))
    return torch.where(touching, distance, torch.zeros_like(distance)).sum(-1) / touching.sum(-1)


def contact_windows(
    contact: Bool[Tensor, "time pairs"], min_frames: int = MIN_CONTACT_FRAMES
) -> list[tuple[int, int, int]]:
    """Find unbroken stretches of contact.

    Formula: runs of at least min_frames frames in which a pair touches.

    Args:
        contact: (time, pairs).
        min_frames: shortest stretch that counts.

    Returns:
        (pair, first frame, frame after the last) of each stretch, by pair and time. A stretch that lasts to the end
        counts.

    Source:
        Run lengths from the differences of the padded mask.

    Quirk:
        ARCTIC's `mdev.py` drops a stretch that is still open in the last frame.

    Example:
        >>> contact_windows(torch.tensor([[True], [True], [False]]), 2)
        [(0, 0, 2)]
    """
    return [(pair, first, last) for pair, first, last in _windows(contact, min_frames).tolist()]


def _windows(contact: Tensor, min_frames: int) -> Tensor:
    """(windows, 3) rows of `contact_windows`."""
    row = len(contact) + 1  # each pair's frames and one without contact, one pair after the other
    padded = torch.nn.functional.pad(contact.T, (0, 1)).flatten()
    changes = torch.nn.functional.pad(padded, (1, 0))
    edges = (changes[1:] != changes[:-1]).nonzero().view(-1, 2)  # where contact begins and ends, in turn
    edges = edges[edges[:, 1] - edges[:, 0] >= min_frames]
    return torch.cat((edges[:, :1] // row, edges % row), 1)


def motion_deviation(
    pred_hand: Float[Tensor, "time pairs 3"],
    pred_object: Float[Tensor, "time pairs 3"],
    contact: Bool[Tensor, "time pairs"],
    *,
    min_frames: int = MIN_CONTACT_FRAMES,
) -> Float[Tensor, ""]:
    """Compute the difference in motion of predicted hand and object vertices while the true ones stick together (MDev).

    Formula: mean over windows of the mean of |(h'(t+1) - h'(t)) - (o'(t+1) - o'(t))|.

    Args:
        pred_hand: (time, pairs, 3), metres, the hand vertex of each pair.
        pred_object: (time, pairs, 3), metres, the object vertex of each pair.
        contact: (time, pairs), where the true pair is in contact.
        min_frames: shortest stretch of contact that counts.

    Returns:
        Scalar, metres per frame: mean over stretches of the mean over their steps; NaN without a stretch.

    Source:
        ARCTIC `mdev.py`, vectorised.

    Quirk:
        ARCTIC's script drops a stretch that is open in the last frame, and fails on a sequence without any.

    Example:
        >>> still = torch.zeros(20, 1, 3)
        >>> motion_deviation(still, still, torch.ones(20, 1, dtype=torch.bool)).item()
        0.0
    """
    windows = _windows(contact, min_frames)
    if len(windows) == 0:
        return pred_hand.new_full((), torch.nan)
    pair, first, last = windows.unbind(1)
    step = length((pred_hand - pred_object).diff(dim=0))  # (T - 1, pairs)
    until = torch.cumsum(step.T, 1, dtype=torch.float64)  # (pairs, T - 1)
    before = until[pair, (first - 1).clamp_min(0)].masked_fill(first == 0, 0)
    steps = last - 1 - first
    total = torch.where(steps > 0, until[pair, (last - 2).clamp_min(0)] - before, 0)
    return (total / steps.clamp_min(1)).mean().to(step.dtype)
