"""Metric tables of a run whose predictions are the truth, moved by a known vector where asked for."""

from pathlib import Path

import torch

from hawor_pipeline.core.rotations import axis_angle_to_rotmat
from hawor_pipeline.evaluation.evaluator import evaluate_predictions
from hawor_pipeline.evaluation.hands import ground_truth_predictions, predicted_mesh
from hawor_pipeline.evaluation.recordings import sequences
from hawor_pipeline.evaluation.tables import RunIdentity, table_writer
from hawor_pipeline.sources.hand_models import HandModels


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
    evaluate_predictions(shards_dir, mano_dir, metrics_dir, identity, subjects)
    return identity
