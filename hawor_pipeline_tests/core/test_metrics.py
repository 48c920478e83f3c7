"""Metrics against scipy, torchmetrics and plain float64 loops; on random, masked, mirrored and degenerate inputs."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes
from scipy.optimize import lsq_linear
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from torch import Tensor

from hawor_pipeline.core import metrics
from hawor_pipeline.core.alignment import apply_similarity, procrustes
from hawor_pipeline.core.mesh import mesh_topology


def clouds(*batch: int, points: int = 21, noise: float = 0.01) -> tuple[Tensor, Tensor]:
    target = torch.randn(*batch, points, 3) * 0.05 + torch.tensor([0.1, -0.2, 0.7])
    return target + torch.randn(*batch, points, 3) * noise, target


def twin_similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Align one cloud in float64 by Umeyama's closed form as in the paper; return the aligned cloud."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    mx, my = x.mean(0), y.mean(0)
    covariance = (y - my).T @ (x - mx) / len(x)
    u, d, vt = np.linalg.svd(covariance)
    sign = np.diag([1, 1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    scale = np.trace(np.diag(d) @ sign) / ((x - mx) ** 2).sum() * len(x)
    return scale * (x - mx) @ (u @ sign @ vt).T + my


def freihand_align(pred: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Align as FreiHAND's script: norm-scaled clouds, scipy's orthogonal Procrustes, reflections included."""
    t_truth, t_pred = truth.mean(0), pred.mean(0)
    s_truth, s_pred = np.linalg.norm(truth - t_truth) + 1e-8, np.linalg.norm(pred - t_pred) + 1e-8
    rotation, scale = orthogonal_procrustes((truth - t_truth) / s_truth, (pred - t_pred) / s_pred)
    return (pred - t_pred) / s_pred @ rotation.T * scale * s_truth + t_truth


def test_mpjpe_is_root_relative_by_default() -> None:
    p, t = clouds(4, 3)
    a, b = p.double().numpy(), t.double().numpy()
    relative = np.linalg.norm((a - a[..., :1, :]) - (b - b[..., :1, :]), axis=-1).mean(-1)
    np.testing.assert_allclose(metrics.mpjpe(p, t), relative, atol=1e-7)
    np.testing.assert_allclose(metrics.mpjpe(p, t, root=None), np.linalg.norm(a - b, axis=-1).mean(-1), atol=1e-7)
    nine = np.linalg.norm((a - a[..., 9:10, :]) - (b - b[..., 9:10, :]), axis=-1).mean(-1)
    np.testing.assert_allclose(metrics.mpjpe(p, t, root=9), nine, atol=1e-7)


def test_mpvpe_centres_on_the_given_root() -> None:
    p, t = clouds(3, points=778)
    root_p, root_t = torch.randn(3, 3), torch.randn(3, 3)
    a, b = (p - root_p[:, None]).numpy(), (t - root_t[:, None]).numpy()
    expected = np.linalg.norm(a - b, axis=-1).mean(-1)
    np.testing.assert_allclose(metrics.mpvpe(p, t, pred_root=root_p, target_root=root_t), expected, rtol=1e-5)
    assert metrics.mpvpe(t + 1, t).max() < 1e-6 < metrics.mpvpe(t + 1, t, center=False).min()
    with pytest.raises(ValueError, match="found one root"):
        metrics.mpvpe(p, t, pred_root=root_p)


@pytest.mark.parametrize("points", [3, 21, 778])
@pytest.mark.agreement(
    subject="pa_mpjpe, pa_mpvpe",
    publication="Umeyama 1991",
    compared="float64 loop with a singular value decomposition",
    tolerance=2e-07,
    unit="m",
)
def test_pa_mpjpe_equals_umeyama(points: int, tolerance: float) -> None:
    p, t = clouds(40, points=points, noise=0.05)
    expected = [
        np.linalg.norm(twin_similarity(a, b) - b, axis=-1).mean() for a, b in zip(p.numpy(), t.numpy(), strict=True)
    ]
    np.testing.assert_allclose(metrics.pa_mpjpe(p, t), expected, atol=tolerance)
    np.testing.assert_allclose(metrics.pa_mpvpe(p.double(), t.double()), expected, atol=1e-12)


