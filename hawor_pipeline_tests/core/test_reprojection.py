"""Pose and position in the crop: each has its own term, and missing labels reach neither value nor gradient."""

import pytest
import torch

from hawor_pipeline.core.camera import camera_from_translation, full_translation
from hawor_pipeline.core.losses import keypoints_2d_loss
from hawor_pipeline.core.reprojection import joints_in_crop, pose_and_place_in_crop
from hawor_pipeline.core.rotations import axis_angle_to_rotmat

FOCAL, CENTER, SIZE, PRINCIPAL = 1500.0, (700.0, 400.0), 180.0, (640.0, 360.0)
INTRINSICS = torch.tensor([[FOCAL, 0, PRINCIPAL[0]], [0, FOCAL, PRINCIPAL[1]], [0, 0, 1]])
BOX = (torch.tensor(CENTER), torch.tensor(SIZE))
CAMERA = (*BOX, torch.tensor(FOCAL), torch.tensor(PRINCIPAL))
VALID = torch.tensor(True)


@pytest.fixture()
def hand() -> torch.Tensor:
    """Draw 21 joints around a wrist at the origin."""
    joints = 0.08 * torch.randn(21, 3, generator=torch.Generator().manual_seed(3))
    return joints - joints[:1]


@pytest.fixture()
def wrist_m() -> torch.Tensor:
    return torch.tensor([0.06, 0.04, 1.4])


def term(joints: torch.Tensor, true: torch.Tensor, valid: torch.Tensor = VALID) -> torch.Tensor:
    twice = joints_in_crop(torch.cat((true, true), -2).nan_to_num(1.0), INTRINSICS, *BOX)
    apart = pose_and_place_in_crop(joints, true, valid, INTRINSICS, *BOX)
    return keypoints_2d_loss(apart, twice, valid[None].expand(42))


def test_the_truth_costs_nothing(hand, wrist_m) -> None:
    assert term(hand + wrist_m, hand + wrist_m).item() == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("off", [(0.5, 0.0, 0.0), (2.0, 0.0, 0.0), (1.0, 0.03, 0.0), (1.0, 0.0, -0.02)])
def test_a_wrong_camera_is_pulled_to_the_truth(hand, wrist_m, off) -> None:
    """Scale too small, too large, shifted: a step against the gradient comes nearer, though the pose is wrong."""
    true = camera_from_translation(wrist_m, *CAMERA)
    turned = hand @ axis_angle_to_rotmat(torch.tensor([0.0, 2.1, 0.3])).T
    camera = (true * torch.tensor([off[0], 1.0, 1.0]) + torch.tensor([0.0, *off[1:]])).requires_grad_()
    place = full_translation(camera, *CAMERA)
    (pull,) = torch.autograd.grad(term(turned + place, hand + wrist_m), camera)
    wrong = (camera - true).detach()
    for axis in wrong.abs().nonzero().flatten():
        assert pull[axis] * wrong[axis] > 0


def test_pose_and_place_are_judged_by_themselves(hand, wrist_m) -> None:
    pose, place = (0.9 * hand).requires_grad_(), (wrist_m + 0.05).requires_grad_()
    apart = pose_and_place_in_crop(pose + place, hand + wrist_m, VALID, INTRINSICS, *BOX)
    of_pose = torch.autograd.grad(apart[1:21].sum(), (pose, place), retain_graph=True)
    of_place = torch.autograd.grad(apart[21:].sum(), (pose, place))
    assert of_pose[0].abs().max() > 0 and of_pose[1].abs().max() < 1e-4
    assert of_place[1].abs().max() > 0 and of_place[0][1:].abs().max() == 0


def test_invalid_hands_and_those_behind_the_lens_leave_no_trace(hand, wrist_m) -> None:
    joints = (hand + wrist_m).requires_grad_()
    total = term(joints, torch.full((21, 3), torch.nan), torch.tensor(False))
    assert total.item() == 0.0
    assert torch.autograd.grad(total, joints)[0].abs().max() == 0.0
    behind = hand * torch.tensor([1.0, 1.0, 0.0]) + torch.tensor([0.0, 0.0, 0.03])  # a wrist nearer than in any image
    apart = pose_and_place_in_crop(1.2 * hand + wrist_m, behind, VALID, INTRINSICS, *BOX)
    assert apart.isfinite().all()
    same = joints_in_crop(behind, INTRINSICS, *BOX)
    hidden = (1.2 * hand)[:, 2] + 0.03 <= 0.05
    assert hidden.any() and torch.equal(apart[:21][hidden], same[hidden])


def test_half_precision_around_it_costs_nothing(hand, wrist_m) -> None:
    exact = joints_in_crop(hand + wrist_m, INTRINSICS, *BOX)
    with torch.autocast("cpu", torch.bfloat16):
        under = joints_in_crop(hand + wrist_m, INTRINSICS, *BOX)
    assert under.dtype == torch.float32
    assert torch.equal(under, exact)
