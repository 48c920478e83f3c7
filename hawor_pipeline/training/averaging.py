"""The exponential moving average of the weights, which is what validation sees and what checkpoints hold to use.

Training goes on with the raw weights; a checkpoint carries them beside the average, so that a run resumes exactly.
"""

import itertools
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

PREFIX = "model."  # of the network's tensors in a checkpoint's state_dict
RAW_KEY = "raw_weights"  # of a checkpoint: the weights that training goes on with
AVERAGE_KEY = "average"  # while a checkpoint is being loaded: the averaged weights
COUNT_KEY = "averaged_steps"
WARM_UP = 10.0  # the decay after n steps is at most (1 + n) / (WARM_UP + n): early weights are soon forgotten


def decay_after(steps: int, decay: float) -> float:
    """Decay of the average after that many steps.

    Source: the warm-up of `tf.train.ExponentialMovingAverage(num_updates=...)`.
    """
    return min(decay, (1 + steps) / (WARM_UP + steps))


class WeightAverage(pl.Callback):
    """Averages weights and batch statistics after every optimiser step. Goes before what saves checkpoints.

    Args:
        decay: of the average, in (0, 1); it remembers about 1 / (1 - decay) steps.
    """

    def __init__(self, decay: float):
        self.decay = decay
        self._average: AveragedModel
        self._seen_step = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The average begins with the first step's weights."""
        self._average = AveragedModel(_network(pl_module), multi_avg_fn=self._blend, use_buffers=True)
        self._average.eval()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Live where the network lives; the count stays on the CPU, where reading it costs nothing."""
        self._average.module.to(pl_module.device)
        self._seen_step = trainer.global_step

    def _blend(self, averaged: Any, current: Any, count: Tensor | int) -> None:
        if torch.is_floating_point(averaged[0]):
            torch._foreach_lerp_(averaged, current, 1 - decay_after(int(count), self.decay))
        else:  # counters
            torch._foreach_copy_(averaged, current)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take up the weights of a finished optimiser step."""
        if trainer.global_step != self._seen_step:
            self._seen_step = trainer.global_step
            self._average.update_parameters(_network(pl_module))

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validation sees the average."""
        self._swap(pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Training goes on with the raw weights."""
        self._swap(pl_module)

    @torch.no_grad()
    def _swap(self, pl_module: pl.LightningModule) -> None:
        if not self._average.n_averaged:
            return
        for averaged, current in zip(_tensors(self._average.module), _tensors(_network(pl_module)), strict=True):
            kept = averaged.clone()
            averaged.copy_(current)
            current.copy_(kept)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Who gets the network after training gets the average."""
        if self._average.n_averaged:
            _network(pl_module).load_state_dict(self._average.module.state_dict())

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """The weights to use are the average; those to go on with stand beside them."""
        count = int(self._average.n_averaged)
        checkpoint[COUNT_KEY] = count
        if not count:
            return
        state = checkpoint["state_dict"]
        checkpoint[RAW_KEY] = {name: value for name, value in state.items() if name.startswith(PREFIX)}
        averaged = {PREFIX + name: value for name, value in self._average.module.state_dict().items()}
        checkpoint["state_dict"] = {**state, **averaged}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on averaging; a checkpoint without an average starts one."""
        if AVERAGE_KEY in checkpoint:
            self._average.module.load_state_dict(checkpoint[AVERAGE_KEY])
            self._average.n_averaged.fill_(checkpoint[COUNT_KEY])


def split_weights(checkpoint: dict[str, Any]) -> None:
    """Before a checkpoint is loaded to go on training: the raw weights to their place, the average aside."""
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