def test_pa_mpjpe_with_reflection_equals_freihand() -> None:
    p, t = clouds(20, noise=0.03)
    p[::2] *= torch.tensor([-1.0, 1, 1])
    expected = [
        np.linalg.norm(freihand_align(a.astype(float), b.astype(float)) - b, axis=-1).mean()
        for a, b in zip(p.numpy(), t.numpy(), strict=True)
    ]
    np.testing.assert_allclose(metrics.pa_mpjpe(p, t, allow_reflection=True), expected, atol=2e-7)


def test_a_mirrored_hand_is_wrong_unless_reflections_are_allowed() -> None:
    _, t = clouds(5)
    mirrored = t * torch.tensor([-1.0, 1, 1])
    assert metrics.pa_mpjpe(mirrored, t).min() > 0.005
    assert metrics.pa_mpjpe(mirrored, t, allow_reflection=True).max() < 1e-6


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.1, 10), st.lists(st.floats(-3, 3), min_size=3, max_size=3))
def test_similarities_cost_nothing_after_alignment(seed: int, scale: float, shift: list[float]) -> None:
    generator = torch.Generator().manual_seed(seed)
    cloud = torch.randn(21, 3, generator=generator, dtype=torch.float64)
    turn = torch.from_numpy(Rotation.random(random_state=seed).as_matrix())
    moved = scale * cloud @ turn.mT + torch.tensor(shift, dtype=torch.float64)
    s, r, t = procrustes(cloud, moved)
    torch.testing.assert_close(s, torch.tensor(scale, dtype=torch.float64))
    torch.testing.assert_close(r, turn)
    torch.testing.assert_close(apply_similarity(cloud, s, r, t), moved)
    assert metrics.pa_mpjpe(moved, cloud) < 1e-9


@pytest.mark.parametrize("case", ["zero", "point", "line", "plane", "both zero"])
def test_degenerate_clouds_give_finite_values(case: str) -> None:
    _, t = clouds(3)
    line = torch.linspace(-1, 1, 21)[:, None] * torch.tensor([1.0, 2, 3])
    p = {
        "zero": torch.zeros_like(t),
        "both zero": torch.zeros_like(t),
        "point": torch.full_like(t, 0.3),
        "line": line.expand_as(t),
        "plane": t * torch.tensor([1.0, 1, 0]),
    }[case]
    t = torch.zeros_like(t) if case == "both zero" else t
    s, r, _ = procrustes(p, t)
    assert s.isfinite().all()
    torch.testing.assert_close(r @ r.mT, torch.eye(3).expand(3, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(r), torch.ones(3), atol=1e-5, rtol=0)
    value = metrics.pa_mpjpe(p, t)
    assert value.isfinite().all()
    if case in ("zero", "point"):
        spread = torch.linalg.vector_norm(t - t.mean(1, keepdim=True), dim=-1).mean(-1)
        torch.testing.assert_close(value, spread)


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.1, 10.0])
def test_many_clouds_at_once_equal_one_by_one(noise: float) -> None:
    """Batches run in chunks, and degenerate clouds go to the decomposition: other samples must not change."""
    p, t = clouds(1200, noise=noise)
    p[:5], t[5:10], p[10:15] = 0, 0, t[10:15] * torch.tensor([-1.0, 1, 1])
    p[15:20] = torch.linspace(-1, 1, 21)[:, None] * torch.tensor([1.0, 2, 3])
    p[20:25] *= torch.tensor([1.0, 1, 0])
    together = metrics.pa_errors(p, t)
    pieces = torch.cat([metrics.pa_errors(a, b) for a, b in zip(p.split(100), t.split(100), strict=True)])
    line = torch.zeros(1200, dtype=torch.bool)
    line[15:20] = True  # a line leaves the turn about itself open: only the residual of the fit is determined
    assert (together - pieces)[~line].abs().max() < 2e-7
    squares = (together[line].square().sum(1), pieces[line].square().sum(1))
    torch.testing.assert_close(*squares, rtol=1e-4, atol=1e-9)
    s, r, _ = procrustes(p.double(), t.double())
    torch.testing.assert_close(r @ r.mT, torch.eye(3).double().expand(1200, 3, 3), atol=1e-9, rtol=0)
    assert (torch.linalg.det(r) > 0).all() and s.isfinite().all()


