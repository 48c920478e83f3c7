"""Truth as prediction has no error; truth that was moved in a known way has the known error."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from hawor_pipeline.core.camera import project_distorted
from hawor_pipeline.core.rotations import axis_angle_to_rotmat
from hawor_pipeline.evaluation.declared_metrics import SAMPLE_METRICS
from hawor_pipeline.evaluation.hands import (
    HandTruth,
    PredictedHands,
    ground_truth_predictions,
    predicted_mesh,
    predictions_on_true_side,
)
from hawor_pipeline.evaluation.measure import measure
from hawor_pipeline.evaluation.tracks import Tracks
from hawor_pipeline.sources.hand_models import HandModels

NO_ERROR = {"mm": 1e-3, "px": 1e-2, "deg": 1e-3, "m/s^2": 1e-3}


@pytest.fixture(scope="module")
def perfect(models: HandModels, annotations: pa.Table) -> PredictedHands:
    return ground_truth_predictions(models, annotations)


def test_truth_as_prediction_has_no_error_on_any_view_and_hand(
    models: HandModels, truth: HandTruth, perfect: PredictedHands, tracks: Tracks
) -> None:
    assert {0, 1, 4} <= set(tracks.view.tolist())
    assert 0 < int(truth.is_right.sum()) < len(truth)
    measured = measure(truth, perfect, models, tracks)
    for name, metric in SAMPLE_METRICS.items():
        values = measured.metrics[name]
        values = values[np.isfinite(values)]
        assert len(values), name
        if metric.better == "higher":
            # a curve that starts at a distance of exactly 0 loses half of its first step to rounding
            assert values.min() >= (0.99 if name.endswith("pck_auc") else 1 - 1e-4), name
        else:
            # the path of a hand that hardly moves is millimetres long: float32 of its place is a share of that
            assert values.max() <= (1e-4 if name in ("rte", "rte_track") else NO_ERROR.get(metric.unit, 1e-6)), name
    assert measured.of_sequence["mrrpe_mm"].max() <= 1e-3
    assert len(measured.of_sequence["mrrpe_mm"]) == len(truth) // 2
    assert np.nanmax(measured.joint_error_mm) <= 1e-3


def moved(models: HandModels, truth: HandTruth, rotmats: torch.Tensor, shift: torch.Tensor) -> PredictedHands:
    """Predictions on the true side with other rotations and a shift, posed by the left or right model alike."""
    _, joints = predicted_mesh(models, rotmats, truth.betas_as_right, truth.translation_m + shift, truth.is_right)
    pixels, _ = project_distorted(joints, truth.intrinsics, truth.distortion)
    return PredictedHands(rotmats, truth.betas_as_right, truth.translation_m + shift, joints, pixels)


def test_shifted_hands_are_wrong_only_in_the_camera_frame(models: HandModels, truth: HandTruth, tracks: Tracks) -> None:
    shift = torch.tensor([0.003, 0.004, 0.0], dtype=torch.float64)
    values = measure(truth, moved(models, truth, truth.rotmats, shift), models, tracks).metrics
    for name in ("translation_error_mm", "mpjpe_camera_mm"):
        assert np.allclose(values[name], 5.0, atol=1e-3), name
    for name in ("mpjpe_mm", "pa_mpjpe_mm", "mpvpe_mm", "chamfer_mm", "accel_error_m_s2"):
        assert np.nanmax(values[name]) < 1e-3, name
    focal = truth.intrinsics.diagonal(dim1=-2, dim2=-1)[:, :2]
    pixels_at_1m = (focal * shift[:2]).norm(dim=-1).numpy()
    static = truth.distortion.abs().sum(-1).numpy() == 0
    expected = pixels_at_1m * (1 / truth.joints_m[..., 2].numpy()).mean(1)
    whole = truth.joint_in_frame.numpy().all(1) & static
    assert np.allclose(values["mpjpe_px"][whole], expected[whole], rtol=1e-4)


@pytest.mark.parametrize("degrees", [0.5, 30.0, 150.0])
def test_turned_hands_have_the_angle_and_the_distance_of_the_turn(
    models: HandModels, truth: HandTruth, tracks: Tracks, degrees: float
) -> None:
    axis = torch.nn.functional.normalize(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), dim=0)
    turn = axis_angle_to_rotmat(axis * np.deg2rad(degrees))
    rotmats = truth.rotmats.clone()
    rotmats[:, 0] = turn @ rotmats[:, 0]
    values = measure(truth, moved(models, truth, rotmats, torch.zeros(3, dtype=torch.float64)), models, tracks).metrics
    assert np.allclose(values["global_orient_error_deg"], degrees, atol=1e-4)
    assert np.nanmax(values["pose_error_deg"]) < 1e-3
    assert np.nanmax(values["pa_mpjpe_mm"]) < 1e-3
    relative = (truth.joints_m - truth.joints_m[:, :1]).numpy()
    distances = 1000 * np.linalg.norm(relative @ turn.numpy().T - relative, axis=-1)
    assert np.allclose(values["mpjpe_mm"], distances.mean(1), atol=1e-3)
    for limit in (5, 10, 15, 20):
        assert np.allclose(values[f"pck_3d_{limit}mm"], (distances <= limit).mean(1), atol=1e-9)


def test_scaled_joints_are_right_after_alignment(models: HandModels, truth: HandTruth, tracks: Tracks) -> None:
    perfect = moved(models, truth, truth.rotmats, torch.zeros(3, dtype=torch.float64))
    wrist = perfect.joints_m[:, :1]
    scaled = replace(perfect, joints_m=wrist + 1.25 * (perfect.joints_m - wrist))
    values = measure(truth, scaled, models, tracks).metrics
    size = np.linalg.norm((truth.joints_m - truth.joints_m[:, :1]).numpy(), axis=-1).mean(1)
    assert np.allclose(values["mpjpe_mm"], 250 * size, atol=1e-3)
    assert np.nanmax(values["pa_mpjpe_mm"]) < 1e-3


def test_mirrored_hand_is_not_aligned_away(models: HandModels, truth: HandTruth, tracks: Tracks) -> None:
    perfect = moved(models, truth, truth.rotmats, torch.zeros(3, dtype=torch.float64))
    flip = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    values = measure(truth, replace(perfect, joints_m=perfect.joints_m * flip), models, tracks).metrics
    assert values["pa_mpjpe_mm"].min() > 1.0


def test_joints_alone_leave_mesh_and_place_undefined(models: HandModels, truth: HandTruth, tracks: Tracks) -> None:
    nothing = {
        name: torch.full_like(getattr(truth, name), torch.nan)
        for name in ("rotmats", "betas", "translation_m", "joints_px")
    }
    hands = PredictedHands(joints_m=truth.joints_m - truth.joints_m[:, :1], **nothing)
    values = measure(truth, hands, models, tracks).metrics
    assert values["mpjpe_mm"].max() < 1e-3
    undefined = (
        "mpvpe_mm",
        "f_score_5mm",
        "translation_error_mm",
        "mpjpe_camera_mm",
        "mpjpe_px",
        "detected",
        "pose_error_deg",
    )
    for name in undefined:
        assert np.isnan(values[name]).all(), name


def test_left_hands_are_mirrored_not_posed_as_right(models: HandModels, truth: HandTruth) -> None:
    """What the network says of a left hand, a right hand at the mirrored place, ends on the left side."""
    left = truth.take(~truth.is_right)
    flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64))
    said = (flip @ left.rotmats @ flip, left.betas_as_right, left.translation_m * torch.diagonal(flip))
    hands = predictions_on_true_side(models, left, *said)
    assert torch.allclose(hands.joints_m, left.joints_m, atol=1e-6)
    assert torch.allclose(hands.joints_px[left.joint_in_frame], left.joints_px[left.joint_in_frame], atol=1e-2)


def test_neighbours_in_time_are_of_one_hand_one_view_and_without_a_gap() -> None:
    tracks = Tracks(
        view=np.array([0, 0, 0, 0, 0, 1, 1]),
        is_right=np.array([False, False, False, False, True, True, True]),
        frame=np.array([3, 4, 5, 7, 8, 9, 10]),
    )
    assert tracks.follows().tolist() == [False, True, True, False, False, False, True]
    assert tracks.windows(3).tolist() == [0]
    assert tracks.windows(8).tolist() == []
    right, left = tracks.pairs()
    assert len(right) == len(left) == 0
