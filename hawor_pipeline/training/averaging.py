"""Exponential moving average of the weights, used by validation and stored in checkpoints as the weights to use.

Training continues with the raw weights. A checkpoint holds both, so that a run resumes exactly.
"""

import itertools
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

Checkpoint = dict[str, Any]  # as Lightning passes it to its hooks
PREFIX = "model."  # of the network's tensors in a checkpoint's state_dict
RAW_KEY = "raw_weights"  # key of the weights that training continues with
AVERAGE_KEY = "average"  # key of the averaged weights while a checkpoint is loaded
COUNT_KEY = "averaged_steps"
WARM_UP = 10.0  # the decay after n steps is at most (1 + n) / (WARM_UP + n), so that early weights fade quickly


def decay_after(steps: int, decay: float) -> float:
    """Return the decay of the average after a number of steps.

    Source: the warm-up of `tf.train.ExponentialMovingAverage(num_updates=...)`.
    """
    return min(decay, (1 + steps) / (WARM_UP + steps))


class WeightAverage(pl.Callback):
    """Callback that averages weights and batch statistics after every optimiser step; precedes those that save.

    Args:
        decay: of the average, in (0, 1); its memory is about 1 / (1 - decay) steps.
    """

    def __init__(self, decay: float):
        self.decay = decay
        self._average: AveragedModel
        self._seen_step = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start the average at the current weights."""
        self._average = AveragedModel(_network(pl_module), multi_avg_fn=self._blend, use_buffers=True)
        self._average.eval()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Move the average to the device of the network."""
        # Only the weights: the count stays on the CPU, where reading it needs no synchronisation.
        self._average.module.to(pl_module.device)
        self._seen_step = trainer.global_step

    def _blend(self, averaged: Any, current: Any, count: Tensor | int) -> None:
        # torch has no public fused update of a list of tensors; one call per tensor costs a multiple.
        if torch.is_floating_point(averaged[0]):
            torch._foreach_lerp_(averaged, current, 1 - decay_after(int(count), self.decay))
        else:  # counters of the batch statistics
            torch._foreach_copy_(averaged, current)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Add the weights of a finished optimiser step."""
        if trainer.global_step != self._seen_step:
            self._seen_step = trainer.global_step
            self._average.update_parameters(_network(pl_module))

    @torch.no_grad()
    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Exchange the raw weights and the average, with which validation runs."""
        if not self._average.n_averaged:
            return
        for averaged, current in zip(_tensors(self._average.module), _tensors(_network(pl_module)), strict=True):
            kept = averaged.clone()
            averaged.copy_(current)
            current.copy_(kept)

    on_validation_epoch_end = on_validation_epoch_start

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average in the network, for the caller."""
        if self._average.n_averaged:
            _network(pl_module).load_state_dict(self._average.module.state_dict())

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: Checkpoint) -> None:
        """Store the average as the weights to use, and the raw weights beside it."""
        count = int(self._average.n_averaged)
        checkpoint[COUNT_KEY] = count
        if not count:
            return
        state = checkpoint["state_dict"]
        checkpoint[RAW_KEY] = {name: value for name, value in state.items() if name.startswith(PREFIX)}
        averaged = {PREFIX + name: value for name, value in self._average.module.state_dict().items()}
        checkpoint["state_dict"] = {**state, **averaged}

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: Checkpoint) -> None:
        """Restore the average; without one in the checkpoint a new average starts."""
        if AVERAGE_KEY in checkpoint:
            self._average.module.load_state_dict(checkpoint[AVERAGE_KEY])
            self._average.n_averaged.fill_(checkpoint[COUNT_KEY])


def split_weights(checkpoint: Checkpoint) -> None:
    """Prepare a checkpoint for resuming: raw weights into the state_dict, the average under its own key."""
    raw = checkpoint.get(RAW_KEY)
    if raw is None:
        return
    state = checkpoint["state_dict"]
    checkpoint[AVERAGE_KEY] = {name.removeprefix(PREFIX): state[name] for name in raw}
    checkpoint["state_dict"] = {**state, **raw}


def _network(pl_module: pl.LightningModule) -> torch.nn.Module:
    assert isinstance(pl_module.model, torch.nn.Module)
    return pl_module.model


def _tensors(model: torch.nn.Module) -> itertools.chain[Tensor]:
    return itertools.chain(model.parameters(), model.buffers())
