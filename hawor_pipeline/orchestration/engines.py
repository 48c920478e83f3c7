"""The engine that runs the steps, chosen by one setting, `$HAWOR_ENGINE`.

`multiprocess` (default): processes of this machine. `ray`: each step is a job of the Ray cluster at
`$RAY_DASHBOARD_ADDRESS`, and the conversion of single sequences spreads over that cluster (`workers/engine.py`).
`k8s`: each step is a Kubernetes job. Assets, jobs and results are the same on all of them.
"""

import os

import dagster as dg

from hawor_pipeline.errors import ConfigError
from hawor_pipeline.orchestration.executor import ReapingExecutor, reaping_executor
from hawor_pipeline.workers.engine import ENGINES, chosen_engine

RAY_JOBS_VARIABLE = "RAY_DASHBOARD_ADDRESS"
_INSTALL = "install it: pip install -c constraints.txt '.[{}]'"
# Settings of this deployment that a step needs on any machine.
FORWARDED_VARIABLES = (
    "ARCTIC_ROOT",
    "DAGSTER_HOME",
    "HAWOR_DATA_DIR",
    "HAWOR_ENGINE",
    "HAWOR_REMOTE_URL",
    "MANO_DIR",
    "PYTHONPATH",
    "RAY_ADDRESS",
)


def executor_of(engine: str | None = None) -> dg.ExecutorDefinition:
    """Return the executor of all jobs under an engine; None reads `$HAWOR_ENGINE`.

    Raises:
        ConfigError: the engine is unknown, or its packages are not installed.
    """
    engine = chosen_engine() if engine is None else engine
    if engine == "multiprocess":
        return reaping_executor
    if engine == "ray":
        return _ray_executor()
    if engine == "k8s":
        return _kubernetes_executor()
    raise ConfigError(f"engine {engine!r} is unknown; expected one of {', '.join(ENGINES)}")


def _after_reaping(definition: dg.ExecutorDefinition) -> dg.ExecutorDefinition:
    """Wrap an executor so that it reaps dead runs first."""
    create = definition.executor_creation_fn
    assert create is not None

    @dg.executor(  # type: ignore[call-overload] # the schema is another executor's, no literal
        name=definition.name,
        config_schema=definition.config_schema,
        requirements=dg.multiple_process_executor_requirements(),
    )
    def reaping(init_context: dg.InitExecutorContext) -> ReapingExecutor:
        return ReapingExecutor(create(init_context))

    return reaping


def _ray_executor() -> dg.ExecutorDefinition:
    try:
        from dagster_ray import ray_executor
    except ImportError as error:
        raise ConfigError(f"engine ray needs dagster-ray ({error}); {_INSTALL.format('ray')}") from error
    address = os.environ.get(RAY_JOBS_VARIABLE, "http://127.0.0.1:8265")
    forwarded = [name for name in FORWARDED_VARIABLES if name in os.environ]
    settings = {"ray": {"address": address, "num_cpus": 1, "env_vars": forwarded}}
    return _after_reaping(ray_executor).configured(settings, name="ray")


def _kubernetes_executor() -> dg.ExecutorDefinition:
    try:
        from dagster_k8s import k8s_job_executor
    except ImportError as error:
        raise ConfigError(f"engine k8s needs dagster-k8s ({error}); {_INSTALL.format('k8s')}") from error
    return _after_reaping(k8s_job_executor)
