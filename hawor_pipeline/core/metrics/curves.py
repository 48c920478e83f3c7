"""Shares of points within a distance of the ground truth, and the area under that curve.

Convention: `pred` and `target` are (*batch, points, 2 or 3) as given (subtract the root first if that is meant), in
any unit (metres, pixels, box units), and `errors` (*batch, points) are distances that are known already. `thresholds`
are one distance or several in the same unit; `strict` counts `<` instead of `<=`; `mask` (*batch, points) selects the
points that count. One value per sample comes out, 0 to 1; NaN where a mask leaves a sample without points.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hawor_pipeline.core.metrics.points import mean_over_points, point_errors

Thresholds = float | Sequence[float] | Tensor


def pck(
    pred: Float[Tensor, "*batch points dim"],
    target: Float[Tensor, "*batch points dim"],
    thresholds: Thresholds,
    *,
    mask: Bool[Tensor, "*#batch #points"] | None = None,
    strict: bool = False,
) -> Tensor:
    """Compute the share of points within a distance of the ground truth; subtract the root first if that is meant.

    Formula: mean over points of [|p' - p| <= threshold].

    Returns:
        (*batch) for one threshold, (*batch, thresholds) for several; 0 to 1.

    Source:
        `<=` as FreiHAND's `EvalUtil` and HInt.

    Quirk:
        mmpose's `keypoint_pck_accuracy` is strict and gives -1 for joints that are missing.

    Example:
        >>> pck(torch.tensor([[0.0, 3.0], [0.0, 9.0]]), torch.zeros(2, 2), 5.0).item()
        0.5
    """
    return share_within(point_errors(pred, target), thresholds, mask=mask, strict=strict)


def pck_box(
    pred: Float[Tensor, "*batch points 2"],
    target: Float[Tensor, "*batch points 2"],
    box_size: Float[Tensor, "*#batch"],
    thresholds: Thresholds,
    *,
    mask: Bool[Tensor, "*#batch #points"] | None = None,
) -> Tensor:
    """Compute the share of points within a part of the hand's size in the image.

    Formula: mean over points of [|p' - p| <= threshold x box size].

    Args:
        box_size: (*batch), side of the hand's tight square box, pixels; divide a stored box by its margin first.
        thresholds: one share of the box or several.

    Returns:
        (*batch) for one threshold, (*batch, thresholds) for several; 0 to 1.

    Source:
        HInt's evaluation in HaMeR (`EvaluatorPCK`), thresholds 0.05, 0.1 and 0.15.

    Quirk:
        HaMeR averages per joint over all samples and then over joints, and a joint that is labelled nowhere makes the
        mean NaN; see the preset `hint`.

    Example:
        >>> pck_box(torch.tensor([[0.0, 3.0], [0.0, 9.0]]), torch.zeros(2, 2), torch.tensor(100.0), 0.05).item()
        0.5
    """
    errors = point_errors(pred, target) / box_size.unsqueeze(-1)
    return share_within(errors, thresholds, mask=mask)


def share_within(
    errors: Float[Tensor, "*batch points"],
    thresholds: Thresholds,
    *,
    mask: Bool[Tensor, "*#batch #points"] | None = None,
    strict: bool = False,
) -> Tensor:
    """Compute the share of errors within thresholds; `pck` of distances that are known already.

    Formula: mean over points of [error <= threshold].

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
    share = mean_over_points(hits.to(errors.dtype), wide)
    return share.squeeze(-1) if single else share


def pck_auc(
    pred: Float[Tensor, "*batch points dim"],
    target: Float[Tensor, "*batch points dim"],
    *,
    max_threshold: float = 0.05,
    steps: int = 100,
    mask: Bool[Tensor, "*#batch #points"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Compute the area under the PCK curve from 0 to a largest distance, divided by that distance.

    Formula: (integral of PCK over 0 .. max_threshold) / max_threshold, by trapezoids between evenly spaced thresholds.

    Args:
        max_threshold: end of the curve, unit of the points (50 mm by default).
        steps: number of evenly spaced thresholds, both ends included.

    Returns:
        (*batch), 0 to 1.

    Source:
        FreiHAND `EvalUtil.get_measures`: trapezoid over linspace(0, 0.05, 100). There the curve is taken per joint over
        all samples and then averaged over joints; the mean of this value over samples is the same number when every
        joint is labelled in every sample.

    Quirk:
        FreiHAND's script calls `np.trapz`, which numpy 2.4 no longer has: it does not run unpatched. mmpose takes a
        left Riemann sum of 20 thresholds up to 30 px.

    Example:
        >>> pck_auc(torch.zeros(21, 3), torch.zeros(21, 3)).item()
        1.0
    """
    return auc_within(point_errors(pred, target), max_threshold=max_threshold, steps=steps, mask=mask)


def auc_within(
    errors: Float[Tensor, "*batch points"],
    *,
    max_threshold: float = 0.05,
    steps: int = 100,
    mask: Bool[Tensor, "*#batch #points"] | None = None,
) -> Float[Tensor, "*batch"]:
    """Compute the area under the PCK curve of errors; `pck_auc` of distances that are known already.

    Formula: (integral of PCK over 0 .. max_threshold) / max_threshold, by trapezoids between evenly spaced thresholds.

    Returns:
        (*batch), 0 to 1.

    Source:
        As `pck_auc`.

    Example:
        >>> auc_within(torch.tensor([0.0, 0.1])).item()
        0.5
    """
    # The trapezoid of a step function needs no curve: an error e passes the thresholds from ceil(e / step) on.
    step = max_threshold / (steps - 1)
    first = first_threshold(errors, max_threshold, steps)
    area = (steps - 1 - first.to(errors.dtype)) * step + torch.where(first > 0, step / 2, 0.0)
    area = torch.where(first >= steps, torch.zeros_like(area), area)
    area = torch.where(errors.isnan(), errors, area)
    return mean_over_points(area / max_threshold, mask)


def first_threshold(errors: Float[Tensor, "*batch"], max_threshold: float, steps: int) -> Int[Tensor, "*batch"]:
    """Compute the index of the first of evenly spaced thresholds that is not below an error; `steps` where all are.

    Args:
        errors: (*batch), any unit.
        max_threshold: the last threshold, same unit; the first is 0.
        steps: number of thresholds.

    Returns:
        (*batch); of no meaning where the error is NaN.

    Source:
        A division and one correction by comparison, ten times quicker than a search; equal to `torch.searchsorted`.

    Example:
        >>> first_threshold(torch.tensor([0.0, 0.5, 1.0, 1.1]), 1.0, 3).tolist()
        [0, 1, 2, 3]
    """
    values = errors.detach()
    grid = torch.linspace(0, max_threshold, steps, dtype=values.dtype, device=values.device)
    guess = (values * ((steps - 1) / max_threshold)).ceil_().nan_to_num_(0.0).clamp_(0, steps - 1).long()
    too_high = (guess > 0) & (values <= grid[(guess - 1).clamp_min_(0)])
    return guess - too_high.long() + (values > grid[guess]).long()
