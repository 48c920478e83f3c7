"""Errors of corresponding points: joints and vertices, as given, relative to a root, or after an alignment.

Convention: `pred` and `target` are (*batch, points, 2 or 3) in any unit (metres, pixels, crop units), and the error is
in that unit. `mask` (*batch, points) selects the points that are aligned and counted, and `allow_reflection` lets the
alignment mirror. NaN where a mask leaves a sample without points. Inputs are never changed.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hawor_pipeline.core.alignment import aligned_difference
from hawor_pipeline.core.types import promote

_PIECE = 4096  # clouds that are aligned together
_MANY = 30_000  # numbers


def point_errors(
    pred: Float[Tensor, "*batch points dim"],
    target: Float[Tensor, "*batch points dim"],
    *,
    root: int | None = None,
) -> Float[Tensor, "*batch points"]:
    """Compute the distance of each point.

    Formula: |p' - p| of each point; with a root |(p' - p'_root) - (p - p_root)|.

    Args:
        root: point that both sets are relative to; None compares them as given.

    Returns:
        (*batch, points), unit of the input.

    Source:
        Definition.

    Example:
        >>> point_errors(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)).tolist()
        [5.0]
    """
    return length(promote(pred) - promote(target), root)


def mpjpe(
    pred: Float[Tensor, "*batch joints 3"],
    target: Float[Tensor, "*batch joints 3"],
    *,
    root: int | None = 0,
    mask: Bool[Tensor, "*#batch #joints"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Compute the mean per-joint position error, root-relative by default.

    Formula: mean over joints of |(p' - p'_root) - (p - p_root)|.

    Args:
        root: joint that both sets are relative to; None for no alignment.

    Returns:
        (*batch), metres.

    Source:
        HaMeR `eval_pose`, ARCTIC `eval_mpjpe_ra`.

    Quirk:
        HaMeR's `eval_pose` subtracts the root in place, so what comes after it sees a changed prediction. ARCTIC
        averages the hands of a frame first.

    Example:
        >>> mpjpe(torch.ones(21, 3), torch.zeros(21, 3)).item()
        0.0
    """
    return mean_over_points(point_errors(pred, target, root=root), mask)


