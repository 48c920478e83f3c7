"""Callbacks that measure steps and record metrics."""

import math
import os
import time
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import psutil
import torch

from hawor_pipeline.config import TrainingConfig
from hawor_pipeline.training.loggers import TrainingTable
from hawor_pipeline.training.module import EnhancedHaWoRTrainer
from hawor_pipeline.training.progress import Progress, RunClock

PROGRESS_EVERY_SECONDS = 2.0
DATA_WAIT_LIMIT = 0.2  # share of time waiting for data above which a warning names the settings to change


class StepTimer(pl.Callback):
    """Callback that measures the speed of steps and the time they wait for data; the last of the callbacks."""

    def __init__(self) -> None:
        self._ended: float | None = None
        self._started = 0.0
        self.waiting = 0.0
        self.working = 0.0
        self.frames = 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Exclude the time between epochs, and of validation, from the waiting time."""
        self._ended = None

    on_validation_start = on_train_epoch_start

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Record the arrival of a batch."""
        self._started = time.perf_counter()
        if self._ended is not None:
            self.waiting += self._started - self._ended

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the end of a step."""
        self._ended = time.perf_counter()
        self.working += self._ended - self._started
        self.frames += batch.images.shape[0] * batch.images.shape[1] * trainer.world_size

    def take(self) -> dict[str, float]:
        """Return the speed since the last call."""
        total = self.waiting + self.working
        values = {
            "samples_per_second": self.frames / total if total else math.nan,
            "data_wait_share": self.waiting / total if total else math.nan,
        }
        self.waiting, self.working, self.frames = 0.0, 0.0, 0
        return values


class MetricsRecorder(pl.Callback):
    """Callback that writes metrics of steps and validations to the table, the loggers and the progress file.

    Args:
        config: with the intervals.
        table: metrics table of the run.
        timer: of the same trainer.
        clock: of the run.
        report: called with each progress line.
    """

    def __init__(
        self, config: TrainingConfig, table: TrainingTable, timer: StepTimer, clock: RunClock, report: Progress
    ):
        self.config, self.table, self.timer, self.clock, self.report = config, table, timer, clock, report
        self.validated: dict[str, float] = {}  # metrics of the last validation
        self._reported = 0.0
        self._step = -1
        self._warned = False

    def state_dict(self) -> dict[str, float | dict[str, float]]:
        """Return the training time and the metrics of the last validation."""
        return {"seconds": self.clock.seconds(), "validated": self.validated}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the training time and the metrics of the last validation."""
        self.clock.before = state_dict["seconds"]
        self.validated = state_dict["validated"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Load the metrics of the run so far, and report its sizes."""
        self.clock.start()
        self._step = trainer.global_step
        if not trainer.is_global_zero:
            return
        self.table.resume(trainer.global_step)
        frames = self.config.batch_size * self.config.clip_length * self.config.accumulate_grad_batches
        assert isinstance(pl_module, EnhancedHaWoRTrainer)
        self.report(
            {
                "kind": "start",
                "step": trainer.global_step,
                "total_steps": pl_module.total_steps(),
                "frames_per_step": frames * trainer.world_size,
                "training_clips": len(pl_module.data.training_clips),
                "validation_clips": len(pl_module.data.validation_clips),
                "parameters": sum(p.numel() for p in pl_module.model.parameters()),
                "device": str(pl_module.device),
            }
        )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Record metrics every `log_every_n_steps` optimiser steps."""
        step = trainer.global_step
        if step == self._step or not trainer.is_global_zero:
            return
        self._step = step
        due = step % self.config.log_every_n_steps == 0
        if not due and time.perf_counter() - self._reported < PROGRESS_EVERY_SECONDS:
            return
        assert isinstance(pl_module, EnhancedHaWoRTrainer)
        if due:
            self._record(trainer, pl_module)
        self._reported = time.perf_counter()
        loss = pl_module.step_values.get("loss")
        line = {"kind": "step", "step": step, "total_steps": pl_module.total_steps(), "epoch": trainer.current_epoch}
        self.report(
            {**line, "loss": float("nan") if loss is None else float(loss), "seconds": round(self.clock.seconds(), 1)}
        )

    def _record(self, trainer: pl.Trainer, pl_module: EnhancedHaWoRTrainer) -> None:
        values = {name: float(value) for name, value in pl_module.step_values.items()}
        for kind, terms in (("weight", pl_module.loss.weights()), ("share", pl_module.loss.shares())):
            values.update({f"{kind}/{name}": float(value) for name, value in terms.items()})
        values["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        values["skipped_batches"] = float(pl_module.skipped_batches)
        values.update(self.timer.take())
        values.update(memory_mb())
        values["seconds"] = self.clock.seconds()
        self._log(trainer, "train", values)
        if values["data_wait_share"] > DATA_WAIT_LIMIT and not self._warned:
            self._warned = True
            self.report({"kind": "warning", "message": data_wait_advice(values["data_wait_share"], self.config)})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the metrics of a validation."""
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        self.validated = metrics
        if not trainer.is_global_zero:
            return
        self._log(trainer, "val", {name.removeprefix("val/"): value for name, value in metrics.items()})
        line = {"kind": "validation", "step": trainer.global_step, "epoch": trainer.current_epoch}
        self.report({**line, **metrics, "seconds": round(self.clock.seconds(), 1)})

    def _log(self, trainer: pl.Trainer, split: str, values: dict[str, float]) -> None:
        # Terms for which a batch has no sample are NaN.
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        self.table.add(trainer.global_step, trainer.current_epoch, split, values)
        for logger in trainer.loggers:
            logger.log_metrics({f"{split}/{name}": value for name, value in values.items()}, step=trainer.global_step)


def data_wait_advice(share: float, config: TrainingConfig) -> str:
    """Return advice against waiting for data, with the current values of the settings to change."""
    cores = len(os.sched_getaffinity(0))
    workers = f"num_workers (now {config.num_workers}, usable cores {cores})"
    return (
        f"{share:.0%} of the time is spent waiting for data: raise {workers}, then prefetch_factor (now "
        f"{config.prefetch_factor}), put the shards on a local disk, or lower image_size (now {config.image_size})"
    )


def memory_mb() -> dict[str, float]:
    """Return the memory of this process and the peak memory of the accelerator, MB."""
    values = {"memory_mb": psutil.Process().memory_info().rss / 1e6}
    if torch.cuda.is_available():
        values["accelerator_memory_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return values
