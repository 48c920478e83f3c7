"""Recovery from dead run workers: corrects the state of their runs, frees their slots, ends their processes.

A run worker killed with SIGKILL cannot report it: its run stays STARTED, its pool slots stay taken, and its step
processes may survive. Every run worker therefore tags its run with its process id and a heartbeat. The executor at the
start of any job, and the daemon through the launcher, check whether that process still lives. On the same machine the
process itself is examined. A container has another host name after each restart: there, and on other machines, the
heartbeat decides.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import dagster as dg
import psutil

PID_TAG = "hawor/worker_pid"
HOST_TAG = "hawor/worker_host"
BORN_TAG = "hawor/worker_born"
HEARTBEAT_TAG = "hawor/worker_heartbeat"
RUN_ID_VARIABLE = "HAWOR_DAGSTER_RUN_ID"  # inherited by every process that a run starts
_BORN_TOLERANCE_S = 10.0  # the system derives birth times from a clock that may be adjusted
_TERMINATE_GRACE_S = 20.0
HEARTBEAT_EVERY_S = 60.0
SILENT_AFTER_S = 600.0  # generous: clocks of machines differ, and a busy database delays a heartbeat
UNFINISHED = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


@dataclass(frozen=True, slots=True)
class ReapedRun:
    """A run that was found dead: its id, job and new status, and the orphaned processes that were ended."""

    run_id: str
    job_name: str
    outcome: Literal["failed", "cancelled"]
    ended_pids: tuple[int, ...]


def tag_this_worker(instance: dg.DagsterInstance, run_id: str) -> None:
    """Record this process as the worker of a run, and mark all processes that it will start."""
    os.environ[RUN_ID_VARIABLE] = run_id
    born = psutil.Process().create_time()
    tags = {PID_TAG: str(os.getpid()), HOST_TAG: socket.gethostname(), BORN_TAG: f"{born:.2f}"}
    instance.add_run_tags(run_id, {**tags, **_heartbeat()})


def _heartbeat() -> dict[str, str]:
    return {HEARTBEAT_TAG: f"{time.time():.0f}"}


@contextmanager
def beating(instance: dg.DagsterInstance, run_id: str, every_s: float = HEARTBEAT_EVERY_S) -> Iterator[None]:
    """Renew the run's heartbeat while the block runs."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(every_s):
            try:
                instance.add_run_tags(run_id, _heartbeat())
            except Exception:  # the database is busy for a moment; the next beat retries
                continue

    thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def worker_alive(run: dg.DagsterRun) -> bool | None:
    """Return whether the run's worker lives; None where unknown (no tags, or another machine without heartbeat)."""
    if PID_TAG not in run.tags:
        return None
    if run.tags.get(HOST_TAG) != socket.gethostname():
        heard = run.tags.get(HEARTBEAT_TAG)
        return None if heard is None else time.time() - float(heard) < SILENT_AFTER_S
    try:
        process = psutil.Process(int(run.tags[PID_TAG]))
        same = abs(process.create_time() - float(run.tags[BORN_TAG])) < _BORN_TOLERANCE_S
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def reap_dead_runs(instance: dg.DagsterInstance) -> list[ReapedRun]:
    """Mark the runs of this instance whose worker is dead as failed, end their processes, free their pool slots.

    A run that was being cancelled becomes cancelled. Runs whose worker is alive or unknown are not touched.
    """
    reaped = []
    for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
        if worker_alive(run) is not False:
            continue
        ended = end_processes_of(run.run_id)
        message = f"The worker of this run (process {run.tags[PID_TAG]}) is gone; the next run resumes its work."
        outcome: Literal["failed", "cancelled"] = "failed"
        if run.status == dg.DagsterRunStatus.CANCELING:
            outcome = "cancelled"
            instance.report_run_canceled(run, message=message)
        else:
            instance.report_run_failed(run, message=message)
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        reaped.append(ReapedRun(run.run_id, run.job_name, outcome, ended))
    free_orphaned_slots(instance)
    return reaped


def free_orphaned_slots(instance: dg.DagsterInstance) -> None:
    """Free pool slots of finished and unknown runs; without a daemon, nothing else does."""
    storage = instance.event_log_storage
    if not storage.supports_global_concurrency_limits:
        return
    for pool in storage.get_concurrency_keys():
        info = storage.get_concurrency_info(pool)
        for run_id in {*info.active_run_ids, *info.pending_run_ids, *info.assigned_run_ids}:
            run = instance.get_run_by_id(run_id)
            if run is None or run.is_finished:
                storage.free_concurrency_slots_for_run(run_id)


def end_processes_of(run_id: str) -> tuple[int, ...]:
    """Terminate the orphaned processes of a dead run, and kill those that ignore it; returns their ids."""
    left = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(RUN_ID_VARIABLE) == run_id:
                process.terminate()
                left.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    _, stubborn = psutil.wait_procs(left, timeout=_TERMINATE_GRACE_S)
    for process in stubborn:
        process.kill()
    psutil.wait_procs(stubborn, timeout=_TERMINATE_GRACE_S)
    return tuple(sorted(process.pid for process in left))
