"""What the MANO numbers of a data set mean, said once per data set instead of wherever they are used.

Everything inside this package is absolute: hand poses include the mean pose, and the left model is the one that the
data set was fitted with. Mirroring to the right is `core.rotations.mirror_rotmat`, and shape is refitted for it.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class ManoConvention:
    """How a data set states hand poses and shapes.

    Attributes:
        mean_included: hand poses are absolute (smplx: flat_hand_mean=True); else they are relative to the mean pose.
        left_shapedirs_fixed: left hands were fitted with the corrected left model, whose shape directions have the
            sign that the official file lacks (smplx issue 48).
    """

    mean_included: bool
    left_shapedirs_fixed: bool

    def to_absolute(self, pose: np.ndarray, hands_mean: np.ndarray) -> np.ndarray:
        """Hand poses (..., 45), axis-angle, as the data set has them, to absolute ones.

        >>> ARCTIC.to_absolute(np.zeros(45), np.full(45, 0.1))[0].item()
        0.1
        """
        return pose if self.mean_included else pose + hands_mean

    def from_absolute(self, pose: np.ndarray, hands_mean: np.ndarray) -> np.ndarray:
        """Absolute hand poses (..., 45), axis-angle, to what the data set would say."""
        return pose if self.mean_included else pose - hands_mean


# World-frame parameters relative to the mean pose; fitted with the official left model as it is.
ARCTIC = ManoConvention(mean_included=False, left_shapedirs_fixed=False)
# What HaMeR, HaWoR and WiLoR predict.
ABSOLUTE = ManoConvention(mean_included=True, left_shapedirs_fixed=True)
