"""A code location of small assets controlled by environment variables, for tests of runs that fail, wait or are killed.

It has the project's executor, retry policy and failure handling, and none of its data.
"""

import os
import time
from pathlib import Path

import dagster as dg

from hawor_pipeline.errors import ConfigError
from hawor_pipeline.orchestration.executor import reaping_executor
from hawor_pipeline.orchestration.failures import RETRY_POLICY, clear_failures, notify_of_failure


def _log(line: str) -> None:
    """Append a line to the file that the test reads."""
    with open(os.environ["TOY_MARK"], "a") as file:
        file.write(f"{line} {os.getpid()} {time.time():.3f}\n")


@dg.asset(pool="gpu")
def slow() -> None:
    """Record that the step runs, then wait."""
    _log("begin")
    time.sleep(float(os.environ["TOY_SECONDS"]))
    _log("end")


class BehaviourConfig(dg.Config):
    """Run the behaviour of the asset."""

    behaviour: str = "succeed"
    times: int = 1


@dg.asset(
    retry_policy=RETRY_POLICY,
    check_specs=[dg.AssetCheckSpec("holds", asset="moody", blocking=True)],
)
@clear_failures
def moody(context: dg.AssetExecutionContext, config: BehaviourConfig) -> dg.MaterializeResult:
    """Succeed, or fail in one of the ways that steps fail."""
    _log(config.behaviour)
    early = len(Path(os.environ["TOY_MARK"]).read_text().splitlines()) <= config.times
    if config.behaviour == "wrong_setting":
        raise ConfigError("key 'batchsize' is unknown. Did you mean 'batch_size'?")
    if config.behaviour == "programming_error":
        raise KeyError("not there")
    if config.behaviour == "connection_lost" and early:
        raise ConnectionResetError("the server went away")
    if config.behaviour == "killed" and early:
        os.kill(os.getpid(), 9)
    return dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=config.behaviour != "failed_check")])


jobs = [
    dg.define_asset_job("toy_job", ["slow"]),
    dg.define_asset_job("moody_job", [moody], hooks={notify_of_failure}),
]
defs = dg.Definitions(assets=[slow, moody], jobs=jobs, executor=reaping_executor)
