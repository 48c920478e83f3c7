"""Errors of what a hand holds: an articulated object's pose, and how hand and object lie to each other.

Convention: angles are in radians, vertices (*batch, points, 3) in metres.
"""

from jaxtyping import Float
from torch import Tensor

from hawor_pipeline.core.metrics.points import length, root_shift, share_below
from hawor_pipeline.core.nearest import nearest_distances

SUCCESS_SHARE = 0.05  # of the object's diameter


def articulation_error(pred: Float[Tensor, "*batch"], target: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Compute the difference of predicted and true joint angle of an object (AAE is its mean in degrees).

    Formula: |a' - a|.

    Returns:
        (*batch), radians.

    Source:
        ARCTIC `eval_degree`.

    Quirk:
        Neither side wraps: ARCTIC's hinges turn by less than a full turn.

    Example:
        >>> articulation_error(torch.tensor([1.0]), torch.tensor([1.5])).tolist()
        [0.5]
    """
    return (pred - target).abs()


def success_rate(
    pred: Float[Tensor, "*batch vertices 3"],
    target: Float[Tensor, "*batch vertices 3"],
    diameter: Float[Tensor, "*#batch"],
    *,
    pred_root: Float[Tensor, "*batch 3"] | None = None,
    target_root: Float[Tensor, "*batch 3"] | None = None,
    share: float = SUCCESS_SHARE,
) -> Float[Tensor, "*batch"]:
    """Compute the share of an object's vertices whose error is below a share of its diameter.

    Formula: mean over vertices of [|(v' - root') - (v - root)| < share x diameter].

    Args:
        diameter: (*batch), metres, of the object.
        pred_root: (*batch, 3), metres, the object's root; None compares the vertices as given.
        target_root: (*batch, 3), its truth.
        share: of the diameter.

    Returns:
        (*batch), 0 to 1.

    Raises:
        ValueError: only one root is given.

    Source:
        ARCTIC `eval_v2v_success`: root-relative, 5 %; the root is the mean of the vertices of the object's bottom part.

    Example:
        >>> box = torch.rand(8, 3)
        >>> success_rate(box + 0.01, box, torch.tensor(1.0)).item()
        1.0
    """
    shift = root_shift(pred_root, target_root)
    distance = length(pred - target if shift is None else pred - target - shift)
    return share_below(distance, share * diameter.unsqueeze(-1))


def field_error(
    pred_hand: Float[Tensor, "*batch hand 3"],
    pred_object: Float[Tensor, "*batch object 3"],
    target_hand: Float[Tensor, "*batch hand 3"],
    target_object: Float[Tensor, "*batch object 3"],
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """Compute the error of the distances between a hand and an object, both ways.

    Formula: mean over hand vertices of |d(v', object') - d(v, object)|, and the same over object vertices.

    Returns:
        From the hand to the object (*batch), and from the object to the hand (*batch), metres.

    Source:
        The interaction field of ARCTIC's second task.

    Quirk:
        There the distances themselves are predicted and compared; here they are those of the predicted surfaces.

    Example:
        >>> hand = torch.rand(5, 3)
        >>> field_error(hand, hand + 1, hand, hand + 1)[0].item()
        0.0
    """
    ours, theirs = nearest_distances(pred_hand, pred_object), nearest_distances(target_hand, target_object)
    to_object, to_hand = ((a - b).abs().mean(-1) for a, b in zip(ours, theirs, strict=True))
    return to_object, to_hand
