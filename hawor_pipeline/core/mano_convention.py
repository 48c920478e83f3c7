"""Meaning of the MANO parameters and joints of a dataset.

Inside this package hand poses are absolute (they include the mean pose), and the left model is the one that the dataset
was fitted with. `core.rotations.mirror_rotmat` mirrors to the right, and the shape is refitted for it. Stored joints
are the same for all datasets (those of the skeleton, with the fingertips of smplx), so that mixtures train on one
definition; evaluation computes the joints that the dataset's publication measures.

Manifests record the convention, and everything that poses labels or predictions of shards takes it from there.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class ManoConvention:
    """Convention of a dataset for hand poses and shapes.

    Attributes:
        mean_included: hand poses are absolute (smplx: flat_hand_mean=True); else they are relative to the mean pose.
        left_shapedirs_fixed: left hands were fitted with the corrected left model, whose shape directions have the
            sign that the official file lacks (smplx issue 48); else with the model as published.
        tips: name in `core.mano.TIP_SETS` of the fingertips of the dataset's own joints.
        joints_from_mesh: the dataset's own joints are regressed from the posed mesh; else they are the posed skeleton.
    """

    mean_included: bool = False
    left_shapedirs_fixed: bool = False
    tips: str = "smplx"
    joints_from_mesh: bool = False

    @property
    def has_stored_joints(self) -> bool:
        """The dataset's own joints are those that shards store."""
        return self.tips == "smplx" and not self.joints_from_mesh

    def to_absolute(self, pose: np.ndarray, hands_mean: np.ndarray) -> np.ndarray:
        """Convert hand poses (..., 45), axis-angle, of the dataset to absolute poses.

        >>> ARCTIC.to_absolute(np.zeros(45), np.full(45, 0.1))[0].item()
        0.1
        """
        return pose if self.mean_included else pose + hands_mean


# World-frame parameters relative to the mean pose; fitted with the unmodified official left model.
ARCTIC = ManoConvention(mean_included=False, left_shapedirs_fixed=False)
