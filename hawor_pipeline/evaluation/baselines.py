"""Baselines that never see the image. A network that is not clearly better has learnt nothing.

- `mean_pose`: one constant (21, 3), the mean of the training samples' wrist-relative joints in the camera frame, hands
  mirrored to right. It predicts neither mesh nor place, so those numbers are undefined.
- `mean_rotations`: one constant answer of the network: mean rotations, mean shape and mean crop camera of the training
  samples, posed by MANO.
- `subject_mean`: like `mean_pose`, but the mean of the evaluated subject itself, which a predictor could not know.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hawor_pipeline.core.camera import camera_from_translation, full_translation, mirror_points, where_left
from hawor_pipeline.core.rotations import chordal_mean
from hawor_pipeline.evaluation.hands import (
    HandTruth,
    PredictedHands,
    crop_camera,
    predictions_on_true_side,
    read_truth,
)
from hawor_pipeline.evaluation.recordings import sequences
from hawor_pipeline.evaluation.setting import Setting
from hawor_pipeline.evaluation.tables import RunIdentity, table_writer
from hawor_pipeline.loading.rows import HandRows, load_rows
from hawor_pipeline.locate import open_hand_models
from hawor_pipeline.sources.hand_models import HandModels

KINDS = ("mean_pose", "mean_rotations", "subject_mean")


@dataclass(slots=True)
class TrainingMeans:
    """Means over samples, hands mirrored to right, camera frame."""

    joints_m: Tensor  # (21, 3) wrist-relative
    rotmats: Tensor  # (16, 3, 3) chordal means
    betas: Tensor  # (10,)
    camera: Tensor  # (3,) crop camera (s, tx, ty)
    samples: int


def training_means(shards_dir: Path | str, subjects: Sequence[str]) -> TrainingMeans:
    """Average the valid rows of these subjects."""
    sums = [torch.zeros(shape, dtype=torch.float64) for shape in ((21, 3), (16, 3, 3), (10,), (3,))]
    count = 0
    for annotations in sequences(shards_dir, subjects):
        rows = load_rows(annotations)
        camera = camera_from_translation(rows.translation_m.double(), *crop_camera(rows))
        values = (rows.joints_m - rows.joints_m[:, :1], rows.rotmats, rows.betas, camera)
        for total, value in zip(sums, values, strict=True):
            total += value.double().sum(0)
        count += len(rows)
    joints, rotmats, betas, camera = (total / count for total in sums)
    return TrainingMeans(joints, chordal_mean(rotmats), betas, camera, count)


def _constant_joints(joints_m: Tensor, truth: HandTruth) -> PredictedHands:
    right = joints_m.expand(len(truth), 21, 3)
    return PredictedHands(
        rotmats=torch.full_like(truth.rotmats, torch.nan),
        betas=torch.full_like(truth.betas, torch.nan),
        translation_m=torch.full_like(truth.translation_m, torch.nan),
        joints_m=where_left(truth.is_right, mirror_points(right), right),
        joints_px=torch.full_like(truth.joints_px, torch.nan),
    )


def _constant_parameters(means: TrainingMeans, models: HandModels, truth: HandTruth, rows: HandRows) -> PredictedHands:
    n = len(truth)
    translation = full_translation(means.camera.expand(n, 3), *crop_camera(rows))
    return predictions_on_true_side(
        models, truth, means.rotmats.expand(n, 16, 3, 3), means.betas.expand(n, 10), translation
    )


def write_baseline(kind: str, setting: Setting, identity: RunIdentity, means: TrainingMeans) -> int:
    """Publish the predictions of a baseline, one of `KINDS`, for the valid rows of a setting; return their number."""
    models, shards_dir = open_hand_models(setting.shards_dir, setting.mano_dir), setting.shards_dir
    if kind == "subject_mean":
        own = {subject: training_means(shards_dir, [subject]).joints_m for subject in setting.subjects}
    with table_writer(setting.metrics_dir, "predictions", identity) as writer:
        for annotations in sequences(shards_dir, setting.subjects, setting.views):
            truth = read_truth(annotations)
            if kind == "mean_rotations":
                hands = _constant_parameters(means, models, truth, load_rows(annotations))
            elif kind == "subject_mean":
                hands = _constant_joints(own[annotations["subject"][0].as_py()], truth)
            else:
                hands = _constant_joints(means.joints_m, truth)
            writer.write(hands.columns(annotations["sample_id"].to_pylist()))
        return writer.rows