@pytest.mark.parametrize("allow_reflection", [False, True])
def test_closed_form_is_optimal_from_clear_to_degenerate(allow_reflection: bool) -> None:
    """Every mix of singular values, equal and vanishing ones and both signs included, against the decomposition."""
    sizes = torch.tensor([1.0, 1 - 1e-9, 0.999, 0.7, 0.1, 1e-2, 1e-3, 1e-6, 1e-9, 0.0], dtype=torch.float64)
    second, third = (x.flatten() for x in torch.meshgrid(sizes, torch.cat((sizes, -sizes)), indexing="ij"))
    keep = third.abs() <= second
    singular = torch.stack((torch.ones_like(second), second, third), -1)[keep]
    count = len(singular)
    left, right = (torch.from_numpy(Rotation.random(count, random_state=seed).as_matrix()) for seed in (1, 2))
    covariance = left @ torch.diag_embed(singular) @ right
    corners = torch.cat((torch.eye(3), -torch.eye(3))).double() / 2**0.5  # their own covariance is the identity
    scale, rotation, _ = procrustes(
        corners.expand(count, 6, 3), corners @ covariance, allow_reflection=allow_reflection
    )
    best = singular.abs().sum(1) if allow_reflection else singular.sum(1)
    torch.testing.assert_close((rotation @ covariance).diagonal(dim1=1, dim2=2).sum(1), best, atol=1e-11, rtol=0)
    torch.testing.assert_close(scale, best / 3, atol=1e-11, rtol=0)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).double().expand(count, 3, 3), atol=1e-9, rtol=0)
    if not allow_reflection:
        assert (torch.linalg.det(rotation) > 0.999999).all()


def test_tiny_and_huge_clouds_align_alike() -> None:
    p, t = (x.double() for x in clouds(5))
    _, expected, _ = procrustes(p, t)
    for size in (1e-6, 1e6):
        _, rotation, _ = procrustes(p * size, t)
        torch.testing.assert_close(rotation, expected, atol=1e-9, rtol=0)
        torch.testing.assert_close(metrics.pa_mpjpe(p * size, t), metrics.pa_mpjpe(p, t), atol=1e-12, rtol=0)


def test_masks_equal_subsets_and_hide_nan() -> None:
    p, t = clouds(2)
    mask = torch.arange(21) < 9
    p[:, 9:] = torch.nan
    kept_p, kept_t = p[:, :9], t[:, :9]
    wide = mask.expand(2, 21)
    torch.testing.assert_close(metrics.mpjpe(p, t, mask=wide), metrics.mpjpe(kept_p, kept_t))
    torch.testing.assert_close(metrics.pa_mpjpe(p, t, mask=wide), metrics.pa_mpjpe(kept_p, kept_t))
    torch.testing.assert_close(metrics.pck(p, t, [0.01, 0.02], mask=wide), metrics.pck(kept_p, kept_t, [0.01, 0.02]))
    torch.testing.assert_close(metrics.pck_auc(p, t, mask=wide), metrics.pck_auc(kept_p, kept_t))
    empty = torch.zeros(2, 21, dtype=torch.bool)
    for value in (
        metrics.mpjpe(p, t, mask=empty),
        metrics.pck(p, t, 0.01, mask=empty),
        metrics.pck_auc(p, t, mask=empty),
    ):
        assert value.isnan().all(), "no joints, no value"


def test_pck_counts_the_threshold_itself_unless_strict() -> None:
    p, t = torch.tensor([[0.0, 5.0], [0.0, 10.0], [0.0, 11.0]]), torch.zeros(3, 2)
    assert metrics.pck(p, t, 10.0).item() == pytest.approx(2 / 3)
    assert metrics.pck(p, t, 10.0, strict=True).item() == pytest.approx(1 / 3)
    assert metrics.pck(p, t, [5.0, 10.0, 15.0]).tolist() == pytest.approx([1 / 3, 2 / 3, 1])


