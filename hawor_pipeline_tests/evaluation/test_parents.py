"""Derived tables name their parents: no run's rows are replaced by another's, and each run is compared with its own."""

import shutil
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from hawor_pipeline.evaluation.evaluate import evaluate_baselines, evaluate_checkpoint, stage_dir
from hawor_pipeline.evaluation.finished_runs import baselines_of
from hawor_pipeline.evaluation.registry import Registry
from hawor_pipeline.evaluation.rivals import evaluate_rivals
from hawor_pipeline.evaluation.setting import Devices, Setting
from hawor_pipeline.evaluation.tables import (
    baseline_run_id,
    list_runs,
    partition_dir,
    partition_file,
    read_identity,
    read_table,
)
from hawor_pipeline.models.checkpoints import open_checkpoint
from hawor_pipeline.provenance import STAGE_FILE
from hawor_pipeline.reporting.comparison import paired_differences
from hawor_pipeline.reporting.results import RunResults, find_baselines
from hawor_pipeline_tests.evaluation.analyst import RUN, VERSION, Analysed
from hawor_pipeline_tests.evaluation.made_up_runs import write_samples

CPU = Devices("cpu")


@pytest.fixture
def setting(analysed: Analysed, tmp_path: Path) -> Setting:
    """The setting of `analysed`, on a copy of its project that a test may change."""
    shutil.copytree(analysed.root, tmp_path / "project")
    return replace(analysed.setting, metrics_dir=tmp_path / "project" / "data" / "metrics")


@pytest.fixture
def other_checkpoint(analysed: Analysed, tmp_path: Path) -> Path:
    """A second network on the same data."""
    content = torch.load(analysed.checkpoint, weights_only=True)
    bias = next(name for name in content["state_dict"] if name.endswith("pose_output.bias"))
    content["state_dict"][bias] += 0.3
    torch.save(content, tmp_path / "other.ckpt")
    return tmp_path / "other.ckpt"


def evaluate(checkpoint: Path, setting: Setting, run_id: str, registry: Path | None = None) -> list[str]:
    """Evaluate a run and its rivals; return what it was compared with."""
    evaluate_checkpoint(open_checkpoint(checkpoint), setting, run_id, devices=CPU, registry_dir=registry)
    return evaluate_rivals(run_id, setting, registry_dir=registry, devices=CPU).info["compared_with"]


def expect_comparisons_to_be_of_their_rows(setting: Setting) -> None:
    """Join every comparison with the samples that it names, whatever was evaluated later."""
    for run in list_runs(setting.metrics_dir, "comparison"):
        rows = read_table(setting.metrics_dir, "comparison", run).to_pylist()
        assert rows
        for row in rows:
            if row["metric"] == "mpjpe_mm":
                others = read_table(setting.metrics_dir, "samples", row["other_run_id"])["mpjpe_mm"].to_numpy()
                assert row["other_value"] == pytest.approx(np.mean(others), abs=1e-9), (run, row["other_run_id"])


def test_a_second_run_leaves_the_rivals_of_the_first_alone(setting: Setting, other_checkpoint: Path) -> None:
    own = baseline_run_id("smoothed", VERSION, RUN)
    before = partition_file(setting.metrics_dir, "samples", own).read_bytes()
    compared = evaluate(other_checkpoint, setting, "second")
    assert baseline_run_id("smoothed", VERSION, "second") in compared and own not in compared
    assert partition_file(setting.metrics_dir, "samples", own).read_bytes() == before
    expect_comparisons_to_be_of_their_rows(setting)
    for run_id in (RUN, "second"):
        found = find_baselines(setting.metrics_dir, RunResults(setting.metrics_dir, run_id))
        assert found["smoothed"].run_id == baseline_run_id("smoothed", VERSION, run_id)
        assert (
            found["smoothed"].identity.checkpoint_sha256
            == RunResults(setting.metrics_dir, run_id).identity.checkpoint_sha256
        )


def test_two_champions_have_tables_of_their_own(
    setting: Setting, analysed: Analysed, other_checkpoint: Path, tmp_path: Path
) -> None:
    """On new data two challengers come; between them the champion changes."""
    registry = Registry(tmp_path / "project" / "registry")
    registry.promote(registry.run(RUN, setting.protocol, VERSION), "first")
    newer = replace(setting, dataset_version="v2")
    names = [next(n for n in evaluate(other_checkpoint, newer, "third", registry.root) if "champion" in n)]
    evaluate(other_checkpoint, setting, "second", registry.root)
    registry.promote(registry.run("second", setting.protocol, VERSION), "is better")
    names += [n for n in evaluate(analysed.checkpoint, newer, "fourth", registry.root) if "champion" in n]
    assert len(set(names)) == 2
    digests = [read_identity(setting.metrics_dir, "samples", name).checkpoint_sha256 for name in names]
    assert [name.split("-v2-")[1][:12] for name in names] == [digest[:12] for digest in digests]
    assert len(set(digests)) == 2
    expect_comparisons_to_be_of_their_rows(setting)


