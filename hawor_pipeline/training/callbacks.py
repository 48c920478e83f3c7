"""What happens around the steps: metrics, checkpoints, signals, progress."""

import json
import math
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import psutil
import torch

from hawor_pipeline.config import TrainingConfig
from hawor_pipeline.provenance import explain_disk_errors, fsync_path
from hawor_pipeline.training.loggers import TrainingTable, finite
from hawor_pipeline.training.module import EnhancedHaWoRTrainer

SAME_STOP_SECONDS = 10.0  # signals this close together ask for one stop
LAST_EVERY_SECONDS = 60.0  # at least this often `last` is written, whatever the steps
PROGRESS_EVERY_SECONDS = 2.0
DATA_WAIT_LIMIT = 0.2  # share of time waiting for data above which the settings to change are named
Progress = Callable[[dict[str, Any]], None]


class StepTimer(pl.Callback):
    """Measures how fast steps are and how long they wait for data. Goes last among the callbacks."""

    def __init__(self) -> None:
        self._ended: float | None = None
        self._started = 0.0
        self.waiting = 0.0
        self.working = 0.0
        self.frames = 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The time between epochs is not waiting for data."""
        self._ended = None

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nor is validation."""
        self._ended = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """A batch has arrived."""
        self._started = time.perf_counter()
        if self._ended is not None:
            self.waiting += self._started - self._ended

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A step is done."""
        self._ended = time.perf_counter()
        self.working += self._ended - self._started
        self.frames += batch.images.shape[0] * batch.images.shape[1] * trainer.world_size

    def take(self) -> dict[str, float]:
        """Speed since the last call."""
        total = self.waiting + self.working
        values = {
            "samples_per_second": self.frames / total if total else math.nan,
            "data_wait_share": self.waiting / total if total else math.nan,
        }
        self.waiting, self.working, self.frames = 0.0, 0.0, 0
        return values


class MetricsRecorder(pl.Callback):
    """Writes what a step and a validation measured to the table, the loggers and the progress file.

    Args:
        config: how often.
        table: of the run.
        timer: of the same trainer.
        report: called with a dict per line of progress.
    """

    def __init__(self, config: TrainingConfig, table: TrainingTable, timer: StepTimer, report: Progress):
        self.config, self.table, self.timer, self.report = config, table, timer, report
        self.seconds_before = 0.0  # of earlier processes of this run
        self._begun = time.perf_counter()
        self._reported = 0.0
        self._step = -1
        self._warned = False

    def state_dict(self) -> dict[str, Any]:
        """How long the run has trained, all processes together."""
        return {"seconds": self.seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.seconds_before = state_dict["seconds"]

    def seconds(self) -> float:
        """Time spent training, all processes of the run together."""
        return self.seconds_before + time.perf_counter() - self._begun

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over the curves of the run so far, and say what a step is."""
        self._begun = time.perf_counter()
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

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Every `log_every_n_steps` optimiser steps."""
        step = trainer.global_step
        limit = self.config.max_hours
        if limit is not None and self.seconds() > limit * 3600:
            trainer.should_stop = True
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
            {**line, "loss": float("nan") if loss is None else float(loss), "seconds": round(self.seconds(), 1)}
        )

    def _record(self, trainer: pl.Trainer, pl_module: EnhancedHaWoRTrainer) -> None:
        values = {name: float(value) for name, value in pl_module.step_values.items()}
        for kind, terms in (("weight", pl_module.loss.weights()), ("share", pl_module.loss.shares())):
            values.update({f"{kind}/{name}": float(value) for name, value in terms.items()})
        values["learning_rate"] = trainer.optimizers[0].param_groups[0]["lr"]
        values["skipped_batches"] = float(pl_module.skipped_batches)
        values.update(self.timer.take())
        values.update(memory_mb())
        values["seconds"] = self.seconds()
        self._log(trainer, "train", values)
        if values["data_wait_share"] > DATA_WAIT_LIMIT and not self._warned:
            self._warned = True
            self.report(
                {
                    "kind": "warning",
                    "message": f"{values['data_wait_share']:.0%} of the time is spent waiting for data: raise "
                    "num_workers or prefetch_factor, or lower image_size",
                }
            )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """After every validation."""
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        self._log(trainer, "val", {name.removeprefix("val/"): value for name, value in metrics.items()})
        line = {"kind": "validation", "step": trainer.global_step, "epoch": trainer.current_epoch}
        self.report({**line, **metrics, "seconds": round(self.seconds(), 1)})

    def _log(self, trainer: pl.Trainer, split: str, values: dict[str, float]) -> None:
        values = finite(values)
        self.table.add(trainer.global_step, trainer.current_epoch, split, values)
        for logger in trainer.loggers:
            logger.log_metrics({f"{split}/{name}": value for name, value in values.items()}, step=trainer.global_step)


def memory_mb() -> dict[str, float]:
    """Memory of this process, and the most that the accelerator has held."""
    values = {"memory_mb": psutil.Process().memory_info().rss / 1e6}
    if torch.cuda.is_available():
        values["accelerator_memory_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return values


class CheckpointKeeper(pl.Callback):
    """Keeps `last.ckpt` to resume from, `best.ckpt` to use, and on request the best few by step.

    Each file appears by one rename, and the metrics table is written just before it.

    Args:
        folder: of the checkpoints.
        config: how often, and what is best.
        table: of the run.
    """

    def __init__(self, folder: Path, config: TrainingConfig, table: TrainingTable):
        self.folder, self.config, self.table = folder, config, table
        self.best: list[tuple[float, int]] = []  # (value, step), best first
        self._saved_at = time.perf_counter()
        self._saved_step = -1
        self.stop_requested = False

    def state_dict(self) -> dict[str, Any]:
        """The best values so far."""
        return {"best": [list(entry) for entry in self.best]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on comparing with them."""
        self.best = [(value, step) for value, step in state_dict["best"]]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save `last` when it is time, or when the process was asked to stop."""
        if self.stop_requested:
            trainer.should_stop = True
        if trainer.fit_loop.epoch_loop._should_accumulate() or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return  # between optimiser steps there is nothing to resume from; the end of an epoch saves by itself
        fetcher = trainer.fit_loop._data_fetcher
        assert fetcher is not None  # it delivered this batch
        if not trainer.should_stop and trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher):
            return  # the validation that follows saves, with what it found
        step, every = trainer.global_step, self.config.save_every_n_steps
        due = every > 0 and step % every == 0 and step != self._saved_step
        late = time.perf_counter() - self._saved_at > LAST_EVERY_SECONDS and trainer.world_size == 1
        if due or late or trainer.should_stop:
            self.save_last(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save `last` every few epochs, and at the end."""
        ending = trainer.should_stop or trainer.fit_loop.done
        if trainer.global_step == self._saved_step:
            return
        if ending or (trainer.current_epoch + 1) % self.config.save_every_n_epochs == 0:
            self.save_last(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save `best` when the monitored value is better than ever, and `last`."""
        if trainer.sanity_checking:
            return
        self._keep_best(trainer)
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch and trainer.global_step != self._saved_step:
            self.save_last(trainer)

    def _keep_best(self, trainer: pl.Trainer) -> None:
        value = float(trainer.callback_metrics.get(self.config.monitor, math.nan))
        if not math.isfinite(value):
            return
        sign = 1 if self.config.mode == "min" else -1
        keep = max(self.config.save_top_k, 1)
        entry = (value, trainer.global_step)
        ranked = sorted([*self.best, entry], key=lambda pair: (sign * pair[0], pair[1]))
        if entry not in ranked[:keep]:
            return
        dropped, self.best = ranked[keep:], ranked[:keep]
        if keep > 1:
            self._save(trainer, self._named(trainer.global_step))
        if self.best[0] == entry:
            self._save(trainer, self.folder / "best.ckpt")
        for _, step in dropped:
            if trainer.is_global_zero and keep > 1:
                self._named(step).unlink(missing_ok=True)

    def save_last(self, trainer: pl.Trainer) -> None:
        """Save `last` now."""
        if trainer.is_global_zero:
            self.table.flush()
        self._save(trainer, self.folder / "last.ckpt")
        self._saved_at, self._saved_step = time.perf_counter(), trainer.global_step

    def _named(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.ckpt"

    def _save(self, trainer: pl.Trainer, path: Path) -> None:
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with explain_disk_errors(path):
            try:
                trainer.save_checkpoint(temporary)
                if trainer.is_global_zero:
                    fsync_path(temporary)
                    os.replace(temporary, path)
                    fsync_path(path.parent)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def best_value(self) -> float | None:
        """The best value of the monitored metric."""
        return self.best[0][0] if self.best else None

    def ensure_best(self) -> None:
        """Where nothing was ever validated, the last checkpoint is the best there is."""
        best, last = self.folder / "best.ckpt", self.folder / "last.ckpt"
        if not best.exists() and last.exists():
            shutil.copyfile(last, best)


class StopOnSignal(pl.Callback):
    """SIGTERM and SIGINT let the step finish, save a checkpoint and end the run; a second one ends it at once."""

    def __init__(self, keeper: CheckpointKeeper):
        self.keeper = keeper
        self.received: int | None = None
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals over from Lightning, which would leave without a checkpoint."""
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._before[number] = signal.signal(number, self._receive)
            except ValueError:  # not in the main thread: whoever started it handles signals
                return

    def _receive(self, number: int, _frame: Any) -> None:
        if self.received is not None:
            if time.monotonic() - self._since < SAME_STOP_SECONDS:
                return  # one Ctrl-C reaches this process from the terminal and from whoever started it
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.received, self._since = number, time.monotonic()
        self.keeper.stop_requested = True

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


class ProgressFile:
    """Appends lines of JSON that another process can follow; with `echo` they also go to the terminal.

    Args:
        path: of the file; None writes none.
        echo: print each line.
        also: called with each line's dict.
    """

    def __init__(self, path: Path | None, *, echo: bool = False, also: Progress | None = None):
        self.path, self.echo, self.also = path, echo, also

    def __call__(self, line: dict[str, Any]) -> None:
        line = {name: _plain(value) for name, value in line.items()}
        text = json.dumps(line)
        if self.path is not None:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(text + "\n")
        if self.echo:
            print(text, flush=True)
        if self.also is not None:
            self.also(line)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
