"""The run launcher of this project's instance: Dagster's default one, which can also tell whether a run still lives.

With it, the daemon's run monitoring marks runs of dead workers as failed and frees their slots; the default launcher
has no health check, and the monitor skips it.
"""

import dagster as dg
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.launcher.default_run_launcher import DefaultRunLauncher

from hawor_pipeline.orchestration.reaper import worker_alive


class LocalRunLauncher(DefaultRunLauncher):
    """Launches runs as processes of the code server and checks them by process id."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """True: run monitoring applies."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """RUNNING, FAILED, or UNKNOWN where the run belongs to another machine or has not started steps yet."""
        alive = worker_alive(run)
        if alive is None:
            return CheckRunHealthResult(WorkerStatus.UNKNOWN, "no process of this machine is known for the run")
        if alive:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, "the process of the run is gone")
