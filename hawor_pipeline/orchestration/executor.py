"""The executor of every job: one of Dagster's executors, with a broom.

Before the first step of a run, outside any pool, runs that died are reaped (`reaper.py`). While it runs, the run says
that it lives. A run that is stopped by a signal ends as cancelled, which is what happened to it. Steps are processes of
a fork server that has the code location loaded, so that a step costs a fraction of a second instead of two.
"""

from collections.abc import Iterator

import dagster as dg
from dagster._core.events import EngineEventData
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.base import Executor

from hawor_pipeline.orchestration.failures import notify_once
from hawor_pipeline.orchestration.reaper import beating, reap_dead_runs, tag_this_worker

PRELOADED_MODULES = ["hawor_pipeline.definitions", "numpy"]


class ReapingExecutor(Executor):
    """Reaps dead runs of the instance, tags its own run, then lets another executor execute the steps."""

    def __init__(self, inner: Executor):
        self.inner = inner

    @property
    def retries(self) -> RetryMode:
        """As the inner executor has it."""
        return self.inner.retries

    @property
    def step_dependency_config(self):
        """As the inner executor has it."""
        return self.inner.step_dependency_config

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[dg.DagsterEvent]:
        """Run the plan; the first events say what was reaped."""
        instance, run_id = plan_context.instance, plan_context.run_id
        tag_this_worker(instance, run_id)
        for run in reap_dead_runs(instance):
            message = (
                f"Reaped run {run.run_id} of {run.job_name}, whose worker had died: marked as {run.outcome}, pool "
                f"slots freed, {len(run.ended_pids)} left-over processes ended. Its finished work will be reused."
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
                    if _died(event):  # its process cannot tell any more
                        notify_once(instance, run_id, f"step {event.step_key}: its process died", log=plan_context.log)
            except dg.DagsterExecutionInterruptedError:
                _call_it_cancelled(instance, run_id)
                raise


def _died(event: dg.DagsterEvent) -> bool:
    """Whether a step failed for good because its process was killed or crashed."""
    if not event.is_step_failure:
        return False
    error = event.step_failure_data.error
    return error is not None and error.cls_name == "ChildProcessCrashException"


def _call_it_cancelled(instance: dg.DagsterInstance, run_id: str) -> None:
    """Ctrl-C and SIGTERM are somebody's wish, like the button in the UI: the run becomes cancelled, not failed."""
    run = instance.get_run_by_id(run_id)
    if run is not None and not run.is_finished and run.status != dg.DagsterRunStatus.CANCELING:
        instance.report_run_canceling(run, message="A signal asked this run to stop.")


@dg.executor(  # type: ignore[call-overload] # the schema of Dagster's own executor is no literal
    name="multiprocess",
    config_schema=dg.multiprocess_executor.config_schema,
    requirements=dg.multiple_process_executor_requirements(),
)
def reaping_executor(init_context: dg.InitExecutorContext) -> ReapingExecutor:
    """Steps in separate processes; takes the configuration of Dagster's multiprocess executor."""
    config = dict(init_context.executor_config)
    if not config.get("start_method"):
        config["start_method"] = {"forkserver": {"preload_modules": PRELOADED_MODULES}}
    create = dg.multiprocess_executor.executor_creation_fn
    assert create is not None  # Dagster's own executor has one
    return ReapingExecutor(create(init_context._replace(executor_config=config)))
