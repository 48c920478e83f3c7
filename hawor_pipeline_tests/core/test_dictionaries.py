"""The loss on the earlier system's dictionaries: hand-computed terms, the same total as structs, clear errors."""

import math

import pytest
import torch
from torch import Tensor

from hawor_pipeline.core.loss import EnhancedTrainingLoss
from hawor_pipeline.core.mano import ManoLayer
from hawor_pipeline.core.rotations import rotmat_to_axis_angle
from hawor_pipeline.core.weighting import DEFAULT_WEIGHTS
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline_tests.core.test_loss import NEUTRAL, B, T, a_truth, decode


def rho(distance: float, scale: float) -> float:
    """The penalty of a distance, by hand: 0.1 u^2 + 0.5 u + 0.4 Huber(u)."""
    u = distance / scale
    return 0.1 * u * u + 0.5 * u + 0.4 * (u * u / 2 if u < 1 else u - 0.5)


def images(count: int = 3) -> tuple[dict, dict]:
    """Return a prediction that equals the ground truth, in the earlier system's form."""
    generator = torch.Generator().manual_seed(3)
    joints = 0.05 * torch.randn(count, 21, 3, generator=generator) + torch.tensor([0.0, 0.0, 0.5])
    crop = torch.rand(count, 21, 2, generator=generator) - 0.5
    orient, pose = torch.zeros(count, 3), torch.zeros(count, 45)
    betas = torch.randn(count, 10, generator=generator)
    truth = {
        "gt_keypoints_3d": joints,
        "gt_keypoints_2d": crop,
        "gt_mano_params": {"global_orient": orient, "hand_pose": pose, "betas": betas},
    }
    pred = {
        "pred_keypoints_3d": joints.clone(),
        "pred_keypoints_2d": crop.clone(),
        "pred_mano_params": {
            "global_orient": torch.eye(3).expand(count, 1, 3, 3).clone(),
            "hand_pose": torch.eye(3).expand(count, 15, 3, 3).clone(),
            "betas": betas.clone(),
        },
        "pred_cam": torch.zeros(count, 3),
    }
    return pred, truth


def static(**weights: float) -> EnhancedTrainingLoss:
    return EnhancedTrainingLoss(weights, use_adaptive_weights=False)


def test_terms_are_those_computed_by_hand() -> None:
    pred, truth = images()
    pred["pred_keypoints_3d"][:, 7, 0] += 0.030  # one of 21 joints by 3 cm
    pred["pred_keypoints_2d"][:, 4, 1] += 0.02
    pred["pred_mano_params"]["betas"][:, 2] += 2.0
    angle = 0.3  # axis angles may stand beside matrices
    pred["pred_mano_params"]["global_orient"] = torch.tensor([[0.0, angle, 0.0]]).repeat(3, 1)
    total, parts = static()(pred, truth)
    expected = {
        "KEYPOINTS_3D": rho(0.030, 0.010) / 21,
        "KEYPOINTS_2D": rho(0.02, 0.05) / 21,
        "GLOBAL_ORIENT": rho(2 * math.sin(angle / 2), 0.2),
        "HAND_POSE": 0.0,
        "BETAS": rho(2.0, 1.0) / 10,
    }
    assert {name: value.item() for name, value in parts.items()} == pytest.approx(expected, abs=1e-6, rel=1e-5)
    assert total.item() == pytest.approx(sum(DEFAULT_WEIGHTS[name] * value for name, value in expected.items()))


def test_masks_select_images_and_weigh_hidden_joints() -> None:
    pred, truth = images()
    pred["pred_keypoints_3d"][0] += 5 * torch.rand(21, 3)
    pred["pred_keypoints_3d"][1, 7, 0] += 0.030
    valid = torch.tensor([False, True, True])
    hidden = torch.zeros(3, 21)
    hidden[1, 7] = 1
    _, parts = static()(pred, truth, valid_mask=valid, occlusion_mask=hidden)
    assert parts["KEYPOINTS_3D"].item() == pytest.approx(rho(0.030, 0.010) / 42, rel=1e-4)
    assert parts["OCCLUSION_ROBUSTNESS"].item() == pytest.approx(4 * rho(0.030, 0.010) / (41 + 4), rel=1e-4)
    _, parts = static()(pred, truth, valid_mask=valid, occlusion_mask=torch.tensor([0, 1, 0]))
    assert parts["OCCLUSION_ROBUSTNESS"].item() == pytest.approx(4 * rho(0.030, 0.010) / (21 + 4 * 21), rel=1e-4)
    assert "OCCLUSION_ROBUSTNESS" not in static()(pred, truth)[1]


