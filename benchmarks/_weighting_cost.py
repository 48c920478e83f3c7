"""Cost of adaptive weighting in a training step of the default model."""

import statistics
import time

import torch
from _measure import Row

from hawor_pipeline.config import TrainingConfig
from hawor_pipeline.core.loss import EnhancedTrainingLoss
from hawor_pipeline.core.types import HandPrediction, HandTarget
from hawor_pipeline.models.hawor import HaworModel, NetworkConfig

FRAMES = (
    2  # of one clip, where a step of the default configuration has 8 clips of 16 frames: the share is an upper bound
)


def _hands() -> tuple[HandPrediction, HandTarget, torch.Tensor]:
    frames = (1, FRAMES)
    rotmats = torch.eye(3).expand(*frames, 16, 3, 3)
    joints, vertices, crop = torch.rand(*frames, 21, 3), torch.rand(*frames, 778, 3), torch.rand(*frames, 21, 2)
    betas, place = torch.zeros(*frames, 10), torch.rand(*frames, 3)
    everything = torch.ones(*frames, 21, dtype=torch.bool)
    pred = HandPrediction(rotmats, betas, place, place, joints + 0.01, vertices + 0.01, crop + 0.01)
    target = HandTarget(
        rotmats, betas, place, joints, crop, everything, everything, everything[..., 0], torch.arange(FRAMES)[None]
    )
    return pred, target, vertices


def _weighting_seconds(rounds: int, passes: int) -> list[float]:
    """Return the additional time of the loss with adaptive weights over static ones, per pass."""
    hands = _hands()
    losses = [EnhancedTrainingLoss(use_adaptive_weights=adaptive).train() for adaptive in (True, False)]
    differences = []
    for _ in range(rounds):
        seconds = []
        for loss in losses:
            start = time.thread_time()
            for _ in range(passes):
                loss(*hands)
            seconds.append((time.thread_time() - start) / passes)
        differences.append(seconds[0] - seconds[1])
    return differences


def _step_seconds(rounds: int) -> list[float]:
    """Time forward and backward of the default network on one clip of `FRAMES` frames, without loss and optimiser."""
    config = TrainingConfig()
    model = HaworModel(NetworkConfig.of_training(config)).train()
    size = config.image_size
    images, centre = torch.randn(1, FRAMES, 3, size, size), torch.full((1, FRAMES, 2), size / 2)
    side = torch.full((1, FRAMES), 100.0)
    seconds = []
    for _ in range(rounds + 1):
        start = time.thread_time()
        hands = model(images, centre, side, 10 * side, centre)
        (hands.rotmats.sum() + hands.betas.sum() + hands.translation_m.sum()).backward()
        seconds.append(time.thread_time() - start)
    return seconds[1:]


def weighting_cost(quick: bool) -> list[Row]:
    """Return the time of the weighting over that of the step, in percent."""
    extra = _weighting_seconds(3 if quick else 9, 50)
    steps = _step_seconds(2 if quick else 4)
    values = [100 * cost / statistics.median(steps) for cost in extra]
    return [Row("weighting_cost", statistics.median(values), "%", 1.0, "lower", (min(values), max(values)))]
