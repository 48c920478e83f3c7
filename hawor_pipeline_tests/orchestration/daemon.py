"""A daemon on an instance, for tests of schedules, sensors and monitoring."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from hawor_pipeline_tests.conftest import project_environment

_STOP_TIMEOUT_S = 60.0


@contextmanager
def opened_instance(project: Path) -> Iterator[dg.DagsterInstance]:
    """Open the instance of a project; paths in its settings are relative to the project."""
    before = Path.cwd()
    os.chdir(project)
    try:
        with dg.DagsterInstance.from_config(str(project)) as instance:
            yield instance
    finally:
        os.chdir(before)


@contextmanager
def running_daemon(project: Path, **environment: str) -> Iterator[subprocess.Popen]:
    """Run `dagster-daemon run` in a project, with its log in daemon.log."""
    with open(project / "daemon.log", "a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "dagster._daemon", "run"],
            cwd=project,
            env={**project_environment(), "DAGSTER_HOME": str(project), **environment},
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def dagster_command(project: Path, *words: str, **environment: str) -> str:
    """Run a command of Dagster in a project and return its output."""
    done = subprocess.run(
        [sys.executable, "-m", "dagster", *words],
        cwd=project,
        env={**project_environment(), "DAGSTER_HOME": str(project), **environment},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def free_ports(count: int) -> list[int]:
    """Return free ports of this machine."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.5)
