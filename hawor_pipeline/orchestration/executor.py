"""The executor of every job: Dagster's multiprocess executor, with a broom.

Before the first step of a run, outside any pool, runs that died are reaped (`reaper.py`). Steps are processes of a
fork server that has the code location loaded, so that a step costs a fraction of a second instead of two.
"""

from collections.abc import Iterator

import dagster as dg
from dagster._core.definitions.executor_definition import _core_multiprocess_executor_creation
from dagster._core.events import DagsterEvent, EngineEventData
from dagster._core.execution.context.system import PlanOrchestrationContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.executor.multiprocess import MultiprocessExecutor

from hawor_pipeline.orchestration.reaper import reap_dead_runs, tag_this_worker

PRELOADED_MODULES = ["hawor_pipeline.definitions", "numpy"]


class ReapingExecutor(MultiprocessExecutor):
    """Reaps dead runs of the instance, tags its own run, then executes steps in processes."""

    def execute(self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan) -> Iterator[DagsterEvent]:
        """Run the plan; the first events say what was reaped."""
        instance = plan_context.instance
        tag_this_worker(instance, plan_context.run_id)
        for run in reap_dead_runs(instance):
            message = (
                f"Reaped run {run.run_id} of {run.job_name}, whose worker had died: marked as failed, pool slots "
                f"freed, {len(run.ended_pids)} left-over processes ended. Its finished work will be reused."
            )
            plan_context.log.info(message)
            yield DagsterEvent.engine_event(
                plan_context,
                message,
                EngineEventData({"reaped_run": dg.MetadataValue.dagster_run(run.run_id)}),
            )
        yield from super().execute(plan_context, execution_plan)


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
    base = _core_multiprocess_executor_creation(config)
    return ReapingExecutor(
        retries=base.retries,
        max_concurrent=base._max_concurrent,
        tag_concurrency_limits=base._tag_concurrency_limits,
        start_method=base._start_method,
        explicit_forkserver_preload=base._explicit_forkserver_preload,
        step_dependency_config=base._step_dependency_config,
    )