@pytest.mark.agreement(
    subject="pck_auc",
    publication="FreiHAND, EvalUtil.get_measures",
    compared="trapezoid of the curve by numpy",
    tolerance=1e-06,
    unit="share",
)
def test_pck_auc_equals_the_trapezoid_of_the_curve(tolerance: float) -> None:
    p, t = clouds(6, noise=0.02)
    p[0] = t[0]
    p[1] = t[1] + 1
    thresholds = np.linspace(0, 0.05, 100)
    errors = np.linalg.norm(p.numpy() - t.numpy(), axis=-1)
    curve = (errors[:, None] <= thresholds[:, None].astype(np.float32)).mean(-1)
    expected = np.trapezoid(curve, thresholds) / 0.05
    np.testing.assert_allclose(metrics.pck_auc(p, t), expected, atol=tolerance)
    assert expected[0] == 1 and expected[1] == 0
    coarse = np.linspace(0, 0.03, 20)
    curve = (errors[:, None] <= coarse[:, None].astype(np.float32)).mean(-1)
    found = metrics.pck_auc(p, t, max_threshold=0.03, steps=20)
    np.testing.assert_allclose(found, np.trapezoid(curve, coarse) / 0.03, atol=tolerance)


@pytest.mark.agreement(
    subject="f_score",
    publication="Knapitsch et al. 2017, as in FreiHAND's eval.py",
    compared="search in scipy's k-d tree",
    tolerance=1e-06,
    unit="share",
)
def test_f_score_and_chamfer_equal_a_tree_search(tolerance: float) -> None:
    p, t = clouds(5, points=200, noise=0.006)
    p[4] = t[4] + 0.5
    for index in range(5):
        a, b = p[index].numpy(), t[index].numpy()
        forward, backward = cKDTree(b).query(a)[0], cKDTree(a).query(b)[0]
        for limit in (0.005, 0.015):
            precision, recall = (forward < limit).mean(), (backward < limit).mean()
            expected = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
            assert metrics.f_score(p, t, limit)[index].item() == pytest.approx(expected, abs=tolerance)
            assert metrics.f_score(p, t, [0.005, 0.015])[index, int(limit == 0.015)].item() == pytest.approx(
                expected, abs=tolerance
            )
        assert metrics.chamfer_distance(p, t)[index].item() == pytest.approx(forward.mean() + backward.mean(), rel=1e-5)
        squared = (forward**2).mean() + (backward**2).mean()
        assert metrics.chamfer_distance(p, t, squared=True)[index].item() == pytest.approx(squared, rel=1e-5)


def test_surface_metrics_take_clouds_of_different_size_and_give_nan_for_nan() -> None:
    p, t = torch.rand(2, 30, 3), torch.rand(2, 50, 3)
    p[1, 0] = torch.nan
    assert metrics.f_score(p, t, 0.1).isnan().tolist() == [False, True]
    assert metrics.chamfer_distance(p, t).isnan().tolist() == [False, True]
    assert metrics.f_score(t, t, 0.005).tolist() == [1, 1]


def test_point_to_surface_equals_a_constrained_least_squares_search() -> None:
    points, mesh = torch.rand(6, 3, dtype=torch.float64), torch.rand(5, 3, dtype=torch.float64)
    faces = torch.tensor([[0, 1, 2], [2, 3, 4], [1, 1, 3]])  # the last is only a line
    found = metrics.point_to_surface(points, mesh, faces)
    for point, value in zip(points.numpy(), found, strict=True):
        best = math.inf
        for a, b, c in mesh[faces].numpy():
            inside = lsq_linear(np.stack((b - a, c - a), 1), point - a, bounds=(0, 1), tol=1e-14).x
            opposite = lsq_linear((c - b)[:, None], point - b, bounds=(0, 1), tol=1e-14).x[0]
            nearest = b + opposite * (c - b) if inside.sum() > 1 else a + inside[0] * (b - a) + inside[1] * (c - a)
            best = min(best, float(np.linalg.norm(nearest - point)))
        assert value.item() == pytest.approx(best, abs=1e-6)
    assert (
        found <= metrics.point_errors(points[:, None].expand(-1, 5, -1), mesh.expand(6, -1, -1)).amin(-1) + 1e-12
    ).all()


def test_edge_and_normal_errors_equal_loops() -> None:
    p, t = torch.rand(2, 6, 3, dtype=torch.float64), torch.rand(2, 6, 3, dtype=torch.float64)
    faces = torch.tensor([[0, 1, 2], [2, 3, 4], [4, 5, 0]])
    edges = mesh_topology(faces, 6).edges
    for index in range(2):
        a, b = p[index].numpy(), t[index].numpy()
        lengths = [abs(np.linalg.norm(a[i] - a[j]) - np.linalg.norm(b[i] - b[j])) for i, j in edges.tolist()]
        assert metrics.edge_length_error(p, t, edges)[index].item() == pytest.approx(np.mean(lengths))
        cosines = []
        for i, j, k in faces.tolist():
            n, m = np.cross(a[j] - a[i], a[k] - a[i]), np.cross(b[j] - b[i], b[k] - b[i])
            cosines.append(n @ m / np.linalg.norm(n) / np.linalg.norm(m))
        assert metrics.normal_consistency(p, t, faces)[index].item() == pytest.approx(np.mean(np.abs(cosines)))
        assert metrics.normal_consistency(p, t, faces, signed=True)[index].item() == pytest.approx(np.mean(cosines))


