"""Metric tables of a run whose predictions are the truth, moved by a known vector where asked for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from hawor_pipeline.core.camera import camera_from_translation, full_translation
from hawor_pipeline.core.rotations import axis_angle_to_rotmat
from hawor_pipeline.evaluation.evaluator import evaluate_predictions
from hawor_pipeline.evaluation.hands import (
    PredictedHands,
    crop_camera,
    predicted_mesh,
    predictions_on_true_side,
    read_truth,
)
from hawor_pipeline.evaluation.protocols import find_protocol
from hawor_pipeline.evaluation.recordings import converted_subjects, sequences
from hawor_pipeline.evaluation.setting import Setting
from hawor_pipeline.evaluation.tables import RunIdentity, table_writer
from hawor_pipeline.loading.rows import load_rows
from hawor_pipeline.sources.hand_models import HandModels


def ground_truth_predictions(models: HandModels, annotations: pa.Table) -> PredictedHands:
    """Send ground truth through the network's parametrisation and back; every error of it must be 0.

    The output of a perfect network (hand mirrored to right, shape as right, weak-perspective camera of the crop) takes
    the same way as any prediction.
    """
    rows = load_rows(annotations)
    boxes = crop_camera(rows)
    camera = camera_from_translation(rows.translation_m.double(), *boxes)
    return predictions_on_true_side(
        models, read_truth(annotations), rows.rotmats.double(), rows.betas.double(), full_translation(camera, *boxes)
    )


def write_ground_truth(
    shards_dir: Path, mano_dir: Path, metrics_dir: Path, identity: RunIdentity, subjects: Sequence[str] | None = None
) -> int:
    """Publish `ground_truth_predictions` as a predictions table; return its rows."""
    models = HandModels.load(mano_dir)
    with table_writer(metrics_dir, "predictions", identity) as writer:
        for annotations in sequences(shards_dir, subjects, find_protocol(identity.protocol).views):
            hands = ground_truth_predictions(models, annotations)
            writer.write(hands.columns(annotations["sample_id"].to_pylist()))
        return writer.rows


def evaluate_run(
    shards_dir: Path, mano_dir: Path, metrics_dir: Path, identity: RunIdentity, subjects: Sequence[str] | None = None
) -> dict[str, Any]:
    """Evaluate the predictions of a run, by default on all subjects."""
    names = converted_subjects(shards_dir) if subjects is None else subjects
    about = (identity.dataset_version, names, identity.protocol)
    return evaluate_predictions(Setting.of(shards_dir, mano_dir, metrics_dir, *about), identity)


def write_truth_run(
    metrics_dir: Path,
    shards_dir: Path,
    mano_dir: Path,
    run_id: str = "truth",
    *,
    bend_rad: float = 0.0,
    subjects: tuple[str, ...] = ("s05",),
) -> RunIdentity:
    """Predictions, samples, joints and summary; `bend_rad` turns every index finger's first joint that far."""
    identity = RunIdentity(run_id, "arctic-all-val", "v1", "synthetic", "c" * 64)
    models = HandModels.load(mano_dir)
    with table_writer(metrics_dir, "predictions", identity) as writer:
        for annotations in sequences(shards_dir, subjects):
            hands = ground_truth_predictions(models, annotations)
            if bend_rad:
                about_z = torch.tensor([0.0, 0.0, bend_rad], dtype=torch.float64)
                hands.rotmats[:, 1] = hands.rotmats[:, 1] @ axis_angle_to_rotmat(about_z)
                right = torch.tensor(annotations["is_right"].to_pylist())
                _, hands.joints_m = predicted_mesh(models, hands.rotmats, hands.betas, hands.translation_m, right)
            writer.write(hands.columns(annotations["sample_id"].to_pylist()))
    evaluate_run(shards_dir, mano_dir, metrics_dir, identity, subjects)
    return identity
