"""Optimiser and learning rate of a configuration."""

import math
from typing import Any

import torch
from torch import nn

from hawor_pipeline.config import TrainingConfig


def build_optimizer(config: TrainingConfig, network: nn.Module) -> torch.optim.Optimizer:
    """The optimiser over what is trained; biases and norms are not decayed."""
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=0.9)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.learning_rate, fused=True)


def learning_rate_factor(step: int, warmup: int, total: int, floor: float) -> float:
    """Linear warm-up to 1, then half a cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


class Plateau:
    """A factor of the learning rate that falls when the monitored value stops getting better.

    The decision is torch's `ReduceLROnPlateau`, kept apart from the optimiser so that it can follow a warm-up.

    Args:
        config: mode, patience, factor, min_lr.
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
        """Of the learning rate, in (0, 1]."""
        return float(self._holder.param_groups[0]["lr"])

    def observe(self, value: float) -> None:
        """Take in the value of one validation; one that is not finite says nothing."""
        if math.isfinite(value):
            self._schedule.step(value)

    def state_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"factor": self.factor, "best": float(self._schedule.best), "bad": self._schedule.num_bad_epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._holder.param_groups[0]["lr"] = state["factor"]
        self._schedule.best, self._schedule.num_bad_epochs = state["best"], state["bad"]
