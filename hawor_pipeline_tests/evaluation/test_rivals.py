"""Smoothing against a least-squares fit, and rivals on the same samples as the run."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from hawor_pipeline.core.rotations import axis_angle_to_rotmat, geodesic_angle
from hawor_pipeline.evaluation.evaluate import evaluate_checkpoint
from hawor_pipeline.evaluation.evaluator import measure_run
from hawor_pipeline.evaluation.gate import decide
from hawor_pipeline.evaluation.hands import HandTruth, ground_truth_predictions
from hawor_pipeline.evaluation.registry import Registry
from hawor_pipeline.evaluation.rivals import evaluate_rivals
from hawor_pipeline.evaluation.setting import Devices, Setting
from hawor_pipeline.evaluation.smoothing import line_weights, smooth
from hawor_pipeline.evaluation.tables import baseline_run_id, list_runs, partition_file, read_identity, read_table
from hawor_pipeline.evaluation.tracks import Tracks
from hawor_pipeline.models.checkpoints import open_checkpoint
from hawor_pipeline.sources.hand_models import HandModels
from hawor_pipeline_tests.evaluation.analyst import RUN, VERSION, Analysed

CPU = Devices("cpu")


@pytest.mark.parametrize("length", [1, 2, 3, 5, 9])
def test_weights_are_those_of_a_fitted_line(length: int) -> None:
    weights = line_weights(length).numpy()
    assert np.allclose(weights.sum(1), 1)
    values = np.random.default_rng(0).normal(size=length)
    for frame in range(length):
        near = np.arange(max(0, frame - 2), min(length, frame + 3))
        expected = np.polyval(np.polyfit(near, values[near], 1), frame) if len(near) > 2 else values[frame]
        assert weights[frame] @ values == pytest.approx(expected)


def test_constant_velocity_is_left_alone_and_noise_is_not(
    models: HandModels, truth: HandTruth, annotations: pa.Table, tracks: Tracks
) -> None:
    perfect = ground_truth_predictions(models, annotations)
    frames = torch.from_numpy(tracks.frame.astype(float))[:, None]
    moving = replace(
        perfect, translation_m=torch.tensor([[0.1, 0.0, 0.6]]) + frames * torch.tensor([[0.01, -0.02, 0.005]])
    )
    smoothed = smooth(models, truth, moving, tracks)
    assert torch.allclose(smoothed.translation_m, moving.translation_m, atol=1e-9)
    generator = torch.Generator().manual_seed(0)
    shaking = 0.1 * torch.randn(len(truth), 16, 3, generator=generator, dtype=torch.float64)
    still = perfect.rotmats[:1].expand_as(perfect.rotmats)
    noisy = replace(moving, rotmats=axis_angle_to_rotmat(shaking) @ still)
    smoothed = smooth(models, truth, noisy, tracks)
    assert torch.allclose(torch.linalg.det(smoothed.rotmats), torch.ones(1, dtype=torch.float64))
    before, after = (geodesic_angle(hands.rotmats, still).mean() for hands in (noisy, smoothed))
    assert after < 0.8 * before


def test_smoothed_is_measured_on_the_same_samples_and_names_the_checkpoint(analysed: Analysed) -> None:
    name = analysed.rivals.info["run_ids"]["smoothed"]
    assert name == baseline_run_id("smoothed", VERSION, RUN)
    ours, theirs = (read_table(analysed.metrics, "samples", run) for run in (RUN, name))
    assert ours["sample_id"].equals(theirs["sample_id"])
    assert read_identity(analysed.metrics, "samples", name).checkpoint_sha256 == analysed.run.info["checkpoint_sha256"]
    assert not ours["mpjpe_mm"].equals(theirs["mpjpe_mm"])


def test_run_is_compared_with_baselines_and_rivals(analysed: Analysed) -> None:
    others = set(read_table(analysed.metrics, "comparison", RUN)["other_run_id"].to_pylist())
    assert others == {*analysed.baselines.info["run_ids"].values(), *analysed.rivals.info["run_ids"].values()}


def test_rivals_are_reused_until_something_changes(analysed: Analysed) -> None:
    again = evaluate_rivals(RUN, analysed.setting, registry_dir=analysed.root / "registry", devices=CPU)
    assert again.reused
    assert again.info == analysed.rivals.info


def test_damaged_rivals_are_made_again(analysed: Analysed, tmp_path: Path) -> None:
    root = tmp_path / "project"
    shutil.copytree(analysed.root, root)
    setting = replace(analysed.setting, metrics_dir=root / "data" / "metrics")
    damaged = partition_file(setting.metrics_dir, "samples", baseline_run_id("smoothed", VERSION, RUN))
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    again = evaluate_rivals(RUN, setting, registry_dir=root / "registry", devices=CPU)
    assert not again.reused
    assert again.info == analysed.rivals.info
    assert damaged.read_bytes() == whole


def test_tables_made_from_an_earlier_evaluation_go_when_it_is_replaced(analysed: Analysed, tmp_path: Path) -> None:
    """The comparison and the robustness of a run never stand beside samples that they were not made from."""
    metrics = tmp_path / "metrics"
    shutil.copytree(analysed.metrics, metrics)
    assert {RUN} <= set(list_runs(metrics, "comparison")) & set(list_runs(metrics, "robustness"))
    identity = read_identity(metrics, "predictions", RUN)
    measure_run(replace(analysed.setting, metrics_dir=metrics), identity)
    assert RUN not in [*list_runs(metrics, "comparison"), *list_runs(metrics, "robustness")]
    assert RUN in list_runs(metrics, "samples")


def test_champion_of_older_data_is_evaluated_on_the_new(analysed: Analysed, tmp_path: Path, mano_dir: Path) -> None:
    """The champion was promoted on v1; a challenger comes with v2, where the champion has no tables yet."""
    root = tmp_path / "project"
    shutil.copytree(analysed.root, root)
    registry = Registry(root / "registry")
    record = registry.run(RUN, analysed.setting.protocol, VERSION)
    registry.promote(record, "first")
    content = torch.load(analysed.checkpoint, weights_only=True)
    bias = next(n for n in content["state_dict"] if n.endswith("pose_output.bias"))
    content["state_dict"][bias] += 0.3
    torch.save(content, tmp_path / "other.ckpt")
    setting = Setting.of(analysed.setting.shards_dir, mano_dir, root / "data" / "metrics", "v2", ["s05"])
    other = open_checkpoint(tmp_path / "other.ckpt")
    evaluate_checkpoint(other, setting, "challenger-1", devices=CPU, registry_dir=registry.root)
    result = evaluate_rivals("challenger-1", setting, registry_dir=registry.root, devices=CPU)
    name = result.info["run_ids"]["champion"]
    assert name.startswith(baseline_run_id("champion", "v2", record.checkpoint_sha256[:12]))
    assert read_identity(setting.metrics_dir, "samples", name).checkpoint_sha256 == record.checkpoint_sha256
    old, new = (read_table(setting.metrics_dir, "samples", run)["mpjpe_mm"].to_numpy() for run in (RUN, name))
    assert np.allclose(old, new, atol=1e-6)  # the same checkpoint on the same pictures
    decision = decide(setting.metrics_dir, registry, "challenger-1")
    assert decision.champion_run_id == RUN
    assert decision.outcome in ("better_or_equal", "rejected")
