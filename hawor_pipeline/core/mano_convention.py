"""Meaning of the MANO parameters of a dataset.

Inside this package hand poses are absolute (they include the mean pose), and the left model is the one that the dataset
was fitted with. `core.rotations.mirror_rotmat` mirrors to the right, and the shape is refitted for it.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class ManoConvention:
    """Convention of a dataset for hand poses and shapes.

    Attributes:
        mean_included: hand poses are absolute (smplx: flat_hand_mean=True); else they are relative to the mean pose.
        left_shapedirs_fixed: left hands were fitted with the corrected left model, whose shape directions have the
            sign that the official file lacks (smplx issue 48).
    """

    mean_included: bool
    left_shapedirs_fixed: bool

    def to_absolute(self, pose: np.ndarray, hands_mean: np.ndarray) -> np.ndarray:
        """Convert hand poses (..., 45), axis-angle, of the dataset to absolute poses.

        >>> ARCTIC.to_absolute(np.zeros(45), np.full(45, 0.1))[0].item()
        0.1
        """
        return pose if self.mean_included else pose + hands_mean


# World-frame parameters relative to the mean pose; fitted with the unmodified official left model.
ARCTIC = ManoConvention(mean_included=False, left_shapedirs_fixed=False)
