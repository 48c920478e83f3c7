"""The weighted loss: settings take effect, missing labels are skipped, resumed state continues."""

import copy
import math
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from hawor_pipeline.core import losses
from hawor_pipeline.core.loss import EnhancedTrainingLoss
from hawor_pipeline.core.mano import ManoLayer
from hawor_pipeline.core.rotations import rot6d_to_rotmat
from hawor_pipeline.core.types import HandPrediction, HandTarget
from hawor_pipeline.core.weighting import (
    CALIBRATION_STEPS,
    DEFAULT_WEIGHTS,
    DRIFT_LIMIT,
    SHARES,
    TERMS,
    LossWeighting,
    Mode,
    resolve_weights,
)
from hawor_pipeline.errors import CheckpointError, ConfigError
from hawor_pipeline.untrusted.mano_files import load_mano

B, T = 2, 4
NEUTRAL = torch.cat((torch.tensor([1.0, 0, 0, 0, 1, 0]).repeat(16), torch.zeros(10), torch.tensor([9.0, 0, 0])))


def decode(layer: ManoLayer, numbers: Tensor) -> HandPrediction:
    """Decode 109 numbers per frame as a network's head does."""
    rotmats, betas = rot6d_to_rotmat(numbers[..., :96].unflatten(-1, (16, 6))), numbers[..., 96:106]
    camera = numbers[..., 106:]
    depth = 4 / camera[..., :1].clamp_min(0.5)
    translation = torch.cat((camera[..., 1:], depth), -1)
    hand = layer(rotmats, betas)
    joints, vertices = hand.joints + translation.unsqueeze(-2), hand.vertices + translation.unsqueeze(-2)
    crop = joints[..., :2] / joints[..., 2:].clamp_min(0.05) * 4
    return HandPrediction(rotmats, betas, camera, translation, joints, vertices, crop)


def a_truth(layer: ManoLayer, clips: int = B) -> tuple[HandTarget, Tensor]:
    """Draw some clips and their vertices."""
    generator = torch.Generator().manual_seed(7)
    hand = decode(layer, NEUTRAL + torch.randn(clips, T, 109, generator=generator) * 0.2)
    target = HandTarget(
        rotmats=hand.rotmats,
        betas=hand.betas,
        translation_m=hand.translation_m,
        joints_m=hand.joints_m,
        joints_crop=hand.joints_crop,
        joint_visible=torch.rand(clips, T, 21, generator=generator) < 0.7,
        joint_in_frame=torch.rand(clips, T, 21, generator=generator) < 0.9,
        valid=torch.ones(clips, T, dtype=torch.bool),
        frame=torch.arange(T).expand(clips, T),
    )
    return target, hand.vertices_m


@pytest.fixture(scope="module")
def truth(mano_layer: ManoLayer) -> tuple[HandTarget, Tensor]:
    return a_truth(mano_layer)


@pytest.fixture
def guess(mano_layer: ManoLayer) -> HandPrediction:
    return decode(mano_layer, (NEUTRAL + torch.randn(B, T, 109) * 0.1).requires_grad_())


def full(mano_layer: ManoLayer, *args, **kwargs) -> EnhancedTrainingLoss:
    return EnhancedTrainingLoss(*args, faces=mano_layer.faces, **kwargs)


def test_static_total_is_the_weighted_sum_of_the_terms(mano_layer, truth, guess) -> None:
    total, parts = full(mano_layer, {"BETAS": 0.3}, use_adaptive_weights=False)(guess, *truth)
    assert tuple(parts) == TERMS
    weights = DEFAULT_WEIGHTS | {"BETAS": 0.3}
    assert total.item() == pytest.approx(sum(weights[n] * parts[n].item() for n in TERMS), rel=1e-6)
    target = truth[0]
    torch.testing.assert_close(parts["BETAS"], losses.betas_loss(guess.betas, target.betas).detach())
    torch.testing.assert_close(
        parts["KEYPOINTS_3D"], losses.keypoints_3d_loss(guess.joints_m, target.joints_m).detach()
    )
    expected = losses.rotation_loss(guess.rotmats[..., 1:, :, :], target.rotmats[..., 1:, :, :]).detach()
    torch.testing.assert_close(parts["HAND_POSE"], expected)


