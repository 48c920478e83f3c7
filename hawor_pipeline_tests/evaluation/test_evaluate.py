"""From shards and a checkpoint to published tables: complete, repeatable, reused, and clear about what is wrong."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion.prepare import convert_subjects
from hawor_pipeline.errors import CheckpointError, ConfigError, DataError, NumericalError
from hawor_pipeline.evaluation import evaluate, tables
from hawor_pipeline.evaluation.declared_metrics import SAMPLE_METRICS
from hawor_pipeline.evaluation.evaluator import evaluate_predictions, write_ground_truth
from hawor_pipeline.evaluation.setting import Devices, Setting
from hawor_pipeline.models.checkpoints import open_checkpoint
from hawor_pipeline.sample.spec import SampleSpec
from hawor_pipeline.sample.write import ensure_sample
from hawor_pipeline.shards.store import open_shards

SUBJECTS = ["s05"]
CPU = Devices("cpu")


@pytest.fixture(scope="module")
def metrics_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("metrics")


@pytest.fixture(scope="module")
def evaluated(sample_shards: Path, mano_dir: Path, checkpoint: Path, metrics_dir: Path):
    opened = open_checkpoint(checkpoint)

    def run(run_id: str = "random", devices: Devices = CPU, **changes):
        about = {"dataset_version": "v1", "subjects": SUBJECTS, **changes}
        setting = Setting.of(sample_shards, mano_dir, metrics_dir, **about)
        return evaluate.evaluate_checkpoint(opened, setting, run_id, devices=devices)

    result = run()
    assert not result.reused
    return run


@pytest.fixture(scope="module")
def baselines(sample_shards: Path, mano_dir: Path, metrics_dir: Path):
    setting = Setting.of(sample_shards, mano_dir, metrics_dir, "v1", SUBJECTS)

    def run():
        return evaluate.evaluate_baselines(setting, ["s01", "s03"])

    run()
    return run


def test_every_valid_row_once_in_the_order_of_the_shards(evaluated, sample_shards: Path, metrics_dir: Path) -> None:
    table = open_shards(sample_shards, SUBJECTS).table
    expected = table.filter(table["valid"])["sample_id"].to_pylist()
    for name in ("predictions", "samples"):
        assert tables.read_table(metrics_dir, name, "random")["sample_id"].to_pylist() == expected
    assert tables.read_table(metrics_dir, "joints", "random").num_rows == 21 * len(expected)


def test_rows_name_checkpoint_dataset_protocol_and_source(evaluated, metrics_dir: Path) -> None:
    info = evaluated().info
    for name in ("predictions", "samples", "joints", "summary"):
        row = tables.read_table(metrics_dir, name, "random").slice(0, 1).to_pylist()[0]
        assert row["checkpoint_sha256"] == info["checkpoint_sha256"]
        assert (row["dataset_version"], row["protocol"], row["source"]) == ("v1", "arctic-all-val", "synthetic")


def test_at_least_twenty_finite_metrics_that_are_means_of_the_samples(evaluated, metrics_dir: Path) -> None:
    metrics = evaluated().info["metrics"]
    assert len(metrics) >= 20
    assert np.isfinite(list(metrics.values())).all()
    samples = tables.read_table(metrics_dir, "samples", "random")
    for name in SAMPLE_METRICS:
        assert metrics[name] == pytest.approx(np.nanmean(samples[name].to_numpy().astype(float)), rel=1e-9)


def test_finished_work_is_reused_until_an_input_changes(evaluated, metrics_dir: Path) -> None:
    first, again = evaluated(), evaluated()
    assert again.reused
    assert again.info == first.info
    assert "are those of the earlier result" in again.why
    assert not evaluated(dataset_version="v2").reused
    shutil.rmtree(metrics_dir / "samples" / "run_id=random")
    assert not evaluated(dataset_version="v2").reused
    assert not evaluated().reused


def test_protocol_selects_views(evaluated, metrics_dir: Path) -> None:
    evaluated(run_id="ego", protocol="arctic-p2-val")
    assert set(tables.read_table(metrics_dir, "samples", "ego")["view"].to_pylist()) == {0}


def test_truth_through_the_tables_has_no_error(sample_shards: Path, mano_dir: Path, tmp_path: Path) -> None:
    identity = tables.RunIdentity("truth", "arctic-all-val", "v1", "synthetic")
    rows = write_ground_truth(sample_shards, mano_dir, tmp_path, identity)
    result = evaluate_predictions(sample_shards, mano_dir, tmp_path, identity)
    assert result["samples"] == rows > 0
    assert result["metrics"]["mpjpe_camera_mm"] < 1e-3
    assert result["metrics"]["mrrpe_mm"] < 1e-3
    assert result["metrics"]["detected"] == result["metrics"]["pck_2d_5px"] == 1.0


@pytest.mark.slow
def test_truth_of_all_nine_views_and_both_hands_has_no_error(tmp_path: Path) -> None:
    spec = SampleSpec(subjects=("s05",), sequences_per_subject=1, frames=8, image_scale=0.15)
    ensure_sample(tmp_path / "sample", spec, workers=1)
    mano, shards = tmp_path / "sample" / "body_models" / "mano", tmp_path / "shards"
    settings = ConversionConfig(target_resolution=(64, 64))
    convert_subjects(tmp_path / "sample" / "arctic", mano, ["s05"], shards, settings, workers=1)
    identity = tables.RunIdentity("truth", "arctic-all-val", "v1", "synthetic")
    write_ground_truth(shards, mano, tmp_path, identity)
    evaluate_predictions(shards, mano, tmp_path, identity)
    samples = tables.read_table(tmp_path, "samples", "truth")
    pairs = set(zip(samples["view"].to_pylist(), samples["side"].to_pylist(), strict=True))
    assert pairs == {(view, side) for view in range(9) for side in ("left", "right")}
    for name, metric in SAMPLE_METRICS.items():
        values = samples[name].drop_null().to_numpy().astype(float)
        assert len(values), name
        if metric.better == "higher":  # a curve that starts at a distance of exactly 0 loses half of its first step
            assert values.min() >= (0.99 if name.endswith("pck_auc") else 1 - 1e-4), name
        else:
            assert values.max() <= 1e-3, name


def test_predictions_of_other_rows_are_refused(sample_shards: Path, mano_dir: Path, tmp_path: Path) -> None:
    identity = tables.RunIdentity("truth", "arctic-all-val", "v1", "synthetic")
    write_ground_truth(sample_shards, mano_dir, tmp_path, identity, SUBJECTS)
    for subjects in (["s01"], ["s05", "s01"]):
        with pytest.raises(DataError, match="Predict again"):
            evaluate_predictions(sample_shards, mano_dir, tmp_path, identity, subjects)
    write_ground_truth(sample_shards, mano_dir, tmp_path, identity, ["s01", "s05"])
    with pytest.raises(DataError, match="more samples than the shards"):
        evaluate_predictions(sample_shards, mano_dir, tmp_path, identity, ["s01"])
    assert not list(tmp_path.glob("samples/run_id=*"))


def right_joints(shards: Path, subject: str) -> tuple[np.ndarray, np.ndarray]:
    """Wrist-relative joints of a subject's valid rows and whether they are right hands, straight from the shards."""
    table = open_shards(shards, [subject]).table
    table = table.filter(table["valid"])
    joints = np.array(table["joints_cam_m"].to_pylist()).reshape(-1, 21, 3)
    return joints - joints[:, :1], table["is_right"].to_numpy()


