"""The network: names and shapes of the released one, clips of any length, and what each part must not do."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from hawor_pipeline.config import TrainingConfig
from hawor_pipeline.core.camera import camera_from_translation
from hawor_pipeline.models.backbone import SIZES, Block
from hawor_pipeline.models.hawor import HaworModel, NetworkConfig, box_info
from hawor_pipeline.models.released_names import RELEASED_OF_OURS, our_name, released_name, to_released
from hawor_pipeline.models.temporal import TemporalAttention, sinusoidal_positions

# Names and shapes of the parameters and buffers of HaWoR's released checkpoint, without those of its body model.
RELEASED = json.loads((Path(__file__).parent / "hawor_names.json").read_text())
TWIN = NetworkConfig(
    image_size=64, dim=64, depth=2, heads=2, drop_path=0.0, head_dim=48, head_depth=2, head_feedforward=96,
    st_hdim=32, st_nlayer=1, motion_hdim=32, motion_nlayer=1, temporal_feedforward=64, temporal_dropout=0.0,
)  # fmt: skip
COMPACT = replace(TWIN, patch_embed="conv_stem", head_query="grid", motion_residual=True)


def clip_inputs(clips: int = 2, frames: int = 3, side: int = 64) -> dict[str, torch.Tensor]:
    """Random crops with boxes and cameras."""
    return {
        "images": torch.randn(clips, frames, 3, side, side),
        "box_center_px": torch.rand(clips, frames, 2) * 400,
        "box_size_px": 80 + torch.rand(clips, frames) * 60,
        "focal_px": torch.full((clips, frames), 600.0),
        "principal_point_px": torch.full((clips, frames, 2), 200.0),
    }


def shapes(model: HaworModel) -> dict[str, list[int]]:
    """What an export of the network holds."""
    return {name: list(value.shape) for name, value in to_released(model.state_dict()).items()}


@pytest.mark.parametrize(
    "network", [NetworkConfig(), NetworkConfig.of_training(TrainingConfig(backbone_size="huge", from_scratch=True))]
)
def test_huge_network_exports_the_released_names_and_shapes(network):
    with torch.device("meta"):
        model = HaworModel(network)
    assert len(RELEASED) == 658
    assert shapes(model) == RELEASED


def test_names_translate_both_ways():
    with torch.device("meta"):
        names = list(HaworModel(NetworkConfig()).state_dict())
    assert [our_name(released_name(name)) for name in names] == names
    assert not set(map(released_name, names)) & set(names)  # none is taken over by chance
    assert len(set(RELEASED_OF_OURS.values())) == len(RELEASED_OF_OURS)
    assert our_name("mano.v_template") == "mano.v_template"


@pytest.mark.parametrize("size", sorted(SIZES))
def test_every_size_builds(size):
    config = TrainingConfig(backbone_size=size, from_scratch=True, image_size=128)
    with torch.device("meta"):
        model = HaworModel(NetworkConfig.of_training(config))
    assert model.backbone.dim == SIZES[size].dim


@pytest.mark.parametrize("network", [TWIN, COMPACT])
@pytest.mark.parametrize("frames", [1, 5])
def test_outputs(network, frames):
    torch.manual_seed(0)
    model = HaworModel(network).eval()
    inputs = clip_inputs(2, frames)
    with torch.no_grad():
        output = model(**inputs)
    assert output.rotmats.shape == (2, frames, 16, 3, 3)
    assert output.betas.shape == (2, frames, 10)
    identity = output.rotmats @ output.rotmats.transpose(-1, -2)
    torch.testing.assert_close(identity, torch.eye(3).expand_as(identity), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(output.rotmats), torch.ones(2, frames, 16), atol=1e-5, rtol=0)
    boxes = [inputs[name] for name in ("box_center_px", "box_size_px", "focal_px", "principal_point_px")]
    torch.testing.assert_close(
        camera_from_translation(output.translation_m, *boxes), output.camera, atol=1e-4, rtol=1e-4
    )


def test_only_the_middle_of_the_crop_is_seen():
    model = HaworModel(TWIN).eval()
    inputs = clip_inputs()
    changed = dict(inputs, images=inputs["images"].clone())
    changed["images"][..., :8] = 9.0
    changed["images"][..., -8:] = 9.0
    with torch.no_grad():
        assert torch.equal(model(**inputs).rotmats, model(**changed).rotmats)
        changed["images"][..., 8] = 9.0
        assert not torch.equal(model(**inputs).rotmats, model(**changed).rotmats)


def test_new_temporal_modules_change_nothing_at_first():
    torch.manual_seed(0)
    model = HaworModel(COMPACT).eval()
    inputs = clip_inputs()
    with torch.no_grad():
        together = model(**inputs).rotmats
        model.st_module = model.motion_module = None
        torch.testing.assert_close(model(**inputs).rotmats, together, atol=1e-6, rtol=0)


def test_frames_of_a_clip_see_each_other_and_clips_do_not():
    torch.manual_seed(0)
    model = HaworModel(TWIN).eval()  # the non-residual pose module mixes from the start
    inputs = clip_inputs(2, 4)
    changed = dict(inputs, images=inputs["images"].clone())
    changed["images"][0, 3] += 1.0
    with torch.no_grad():
        before, after = model(**inputs).rotmats, model(**changed).rotmats
    assert not torch.allclose(before[0, 0], after[0, 0], atol=1e-7)
    assert torch.equal(before[1], after[1])


def test_the_mean_is_what_an_untrained_head_says():
    model = HaworModel(COMPACT).eval()
    pose = torch.tensor([0.0, 1.0, 0.0, -1.0, 0.0, 0.0]).repeat(16)  # first column y, second -x: 90 degrees about z
    model.mano_head.set_mean(pose, torch.arange(10.0), torch.tensor([8.0, 0.1, -0.1]))
    for layer in (model.mano_head.pose_output, model.mano_head.betas_output, model.mano_head.camera_output):
        nn.init.zeros_(layer.weight)
    with torch.no_grad():
        output = model(**clip_inputs())
    expected = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    torch.testing.assert_close(output.rotmats, expected.expand_as(output.rotmats), atol=1e-6, rtol=0)
    torch.testing.assert_close(output.betas, torch.arange(10.0).expand_as(output.betas))


def test_box_info_is_the_cliff_triple():
    info = box_info(torch.tensor([700.0, 100]), torch.tensor(180.0), torch.tensor(600.0), torch.tensor([400.0, 400]))
    torch.testing.assert_close(
        info, torch.tensor([300 / 600 * 2.8, -300 / 600 * 2.8, (180 - 0.24 * 600) / (0.06 * 600)])
    )


def test_stochastic_depth_keeps_the_mean():
    """A branch is computed for a share of the pictures, and over many draws its sum is what it is without."""
    torch.manual_seed(0)
    block = Block(16, 2, drop_path=0.5).train()
    tokens = torch.randn(8, 3, 16)
    with torch.no_grad():
        update = block._add(tokens, block.attention, block.attention_norm) - tokens
        assert int((update.abs().amax((1, 2)) > 0).sum()) == 4
        draws = [block._add(tokens, block.attention, block.attention_norm) for _ in range(2000)]
        mean = torch.stack(draws).mean(0) - tokens
        whole = block.attention(tokens, block.attention_norm)
    assert float((mean - whole).abs().max()) < 0.1 * float(whole.abs().max())


def test_activation_checkpointing_gives_the_same_gradients():
    torch.manual_seed(0)
    model = HaworModel(COMPACT).train()
    inputs = clip_inputs()
    gradients = []
    for recompute in (False, True):
        model.zero_grad()
        model.backbone.activation_checkpointing = model.st_module.recompute = recompute
        model(**inputs).rotmats.sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


def test_clips_longer_than_the_stored_positions():
    module = TemporalAttention(8, 3, 16, 1, residual=True, feedforward=16, dropout=0.0).eval()
    assert module(torch.randn(1, 130, 2, 8), torch.randn(1, 130, 3)).shape == (1, 130, 2, 8)
    torch.testing.assert_close(sinusoidal_positions(130, 16)[:100], module.positions)
    assert sinusoidal_positions(2, 4)[1].tolist() == pytest.approx([0.841471, 0.540302, 0.0099998, 0.99995], abs=1e-6)


@pytest.mark.parametrize("network", [TWIN, COMPACT])
def test_compiles_as_one_graph(network):
    """Without a break, with the same outputs and gradients (traced, not compiled: that needs a C++ compiler)."""
    torch.manual_seed(0)
    model = HaworModel(network).train()
    inputs = clip_inputs()
    gradients = []
    for run in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        model.zero_grad()
        output = run(**inputs)
        (output.rotmats[..., 0].sum() + output.betas.sum() + output.translation_m.sum()).backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for plain, compiled in zip(*gradients, strict=True):
        torch.testing.assert_close(compiled, plain, atol=1e-5, rtol=1e-4)
