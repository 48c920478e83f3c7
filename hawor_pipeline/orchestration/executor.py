"""The executor of every job: one of Dagster's executors that reaps dead runs first.

Before the first step of a run, outside any pool, dead runs are reaped (`reaper.py`). While it runs, the run renews its
heartbeat. A run stopped by a signal ends as cancelled. Steps are processes of a fork server that has the code location
loaded, so that starting a step costs a fraction of a second instead of two.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

# Private, because Dagster exports no public name for the metadata of an engine event: the link to the reaped run.
from dagster._core.events import EngineEventData

from hawor_pipeline.orchestration.failures import notify_once
from hawor_pipeline.orchestration.reaper import beating, reap_dead_runs, tag_this_worker

PRELOADED_MODULES = ["hawor_pipeline.definitions", "numpy"]


class ReapingExecutor(dg.Executor):
    """Reaps dead runs of the instance, tags its own run, then lets another executor execute the steps."""

    def __init__(self, inner: dg.Executor):
        self.inner = inner

    @property
    def retries(self) -> Any:
        """Retry mode of the inner executor."""
        return self.inner.retries

    @property
    def step_dependency_config(self) -> Any:
        """Step dependency config of the inner executor."""
        return self.inner.step_dependency_config

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[dg.DagsterEvent]:
        """Run the plan; its first events report the reaped runs."""
        instance, run_id = plan_context.instance, plan_context.run_id
        tag_this_worker(instance, run_id)
        for run in reap_dead_runs(instance):
            message = (
                f"Reaped run {run.run_id} of {run.job_name}, whose worker had died: marked as {run.outcome}, pool "
                f"slots freed, {len(run.ended_pids)} orphaned processes ended. Its finished work will be reused."
            )
            plan_context.log.info(message)
            shown = EngineEventData({"reaped_run": dg.MetadataValue.dagster_run(run.run_id)})
            yield dg.DagsterEvent.engine_event(plan_context, message, shown)
            if run.outcome == "failed":
                notify_once(instance, run.run_id, "its worker died", log=plan_context.log)
        with beating(instance, run_id):
            try:
                for event in self.inner.execute(plan_context, execution_plan):
                    yield event
                    if _died(event):  # its process cannot notify any more
                        notify_once(instance, run_id, f"step {event.step_key}: its process died", log=plan_context.log)
            except dg.DagsterExecutionInterruptedError:
                _mark_cancelled(instance, run_id)
                raise


def _died(event: dg.DagsterEvent) -> bool:
    """Return whether a step failed for good because its process was killed or crashed."""
    if not event.is_step_failure:
        return False
    error = event.step_failure_data.error
    # An event carries only the name of the error's class, and that class is private.
    return error is not None and error.cls_name == "ChildProcessCrashException"


def _mark_cancelled(instance: dg.DagsterInstance, run_id: str) -> None:
    """Mark a run as cancelled, not failed: Ctrl-C and SIGTERM are requests, like the button in the UI."""
    run = instance.get_run_by_id(run_id)
    if run is not None and not run.is_finished and run.status != dg.DagsterRunStatus.CANCELING:
        instance.report_run_canceling(run, message="A signal asked this run to stop.")


@dg.executor(  # type: ignore[call-overload] # the schema of Dagster's own executor is no literal
    name="multiprocess",
    config_schema=dg.multiprocess_executor.config_schema,
    requirements=dg.multiple_process_executor_requirements(),
)
def reaping_executor(init_context: dg.InitExecutorContext) -> ReapingExecutor:
    """Execute steps in separate processes; takes the configuration of Dagster's multiprocess executor."""
    config = dict(init_context.executor_config)
    if not config.get("start_method"):
        config["start_method"] = {"forkserver": {"preload_modules": PRELOADED_MODULES}}
    create = dg.multiprocess_executor.executor_creation_fn
    assert create is not None
    return ReapingExecutor(create(init_context._replace(executor_config=config)))
