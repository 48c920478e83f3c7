"""Detection of hands, and the dependence of errors on visibility: boxes, rates, strata, calibration.

Convention: joints are (*batch, joints, 2) and boxes (*batch, 4) are left, top, right, bottom, in pixels (x, y). `mask`
(*batch, joints) selects the joints that count, `iou` is the least intersection over union, `scores` are confidences,
and `sides` are true for right hands.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

DETECTION_IOU = 0.5
HIGH_OCCLUSION, LOW_OCCLUSION = 0.5, 0.1


def joint_box(
    joints_px: Float[Tensor, "*batch joints 2"], mask: Bool[Tensor, "*#batch #joints"] | None = None
) -> Float[Tensor, "*batch 4"]:
    """Compute the smallest upright box around joints.

    Formula: (min x, min y, max x, max y) over joints.

    Returns:
        (*batch, 4): left, top, right, bottom in pixels; NaN where no joint counts.

    Source:
        Definition.

    Example:
        >>> joint_box(torch.tensor([[1.0, 5.0], [3.0, 2.0]])).tolist()
        [1.0, 2.0, 3.0, 5.0]
    """
    if mask is None:
        return torch.cat((joints_px.amin(-2), joints_px.amax(-2)), -1)
    keep = mask.expand(joints_px.shape[:-1]).unsqueeze(-1)
    low = torch.where(keep, joints_px, torch.inf).amin(-2)
    high = torch.where(keep, joints_px, -torch.inf).amax(-2)
    box = torch.cat((low, high), -1)
    return torch.where(keep.any(-2), box, torch.nan)


def box_iou(first: Float[Tensor, "*#batch 4"], second: Float[Tensor, "*#batch 4"]) -> Float[Tensor, "*batch"]:
    """Compute the intersection over union of boxes.

    Formula: area(a and b) / area(a or b).

    Returns:
        (*batch), 0 to 1; 0 for boxes without area.

    Source:
        Definition; areas as products of side lengths, without the extra pixel of COCO's older tools.

    Example:
        >>> box_iou(torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 0, 3, 2])).item() == torch.tensor(1 / 3).item()
        True
    """
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    overlap = (high - low).clamp_min(0).prod(-1)
    areas = (first[..., 2:] - first[..., :2]).prod(-1) + (second[..., 2:] - second[..., :2]).prod(-1)
    union = areas - overlap
    return torch.where(union > 0, overlap / union.clamp_min(1e-12), torch.zeros_like(union))


def detected(
    pred_px: Float[Tensor, "*batch joints 2"],
    target_px: Float[Tensor, "*batch joints 2"],
    side_right: Bool[Tensor, "*batch"] | None = None,
    *,
    iou: float = DETECTION_IOU,
) -> Bool[Tensor, "*batch"]:
    """Test if a hand counts as found: right side, and boxes of predicted and true joints overlap enough.

    Formula: [IoU of the joint boxes >= iou] and the side is right.

    Args:
        side_right: (*batch), whether the predicted side (left or right hand) is the true one; all by default.

    Returns:
        (*batch).

    Source:
        The usual criterion of object detection on joint boxes.

    Example:
        >>> joints = torch.tensor([[0.0, 0.0], [9.0, 9.0]])
        >>> detected(joints, joints).item()
        True
    """
    found = box_iou(joint_box(pred_px), joint_box(target_px)) >= iou
    return found if side_right is None else found & side_right


def match_detections(
    boxes: Float[Tensor, "found 4"],
    scores: Float[Tensor, " found"],
    sides: Bool[Tensor, " found"],
    true_boxes: Float[Tensor, "truth 4"],
    true_sides: Bool[Tensor, " truth"],
    *,
    iou: float = DETECTION_IOU,
) -> Bool[Tensor, " found"]:
    """Match the detections of one image with its hands, the most certain first, each hand once, sides equal.

    Formula: in order of score, each detection takes the free hand of its side with the largest IoU, if that is >= iou.

    Returns:
        (found): true for detections that found a hand. Precision is its mean; recall its sum over the number of hands.

    Source:
        The greedy matching of PASCAL VOC.

    Example:
        >>> box, right = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([True])
        >>> match_detections(box, torch.ones(1), right, box, right).tolist()
        [True]
    """
    hit = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    if len(boxes) == 0 or len(true_boxes) == 0:
        return hit
    overlap = box_iou(boxes.unsqueeze(1), true_boxes.unsqueeze(0))
    overlap = torch.where(sides.unsqueeze(1) == true_sides.unsqueeze(0), overlap, -1.0)
    for index in scores.argsort(descending=True, stable=True).tolist():
        best = int(overlap[index].argmax())
        if overlap[index, best] >= iou:
            hit[index] = True
            overlap[:, best] = -1.0
    return hit


def binned_mean(
    values: Float[Tensor, " samples"], key: Float[Tensor, " samples"], edges: Sequence[float]
) -> tuple[Float[Tensor, " bins"], Float[Tensor, " bins"]]:
    """Compute the mean of a metric in bins of another quantity, such as the hidden share of a hand.

    Formula: sum of values in a bin / their number.

    Args:
        values: (samples), any unit; NaN entries are dropped.
        key: (samples), what decides the bin.
        edges: ascending; a bin holds its lower edge, the last one also its upper.

    Returns:
        Means (bins), NaN for an empty bin, and counts (bins).

    Source:
        As `numpy.histogram` with weights over counts.

    Example:
        >>> binned_mean(torch.tensor([1.0, 3.0]), torch.tensor([0.1, 0.2]), [0.0, 0.5, 1.0])[1].tolist()
        [2.0, 0.0]
    """
    limits = torch.as_tensor(edges, dtype=key.dtype, device=key.device)
    bins = len(edges) - 1
    index = torch.searchsorted(limits, key.contiguous(), right=True) - 1
    index = torch.where(key == limits[-1], bins - 1, index)
    keep = values.isfinite() & (index >= 0) & (index < bins)
    index, kept = index[keep], values[keep].double()
    total = kept.new_zeros(bins).index_add(0, index, kept)
    count = kept.new_zeros(bins).index_add(0, index, torch.ones_like(kept))
    return (total / count).to(values.dtype), count.to(values.dtype)


def occlusion_robustness(
    errors: Float[Tensor, " samples"],
    occlusion: Float[Tensor, " samples"],
    *,
    high: float = HIGH_OCCLUSION,
    low: float = LOW_OCCLUSION,
) -> tuple[Float[Tensor, ""], int, int]:
    """Compute the ratio of the mean error of much hidden hands to that of hardly hidden ones.

    Formula: mean error where occlusion > high / mean error where occlusion < low.

    Args:
        errors: (samples), for example MPJPE; NaN entries are dropped.
        occlusion: (samples), hidden share of each hand, 0 to 1.
        high: above it a hand is much hidden.
        low: below it a hand is hardly hidden.

    Returns:
        The ratio (1: occlusion does not matter; NaN where a side has no samples) and the number of samples of both
        sides.

    Source:
        This project's definition.

    Example:
        >>> ratio, hidden, clear = occlusion_robustness(torch.tensor([2.0, 1.0]), torch.tensor([0.9, 0.0]))
        >>> ratio.item(), hidden, clear
        (2.0, 1, 1)
    """
    finite = errors.isfinite()
    much, little = errors[finite & (occlusion > high)], errors[finite & (occlusion < low)]
    return much.mean() / little.mean(), len(much), len(little)


def calibration_error(
    confidence: Float[Tensor, " samples"], correct: Bool[Tensor, " samples"], *, bins: int = 15
) -> Float[Tensor, ""]:
    """Compute the expected calibration error: how far stated confidence is from the rate of success.

    Formula: sum over bins of n_b / n |mean confidence - rate of success|.

    Args:
        confidence: (samples), 0 to 1.
        correct: (samples), for example whether the error is below some millimetres.
        bins: equal bins of confidence.

    Returns:
        Scalar, 0 to 1; NaN without samples.

    Source:
        Guo et al. 2017, equation 3; agrees with torchmetrics' `binary_calibration_error(norm="l1")`.

    Example:
        >>> calibration_error(torch.tensor([1.0, 1.0]), torch.tensor([True, False])).item()
        0.5
    """
    edges = torch.linspace(0, 1, bins + 1).tolist()
    mean_confidence, count = binned_mean(confidence, confidence, edges)
    mean_correct, _ = binned_mean(correct.to(confidence.dtype), confidence, edges)
    gap = torch.where(count > 0, (mean_confidence - mean_correct).abs() * count, torch.zeros_like(count))
    return gap.sum() / count.sum()
