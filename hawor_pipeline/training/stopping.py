"""What ends a run before its last step: a signal, or the hours it was given."""

import os
import signal
import time
from typing import Any

import lightning.pytorch as pl

from hawor_pipeline.training.progress import RunClock

SAME_STOP_SECONDS = 10.0  # signals this close together ask for one stop


def between_steps(trainer: pl.Trainer) -> bool:
    """Whether the batch that just ended has not ended an optimiser step (gradients are being accumulated)."""
    return trainer.fit_loop.epoch_loop._should_accumulate()


def validation_follows(trainer: pl.Trainer) -> bool:
    """Whether Lightning validates right after the batch that just ended."""
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None  # it delivered this batch
    return trainer.fit_loop.epoch_loop._should_check_val_fx(fetcher)


class Stopper(pl.Callback):
    """Ends the run after an optimiser step, on all processes alike. Goes before what saves checkpoints.

    A signal (SIGTERM, SIGINT) ends it with a checkpoint and without a validation that an uninterrupted run would not
    have made there; one that is due or under way is finished first. A second signal ends it at once. When `max_hours`
    are over, the run is complete: it validates a last time.

    Args:
        clock: of the run.
        max_hours: None: no limit.
    """

    def __init__(self, clock: RunClock, max_hours: float | None = None):
        self.clock, self.max_hours = clock, max_hours
        self.received: int | None = None
        self.out_of_time = False
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

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End after this step where that was asked for; a validation that is due comes first."""
        if between_steps(trainer) or validation_follows(trainer):
            return
        if self._anywhere(trainer, self.received is not None):
            trainer.limit_val_batches = 0  # Lightning validates whenever it is told to stop
            trainer.should_stop = True
        elif self._is_late(trainer):
            trainer.should_stop = True

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End after a validation within training."""
        if self._anywhere(trainer, self.received is not None) or self._is_late(trainer):
            trainer.should_stop = True

    def _is_late(self, trainer: pl.Trainer) -> bool:
        if self.max_hours is None:
            return False
        self.out_of_time = self._anywhere(trainer, self.clock.seconds() > self.max_hours * 3600)
        return self.out_of_time

    def _anywhere(self, trainer: pl.Trainer, here: bool) -> bool:
        """What is true of one process holds for all, or they would wait for each other for ever."""
        return here if trainer.world_size == 1 else trainer.strategy.reduce_boolean_decision(here, all=False)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
