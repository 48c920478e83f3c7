"""Poses of the hand: joint limits, named grasps and the conversion of joint angles to MANO's pose vector.

Convention: right hand, radians; joints 1..15 in MANO's order. A joint has three angles, in this order: flexion
(positive closes the hand), abduction (positive towards the thumb's side) and twist (about the bone). A pose is the
(45,) absolute axis-angle vector, mean pose included: subtract the model's `hands_mean` to get the pose that smplx
expects with `flat_hand_mean=False`.
"""

import importlib.resources

import numpy as np
import yaml
from scipy.spatial.transform import Rotation

from hawor_pipeline.sample.hand import DIGITS, RestSkeleton

FINGER_LIMITS_DEG = (((-20, 92), (-16, 16), (-5, 5)), ((-3, 105), (-2, 2), (-2, 2)), ((-8, 80), (-2, 2), (-2, 2)))
THUMB_LIMITS_DEG = (((-25, 50), (-30, 30), (-35, 35)), ((-10, 60), (-10, 10), (-10, 10)), ((-15, 85), (-3, 3), (-3, 3)))

JOINT_LIMITS = np.radians(np.array(FINGER_LIMITS_DEG * 4 + THUMB_LIMITS_DEG, dtype=float))
"""(15, 3, 2) lowest and highest angle of each joint's flexion, abduction and twist, radians: slightly inside the usual
active ranges of an adult hand, so that every motion within the limits looks possible."""


def angles_to_pose(angles: np.ndarray, skeleton: RestSkeleton) -> np.ndarray:
    """Convert joint angles to MANO's axis-angle vector, right hand.

    Each joint twists first, then swings sideways, then flexes, all about axes fixed in its parent's frame.

    Args:
        angles: (..., 15, 3) flexion, abduction, twist in radians.
        skeleton: gives the axes.

    Returns:
        (..., 45) absolute axis-angle, radians.
    """
    angles = np.asarray(angles, dtype=float)
    axes = (skeleton.flexion_axes, skeleton.abduction_axes, skeleton.bone_axes)
    flexion, abduction, twist = (
        Rotation.from_rotvec((angles[..., k, None] * axis).reshape(-1, 3)) for k, axis in enumerate(axes)
    )
    return (flexion * abduction * twist).as_rotvec().reshape(*angles.shape[:-2], 45)


def _read_grasps() -> dict[str, np.ndarray]:
    table = yaml.safe_load((importlib.resources.files(__package__) / "grasps.yaml").read_text())
    angles = {}
    for name, grasp in table.items():
        digits = [(knuckle, (middle, 0, 0), (last, 0, 0)) for *knuckle, middle, last in (grasp[d] for d in DIGITS)]
        angles[name] = np.radians(np.array(digits, float).reshape(15, 3))
    return angles


GRASP_ANGLES = _read_grasps()
"""(15, 3) joint angles of each named grasp, radians. Blend these, not the axis-angle vectors."""
