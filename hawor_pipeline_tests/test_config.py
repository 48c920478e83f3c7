"""Configuration: one schema, strict names, numbers read as numbers, shipped files fresh and valid."""

import json

import pytest
import yaml

from hawor_pipeline.config import (
    DEFAULT_LOSS_WEIGHTS,
    ConversionConfig,
    TrainingConfig,
    build,
    commented_yaml,
    dump_config,
    load_config,
    load_loss_weights,
    parse_value,
    read_yaml,
    resolve_config,
)
from hawor_pipeline.errors import ConfigError
from hawor_pipeline.paths import config_dir, experiment_file

CONFIGS = config_dir()


def test_the_shipped_training_config_is_the_schema_with_its_defaults():
    body = (CONFIGS / "training_config.yaml").read_text().split("\n", 1)[1]
    assert body == commented_yaml(TrainingConfig())
    assert load_config(CONFIGS / "training_config.yaml") == TrainingConfig()


def test_the_shipped_data_config_is_the_schema_with_its_defaults():
    body = (CONFIGS / "data_config.yaml").read_text().split("\n", 1)[1]
    assert body == commented_yaml(ConversionConfig())


@pytest.mark.parametrize(("name", "schema"), [("training_config", TrainingConfig), ("data_config", ConversionConfig)])
def test_the_json_schemas_are_fresh(name, schema):
    assert json.loads((CONFIGS / f"{name}.schema.json").read_text()) == schema.model_json_schema()


def test_the_shipped_loss_weights_are_the_defaults():
    assert load_loss_weights(CONFIGS / "loss_weights.yaml") == DEFAULT_LOSS_WEIGHTS


