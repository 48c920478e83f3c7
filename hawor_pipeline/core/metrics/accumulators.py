"""Running totals of metrics over a data set: exact in streaming, and the same on one process as on many.

Convention: values come from the pure functions of this package; states are sums and counts in float64 that are added
over processes (`dist_reduce_fx="sum"`), so the result is that over all samples, never a mean of batch means. Call
`update`, not `forward`, which computes every batch twice over. NaN has no value and is left out, and counted nowhere.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric

from hawor_pipeline.core.metrics.curves import first_threshold
from hawor_pipeline.core.metrics.detection import DETECTION_IOU, match_detections

SIDES = ("right", "left")
_PIECE = 2048  # samples that are counted together


class _Sums(Metric):
    """A metric whose states are all sums in float64."""

    full_state_update = False
    higher_is_better: bool | None = None

    def _add(self, name: str, *shape: int) -> None:
        self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")


class SampleMean(_Sums):
    """Mean of a per-sample metric over all samples that have a value.

    Source:
        torchmetrics' `MeanMetric` in float64, with NaN left out on purpose and without a warning.

    Example:
        >>> mean = SampleMean()
        >>> mean.update(torch.tensor([1.0, 3.0, float("nan")]))
        >>> mean.compute().item()
        2.0
    """

    total: Tensor
    count: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._add("total")
        self._add("count")

    def update(self, values: Float[Tensor, "*batch"], mask: Bool[Tensor, "*#batch"] | None = None) -> None:
        """Add values (*batch), where the mask (*batch) selects them."""
        use = ~values.isnan() if mask is None else ~values.isnan() & mask
        self.total += torch.where(use, values, values.new_zeros(())).double().sum()
        self.count += use.expand(values.shape).sum()

    def compute(self) -> Float[Tensor, ""]:
        """The mean so far; NaN without values."""
        return self.total / self.count


class PointCurve(_Sums):
    """Mean error and the area under the PCK curve, per point over all samples and then over points.

    The curve counts in bins of width max_threshold / (steps - 1), so its area is exact however many samples pass by.

    Args:
        points: number of points (21 joints, 778 vertices).
        max_threshold: end of the curve, unit of the errors (50 mm by default).
        steps: evenly spaced thresholds, both ends included.

    Source:
        FreiHAND's and HO-3D's `EvalUtil`: `<=`, trapezoid, each point first. A point that was never seen has no value.

    Example:
        >>> curve = PointCurve(2)
        >>> curve.update(torch.tensor([[0.0, 0.1], [0.0, 0.1]]))
        >>> curve.compute()["auc"].item()
        0.5
    """

    histogram: Tensor
    total: Tensor

    def __init__(self, points: int, *, max_threshold: float = 0.05, steps: int = 100, **options: Any) -> None:
        super().__init__(**options)
        self.points, self.steps, self.max_threshold = points, steps, max_threshold
        self._add("histogram", points, steps + 1)
        self._add("total", points)

    def update(
        self, errors: Float[Tensor, "*batch points"], mask: Bool[Tensor, "*#batch #points"] | None = None
    ) -> None:
        """Add errors (*batch, points), where the mask selects them."""
        use = ~errors.isnan() if mask is None else ~errors.isnan() & mask
        pieces = (x.expand(errors.shape).reshape(-1, self.points).split(_PIECE) for x in (errors, use))
        for values, counted in zip(*pieces, strict=True):
            self._update_piece(values, counted)

    def _update_piece(self, values: Tensor, counted: Tensor) -> None:
        """Add errors (B, points) where `counted` (B, points) is true."""
        size = self.points * (self.steps + 1)
        index = first_threshold(values, self.max_threshold, self.steps)
        index += torch.arange(self.points, device=values.device) * (self.steps + 1)
        index = torch.where(counted, index, size)  # one bin more, for what does not count
        counts = torch.bincount(index.flatten(), minlength=size + 1)[:size]
        self.histogram += counts.view(self.points, self.steps + 1)
        self.total += torch.where(counted, values, values.new_zeros(())).sum(0, dtype=torch.float64)

    def compute(self) -> dict[str, Tensor]:
        """`mean` (scalar), `auc` (scalar), `curve` (steps), `thresholds` (steps), `per_point` (points)."""
        count = self.histogram.sum(1)
        share = self.histogram[:, :-1].cumsum(1) / count[:, None]  # (points, steps)
        thresholds = torch.linspace(0, self.max_threshold, self.steps, dtype=torch.float64, device=count.device)
        area = torch.trapezoid(share, thresholds) / self.max_threshold
        per_point = self.total / count
        return {
            "mean": per_point.nanmean(),
            "auc": area.nanmean(),
            "curve": share.nanmean(0),
            "thresholds": thresholds,
            "per_point": per_point,
        }


class BinnedMean(_Sums):
    """Mean of a per-sample metric in bins of another quantity, such as the hidden share of the hand.

    Args:
        edges: ascending; a bin holds its lower edge, the last one also its upper.

    Source:
        `hawor_pipeline.core.metrics.binned_mean`, in streaming.

    Example:
        >>> bins = BinnedMean([0.0, 0.5, 1.0])
        >>> bins.update(torch.tensor([1.0, 3.0]), torch.tensor([0.1, 0.9]))
        >>> bins.compute()["mean"].tolist()
        [1.0, 3.0]
    """

    total: Tensor
    count: Tensor
    edges: Tensor

    def __init__(self, edges: Sequence[float], **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("edges", torch.as_tensor(edges, dtype=torch.float64), persistent=False)
        self._add("total", len(edges) - 1)
        self._add("count", len(edges) - 1)

    def update(self, values: Float[Tensor, "*batch"], key: Float[Tensor, "*batch"]) -> None:
        """Add values (*batch) with what decides their bin (*batch)."""
        values, key = values.flatten().double(), key.flatten().double()
        bins = len(self.edges) - 1
        index = torch.bucketize(key, self.edges, right=True) - 1
        index = torch.where(key == self.edges[-1], bins - 1, index)
        use = ~values.isnan() & (index >= 0) & (index < bins)
        self.total.index_add_(0, index[use], values[use])
        self.count.index_add_(0, index[use], torch.ones_like(values[use]))

    def compute(self) -> dict[str, Tensor]:
        """`mean` (bins), NaN for an empty one, and `count` (bins)."""
        return {"mean": self.total / self.count, "count": self.count.clone()}


class CalibrationError(_Sums):
    """Expected calibration error over all samples.

    Args:
        bins: equal bins of confidence.

    Source:
        `hawor_pipeline.core.metrics.calibration_error`, in streaming.

    Example:
        >>> error = CalibrationError()
        >>> error.update(torch.tensor([1.0, 1.0]), torch.tensor([True, False]))
        >>> error.compute().item()
        0.5
    """

    confidence: Tensor
    correct: Tensor
    count: Tensor

    def __init__(self, bins: int = 15, **options: Any) -> None:
        super().__init__(**options)
        self.bins = bins
        for name in ("confidence", "correct", "count"):
            self._add(name, bins)

    def update(self, confidence: Float[Tensor, "*batch"], correct: Bool[Tensor, "*batch"]) -> None:
        """Add stated confidence, 0 to 1 (*batch), and whether it came true (*batch)."""
        stated, true = confidence.flatten().double(), correct.flatten().double()
        edges = torch.linspace(0, 1, self.bins + 1, dtype=confidence.dtype, device=confidence.device)
        index = (torch.bucketize(confidence.flatten(), edges, right=True) - 1).clamp(0, self.bins - 1)
        use = ~stated.isnan()
        for state, values in ((self.confidence, stated), (self.correct, true), (self.count, torch.ones_like(true))):
            state.index_add_(0, index[use], values[use])

    def compute(self) -> Float[Tensor, ""]:
        """The error so far, 0 to 1; NaN without samples."""
        return (self.confidence - self.correct).abs().sum() / self.count.sum()


class DetectionRates(_Sums):
    """Precision and recall of detected hands, per side, at one overlap.

    Args:
        iou: least intersection over union.

    Source:
        `hawor_pipeline.core.metrics.match_detections`, picture by picture.

    Example:
        >>> rates = DetectionRates()
        >>> box, right = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([True])
        >>> rates.update(box, torch.ones(1), right, box, right)
        >>> rates.compute()["recall_right"].item()
        1.0
    """

    hits: Tensor
    found: Tensor
    truth: Tensor

    def __init__(self, iou: float = DETECTION_IOU, **options: Any) -> None:
        super().__init__(**options)
        self.iou = iou
        for name in ("hits", "found", "truth"):
            self._add(name, len(SIDES))

    def update(
        self,
        boxes: Float[Tensor, "found 4"],
        scores: Float[Tensor, " found"],
        sides: Bool[Tensor, " found"],
        true_boxes: Float[Tensor, "truth 4"],
        true_sides: Bool[Tensor, " truth"],
    ) -> None:
        """Add one picture; arguments as `match_detections`."""
        hit = match_detections(boxes, scores, sides, true_boxes, true_sides, iou=self.iou)
        for index, right in enumerate((True, False)):
            self.hits[index] += (hit & (sides == right)).sum()
            self.found[index] += (sides == right).sum()
            self.truth[index] += (true_sides == right).sum()

    def compute(self) -> dict[str, Tensor]:
        """`precision`, `recall` and the same per side; NaN where nothing was found or there was nothing to find."""
        result = {"precision": self.hits.sum() / self.found.sum(), "recall": self.hits.sum() / self.truth.sum()}
        for index, side in enumerate(SIDES):
            result[f"precision_{side}"] = self.hits[index] / self.found[index]
            result[f"recall_{side}"] = self.hits[index] / self.truth[index]
        return result
