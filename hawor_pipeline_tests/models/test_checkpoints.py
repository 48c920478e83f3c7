"""Weights from files: what fits is loaded exactly, what does not is refused by name."""

from dataclasses import replace

import pytest
import torch

from hawor_pipeline.config import TrainingConfig
from hawor_pipeline.errors import CheckpointError, ConfigError
from hawor_pipeline.models.checkpoints import build_for_training, infer_network, load_hawor
from hawor_pipeline.models.hawor import HaworModel, NetworkConfig
from hawor_pipeline.models.released_names import our_name, to_released
from hawor_pipeline_tests.models.test_hawor import COMPACT, RELEASED, TWIN, clip_inputs


class _Shape:
    def __init__(self, shape):
        self.shape = tuple(shape)


def test_released_sizes_are_read_off_the_shapes():
    assert infer_network({our_name(name): _Shape(shape) for name, shape in RELEASED.items()}) == NetworkConfig()


@pytest.fixture
def twin():
    torch.manual_seed(0)
    return HaworModel(replace(TWIN, dim=192, heads=3, temporal_dropout=0.1)).eval()


def test_file_in_released_naming_loads_exactly(twin, tmp_path):
    state = {**to_released(twin.state_dict()), "mano.v_template": torch.randn(778, 3)}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "hawor.ckpt")
    loaded = load_hawor(tmp_path / "hawor.ckpt")
    assert loaded.network == twin.network
    assert not any(name.startswith("mano.") for name in loaded.state_dict())
    inputs = clip_inputs()
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).rotmats, twin(**inputs).rotmats)


def test_own_checkpoint_loads_exactly(tmp_path):
    torch.manual_seed(0)
    model = HaworModel(COMPACT).eval()
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    state["loss.weighting.level"] = torch.zeros(9)
    torch.save({"state_dict": state, "network": COMPACT.to_dict()}, tmp_path / "last.ckpt")
    loaded = load_hawor(tmp_path / "last.ckpt")
    inputs = clip_inputs()
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).rotmats, model(**inputs).rotmats)


def test_what_does_not_fit_is_refused_by_name(twin, tmp_path):
    state = to_released(twin.state_dict())
    path = tmp_path / "broken.ckpt"
    torch.save({"state_dict": {k: v for k, v in state.items() if k != "mano_head.decpose.bias"}}, path)
    with pytest.raises(CheckpointError, match=r"1 missing \(mano_head.pose_output.bias\)"):
        load_hawor(path)
    torch.save({"state_dict": {**state, "extra.weight": torch.zeros(2)}}, path)
    with pytest.raises(CheckpointError, match=r"1 unexpected \(extra.weight\)"):
        load_hawor(path)
    torch.save({"state_dict": {**state, "mano_head.decpose.bias": torch.zeros(7)}}, path)
    with pytest.raises(CheckpointError, match=r"1 of wrong shape \(mano_head.pose_output.bias \(7,\) for \(96,\)\)"):
        load_hawor(path)
    torch.save({"weights": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="not a HaWoR network"):
        load_hawor(path)
    with pytest.raises(ConfigError):
        load_hawor(tmp_path / "absent.ckpt")


def test_training_starts_from_a_file(tmp_path):
    """Temporal modules that the file lacks keep their initial weights; a non-residual pose module is taken over."""
    config = TrainingConfig(
        image_size=64, backbone_size="tiny", patch_embed="patch16", st_hdim=32, motion_hdim=32, st_nlayer=1,
        motion_nlayer=1, pretrained_weights=str(tmp_path / "start.ckpt"),
    )  # fmt: skip
    source = HaworModel(NetworkConfig.of_training(config))
    state = to_released(source.state_dict())
    plain = {k: v for k, v in state.items() if not k.startswith(("st_module.", "motion_module."))}
    torch.save({"state_dict": plain}, tmp_path / "start.ckpt")
    model, report = build_for_training(config)
    assert report.fits
    assert model.network.motion_residual
    assert torch.equal(model.mano_head.pose_output.weight, source.mano_head.pose_output.weight)
    torch.save({"state_dict": state}, tmp_path / "start.ckpt")
    model, _ = build_for_training(config)
    assert not model.network.motion_residual
    with pytest.raises(CheckpointError, match="set backbone_size"):
        build_for_training(config.model_copy(update={"st_hdim": 64}))
