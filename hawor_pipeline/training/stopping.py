"""Ends of a run before its last step: a signal, or the time limit."""

import os
import signal
import time
from contextlib import suppress
from typing import Any

import lightning.pytorch as pl

from hawor_pipeline.training.progress import RunClock

SAME_STOP_SECONDS = 10.0  # signals this close together ask for one stop


def between_steps(trainer: pl.Trainer) -> bool:
    """Test if the batch that just ended only accumulated gradients, without an optimiser step."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    if progress.is_last_batch or progress.current.ready == trainer.num_training_batches:
        return False  # an epoch ends with an optimiser step, however few batches it accumulated
    return progress.current.ready % trainer.accumulate_grad_batches != 0


def validation_follows(trainer: pl.Trainer) -> bool:
    """Test if Lightning validates right after the batch that just ended, in a trainer of `build_trainer`."""
    if not trainer.enable_validation:
        return False
    if trainer.should_stop:  # Lightning validates before it stops
        return True
    loop = trainer.fit_loop.epoch_loop
    epochs = trainer.check_val_every_n_epoch  # None: intervals are numbers of batches over all epochs
    batch = loop.total_batch_idx if epochs is None else loop.batch_idx
    assert trainer.val_check_batch is not None  # validation goes by batches, not by time
    if epochs is not None and (trainer.current_epoch + 1) % epochs:
        return False
    return (batch + 1) % trainer.val_check_batch == 0


class Stopper(pl.Callback):
    """Callback that ends the run after an optimiser step, on all processes alike; precedes those that save checkpoints.

    A signal (SIGTERM, SIGINT) ends the run with a checkpoint, and without a validation that an uninterrupted run would
    not have made; a validation that is due or in progress is finished first. A second signal ends the process at once.
    A run that exceeds `max_hours` is complete: it validates a last time.

    Args:
        clock: of the run.
        max_hours: time limit; None: no limit.
    """

    def __init__(self, clock: RunClock, max_hours: float | None = None):
        self.clock, self.max_hours = clock, max_hours
        self.received: int | None = None
        self.out_of_time = False
        self._since = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace Lightning's signal handlers, which would exit without a checkpoint; Lightning restores the former."""
        with suppress(ValueError):  # not in the main thread: the caller handles signals
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._receive)

    def _receive(self, number: int, _frame: Any) -> None:
        if self.received is not None:
            if time.monotonic() - self._since < SAME_STOP_SECONDS:
                return  # one Ctrl-C arrives twice: from the terminal, and from the parent process
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.received, self._since = number, time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Stop after this step if requested, unless a validation is due first."""
        if between_steps(trainer) or validation_follows(trainer):
            return
        if self._on_any_process(trainer, self.received is not None):
            trainer.limit_val_batches = 0  # otherwise Lightning validates before it stops
            trainer.should_stop = True
        elif self._is_late(trainer):
            trainer.should_stop = True

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop after a validation if requested."""
        if self._on_any_process(trainer, self.received is not None) or self._is_late(trainer):
            trainer.should_stop = True

    def _is_late(self, trainer: pl.Trainer) -> bool:
        if self.max_hours is None:
            return False
        self.out_of_time = self._on_any_process(trainer, self.clock.seconds() > self.max_hours * 3600)
        return self.out_of_time

    def _on_any_process(self, trainer: pl.Trainer, here: bool) -> bool:
        # All processes must decide alike: one that stops alone leaves the others waiting for its gradients.
        return here if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(here, all=False)
