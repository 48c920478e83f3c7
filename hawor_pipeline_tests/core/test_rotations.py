"""Rotations against scipy, and their gradients where naive formulas have none."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from hawor_pipeline.core import rotations as rot

ANGLES = [0.0, 1e-12, 1e-8, 1e-5, 1e-3, 0.00999, 0.0101, 1.0, 3.0, math.pi - 1e-4, math.pi - 1e-8, math.pi]


def axes(count: int = 50) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, 3, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("angle", ANGLES)
def test_axis_angle_to_rotmat_equals_scipy(angle: float) -> None:
    vectors = axes() * angle
    expected = Rotation.from_rotvec(vectors.numpy()).as_matrix()
    np.testing.assert_allclose(rot.axis_angle_to_rotmat(vectors), expected, atol=2e-15)
    np.testing.assert_allclose(rot.axis_angle_to_rotmat(vectors.float()), expected, atol=5e-7)


@pytest.mark.parametrize("angle", ANGLES)
def test_rotmat_to_axis_angle_inverts(angle: float) -> None:
    matrices = torch.from_numpy(Rotation.from_rotvec((axes() * angle).numpy()).as_matrix())
    found = rot.rotmat_to_axis_angle(matrices)
    np.testing.assert_allclose(Rotation.from_rotvec(found.numpy()).as_matrix(), matrices, atol=4e-15)
    np.testing.assert_allclose(torch.linalg.vector_norm(found, dim=-1), angle, atol=1e-7)


def test_rotmat_to_quaternion_equals_scipy_and_is_not_negative() -> None:
    rotations = Rotation.random(500, random_state=1)
    found = rot.rotmat_to_quaternion(torch.from_numpy(rotations.as_matrix()))
    np.testing.assert_allclose(found, rotations.as_quat(canonical=True, scalar_first=True), atol=1e-14)


@pytest.mark.parametrize("angle", ANGLES)
def test_geodesic_angle_equals_scipy_also_in_float32(angle: float) -> None:
    first = Rotation.random(50, random_state=2)
    second = first * Rotation.from_rotvec((axes() * angle).numpy())
    a, b = torch.from_numpy(first.as_matrix()), torch.from_numpy(second.as_matrix())
    expected = (first.inv() * second).magnitude()
    np.testing.assert_allclose(rot.geodesic_angle(a, b), expected, atol=1e-7 if angle > 3.1 else 1e-14)
    # the arc cosine is off by 5e-4 rad here
    np.testing.assert_allclose(rot.geodesic_angle(a.float(), b.float()), expected, atol=1e-6)


@pytest.mark.parametrize("layout", ["columns", "rows"])
def test_rot6d_round_trip_and_meaning(layout: rot.Rot6dLayout) -> None:
    matrices = torch.from_numpy(Rotation.random(100, random_state=3).as_matrix())
    numbers = rot.rotmat_to_rot6d(matrices, layout)
    expected = matrices[:, :, :2].reshape(100, 6) if layout == "rows" else matrices[:, :, :2].mT.reshape(100, 6)
    assert torch.equal(numbers, expected)
    torch.testing.assert_close(rot.rot6d_to_rotmat(numbers, layout), matrices, atol=1e-14, rtol=0)


def test_rot6d_equals_gram_schmidt_by_qr() -> None:
    numbers = torch.randn(100, 6, dtype=torch.float64)
    q, r = np.linalg.qr(numbers.reshape(100, 2, 3).mT.numpy())
    q = q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
    np.testing.assert_allclose(rot.rot6d_to_rotmat(numbers)[:, :, :2], q, atol=1e-12)


@pytest.mark.usefixtures("unhooked")
def test_rot6d_unknown_layout_names_the_choices() -> None:
    with pytest.raises(ValueError, match="found layout='spin', expected 'columns' or 'rows'"):
        rot.rot6d_to_rotmat(torch.zeros(6), "spin")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected 'columns' or 'rows'"):
        rot.rotmat_to_rot6d(torch.eye(3), "spin")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "numbers",
    [
        [0.0] * 6,
        [1.0, 0, 0, 1, 0, 0],
        [1.0, 0, 0, -1, 0, 0],
        [1.0, 0, 0, 0, 0, 0],
        [1e-9] * 6,
        [1.0, 1, 1, 1, 1, 1 + 1e-6],
    ],
)
def test_rot6d_of_degenerate_input_is_a_rotation_with_finite_gradients(numbers: list[float]) -> None:
    x = torch.tensor(numbers, requires_grad=True)
    matrix = rot.rot6d_to_rotmat(x)
    torch.testing.assert_close(matrix @ matrix.mT, torch.eye(3), atol=1e-5, rtol=0)
    assert torch.linalg.det(matrix).item() == pytest.approx(1, abs=1e-5)
    (matrix * torch.randn(3, 3)).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_gradients_equal_finite_differences() -> None:
    vectors = (torch.randn(6, 3, dtype=torch.float64)).requires_grad_()
    small = (torch.randn(3, 3, dtype=torch.float64) * 1e-4).requires_grad_()
    assert torch.autograd.gradcheck(rot.axis_angle_to_rotmat, (vectors,))
    assert torch.autograd.gradcheck(rot.axis_angle_to_rotmat, (small,), eps=1e-8, atol=1e-6)
    assert torch.autograd.gradcheck(rot.rot6d_to_rotmat, (torch.randn(6, 6, dtype=torch.float64, requires_grad=True),))
    a, b = (torch.from_numpy(Rotation.random(5, random_state=s).as_matrix()).requires_grad_() for s in (4, 5))
    assert torch.autograd.gradcheck(rot.geodesic_angle, (a, b))
    assert torch.autograd.gradcheck(lambda w: rot.rotmat_to_axis_angle(rot.axis_angle_to_rotmat(w)), (vectors,))


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gradients_are_finite_everywhere(angle: float, dtype: torch.dtype) -> None:
    vectors = (axes(20) * angle).to(dtype).requires_grad_()
    matrices = rot.axis_angle_to_rotmat(vectors)
    assert matrices.dtype == torch.float32
    back = rot.rotmat_to_axis_angle(matrices)
    distance = rot.geodesic_angle(matrices, torch.eye(3).expand(20, 3, 3))
    (back.sum() + distance.sum()).backward()
    assert vectors.grad is not None and vectors.grad.isfinite().all()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-4, 4), min_size=3, max_size=3), st.lists(st.floats(-1, 1), min_size=3, max_size=3))
def test_mirroring_commutes_with_rotating_points(vector: list[float], point: list[float]) -> None:
    w, p = torch.tensor(vector, dtype=torch.float64), torch.tensor(point, dtype=torch.float64)
    mirror = torch.tensor([-1.0, 1, 1], dtype=torch.float64)
    matrix = rot.axis_angle_to_rotmat(w)
    torch.testing.assert_close(rot.mirror_rotmat(matrix) @ (mirror * p), mirror * (matrix @ p), atol=1e-13, rtol=0)
    pseudovector = w * torch.tensor([1, -1, -1])
    torch.testing.assert_close(rot.axis_angle_to_rotmat(pseudovector), rot.mirror_rotmat(matrix), atol=1e-13, rtol=0)
    assert torch.equal(rot.mirror_rotmat(rot.mirror_rotmat(matrix)), matrix)


def test_leading_dimensions_are_free() -> None:
    w = torch.randn(2, 3, 4, 3)
    assert rot.axis_angle_to_rotmat(w).shape == (2, 3, 4, 3, 3)
    assert rot.rotmat_to_axis_angle(rot.axis_angle_to_rotmat(w[0, 0, 0])).shape == (3,)
    assert rot.rot6d_to_rotmat(torch.randn(0, 6)).shape == (0, 3, 3)


def test_chordal_mean_is_the_nearest_rotation() -> None:
    generator = torch.Generator().manual_seed(0)
    rotations = torch.linalg.qr(torch.randn(50, 3, 3, generator=generator, dtype=torch.float64))[0]
    rotations = rotations * torch.linalg.det(rotations)[:, None, None]
    found = rot.chordal_mean(rotations.mean(0))
    assert torch.linalg.det(found) == pytest.approx(1.0)
    best = (rotations - found).square().sum()
    for other in torch.cat((rotations, torch.eye(3, dtype=torch.float64)[None])):
        assert best <= (rotations - other).square().sum()
