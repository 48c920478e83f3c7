"""Weights that leave: a file gives back the same network, or is refused; never another network of equal shapes."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from hawor_pipeline.cli import main
from hawor_pipeline.config import TrainingConfig, load_config
from hawor_pipeline.core.box_rule import RULES, BoxRule
from hawor_pipeline.errors import CheckpointError, ConfigError
from hawor_pipeline.models.checkpoints import build_for_training, load_hawor, open_checkpoint
from hawor_pipeline.models.exchange import (
    computed_differently,
    differences_from_hawor,
    export_checkpoint,
    export_run,
    import_checkpoint,
)
from hawor_pipeline.models.form import RECORD, Record
from hawor_pipeline.models.hawor import HaworModel, NetworkConfig
from hawor_pipeline.paths import experiment_file
from hawor_pipeline.provenance import sha256_file
from hawor_pipeline_tests.models.released_files import released_state, write_released_file
from hawor_pipeline_tests.models.test_hawor import COMPACT, TWIN, clip_inputs

OWN = replace(TWIN, motion_residual=True, bounded_camera=True, clip_length=3).on_boxes(BoxRule(1.4))
HAWOR_FORM = replace(TWIN, dim=192, heads=3, drop_path=0.1, temporal_dropout=0.1)  # a width that HaWoR's names allow


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = HaworModel(OWN).eval()
    torch.nn.init.normal_(made.motion_module.output.weight)  # else a residual module is the identity
    made.trained_on = ("s01", "s02/box_use_01")
    return made


def written(path, content):
    torch.save(content, path)
    return path


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


class Trainer(torch.nn.Module):
    """A module of the user's own that has the network as a part."""

    def __init__(self, model):
        super().__init__()
        self.network, self.scale = model, torch.nn.Parameter(torch.ones(()))


