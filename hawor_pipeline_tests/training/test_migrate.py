"""Configurations of the original system: every key ends in exactly one list, and what is kept is valid here."""

import json

import pytest
import yaml

from hawor_pipeline.cli import main
from hawor_pipeline.config import LOSS_TERMS, TrainingConfig, load_config
from hawor_pipeline.errors import ConfigError
from hawor_pipeline.training.migrate import DROPPED, RENAMED, migrate, migrate_file


def test_flat_keys_keep_their_names_and_values():
    old = {"max_epochs": 7, "learning_rate": 2e-5, "batch_size": 3, "min_lr": 1e-8, "loss_weights": {"BETAS": 0.5}}
    migration = migrate(old, origin="old")
    assert {each.key: each.fate for each in migration.fates} == dict.fromkeys(
        ("max_epochs", "learning_rate", "batch_size", "min_lr", "loss_weights.BETAS"), "kept"
    )
    config = migration.config
    assert (config.max_epochs, config.learning_rate, config.batch_size, config.min_lr) == (7, 2e-5, 3, 1e-8)
    assert config.loss_weights == {"BETAS": 0.5}


def test_sections_are_opened():
    old = {
        "training": {"max_epochs": 4},
        "hardware": {"precision": 16, "find_unused_parameters": False},
        "loss": {"weights": dict.fromkeys(LOSS_TERMS, 0.2)},
        "arctic": {"data_filtering": {"min_confidence": 0.5}},
    }
    migration = migrate(old, origin="old")
    fates = {each.key: each.fate for each in migration.fates}
    assert fates["training.max_epochs"] == "kept"
    assert fates["loss.weights.BETAS"] == "renamed"
    assert fates["hardware.find_unused_parameters"] == "dropped"
    assert fates["arctic.data_filtering.min_confidence"] == "kept"
    assert migration.config.loss_weights == dict.fromkeys(LOSS_TERMS, 0.2)
    assert migration.config.lightning_precision == "16-mixed"
    assert migration.config.data_filtering.min_confidence == 0.5


@pytest.mark.parametrize(
    ("old", "key", "value"),
    [
        ({"backbone_type": "vit_small"}, "backbone_size", "small"),
        ({"torch_compile": True}, "torch_compile", 1),
        ({"image_size": 224}, "image_size", 256),
        ({"lr_scheduler": "plateau"}, "scheduler", "plateau"),
        ({"device": "cpu"}, "accelerator", "cpu"),
        ({"monitor": "val_loss"}, "monitor", "val/loss"),
        ({"scheduler_params": {"eta_min": 1e-6}}, "min_lr", 1e-6),
    ],
)
def test_values_that_have_another_form_here(old, key, value):
    assert getattr(migrate(old, origin="old").config, key) == value


@pytest.mark.parametrize(
    ("old", "size", "from_scratch", "line"),
    [
        ({"backbone_type": "vit"}, "huge", True, "ViT-H: backbone_size huge; without pretrained_weights"),
        (
            {"model": {"backbone_type": "vit"}, "pretrained_weights": "w.ckpt"},
            "huge",
            False,
            "ViT-H: backbone_size huge",
        ),
        ({"backbone_type": "vit", "pretrained_weights": None}, "huge", True, "from_scratch true"),
        ({"backbone_type": "vit_huge"}, "huge", True, "backbone_size huge"),
        ({"backbone_type": "vit_h", "from_scratch": True}, "huge", True, "backbone_size huge"),
        ({"backbone_type": "vit_b"}, "base", False, "backbone_size base"),
        ({"backbone_type": "vit", "backbone_size": "small"}, "small", False, "its size is that of backbone_size"),
        ({"backbone_type": "vit_giant"}, "base", False, "not valid here, the backbone is vit_base: found 'vit_giant'"),
        ({"backbone_type": "resnet50"}, "base", False, "found 'resnet50', expected vit"),
    ],
)
def test_the_size_of_the_backbone_is_kept_and_reported(old, size, from_scratch, line):
    migration = migrate(old, origin="old")
    assert (migration.config.backbone_size, migration.config.from_scratch) == (size, from_scratch)
    (fate,) = [each for each in migration.fates if each.key.endswith("backbone_type")]
    assert line in fate.note
    assert f"backbone_type: {fate.note}" in migration.report()
    assert fate.note in migration.heading()


def test_a_value_that_is_not_valid_here_is_dropped_with_the_reason():
    (fate,) = migrate({"scheduler": "step"}, origin="old").fates
    assert fate.fate == "dropped"
    assert "'step'" in fate.note and "cosine" in fate.note


def test_a_foreign_loss_term_and_an_unknown_key_are_named():
    migration = migrate({"loss_weights": {"keypoint": 10.0}, "batch_sizes": 2}, origin="old")
    notes = {each.key: each.note for each in migration.of("dropped")}
    assert "KEYPOINTS_3D" in notes["loss_weights.keypoint"]
    assert "'batch_size'" in notes["batch_sizes"]
    assert migration.config.loss_weights is None


def test_keys_that_contradict_each_other_are_an_error():
    with pytest.raises(ConfigError, match="max_epochs"):
        migrate({"max_epochs": 3, "training": {"max_epochs": 4}}, origin="old")


def test_tables_name_real_keys():
    assert set(RENAMED.values()) <= set(TrainingConfig.model_fields)
    assert not set(DROPPED) & set(TrainingConfig.model_fields)


def test_json_and_yaml_give_the_same(tmp_path):
    old = {"training": {"learning_rate": 5e-6}, "mano_gender": "neutral"}
    (tmp_path / "a.json").write_text(json.dumps(old))
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(old))
    assert migrate_file(tmp_path / "a.json").config == migrate_file(tmp_path / "a.yaml").config


def test_the_command_writes_json_under_a_json_name(tmp_path, capsys):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps({"backbone_type": "vit", "learning_rate": 5e-6}, indent="\t"))
    assert main(["migrate-config", str(old), str(new)]) == 0
    written = json.loads(new.read_text())
    assert (written["backbone_size"], written["learning_rate"]) == ("huge", 5e-6)
    assert load_config(new).backbone_size == "huge"
    assert "backbone_type: it is ViT-H" in capsys.readouterr().out


def test_the_command_writes_a_configuration_that_loads(tmp_path, capsys):
    old, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    old.write_text("learning_rate: 5e-6\nsync_batchnorm: false\nsync_batchnorm: false\nmano_gender: neutral\n")
    assert main(["migrate-config", str(old), str(new)]) == 0
    assert load_config(new).learning_rate == 5e-6
    assert "# mano_gender: dropped" in new.read_text()
    assert "dropped: 2" in capsys.readouterr().out
    assert main(["migrate-config", str(old), str(new)]) == 2  # nothing is overwritten
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "text"), [("a.json", "{"), ("a.json", "[1]"), ("a.yaml", "- 1"), ("gone.yaml", None)])
def test_an_unreadable_file_is_a_clear_error(tmp_path, capsys, name, text):
    if text is not None:
        (tmp_path / name).write_text(text)
    assert main(["migrate-config", str(tmp_path / name), str(tmp_path / "new.yaml")]) == 2
    assert name in capsys.readouterr().err
    assert not (tmp_path / "new.yaml").exists()
