"""The main job where the disk is full, and where memory does not suffice: true states, clear words, and going on."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from hawor_pipeline_tests.conftest import REPOSITORY, run_full_pipeline
from hawor_pipeline_tests.orchestration.daemon import opened_instance

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1500)]
_DISK_MB = 400


def _preset(project: Path, **overrides) -> Path:
    preset = yaml.safe_load((REPOSITORY / "configs" / "jobs" / "smoke.yaml").read_text())
    preset["ops"]["trained_checkpoint"]["config"]["overrides"].update(overrides)
    path = project / "preset.yaml"
    path.write_text(yaml.safe_dump(preset))
    return path


def _latest(project: Path, asset: str) -> dict:
    import dagster as dg

    with opened_instance(project) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


@pytest.fixture
def small_disk(finished_project: Path, tmp_path: Path):
    """The finished project on a file system of its own, where this user may mount one."""
    project = tmp_path / "disk"
    project.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MB}m", "tmpfs", str(project)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        shutil.copytree(finished_project, project, dirs_exist_ok=True)
        yield project
    finally:
        subprocess.run(["umount", "--lazy", str(project)], check=True)


def test_a_full_disk_fails_the_run_and_the_next_one_goes_on(small_disk):
    """Also the database is on the full disk: whatever the run could still write, the next one makes the state true."""
    shutil.rmtree(small_disk / "data" / "runs")
    filler = small_disk / "filler"
    with open(filler, "wb", buffering=0) as file:
        while True:
            try:
                file.write(b"\0" * 100_000)
            except OSError:
                break
    full = run_full_pipeline(small_disk)
    assert full.returncode != 0
    assert "disk" in full.stderr.lower()
    filler.unlink()
    done = run_full_pipeline(small_disk)
    assert done.returncode == 0, done.stderr[-4000:]
    with opened_instance(small_disk) as instance:
        statuses = [run.status.value for run in instance.get_runs()]
        slots = instance.event_log_storage.get_concurrency_info("gpu")
    assert statuses[0] == "SUCCESS"
    assert "STARTED" not in statuses
    assert slots.active_slot_count == slots.pending_step_count == 0


def test_out_of_memory_leads_to_smaller_parts_of_the_same_batch(finished_project, tmp_path):
    """Two processes under torchrun raise torch's error above a number of clips; the run says so and completes."""
    project = tmp_path / "project"
    shutil.copytree(finished_project, project)
    preset = _preset(project, devices=2, seed=5, max_steps=6, save_every_n_steps=2, val_check_interval=3)
    location = "hawor_pipeline_tests.orchestration.tight_memory"
    done = run_full_pipeline(project, preset=str(preset), location=location)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "same clips per optimiser step" in done.stderr
    metadata = _latest(project, "trained_checkpoint")
    assert metadata["micro_batches"] == 4
    run = project / "data" / "runs" / metadata["run_id"]
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["batch_size"], config["micro_batches"]) == (16, 4)
    assert json.loads((run / "memory.json").read_text())["micro_batches"] == 4
    assert json.loads((run / "result.json").read_text())["step"] == 6
    starts = [json.loads(line) for line in (run / "progress.jsonl").read_text().splitlines() if '"start"' in line]
    assert starts[-1]["frames_per_step"] == 2 * 16 * 2  # devices, clips, frames of a clip
