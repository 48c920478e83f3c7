"""The SMPL-X body: its sizes, its kinematic tree, and linear blend skinning of any subset of its vertices.

Convention: SMPL-X's. Metres, rotation matrices relative to the parent bone, rest pose with stretched arms. Equal to the
smplx package with `flat_hand_mean=True`, which is not needed here.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

BODY_VERTEX_COUNT, BODY_FACE_COUNT, BODY_JOINT_COUNT = 10475, 20908, 55
# Pelvis, hips, spine, knees, ankles, feet, neck, collars, head, shoulders, elbows, wrists, jaw, eyes, fingers.
_TRUNK_PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 15, 15, 15)
WRIST_BONES = {"left": 20, "right": 21}
ELBOW_BONES = {"left": 18, "right": 19}
SHOULDER_BONES = {"left": 16, "right": 17}
NECK_BONE = 12
NECK_AND_HEAD_BONES = (NECK_BONE, 15, 22, 23, 24)  # neck, head, jaw, eyes
FIRST_FINGER_BONE = {"left": 25, "right": 40}  # fifteen each, in MANO's order


def _finger_parents(side: str) -> tuple[int, ...]:
    first = FIRST_FINGER_BONE[side]
    return tuple(WRIST_BONES[side] if k % 3 == 0 else first + k - 1 for k in range(15))


BODY_PARENTS = (*_TRUNK_PARENTS, *_finger_parents("left"), *_finger_parents("right"))
# Parameters of `{sequence}.smplx.npy` in the order of the bones, with the number of bones that each turns.
BODY_POSE_PARTS = {
    "global_orient": 1, "body_pose": 21, "jaw_pose": 1, "leye_pose": 1, "reye_pose": 1,
    "left_hand_pose": 15, "right_hand_pose": 15,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class BodyArrays:
    """SMPL-X without shape directions, as float32 arrays (metres) of checked shape and finite values."""

    template: np.ndarray  # (10475, 3)
    pose_dirs: np.ndarray  # (10475, 3, 486)
    joint_regressor: np.ndarray  # (55, 10475)
    skin_weights: np.ndarray  # (10475, 55)
    faces: np.ndarray  # (20908, 3) int32


def bone_motions(
    rotations: Float[Tensor, "T 55 3 3"], joints: Float[Tensor, "55 3"], translation: Float[Tensor, "T 3"]
) -> Float[Tensor, "T 55 3 4"]:
    """Compute the rigid motion of each bone from the rest pose to the world.

    Args:
        rotations: (T, 55, 3, 3) relative to the parent bone.
        joints: (55, 3) of the rest pose.
        translation: (T, 3), added to the posed body.

    Returns:
        (T, 55, 3, 4): a rest point x of the bone lies at `motion @ (x, 1)`.
    """
    turned: list[Tensor] = []
    placed: list[Tensor] = []  # joints in the world
    for bone, parent in enumerate(BODY_PARENTS):
        if parent < 0:
            turned.append(rotations[:, bone])
            placed.append(joints[bone] + translation)
        else:
            turned.append(turned[parent] @ rotations[:, bone])
            placed.append(placed[parent] + turned[parent] @ (joints[bone] - joints[parent]))
    turn, place = torch.stack(turned, 1), torch.stack(placed, 1)
    shift = place - (turn @ joints[..., None])[..., 0]
    return torch.cat((turn, shift[..., None]), -1)


def skin(
    vertices: Float[Tensor, "V 3"],
    weights: Float[Tensor, "V 55"],
    pose_dirs: Float[Tensor, "V 3 486"],
    rotations: Float[Tensor, "T 55 3 3"],
    motions: Float[Tensor, "T 55 3 4"],
) -> Float[Tensor, "T V 3"]:
    """Pose vertices of the rest pose by linear blend skinning with pose correctives.

    Args:
        vertices: (V, 3) of the rest pose, any subset of the model's.
        weights: (V, 55) of the bones.
        pose_dirs: (V, 3, 486) displacement per entry of R - I of the bones 1..54.
        rotations: (T, 55, 3, 3) relative to the parent bone.
        motions: (T, 55, 3, 4) of `bone_motions`.

    Returns:
        (T, V, 3) in the world.

    Source: SMPL-X, Pavlakos et al. 2019, equations 2 to 5.
    """
    features = (rotations[:, 1:] - torch.eye(3, dtype=rotations.dtype)).flatten(1)  # (T, 486)
    used = (pose_dirs != 0).flatten(0, 1).any(0)
    bent = vertices + (features[:, used] @ pose_dirs.flatten(0, 1)[:, used].T).view(len(features), -1, 3)
    blended = torch.einsum("vb,tbij->tvij", weights, motions)
    return (blended[..., :3] @ bent[..., None])[..., 0] + blended[..., 3]
