"""Errors of corresponding points: joints and vertices, in space and in the picture.

Convention: leading batch dimensions are free, one value per sample comes out, in the unit of the input (metres, pixels,
crop units). NaN where a mask leaves a sample without points. Inputs are never changed.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hawor_pipeline.core.alignment import apply_similarity, procrustes

_PIECE = 4096  # clouds that are aligned together

Thresholds = float | Sequence[float] | Tensor


def point_errors(
    pred: Float[Tensor, "*batch points dim"],
    target: Float[Tensor, "*batch points dim"],
    *,
    root: int | None = None,
) -> Float[Tensor, "*batch points"]:
    """Distance of each point.

    Args:
        pred: (*batch, points, 2 or 3).
        target: the same.
        root: point that both sets are relative to; None compares them as given.

    Returns:
        (*batch, points), unit of the input.

    Source:
        Definition.

    Example:
        >>> point_errors(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2)).tolist()
        [5.0]
    """
    error = pred - target
    if root is not None:
        error = error - error[..., root : root + 1, :]
    return torch.linalg.vector_norm(error, dim=-1)


def mpjpe(
    pred: Float[Tensor, "*batch joints 3"],
    target: Float[Tensor, "*batch joints 3"],
    *,
    root: int | None = 0,
    mask: Bool[Tensor, "*#batch #joints"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Mean per-joint position error, root-relative by default.

    Args:
        pred: (*batch, joints, 3), metres.
        target: (*batch, joints, 3), metres.
        root: joint that both sets are relative to; None for no alignment.
        mask: (*batch, joints), joints that count.

    Returns:
        (*batch), metres.

    Source:
        HaMeR `eval_pose` (which subtracts the root in place from its input; this does not), ARCTIC `eval_mpjpe_ra`.

    Example:
        >>> mpjpe(torch.ones(21, 3), torch.zeros(21, 3)).item()
        0.0
    """
    return _mean(point_errors(pred, target, root=root), mask)


