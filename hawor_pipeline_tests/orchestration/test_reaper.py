"""Dead runs are detected and marked as failed; their slots are freed and their processes ended."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import psutil
import pytest

from hawor_pipeline.orchestration.launcher import LocalRunLauncher
from hawor_pipeline.orchestration.reaper import (
    BORN_TAG,
    HEARTBEAT_TAG,
    HOST_TAG,
    PID_TAG,
    RUN_ID_VARIABLE,
    beating,
    reap_dead_runs,
    tag_this_worker,
    worker_alive,
)

REPOSITORY = Path(__file__).resolve().parents[2]


@dg.op
def nothing():
    pass


@dg.job
def empty_job():
    nothing()


def _started_run(instance: dg.DagsterInstance, tags: dict[str, str]) -> dg.DagsterRun:
    run = instance.create_run_for_job(empty_job, tags=tags)
    instance.report_dagster_event(
        dg.DagsterEvent("PIPELINE_START", empty_job.name, message="started"), run_id=run.run_id
    )
    return instance.get_run_by_id(run.run_id)


def _dead_process() -> tuple[int, float]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    born = psutil.Process(process.pid).create_time()
    process.kill()
    process.wait()
    return process.pid, born


def _tags(pid: int, born: float, host: str | None = None) -> dict[str, str]:
    return {PID_TAG: str(pid), BORN_TAG: f"{born:.2f}", HOST_TAG: host or socket.gethostname()}


def test_a_run_of_a_dead_worker_becomes_failed():
    with dg.instance_for_test() as instance:
        run = _started_run(instance, _tags(*_dead_process()))
        reaped = reap_dead_runs(instance)
        assert [item.run_id for item in reaped] == [run.run_id]
        assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.FAILURE


def test_runs_of_living_workers_other_machines_and_unknown_workers_are_left_alone():
    with dg.instance_for_test() as instance:
        alive = _started_run(instance, _tags(os.getpid(), psutil.Process().create_time()))
        elsewhere = _started_run(instance, _tags(*_dead_process(), host="another-machine"))
        untagged = _started_run(instance, {})
        assert reap_dead_runs(instance) == []
        for run in (alive, elsewhere, untagged):
            assert instance.get_run_by_id(run.run_id).status == dg.DagsterRunStatus.STARTED


def test_a_process_id_that_was_given_to_another_process_does_not_keep_a_run_alive():
    with dg.instance_for_test() as instance:
        run = _started_run(instance, _tags(os.getpid(), psutil.Process().create_time() - 1000.0))
        assert worker_alive(run) is False


def test_slots_of_runs_that_ended_are_freed():
    """Slots of a run that was marked as failed by hand, and of a run that the database does not know, are freed."""
    with dg.instance_for_test() as instance:
        storage = instance.event_log_storage
        storage.set_concurrency_slots("gpu", 3)
        ended = _started_run(instance, _tags(os.getpid(), psutil.Process().create_time()))
        alive = _started_run(instance, _tags(os.getpid(), psutil.Process().create_time()))
        for run_id in (ended.run_id, alive.run_id, "00000000-0000-0000-0000-000000000000"):
            assert storage.claim_concurrency_slot("gpu", run_id, "train").is_claimed
        instance.report_run_failed(ended)
        assert reap_dead_runs(instance) == []
        info = storage.get_concurrency_info("gpu")
        assert info.active_run_ids == {alive.run_id}
        assert info.active_slot_count == 1


def test_the_heartbeat_decides_about_runs_of_other_machines(monkeypatch):
    with dg.instance_for_test() as instance:
        fresh = _started_run(instance, {**_tags(1, 0.0, host="pod-a"), HEARTBEAT_TAG: f"{time.time():.0f}"})
        silent = _started_run(instance, {**_tags(1, 0.0, host="pod-b"), HEARTBEAT_TAG: f"{time.time() - 3600:.0f}"})
        assert [run.run_id for run in reap_dead_runs(instance)] == [silent.run_id]
        assert instance.get_run_by_id(fresh.run_id).status == dg.DagsterRunStatus.STARTED
        with beating(instance, fresh.run_id, every_s=0.05):
            before = fresh.tags[HEARTBEAT_TAG]
            monkeypatch.setattr(time, "time", lambda: float(before) + 100)
            time.sleep(0.5)
        assert float(instance.get_run_by_id(fresh.run_id).tags[HEARTBEAT_TAG]) > float(before)


@pytest.mark.slow
def test_left_over_processes_of_a_dead_run_are_ended():
    with dg.instance_for_test() as instance:
        run = _started_run(instance, _tags(*_dead_process()))
        orphan = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"], env={**os.environ, RUN_ID_VARIABLE: run.run_id}
        )
        time.sleep(0.3)
        (reaped,) = reap_dead_runs(instance)
        assert reaped.ended_pids == (orphan.pid,)
        assert not psutil.pid_exists(orphan.pid)


def test_this_worker_is_tagged_and_the_launcher_sees_it(monkeypatch):
    monkeypatch.setenv(RUN_ID_VARIABLE, "")
    with dg.instance_for_test() as instance:
        run = _started_run(instance, {})
        tag_this_worker(instance, run.run_id)
        tagged = instance.get_run_by_id(run.run_id)
        assert os.environ[RUN_ID_VARIABLE] == run.run_id
        launcher = LocalRunLauncher()
        assert launcher.supports_check_run_worker_health
        assert launcher.check_run_worker_health(tagged).status.value == "RUNNING"
        dead = _started_run(instance, _tags(*_dead_process()))
        assert launcher.check_run_worker_health(dead).status.value == "FAILED"
        assert launcher.check_run_worker_health(_started_run(instance, {})).status.value == "RUNNING"


@pytest.mark.engine
def test_a_killed_job_does_not_block_the_next(tmp_path, monkeypatch):
    """After SIGKILL of a run that holds the pool `gpu`, the next run of the instance reaps it and succeeds."""
    shutil.copy(REPOSITORY / "dagster.yaml", tmp_path)
    mark = tmp_path / "mark"
    command = [sys.executable, "-m", "dagster", "job", "execute", "-j", "toy_job"]
    command += ["-m", "hawor_pipeline_tests.orchestration.toy_location"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "TOY_MARK": str(mark), "PYTHONWARNINGS": "ignore"}
    environment.pop("DAGSTER_HOME", None)
    first = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**environment, "TOY_SECONDS": "600"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (mark.exists() and mark.read_text().endswith("\n")) and time.monotonic() < deadline:
        time.sleep(0.1)
    step_pid = int(mark.read_text().split()[1])  # "begin", process id, time
    first.kill()
    first.wait()
    second = subprocess.run(
        command, cwd=tmp_path, env={**environment, "TOY_SECONDS": "0"}, capture_output=True, text=True, timeout=120
    )
    assert second.returncode == 0, second.stderr
    assert "Reaped run" in second.stderr
    assert not psutil.pid_exists(step_pid)
    monkeypatch.chdir(tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        statuses = sorted(run.status.value for run in instance.get_runs())
    assert statuses == ["FAILURE", "SUCCESS"]
