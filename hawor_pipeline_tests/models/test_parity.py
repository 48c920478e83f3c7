"""The same weights give the numbers of the original network: against its plain twin, in both directions."""

import os
from dataclasses import replace

import pytest
import torch
from lightning.pytorch import LightningModule

from hawor_pipeline.models.checkpoints import load_hawor
from hawor_pipeline.models.exchange import export_checkpoint
from hawor_pipeline.models.hawor import HaworModel, NetworkConfig
from hawor_pipeline.models.released_names import our_name, to_ours, to_released
from hawor_pipeline_tests.models.plain_hawor import PlainHawor, PlainSizes, randomise
from hawor_pipeline_tests.models.test_hawor import clip_inputs

SMALL = PlainSizes(
    dim=192, depth=3, heads=3, head_dim=128, head_depth=2, head_feedforward=96, st=(64, 2), motion=(32, 2),
    feedforward=128,
)  # fmt: skip
REAL_WEIGHTS = "HAWOR_CHECKPOINT"  # path of a released hawor.ckpt, for those who have one


@pytest.fixture(scope="module")
def plain():
    """The twin with weights as far from zero as those of a network in use."""
    torch.manual_seed(0)
    with torch.no_grad():
        return randomise(PlainHawor(SMALL))


def assert_same_outputs(output, expected, tolerance):
    found = (output.rotmats, output.betas, output.camera, output.translation_m)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("frames", [1, 5, 16])
@pytest.mark.agreement(
    subject="HaWoR's network and its released weights",
    publication="HaWoR, lib/models/hawor.py and modules.py",
    compared="outputs of files in the released format against a plain network written from the publication",
    tolerance=0.0001,
    unit="absolute",
)
def test_outputs_equal_the_original(plain, tmp_path, frames, tolerance):
    torch.save({"state_dict": plain.state_dict()}, tmp_path / "hawor.ckpt")
    model = load_hawor(tmp_path / "hawor.ckpt")
    inputs = clip_inputs(2, frames, side=256)
    with torch.no_grad():
        expected = plain(**inputs)
        assert float(expected[0].std()) > 0.5 and float(expected[1].std()) > 0.5  # the weights do have an effect
        assert_same_outputs(model(**inputs), expected, tolerance)


def test_gradients_equal_the_original(plain):
    """Of every weight: the layers that keep little and compute again give the gradients of those that keep all."""
    model = HaworModel(_network()).eval()
    model.load_state_dict({k: v for k, v in to_ours(plain.state_dict()).items() if k != "initialized"})
    inputs = clip_inputs(1, 4, side=256)
    output, expected = model(**inputs), plain(**inputs)
    pairs = zip((output.rotmats, output.betas, output.camera, output.translation_m), expected, strict=True)
    loss = expected_loss = 0.0
    for ours, theirs in pairs:
        direction = torch.randn_like(theirs)
        loss, expected_loss = loss + (ours * direction).sum(), expected_loss + (theirs * direction).sum()
    loss.backward()
    expected_loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert len(gradients) == len(dict(plain.named_parameters()))
    for name, theirs in plain.named_parameters():
        scale = float(theirs.grad.abs().max())
        torch.testing.assert_close(gradients[our_name(name)], theirs.grad, atol=2e-4 * scale + 1e-6, rtol=0, msg=name)
    plain.zero_grad()


def test_a_short_type_stays_close(plain):
    """bf16 has three digits; the head's last layers, the pose module and the camera are computed in float32."""
    model = HaworModel(_network()).eval()
    model.load_state_dict({k: v for k, v in to_ours(plain.state_dict()).items() if k != "initialized"})
    inputs = clip_inputs(1, 4, side=256)
    whole = model(**inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        short = model(**inputs)
    assert short.rotmats.dtype == short.translation_m.dtype == torch.float32
    assert float((short.rotmats - whole.rotmats).abs().max()) < 0.1
    gradients = []
    for output in (whole, short):
        model.zero_grad()
        output.rotmats[..., 0].sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert float(torch.nn.functional.cosine_similarity(*gradients, dim=0)) > 0.99


class OriginalModule(LightningModule):
    """HaWoR's code is a LightningModule that gets its sizes from the caller."""

    forward, translation = PlainHawor.forward, staticmethod(PlainHawor.translation)

    def __init__(self, sizes):
        super().__init__()
        plain = PlainHawor(sizes)
        self.sizes = sizes
        for name, part in plain.named_children():
            self.add_module(name, part)
        self.register_buffer("initialized", plain.initialized)


@pytest.mark.agreement(
    subject="exported weights",
    publication="HaWoR, load_state_dict(strict=True)",
    compared="outputs of the plain network from an export",
    tolerance=0.0001,
    unit="absolute",
)
def test_original_code_loads_an_export_strictly(tmp_path, tolerance):
    torch.manual_seed(0)
    model = HaworModel(_network()).eval()
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "network": model.network.to_dict()}, tmp_path / "own.ckpt")
    export_checkpoint(tmp_path / "own.ckpt", tmp_path / "hawor.ckpt")
    original = OriginalModule.load_from_checkpoint(
        tmp_path / "hawor.ckpt", sizes=SMALL, strict=True, weights_only=True
    ).eval()
    inputs = clip_inputs(1, 3, side=256)
    with torch.no_grad():
        assert_same_outputs(model(**inputs), original(**inputs), tolerance)


def _network() -> NetworkConfig:
    return replace(
        NetworkConfig(), dim=192, depth=3, heads=3, drop_path=0.0, head_dim=128, head_depth=2, head_feedforward=96,
        st_hdim=64, st_nlayer=2, motion_hdim=32, motion_nlayer=2, temporal_feedforward=128,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(REAL_WEIGHTS not in os.environ, reason=f"needs {REAL_WEIGHTS}, the path of a released hawor.ckpt")
def test_released_weights_at_full_size():
    """For those who have the released file: the same comparison with the real network."""
    model = load_hawor(os.environ[REAL_WEIGHTS])
    original = PlainHawor(PlainSizes()).eval()
    original.load_state_dict(to_released(model.state_dict()), strict=True)
    inputs = clip_inputs(1, 16, side=256)
    with torch.no_grad():
        assert_same_outputs(model(**inputs), original(**inputs), 1e-4)