def test_parameter_errors_equal_scipy() -> None:
    a, b = Rotation.random(4 * 16, random_state=0), Rotation.random(4 * 16, random_state=1)
    angle = (a.inv() * b).magnitude().reshape(4, 16)
    p, t = (torch.from_numpy(r.as_matrix()).reshape(4, 16, 3, 3) for r in (a, b))
    np.testing.assert_allclose(metrics.pose_angle_error(p, t), angle[:, 1:].mean(1), atol=1e-12)
    np.testing.assert_allclose(metrics.global_orient_error(p, t), angle[:, 0], atol=1e-12)
    first, second, directions = torch.randn(4, 10), torch.randn(4, 10), torch.randn(778, 3, 10) * 0.01
    np.testing.assert_allclose(metrics.betas_error(first, second), np.linalg.norm(first - second, axis=1), rtol=1e-5)
    moved = directions.numpy() @ (first - second).numpy().T  # (778, 3, 4)
    expected = np.linalg.norm(moved, axis=1).mean(0)
    np.testing.assert_allclose(metrics.shape_vertex_error(first, second, directions), expected, rtol=1e-5)
    np.testing.assert_allclose(
        metrics.translation_error(first[:, :3], second[:, :3]),
        np.linalg.norm((first - second)[:, :3], axis=1),
        rtol=1e-5,
    )


@pytest.mark.agreement(
    subject="acceleration_error",
    publication="ARCTIC, compute_error_accel",
    compared="float64 loop over frames",
    tolerance=0.0001,
    unit="relative",
)
def test_acceleration_error_equals_a_loop_and_needs_three_frames(tolerance: float) -> None:
    p, t = clouds(2, 6)
    valid = torch.ones(2, 6, dtype=torch.bool)
    valid[1, 3] = False
    found = metrics.acceleration_error(p, t, fps=25.0, valid=valid)
    a, b = (x.double().numpy() - x.double().numpy()[..., :1, :] for x in (p, t))
    for clip in range(2):
        for frame in range(6):
            if frame in (0, 5) or not valid[clip, frame - 1 : frame + 2].all():
                assert found[clip, frame].isnan()
                continue
            second = [x[clip, frame + 1] - 2 * x[clip, frame] + x[clip, frame - 1] for x in (a, b)]
            expected = np.linalg.norm(second[0] - second[1], axis=-1).mean() * 25**2
            assert found[clip, frame].item() == pytest.approx(expected, rel=tolerance)
    one = torch.zeros(3, 1, 3)
    one[1] = torch.tensor([0.001, 0, 0])
    shaken = metrics.acceleration_error(one, torch.zeros(3, 1, 3), root=None)
    assert shaken[1].item() == pytest.approx(2 * 0.9), "1 mm per frame^2 at 30 fps is 0.9 m/s^2"


def test_jitter_is_the_third_difference_and_zero_for_smooth_motion() -> None:
    time = torch.arange(8, dtype=torch.float64)[:, None, None]
    assert metrics.jitter((0.3 * time**2 + time).expand(8, 21, 3))[1:-2].max() < 1e-9
    cubic = metrics.jitter(time**3 * torch.tensor([1.0, 0, 0]).double(), fps=10.0)
    assert cubic[1:-2].tolist() == pytest.approx([6 * 10**3] * 5)
    assert cubic.isnan().tolist() == [True] + [False] * 5 + [True] * 2
    assert metrics.jitter(torch.zeros(3, 21, 3)).isnan().all()


