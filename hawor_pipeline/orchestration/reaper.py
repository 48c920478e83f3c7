"""Clearing up after run workers that died: their state becomes true, their slots free, their processes end.

A run worker that is killed with SIGKILL cannot say so: its run stays STARTED, its pool slots stay taken, and its step
processes may live on. Every run worker therefore tags its run with a name for its process; whoever comes next (the
executor at the start of any job, the daemon through the launcher) asks whether that process still lives.
"""

import os
import socket
from dataclasses import dataclass

import dagster as dg
import psutil

PID_TAG = "hawor/worker_pid"
HOST_TAG = "hawor/worker_host"
BORN_TAG = "hawor/worker_born"
RUN_ID_VARIABLE = "HAWOR_DAGSTER_RUN_ID"  # inherited by every process that a run starts
_BORN_TOLERANCE_S = 10.0  # the system reckons birth times from a clock that may be corrected
_TERMINATE_GRACE_S = 20.0
_UNFINISHED = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


@dataclass(frozen=True, slots=True)
class ReapedRun:
    """One run that was found dead: its id, its job, and the ids of processes of it that had to be ended."""

    run_id: str
    job_name: str
    ended_pids: tuple[int, ...]


def tag_this_worker(instance: dg.DagsterInstance, run_id: str) -> None:
    """Record this process as the worker of a run, and mark all processes that it will start."""
    os.environ[RUN_ID_VARIABLE] = run_id
    born = psutil.Process().create_time()
    tags = {PID_TAG: str(os.getpid()), HOST_TAG: socket.gethostname(), BORN_TAG: f"{born:.2f}"}
    instance.add_run_tags(run_id, tags)


def worker_alive(run: dg.DagsterRun) -> bool | None:
    """Whether the run's worker lives; None where that cannot be known (no tags, another machine)."""
    if PID_TAG not in run.tags or run.tags.get(HOST_TAG) != socket.gethostname():
        return None
    try:
        process = psutil.Process(int(run.tags[PID_TAG]))
        same = abs(process.create_time() - float(run.tags[BORN_TAG])) < _BORN_TOLERANCE_S
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def reap_dead_runs(instance: dg.DagsterInstance) -> list[ReapedRun]:
    """Mark the runs of this instance whose worker is dead as failed, end their processes, free their pool slots.

    Runs of other machines, and runs whose worker is alive, are not touched.
    """
    reaped = []
    for run in instance.get_runs(dg.RunsFilter(statuses=_UNFINISHED)):
        if worker_alive(run) is not False:
            continue
        ended = end_processes_of(run.run_id)
        message = f"The worker of this run (process {run.tags[PID_TAG]}) is gone; the next run resumes its work."
        if run.status == dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, message=message)
        else:
            instance.report_run_failed(run, message=message)
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        reaped.append(ReapedRun(run.run_id, run.job_name, ended))
    return reaped


def end_processes_of(run_id: str) -> tuple[int, ...]:
    """Ask all processes that a dead run left behind to stop, then insist. Returns their ids."""
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
