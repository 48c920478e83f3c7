"""Optimiser and learning rate schedule of a configuration."""

import math
from collections.abc import Mapping

import torch
from torch import nn

from hawor_pipeline.config import TrainingConfig


def build_optimizer(config: TrainingConfig, network: nn.Module) -> torch.optim.Optimizer:
    """Build the optimiser of the trainable parameters; biases and norms have no weight decay."""
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=0.9)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.learning_rate, fused=True)


def learning_rate_factor(step: int, warmup: int, total: int, lowest: float) -> float:
    """Return the factor of the learning rate: linear warm-up to 1, then half a cosine down to `lowest`."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * progress))


class Plateau:
    """Factor of the learning rate that is reduced when the monitored value stops improving.

    The decision is that of torch's `ReduceLROnPlateau`, on an optimiser of its own so that it combines with a warm-up.

    Args:
        config: with mode, plateau_patience, plateau_factor and min_lr.
    """

    def __init__(self, config: TrainingConfig):
        self._holder = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0)
        self._schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self._holder,
            mode=config.mode,
            factor=config.plateau_factor,
            patience=config.plateau_patience,
            min_lr=min(config.min_lr / config.learning_rate, 1.0),
        )

    @property
    def factor(self) -> float:
        """Factor of the learning rate, in (0, 1]."""
        return float(self._holder.param_groups[0]["lr"])

    def observe(self, value: float) -> None:
        """Add the value of one validation; a value that is not finite is skipped."""
        if math.isfinite(value):
            self._schedule.step(value)

    def state_dict(self) -> dict[str, float]:
        """Return plain values for a checkpoint."""
        return {"factor": self.factor, "best": float(self._schedule.best), "bad": self._schedule.num_bad_epochs}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore the values of a checkpoint."""
        self._holder.param_groups[0]["lr"] = state["factor"]
        self._schedule.best, self._schedule.num_bad_epochs = state["best"], int(state["bad"])
