"""Joint angles from a pose vector, the inverse of `angles_to_pose`, by the closed formulas of Euler angles."""

import numpy as np
from scipy.spatial.transform import Rotation

from hawor_pipeline.sample.hand import rest_skeleton


def pose_to_joint_angles(pose: np.ndarray) -> np.ndarray:
    """Convert (..., 45) axis-angle of a right hand to (..., 15, 3) flexion, abduction, twist in radians.

    In the frame of the three axes a joint's rotation is Rx(flexion) Ry(abduction) Rz(twist).
    """
    rest = rest_skeleton()
    frame = np.stack([rest.flexion_axes, rest.abduction_axes, rest.bone_axes], axis=-1)  # (15, 3, 3), columns
    turn = Rotation.from_rotvec(np.reshape(pose, (-1, 3))).as_matrix().reshape(*np.shape(pose)[:-1], 15, 3, 3)
    local = np.swapaxes(frame, -1, -2) @ turn @ frame
    return np.stack(
        [
            np.arctan2(-local[..., 1, 2], local[..., 2, 2]),
            np.arcsin(np.clip(local[..., 0, 2], -1, 1)),
            np.arctan2(-local[..., 0, 1], local[..., 0, 0]),
        ],
        axis=-1,
    )