@pytest.mark.parametrize("mode", ["static", "ema", "gradnorm_head"])
def test_truth_as_prediction_costs_nothing(mano_layer, truth, mode) -> None:
    target, vertices = truth
    pred = HandPrediction(
        target.rotmats,
        target.betas,
        torch.zeros(B, T, 3),
        target.translation_m,
        target.joints_m,
        vertices,
        target.joints_crop,
    )
    total, parts = full(mano_layer, loss_weighting=mode)(pred, target, vertices)
    assert total.item() == pytest.approx(0, abs=1e-5)
    assert max(abs(p.item()) for p in parts.values()) < 1e-4


@pytest.fixture(scope="module")
def plain_shares(mano_layer: ManoLayer, truth) -> dict[str, dict[str, Tensor]]:
    """Return the logged shares after three passes with the default weights, by mode."""
    return {mode: shares_after_three(mano_layer, truth, None, mode) for mode in ("static", "ema", "gradnorm_head")}


def shares_after_three(layer: ManoLayer, truth, weights: dict[str, float] | None, mode: Mode) -> dict[str, Tensor]:
    noise = torch.randn(B, T, 109, generator=torch.Generator().manual_seed(1)) * 0.1
    pred = decode(layer, (NEUTRAL + noise).requires_grad_())
    loss = full(layer, weights, loss_weighting=mode)
    for _ in range(3):
        loss(pred, *truth)
    return loss.shares()


@pytest.mark.parametrize(
    ("mode", "name"), [("static", "HAND_POSE"), ("gradnorm_head", "BETAS")] + [("ema", name) for name in TERMS]
)
def test_doubling_a_weight_raises_its_share(mano_layer, truth, plain_shares, mode, name) -> None:
    doubled = shares_after_three(mano_layer, truth, {name: 2 * DEFAULT_WEIGHTS[name]}, mode)
    assert 1.1 * plain_shares[mode][name] < doubled[name] < 2 * plain_shares[mode][name] + 1e-6
    assert all(doubled[other] < plain_shares[mode][other] for other in TERMS if other != name)
    assert sum(s.item() for s in doubled.values()) == pytest.approx(1)


def test_ema_shares_follow_the_preset_and_the_scale_stays_that_of_static(mano_layer, truth, guess) -> None:
    loss = full(mano_layer)
    for _ in range(3):
        total, parts = loss(guess, *truth)
        for name in TERMS:
            assert loss.shares()[name].item() == pytest.approx(SHARES[name], rel=1e-4)
        assert total.item() == pytest.approx(sum(DEFAULT_WEIGHTS[n] * parts[n].item() for n in TERMS), rel=1e-4)


@pytest.mark.parametrize(
    ("name", "mode"), [(n, m) for n in TERMS for m in ("static", "ema")] + [("HAND_POSE", "gradnorm_head")]
)
def test_weight_zero_switches_a_term_off(mano_layer, truth, guess, name, mode) -> None:
    loss = full(mano_layer, {name: 0.0}, loss_weighting=mode)
    for _ in range(2):
        total, parts = loss(guess, *truth)
    assert name not in parts and len(parts) == len(TERMS) - 1
    assert loss.weights()[name].item() == 0 and total.isfinite()


def test_temporal_window_of_one_switches_the_temporal_term_off(mano_layer, truth, guess) -> None:
    assert "TEMPORAL_CONSISTENCY" not in full(mano_layer, temporal_window=1)(guess, *truth)[1]
    wide = full(mano_layer, temporal_window=5)(guess, *truth)[1]["TEMPORAL_CONSISTENCY"]
    narrow = full(mano_layer, temporal_window=2)(guess, *truth)[1]["TEMPORAL_CONSISTENCY"]
    assert wide != narrow


def test_missing_inputs_leave_terms_out(mano_layer, truth, guess) -> None:
    target, vertices = truth
    assert {"MESH_VERTICES", "MESH_FACES"}.isdisjoint(full(mano_layer)(guess, target)[1])
    without_faces = EnhancedTrainingLoss()(guess, target, vertices)[1]
    assert "MESH_VERTICES" in without_faces and "MESH_FACES" not in without_faces


def test_batches_without_samples_give_nan_and_leave_no_trace(mano_layer, truth, guess) -> None:
    target, vertices = truth
    loss = full(mano_layer)
    loss(guess, target, vertices)
    before = copy.deepcopy(loss.weighting.level)
    total, parts = loss(guess, replace(target, joint_in_frame=torch.zeros(B, T, 21, dtype=torch.bool)), vertices)
    assert parts["KEYPOINTS_2D"].isnan() and total.isfinite()
    assert loss.weighting.level[TERMS.index("KEYPOINTS_2D")] == before[TERMS.index("KEYPOINTS_2D")]
    assert loss.weighting.updates.tolist() == [2, 1, 2, 2, 2, 2, 2, 2, 2]
    nothing, parts = loss(guess, replace(target, valid=torch.zeros(B, T, dtype=torch.bool)), vertices)
    assert nothing.item() == 0 and nothing.requires_grad
    assert all(part.isnan() for part in parts.values())
    nothing.backward()


