"""Benefit of adaptive weights and the enhanced loss: optimiser steps and final error on hands of the sample.

Generates a sample, converts it, and trains on the hands of five subjects. Learning rates and shares were selected on
two other subjects (validation) and are fixed; every figure comes from two more (test), which were not used for tuning.
To fit many runs into minutes on two cores, the benchmark uses no pixels: a perceptron gets simulated keypoints (see
`_hand_problem.py`); `convergence_pixels.py` makes the same comparison with images and the demo's network. Hand model,
losses, weighting and metrics are those of the project. Curves are errors on held-out subjects every few steps; the
final error of a run is the mean of its last three.

ema_steps_ratio: steps until `ema` first reaches static's final MPJPE, over static's own steps to it; same seed, and the
learning rate that is best for static; a run that never reaches it counts as one evaluation past its end.
ema_pa_ratio and ema_crop_error_ratio: final PA-MPJPE and final error in the crop, ema over static. enhanced_vs_mse:
final MPJPE of the enhanced loss with its defaults (ema, static's learning rate) over that of mean squared errors of
keypoints, rotations and shape in SI units, at their own learning rate. enhanced_vs_scaled_mse: the same against squared
errors in the units and with the weights of the enhanced loss, to separate the effect of the units from the rest.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: idle threads sleep

import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from _hand_problem import TEST, TRAIN, Clips, Network, load_clips, make_shards
from _measure import Row, from_rounds, run
from torch import Tensor, nn

from hawor_pipeline.core.loss import EnhancedTrainingLoss
from hawor_pipeline.core.losses.robust import ANGLE_SCALE_RAD, BETAS_SCALE, CROP_SCALE, KEYPOINT_SCALE_M, masked_mean
from hawor_pipeline.core.mano import ManoLayer
from hawor_pipeline.core.metrics import mpjpe, pa_mpjpe
from hawor_pipeline.core.types import HandPrediction, HandTarget
from hawor_pipeline.core.units import MM_PER_M
from hawor_pipeline.core.weighting import DEFAULT_WEIGHTS
from hawor_pipeline.untrusted.mano_files import load_mano

SEQUENCES = 6  # of each subject
CLIPS_PER_STEP = 6
HELD_OUT_CLIPS = 120
CROP_PX = 256  # of the crop that image errors refer to
STEPS, WARMUP, EVERY = 400, 40, 10
WEIGHT_DECAY, CLIP_NORM = 0.01, 1.0
FINAL = 3  # evaluations whose mean is a run's final error
SEEDS = (0, 1, 2, 3, 4, 5)
# The learning rate of each method, selected on the validation subjects by `_convergence_rates.py` before any run was
# measured on the test subjects; ema uses static's.
PICKED = {"static": 2e-3, "ema": 2e-3, "mse": 2e-3, "mse_scaled": 2e-3}

Loss = Callable[[HandPrediction, HandTarget, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Job:
    """One training run."""

    method: str  # key of `LOSSES`
    rate: float
    seed: int
    subjects: tuple[str, ...]  # the curve is measured on these
    steps: int = STEPS


@dataclass(frozen=True, slots=True)
class Curve:
    """Errors on the held-out subjects during a run, mm."""

    steps: tuple[int, ...]
    mpjpe_mm: tuple[float, ...]
    pa_mpjpe_mm: tuple[float, ...]
    mpjpe_crop_px: tuple[float, ...]  # of a crop of 256 px

    def final(self, name: str = "mpjpe_mm") -> float:
        """Return the mean of the last evaluations."""
        return statistics.mean(getattr(self, name)[-FINAL:])

    def steps_to(self, target_mm: float) -> int:
        """Return the first step whose MPJPE is at most the target, or one evaluation past the end."""
        reached = (step for step, error in zip(self.steps, self.mpjpe_mm, strict=True) if error <= target_mm)
        return next(reached, 2 * self.steps[-1] - self.steps[-2])


# the losses that are compared


def _enhanced(mano: ManoLayer, **settings) -> Loss:
    loss = EnhancedTrainingLoss(faces=mano.faces, **settings)
    return lambda pred, target, vertices: loss(pred, target, vertices)[0]


def _squares(weights: Sequence[float]) -> Loss:
    """Compute mean squared errors of root-relative joints (m), joints in the crop, rotation matrices and shape."""

    def loss(pred: HandPrediction, target: HandTarget, _: Tensor) -> Tensor:
        def relative(joints: Tensor) -> Tensor:
            return joints - joints[..., :1, :]

        joint = target.valid[..., None, None]
        parts = (
            masked_mean((relative(pred.joints_m) - relative(target.joints_m)).square(), joint),
            masked_mean((pred.joints_crop - target.joints_crop).square(), joint & target.joint_in_frame[..., None]),
            masked_mean((pred.rotmats - target.rotmats).square(), joint[..., None]),
            masked_mean((pred.betas - target.betas).square(), target.valid[..., None]),
        )
        return sum((w * part for w, part in zip(weights, parts, strict=True)), torch.zeros(()))

    return loss


def _squares_in_units() -> Loss:
    """Compute mean squared errors in the units and with the static weights of the enhanced loss."""
    names = ("KEYPOINTS_3D", "KEYPOINTS_2D", "HAND_POSE", "BETAS")
    scales = (KEYPOINT_SCALE_M, CROP_SCALE, ANGLE_SCALE_RAD, BETAS_SCALE)
    return _squares([DEFAULT_WEIGHTS[name] / scale**2 for name, scale in zip(names, scales, strict=True)])


LOSSES: dict[str, Callable[[ManoLayer], Loss]] = {
    "static": lambda mano: _enhanced(mano, use_adaptive_weights=False),
    "ema": _enhanced,
    "mse": lambda _: _squares([1.0] * 4),
    "mse_scaled": lambda _: _squares_in_units(),
}


# training


class Problem:
    """Clips in memory and the hand model; one instance per process."""

    every = EVERY

    def __init__(self, shards: Path, mano: Path) -> None:
        torch.set_num_threads(1)
        self.shards = shards
        self.mano = ManoLayer(load_mano(mano, "right"))
        self.training = load_clips(shards, self.mano, TRAIN)
        self._held_out: dict[tuple[str, ...], Clips] = {}

    def held_out(self, subjects: tuple[str, ...]) -> Clips:
        """Return the clips to measure on, read on first use."""
        if subjects not in self._held_out:
            self._held_out[subjects] = load_clips(self.shards, self.mano, subjects, HELD_OUT_CLIPS)
        return self._held_out[subjects]

    def network(self, seed: int) -> nn.Module:
        """Create a network with initial weights."""
        torch.manual_seed(seed)
        return Network(self.training)

    def passes(self, network: nn.Module, seed: int) -> Iterator[tuple[HandPrediction, HandTarget, Tensor]]:
        """Yield prediction, ground truth and true vertices of batches without end."""
        batches, generator = _batches(len(self.training), seed), torch.Generator().manual_seed(seed)
        for chosen in batches:
            clips = self.training.take(chosen)
            yield network(clips.detect(generator), clips, self.mano), clips.batch.target, clips.vertices_m

    def train(self, job: Job) -> Curve:
        """Train one run; initial weights and batches depend only on the seed, so that methods share them."""
        network, loss = self.network(job.seed), LOSSES[job.method](self.mano)
        optimizer = torch.optim.AdamW(network.parameters(), lr=job.rate, weight_decay=WEIGHT_DECAY, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate_factor(step, job.steps))
        points = [(0, *self.measure(network, job.subjects))]
        for step, seen in zip(range(1, job.steps + 1), self.passes(network, job.seed), strict=False):
            total = loss(*seen)
            optimizer.zero_grad()
            total.backward()
            nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM, error_if_nonfinite=True)
            optimizer.step()
            schedule.step()
            if step % self.every == 0 or step == job.steps:
                points.append((step, *self.measure(network, job.subjects)))
        return Curve(*zip(*points, strict=True))

    def hands(self, network: nn.Module, clips: Clips) -> HandPrediction:
        """Predict the hands of held-out clips."""
        return network(clips.detect(torch.Generator().manual_seed(0)), clips, self.mano)

    @torch.no_grad()
    def measure(self, network: nn.Module, subjects: tuple[str, ...]) -> tuple[float, float, float]:
        """Return MPJPE and PA-MPJPE on held-out subjects, mm, and the mean error in the crop, px."""
        clips = self.held_out(subjects)
        hands, target = self.hands(network, clips), clips.batch.target
        mean, aligned = (
            MM_PER_M * error(hands.joints_m, target.joints_m)[target.valid].mean().item() for error in (mpjpe, pa_mpjpe)
        )
        seen = target.joint_in_frame & target.valid[..., None]
        flat = torch.linalg.vector_norm(hands.joints_crop - target.joints_crop, dim=-1)[seen]
        return mean, aligned, CROP_PX * flat.mean().item()


def _rate_factor(step: int, steps: int) -> float:
    """Return the factor of the rate: linear warm-up, then half a cosine to 1 %."""
    warmup = min(WARMUP, steps // 4)
    if step < warmup:
        return (step + 1) / warmup
    return 0.01 + 0.99 * 0.5 * (1 + float(np.cos(np.pi * (step - warmup) / (steps - warmup))))


def _batches(clips: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        for chosen in torch.randperm(clips, generator=generator).split(CLIPS_PER_STEP):
            if len(chosen) == CLIPS_PER_STEP:
                yield chosen


# the comparison

_PROBLEM: Problem


def _open(problem: type["Problem"], shards: Path, mano: Path) -> None:
    global _PROBLEM
    _PROBLEM = problem(shards, mano)


def _train(job: Job) -> Curve:
    return _PROBLEM.train(job)


def train_all(pool: ProcessPoolExecutor, jobs: list[Job]) -> dict[Job, Curve]:
    """Run jobs in parallel and print a line when each ends."""
    curves: dict[Job, Curve] = {}
    for job, curve in zip(jobs, pool.map(_train, jobs), strict=True):
        curves[job] = curve
        print(
            f"{len(curves)} of {len(jobs)}: {job.method}, rate {job.rate:g}, seed {job.seed} on "
            f"{' '.join(job.subjects)}: MPJPE {curve.final():.1f} mm, PA {curve.final('pa_mpjpe_mm'):.2f} mm",
            file=sys.stderr,
            flush=True,
        )
    return curves


def compare(curves: dict[Job, Curve], seeds: tuple[int, ...]) -> list[Row]:
    """Compute the rows from paired runs."""
    by = {(job.method, job.seed): curve for job, curve in curves.items()}
    steps = []
    for seed in seeds:
        target = by["static", seed].final()
        steps.append(by["ema", seed].steps_to(target) / by["static", seed].steps_to(target))

    def final(name: str, other: str, error: str, goal: float) -> Row:
        ratios = [by["ema", seed].final(error) / by[other, seed].final(error) for seed in seeds]
        return from_rounds(name, ratios, "ratio", goal, "lower")

    rows = [
        from_rounds("ema_steps_ratio", steps, "ratio", 0.85, "lower"),
        Row("ema_steps_ratio_worst_seed", max(steps), "ratio", 1.0, "lower", (min(steps), max(steps))),
        final("ema_pa_ratio", "static", "pa_mpjpe_mm", 1.01),
        final("ema_crop_error_ratio", "static", "mpjpe_crop_px", 1.01),
        final("enhanced_vs_mse", "mse", "mpjpe_mm", 0.85),
    ]
    if ("mse_scaled", seeds[0]) in by:
        rows.append(final("enhanced_vs_scaled_mse", "mse_scaled", "mpjpe_mm", 1.0))
    return rows


def workers(places: tuple[Path, Path], problem: type[Problem] = Problem) -> ProcessPoolExecutor:
    """Create a pool of at most two processes, each with the problem in memory."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(min(os.cpu_count() or 1, 2), context, _open, (problem, *places))


def measure(quick: bool) -> list[Row]:
    """Train every method on every seed and measure on the test subjects."""
    steps, seeds, sequences = (160, SEEDS[:2], 2) if quick else (STEPS, SEEDS, SEQUENCES)
    with tempfile.TemporaryDirectory() as folder:
        places = make_shards(Path(folder), sequences)
        with workers(places) as pool:
            jobs = [Job(method, rate, seed, TEST, steps) for seed in seeds for method, rate in PICKED.items()]
            return compare(train_all(pool, jobs), seeds)


if __name__ == "__main__":
    run(measure, "Adaptive weights against static ones, and the enhanced loss against mean squared errors")
