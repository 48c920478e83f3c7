"""The main job in processes on a small sample: success, reuse, resuming after kills, rejection of damaged files."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import psutil
import pytest
import yaml

from hawor_pipeline_tests.conftest import REPOSITORY, project_environment, run_full_pipeline

pytestmark = pytest.mark.engine
ASSETS = (
    "raw_arctic_sequences",
    "subject_shards",
    "dataset_metadata",
    "quality_stats",
    "trained_checkpoint",
    "baseline_metrics",
    "evaluation_metrics",
    "final_report",
    "exported_model",
)


@pytest.fixture
def project(finished_project: Path, tmp_path: Path) -> Path:
    """Copy the finished project for a test that changes it."""
    copy = tmp_path / "project"
    shutil.copytree(finished_project, copy)
    return copy


@pytest.fixture
def instance(project: Path, monkeypatch):
    monkeypatch.chdir(project)
    with dg.DagsterInstance.from_config(str(project)) as opened:
        yield opened


def latest_metadata(instance: dg.DagsterInstance, asset: str) -> dict:
    event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def test_the_first_run_made_everything(project, instance):
    for asset in ASSETS:
        # partitions of one run are recorded in no fixed order, and those without ground truth have nothing to make
        of_s01 = dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=["s01"])
        records = of_s01 if asset in ("raw_arctic_sequences", "subject_shards") else dg.AssetKey(asset)
        (first,) = instance.fetch_materializations(records, limit=1, ascending=True).records
        metadata = first.asset_materialization.metadata
        assert metadata["reused"].value is False, asset
        assert metadata["why"].value, asset
    report = json.loads((project / "data" / "handoff" / "final_report.json").read_text())["path"]
    page = Path(str(report).replace(str(Path(report).parents[2]), str(project / "data")))
    assert "SYNTHETIC SAMPLE" in page.read_text()
    shown = json.loads(page.with_name("report.json").read_text())
    finite = [name for name, entry in shown["metrics"].items() if entry.get("value") is not None]
    assert len(finite) >= 20


def test_s03_is_a_partition_without_rows_and_with_a_reason(instance):
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(dg.AssetKey("subject_shards"), asset_partitions=["s03"]), limit=1
    ).records
    metadata = records[0].asset_materialization.metadata
    assert metadata["rows"].value == 0
    assert metadata["status"].value == "withheld"


def test_training_was_watched_while_it_ran(instance):
    # other tests train on this instance too, and are cancelled before they validate
    records = instance.fetch_observations(dg.AssetKey("trained_checkpoint"), limit=100).records
    assert any("mpjpe" in name for record in records for name in record.asset_observation.metadata)


def test_a_second_run_reuses_everything_and_says_so(project, instance):
    done = run_full_pipeline(project)
    assert done.returncode == 0, done.stderr[-4000:]
    for asset in ASSETS:
        metadata = latest_metadata(instance, asset)
        assert metadata["reused"] is True, (asset, metadata["why"])


def _preset(project: Path, **overrides) -> Path:
    preset = yaml.safe_load((REPOSITORY / "configs" / "jobs" / "smoke.yaml").read_text())
    preset["ops"]["trained_checkpoint"]["config"]["overrides"].update(overrides)
    path = project / "preset.yaml"
    path.write_text(yaml.safe_dump(preset))
    return path


def _start(project: Path, preset: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "hawor_pipeline.definitions"]
    command += ["-j", "full_pipeline_job", "-c", str(preset)]
    return subprocess.Popen(
        command, cwd=project, env=project_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip


def _wait_for_new_checkpoint(project: Path, known: set[Path], seconds: float = 150) -> Path:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for checkpoint in (project / "data" / "runs").glob("*/checkpoints/last.ckpt"):
            if checkpoint not in known:
                return checkpoint
        time.sleep(0.1)
    raise AssertionError("training wrote no checkpoint in time")


def _training_processes(run: Path) -> list[int]:
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if "hawor_pipeline.orchestration.training_child" in " ".join(process.info["cmdline"] or ())
        and process.environ().get("PWD", "").startswith(str(run.parents[2]))
    ]


def test_a_run_killed_in_training_does_not_hinder_the_next_which_resumes(project, instance):
    preset = _preset(project, max_steps=40, save_every_n_steps=2, val_check_interval=20)
    known = set((project / "data" / "runs").glob("*/checkpoints/last.ckpt"))
    first = _start(project, preset)
    checkpoint = _wait_for_new_checkpoint(project, known)
    first.kill()
    first.wait()
    done = run_full_pipeline(project, preset=str(preset))
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Reaped run" in done.stderr
    metadata = latest_metadata(instance, "trained_checkpoint")
    assert metadata["resumed"] is True
    result = json.loads((checkpoint.parents[1] / "result.json").read_text())
    assert (result["status"], result["step"]) == ("completed", 40)
    starts = [json.loads(line) for line in (checkpoint.parents[1] / "progress.jsonl").read_text().splitlines()]
    assert [line["step"] > 0 for line in starts if line["kind"] == "start"] == [False, True]
    statuses = [run.status.value for run in instance.get_runs()]
    assert statuses[:2] == ["SUCCESS", "FAILURE"]


def test_an_interrupted_run_keeps_its_checkpoint(project, instance):
    preset = _preset(project, max_steps=5000, save_every_n_steps=2, val_check_interval=2500)
    known = set((project / "data" / "runs").glob("*/checkpoints/last.ckpt"))
    process = _start(project, preset)
    checkpoint = _wait_for_new_checkpoint(project, known)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=90) != 0
    assert not _training_processes(checkpoint.parent)
    assert instance.get_runs(limit=1)[0].status.value in ("FAILURE", "CANCELED")
    assert checkpoint.stat().st_size > 0
    assert os.listdir(checkpoint.parent)


def test_damaged_raw_data_stops_the_run_with_one_clear_message(project):
    (file,) = list((project / "data" / "sample" / "arctic" / "raw_seqs" / "s01").glob("*.mano.npy"))[:1]
    file.write_bytes(file.read_bytes()[:-100])
    done = run_full_pipeline(project)
    assert done.returncode == 1
    assert file.name in done.stderr


def test_a_raw_root_that_does_not_exist_is_named(project, monkeypatch):
    monkeypatch.setenv("ARCTIC_ROOT", str(project / "nowhere"))
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "hawor_pipeline.definitions"]
    environment = {**project_environment(), "ARCTIC_ROOT": str(project / "nowhere")}
    done = subprocess.run(
        [*command, "-j", "full_pipeline_job"], cwd=project, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "nowhere" in done.stderr
    assert "does not exist" in done.stderr
