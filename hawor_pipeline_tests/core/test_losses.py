"""Loss terms: values against float64 twins, gradients against differences, finite at every degenerate input."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from torch import Tensor

from hawor_pipeline.core import losses
from hawor_pipeline.core.mesh import mesh_topology

FACES = torch.tensor([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2], [3, 4, 5]])
TOPOLOGY = mesh_topology(FACES, 21)
VALID = torch.ones(2, 5, dtype=torch.bool)
FRAMES = torch.arange(5).expand(2, 5)

Term = Callable[[Tensor, Tensor, Tensor], Tensor]
# Each term of two clouds (2, 5, 21, 3) and a mask of samples (2, 5).
POINT_TERMS: dict[str, Term] = {
    "keypoints_3d": lambda p, t, m: losses.keypoints_3d_loss(p, t, m[..., None]),
    "keypoints_2d": lambda p, t, m: losses.keypoints_2d_loss(p[..., :2], t[..., :2], m[..., None]),
    "procrustes": lambda p, t, m: losses.procrustes_keypoints_loss(p, t, m[..., None]),
    "vertices": lambda p, t, m: losses.vertices_loss(p, t, m[..., None]),
    "topology": lambda p, t, m: losses.topology_loss(p, t, TOPOLOGY, m),
    "chamfer": lambda p, t, m: losses.chamfer_loss(p, t, m),
    "chamfer_squared": lambda p, t, m: losses.chamfer_loss(p, t, m, squared=True),
    "temporal": lambda p, t, m: losses.temporal_consistency_loss(p, t, m, FRAMES, window=3),
    "occlusion": lambda p, t, m: losses.occlusion_robustness_loss(p, t, torch.arange(21) % 2 == 0, m[..., None]),
    "erasing": lambda p, t, m: losses.erasing_consistency_loss(p, t, m[..., None]),
    "betas": lambda p, t, m: losses.betas_loss(p.flatten(-2), t.flatten(-2), m),
    "rotation": lambda p, t, m: losses.rotation_loss(p[..., :3, :], t[..., :3, :], m),
}


def clouds(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.randn(2, 5, 21, 3, dtype=dtype) * 0.05, torch.randn(2, 5, 21, 3, dtype=dtype) * 0.05


def twin_penalty(u: np.ndarray) -> np.ndarray:
    return 0.1 * u**2 + 0.5 * np.abs(u) + 0.4 * np.where(np.abs(u) < 1, u**2 / 2, np.abs(u) - 0.5)


def test_mixed_penalty_equals_its_formula_and_torch_huber() -> None:
    d = torch.linspace(0, 0.1, 101, dtype=torch.float64)
    np.testing.assert_allclose(losses.mixed_penalty(d, 0.01), twin_penalty(d.numpy() / 0.01), atol=1e-15)
    huber = torch.nn.functional.huber_loss(d / 0.01, torch.zeros_like(d), reduction="none")
    parts = 0.1 * (d / 0.01) ** 2 + 0.5 * d / 0.01 + 0.4 * huber
    torch.testing.assert_close(losses.mixed_penalty(d, 0.01), parts)


def test_keypoint_terms_equal_their_twins() -> None:
    p, t = clouds(torch.float64)
    mask = torch.rand(2, 5, 21) < 0.6
    a, b, m = p.numpy(), t.numpy(), mask.numpy()
    error = np.linalg.norm((a - a[..., :1, :]) - (b - b[..., :1, :]), axis=-1)
    assert losses.keypoints_3d_loss(p, t, mask).item() == pytest.approx(twin_penalty(error / 0.01)[m].mean())
    flat = np.linalg.norm(a[..., :2] - b[..., :2], axis=-1)
    assert losses.keypoints_2d_loss(p[..., :2], t[..., :2], mask).item() == pytest.approx(
        twin_penalty(flat / 0.05)[m].mean()
    )
    visible = torch.rand(2, 5, 21) < 0.5
    weight = m * (1 + 3 * (1 - visible.numpy()))
    expected = (weight * twin_penalty(error / 0.01)).sum() / weight.sum()
    assert losses.occlusion_robustness_loss(p, t, visible, mask).item() == pytest.approx(expected)


def test_rotation_term_is_the_penalty_of_the_chord() -> None:
    first, second = Rotation.random(50, random_state=0), Rotation.random(50, random_state=1)
    angle = (first.inv() * second).magnitude()
    found = losses.rotation_loss(torch.from_numpy(first.as_matrix()), torch.from_numpy(second.as_matrix()))
    assert found.item() == pytest.approx(twin_penalty(2 * np.sin(angle / 2) / 0.2).mean())


def test_procrustes_term_ignores_similarities_and_its_gradient_is_exact() -> None:
    p, t = clouds(torch.float64)
    turn = torch.from_numpy(Rotation.random(random_state=0).as_matrix())
    moved = 1.7 * t @ turn.mT + 0.3
    assert losses.procrustes_keypoints_loss(moved, t).item() < 1e-20
    x = p[:1, :1, :6].clone().requires_grad_()
    # the alignment is a constant backwards; the numerical gradient sees it move, and agrees
    assert torch.autograd.gradcheck(lambda c: losses.procrustes_keypoints_loss(c, t[:1, :1, :6], scale_m=1.0), (x,))


def test_procrustes_term_aligns_on_the_joints_that_count() -> None:
    p, t = clouds(torch.float64)
    mask = torch.rand(2, 5, 21) < 0.5
    turn = torch.from_numpy(Rotation.random(random_state=0).as_matrix())
    moved = torch.where(mask[..., None], 1.7 * t @ turn.mT + 0.3, p)
    assert losses.procrustes_keypoints_loss(moved, t, mask).item() < 1e-20 < 1 < losses.procrustes_keypoints_loss(p, t)
    alone = [
        losses.procrustes_keypoints_loss(a[m], b[m]) * m.sum() for a, b, m in zip(p[0], t[0], mask[0], strict=True)
    ]
    found = losses.procrustes_keypoints_loss(p[0], t[0], mask[0])
    torch.testing.assert_close(found, torch.stack(alone).sum() / mask[0].sum())


def test_chamfer_term_equals_a_tree_search() -> None:
    p, t = clouds()
    values = []
    for a, b in zip(p.flatten(0, 1).numpy(), t.flatten(0, 1).numpy(), strict=True):
        values.append(cKDTree(b).query(a)[0].mean() + cKDTree(a).query(b)[0].mean())
    assert losses.chamfer_loss(p, t).item() == pytest.approx(np.mean(values) / 0.01, rel=1e-5)
    far = losses.chamfer_loss(p + 1, t + 1)
    assert far.item() == pytest.approx(np.mean(values) / 0.01, rel=1e-4), "a metre from the origin changes nothing"


def test_topology_term_equals_a_loop() -> None:
    p, t = clouds(torch.float64)
    total = 0.0
    edges = sorted({tuple(sorted((f[i], f[(i + 1) % 3]))) for f in FACES.tolist() for i in range(3)})
    assert TOPOLOGY.edges.tolist() == [list(e) for e in edges]
    neighbours = {v: [a + b - v for a, b in edges if v in (a, b)] for v in range(21)}
    for a, b in zip(p.flatten(0, 1).numpy(), t.flatten(0, 1).numpy(), strict=True):
        lengths = [abs(np.linalg.norm(a[i] - a[j]) - np.linalg.norm(b[i] - b[j])) for i, j in edges]
        normals = []
        for i, j, k in FACES.tolist():
            n, m = np.cross(a[j] - a[i], a[k] - a[i]), np.cross(b[j] - b[i], b[k] - b[i])
            normals.append(1 - n @ m / max(np.linalg.norm(n), 0.1 * np.linalg.norm(m)) / np.linalg.norm(m))
        smooth = []
        for v, others in neighbours.items():
            delta_a, delta_b = a[v].copy(), b[v].copy()
            if others:
                delta_a, delta_b = delta_a - a[others].mean(0), delta_b - b[others].mean(0)
            smooth.append(np.linalg.norm(delta_a - delta_b))
        total += np.mean(lengths) / 0.001 + np.mean(normals) + np.mean(smooth) / 0.001
    assert losses.topology_loss(p, t, TOPOLOGY).item() == pytest.approx(total / 10)


def test_topology_term_sees_shape_and_not_place() -> None:
    connected = mesh_topology(FACES[:4], 4)
    p = torch.randn(2, 4, 3)
    assert losses.topology_loss(p + 1, p, connected).item() < 1e-2 < losses.topology_loss(p * 1.1, p, connected).item()


def test_temporal_term_equals_a_loop_and_skips_gaps() -> None:
    p, t = clouds(torch.float64)
    valid = torch.tensor([[True, True, True, False, True], [True, True, True, True, True]])
    frames = torch.tensor([[0, 2, 4, 6, 8], [10, 12, 14, 20, 22]])
    error = (p - t).numpy()
    velocity, acceleration = [], []
    for clip in range(2):
        for lag in (1, 2):
            for i in range(5 - lag):
                ok = [bool(valid[clip, k]) for k in (i, i + lag)]
                if all(ok) and frames[clip, i + lag] - frames[clip, i] == 2 * lag:
                    velocity.append(np.linalg.norm(error[clip, i + lag] - error[clip, i], axis=-1))
            for i in range(lag, 5 - lag):
                ok = [bool(valid[clip, k]) for k in (i - lag, i, i + lag)]
                steps = [int(frames[clip, i] - frames[clip, i - lag]), int(frames[clip, i + lag] - frames[clip, i])]
                if all(ok) and steps == [2 * lag] * 2:
                    second = error[clip, i + lag] - 2 * error[clip, i] + error[clip, i - lag]
                    acceleration.append(np.linalg.norm(second, axis=-1))
    expected = twin_penalty(np.array(velocity) / 0.01).mean() + twin_penalty(np.array(acceleration) / 0.01).mean()
    assert losses.temporal_consistency_loss(p, t, valid, frames, window=3).item() == pytest.approx(expected)


def test_temporal_term_does_not_reward_stillness() -> None:
    moving = torch.linspace(0, 0.1, 5)[None, :, None, None].expand(2, 5, 21, 3)
    still = torch.zeros(2, 5, 21, 3)
    right = losses.temporal_consistency_loss(moving, moving, VALID, FRAMES)
    wrong = losses.temporal_consistency_loss(still, moving, VALID, FRAMES)
    assert right.item() < 1e-6 < 1 < wrong.item()


def test_temporal_window_of_one_and_single_frames_give_zero_linked_to_the_graph() -> None:
    p, t = clouds()
    x = p.requires_grad_()
    for value in (
        losses.temporal_consistency_loss(x, t, VALID, FRAMES, window=1),
        losses.temporal_consistency_loss(x[:, :1], t[:, :1], VALID[:, :1], FRAMES[:, :1]),
    ):
        assert value.item() == 0 and value.requires_grad


@pytest.mark.parametrize("name", POINT_TERMS)
def test_term_is_zero_at_the_truth(name: str) -> None:
    _, t = clouds()
    assert abs(POINT_TERMS[name](t, t, VALID).item()) < 1e-5


@pytest.mark.parametrize("name", POINT_TERMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", ["random", "equal", "zero", "point", "line", "mirrored", "far"])
def test_gradients_are_finite_at_every_input(name: str, dtype: torch.dtype, case: str) -> None:
    p, t = clouds()
    line = torch.linspace(0, 1, 21)[:, None] * torch.tensor([1.0, 2, 3])
    p = {
        "random": p,
        "equal": t.clone(),
        "zero": torch.zeros_like(p),
        "point": torch.full_like(p, 0.1),
        "line": line.expand_as(p).clone(),
        "mirrored": t * torch.tensor([-1.0, 1, 1]),
        "far": p + 5,
    }[case]
    x = p.to(dtype).requires_grad_()
    value = POINT_TERMS[name](x, t, VALID)
    value.backward()
    assert value.dtype == torch.float32 and value.isfinite()
    assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize("angle", [0.0, 1e-6, np.pi / 2, np.pi - 1e-6, np.pi])
def test_rotation_gradient_is_finite_at_every_angle(angle: float) -> None:
    x = torch.from_numpy(Rotation.from_rotvec([angle, 0, 0]).as_matrix()).float().requires_grad_()
    losses.rotation_loss(x, torch.eye(3)).backward()
    assert x.grad is not None and x.grad.isfinite().all()


@pytest.mark.parametrize("name", POINT_TERMS)
def test_masked_values_reach_neither_value_nor_gradient(name: str) -> None:
    p, t = clouds()
    mask = VALID.clone()
    mask[0, 3:] = False
    mask[1] = False
    kept = POINT_TERMS[name](p, t, mask)
    x, broken = p.clone(), t.clone()
    x[~mask] += 7
    broken[~mask] = torch.nan
    x.requires_grad_()
    value = POINT_TERMS[name](x, broken, mask)
    value.backward()
    torch.testing.assert_close(value, kept)
    assert x.grad is not None and (x.grad[~mask] == 0).all() and (x.grad[mask] != 0).any()


@pytest.mark.parametrize("name", POINT_TERMS)
def test_empty_mask_gives_zero_linked_to_the_graph(name: str) -> None:
    p, t = clouds()
    x = p.requires_grad_()
    value = POINT_TERMS[name](x, t, torch.zeros_like(VALID))
    value.backward()
    assert value.item() == 0 and x.grad is not None and (x.grad == 0).all()


@pytest.mark.parametrize("name", [n for n in POINT_TERMS if not n.startswith("procrustes")])
def test_gradient_equals_finite_differences(name: str) -> None:
    p, t = clouds(torch.float64)
    x = p.requires_grad_()
    direction = torch.randn_like(p)
    value = POINT_TERMS[name](x, t, VALID)
    (gradient,) = torch.autograd.grad(value, x)
    h = 1e-7
    with torch.no_grad():
        numeric = (POINT_TERMS[name](p + h * direction, t, VALID) - POINT_TERMS[name](p - h * direction, t, VALID)) / (
            2 * h
        )
    assert (gradient * direction).sum().item() == pytest.approx(numeric.item(), rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(0, 1000))
def test_repeating_a_batch_changes_nothing(times: int, seed: int) -> None:
    """A mean, not a sum: the loss does not grow with the batch."""
    generator = torch.Generator().manual_seed(seed)
    p, t = torch.rand(2, 21, 3, generator=generator), torch.rand(2, 21, 3, generator=generator)
    once = losses.keypoints_3d_loss(p, t)
    torch.testing.assert_close(losses.keypoints_3d_loss(p.repeat(times, 1, 1), t.repeat(times, 1, 1)), once)


def test_occlusion_term_does_not_move_with_the_share_that_is_hidden() -> None:
    p, _ = clouds()
    t = p.clone()
    t[..., 1:, :] += 0.02  # every joint but the root is off by the same distance
    not_root = (torch.arange(21) > 0).expand(2, 5, 21)
    visible = torch.ones(2, 5, 21, dtype=torch.bool)
    some = visible.clone()
    some[..., 1::2] = False
    all_seen = losses.occlusion_robustness_loss(p, t, visible, not_root)
    half_seen = losses.occlusion_robustness_loss(p, t, some, not_root)
    torch.testing.assert_close(all_seen, half_seen)


def test_teacher_of_the_erasing_term_gets_no_gradient() -> None:
    p, t = clouds()
    p.requires_grad_()
    t.requires_grad_()
    losses.erasing_consistency_loss(p, t).backward()
    assert p.grad is not None and t.grad is None
