"""The network: names and shapes of the released one, clips of any length, and what each part must not do."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hawor_pipeline.config import TrainingConfig
from hawor_pipeline.core.camera import camera_from_translation
from hawor_pipeline.models.backbone import SIZES, VisionTransformer
from hawor_pipeline.models.hawor import HaworModel, NetworkConfig, box_info, build_model
from hawor_pipeline.models.mano_head import DecoderAttention
from hawor_pipeline.models.temporal import TemporalAttention, sinusoidal_positions

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


def test_huge_network_has_the_released_names_and_shapes():
    with torch.device("meta"):
        model = HaworModel(NetworkConfig())
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == RELEASED


def test_training_configuration_of_the_huge_network_keeps_them():
    config = TrainingConfig(backbone_size="huge", from_scratch=True)
    with torch.device("meta"):
        model = build_model(config)
    assert {name: list(value.shape) for name, value in model.state_dict().items()} == RELEASED


@pytest.mark.parametrize("size", sorted(SIZES))
def test_every_size_builds(size):
    config = TrainingConfig(backbone_size=size, from_scratch=True, image_size=128)
    with torch.device("meta"):
        model = build_model(config)
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
    for layer in (model.mano_head.decpose, model.mano_head.decshape, model.mano_head.deccam):
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


def test_attention_equals_its_formula():
    """Against softmax(q k / sqrt d) v written out."""
    torch.manual_seed(0)
    layer = DecoderAttention(24, 4, 8, context_dim=16)
    query, context = torch.randn(3, 1, 24), torch.randn(3, 7, 16)
    q = layer.to_q(query).view(3, 1, 4, 8).transpose(1, 2)
    key, value = layer.to_kv(context).view(3, 7, 2, 4, 8).permute(2, 0, 3, 1, 4)
    weights = torch.softmax(q @ key.transpose(-1, -2) / 8**0.5, dim=-1)
    expected = layer.to_out((weights @ value).transpose(1, 2).reshape(3, 1, 32))
    torch.testing.assert_close(layer(query, context), expected)


def test_backbone_equals_its_formula():
    """A ViT block and the patch embedding written out with plain functions."""
    torch.manual_seed(0)
    vit = VisionTransformer(replace_depth(1), (64, 48)).eval()
    images = torch.randn(2, 3, 64, 48)
    weight = vit.patch_embed.proj.weight
    grid = F.conv2d(F.pad(images, (2, 2, 2, 2)), weight, vit.patch_embed.proj.bias, stride=16)
    assert grid.shape[-2:] == (4, 3)
    x = grid.flatten(2).transpose(1, 2) + vit.pos_embed[:, 1:] + vit.pos_embed[:, :1]
    block = vit.blocks[0]
    normed = F.layer_norm(x, (48,), block.norm1.weight, block.norm1.bias, 1e-6)
    q, k, v = (part.view(2, 12, 3, 16).transpose(1, 2) for part in block.attn.qkv(normed).chunk(3, dim=-1))
    attended = (torch.softmax(q @ k.transpose(-1, -2) / 4, dim=-1) @ v).transpose(1, 2).reshape(2, 12, 48)
    x = x + block.attn.proj(attended)
    normed = F.layer_norm(x, (48,), block.norm2.weight, block.norm2.bias, 1e-6)
    x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(normed)))
    expected = F.layer_norm(x, (48,), vit.last_norm.weight, vit.last_norm.bias, 1e-6)
    torch.testing.assert_close(vit(images), expected, atol=1e-5, rtol=1e-4)


def replace_depth(depth: int):
    """A narrow ViT."""
    return replace(SIZES["tiny"], dim=48, depth=depth, heads=3)


def test_activation_checkpointing_gives_the_same_gradients():
    torch.manual_seed(0)
    model = HaworModel(COMPACT).train()
    inputs = clip_inputs()
    gradients = []
    for recompute in (False, True):
        model.zero_grad()
        model.backbone.activation_checkpointing = recompute
        model(**inputs).rotmats.sum().backward()
        gradients.append([p.grad.clone() for p in model.backbone.blocks.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


def test_clips_longer_than_the_stored_positions():
    module = TemporalAttention(8, 4, 16, 1, residual=True, feedforward=16, dropout=0.0).eval()
    assert module(torch.randn(1, 130, 8)).shape == (1, 130, 4)
    torch.testing.assert_close(sinusoidal_positions(130, 16)[:100], module.pos_embedding.pe)
    assert sinusoidal_positions(2, 4)[1, 0].tolist() == pytest.approx(
        [0.841471, 0.540302, 0.0099998, 0.99995], abs=1e-6
    )