@pytest.mark.parametrize("as_axis_angles", [False, True])
@pytest.mark.parametrize("prefix", ["gt_", ""])
def test_clips_give_the_total_and_gradient_of_structs(mano_layer: ManoLayer, as_axis_angles: bool, prefix: str) -> None:
    target, vertices = a_truth(mano_layer)
    target.joint_in_frame[:] = True
    numbers = (NEUTRAL + torch.randn(B, T, 109) * 0.1).requires_grad_()
    guess = decode(mano_layer, numbers)

    def mano(rotmats: Tensor, betas: Tensor) -> dict[str, Tensor]:
        if as_axis_angles:
            rotmats = rotmat_to_axis_angle(rotmats)
        return {"global_orient": rotmats[:, :, :1], "hand_pose": rotmats[:, :, 1:], "betas": betas}

    pred = {
        "pred_keypoints_3d": guess.joints_m,
        "pred_keypoints_2d": guess.joints_crop,
        "pred_mano_params": mano(guess.rotmats, guess.betas),
        "pred_vertices": guess.vertices_m,
    }
    truth = {
        "keypoints_3d": target.joints_m,
        "keypoints_2d": target.joints_crop,
        "mano_params": mano(target.rotmats, target.betas),
        "vertices": vertices,
    }
    truth = {prefix + key: value for key, value in truth.items()}
    loss = EnhancedTrainingLoss(faces=mano_layer.faces, use_adaptive_weights=False)
    one, its_parts = loss(guess, target, vertices)
    (its_gradient,) = torch.autograd.grad(one, numbers, retain_graph=True)
    two, parts = loss(pred, truth, occlusion_mask=~target.joint_visible)
    (gradient,) = torch.autograd.grad(two, numbers)
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-6)
    assert set(parts) == set(its_parts)
    assert "TEMPORAL_CONSISTENCY" in parts
    torch.testing.assert_close(gradient, its_gradient, rtol=1e-2, atol=1e-4)


def test_a_part_that_neither_has_is_no_term_and_adaptive_weights_learn_without_it() -> None:
    pred, truth = images()
    pred["pred_keypoints_3d"] = (pred["pred_keypoints_3d"] + 0.01 * torch.rand(3, 21, 3)).requires_grad_()
    loss = EnhancedTrainingLoss()
    only = {"pred_keypoints_3d": pred["pred_keypoints_3d"]}, {"gt_keypoints_3d": truth["gt_keypoints_3d"]}
    total, parts = loss(*only)
    total.backward()
    assert list(parts) == ["KEYPOINTS_3D"]
    assert pred["pred_keypoints_3d"].grad.abs().sum() > 0


def without(data: dict, *path: str) -> dict:
    key, *rest = path
    changed = dict(data)
    value = changed.pop(key)
    return {**changed, key: without(value, *rest)} if rest else changed


