"""Optimiser steps outside a run, to measure speed, memory and data loading, and to search learning rate and batch size.

The steps are those of training: the same network, losses, augmentation, precision and optimiser, on one device.
"""

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import psutil
import torch
from lightning.pytorch.plugins import DoublePrecision, HalfPrecision, MixedPrecision, Precision

from hawor_pipeline.config import TrainingConfig
from hawor_pipeline.core.types import ClipBatch, take_clips
from hawor_pipeline.training.memory import is_memory_shortage
from hawor_pipeline.training.module import EnhancedHaWoRTrainer
from hawor_pipeline.training.optimisation import build_optimizer

LOWEST_RATE, HIGHEST_RATE = 1e-7, 1.0
DIVERGED = 4.0  # the search ends at this multiple of the smallest smoothed loss
SMOOTHING = 0.9
MEMORY_SHARE = 0.9  # of a device or machine that a run may fill
FASTER = 1.05  # the search continues while a larger batch is faster per clip by this factor


@dataclass(frozen=True, slots=True)
class Pace:
    """Speed and memory of a few steps."""

    seconds_per_step: float
    wait_share: float  # share of the time spent waiting for data
    peak_bytes: int  # of memory
    frames_per_step: int
    loss: float  # of the last step

    @property
    def crops_per_second(self) -> float:
        """Frames per second, waiting time included."""
        return self.frames_per_step / self.seconds_per_step


def precision_plugin(config: TrainingConfig, device: torch.device) -> Precision:
    """Return Lightning's plugin of the configured precision, as its Trainer would choose it."""
    match config.lightning_precision:
        case "64-true":
            return DoublePrecision()
        case "16-true" | "bf16-true" as kind:
            return HalfPrecision(kind)
        case "16-mixed" | "bf16-mixed" as kind:
            return MixedPrecision(kind, device.type)
    return Precision()


class Trial:
    """A network to train and throw away.

    Args:
        module: of the configuration; its weights change, and `restart` restores them.
        device: of the steps.
    """

    def __init__(self, module: EnhancedHaWoRTrainer, device: torch.device):
        self.config: TrainingConfig = module.config
        self.device = device
        self.precision = precision_plugin(self.config, device)
        self.module = module.to(device)
        self.precision.convert_module(self.module)
        self._begin = {name: value.cpu().clone() for name, value in module.state_dict().items()}
        self.restart()

    def restart(self, learning_rate: float | None = None) -> None:
        """Restore the initial weights, with a new optimiser."""
        self.module.load_state_dict(self._begin)
        self.module.train()
        self.optimizer = build_optimizer(self.config, self.module.model)
        self.set_rate(learning_rate or self.config.learning_rate)

    def set_rate(self, learning_rate: float) -> None:
        """Set the learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

    def place(self, batch: ClipBatch) -> ClipBatch:
        """Move a batch to the device, in the configured precision."""
        return self.precision.convert_input(self.module.transfer_batch_to_device(batch, self.device, 0))

    def step(self, batch: ClipBatch) -> float:
        """Take one optimiser step on one batch; return its loss."""
        batch = self.place(batch)
        self.optimizer.zero_grad(set_to_none=True)
        with self.precision.forward_context():
            total, _ = self.module.losses(self.module.predict_batch(batch), batch)
        total.backward()
        if self.config.grad_clip_val:
            torch.nn.utils.clip_grad_norm_(self.module.model.parameters(), self.config.grad_clip_val)
        self.optimizer.step()
        return float(total.detach())

    def measure(self, batches: Iterator[ClipBatch], steps: int) -> Pace:
        """Measure some steps after an unmeasured one, which fills caches and allocators."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        loss = self.step(next(batches))
        waited = frames = 0.0
        began = time.perf_counter()
        for _ in range(steps):
            before = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - before
            loss = self.step(batch)  # reading the loss waits for the device
            frames += len(batch) * self.config.clip_length
        total = time.perf_counter() - began
        return Pace(total / steps, waited / total, self._peak(), round(frames / steps), loss)

    def _peak(self) -> int:
        """Return the peak memory of the device, or the memory of this process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return psutil.Process().memory_info().rss

    def room_bytes(self) -> int:
        """Return the memory of the device, or of the machine, that a run can use."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_properties(self.device).total_memory
        return psutil.virtual_memory().available + psutil.Process().memory_info().rss


