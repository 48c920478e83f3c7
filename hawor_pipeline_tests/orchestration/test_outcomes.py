"""Ends of runs: exit codes, states and free slots; retries only for causes that a retry can fix."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hawor_pipeline_tests.orchestration.toy_runs import ToyProject

pytestmark = pytest.mark.engine


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[ToyProject]:
    project = ToyProject(tmp_path)
    yield project
    project.end()


def _wait_for(condition, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("behaviour", "code", "status", "tries"),
    [
        ("succeed", 0, "SUCCESS", 1),
        ("failed_check", 1, "FAILURE", 1),
        ("wrong_setting", 1, "FAILURE", 1),
        ("programming_error", 1, "FAILURE", 1),
        ("connection_lost", 0, "SUCCESS", 2),
        ("killed", 0, "SUCCESS", 2),
    ],
)
def test_exit_code_state_and_number_of_tries(toy, behaviour, code, status, tries):
    """Transient failures are retried; permanent ones fail at once."""
    done = toy.behave(behaviour)
    assert done.returncode == code, done.stderr[-3000:]
    assert toy.statuses() == [status]
    assert len(toy.marks(behaviour)) == tries
    assert toy.taken_slots() == 0
    if behaviour == "wrong_setting":
        assert "Did you mean 'batch_size'?" in done.stderr
        assert "Run the same job again" in done.stderr  # what failed and how to resume


def test_a_step_that_keeps_dying_fails_the_run_and_is_told_of(toy):
    done = toy.behave("killed", times=9)
    assert done.returncode == 1
    assert toy.statuses() == ["FAILURE"]
    assert len(toy.marks("killed")) == 3
    assert "step moody: its process died" in done.stderr
    assert toy.taken_slots() == 0


def test_a_wrong_configuration_fails_before_anything_runs(toy):
    done = toy.run("moody_job", {"ops": {"moody": {"config": {"behavior": "succeed"}}}})
    assert done.returncode == 1
    assert 'unexpected config entry "behavior"' in done.stderr
    assert toy.marks() == []


def test_an_unknown_job_is_a_usage_error(toy):
    assert toy.run("no_such_job").returncode not in (0, 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_cancels(toy, number):
    """SIGTERM, as sent by CI, cancels the run; its slot is free and its step has ended."""
    process = toy.start("toy_job", seconds=600)
    _wait_for(lambda: toy.marks("begin"))
    process.send_signal(number)
    assert process.wait(timeout=60) == 1
    assert toy.statuses() == ["CANCELED"]
    assert toy.taken_slots() == 0
    assert not psutil.pid_exists(toy.marks("begin")[0][1])


def test_everything_killed_at_once_as_by_a_reboot(toy):
    """When every process was killed, the next run corrects the state, frees the slot and succeeds."""
    process = toy.start("toy_job", seconds=600)
    _wait_for(lambda: toy.marks("begin"))
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        member.kill()
    process.wait()
    assert toy.statuses() == ["STARTED"]
    assert toy.taken_slots() == 1
    done = toy.run("toy_job")
    assert done.returncode == 0, done.stderr[-3000:]
    assert toy.statuses() == ["SUCCESS", "FAILURE"]
    assert toy.taken_slots() == 0


def test_two_processes_of_one_instance_never_share_the_pool(toy):
    """The steps of two trainings that were started separately run one after the other."""
    assert toy.run("moody_job").returncode == 0  # makes the databases
    first = toy.start("toy_job", seconds=6)
    second = toy.start("toy_job", seconds=6)
    assert [first.wait(timeout=200), second.wait(timeout=200)] == [0, 0]
    begins, ends = sorted(mark[2] for mark in toy.marks("begin")), sorted(mark[2] for mark in toy.marks("end"))
    assert len(begins) == len(ends) == 2
    assert ends[0] <= begins[1]
    assert toy.taken_slots() == 0


def test_a_database_that_is_locked_for_a_while_loses_nothing(toy):
    """Another process locks the databases of the instance during a run."""
    assert toy.run("moody_job").returncode == 0
    lock = (
        "import glob, sqlite3, sys, time\n"
        "held = [sqlite3.connect(path, timeout=30) for path in glob.glob('data/dagster/**/*.db', recursive=True)]\n"
        "[each.execute('BEGIN EXCLUSIVE') for each in held]\n"
        "print('held', flush=True)\n"
        "time.sleep(8)\n"
    )
    process = toy.start("toy_job", seconds=3)
    _wait_for(lambda: toy.marks("begin"))
    holder = subprocess.Popen([sys.executable, "-c", lock], cwd=toy.folder, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    code = process.wait(timeout=200)
    holder.wait()
    holder.stdout.close()
    again = toy.run("toy_job")
    assert again.returncode == 0, again.stderr[-3000:]
    statuses = toy.statuses()
    assert statuses[0] == "SUCCESS"
    assert statuses[1] == ("SUCCESS" if code == 0 else "FAILURE")
    assert toy.taken_slots() == 0