FAULTS = {
    "no joints predicted": (lambda p, t: (without(p, "pred_keypoints_3d"), t), "pred_keypoints_3d"),
    "no true joints": (lambda p, t: (p, without(t, "gt_keypoints_3d")), "gt_keypoints_3d"),
    "no true 2D": (lambda p, t: (p, without(t, "gt_keypoints_2d")), "gt_keypoints_2d.*KEYPOINTS_2D"),
    "no predicted pose": (
        lambda p, t: (without(p, "pred_mano_params", "hand_pose"), t),
        r"pred_mano_params\['hand_pose'\].*HAND_POSE",
    ),
    "no predicted mesh": (lambda p, t: (p, {**t, "gt_vertices": torch.zeros(3, 778, 3)}), "pred_vertices.*MESH"),
    "16 joints": (
        lambda p, t: ({**p, "pred_keypoints_3d": torch.zeros(3, 16, 3)}, t),
        r"\(3, 16, 3\), expected \(3, 21, 3\)",
    ),
    "one hand without a batch": (
        lambda p, t: ({**p, "pred_keypoints_3d": torch.zeros(21, 3)}, t),
        r"\(21, 3\), expected \(images, 21, 3\) or \(clips, time, 21, 3\)",
    ),
    "another batch": (
        lambda p, t: (p, {**t, "gt_keypoints_2d": torch.zeros(2, 21, 2)}),
        r"gt_keypoints_2d of shape \(2, 21, 2\), expected \(3, 21, 2\)",
    ),
    "confidences": (lambda p, t: (p, {**t, "gt_keypoints_3d": torch.zeros(3, 21, 4)}), r"\(3, 21, 4\)"),
    "six numbers": (
        lambda p, t: ({**p, "pred_mano_params": {**p["pred_mano_params"], "hand_pose": torch.zeros(3, 15, 6)}}, t),
        r"\(3, 15, 6\), expected \(3, 45\)",
    ),
    "few betas": (
        lambda p, t: ({**p, "pred_mano_params": {**p["pred_mano_params"], "betas": torch.zeros(3, 9)}}, t),
        r"\(3, 9\), expected \(3, 10\)",
    ),
    "pixels": (lambda p, t: (p, {**t, "gt_keypoints_2d": 200 * torch.rand(3, 21, 2)}), "pixels.*crop units"),
    "an array": (lambda p, t: ({**p, "pred_keypoints_3d": torch.zeros(3, 21, 3).numpy()}, t), "ndarray.*tensor"),
    "parameters as a tensor": (lambda p, t: ({**p, "pred_mano_params": torch.zeros(3, 58)}, t), "Tensor.*dictionary"),
    "one key twice": (
        lambda p, t: (p, {**t, "keypoints_3d": t["gt_keypoints_3d"]}),
        "gt_keypoints_3d and keypoints_3d",
    ),
    "a sequence apart": (lambda p, t: ({**p, "pred_sequence": p["pred_keypoints_3d"]}, t), r"clips, time, 21, 3"),
    "a list": (lambda p, t: ([1], t), "list"),
    "empty": (lambda p, t: ({}, t), "none.*pred_keypoints_3d"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.usefixtures("unhooked")
def test_faults_name_what_was_found_and_expected(fault: str) -> None:
    change, message = FAULTS[fault]
    with pytest.raises(DataError, match=message) as error:
        static()(*change(*images()))
    assert "found" in str(error.value) and "expected" in str(error.value)


@pytest.mark.parametrize(
    "masks",
    [
        {"valid_mask": torch.ones(2, dtype=torch.bool)},
        {"valid_mask": torch.ones(3)},
        {"occlusion_mask": torch.zeros(3, 20)},
        {"occlusion_mask": torch.full((3, 21), 0.5)},
    ],
)
def test_masks_that_do_not_fit_are_refused(masks: dict[str, Tensor]) -> None:
    with pytest.raises(DataError, match=f"found.*{next(iter(masks))}.*expected"):
        static()(*images(), **masks)


def test_a_key_whose_term_is_off_may_be_missing() -> None:
    pred, truth = images()
    _, parts = static(KEYPOINTS_2D=0.0)(pred, without(truth, "gt_keypoints_2d"))
    assert "KEYPOINTS_2D" not in parts


def test_what_dictionaries_cannot_serve_is_refused(mano_layer: ManoLayer) -> None:
    with pytest.raises(ConfigError, match="gradnorm_head"):
        EnhancedTrainingLoss(loss_weighting="gradnorm_head")(*images())
    target, vertices = a_truth(mano_layer)
    with pytest.raises(ConfigError, match="joint_visible"):
        static()(decode(mano_layer, NEUTRAL.expand(B, T, 109)), target, valid_mask=target.valid)
    with pytest.raises(ConfigError, match="valid_mask"):
        static()(*images(), vertices)


@pytest.mark.parametrize("adaptive", [False, True])
def test_loss_weights_are_plain_numbers_in_use(adaptive: bool) -> None:
    loss = EnhancedTrainingLoss({"BETAS": 0.25}, use_adaptive_weights=adaptive)
    expected = {**DEFAULT_WEIGHTS, "BETAS": 0.25}
    assert loss.get_loss_weights() == pytest.approx(expected)
    assert all(type(weight) is float for weight in loss.get_loss_weights().values())
    pred, truth = images()
    pred["pred_keypoints_3d"][:, 7, 0] += 0.030
    total, parts = loss(pred, truth)
    weights = loss.get_loss_weights()
    assert total.item() == pytest.approx(sum(weights[name] * value.item() for name, value in parts.items()), rel=1e-5)
