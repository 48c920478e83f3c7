"""Weights in and out: every file kind is recognised by content, every key accounted for, nothing licensed passed on."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from hawor_pipeline.cli import main
from hawor_pipeline.config import TrainingConfig
from hawor_pipeline.errors import CheckpointError
from hawor_pipeline.models.checkpoints import build_for_training, load_hawor
from hawor_pipeline.models.exchange import (
    differences_from_hawor,
    export_checkpoint,
    export_run,
    import_checkpoint,
)
from hawor_pipeline.models.hawor import HaworModel, NetworkConfig
from hawor_pipeline.models.released_names import to_released
from hawor_pipeline.provenance import sha256_file
from hawor_pipeline_tests.models.test_hawor import COMPACT, TWIN, clip_inputs

NETWORK = replace(TWIN, dim=192, heads=3, temporal_dropout=0.1)
BODY_MODEL = {"mano.v_template": torch.randn(778, 3), "mano.shapedirs": torch.randn(778, 3, 10)}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return HaworModel(NETWORK).eval()


def released(model: HaworModel, *parts: str) -> dict[str, torch.Tensor]:
    """Parts of a network in HaWoR's naming."""
    state = to_released(model.state_dict())
    return {name: value for name, value in state.items() if name.startswith(parts)} if parts else state


def own_checkpoint(model: HaworModel, path):
    """As a training run leaves it."""
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "network": model.network.to_dict()}, path)
    return path


