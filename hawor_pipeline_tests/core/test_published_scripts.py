"""Metrics against plain float64 loops that follow each benchmark's published script, quirks included."""

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import cKDTree
from torch import Tensor

from hawor_pipeline.core import metrics
from hawor_pipeline.core.alignment import aligned_difference


def hands(frames: int, points: int, noise: float) -> tuple[Tensor, Tensor]:
    target = torch.randn(frames, points, 3) * 0.05 + torch.tensor([0.1, -0.2, 0.7])
    return target + torch.randn(frames, points, 3) * noise + torch.tensor([0.0, 0.0, 0.02]), target


def aligned(pred: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Align as FreiHAND does with scipy, with its epsilons and without a reflection test."""
    t_truth, t_pred = truth.mean(0), pred.mean(0)
    s_truth, s_pred = np.linalg.norm(truth - t_truth) + 1e-8, np.linalg.norm(pred - t_pred) + 1e-8
    rotation, scale = orthogonal_procrustes((truth - t_truth) / s_truth, (pred - t_pred) / s_pred)
    return (pred - t_pred) / s_pred @ rotation.T * scale * s_truth + t_truth


def auc(errors: np.ndarray) -> float:
    thresholds = np.linspace(0, 0.05, 100)
    return float(np.trapezoid([(errors <= t).mean() for t in thresholds], thresholds) / 0.05)


def f_score(pred: np.ndarray, truth: np.ndarray, limit: float) -> float:
    forward, backward = cKDTree(truth).query(pred)[0] < limit, cKDTree(pred).query(truth)[0] < limit
    both = forward.mean() + backward.mean()
    return 2 * forward.mean() * backward.mean() / both if both else 0.0


def second_difference(x: Tensor, fps: float) -> np.ndarray:
    a = x.double().numpy()
    return (a[2:] - 2 * a[1:-1] + a[:-2]) * fps**2


def test_freihand_and_ho3d_errors_equal_their_scripts() -> None:
    (joints, true_joints), (surface, true_surface) = hands(6, 21, 0.01), hands(6, 778, 0.006)
    joints[1] *= torch.tensor([-1.0, 1, 1])  # a mirrored hand costs nothing there
    moved = true_surface + aligned_difference(surface, true_surface, allow_reflection=True)
    after = metrics.pa_errors(joints, true_joints, allow_reflection=True)
    found = {
        "mpjpe": metrics.mpjpe(joints, true_joints, root=None),
        "pa_mpjpe": metrics.pa_mpjpe(joints, true_joints, allow_reflection=True),
        "pa_auc": metrics.auc_within(after),
        "pa_mpvpe": metrics.pa_mpvpe(surface, true_surface, allow_reflection=True),
        "f_score": metrics.f_score(surface, true_surface, [0.005, 0.015]),
        "pa_f_score": metrics.f_score(moved, true_surface, [0.005, 0.015]),
    }
    p, t, v, w = (x.double().numpy() for x in (joints, true_joints, surface, true_surface))
    for i in range(6):
        error = np.linalg.norm(aligned(p[i], t[i]) - t[i], axis=1)
        assert found["mpjpe"][i].item() == pytest.approx(np.linalg.norm(p[i] - t[i], axis=1).mean(), abs=1e-6)
        assert found["pa_mpjpe"][i].item() == pytest.approx(error.mean(), abs=1e-6)
        assert found["pa_auc"][i].item() == pytest.approx(auc(error), abs=2e-6)
        near = aligned(v[i], w[i])
        assert found["pa_mpvpe"][i].item() == pytest.approx(np.linalg.norm(near - w[i], axis=1).mean(), abs=1e-6)
        for column, limit in enumerate((0.005, 0.015)):
            assert found["f_score"][i, column].item() == pytest.approx(f_score(v[i], w[i], limit), abs=2e-3)
            assert found["pa_f_score"][i, column].item() == pytest.approx(f_score(near, w[i], limit), abs=2e-3)


def test_freihands_area_per_joint_is_the_mean_of_the_samples_where_every_joint_is_labelled() -> None:
    errors = torch.rand(100, 21) * 0.08
    per_joint = [auc(errors[:, joint].double().numpy()) for joint in range(21)]
    assert metrics.auc_within(errors).double().mean().item() == pytest.approx(np.mean(per_joint), abs=1e-6)


@pytest.mark.agreement(
    subject="st_mpjpe",
    publication="HO-3D, align_sc_tr",
    compared="float64 loop over samples",
    tolerance=1e-06,
    unit="m",
)
def test_ho3d_gives_the_true_size_and_wrist(tolerance: float) -> None:
    pred, target = hands(5, 21, 0.01)
    for p, t, found in zip(pred.double().numpy(), target.double().numpy(), metrics.st_mpjpe(pred, target), strict=True):
        scale = np.linalg.norm(t[9] - t[0]) / np.linalg.norm(p[9] - p[0])
        error = np.linalg.norm((p - p[0]) * scale + t[0] - t, axis=1)
        assert found.item() == pytest.approx(error.mean(), abs=tolerance)


@pytest.mark.agreement(
    subject="contact_deviation, success_rate, mrrpe",
    publication="ARCTIC, eval_modules.py",
    compared="loops over frames with scipy's k-d tree",
    tolerance=1e-06,
    unit="m",
)
def test_arctics_relations_equal_loops_over_frames(tolerance: float) -> None:
    thing, hand = torch.rand(8, 80, 3) * 0.08, torch.rand(8, 778, 3) + 1
    hand[:, :40] = thing[:, :40] + 0.001
    pred_thing, pred_hand = (x + torch.randn_like(x) * 0.01 for x in (thing, hand))
    root, pred_root = thing[:, :30].mean(1), pred_thing[:, :30].mean(1)
    deviation = metrics.contact_deviation(pred_hand, pred_thing, hand, thing)
    success = metrics.success_rate(
        pred_thing, thing, torch.tensor(0.3), pred_root=pred_root, target_root=root, share=0.05
    )
    between = metrics.mrrpe(pred_root, pred_hand[:, 0], root, hand[:, 0])
    for frame in range(8):
        distance, nearest = cKDTree(thing[frame]).query(hand[frame])
        gap = np.linalg.norm(pred_hand[frame].numpy() - pred_thing[frame].numpy()[nearest], axis=1)
        assert deviation[frame].item() == pytest.approx(gap[distance <= 0.003].mean(), abs=tolerance)
        p, t = ((x[frame] - r[frame]).double().numpy() for x, r in ((pred_thing, pred_root), (thing, root)))
        assert success[frame].item() == pytest.approx((np.linalg.norm(p - t, axis=1) < 0.05 * 0.3).mean())
        ours, theirs = (pred_root - pred_hand[:, 0])[frame].double(), (root - hand[:, 0])[frame].double()
        assert between[frame].item() == pytest.approx(np.linalg.norm(ours - theirs), abs=tolerance)


def test_arctic_and_hot3d_accelerations_are_not_relative_to_a_root() -> None:
    target = torch.cumsum(torch.randn(30, 1, 3) * 0.01, 0) + torch.randn(21, 3) * 0.05
    pred = target * 1.1 + torch.randn_like(target) * 0.002
    found = metrics.acceleration_error(pred, target, fps=30.0, root=None)
    assert found.isnan().nonzero().flatten().tolist() == [0, 29]
    expected = np.linalg.norm(second_difference(pred, 30.0) - second_difference(target, 30.0), axis=-1).mean(-1)
    np.testing.assert_allclose(found[1:-1], expected, rtol=1e-4)


def test_hot3d_aligns_chunks_better_as_a_whole_and_divides_the_path_error_by_its_length() -> None:
    target = torch.cumsum(torch.randn(130, 1, 3) * 0.01, 0) + torch.randn(21, 3) * 0.05
    pred = target * 1.1 + torch.randn_like(target) * 0.002
    first, whole = metrics.w_mpjpe(pred, target), metrics.wa_mpjpe(pred, target)
    assert first.shape == whole.shape == (130,) and whole.mean() < first.mean()
    share = metrics.root_trajectory_error(pred[:, 0], target[:, 0])
    length = np.linalg.norm(np.diff(target[:, 0].numpy(), axis=0), axis=1).sum()
    error = share.numpy() * length
    assert 0 < error.mean() < 0.1 * np.abs(target[:, 0].numpy()).max() + 0.01


def test_hint_averages_joints_and_not_samples() -> None:
    target = torch.rand(30, 21, 2) * 100
    pred, size = target + torch.randn(30, 21, 2) * 8, torch.rand(30) * 50 + 80
    labelled = torch.rand(30, 21) > 0.5
    labelled[:20, 3] = False
    for limit in (0.05, 0.1, 0.15):
        for joint in (0, 3, 20):
            rows = labelled[:, joint].nonzero().flatten().tolist()
            hits = [float((pred[i, joint] - target[i, joint]).norm() / size[i]) <= limit for i in rows]
            one = metrics.pck_box(pred[:, [joint]], target[:, [joint]], size, limit, mask=labelled[:, [joint]])
            assert one.nanmean().item() == pytest.approx(np.mean(hits))
            assert int(one.isfinite().sum()) == len(rows)