@pytest.mark.parametrize("align_frames", [2, None])
@pytest.mark.agreement(
    subject="w_mpjpe, wa_mpjpe",
    publication="HaWoR, first_align_joints and global_align_joints",
    compared="float64 fit per chunk",
    tolerance=1e-05,
    unit="m",
)
def test_world_mpjpe_equals_umeyama_per_chunk(align_frames: int | None, tolerance: float) -> None:
    p, t = clouds(25, noise=0.02)
    found = metrics.world_mpjpe(p, t, align_frames=align_frames, chunk=10)
    expected = []
    for start in (0, 10, 20):
        a, b = p[start : start + 10].numpy().reshape(-1, 3), t[start : start + 10].numpy().reshape(-1, 3)
        used = slice(None, None if align_frames is None else 21 * align_frames)
        # extend the fit of the used points to all by fitting an affine map, which a similarity is
        fitted = twin_similarity(a[used], b[used])
        ones = np.ones((len(a), 1))
        matrix = np.linalg.lstsq(np.hstack((a, ones))[used], fitted, rcond=None)[0]
        aligned = np.hstack((a, ones)) @ matrix
        expected.extend(np.linalg.norm(aligned - b, axis=-1).reshape(-1, 21).mean(1))
    np.testing.assert_allclose(found, expected, atol=tolerance)


def test_root_trajectory_error_is_rigid_and_a_share_of_the_length() -> None:
    path = torch.cumsum(torch.rand(30, 3, dtype=torch.float64), 0)
    turn = torch.from_numpy(Rotation.random(random_state=3).as_matrix())
    assert metrics.root_trajectory_error(path @ turn.mT + 4, path).max() < 1e-12
    assert metrics.root_trajectory_error(path * 2, path).max() > 0.1, "the scale is not fitted"
    assert metrics.root_trajectory_error(path, torch.zeros_like(path)).isnan().all()


def test_mrrpe_ignores_a_common_shift() -> None:
    left, right = torch.randn(4, 3), torch.randn(4, 3)
    assert metrics.mrrpe(left + 1, right + 1, left, right).max() < 1e-6
    moved = metrics.mrrpe(
        left + torch.tensor([0.03, 0.04, 0]), right, left, right, mask=torch.tensor([1, 1, 0, 1]).bool()
    )
    assert moved[[0, 1, 3]].tolist() == pytest.approx([0.05] * 3, rel=1e-4) and moved[2].isnan()


def test_contact_deviation_equals_a_loop() -> None:
    hand, thing = torch.rand(3, 40, 3) * 0.05, torch.rand(3, 60, 3) * 0.05
    hand[2] += 1  # touches nothing
    pred_hand, pred_thing = hand + torch.randn(3, 40, 3) * 0.01, thing + torch.randn(3, 60, 3) * 0.01
    found = metrics.contact_deviation(pred_hand, pred_thing, hand, thing)
    for index in range(2):
        distance, nearest = cKDTree(thing[index]).query(hand[index])
        touching = distance <= 0.003
        gap = np.linalg.norm(pred_hand[index].numpy() - pred_thing[index].numpy()[nearest], axis=-1)
        assert touching.any() and found[index].item() == pytest.approx(gap[touching].mean(), rel=1e-4)
    assert found[2].isnan()


def test_motion_deviation_equals_a_loop_over_stretches() -> None:
    generator = torch.Generator().manual_seed(0)
    contact = torch.rand(60, 8, generator=generator) < 0.9
    contact[:, 0] = True  # from the first frame to the last
    hand, thing = torch.randn(60, 8, 3, generator=generator), torch.randn(60, 8, 3, generator=generator)
    windows, values = [], []
    for pair in range(8):
        start = None
        for frame in range(61):
            touching = frame < 60 and bool(contact[frame, pair])
            if touching and start is None:
                start = frame
            if not touching and start is not None:
                if frame - start >= 5:
                    windows.append((pair, start, frame))
                    relative = (hand - thing)[start:frame, pair].numpy()
                    values.append(np.linalg.norm(np.diff(relative, axis=0), axis=-1).mean())
                start = None
    assert metrics.contact_windows(contact, 5) == windows and (0, 0, 60) in windows
    assert metrics.motion_deviation(hand, thing, contact, min_frames=5).item() == pytest.approx(
        np.mean(values), rel=1e-5
    )
    assert metrics.motion_deviation(hand, thing, torch.zeros_like(contact)).isnan()