@pytest.mark.parametrize("path", sorted((CONFIGS / "experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_experiment_is_valid(path):
    load_config(path)


@pytest.mark.parametrize("path", sorted((CONFIGS / "experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_says_what_it_takes_and_has_a_network(path):
    """Its header names time and memory and whether they were measured; its sizes make a network."""
    import torch

    from hawor_pipeline.models.hawor import HaworModel, NetworkConfig

    header = "".join(line for line in path.read_text().splitlines(True) if line.startswith("#"))
    assert path.stem == "demo" or (("ESTIMATED" in header or "NOT RUN" in header) and "emory" in header)
    assert "minutes" in header or "hours" in header
    config = load_config(path)
    assert config.experiment_name == path.stem
    with torch.device("meta"):
        HaworModel(NetworkConfig.of_training(config))
    if path.stem.endswith("24gb"):
        assert (config.frozen_backbone, config.lightning_precision, config.max_hours) == (True, "bf16-mixed", 24)


def test_the_conversion_presets_are_valid():
    for name in ("data_config", "demo_data"):
        path = CONFIGS / f"{name}.yaml"
        build(ConversionConfig, read_yaml(path), origin=str(path))


@pytest.mark.parametrize("text", ["1e-5", "1E-5", "1.0e-05", "+1e-5", ".1e-4", "0.00001"])
def test_exponents_are_numbers(tmp_path, text):
    (tmp_path / "c.yaml").write_text(f"learning_rate: {text}\n")
    assert load_config(tmp_path / "c.yaml").learning_rate == pytest.approx(1e-5)
    assert parse_value(text) == pytest.approx(1e-5)


def test_a_word_with_an_e_stays_a_word():
    assert parse_value("1e") == "1e"
    assert parse_value("e5") == "e5"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("batchsize: 4", "Did you mean 'batch_size'"),
        ("augmentation_params: {rotation_rnge: 3}", "Did you mean 'rotation_range'"),
        ("loss_weights: {KEYPOINT_3D: 1}", "Did you mean 'KEYPOINTS_3D'"),
        ("backbone_size: gigantic", "backbone_size"),
        ("image_size: 100", "64"),
        ("precision: 8", "16, bf16, 32"),
        ("{precision: 16, accelerator: cpu}", "bf16 or 32"),
        ("backbone_size: huge", "--from-scratch"),
        ("{seed: 1, seed: 2}", "twice"),
        ("{val_subjects: [s05], val_fraction: 0.1}", "exclude each other"),
        ("devices: abc", r"devices: expected int or list\[int\] or 'auto' \(found 'abc'\)$"),
        ("devices: [0, one]", r"yaml: devices\.1: [^;]* \(found 'one'\)$"),
        ("val_check_interval: often", r"yaml: val_check_interval: expected int or float \(found 'often'\)$"),
        ("training_data_dir: [{path: a, weigth: 2}]", r"yaml: unknown key 'training_data_dir\.0\.weigth'.*'weight'\?$"),
        ("val_subjects: [5]", r"yaml: val_subjects\.0: "),
    ],
)
def test_mistakes_are_explained(tmp_path, key, expected):
    (tmp_path / "c.yaml").write_text(key + "\n")
    with pytest.raises(ConfigError, match=expected) as error:
        load_config(tmp_path / "c.yaml")
    assert str(tmp_path / "c.yaml") in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [", "\x00"])
def test_files_that_are_no_mapping_are_refused(tmp_path, content):
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load_config(tmp_path / "c.yaml")


@pytest.mark.parametrize("content", ['{"seed": 1, "seed": 2}', "[1]", "{", "seed: 1", '{"sed": 1}'])
def test_a_json_file_is_read_as_strictly_as_yaml(tmp_path, content):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(ConfigError, match=r"c\.json"):
        load_config(tmp_path / "c.json")


def test_a_json_file_may_be_indented_with_tabs(tmp_path):
    (tmp_path / "c.json").write_text('{\n\t"seed": 3,\n\t"min_lr": 1e-9\n}')
    config = load_config(tmp_path / "c.json")
    assert (config.seed, config.min_lr) == (3, 1e-9)


def test_a_missing_file_says_how_to_make_one(tmp_path):
    with pytest.raises(ConfigError, match="create-config"):
        load_config(tmp_path / "none.yaml")


def test_overrides_win_and_reach_into_groups():
    config = resolve_config(
        {"augmentation_params": {"scale_range": 0.3}},
        {"augmentation_params.rotation_range": 5.0, "seed": 7},
        origin="t",
    )
    assert (config.augmentation_params.rotation_range, config.augmentation_params.scale_range) == (5.0, 0.3)
    assert config.seed == 7


def test_loss_weights_may_be_a_file(tmp_path):
    (tmp_path / "w.yaml").write_text("BETAS: 5e-1\n")
    assert resolve_config({"loss_weights": str(tmp_path / "w.yaml")}, origin="t").loss_weights == {"BETAS": 0.5}
    (tmp_path / "w.yaml").write_text("BETAS: many\n")
    with pytest.raises(ConfigError, match="not negative"):
        resolve_config({"loss_weights": str(tmp_path / "w.yaml")}, origin="t")


def test_a_config_survives_its_own_yaml():
    config = resolve_config(
        {"backbone_size": "tiny", "val_subjects": ["s05"], "loss_weights": {"BETAS": 0.0}}, origin="t"
    )
    assert resolve_config(yaml.safe_load(dump_config(config)), origin="t") == config
    assert resolve_config(yaml.safe_load(commented_yaml(config)), origin="t") == config


def test_unknown_experiments_list_the_known_ones():
    with pytest.raises(ConfigError, match="demo"):
        experiment_file("demmo")


@pytest.mark.parametrize(
    ("monitor", "expected"),
    [
        ("val/mpjpe", "Did you mean 'val/mpjpe_mm'"),
        ("val/loss/KEYPOINT_3D", "KEYPOINTS_3D"),
        ("val/mpjpe_mm/x", "val/"),
    ],
)
def test_a_monitor_that_nothing_measures_is_refused(monitor, expected):
    with pytest.raises(ConfigError, match=expected):
        resolve_config({"monitor": monitor}, origin="t")


def test_a_mixture_may_be_judged_by_one_of_its_members():
    mixture = [{"path": "shards/arctic"}, {"path": "shards/ho3d", "weight": 2.0}]
    config = resolve_config({"training_data_dir": mixture, "monitor": "val/mpjpe_mm/arctic"}, origin="t")
    assert config.dataset_names == ["arctic", "ho3d"]
    alike = resolve_config({"training_data_dir": [{"path": "a/x"}, {"path": "b/x"}]}, origin="t")
    assert alike.dataset_names == ["a_x", "b_x"]


@pytest.mark.parametrize("key", ["experiment_name", "log_dir"])
@pytest.mark.parametrize("value", ["../elsewhere", "/tmp/elsewhere", "a/../../b", ""])
def test_names_cannot_lead_out_of_their_folder(key, value):
    with pytest.raises(ConfigError, match=f"{key}.*without '..'"):
        build(TrainingConfig, {key: value}, origin="test")


@pytest.mark.parametrize(("values", "message"), [({"mode": "max"}, "worst checkpoint"), ({"min_lr": 1.0}, "min_lr 1")])
def test_settings_that_would_undo_training_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        build(TrainingConfig, values, origin="test")


ALIAS_BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 30))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("? [a, b]\n: 1\n", r"x\.yaml: found key \['a', 'b'\], expected the name of a setting"),
        ("? {a: 1}\n: 1\n", "expected the name of a setting"),
        ("batch_size: 2\nbatch_size: 3\n", "key 'batch_size' appears twice"),
        ("1: 2\n", "Keys should be strings"),
        ("augmentation_params:\n  <<: 5\n", "expected a mapping"),
        (ALIAS_BOMB, "its aliases expand to more than"),
        ("a: &a [*a]\n", "an alias refers to a value that contains it"),
        ("val_check_interval: 1.5", "found 1.5, expected epochs as a share up to 1.0 or a whole number"),
        ("limit_val_batches: 2.0", "found 2.0, expected a share up to 1.0"),
        ("devices: 0", "devices"),
        ("devices: []", "at least one"),
        ("devices: [0, 0]", "different numbers of GPUs"),
        ("devices: [-1]", "devices.0"),
        ("strategy: ddpp", "strategy"),
        ("strategy: deepspeed", "strategy"),
        ("learning_rate: .inf", "learning_rate: Input should be a finite number"),
        ("augmentation_params: {rotation_range: .nan}", "rotation_range: Input should be a finite number"),
        ("max_epochs: 1:30", "max_epochs: Input should be a valid integer"),
        ("learning_rate: 1:30.5", "learning_rate: Input should be a valid number"),
    ],
)
def test_what_would_fail_late_or_mean_something_else_is_refused(tmp_path, text, message):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_merged_keys_may_be_replaced(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(
        "augmentation_params: &ranges {rotation_range: 10.0, scale_range: 0.1}\n"
        "data_filtering: {<<: {max_blur: 0.5, max_occlusion_level: 0.2}, max_blur: 0.7}\n"
    )
    config = load_config(path)
    assert (config.data_filtering.max_blur, config.data_filtering.max_occlusion_level) == (0.7, 0.2)
    assert config.augmentation_params.rotation_range == 10.0


def test_numbers_with_leading_zeros_are_decimal(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("batch_size: 010\nmax_epochs: 0x10\nwarmup_epochs: 1_0.5\n")
    config = load_config(path)
    assert (config.batch_size, config.max_epochs, config.warmup_epochs) == (10, 16, 10.5)


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "x.yaml"
    path.write_text("output_dir: ~/runs\ntraining_data_dir: [{path: ~/a}, {path: ~/b}]\nmano_model_path: ~/mano\n")
    config = load_config(path)
    assert config.output_dir == str(tmp_path / "runs") and config.mano_model_path == str(tmp_path / "mano")
    assert [member.path for member in config.training_data_dir] == [str(tmp_path / "a"), str(tmp_path / "b")]
