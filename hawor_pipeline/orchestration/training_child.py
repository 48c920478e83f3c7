"""The process that trains under Dagster: the same training as on the command line, reported through Pipes.

Started by the asset `trained_checkpoint` as `python -m hawor_pipeline.orchestration.training_child`, under torchrun
where several devices train together; then the first process reports. Training itself imports no Dagster.
"""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hawor_pipeline.provenance import atomic_write_json

PROBLEM_FILE = "problem.json"  # of the process that failed first: kind ("error" or "memory") and message
MEMORY_EXIT_CODE = 75  # "temporary failure": the same training with smaller parts may succeed
_WATCH_INTERVAL_S = 1.0


def _stop_when_orphaned(parent: int) -> None:
    """Make training write a checkpoint and stop once the process that started it has died."""

    def watch() -> None:
        while os.getppid() == parent:
            threading.Event().wait(_WATCH_INTERVAL_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="orphan-watch").start()


@contextmanager
def _progress() -> Iterator[Callable[[dict[str, Any]], None] | None]:
    """Report progress to Dagster and the terminal from the first process; yields None in the others."""
    if os.environ.get("RANK", "0") != "0":
        yield None
        return
    from dagster_pipes import open_dagster_pipes

    from hawor_pipeline.training.progress import show_training

    show = show_training()
    with open_dagster_pipes() as pipes:

        def report(line: dict[str, Any]) -> None:
            pipes.report_custom_message(line)
            show(line)

        yield report


def main() -> int:
    """Train with the configuration in the arguments; exit code 1 with one clear message for user errors."""
    parser = argparse.ArgumentParser(prog="python -m hawor_pipeline.orchestration.training_child", description=__doc__)
    parser.add_argument("--config", required=True, type=Path)
    parser.add_argument("--run-dir", required=True, type=Path)
    arguments = parser.parse_args()
    _stop_when_orphaned(os.getppid())  # before the imports, which take seconds
    from hawor_pipeline.config import load_config
    from hawor_pipeline.errors import HaworError
    from hawor_pipeline.training.fit import TrainingPipeline
    from hawor_pipeline.training.memory import is_memory_shortage

    with _progress() as report:
        try:
            pipeline = TrainingPipeline(load_config(arguments.config), arguments.run_dir, report)
            pipeline.train()
        except Exception as error:
            shortage = is_memory_shortage(error)
            if not shortage and not isinstance(error, HaworError):
                raise
            message = f"{type(error).__name__}: {error}"
            print(message, file=sys.stderr)
            problem = {"kind": "memory" if shortage else "error", "message": message}
            atomic_write_json(arguments.run_dir / PROBLEM_FILE, problem)
            return MEMORY_EXIT_CODE if shortage else getattr(error, "exit_code", 1)
    return 0 if pipeline.stopped_by is None else 128 + pipeline.stopped_by


if __name__ == "__main__":
    sys.exit(main())