def test_boxes_and_detection() -> None:
    joints = torch.tensor([[[10.0, 20], [30, 60]], [[0, 0], [1, 1]]])
    assert metrics.joint_box(joints).tolist() == [[10, 20, 30, 60], [0, 0, 1, 1]]
    mask = torch.tensor([[True, False], [False, False]])
    box = metrics.joint_box(joints, mask)
    assert box[0].tolist() == [10, 20, 10, 20] and box[1].isnan().all()
    shifted = joints + torch.tensor([5.0, 0])
    # 15 of 25 wide overlap: 0.6; the unit box is missed
    assert metrics.box_iou(metrics.joint_box(joints), metrics.joint_box(shifted)).tolist() == pytest.approx([0.6, 0])
    assert metrics.detected(shifted, joints).tolist() == [True, False]
    assert metrics.detected(joints, joints, torch.tensor([True, False])).tolist() == [True, False]
    assert metrics.detected(joints, joints * torch.nan).tolist() == [False, False]


def test_detections_match_greedily_once_and_by_side() -> None:
    truth = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10]])
    boxes = torch.tensor([[0.0, 0, 10, 9], [0, 0, 10, 10], [20, 0, 30, 10], [50, 0, 60, 10]])
    sides = torch.tensor([True, True, False, True])
    hits = metrics.match_detections(boxes, torch.tensor([0.5, 0.9, 0.8, 0.7]), sides, truth, torch.tensor([True, True]))
    assert hits.tolist() == [False, True, False, False]
    both = metrics.match_detections(
        boxes, torch.tensor([0.5, 0.9, 0.8, 0.7]), sides, truth, torch.tensor([True, False])
    )
    assert both.tolist() == [False, True, True, False]
    assert metrics.match_detections(boxes[:0], sides[:0].float(), sides[:0], truth, sides[:2]).tolist() == []


def test_binned_mean_equals_numpy_histograms() -> None:
    values, key = torch.rand(500, dtype=torch.float64), torch.rand(500, dtype=torch.float64)
    key[0], values[1] = 1.0, torch.nan
    edges = [0.0, 0.25, 0.5, 0.75, 1.0]
    mean, count = metrics.binned_mean(values, key, edges)
    keep = ~values.isnan().numpy()
    expected, _ = np.histogram(key.numpy()[keep], edges)
    sums, _ = np.histogram(key.numpy()[keep], edges, weights=values.numpy()[keep])
    assert count.tolist() == expected.tolist()
    np.testing.assert_allclose(mean, sums / expected)
    assert metrics.binned_mean(values, key * 0.1, edges)[0][1:].isnan().all()


def test_occlusion_robustness_is_a_ratio_of_means() -> None:
    errors, hidden = torch.tensor([4.0, 6.0, 1.0, 3.0, 99.0, torch.nan]), torch.tensor([0.6, 0.9, 0.0, 0.05, 0.3, 0.9])
    ratio, much, little = metrics.occlusion_robustness(errors, hidden)
    assert ratio.item() == pytest.approx(2.5) and (much, little) == (2, 2)
    assert metrics.occlusion_robustness(errors, torch.zeros(6))[0].isnan()


def test_calibration_error_equals_torchmetrics() -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    confidence = torch.rand(400)
    correct = torch.rand(400) < confidence**2
    expected = functional.binary_calibration_error(confidence, correct.int(), n_bins=15, norm="l1")
    assert metrics.calibration_error(confidence, correct).item() == pytest.approx(expected.item(), abs=1e-6)


def test_metrics_never_change_their_inputs() -> None:
    p, t = clouds(3, 4)
    before = p.clone(), t.clone()
    metrics.mpjpe(p, t), metrics.pa_mpjpe(p, t), metrics.pck_auc(p, t), metrics.f_score(p, t, 0.01)
    metrics.mpvpe(p, t), metrics.acceleration_error(p, t), metrics.chamfer_distance(p, t), metrics.jitter(p)
    assert torch.equal(p, before[0]) and torch.equal(t, before[1])


def test_truth_as_prediction_has_no_error() -> None:
    _, t = clouds(2, 5)
    for value in (
        metrics.mpjpe(t, t), metrics.pa_mpjpe(t, t), metrics.mpvpe(t, t), metrics.chamfer_distance(t, t),
        metrics.acceleration_error(t, t)[:, 1:-1], 1 - metrics.pck(t, t, 0.001), 1 - metrics.pck_auc(t, t),
        1 - metrics.f_score(t, t, 0.005),
    ):  # fmt: skip
        assert value.abs().max() < 1e-6
