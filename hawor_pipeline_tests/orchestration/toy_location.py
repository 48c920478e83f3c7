"""A code location with one pooled asset that waits as long as its environment says; for tests of killed runs."""

import os
import time
from pathlib import Path

import dagster as dg

from hawor_pipeline.orchestration.executor import reaping_executor


@dg.asset(pool="gpu")
def slow() -> None:
    """Say that the step runs, then wait."""
    Path(os.environ["TOY_MARK"]).write_text(str(os.getpid()))
    time.sleep(float(os.environ["TOY_SECONDS"]))


defs = dg.Definitions(assets=[slow], jobs=[dg.define_asset_job("toy_job", ["slow"])], executor=reaping_executor)
