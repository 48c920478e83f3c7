"""The run launcher of this project's instance: Dagster's default one with a health check of its runs.

With it, the daemon's run monitoring marks runs of dead workers as failed and frees their slots; the default launcher
has no health check, and the monitor skips it.
"""

import dagster as dg

# Private names, because Dagster exports no public ones for what `check_run_worker_health` must return.
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus

from hawor_pipeline.orchestration.reaper import end_processes_of, worker_alive


class LocalRunLauncher(dg.DefaultRunLauncher):
    """Launches runs as processes of the code server and checks them by process id."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """True: run monitoring applies."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Return FAILED where the run's process on this machine is gone, after ending its children, else RUNNING.

        A run of another machine, or one that has not started steps yet, cannot be judged here. It counts as running,
        because the monitor takes every other answer for death.
        """
        if worker_alive(run) is not False:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        end_processes_of(run.run_id)
        return CheckRunHealthResult(WorkerStatus.FAILED, "the process of the run is gone")
