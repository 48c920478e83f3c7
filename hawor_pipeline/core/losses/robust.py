"""Parts of all loss terms: the mixed robust penalty, and masked means that allow empty masks."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hawor_pipeline.core.types import promote

# Shares of the three parts of the penalty. The square reduces large errors early in training without dominating the
# rest, the absolute value keeps a gradient at the last millimetres, Huber joins them smoothly.
SQUARE_SHARE, ABSOLUTE_SHARE, HUBER_SHARE = 0.1, 0.5, 0.4

KEYPOINT_SCALE_M = 0.010  # one unit of 3D error
CROP_SCALE = 0.05  # one unit of 2D error, in box sides
ANGLE_SCALE_RAD = 0.2  # one unit of rotation error, 11 degrees
BETAS_SCALE = 1.0  # one unit of shape error: one standard deviation of MANO's shape space


def mixed_penalty(distance: Float[Tensor, "*batch"], scale: float) -> Float[Tensor, "*batch"]:
    """Penalise distances by a mix of square, absolute value and Huber in units of a scale.

    Formula: u = distance / scale; 0.1 u^2 + 0.5 u + 0.4 h(u), with h(u) = u^2 / 2 up to 1 and u - 1/2 beyond.

    Args:
        distance: (*batch), never negative, in the unit of `scale`.
        scale: the distance that counts as 1.

    Returns:
        (*batch), no unit; 0 at distance 0.

    Source:
        Huber 1964 for h. In metres the square of 10 mm is 1e-4, negligible beside the absolute value: hence the scale.

    Example:
        >>> round(mixed_penalty(torch.tensor(0.01), 0.01).item(), 6)
        0.8
    """
    u = distance / scale
    huber = torch.where(u < 1, 0.5 * u * u, u - 0.5)
    return SQUARE_SHARE * u * u + ABSOLUTE_SHARE * u + HUBER_SHARE * huber


def safe_norm(vector: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
    """Compute the Euclidean norm over the last dimension with gradient 0 at 0, in at least float32.

    Source:
        The subgradient of least norm, as `torch.linalg.vector_norm` takes it.

    Example:
        >>> safe_norm(torch.tensor([3.0, 4.0])).item()
        5.0
    """
    return torch.linalg.vector_norm(promote(vector), dim=-1)


def masked_mean(values: Float[Tensor, "*batch"], mask: Bool[Tensor, "*#batch"] | Float[Tensor, "*#batch"] | None):
    """Compute the mean of the values that a mask selects; 0, linked to the graph, for an empty mask.

    Formula: sum(m v) / sum(m).

    Args:
        mask: broadcastable to (*batch), bool or weights; None takes all. Values under a zero may be anything, also NaN.

    Returns:
        Scalar, same unit.

    Source:
        sum(m v) / max(sum(m), tiny). The link keeps every parameter in the graph, which distributed training needs.

    Example:
        >>> masked_mean(torch.tensor([1.0, 9.0]), torch.tensor([True, False])).item()
        1.0
    """
    if mask is None:
        return values.sum() / max(values.numel(), 1)
    weights = mask.expand(values.shape).to(values.dtype)
    kept = torch.where(weights > 0, values, torch.zeros_like(values))
    return (weights * kept).sum() / weights.sum().clamp_min(1e-12)


def difference(
    pred: Float[Tensor, "*batch dim"], target: Float[Tensor, "*batch dim"], mask: Bool[Tensor, "*#batch"] | None
) -> Float[Tensor, "*batch dim"]:
    """Subtract the target from the prediction in at least float32; masked entries are 0, in value and gradient.

    NaN or infinite entries of the target are harmless under the mask.

    Source:
        Masking after the norm would multiply 0 by NaN in the backward pass.

    Example:
        >>> nan = torch.full((1, 3), torch.nan)
        >>> difference(torch.ones(1, 3), nan, torch.tensor([False])).tolist()
        [[0.0, 0.0, 0.0]]
    """
    error = promote(pred) - promote(target)
    return error if mask is None else torch.where(mask.unsqueeze(-1), error, torch.zeros_like(error))


def root_relative(points: Float[Tensor, "*batch points 3"], root: int = 0) -> Float[Tensor, "*batch points 3"]:
    """Express points relative to one of them.

    Args:
        root: index of the point that becomes the origin.

    Example:
        >>> root_relative(torch.tensor([[1.0, 1, 1], [2, 3, 4]])).tolist()
        [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]]
    """
    points = promote(points)
    return points - points[..., root : root + 1, :]
