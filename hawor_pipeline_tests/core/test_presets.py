"""Presets against plain float64 loops that do what each published script says, quirks included."""

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import cKDTree
from torch import Tensor

from hawor_pipeline.core.metrics.presets import PRESETS, ArcticScene


def hands(frames: int, points: int, noise: float) -> tuple[Tensor, Tensor]:
    target = torch.randn(frames, points, 3) * 0.05 + torch.tensor([0.1, -0.2, 0.7])
    return target + torch.randn(frames, points, 3) * noise + torch.tensor([0.0, 0.0, 0.02]), target


def aligned(pred: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """FreiHAND's alignment with scipy, its epsilons and its missing reflection test."""
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


def test_every_promised_preset_is_there_and_says_what_it_follows() -> None:
    assert set(PRESETS) == {"freihand", "ho3d", "arctic", "hot3d", "hint"}
    for name, preset in PRESETS.items():
        assert preset.name == name and preset.source and preset.quirks
        with pytest.raises((AttributeError, TypeError)):
            preset.name = "changed"


@pytest.mark.parametrize("name", ["freihand", "ho3d"])
def test_freihand_and_ho3d_equal_their_scripts(name: str) -> None:
    joints, surface = hands(6, 21, 0.01), hands(6, 778, 0.006)
    joints[0][1] *= torch.tensor([-1.0, 1, 1])  # a mirrored hand costs nothing there
    values = PRESETS[name].measure(*joints, *surface)
    p, t, v, w = (x.double().numpy() for x in (*joints, *surface))
    for i in range(6):
        error, after = np.linalg.norm(p[i] - t[i], axis=1), np.linalg.norm(aligned(p[i], t[i]) - t[i], axis=1)
        assert values["mpjpe"][i].item() == pytest.approx(error.mean(), abs=1e-6)
        assert values["pa_mpjpe"][i].item() == pytest.approx(after.mean(), abs=1e-6)
        assert values["pa_pck_auc"][i].item() == pytest.approx(auc(after), abs=2e-6)
        moved = aligned(v[i], w[i])
        assert values["pa_mpvpe"][i].item() == pytest.approx(np.linalg.norm(moved - w[i], axis=1).mean(), abs=1e-6)
        for limit in (5, 15):
            found = values[f"f_score_{limit}mm"][i].item(), values[f"pa_f_score_{limit}mm"][i].item()
            assert found[0] == pytest.approx(f_score(v[i], w[i], limit / 1000), abs=2e-3)
            assert found[1] == pytest.approx(f_score(moved, w[i], limit / 1000), abs=2e-3)
    reduced = PRESETS[name].reduce(values)
    assert reduced["pa_mpjpe"].item() == pytest.approx(values["pa_mpjpe"].double().mean().item())


def test_ho3d_gives_the_true_size_and_wrist() -> None:
    pred, target = hands(5, 21, 0.01)
    values = PRESETS["ho3d"].measure(pred, target)
    for p, t, found, area in zip(
        pred.double().numpy(), target.double().numpy(), values["st_mpjpe"], values["st_pck_auc"], strict=True
    ):
        scale = np.linalg.norm(t[9] - t[0]) / np.linalg.norm(p[9] - p[0])
        error = np.linalg.norm((p - p[0]) * scale + t[0] - t, axis=1)
        assert found.item() == pytest.approx(error.mean(), abs=1e-6)
        assert area.item() == pytest.approx(auc(error), abs=2e-6)


def scene(frames: int, of: ArcticScene | None = None) -> ArcticScene:
    """A true scene, or one near another."""
    thing = torch.rand(frames, 80, 3) * 0.08
    sides = ("right", "left")
    if of is None:
        vertices = {side: torch.cat((thing[:, :40] + 0.001, torch.rand(frames, 738, 3) + 1), 1) for side in sides}
        joints = {side: torch.rand(frames, 21, 3) for side in sides}
        return ArcticScene(joints, vertices, thing, thing[:, :30].mean(1), torch.rand(frames))

    def near(x: Tensor) -> Tensor:
        return x + torch.randn_like(x) * 0.01

    thing = near(of.object_vertices_m)
    return ArcticScene(
        {side: near(of.joints_m[side]) for side in sides},
        {side: near(of.vertices_m[side]) for side in sides},
        thing,
        thing[:, :30].mean(1),
        near(of.articulation),
    )


def test_arctic_equals_loops_over_frames_and_hands() -> None:
    target = scene(8)
    pred = scene(8, target)
    valid = {name: torch.ones(8, dtype=torch.bool) for name in ("right", "left", "object")}
    valid["right"][2], valid["left"][2], valid["left"][5] = False, False, False
    values = PRESETS["arctic"].measure(pred, target, valid, torch.tensor(0.3))
    for frame in range(8):
        errors, deviations = [], []
        for side in ("right", "left"):
            if not valid[side][frame]:
                continue
            p, t = (s.joints_m[side][frame].double().numpy() for s in (pred, target))
            errors.append(np.linalg.norm((p - p[0]) - (t - t[0]), axis=1).mean())
            hand, thing = target.vertices_m[side][frame].numpy(), target.object_vertices_m[frame].numpy()
            distance, nearest = cKDTree(thing).query(hand)
            gap = pred.vertices_m[side][frame].numpy() - pred.object_vertices_m[frame].numpy()[nearest]
            deviations.append(np.linalg.norm(gap, axis=1)[distance <= 0.003].mean())
        if not errors:
            assert values["mpjpe"][frame].isnan() and values["cdev"][frame].isnan()
            continue
        assert values["mpjpe"][frame].item() == pytest.approx(np.mean(errors), abs=1e-6)
        assert values["cdev"][frame].item() == pytest.approx(np.mean(deviations), abs=1e-6)
        relative = [(s.object_vertices_m[frame] - s.object_root_m[frame]).double().numpy() for s in (pred, target)]
        success = (np.linalg.norm(relative[0] - relative[1], axis=1) < 0.05 * 0.3).mean()
        assert values["success_rate"][frame].item() == pytest.approx(success)
    assert values["mrrpe_rl"].isnan().tolist() == [
        not bool(a and b) for a, b in zip(*list(valid.values())[:2], strict=True)
    ]
    roots = [(s.joints_m["left"][0, 0] - s.joints_m["right"][0, 0]).double().numpy() for s in (pred, target)]
    assert values["mrrpe_rl"][0].item() == pytest.approx(np.linalg.norm(roots[0] - roots[1]), abs=1e-6)
    gone = [frame for frame in range(8) if frame in (0, 7)]
    assert values["acc_o"].isnan().nonzero().flatten().tolist() == gone
    second = []
    for s in (pred, target):
        x = (s.object_vertices_m - s.object_root_m[:, None]).double().numpy()
        second.append((x[2:] - 2 * x[1:-1] + x[:-2]) * 30**2)
    expected = np.linalg.norm(second[0] - second[1], axis=-1).mean(-1)
    np.testing.assert_allclose(values["acc_o"][1:-1], expected, rtol=1e-4)
    reduced = PRESETS["arctic"].reduce(values)
    assert reduced["mpjpe"].item() == pytest.approx(np.nanmean(values["mpjpe"].double().numpy()))
    angle = (pred.articulation - target.articulation).abs().double().mean().item()
    assert reduced["aae"].item() == pytest.approx(angle)


def test_hot3d_drops_one_more_frame_and_speaks_of_percent() -> None:
    target = torch.cumsum(torch.randn(130, 1, 3) * 0.01, 0) + torch.randn(21, 3) * 0.05
    pred = target * 1.1 + torch.randn_like(target) * 0.002
    values = PRESETS["hot3d"].measure(pred, target)
    assert values["accel"].isnan().nonzero().flatten().tolist() == [0, 1, 128, 129]
    second = [(x[2:] - 2 * x[1:-1] + x[:-2]).double().numpy() * 900 for x in (pred, target)]
    expected = np.linalg.norm(second[0] - second[1], axis=-1).mean(-1)[1:-1]
    np.testing.assert_allclose(values["accel"][2:-2], expected, rtol=1e-4)
    length = np.linalg.norm(np.diff(target[:, 0].numpy(), axis=0), axis=1).sum()
    error = values["rte_percent"].numpy() / 100 * length
    assert 0 < error.mean() < 0.1 * np.abs(target[:, 0].numpy()).max() + 0.01
    assert values["wa_mpjpe"].mean() < values["w_mpjpe"].mean()
    assert values["w_mpjpe"].shape == values["pa_mpjpe"].shape == (130,)


def test_hint_averages_joints_and_not_samples() -> None:
    target = torch.rand(30, 21, 2) * 100
    pred, size = target + torch.randn(30, 21, 2) * 8, torch.rand(30) * 50 + 80
    confidence = torch.rand(30, 21)
    confidence[:20, 3] = 0.0  # this joint is rare: it counts as much as the others all the same
    reduced = PRESETS["hint"].reduce(PRESETS["hint"].measure(pred, target, confidence, size))
    for limit in (0.05, 0.1, 0.15):
        per_joint = []
        for joint in range(21):
            rows = [i for i in range(30) if confidence[i, joint] > 0.5]
            hits = [float((pred[i, joint] - target[i, joint]).norm() / size[i]) <= limit for i in rows]
            per_joint.append(np.mean(hits))
        assert reduced[f"pck_{limit:g}"].item() == pytest.approx(np.mean(per_joint))
    confidence[:, 4] = 0.0
    assert PRESETS["hint"].reduce(PRESETS["hint"].measure(pred, target, confidence, size))["pck_0.05"].isnan()