def mpvpe(
    pred: Float[Tensor, "*batch vertices 3"],
    target: Float[Tensor, "*batch vertices 3"],
    *,
    pred_root: Float[Tensor, "*batch 3"] | None = None,
    target_root: Float[Tensor, "*batch 3"] | None = None,
    center: bool = True,
    mask: Bool[Tensor, "*#batch #vertices"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Compute the mean per-vertex position error, each surface relative to its root joint.

    Formula: mean over vertices of |(v' - root') - (v - root)|.

    Args:
        pred_root: (*batch, 3), root joint of the prediction, metres; without it the mean of its vertices.
        target_root: (*batch, 3), the same of the target.
        center: False compares the surfaces as given.

    Returns:
        (*batch), metres.

    Raises:
        ValueError: only one root is given.

    Source:
        As `mpjpe` on vertices; ARCTIC and HaMeR subtract the wrist joint.

    Example:
        >>> mpvpe(torch.ones(778, 3), torch.zeros(778, 3)).item()
        0.0
    """
    error, shift = promote(pred) - promote(target), root_shift(pred_root, target_root)
    if center:
        error = error - (error.mean(-2, keepdim=True) if shift is None else shift)
    return mean_over_points(length(error), mask)


def pa_errors(
    pred: Float[Tensor, "*batch points 3"],
    target: Float[Tensor, "*batch points 3"],
    *,
    mask: Bool[Tensor, "*#batch #points"] | None = None,
    allow_reflection: bool = False,
) -> Float[Tensor, "*batch points"]:
    """Compute the distance of each point after the best similarity alignment; see `pa_mpjpe`.

    Formula: |s R p' + t - p| of each point, with s, R, t the best similarity.

    Args:
        mask: (*batch, points), points that the alignment is fitted to.

    Returns:
        (*batch, points), metres.

    Source:
        `hawor_pipeline.core.alignment.procrustes`.

    Example:
        >>> cloud = torch.rand(21, 3)
        >>> pa_errors(3 * cloud, cloud).max().item() < 1e-5
        True
    """
    if pred.ndim == 3 and pred.shape == target.shape and len(pred) <= _PIECE:
        return length(aligned_difference(pred, target, mask=mask, allow_reflection=allow_reflection))
    batch = torch.broadcast_shapes(pred.shape[:-2], target.shape[:-2])
    p, t = (x.expand(*batch, *x.shape[-2:]).reshape(-1, *x.shape[-2:]) for x in (pred, target))
    parts = [slice(start, start + _PIECE) for start in range(0, len(p), _PIECE)]  # temporaries stay in the cache
    m = None if mask is None else mask.expand(*batch, p.shape[-2]).reshape(-1, p.shape[-2])
    pieces = [pa_errors(p[i], t[i], mask=None if m is None else m[i], allow_reflection=allow_reflection) for i in parts]
    return torch.cat([p.new_empty(0, p.shape[-2]), *pieces]).reshape(*batch, p.shape[-2])


def pa_mpjpe(
    pred: Float[Tensor, "*batch joints 3"],
    target: Float[Tensor, "*batch joints 3"],
    *,
    mask: Bool[Tensor, "*#batch #joints"] | None = None,
    allow_reflection: bool = False,
) -> Float[Tensor, "*batch"]:
    """Compute the mean per-joint error after the best similarity alignment of each sample (Procrustes).

    Formula: mean over joints of |s R p' + t - p|, with s, R, t the similarity of least squares.

    Args:
        allow_reflection: let the alignment mirror. FreiHAND's and HO-3D's scripts do, so a mirrored hand scores 0
            there.

    Returns:
        (*batch), metres. Finite for a prediction without extent, where HaMeR gives NaN.

    Source:
        HaMeR `reconstruction_error`; with reflection FreiHAND `align_w_scale`.

    Quirk:
        HaMeR gives NaN for a prediction without extent. FreiHAND's and HO-3D's alignment may mirror. HaWoR's batched
        alignment guesses the layout from the batch size and is wrong for 2 or 3 frames. torchmetrics'
        `ProcrustesDisparity` may mirror too and gives 0 where its SVD fails.

    Example:
        >>> cloud = torch.rand(21, 3)
        >>> pa_mpjpe(3 * cloud + 1, cloud).item() < 1e-5
        True
    """
    return mean_over_points(pa_errors(pred, target, mask=mask, allow_reflection=allow_reflection), mask)


def pa_mpvpe(
    pred: Float[Tensor, "*batch vertices 3"],
    target: Float[Tensor, "*batch vertices 3"],
    *,
    mask: Bool[Tensor, "*#batch #vertices"] | None = None,
    allow_reflection: bool = False,
) -> Float[Tensor, "*batch"]:
    """Compute the mean per-vertex error after the best similarity alignment of the vertices; see `pa_mpjpe`.

    Formula: mean over vertices of |s R v' + t - v|, with s, R, t the similarity of least squares.

    Returns:
        (*batch), metres.

    Source:
        FreiHAND aligns vertices on vertices, not on joints; so does this.

    Example:
        >>> cloud = torch.rand(778, 3)
        >>> pa_mpvpe(3 * cloud + 1, cloud).item() < 1e-5
        True
    """
    return pa_mpjpe(pred, target, mask=mask, allow_reflection=allow_reflection)


def st_mpjpe(
    pred: Float[Tensor, "*batch joints 3"],
    target: Float[Tensor, "*batch joints 3"],
    *,
    root: int = 0,
    scale_joint: int = 9,
    mask: Bool[Tensor, "*#batch #joints"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Compute the mean per-joint error after giving the prediction the true size and the true wrist.

    Formula: mean over joints of |s (p' - p'_root) - (p - p_root)|, s = |p_k - p_root| / |p'_k - p'_root| with k the
        joint at the other end of one bone.

    Args:
        root: joint that is put on its truth.
        scale_joint: end of the bone from the root whose length is made equal; 9 is the middle knuckle in OpenPose
            order (4 in HO-3D's own order).

    Returns:
        (*batch), metres; NaN where the predicted bone has no length.

    Source:
        HO-3D `align_sc_tr`.

    Example:
        >>> cloud = torch.rand(21, 3)
        >>> st_mpjpe(3 * cloud + 1, cloud).item() < 1e-5
        True
    """
    p, t = (x - x[..., root : root + 1, :] for x in (promote(pred), promote(target)))
    bone, true_bone = (length(x[..., [scale_joint], :]).squeeze(-1) for x in (p, t))
    scale = torch.where(bone > 0, true_bone / bone, torch.full_like(bone, torch.nan))
    return mean_over_points(length(scale[..., None, None] * p - t), mask)


def root_shift(pred_root: Tensor | None, target_root: Tensor | None) -> Tensor | None:
    """Return the error (*batch, 1, 3) of a root, to subtract from that of its points; None without roots.

    Raises:
        ValueError: only one root is given.
    """
    if (pred_root is None) != (target_root is None):
        raise ValueError("found one root, expected pred_root and target_root together or neither")
    return None if pred_root is None or target_root is None else (pred_root - target_root).unsqueeze(-2)


def length(vectors: Float[Tensor, "*batch points dim"], root: int | None = None) -> Float[Tensor, "*batch points"]:
    """Compute the Euclidean length over the last dimension, relative to the vector at `root` if given."""
    if vectors.numel() >= _MANY and not vectors.requires_grad and vectors.shape[-1] == 3:
        return _length_by_component(vectors, root)  # a reduction over three numbers at a time costs twice as much
    if root is not None:
        vectors = vectors - vectors[..., root : root + 1, :]
    return torch.linalg.vector_norm(vectors, dim=-1)


def _length_by_component(vectors: Tensor, root: int | None) -> Tensor:
    x, y, z = vectors.unbind(-1)
    if root is not None:
        x, y, z = (values - values[..., root : root + 1] for values in (x, y, z))
    return (x * x).addcmul_(y, y).addcmul_(z, z).sqrt_()


def share_below(distance: Tensor, limit: Tensor | float) -> Tensor:
    """Compute the share of distances of the last dimension below a limit; NaN where a distance is."""
    share = (distance < limit).to(distance.dtype).mean(-1)
    return torch.where(distance.isnan().any(-1), torch.full_like(share, torch.nan), share)


def mean_over_points(values: Tensor, mask: Tensor | None) -> Tensor:
    """Average the last dimension where the mask selects; NaN where it selects nothing, unlike a loss, which is 0."""
    if mask is None:
        return values.mean(-1)
    wide = mask.expand(values.shape)
    total = torch.where(wide, values, torch.zeros_like(values)).sum(-1)
    return total / wide.sum(-1)