def find_learning_rate(trial: Trial, batches: Iterator[ClipBatch], steps: int = 60) -> float:
    """Find the learning rate at which the loss falls fastest while the rate rises from step to step.

    Args:
        trial: starts and ends at its initial weights.
        batches: at least `steps`.
        steps: number of rates from LOWEST_RATE to HIGHEST_RATE, at equal ratios.

    Source:
        Smith, Cyclical Learning Rates (2017), section 3.3; smoothing and stopping as in fastai.
    """
    trial.restart()
    rates, losses, smooth, least = [], [], 0.0, math.inf
    for index in range(steps):
        rate = LOWEST_RATE * (HIGHEST_RATE / LOWEST_RATE) ** (index / (steps - 1))
        trial.set_rate(rate)
        loss = trial.step(next(batches))
        if not math.isfinite(loss):
            break
        smooth = SMOOTHING * smooth + (1 - SMOOTHING) * loss
        level = smooth / (1 - SMOOTHING ** (index + 1))  # bias correction: the mean starts at 0
        least = min(least, level)
        rates.append(rate)
        losses.append(level)
        if level > DIVERGED * least:
            break
    trial.restart()
    return steepest(rates, losses)


def steepest(rates: list[float], losses: list[float]) -> float:
    """Return the rate where the loss falls fastest per factor of the rate, before its lowest value.

    >>> steepest([1e-4, 1e-3, 1e-2, 1e-1], [4.0, 3.8, 2.0, 9.0])
    0.001
    """
    lowest = min(range(len(losses)), key=losses.__getitem__)
    falls = [losses[i] - losses[i + 1] for i in range(lowest)]
    return rates[max(range(len(falls)), key=falls.__getitem__)] if falls else rates[0]


@dataclass(frozen=True, slots=True)
class BatchSize:
    """Speed and memory of one batch size."""

    clips: int
    seconds_per_clip: float
    peak_bytes: int


def find_batch_size(trial: Trial, batch: ClipBatch, most: int) -> list[BatchSize]:
    """Try 1, 2, 4, ... clips per step until memory runs out, or a larger batch is no faster per clip.

    Args:
        trial: ends at its initial weights.
        batch: its clips are used, repeated as needed.
        most: largest number of clips.

    Returns:
        The sizes that fit, smallest first; empty if a single clip does not fit.
    """
    tried: list[BatchSize] = []
    clips = 1
    while clips <= most:
        chosen = torch.arange(clips) % len(batch)
        try:
            trial.restart()
            pace = trial.measure(itertools.repeat(take_clips(batch, chosen)), 1)
        except (RuntimeError, MemoryError) as error:
            if not is_memory_shortage(error):
                raise
            break
        finally:
            trial.optimizer.zero_grad(set_to_none=True)
        tried.append(BatchSize(clips, pace.seconds_per_step / clips, pace.peak_bytes))
        if _would_not_fit(tried, trial.room_bytes()) or _no_faster(tried):
            break
        clips *= 2
    trial.restart()
    return tried


def _would_not_fit(tried: list[BatchSize], room_bytes: int) -> bool:
    """Test if twice the clips would exceed the memory share of a run, by linear extrapolation."""
    if len(tried) < 2:
        return False
    growth = max(tried[-1].peak_bytes - tried[-2].peak_bytes, 0)
    return tried[-1].peak_bytes + 2 * growth > MEMORY_SHARE * room_bytes


def _no_faster(tried: list[BatchSize]) -> bool:
    return len(tried) > 2 and tried[-1].seconds_per_clip * FASTER > min(each.seconds_per_clip for each in tried[:-1])
