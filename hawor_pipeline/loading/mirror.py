"""Left hands become right hands on the way in, and left again on the way out; nowhere else.

The whole picture is mirrored, camera included: x -> -x in the camera frame, x -> width - 1 - x in pixels. A mirrored
left hand is a right hand whose shape is given by `betas_as_right`.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hawor_pipeline.core.camera import mirror_points
from hawor_pipeline.core.rotations import mirror_rotmat


def mirror_intrinsics(
    intrinsics: Float[Tensor, "*batch 3 3"], image_width: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch 3 3"]:
    """The camera matrix of the mirrored picture."""
    mirrored = intrinsics.clone()
    mirrored[..., 0, 1] = -intrinsics[..., 0, 1]
    mirrored[..., 0, 2] = image_width - 1 - intrinsics[..., 0, 2]
    return mirrored


def where_left(is_right: Bool[Tensor, "*batch"], mirrored: Tensor, value: Tensor) -> Tensor:
    """`mirrored` for left hands, `value` for right hands; `is_right` covers the leading dimensions."""
    mask = is_right.reshape(is_right.shape + (1,) * (value.ndim - is_right.ndim))
    return torch.where(mask, value, mirrored)


def to_true_side(
    rotmats: Float[Tensor, "*batch 16 3 3"],
    translation_m: Float[Tensor, "*batch 3"],
    joints_m: Float[Tensor, "*batch 21 3"],
    vertices_m: Float[Tensor, "*batch 778 3"],
    is_right: Bool[Tensor, "*batch"],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mirror what the network says of left hands back to the left.

    The vertices keep their order, so a left mesh is drawn with the faces of the left model (reversed winding).

    Args:
        rotmats: absolute rotations in the camera frame.
        translation_m, joints_m, vertices_m: metres, camera frame.
        is_right: the true side.

    Returns:
        The four of them in the camera frame of the picture as it was taken; project them with its own camera matrix and
        lens to get pixels of the full frame.
    """
    return (
        where_left(is_right, mirror_rotmat(rotmats), rotmats),
        where_left(is_right, mirror_points(translation_m), translation_m),
        where_left(is_right, mirror_points(joints_m), joints_m),
        where_left(is_right, mirror_points(vertices_m), vertices_m),
    )