def test_a_term_that_is_not_finite_shows_and_does_not_poison_the_state(mano_layer, truth, guess) -> None:
    loss = full(mano_layer)
    loss(guess, *truth)
    broken = replace(guess, betas=guess.betas * torch.inf)
    total, _ = loss(broken, *truth)
    assert not total.isfinite() and loss.weighting.level.isfinite().all()
    assert loss(guess, *truth)[0].isfinite()


def test_invalid_frames_do_not_count(mano_layer, truth, guess) -> None:
    target, vertices = truth
    valid = target.valid.clone()
    valid[:, 3:] = False
    poisoned = {
        name: torch.where(valid[(...,) + (None,) * (value.ndim - 2)], value, torch.nan)
        for name in ("rotmats", "betas", "translation_m", "joints_m", "joints_crop")
        for value in (getattr(target, name),)
    }
    loss = full(mano_layer, use_adaptive_weights=False)
    first, _ = loss(guess, replace(target, valid=valid), vertices)
    second, _ = loss(guess, replace(target, valid=valid, **poisoned), vertices)
    assert first.item() == pytest.approx(second.item(), rel=1e-6)


def test_evaluation_uses_static_weights_and_learns_nothing(mano_layer, truth, guess) -> None:
    loss = full(mano_layer)
    loss(guess, *truth)
    state = copy.deepcopy(loss.state_dict())
    total, parts = loss.eval()(guess, *truth)
    assert total.item() == pytest.approx(sum(DEFAULT_WEIGHTS[n] * parts[n].item() for n in TERMS), rel=1e-6)
    assert all(torch.equal(value, loss.state_dict()[name]) for name, value in state.items())


def test_pose_and_place_apart_replace_the_joints_in_the_crop(mano_layer, truth, guess) -> None:
    target, vertices = truth
    twice = torch.cat((target.joints_crop, target.joints_crop), -2)
    off = torch.cat((torch.full_like(target.joints_crop, 0.05), torch.zeros_like(target.joints_crop)), -2)
    _, exact = full(mano_layer)(replace(guess, joints_crop_apart=twice), target, vertices)
    _, half = full(mano_layer)(replace(guess, joints_crop_apart=twice + off), target, vertices)
    assert exact["KEYPOINTS_2D"].item() == 0.0
    assert half["KEYPOINTS_2D"].item() == pytest.approx(
        losses.keypoints_2d_loss(torch.full((1, 2), 0.05), torch.zeros(1, 2)).item() / 2, rel=1e-4
    )


def test_half_precision_inputs_give_a_float32_loss(mano_layer, truth, guess) -> None:
    half = HandPrediction(*(getattr(guess, n).bfloat16() for n in HandPrediction.__slots__ if n != "joints_crop_apart"))
    with torch.autocast("cpu", torch.bfloat16):
        total, parts = full(mano_layer)(half, *truth)
    assert total.dtype == torch.float32 and all(p.dtype == torch.float32 for p in parts.values())


