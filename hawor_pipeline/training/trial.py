"""Real optimiser steps outside a run: how fast, how large, how well fed, at which learning rate and batch size.

The steps are those of training: the same network, losses, augmentation, precision and optimiser, on one device.
"""

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import psutil
import torch

from hawor_pipeline.config import TrainingConfig
from hawor_pipeline.core.types import ClipBatch, take_clips
from hawor_pipeline.training.memory import is_memory_shortage
from hawor_pipeline.training.module import EnhancedHaWoRTrainer
from hawor_pipeline.training.optimisation import build_optimizer

LOWEST_RATE, HIGHEST_RATE = 1e-7, 1.0
DIVERGED = 4.0  # times the least smoothed loss: the search is over
SMOOTHING = 0.9
MEMORY_SHARE = 0.9  # of a device or machine that a run may fill
FASTER = 1.05  # a larger batch must be this much faster per clip to be worth going on


@dataclass(frozen=True, slots=True)
class Pace:
    """What a few steps took."""

    seconds_per_step: float
    wait_share: float  # of the time, waiting for data
    peak_bytes: int  # of memory, by the network's work
    frames_per_step: int
    loss: float  # of the last step

    @property
    def crops_per_second(self) -> float:
        """Frames that go through, waiting included."""
        return self.frames_per_step / self.seconds_per_step


class Trial:
    """A network that may be trained and thrown away.

    Args:
        module: of the configuration; its weights change, and come back with `restart`.
        device: where the steps run.
    """

    def __init__(self, module: EnhancedHaWoRTrainer, device: torch.device):
        self.config: TrainingConfig = module.config
        self.module = module.to(device)
        self.device = device
        self._begin = {name: value.cpu().clone() for name, value in module.state_dict().items()}
        self.restart()

    def restart(self, learning_rate: float | None = None) -> None:
        """Back to the initial weights, with a fresh optimiser."""
        self.module.load_state_dict(self._begin)
        self.module.train()
        self.optimizer = build_optimizer(self.config, self.module.model)
        self.set_rate(learning_rate or self.config.learning_rate)

    def set_rate(self, learning_rate: float) -> None:
        """Take this learning rate from now on."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate

    def step(self, batch: ClipBatch) -> float:
        """One optimiser step on one batch; returns its loss."""
        batch = self.module.transfer_batch_to_device(batch, self.device, 0)
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            total, _ = self.module.losses(self.module.predict_batch(batch), batch)
        total.backward()
        self._clip()
        self.optimizer.step()
        return float(total.detach())

    def _autocast(self) -> AbstractContextManager:
        precision = self.config.lightning_precision
        if precision.startswith(("32", "64")):
            return nullcontext()
        kind = torch.bfloat16 if precision.startswith("bf16") else torch.float16
        return torch.autocast(self.device.type, dtype=kind)

    def _clip(self) -> None:
        if self.config.grad_clip_val:
            torch.nn.utils.clip_grad_norm_(self.module.model.parameters(), self.config.grad_clip_val)

    def measure(self, batches: Iterator[ClipBatch], steps: int) -> Pace:
        """Take steps, the first of them unmeasured (it fills caches and allocators)."""
        self._reset_peak()
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

    def _reset_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def _peak(self) -> int:
        """The most memory held: of the device, or of this process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return psutil.Process().memory_info().rss

    def room_bytes(self) -> int:
        """Memory that this device, or machine, has for a run in all."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_properties(self.device).total_memory
        return psutil.virtual_memory().available + psutil.Process().memory_info().rss


def find_learning_rate(trial: Trial, batches: Iterator[ClipBatch], steps: int = 60) -> float:
    """The learning rate at which the loss falls fastest while the rate is raised from step to step.

    Args:
        trial: starts and ends at its initial weights.
        batches: at least `steps`.
        steps: between LOWEST_RATE and HIGHEST_RATE, equal ratios apart.

    Source:
        Smith, Cyclical Learning Rates (2017), section 3.3; smoothing and stopping as fastai made them common.
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
        level = smooth / (1 - SMOOTHING ** (index + 1))
        least = min(least, level)
        rates.append(rate)
        losses.append(level)
        if level > DIVERGED * least:
            break
    trial.restart()
    return steepest(rates, losses)


def steepest(rates: list[float], losses: list[float]) -> float:
    """The rate where the loss falls fastest per factor of the rate; it lies before the lowest loss.

    >>> steepest([1e-4, 1e-3, 1e-2, 1e-1], [4.0, 3.8, 2.0, 9.0])
    0.001
    """
    lowest = min(range(len(losses)), key=losses.__getitem__)
    falls = [losses[i] - losses[i + 1] for i in range(lowest)]
    return rates[max(range(len(falls)), key=falls.__getitem__)] if falls else rates[0]


@dataclass(frozen=True, slots=True)
class BatchSize:
    """One batch size that was tried."""

    clips: int
    seconds_per_clip: float
    peak_bytes: int


def find_batch_size(trial: Trial, batch: ClipBatch, most: int) -> list[BatchSize]:
    """Try 1, 2, 4, ... clips per step until memory ends, or a larger batch is no faster per clip.

    Args:
        trial: ends at its initial weights.
        batch: whose clips are used, repeated as needed.
        most: clips at most.

    Returns:
        What fitted, smallest first; empty where not even one clip does.
    """
    tried: list[BatchSize] = []
    clips = 1
    while clips <= most:
        chosen = torch.arange(clips) % len(batch)
        try:
            trial.restart()
            pace = trial.measure(_repeat(take_clips(batch, chosen)), 1)
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
    """Whether twice the clips would fill more of the memory than a run may, by how it grew."""
    if len(tried) < 2:
        return False
    growth = max(tried[-1].peak_bytes - tried[-2].peak_bytes, 0)
    return tried[-1].peak_bytes + 2 * growth > MEMORY_SHARE * room_bytes


def _no_faster(tried: list[BatchSize]) -> bool:
    return len(tried) > 2 and tried[-1].seconds_per_clip * FASTER > min(each.seconds_per_clip for each in tried[:-1])


def _repeat(batch: ClipBatch) -> Iterator[ClipBatch]:
    while True:
        yield batch
