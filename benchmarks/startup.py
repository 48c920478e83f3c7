"""Cost of orchestration: importing the definitions against importing Dagster, and the overhead of one step."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _measure import Row, from_rounds, run

STEPS = 6
TOY = f"""
import dagster as dg
from hawor_pipeline.orchestration.executor import reaping_executor

@dg.op
def start() -> int:
    return 0

@dg.op
def link(value: int) -> int:
    return value + 1

@dg.job(executor_def=reaping_executor)
def chain():
    value = start()
    for _ in range({STEPS} - 1):
        value = link(value)

@dg.job(executor_def=reaping_executor)
def single():
    start()

defs = dg.Definitions(jobs=[chain, single])
"""


def _import_seconds(module: str) -> float:
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def _job_seconds(job: str, directory: str) -> float:
    command = [sys.executable, "-W", "ignore", "-m", "dagster", "job", "execute", "-f", "toy.py", "-j", job]
    start = time.perf_counter()
    subprocess.run(command, cwd=directory, capture_output=True, check=True)
    return time.perf_counter() - start


def measure(quick: bool) -> list[Row]:
    """Measure interleaved rounds; each value is from one round."""
    rounds = 3 if quick else 7
    ratios, per_step = [], []
    _import_seconds("hawor_pipeline.definitions")
    for _ in range(rounds):
        dagster = _import_seconds("dagster")
        ratios.append(_import_seconds("hawor_pipeline.definitions") / dagster)
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "toy.py").write_text(TOY)
        for _ in range(rounds):
            one = _job_seconds("single", directory)
            per_step.append((_job_seconds("chain", directory) - one) / (STEPS - 1))
    return [
        from_rounds("definitions_import_over_dagster", ratios, "ratio", 1.5, "lower"),
        from_rounds("orchestration_seconds_per_step", per_step, "s", 2.0, "lower"),
    ]


if __name__ == "__main__":
    run(measure, "Start-up and orchestration overhead")