@pytest.mark.parametrize("mode", ["ema", "gradnorm_head"])
def test_resuming_from_a_checkpoint_is_bit_identical(mano_layer, truth, mode, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    guesses = [NEUTRAL + torch.randn(B, T, 109, generator=generator) * 0.1 for _ in range(23)]

    def run(loss: EnhancedTrainingLoss, numbers: list[Tensor]) -> list[float]:
        return [loss(decode(mano_layer, n.clone().requires_grad_()), *truth)[0].item() for n in numbers]

    loss = full(mano_layer, loss_weighting=mode)
    loss.accumulate_grad_batches = 2
    run(loss, guesses[:13])  # an odd number: in the middle of an accumulation
    torch.save(loss.state_dict(), tmp_path / "state.pt")
    expected = run(loss, guesses[13:])
    resumed = full(mano_layer, loss_weighting=mode)
    resumed.accumulate_grad_batches = 2
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert run(resumed, guesses[13:]) == expected
    assert expected != run(full(mano_layer, loss_weighting=mode), guesses[13:]), "the state must matter"


def test_state_of_another_weighting_is_refused(mano_layer) -> None:
    state = full(mano_layer, loss_weighting="ema").state_dict()
    with pytest.raises(CheckpointError, match="expected '3:gradnorm_head:"):
        full(mano_layer, loss_weighting="gradnorm_head").load_state_dict(state)


def test_accumulated_passes_act_like_one_large_batch() -> None:
    once, split = LossWeighting(DEFAULT_WEIGHTS), LossWeighting(DEFAULT_WEIGHTS)
    split.accumulate = 2
    everything = torch.ones(len(TERMS), dtype=torch.bool)
    for _ in range(5):
        first, second = torch.rand(2, len(TERMS))
        once.observe((first + second) / 2, everything)
        once.end_pass()
        for part in (first, second):
            split.observe(part, everything)
            split.end_pass()
        torch.testing.assert_close(split(), once())
    split.observe(first, everything)
    split.end_pass()
    assert split.clock.tolist() == [5, 1]
    split.finish_step()
    split.finish_step()
    assert split.clock.tolist() == [6, 0]


def test_weights_normalise_levels_within_their_limits() -> None:
    weighting = LossWeighting(DEFAULT_WEIGHTS)
    everything = torch.ones(len(TERMS), dtype=torch.bool)
    level = torch.rand(len(TERMS)) + 0.5
    for _ in range(CALIBRATION_STEPS):
        weighting.observe(level, everything)
        weighting.end_pass()
    calibrated = weighting()
    torch.testing.assert_close(calibrated * level / (calibrated * level).sum(), torch.tensor(list(SHARES.values())))
    moved = level.clone()
    moved[0] *= 1e-8  # one term all but vanishes
    for _ in range(2000):
        weighting.observe(moved, everything)
        weighting.end_pass()
    ratio = weighting() / calibrated
    spread = ratio[0] / ratio[1:].mean()
    assert spread.item() <= DRIFT_LIMIT * DRIFT_LIMIT + 1e-3 and weighting().isfinite().all()
    total = (torch.tensor(list(DEFAULT_WEIGHTS.values())) * level).sum()
    torch.testing.assert_close((weighting() * torch.maximum(moved, 1e-3 * level)).sum(), total)


def test_weighting_does_not_read_from_the_device(mano_layer, truth, guess, monkeypatch) -> None:
    """No `item`, `tolist` or truth value of a tensor in a step: each would wait for an accelerator."""
    loss = full(mano_layer)

    def refuse(*_: object) -> None:
        raise AssertionError("the loss waits for the device")

    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "numpy"):
        monkeypatch.setattr(Tensor, name, refuse)
    for _ in range(3):
        loss(guess, *truth)


@pytest.mark.usefixtures("unhooked")
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"KEYPOINT_3D": 1.0}, "Did you mean 'KEYPOINTS_3D'"),
        ({"BETAS": -1.0}, "BETAS: -1.0, expected a finite number of at least 0"),
        ({"BETAS": math.nan}, "expected a finite number"),
        ({"BETAS": "0.1"}, "expected a finite number"),
        (dict.fromkeys(TERMS, 0.0), "all loss weights 0"),
    ],
)
def test_bad_weights_are_refused(weights, message) -> None:
    with pytest.raises(ConfigError, match=message):
        EnhancedTrainingLoss(weights)


@pytest.mark.usefixtures("unhooked")
def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'static'"):
        EnhancedTrainingLoss(loss_weighting="statik")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="temporal_window 0"):
        EnhancedTrainingLoss(temporal_window=0)


def test_presets_are_complete_and_sum_to_one() -> None:
    assert tuple(SHARES) == tuple(resolve_weights(None)) == TERMS
    assert sum(SHARES.values()) == pytest.approx(1)


@pytest.mark.parametrize("mode", ["static", "ema", "gradnorm_head"])
def test_a_hand_can_be_fitted(mano_layer, truth, mode) -> None:
    """Free parameters under Adam reach the ground truth: every term pulls the right way, and their sum is stable."""
    target, vertices = truth
    loss = full(mano_layer, loss_weighting=mode)
    numbers = NEUTRAL.expand(B, T, 109).clone().requires_grad_()
    optimizer = torch.optim.Adam([numbers], lr=4e-2)
    errors = []
    for _ in range(70):
        pred = decode(mano_layer, numbers)
        total, _ = loss(pred, target, vertices)
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_([numbers], 1.0)
        optimizer.step()
        relative = pred.joints_m - pred.joints_m[..., :1, :] - target.joints_m + target.joints_m[..., :1, :]
        errors.append(torch.linalg.vector_norm(relative, dim=-1).mean().item())
    assert errors[-1] < 0.2 * errors[0]