@pytest.mark.parametrize(
    ("change", "training"),
    [
        ({"protocol": "arctic-p2-val"}, ["s01", "s03"]),
        ({"subjects": ("s01",)}, ["s05"]),
        ({"subjects": ("s01", "s05")}, ["s01"]),
        ({}, ["s05"]),
    ],
    ids=["protocol", "subjects", "more subjects", "training subjects"],
)
def test_baselines_of_another_setting_replace_nothing(
    setting: Setting, analysed: Analysed, change: dict, training: list[str]
) -> None:
    names = list(analysed.baselines.info["run_ids"].values())
    assert names[0] == f"baseline-mean_pose-{VERSION}"
    files = [partition_file(setting.metrics_dir, t, n) for t in ("samples", "summary", "predictions") for n in names]
    before = [file.read_bytes() for file in files]
    other = replace(setting, **change)
    made = evaluate_baselines(other, training).info["run_ids"]
    assert not set(made.values()) & set(names)
    assert all(name.startswith(f"baseline-{kind}-{VERSION}-") for kind, name in made.items())
    assert [file.read_bytes() for file in files] == before
    assert evaluate_baselines(other, training).reused and evaluate_baselines(setting, ["s01", "s03"]).reused
    found = baselines_of(setting.metrics_dir, read_identity(setting.metrics_dir, "samples", RUN))
    assert made["mean_pose"] not in found["mean_pose"] or not change
    evaluate_rivals(RUN, setting, registry_dir=None, devices=CPU)
    expect_comparisons_to_be_of_their_rows(setting)


def test_other_samples_of_the_same_number_are_told_apart(tmp_path: Path) -> None:
    short, long = ({"mpjpe_mm": np.full(n, 1.0)} for n in (10, 20))
    run = write_samples(tmp_path, "ours", [short, long], checkpoint="a" * 64)
    write_samples(tmp_path, f"baseline-mean_pose-{VERSION}", [long, short])
    assert baselines_of(tmp_path, run) == {}
    write_samples(tmp_path, f"baseline-mean_pose-{VERSION}-0123456789ab", [short, long])
    write_samples(tmp_path, f"baseline-mean_pose-{VERSION}0", [short, long], version=f"{VERSION}0")
    assert baselines_of(tmp_path, run) == {"mean_pose": [f"baseline-mean_pose-{VERSION}-0123456789ab"]}


def test_tables_of_older_versions_are_found_and_the_setting_that_made_them_keeps_the_plain_names(
    setting: Setting, analysed: Analysed
) -> None:
    (stage_dir(setting.metrics_dir, f"baselines-{VERSION}") / STAGE_FILE).unlink()
    own, plain = baseline_run_id("smoothed", VERSION, RUN), baseline_run_id("smoothed", VERSION)
    for table in ("predictions", "samples", "joints", "summary"):
        partition_dir(setting.metrics_dir, table, own).rename(partition_dir(setting.metrics_dir, table, plain))
    found = find_baselines(setting.metrics_dir, RunResults(setting.metrics_dir, RUN))
    assert found["smoothed"].run_id == plain
    other = evaluate_baselines(replace(setting, protocol="arctic-p2-val"), ["s01", "s03"])
    assert other.info["run_ids"]["mean_pose"] != f"baseline-mean_pose-{VERSION}"
    again = evaluate_baselines(setting, ["s01", "s03"])
    assert not again.reused and again.info["run_ids"] == analysed.baselines.info["run_ids"]


def test_a_champion_with_tables_of_an_older_version_is_measured_again(
    setting: Setting, other_checkpoint: Path, tmp_path: Path
) -> None:
    """The older tables stay as they are, and the report still reads them."""
    registry = Registry(tmp_path / "project" / "registry")
    registry.promote(registry.run(RUN, setting.protocol, VERSION), "first")
    file = partition_file(setting.metrics_dir, "samples", RUN)
    pq.write_table(pq.ParquetFile(file).read().drop_columns(["accel_world_error_m_s2"]), file)
    before = file.read_bytes()
    compared = evaluate(other_checkpoint, setting, "second", registry.root)
    (champion,) = (name for name in compared if "champion" in name)
    assert champion.startswith(f"baseline-champion-{VERSION}-")
    assert file.read_bytes() == before
    found = find_baselines(setting.metrics_dir, RunResults(setting.metrics_dir, "second"))
    assert found["champion"].run_id == champion


def test_comparison_of_an_earlier_evaluation_is_not_shown(setting: Setting, other_checkpoint: Path) -> None:
    assert paired_differences(RunResults(setting.metrics_dir, RUN))
    evaluate_checkpoint(open_checkpoint(other_checkpoint), setting, RUN, devices=CPU)
    assert paired_differences(RunResults(setting.metrics_dir, RUN)) == []


def test_the_join_of_the_guide_meets_one_baseline(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hawor_pipeline_tests.evaluation.test_howto import QUERIES

    evaluate_baselines(replace(setting, protocol="arctic-p2-val"), ["s01", "s03"])
    monkeypatch.chdir(tmp_path / "project")
    rows = duckdb.sql(QUERIES[7]).fetchall()
    assert [row[3] for row in rows] == [read_table(setting.metrics_dir, "samples", RUN).num_rows]