WRAPPED = {
    "plain": lambda m: m.state_dict(),
    "state_dict": lambda m: {"state_dict": m.state_dict()},
    "model": lambda m: {"model": m.state_dict(), "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}, "epoch": 3},
    "model_state_dict": lambda m: {"model_state_dict": m.state_dict(), "loss": torch.tensor(1.0)},
    "nested": lambda m: {"checkpoint": {"state_dict": m.state_dict()}},
    "parallel": lambda m: torch.nn.DataParallel(m).state_dict(),
    "parallel in state_dict": lambda m: {"state_dict": prefixed(m.state_dict(), "module.model.")},
    "compiled": lambda m: prefixed(m.state_dict(), "_orig_mod."),
    "average": lambda m: torch.optim.swa_utils.AveragedModel(m).state_dict(),
    "part of a module": lambda m: {"state_dict": Trainer(m).state_dict()},
    "run without its network": lambda m: {"state_dict": prefixed(m.state_dict(), "model.") | {"loss.x": torch.ones(2)}},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_state_dict_gives_back_the_same_network(model, tmp_path, name):
    loaded = load_hawor(written(tmp_path / "w.pt", WRAPPED[name](model)))
    assert loaded.network == model.network and loaded.trained_on == model.trained_on
    inputs = clip_inputs()
    with torch.no_grad():
        for found, expected in zip(vars_of(loaded(**inputs)), vars_of(model(**inputs)), strict=True):
            assert torch.equal(found, expected)


def vars_of(output):
    return output.rotmats, output.betas, output.camera, output.translation_m


@pytest.mark.parametrize("prefix", ["", "model.", "module."])
def test_safetensors_give_back_the_same_network(model, tmp_path, prefix):
    save_file(prefixed(model.state_dict(), prefix), tmp_path / "w.safetensors")
    assert load_hawor(tmp_path / "w.safetensors").network == model.network


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_cast_of_all_entries_keeps_the_form(model, tmp_path, dtype):
    """Users cast a whole dictionary, so that the record is cast with it."""
    path = written(tmp_path / "w.pt", {name: value.to(dtype) for name, value in model.state_dict().items()})
    loaded = load_hawor(path)
    assert loaded.network == model.network
    weight = model.mano_head.pose_output.weight
    assert torch.equal(loaded.mano_head.pose_output.weight, weight.to(dtype).float())


REFUSED = {
    "record removed": (lambda s: {n: v for n, v in s.items() if n != RECORD}, "without the record"),
    "record damaged": (lambda s: {**s, RECORD: s[RECORD][:-9]}, "damaged"),
    "two networks": (lambda s: {"model": s, "ema": s}, "weights under /model, /ema"),
    "two prefixes": (lambda s: {**prefixed(s, "student."), **prefixed(s, "teacher.")}, "several networks"),
    "a name twice": (lambda s: {**s, **prefixed(s, "module.")}, "several networks"),
    "a weight less": (
        lambda s: {n: v for n, v in s.items() if n != "backbone.norm.bias"},
        r"1 missing \(backbone.norm",
    ),
    "an entry more": (lambda s: {**s, "extra.weight": torch.ones(2)}, r"1 unexpected \(extra.weight"),
    "two records": (
        lambda s: {"state_dict": prefixed(s, "model."), "network": replace(OWN, motion_residual=False).to_dict()},
        "two forms .* differ in motion_residual",
    ),
    "integers": (lambda s: {n: v.to(torch.int8) if n == "backbone.norm.bias" else v for n, v in s.items()}, "int8"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_surely_the_same_network_is_refused(model, tmp_path, name):
    change, message = REFUSED[name]
    with pytest.raises(CheckpointError, match=message):
        load_hawor(written(tmp_path / "w.pt", change(model.state_dict())))


def test_a_whole_pickled_network_is_refused_and_not_run(model, tmp_path):
    torch.save(model, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="refused, it asks for hawor_pipeline"):
        load_hawor(tmp_path / "w.pt")


def test_weights_do_not_load_into_another_form(model):
    other = HaworModel(replace(OWN, motion_residual=False))
    with pytest.raises(CheckpointError, match="motion_residual is True"):
        other.load_state_dict(model.state_dict())
    HaworModel(replace(OWN, temporal_dropout=0.3)).load_state_dict(model.state_dict())  # the same function


def test_a_checkpoint_of_an_earlier_version_loads(model, tmp_path):
    """Without record, box and clip in its network: by the defaults of that version."""
    state = {f"model.{name}": value for name, value in model.state_dict().items() if name != RECORD}
    network = {n: v for n, v in OWN.to_dict().items() if n not in ("box_scale", "box_aspect", "clip_length")}
    content = {"state_dict": state, "network": network, "split": {"training": ["s01"]}}
    path = written(tmp_path / "w.ckpt", {**content, "hyper_parameters": {"config": {"clip_length": 5}}})
    opened = open_checkpoint(path)
    assert opened.model.network == replace(OWN.on_boxes(RULES["pipeline"]), clip_length=5)
    assert (opened.box_rule, opened.clip_length, opened.trained_on) == (RULES["pipeline"], 5, ("s01",))
    for changed in ({}, {**network, "bounded_camera": "yes"}, {**network, "later": 1}):
        with pytest.raises(CheckpointError, match="not of this version"):
            load_hawor(written(tmp_path / "w.ckpt", {**content, "network": changed}))


def test_names_of_hawor_without_a_known_form_are_refused(tmp_path):
    """A width whose heads are unknown, and variants that only this project trains."""
    path = written(tmp_path / "w.pt", released_state(HaworModel(TWIN)))
    with pytest.raises(CheckpointError, match=r"width 64 .* number of heads is unknown"):
        load_hawor(path)
    compact = HaworModel(replace(COMPACT, dim=192, heads=3))
    with pytest.raises(CheckpointError, match="variants that only this project trains"):
        load_hawor(written(tmp_path / "w.pt", released_state(compact)))


@pytest.mark.parametrize(("kind", "rule"), [("hawor", "1.2 x max(h, w)"), ("hamer", "2 x max(h, 4 w / 3)")])
def test_released_files_have_the_box_of_their_project(tmp_path, kind, rule):
    """As downloaded and imported; an option replaces it."""
    path = write_released_file(tmp_path / "released.ckpt", HaworModel(HAWOR_FORM), kind)
    imported = import_checkpoint(path, tmp_path / "imported.safetensors")
    assert imported.kind == kind and str(imported.network.box_rule) == rule
    again = import_checkpoint(tmp_path / "imported.safetensors", tmp_path / "again.ckpt")
    assert again.kind == kind
    for name in ("released.ckpt", "imported.safetensors", "again.ckpt"):
        opened = open_checkpoint(tmp_path / name)
        assert str(opened.box_rule) == rule
        assert not (opened.model.network.motion_residual or opened.model.network.bounded_camera)
    assert open_checkpoint(path, box_rule="pipeline").box_rule == BoxRule(1.2, 4 / 3)
    assert open_checkpoint(path, box_rule="1.5,1").box_rule == BoxRule(1.5, 1.0)
    for text in ("hawour", "1.5", "0,1", "nan,1", "1,2,3"):
        with pytest.raises(ConfigError, match=r"expected pipeline, hawor, hamer, or SCALE,ASPECT"):
            open_checkpoint(path, box_rule=text)


def own_checkpoint(model, path):
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    return written(path, {"state_dict": state, "network": model.network.to_dict()})


def test_an_export_that_hawor_would_compute_differently_is_refused(model, tmp_path, capsys):
    own = own_checkpoint(model, tmp_path / "last.ckpt")
    words = ["export", "--checkpoint", str(own), "--format", "hawor", "--output", str(tmp_path / "hawor.ckpt")]
    assert main(words) == 1
    message = capsys.readouterr().err
    assert "adds to the pose" in message and "at least 0.1/m" in message
    assert not (tmp_path / "hawor.ckpt").exists()
    assert main([*words, "--allow-differences"]) == 0
    assert "its bounding boxes: 1.4 x max(h, 4 w / 3)" in capsys.readouterr().out
    content = torch.load(tmp_path / "hawor.ckpt", weights_only=True)
    for name, state in (("a.pt", content), ("b.pt", content["state_dict"])):  # also without its metadata
        assert load_hawor(written(tmp_path / name, state)).network == OWN
    export_checkpoint(own, tmp_path / "w.safetensors")
    save_file(load_file(tmp_path / "w.safetensors"), tmp_path / "bare.safetensors")
    assert load_hawor(tmp_path / "bare.safetensors").network == OWN
    done = export_run(own, sha256_file(own), tmp_path / "exports")
    assert sorted(p.name for p in done.path.iterdir() if not p.name.startswith("_")) == ["model.safetensors"]


def test_a_network_of_hawors_form_is_exported_with_nothing_added(tmp_path):
    network = HAWOR_FORM.on_boxes(RULES["pipeline"])
    own = own_checkpoint(HaworModel(network), tmp_path / "last.ckpt")
    export_checkpoint(own, tmp_path / "hawor.ckpt")
    content = torch.load(tmp_path / "hawor.ckpt", weights_only=True)
    assert set(content["state_dict"]) == set(released_state(HaworModel(network))) - {
        "mano.v_template",
        "mano.shapedirs",
    }
    assert json.loads(content["hawor_pipeline"])["network"]["box_aspect"] == 4 / 3
    assert load_hawor(tmp_path / "hawor.ckpt").network == network


@pytest.mark.parametrize(
    "change", [{"depth": 31}, {"heads": 20}, {"st_nlayer": 5}, {"motion_hdim": 0}, {"head_depth": 5}]
)
def test_what_loads_there_with_other_numbers_of_layers_is_computed_differently(change):
    assert computed_differently(replace(NetworkConfig(), **change))


@pytest.mark.parametrize("name", ["arctic_p1", "arctic_p1_24gb", "arctic_p2", "arctic_p2_24gb", "finetune_hawor"])
def test_experiments_on_arctic_train_a_form_that_exports_exactly(name):
    assert differences_from_hawor(NetworkConfig.of_training(load_config(experiment_file(name)))) == []


@pytest.mark.parametrize("kind", ["hawor", "hamer", "wilor", "own"])
def test_training_keeps_the_form_of_the_parts_that_it_starts_from(tmp_path, kind):
    """New parts have the form that random weights need; the box is that of the data."""
    config = TrainingConfig(
        image_size=64, backbone_size="tiny", patch_embed="patch16", st_hdim=32, motion_hdim=32, st_nlayer=1,
        motion_nlayer=1, pretrained_weights=str(tmp_path / "start.ckpt"),
    )  # fmt: skip
    source = HaworModel(NetworkConfig.of_training(config))
    if kind == "own":
        own_checkpoint(source, tmp_path / "start.ckpt")
    else:
        write_released_file(tmp_path / "start.ckpt", source, kind)
    built, _ = build_for_training(config, BoxRule(1.3))
    residual, bounded = {"hawor": (0, 0), "hamer": (1, 0), "wilor": (1, 1), "own": (1, 1)}[kind]
    assert (built.network.motion_residual, built.network.bounded_camera) == (bool(residual), bool(bounded))
    assert built.network.box_rule == BoxRule(1.3)


def test_a_record_is_read_as_it_was_written():
    record = Record(OWN, ("s01", "s02/box_use_01"))
    assert Record.from_json(record.to_json()) == record
    assert Record.from_tensor(record.to_tensor()) == record