FILES = {
    "hawor": lambda m: {**released(m), **BODY_MODEL},
    "hamer": lambda m: {
        **released(m, "backbone.", "mano_head."), **BODY_MODEL, "initialized": torch.tensor(True),
        "discriminator.out.weight": torch.zeros(3),
    },
    "wilor": lambda m: {
        **released(m, "backbone."), **BODY_MODEL, "backbone.init_cam": torch.zeros(1, 3),
        "backbone.pose_emb.weight": torch.zeros(2, 2), "backbone.decpose.weight": torch.zeros(6, 192),
        "refine_net.deconv.weight": torch.zeros(2),
    },
    "vitpose": lambda m: {**released(m, "backbone."), "keypoint_head.final_layer.weight": torch.zeros(17)},
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_files_are_recognised_by_content(model, tmp_path, kind):
    source = tmp_path / "downloaded.bin"
    state = FILES[kind](model)
    torch.save({"state_dict": state, "epoch": 1}, source)
    imported = import_checkpoint(source, tmp_path / "weights.safetensors")
    report = imported.report
    assert imported.kind == kind and report.fits
    assert len(report.used) + len(report.ignored) == len(state)
    parts = {"hawor": 4, "hamer": 2, "wilor": 1, "vitpose": 1}[kind]
    assert sum(report.has(part) for part in ("backbone", "st_module", "motion_module", "mano_head")) == parts
    written = load_file(tmp_path / "weights.safetensors")
    assert not [name for name in written if name.startswith(("mano.", "discriminator.", "refine_net.", "keypoint"))]
    for name in set(written) - {"initialized"}:
        assert torch.equal(written[name], state[name]), name


def test_wrappers_and_bare_backbones_are_seen_through(model, tmp_path):
    bare = {name.removeprefix("backbone."): value for name, value in released(model, "backbone.").items()}
    torch.save(bare, tmp_path / "vitpose_backbone.pth")
    assert import_checkpoint(tmp_path / "vitpose_backbone.pth", tmp_path / "a.safetensors").kind == "vitpose"
    wrapped = {f"module.{k.replace('backbone.', 'backbone._orig_mod.')}": v for k, v in released(model).items()}
    torch.save({"state_dict": wrapped}, tmp_path / "compiled.ckpt")
    assert load_hawor(tmp_path / "compiled.ckpt").network == NETWORK


@pytest.mark.parametrize("kind", FILES)
def test_training_starts_from_every_kind(model, tmp_path, kind):
    torch.save({"state_dict": FILES[kind](model)}, tmp_path / "start.ckpt")
    import_checkpoint(tmp_path / "start.ckpt", tmp_path / "start.safetensors")
    config = TrainingConfig(
        image_size=64, backbone_size="tiny", patch_embed="patch16", st_hdim=32, motion_hdim=32, st_nlayer=1,
        motion_nlayer=1, pretrained_weights=str(tmp_path / "start.safetensors"),
    )  # fmt: skip
    if kind in ("hawor", "hamer"):  # their head is not that of a tiny network
        with pytest.raises(CheckpointError, match="set backbone_size"):
            build_for_training(config)
        return
    network, report = build_for_training(config)
    assert report.fits and report.has("backbone") and not report.has("mano_head")
    assert torch.equal(
        network.backbone.blocks[0].attention.output.weight, model.backbone.blocks[0].attention.output.weight
    )
    with pytest.raises(CheckpointError, match="the backbone only"):
        load_hawor(tmp_path / "start.safetensors")


def test_what_does_not_fit_is_named_and_can_be_left_out(model, tmp_path, capsys):
    state = released(model)
    del state["mano_head.deccam.bias"]
    state["mano_head.decshape.bias"] = torch.zeros(7)
    state["extra.weight"] = torch.zeros(2)
    torch.save({"state_dict": state}, tmp_path / "broken.ckpt")
    output = tmp_path / "out.safetensors"
    assert main(["import-checkpoint", str(tmp_path / "broken.ckpt"), "--output", str(output)]) == 1
    message = capsys.readouterr().err
    for part in ("1 missing (mano_head.camera_output.bias)", "1 unexpected (extra.weight)", "1 of wrong shape"):
        assert part in message
    assert not output.exists()
    assert main(["import-checkpoint", str(tmp_path / "broken.ckpt"), "--output", str(output), "--partial"]) == 0
    shown = capsys.readouterr().out
    assert "recognised as hawor" in shown and "missing     mano_head.camera_output.bias" in shown
    assert len(load_file(output)) == len(state) - 2


def test_export_round_trip(tmp_path, capsys):
    """Both formats give the network back exactly, also one that HaWoR's own code has no setting for; that is said."""
    torch.manual_seed(0)
    network = HaworModel(COMPACT).eval()
    own = own_checkpoint(network, tmp_path / "last.ckpt")
    inputs = clip_inputs()
    for kind, name in (("hawor", "hawor.ckpt"), ("safetensors", "hawor.safetensors")):
        words = ["export", "--checkpoint", str(own), "--format", kind, "--output", str(tmp_path / name)]
        assert main(words + ["--allow-differences"] * (kind == "hawor")) == 0
        shown = capsys.readouterr().out
        assert "convolutional stem" in shown and "adds to the pose" in shown
        loaded = load_hawor(tmp_path / name)
        assert loaded.network == COMPACT
        with torch.no_grad():
            assert torch.equal(loaded(**inputs).rotmats, network(**inputs).rotmats)
    modes = {(tmp_path / name).stat().st_mode for name in ("hawor.ckpt", "hawor.safetensors")}
    assert modes == {own.stat().st_mode}  # a team reads them as it reads any other file
    with safe_open(tmp_path / "hawor.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["hawor_pipeline"])["network"]["dim"] == 64
        assert "mano_head.decpose.weight" in file.keys()  # noqa: SIM118
    wrong = ["export", "--checkpoint", str(own), "--format", "hawor", "--output", str(tmp_path / "x.safetensors")]
    assert main(wrong) == 2
    assert main(["export", "--checkpoint", str(tmp_path / "absent"), "--format", "hawor", "--output", "x.ckpt"]) == 2


def test_the_released_network_has_no_differences():
    assert differences_from_hawor(NetworkConfig()) == []
    assert differences_from_hawor(replace(NetworkConfig(), motion_residual=True)) == [
        "pose attention that adds to the pose: there it replaces it"
    ]


def test_a_run_is_exported_once(model, tmp_path):
    own = own_checkpoint(model, tmp_path / "best.ckpt")
    first = export_run(own, sha256_file(own), tmp_path / "exports" / "run")
    assert not first.reused
    assert export_run(own, sha256_file(own), tmp_path / "exports" / "run").reused
    assert load_hawor(first.path / "hawor.ckpt").network == load_hawor(first.path / "model.safetensors").network
    own_checkpoint(HaworModel(NETWORK), own)
    with pytest.raises(CheckpointError, match="its sha256 is"):
        export_run(own, "0" * 64, tmp_path / "exports" / "run")


def test_an_export_is_whole_or_absent(model, tmp_path, monkeypatch):
    own = own_checkpoint(model, tmp_path / "best.ckpt")
    output = tmp_path / "hawor.ckpt"
    export_checkpoint(own, output)
    before = output.read_bytes()

    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(Exception, match="disk full"):
        export_checkpoint(own, output)
    assert output.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "hawor.ckpt"]
