"""The process that trains under Dagster: opens Pipes, runs the very same training as the command line, reports.

Started by the asset `trained_checkpoint` as `python -m hawor_pipeline.orchestration.training_child`. Training itself
imports no Dagster; this thin shell forwards its progress.
"""

import os
import signal
import sys
import threading
from pathlib import Path

from dagster_pipes import open_dagster_pipes

MEMORY_EXIT_CODE = 75  # "temporary failure": the same training with smaller parts may succeed
_WATCH_INTERVAL_S = 1.0


def _stop_when_orphaned(parent: int) -> None:
    """Ask training to checkpoint and stop once the process that started it is gone (killed, say)."""

    def watch() -> None:
        while os.getppid() == parent:
            threading.Event().wait(_WATCH_INTERVAL_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="orphan-watch").start()


def main() -> int:
    """Train as the Pipes extras say; exit code 1 with one clear message for user errors."""
    _stop_when_orphaned(os.getppid())  # before the imports, which take seconds
    from hawor_pipeline.config import load_config
    from hawor_pipeline.errors import HaworError
    from hawor_pipeline.training.fit import TrainingPipeline
    from hawor_pipeline.training.memory import is_memory_shortage

    with open_dagster_pipes() as pipes:
        config = load_config(pipes.get_extra("config_path"))
        run_dir = Path(pipes.get_extra("run_dir"))
        try:
            pipeline = TrainingPipeline(config, run_dir, on_progress=pipes.report_custom_message, echo=True)
            pipeline.train()
        except Exception as error:
            shortage = is_memory_shortage(error)
            if not shortage and not isinstance(error, HaworError):
                raise
            message = f"{type(error).__name__}: {error}"
            print(message, file=sys.stderr)
            pipes.report_custom_message({"kind": "memory" if shortage else "error", "message": message})
            return MEMORY_EXIT_CODE if shortage else getattr(error, "exit_code", 1)
    return 0 if pipeline.stopped_by is None else 128 + pipeline.stopped_by


if __name__ == "__main__":
    sys.exit(main())
