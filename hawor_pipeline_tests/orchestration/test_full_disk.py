"""The main job on a full disk: correct state, clear message, and resuming."""

import shutil
import subprocess
from pathlib import Path

import pytest

from hawor_pipeline_tests.conftest import run_full_pipeline
from hawor_pipeline_tests.orchestration.daemon import opened_instance

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1500), pytest.mark.campaign]
_DISK_MB = 400


@pytest.fixture
def small_disk(finished_project: Path, tmp_path: Path):
    """Copy the finished project to a separate file system, if this user may mount one."""
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
    """With the database on the full disk too, the next run corrects the state."""
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
