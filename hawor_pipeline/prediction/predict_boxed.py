"""Predictions for pictures that have boxes but no ground truth."""

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader

from hawor_pipeline.evaluation.hands import PredictedHands, predictions_on_true_side, read_truth
from hawor_pipeline.evaluation.predict import FRAMES_PER_BATCH, run_network
from hawor_pipeline.loading.clips import covering_clips
from hawor_pipeline.loading.dataset import ClipDataset, keep_batch
from hawor_pipeline.loading.rows import load_rows
from hawor_pipeline.models.hawor import HaworModel
from hawor_pipeline.prediction.boxed_frames import BoxedFrames
from hawor_pipeline.sources.hand_models import HandModels


def predict_boxed(
    model: HaworModel,
    frames: BoxedFrames,
    models: HandModels,
    *,
    clip_length: int,
    device: torch.device,
) -> PredictedHands:
    """Predict every row of boxed frames.

    Args:
        model: on `device`.
        frames: rows and crops of one view.
        models: the two MANO models.
        clip_length: frames that the network sees together, as it was trained.
        device: where the network runs.

    Returns:
        One row per row of `frames`, in its order, on the true side.

    Raises:
        DataError: a crop is damaged.
        NumericalError: the network says something that is not finite.
    """
    clips = covering_clips(frames.table, clip_length)
    dataset = ClipDataset(frames, load_rows(frames.table), clips, model.network.image_size)  # type: ignore[arg-type]
    step = max(1, FRAMES_PER_BATCH // clip_length)
    batches = [list(range(first, min(first + step, len(dataset)))) for first in range(0, len(dataset), step)]
    loader = DataLoader(dataset, batch_size=None, sampler=batches, collate_fn=keep_batch)  # type: ignore[arg-type]
    rows, parts = [], []
    for row, *parameters in run_network(model, loader, device):
        rows.append(row)
        parts.append(parameters)
    order = np.argsort(np.concatenate(rows), kind="stable")
    rotmats, betas, translation = (torch.cat(part)[order] for part in zip(*parts, strict=True))
    truth = read_truth(frames.table.take(pa.array(np.concatenate(rows)[order])))  # side and camera; labels are NaN
    return predictions_on_true_side(models, truth, rotmats, betas, translation)
