"""Checkpoints of a run: which are kept, and when they are written."""

import math
import shutil
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from hawor_pipeline.config import TrainingConfig
from hawor_pipeline.provenance import replaced_file
from hawor_pipeline.training.loggers import TrainingTable
from hawor_pipeline.training.stopping import between_steps, validation_follows

LAST_EVERY_SECONDS = 60.0  # longest time between two saves of `last`, whatever the steps


class CheckpointKeeper(pl.Callback):
    """Callback that keeps `last.ckpt` to resume from, `best.ckpt` to use, and on request the best few by step.

    Each file appears by one rename, just after the metrics table is written.

    Args:
        folder: of the checkpoints.
        config: with the intervals and the monitored metric.
        table: metrics table of the run.
    """

    def __init__(self, folder: Path, config: TrainingConfig, table: TrainingTable):
        self.folder, self.config, self.table = folder, config, table
        self.best: list[tuple[float, int]] = []  # (value, step), best first
        self._saved_at = time.perf_counter()
        self._saved_step = -1

    def state_dict(self) -> dict[str, list[list[float]]]:
        """Return the best values so far."""
        return {"best": [list(entry) for entry in self.best]}

    def load_state_dict(self, state_dict: Mapping[str, list[list[float]]]) -> None:
        """Restore the best values."""
        self.best = [(value, int(step)) for value, step in state_dict["best"]]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Save `last` when it is due, or when the run is stopping."""
        if between_steps(trainer) or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return  # accumulated gradients cannot be resumed; the end of an epoch saves in its own hook
        if validation_follows(trainer):
            return  # the end of the validation saves, with its result
        step, every = trainer.global_step, self.config.save_every_n_steps
        due = every > 0 and step % every == 0 and step != self._saved_step
        late = time.perf_counter() - self._saved_at > LAST_EVERY_SECONDS and trainer.world_size == 1
        if due or late or trainer.should_stop:
            self.save_last(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save `last` every few epochs, and at the end of training."""
        ending = trainer.should_stop or trainer.fit_loop.done
        if trainer.global_step == self._saved_step:
            return
        if ending or (trainer.current_epoch + 1) % self.config.save_every_n_epochs == 0:
            self.save_last(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save `best` when the monitored value improves, and `last`."""
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
        # All processes take part; only the first one writes.
        with replaced_file(path) if trainer.is_global_zero else nullcontext(path) as temporary:
            trainer.save_checkpoint(temporary)

    def best_value(self) -> float | None:
        """Return the best value of the monitored metric."""
        return self.best[0][0] if self.best else None

    def ensure_best(self) -> None:
        """Copy `last` to `best` if the run was never validated."""
        best, last = self.folder / "best.ckpt", self.folder / "last.ckpt"
        if not best.exists() and last.exists():
            shutil.copyfile(last, best)
