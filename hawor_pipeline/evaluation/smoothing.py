"""Smoothing of predictions over time: around each frame, a hand is assumed to move at constant velocity.

Each value is replaced by that of the straight line that fits its neighbours best. In the middle of a track this is the
mean of the window; near its ends it extrapolates. Rotations are fitted as matrices and put back onto rotations.
"""

import numpy as np
import torch
from torch import Tensor

from hawor_pipeline.core.rotations import chordal_mean
from hawor_pipeline.evaluation.hands import HandTruth, PredictedHands, project_predictions
from hawor_pipeline.evaluation.tracks import Tracks
from hawor_pipeline.sources.hand_models import HandModels

RADIUS = 2  # frames on each side; a sixth of a second at 30 frames per second


def line_weights(length: int, radius: int = RADIUS) -> Tensor:
    """Compute the weight of each frame in the smoothed value of each frame, (length, length).

    Args:
        length: frames of the track.
        radius: frames on each side that the line is fitted to; the window is cut off at the ends of the track.

    Source:
        Savitzky and Golay 1964, degree 1, with the fitted line continued to the ends.
    """
    weights = np.zeros((length, length))
    for frame in range(length):
        near = np.arange(max(0, frame - radius), min(length, frame + radius + 1))
        if len(near) < 3:  # a line through two points smooths nothing
            weights[frame, frame] = 1
            continue
        design = np.stack((np.ones(len(near)), near - frame), 1)
        weights[frame, near] = np.linalg.pinv(design)[0]
    return torch.from_numpy(weights)


def smooth(models: HandModels, truth: HandTruth, predicted: PredictedHands, tracks: Tracks) -> PredictedHands:
    """Smooth the predictions of one recording; of the ground truth only camera, lens and side are used."""
    parts = (predicted.rotmats, predicted.betas, predicted.translation_m, predicted.own_betas)
    rotmats, betas, translation, own_betas = (part.clone() for part in parts)
    for start, end in tracks.runs():
        weights = line_weights(end - start)
        for values in (rotmats, betas, translation, own_betas):
            values[start:end] = torch.einsum("st,t...->s...", weights, values[start:end])
    return project_predictions(models, truth, chordal_mean(rotmats), betas, translation, own_betas)