def mpvpe(
    pred: Float[Tensor, "*batch vertices 3"],
    target: Float[Tensor, "*batch vertices 3"],
    *,
    pred_root: Float[Tensor, "*batch 3"] | None = None,
    target_root: Float[Tensor, "*batch 3"] | None = None,
    center: bool = True,
    mask: Bool[Tensor, "*#batch #vertices"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Mean per-vertex position error, each surface relative to its root joint.

    Args:
        pred: (*batch, vertices, 3), metres.
        target: (*batch, vertices, 3), metres.
        pred_root: (*batch, 3), root joint of the prediction, metres; without it the mean of its vertices.
        target_root: (*batch, 3), the same of the target.
        center: False compares the surfaces as given.
        mask: (*batch, vertices), vertices that count.

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
    if (pred_root is None) != (target_root is None):
        raise ValueError("found one root, expected pred_root and target_root together or neither")
    error = pred - target
    if center:
        if pred_root is not None and target_root is not None:
            shift = (pred_root - target_root).unsqueeze(-2)
        else:
            shift = error.mean(-2, keepdim=True)
        error = error - shift
    return _mean(torch.linalg.vector_norm(error, dim=-1), mask)


def pa_errors(
    pred: Float[Tensor, "*batch points 3"],
    target: Float[Tensor, "*batch points 3"],
    *,
    mask: Bool[Tensor, "*#batch #points"] | None = None,
    allow_reflection: bool = False,
) -> Float[Tensor, "*batch points"]:
    """Distance of each point after the best similarity alignment; see `pa_mpjpe`.

    Args:
        pred: (*batch, points, 3), metres.
        target: (*batch, points, 3), metres.
        mask: (*batch, points), points that the alignment is fitted to.
        allow_reflection: let the alignment mirror.

    Returns:
        (*batch, points), metres.

    Source:
        `hawor_pipeline.core.alignment.procrustes`.

    Example:
        >>> cloud = torch.rand(21, 3)
        >>> pa_errors(3 * cloud, cloud).max().item() < 1e-5
        True
    """
    batch = torch.broadcast_shapes(pred.shape[:-2], target.shape[:-2])
    p, t = (x.expand(*batch, *x.shape[-2:]).reshape(-1, *x.shape[-2:]) for x in (pred, target))
    m = None if mask is None else mask.expand(*batch, p.shape[-2]).reshape(-1, p.shape[-2])
    errors = p.new_empty(p.shape[:-1])
    for start in range(0, len(p), _PIECE):  # temporaries of a piece stay in the cache
        part = slice(start, start + _PIECE)
        fit = procrustes(p[part], t[part], mask=None if m is None else m[part], allow_reflection=allow_reflection)
        errors[part] = point_errors(apply_similarity(p[part], *fit), t[part])
    return errors.reshape(*batch, p.shape[-2])


def pa_mpjpe(
    pred: Float[Tensor, "*batch joints 3"],
    target: Float[Tensor, "*batch joints 3"],
    *,
    mask: Bool[Tensor, "*#batch #joints"] | None = None,
    allow_reflection: bool = False,
) -> Float[Tensor, "*batch"]:
    """Mean per-joint error after the best similarity alignment of each sample (Procrustes).

    Args:
        pred: (*batch, joints, 3), metres.
        target: (*batch, joints, 3), metres.
        mask: (*batch, joints), joints that are aligned and counted.
        allow_reflection: let the alignment mirror. FreiHAND's and HO-3D's scripts do, so a mirrored hand scores 0
            there.

    Returns:
        (*batch), metres. Finite for a prediction without extent, where HaMeR gives NaN.

    Source:
        HaMeR `reconstruction_error`; with reflection FreiHAND `align_w_scale`.

    Example:
        >>> cloud = torch.rand(21, 3)
        >>> pa_mpjpe(3 * cloud + 1, cloud).item() < 1e-5
        True
    """
    return _mean(pa_errors(pred, target, mask=mask, allow_reflection=allow_reflection), mask)


def pa_mpvpe(
    pred: Float[Tensor, "*batch vertices 3"],
    target: Float[Tensor, "*batch vertices 3"],
    *,
    mask: Bool[Tensor, "*#batch #vertices"] | None = None,
    allow_reflection: bool = False,
) -> Float[Tensor, "*batch"]:
    """Mean per-vertex error after the best similarity alignment of the vertices; see `pa_mpjpe`.

    Args:
        pred: (*batch, vertices, 3), metres.
        target: (*batch, vertices, 3), metres.
        mask: (*batch, vertices), vertices that are aligned and counted.
        allow_reflection: let the alignment mirror.

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


def pck(
    pred: Float[Tensor, "*batch points dim"],
    target: Float[Tensor, "*batch points dim"],
    thresholds: Thresholds,
    *,
    mask: Bool[Tensor, "*#batch #points"] | None = None,
    strict: bool = False,
) -> Tensor:
    """Share of points within a distance of the truth; points as given, so subtract the root first if that is meant.

    Args:
        pred: (*batch, points, 2 or 3), metres, pixels or box units.
        target: the same.
        thresholds: one distance or several, unit of the points.
        mask: (*batch, points), points that count.
        strict: count `<` instead of `<=`.

    Returns:
        (*batch) for one threshold, (*batch, thresholds) for several; 0 to 1.

    Source:
        `<=` as FreiHAND's `EvalUtil` and HInt; mmpose's `keypoint_pck_accuracy` is strict.

    Example:
        >>> pck(torch.tensor([[0.0, 3.0], [0.0, 9.0]]), torch.zeros(2, 2), 5.0).item()
        0.5
    """
    return share_within(point_errors(pred, target), thresholds, mask=mask, strict=strict)


def share_within(
    errors: Float[Tensor, "*batch points"],
    thresholds: Thresholds,
    *,
    mask: Bool[Tensor, "*#batch #points"] | None = None,
    strict: bool = False,
) -> Tensor:
    """Share of errors within thresholds; `pck` of distances that are already there.

    Args:
        errors: (*batch, points).
        thresholds: one distance or several, unit of the errors.
        mask: (*batch, points), points that count.
        strict: count `<` instead of `<=`.

    Returns:
        (*batch) for one threshold, (*batch, thresholds) for several; 0 to 1.

    Source:
        Definition.

    Example:
        >>> share_within(torch.tensor([1.0, 2.0, 3.0, 4.0]), [1.0, 2.0]).tolist()
        [0.25, 0.5]
    """
    limits = torch.as_tensor(thresholds, dtype=errors.dtype, device=errors.device)
    single = limits.ndim == 0
    limits = limits.reshape(-1)
    spread = errors.unsqueeze(-2)
    hits = spread < limits[:, None] if strict else spread <= limits[:, None]
    wide = None if mask is None else mask.expand(errors.shape).unsqueeze(-2)
    share = _mean(hits.to(errors.dtype), wide)
    return share.squeeze(-1) if single else share


def pck_auc(
    pred: Float[Tensor, "*batch points dim"],
    target: Float[Tensor, "*batch points dim"],
    *,
    max_threshold: float = 0.05,
    steps: int = 100,
    mask: Bool[Tensor, "*#batch #points"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Area under the PCK curve from 0 to a largest distance, divided by that distance.

    Args:
        pred: (*batch, points, 2 or 3).
        target: the same.
        max_threshold: end of the curve, unit of the points (50 mm by default).
        steps: number of evenly spaced thresholds, both ends included.
        mask: (*batch, points), points that count.

    Returns:
        (*batch), 0 to 1.

    Source:
        FreiHAND `EvalUtil.get_measures`: trapezoid over linspace(0, 0.05, 100). There the curve is taken per joint over
        all samples and then averaged over joints; the mean of this value over samples is the same number when every
        joint is labelled in every sample.

    Example:
        >>> pck_auc(torch.zeros(21, 3), torch.zeros(21, 3)).item()
        1.0
    """
    errors = point_errors(pred, target)
    # the trapezoid of a step function needs no curve: an error e passes the thresholds from ceil(e / step) on
    step = max_threshold / (steps - 1)
    grid = torch.linspace(0, max_threshold, steps, dtype=errors.dtype, device=errors.device)
    first = torch.searchsorted(grid, errors.detach().contiguous())  # index of the first threshold >= error
    area = (steps - 1 - first.to(errors.dtype)) * step + torch.where(first > 0, step / 2, 0.0)
    area = torch.where(first >= steps, torch.zeros_like(area), area)
    area = torch.where(errors.isnan(), errors, area)
    return _mean(area / max_threshold, mask)


def _mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the last dimension of what the mask selects; NaN where it selects nothing."""
    if mask is None:
        return values.mean(-1)
    wide = mask.expand(values.shape)
    total = torch.where(wide, values, torch.zeros_like(values)).sum(-1)
    return total / wide.sum(-1)
