"""Projection of hands into the crop: as seen, and with pose and place separated for training.

Convention: as in `core.camera`; joints are in metres in the camera frame.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hawor_pipeline.core.camera import MIN_DEPTH_M, pixels_to_crop, project_pinhole
from hawor_pipeline.core.types import promote


def joints_in_crop(
    joints_m: Float[Tensor, "*batch joints 3"],
    intrinsics: Float[Tensor, "*batch 3 3"],
    box_center_px: Float[Tensor, "*batch 2"],
    box_size_px: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch joints 2"]:
    """Project joints into the crop, to crop units, in at least float32 also under autocast.

    Source:
        `project_pinhole`, then `pixels_to_crop`.

    Example:
        >>> K = torch.tensor([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]])
        >>> joints_in_crop(torch.tensor([[0.1, 0, 1]]), K, torch.tensor([50.0, 40]), torch.tensor(20.0)).tolist()
        [[0.5, 0.0]]
    """
    # bfloat16 resolves only every fourth pixel at pixel 1000.
    with torch.autocast(joints_m.device.type, enabled=False):
        pixels = project_pinhole(promote(joints_m), promote(intrinsics))
        return pixels_to_crop(pixels, promote(box_center_px), promote(box_size_px))


def pose_and_place_in_crop(
    joints_m: Float[Tensor, "*batch joints 3"],
    true_joints_m: Float[Tensor, "*batch joints 3"],
    valid: Bool[Tensor, "*batch"],
    intrinsics: Float[Tensor, "*batch 3 3"],
    box_center_px: Float[Tensor, "*batch 2"],
    box_size_px: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch twice_joints 2"]:
    """Project the predicted pose at the true wrist, and the true pose at the predicted wrist.

    In one projection of both, a hand with a wrong orientation has its smallest error when it shrinks to a point, and
    the camera's scale diverges. Separated, each has its smallest error at the ground truth, whatever the other is.

    Args:
        joints_m: the wrist is joint 0.
        valid: (*batch), true where ground truth exists; elsewhere the prediction replaces it, without gradient.

    Returns:
        (*batch, 2 joints, 2), crop units: first the joints of the predicted pose, then those of the true pose. Joints
        of a predicted pose that come nearer than `MIN_DEPTH_M` have no projection: the true joint replaces them,
        without gradient.

    Source:
        Definition; docs/decisions/0022-pose-and-place-apart-in-the-crop.md.

    Example:
        >>> K = torch.tensor([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]])
        >>> hand = torch.tensor([[0.0, 0, 1], [0.1, 0, 1]])
        >>> far = hand + torch.tensor([0.0, 0, 1])
        >>> box = (torch.tensor([50.0, 40]), torch.tensor(20.0))
        >>> pose_and_place_in_crop(far, hand, torch.tensor(True), K, *box)[:, 0].tolist()
        [0.0, 0.5, 0.0, 0.25]
    """
    joints = promote(joints_m)
    true = torch.where(valid[..., None, None], promote(true_joints_m), joints.detach())
    wrist, true_wrist = joints[..., :1, :], true[..., :1, :]
    pose, place = joints - wrist + true_wrist, true - true_wrist + wrist
    pose = torch.where(pose[..., 2:] > MIN_DEPTH_M, pose, true)
    return joints_in_crop(torch.cat((pose, place), -2), intrinsics, box_center_px, box_size_px)
