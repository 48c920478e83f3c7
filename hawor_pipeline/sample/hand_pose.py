"""Poses of the hand: joint limits, named grasps and the conversion of joint angles to MANO's pose vector.

Convention: right hand, radians; joints 1..15 in MANO's order. A joint has three angles, in this order: flexion
(positive closes the hand), abduction (positive towards the thumb's side) and twist (about the bone). A pose is the
(45,) absolute axis-angle vector, mean pose included: subtract the model's `hands_mean` to get the pose that smplx
expects with `flat_hand_mean=False`.
"""

import numpy as np
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


# Degrees. A finger: (MCP flexion, MCP abduction, PIP flexion, DIP flexion).
# The thumb: (CMC flexion, CMC abduction, CMC twist, MCP flexion, IP flexion).
_GRASPS_DEG: dict[str, dict[str, tuple[float, ...]]] = {
    "open": {"index": (-4, 2, 0, 0), "middle": (-4, 0, 0, 0), "ring": (-4, -2, 0, 0), "pinky": (-4, -3, 0, 0),
             "thumb": (-5, 8, 0, 0, -4)},
    "relaxed": {"index": (14, -1, 24, 12), "middle": (19, 0, 28, 14), "ring": (22, 1, 30, 15),
                "pinky": (23, 3, 30, 15), "thumb": (6, -4, 4, 8, 12)},
    "fist": {"index": (76, -2, 98, 58), "middle": (80, 0, 100, 60), "ring": (82, 2, 100, 60),
             "pinky": (82, 6, 98, 58), "thumb": (16, 18, -28, 32, 46)},
    "power": {"index": (38, 1, 44, 26), "middle": (42, 0, 46, 28), "ring": (46, 0, 50, 30), "pinky": (50, 2, 50, 30),
              "thumb": (18, 20, -20, 8, 16)},
    "pinch": {"index": (44, -7, 44, 25), "middle": (40, 0, 36, 18), "ring": (34, 0, 32, 18), "pinky": (28, 0, 30, 16),
              "thumb": (29, 6, -24, 1, -1)},
    "tripod": {"index": (48, 3, 41, 23), "middle": (61, -1, 49, 28), "ring": (62, 2, 66, 36), "pinky": (66, 4, 66, 36),
               "thumb": (26, 9, -15, 9, 21)},
    "flat_on_side": {"index": (24, 4, 12, 6), "middle": (26, 0, 12, 6), "ring": (28, -3, 14, 6),
                     "pinky": (30, -5, 16, 6), "thumb": (12, 22, -14, 0, 2)},
    "hook": {"index": (12, 0, 78, 48), "middle": (14, 0, 82, 50), "ring": (16, 1, 82, 50), "pinky": (18, 4, 78, 48),
             "thumb": (4, -6, -4, 10, 18)},
    "point": {"index": (6, 0, 6, 3), "middle": (76, 0, 96, 56), "ring": (80, 2, 98, 58), "pinky": (80, 6, 96, 56),
              "thumb": (30, 9, -28, 17, 48)},
}  # fmt: skip


def _angles(grasp: dict[str, tuple[float, ...]]) -> np.ndarray:
    """Return the joint angles (15, 3), radians, of one row of `_GRASPS_DEG`."""
    rows = []
    for digit in DIGITS:
        if digit == "thumb":
            flexion, abduction, twist, middle, last = grasp[digit]
        else:
            flexion, abduction, middle, last = grasp[digit]
            twist = 0.0
        rows += [(flexion, abduction, twist), (middle, 0.0, 0.0), (last, 0.0, 0.0)]
    return np.radians(np.array(rows))


GRASP_ANGLES = {name: _angles(grasp) for name, grasp in _GRASPS_DEG.items()}
"""(15, 3) joint angles of each named grasp, radians. Blend these, not the axis-angle vectors."""