def test_mean_pose_is_one_constant_of_the_training_samples(baselines, sample_shards: Path, metrics_dir: Path) -> None:
    flip = np.array([-1.0, 1.0, 1.0])
    training, is_right = right_joints(sample_shards, "s01")
    mean = np.where(is_right[:, None, None], training, training * flip).mean(0)
    target, is_right = right_joints(sample_shards, "s05")
    said = np.where(is_right[:, None, None], mean, mean * flip)
    expected = 1000 * np.linalg.norm(said - target, axis=-1).mean()
    assert baselines().info["metrics"]["mean_pose"]["mpjpe_mm"] == pytest.approx(expected, rel=1e-5)
    table = tables.read_table(metrics_dir, "predictions", "baseline-mean_pose-v1")
    assert np.allclose(tables.to_numpy(table["joints_cam_m"], (21, 3)), said, atol=1e-6)
    assert table["rotmats"].null_count == table["translation_m"].null_count == table.num_rows


def test_baselines_are_measured_on_the_same_samples(baselines, evaluated, metrics_dir: Path) -> None:
    ours = tables.read_table(metrics_dir, "samples", "random", ["sample_id"])
    info = baselines().info
    for run_id in info["run_ids"].values():
        assert tables.read_table(metrics_dir, "samples", run_id, ["sample_id"]).equals(ours)
    assert "mpvpe_mm" in info["metrics"]["mean_rotations"]
    assert "mpvpe_mm" not in info["metrics"]["mean_pose"]
    assert info["metrics"]["subject_mean"]["mpjpe_mm"] < info["metrics"]["mean_pose"]["mpjpe_mm"]
    assert baselines().reused


def test_what_is_wrong_is_said_before_any_work(evaluated, tmp_path: Path) -> None:
    for change, message in (
        ({"protocol": "arctic-p1-vall"}, "Did you mean 'arctic-p1-val'"),
        ({"subjects": ["s07"]}, "no shards of s07"),
        ({"devices": Devices("cuda:99")}, "cannot be used"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluated(**change)
    with pytest.raises(ConfigError, match="does not exist"):
        open_checkpoint(tmp_path / "no.ckpt")
    (tmp_path / "bad.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError):
        open_checkpoint(tmp_path / "bad.ckpt")


def test_withheld_subject_has_nothing_to_evaluate(evaluated) -> None:
    with pytest.raises(DataError, match="s03"):
        evaluated(run_id="withheld", subjects=["s03"])


def test_output_that_is_not_finite_is_an_error(
    checkpoint: Path, tmp_path: Path, sample_shards: Path, mano_dir: Path
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    name = next(n for n in content["state_dict"] if n.endswith("camera_output.bias"))
    content["state_dict"][name].fill_(torch.nan)
    torch.save(content, tmp_path / "nan.ckpt")
    setting = Setting.of(sample_shards, mano_dir, tmp_path / "m", "v1", SUBJECTS)
    with pytest.raises(NumericalError, match="not finite"):
        evaluate.evaluate_checkpoint(open_checkpoint(tmp_path / "nan.ckpt"), setting, "nan", devices=CPU)
    assert not list((tmp_path / "m").glob("*/run_id=*"))


def test_training_curves_are_published_with_nulls_for_what_is_not_finite(tmp_path: Path) -> None:
    rows = {"step": [1, 2], "epoch": [0, 0], "split": ["train"] * 2, "metric": ["loss"] * 2, "value": [1.5, np.nan]}
    pa.parquet.write_table(pa.table(rows), tmp_path / "training.parquet")
    identity = tables.RunIdentity("curves", "arctic-all-val", "v1", "synthetic", "x")
    assert evaluate.publish_training(tmp_path / "training.parquet", tmp_path, identity) == 2
    assert tables.read_table(tmp_path, "training", "curves")["value"].to_pylist() == [1.5, None]