class _Fit(torch.nn.Module):
    """Free parameters under the loss, as a module that DDP can wrap."""

    def __init__(self, layer: ManoLayer) -> None:
        super().__init__()
        self.numbers = torch.nn.Parameter(NEUTRAL.expand(1, T, 109).clone())
        self.layer, self.loss = layer, full(layer)
        self.loss.accumulate_grad_batches = 2

    def forward(self, target: HandTarget, vertices: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.loss(decode(self.layer, self.numbers), target, vertices)


def _train_in_two(rank: int, folder: str) -> None:
    """Run three steps of two passes each under DDP, every pass on its own clip; save terms, weights and parameters."""
    layer = ManoLayer(load_mano(Path(folder), "right"))
    target, vertices = a_truth(layer, clips=12)
    fit = torch.nn.parallel.DistributedDataParallel(_Fit(layer))
    optimizer = torch.optim.Adam(fit.parameters(), lr=0.01)
    seen, weights = [], []
    for step in range(3):
        for part in range(2):
            clip = slice(4 * step + 2 * part + rank, 4 * step + 2 * part + rank + 1)
            mine = HandTarget(*(getattr(target, name)[clip] for name in HandTarget.__slots__))
            if (step, part, rank) == (2, 0, 1):  # one process has a pass without a joint in the image
                mine = replace(mine, joint_in_frame=torch.zeros_like(mine.joint_in_frame))
            with nullcontext() if part else fit.no_sync():
                total, terms = fit(mine, vertices[clip])
                (total / 2).backward()
            seen.append(torch.stack([terms[name] for name in TERMS]))
        optimizer.step()
        optimizer.zero_grad()
        weights.append(fit.module.loss.weighting().clone())
    torch.save((torch.stack(seen), torch.stack(weights), fit.module.numbers.detach()), f"{folder}/fit{rank}.pt")


def _two_processes(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.set_num_threads(1)
    weighting = LossWeighting(DEFAULT_WEIGHTS)
    present = torch.ones(len(TERMS), dtype=torch.bool)
    present[3] = rank == 0  # one process has no sample of one term
    for step in range(4):
        weighting.observe(torch.arange(1.0, 10.0) * (step + 1) * (rank + 1), present)
        weights = weighting()
        weighting.end_pass()
    torch.save((weights, weighting.state_dict()), f"{folder}/{rank}.pt")
    _train_in_two(rank, folder)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(mano_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the results of two processes that train together."""
    folder = tmp_path_factory.mktemp("two")
    shutil.copy(mano_dir / "MANO_RIGHT.npz", folder)
    mp.spawn(_two_processes, (str(folder),), nprocs=2)
    return folder


@pytest.mark.slow
def test_two_processes_hold_the_same_weights(two_processes: Path) -> None:
    (first, state_a), (second, state_b) = (torch.load(two_processes / f"{r}.pt", weights_only=True) for r in (0, 1))
    assert torch.equal(first, second)
    assert all(torch.equal(state_a[name], state_b[name]) for name in state_a)
    alone = LossWeighting(DEFAULT_WEIGHTS)
    for step in range(4):
        mean = torch.arange(1.0, 10.0) * (step + 1) * 1.5
        mean[3] = 4.0 * (step + 1)
        alone.observe(mean, torch.ones(len(TERMS), dtype=torch.bool))
        weights = alone()
        alone.end_pass()
    torch.testing.assert_close(first, weights)


@pytest.mark.slow
def test_distributed_accumulated_training_weighs_by_the_mean_over_passes_and_processes(two_processes: Path) -> None:
    (seen_a, weights_a, numbers_a), (seen_b, weights_b, numbers_b) = (
        torch.load(two_processes / f"fit{rank}.pt", weights_only=True) for rank in (0, 1)
    )
    assert torch.equal(weights_a, weights_b) and torch.equal(numbers_a, numbers_b)
    assert not torch.equal(seen_a, seen_b)
    alone = LossWeighting(DEFAULT_WEIGHTS)
    for step, expected in enumerate(weights_a):
        four = torch.cat((seen_a, seen_b)).unflatten(0, (2, 3, 2))[:, step].flatten(0, 1)  # (passes, terms)
        assert four.isnan().sum().item() == (step == 2)
        alone.observe(four.nanmean(0), torch.ones(len(TERMS), dtype=torch.bool))
        alone.end_pass()
        torch.testing.assert_close(alone(), expected)
