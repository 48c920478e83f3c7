"""Training from the command line, with the same run folders, keys and resuming as under Dagster.

One device trains in this process, several devices in one process each. On several machines, start
`torchrun -m hawor_pipeline.training.fit` on each of them, as described in its documentation.
"""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from hawor_pipeline.config import TrainingConfig
from hawor_pipeline.errors import CheckpointError, ConfigError
from hawor_pipeline.provenance import StageResult, hash_json
from hawor_pipeline.shards.store import shards_version
from hawor_pipeline.training.progress import Progress
from hawor_pipeline.training.resolve import with_recorded_split
from hawor_pipeline.training.runs import RunPlan, finish_run, plan_run, prepare_run


def dataset_version_of(config: TrainingConfig) -> str:
    """Return the version of the training shards; for a mixture, of all its members and their weights."""
    if isinstance(config.training_data_dir, str):
        return shards_version(config.training_data_dir)
    return hash_json([[shards_version(member.path), member.weight] for member in config.training_data_dir])


def plan(config: TrainingConfig, start: Path | None = None) -> RunPlan:
    """Find the run of a configuration; with `start`, of the run that continues from this checkpoint."""
    return plan_run(config, dataset_version_of(config), Path(config.output_dir), start=start)


def train(
    config: TrainingConfig, *, resume: str = "auto", on_progress: Progress | None = None
) -> tuple[StageResult | None, int]:
    """Train, or reuse the finished run.

    Args:
        config: resolved configuration.
        resume: "auto" resumes an unfinished run of the same settings and data; a path continues from that checkpoint in
            a folder of its own, and resumes there after an interruption.
        on_progress: called with each progress line; several processes print them as JSON instead.

    Returns:
        The result (None if a signal stopped training; its checkpoint is kept) and the exit code.

    Raises:
        HaworError: see `hawor_pipeline.errors`.
    """
    check_devices(config)
    config = with_recorded_split(config)
    start = None if resume == "auto" else Path(resume)
    run = plan(config, start)
    if run.state != "finished":
        path = prepare_run(run, config)
        begin = start if start is not None and run.state == "new" else None
        processes = processes_of(config)
        if processes == 1:
            stopped_by = _run_here(config, run, begin, on_progress)
        else:
            stopped_by = _run_on_all(path, run, begin, processes)
        if stopped_by is not None:
            return None, 128 + stopped_by
    return finish_run(run), 0


def check_devices(config: TrainingConfig) -> None:
    """Refuse a list of GPUs where training runs on the CPU.

    Raises:
        ConfigError: there is no GPU, or the accelerator is the CPU.
    """
    import torch

    if isinstance(config.devices, list) and (config.accelerator == "cpu" or not torch.accelerator.is_available()):
        raise ConfigError(
            f"found devices {config.devices}, expected a number of processes or auto: training runs on the CPU here "
            f"(accelerator {config.accelerator})."
        )


def processes_of(config: TrainingConfig) -> int:
    """Return the number of training processes on this machine: one per device."""
    if isinstance(config.devices, list):
        return len(config.devices)
    if isinstance(config.devices, int):
        return config.devices
    import torch

    accelerated = config.accelerator != "cpu" and torch.accelerator.is_available()
    return max(torch.accelerator.device_count(), 1) if accelerated else 1


def _run_here(config: TrainingConfig, run: RunPlan, start: Path | None, on_progress: Progress | None) -> int | None:
    """Train in this process; return the signal that stopped it."""
    from hawor_pipeline.training.fit import TrainingPipeline

    pipeline = TrainingPipeline(config, run.run_dir, on_progress)
    pipeline.train(start or "auto")
    return pipeline.stopped_by


def _run_on_all(config_path: Path, run: RunPlan, start: Path | None, processes: int) -> int | None:
    """Train in one process per device with torchrun; return the signal that stopped them."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "hawor_pipeline.training.fit", "--config", str(config_path), "--run-dir", str(run.run_dir)]
    command += ["--resume", str(start or "auto")]
    stopped_by: list[int] = []
    with subprocess.Popen(command) as process:

        def forward(number: int, _frame: Any) -> None:
            stopped_by.append(number)
            process.send_signal(signal.SIGTERM)

        before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            code = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if code and not stopped_by:
        raise CheckpointError(
            f"training in {processes} processes failed with exit code {code}; see the first error message above. The "
            "last checkpoint is kept; the same command resumes"
        )
    return stopped_by[0] if stopped_by and code else None
