"""Cameras and lenses against OpenCV and their own inverses."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from hawor_pipeline.core import camera, lens

K = torch.tensor([[2400.0, 0, 1400], [0, 2380, 1000], [0, 0, 1]], dtype=torch.float64)
LENSES = {
    "none": [0.0] * 8,
    "barrel": [-0.35, 0.12, 1e-3, 5e-4, -0.02, 0, 0, 0],
    "rational": [0.3, -0.1, 1e-3, -2e-3, 0.02, 0.6, 0.05, 0.01],
    "pole": [0.1, 0, 0, 0, 0, -0.5, 0, 0],
    "wide": [2.5, 1.2, 1e-4, 2e-4, 0.05, 2.9, 2.1, 0.3],
}


def scene(count: int = 2000) -> torch.Tensor:
    return torch.rand(count, 3, dtype=torch.float64) * torch.tensor([1.2, 1.2, 1.0]) - torch.tensor([0.6, 0.6, -0.5])


@pytest.mark.parametrize("name", LENSES)
@pytest.mark.agreement(
    subject="projection through a lens",
    publication="OpenCV, projectPoints with eight coefficients",
    compared="pixels inside the lens",
    tolerance=1e-09,
    unit="px",
)
def test_project_distorted_equals_opencv_inside_the_lens(name: str, tolerance: float) -> None:
    points, distortion = scene(), torch.tensor(LENSES[name], dtype=torch.float64)
    uv, inside = camera.project_distorted(points, K, distortion)
    expected = cv2.projectPoints(points.numpy(), np.zeros(3), np.zeros(3), K.numpy(), distortion.numpy())[0][:, 0]
    assert inside.float().mean() > 0.5
    np.testing.assert_allclose(uv[inside], expected[inside.numpy()], atol=tolerance)
    assert uv.isfinite().all()


@pytest.mark.parametrize("name", LENSES)
def test_monotone_radius_is_where_the_curve_turns(name: str) -> None:
    distortion = torch.tensor(LENSES[name], dtype=torch.float64)
    found = lens.monotone_radius(distortion).item()
    radial = distortion.clone()
    radial[2:4] = 0
    r = torch.linspace(0, 6, 600_001, dtype=torch.float64)
    curve = lens.distort_rational(torch.stack((r, torch.zeros_like(r)), -1), radial)[:, 0]
    turns = (curve.diff() < 0).nonzero()
    assert found == (pytest.approx(r[turns[0]].item(), abs=3e-5) if len(turns) else float("inf"))


def test_points_behind_or_beyond_the_rim_stay_out_of_the_image() -> None:
    distortion = torch.tensor(LENSES["barrel"], dtype=torch.float64)
    far = torch.tensor([[3.0, 0, 1], [30, 0, 1], [0, 0, -1], [0, 0, 0.01]], dtype=torch.float64)
    uv, inside = camera.project_distorted(far, K, distortion)
    assert inside.tolist() == [False] * 4
    folded = cv2.projectPoints(far.numpy(), np.zeros(3), np.zeros(3), K.numpy(), distortion.numpy())[0][:, 0]
    assert folded[0, 0] < 0 < 2800 < uv[0, 0], "unguarded, a point to the far right lands left of the picture"
    assert 2800 < uv[1, 0] < 1e5


@pytest.mark.parametrize("name", LENSES)
def test_undistort_inverts_projection(name: str) -> None:
    points, distortion = scene(), torch.tensor(LENSES[name], dtype=torch.float64)
    limit = lens.monotone_radius(distortion)
    points = points[torch.linalg.vector_norm(points[:, :2] / points[:, 2:], dim=-1) < 0.95 * limit]
    uv, inside = camera.project_distorted(points, K, distortion)
    assert inside.all()
    pinhole = camera.project_pinhole(points, K)
    np.testing.assert_allclose(camera.undistort_pixels(uv, K, distortion), pinhole, atol=1e-7)
    single = camera.undistort_pixels(uv.float(), K.float(), distortion.float())
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single, pinhole, rtol=2e-4)


def test_undistort_reports_where_no_ray_arrives() -> None:
    distortion = torch.tensor([-0.35, 0, 0, 0, 0, 0, 0, 0], dtype=torch.float64)
    radius = lens.monotone_radius(distortion)
    rim = (
        K[0, 0] * lens.distort_rational(torch.stack((radius, torch.zeros(()).double()))[None], distortion)[0, 0]
        + K[0, 2]
    )
    uv = torch.tensor([[rim - 20, 1000.0], [rim + 1, 1000.0]], dtype=torch.float64)
    found = camera.undistort_pixels(uv, K, distortion)
    assert found[0].isfinite().all() and found[1].isnan().all()


def test_lens_functions_broadcast_over_batches() -> None:
    lenses = torch.tensor(list(LENSES.values()))
    xy = torch.rand(5, 7, 2) * 0.3
    together = lens.distort_rational(xy, lenses)
    for index in range(5):
        assert torch.equal(together[index], lens.distort_rational(xy[index], lenses[index]))
    assert torch.equal(lens.monotone_radius(lenses)[1], lens.monotone_radius(lenses[1]))


def test_transform_points_equals_scipy() -> None:
    rotation, shift, points = Rotation.random(random_state=0), np.random.default_rng(0).random(3), scene(10)
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3], matrix[:3, 3] = torch.from_numpy(rotation.as_matrix()), torch.from_numpy(shift)
    np.testing.assert_allclose(
        camera.transform_points(matrix, points), rotation.apply(points.numpy()) + shift, atol=1e-14
    )


def test_pinhole_has_finite_gradients_at_and_behind_the_camera() -> None:
    points = torch.tensor([[0.1, 0.2, 0.0], [0.1, 0.2, -1.0]], requires_grad=True)
    camera.project_pinhole(points, K.float()).sum().backward()
    assert points.grad is not None and points.grad.isfinite().all()


positive = st.floats(0.2, 5)


@settings(max_examples=50, deadline=None)
@given(positive, st.floats(-1, 1), st.floats(-1, 1), st.floats(20, 900), st.floats(300, 3000), st.floats(0, 2800))
def test_full_translation_and_its_inverse(
    depth: float, x: float, y: float, box: float, focal: float, cx: float
) -> None:
    t = torch.tensor([x, y, depth], dtype=torch.float64)
    center, principal = torch.tensor([cx, 700.0]).double(), torch.tensor([1400.0, 1000.0]).double()
    others = (center, torch.tensor(box).double(), torch.tensor(focal).double(), principal)
    weak = camera.camera_from_translation(t, *others)
    if weak[0] > camera.MIN_CAMERA_SCALE:
        torch.testing.assert_close(camera.full_translation(weak, *others), t, atol=1e-10, rtol=1e-10)


def test_crop_projection_of_the_weak_camera_is_near_the_full_one() -> None:
    """The weak camera sees a flat hand at the root's depth exactly as the full camera sees it in the crop."""
    center, box, focal, principal = (
        torch.tensor([900.0, 1200]),
        torch.tensor(300.0),
        torch.tensor(2400.0),
        K[:2, 2].float(),
    )
    weak = torch.tensor([6.0, 0.02, -0.01])
    flat = torch.cat((torch.rand(21, 2) * 0.1, torch.zeros(21, 1)), -1)
    full = camera.full_translation(weak, center, box, focal, principal)
    matrix = torch.tensor([[2400.0, 0, 1400], [0, 2400, 1000], [0, 0, 1]])
    crop = camera.pixels_to_crop(camera.project_pinhole(flat + full, matrix), center, box)
    torch.testing.assert_close(crop, weak[0] / 2 * (flat[:, :2] + weak[1:]), atol=1e-5, rtol=1e-4)


def test_full_translation_keeps_depth_finite_and_positive() -> None:
    weak = torch.tensor([[0.0, 0, 0], [-5, 0, 0]], requires_grad=True)
    ones = torch.ones(2)
    full = camera.full_translation(weak, torch.zeros(2, 2), 100 * ones, 500 * ones, torch.zeros(2, 2))
    assert (full[:, 2] > 0).all() and full.isfinite().all()


def test_crop_units_round_trip() -> None:
    uv, center, box = torch.rand(2, 21, 2) * 1000, torch.rand(2, 2) * 1000, torch.tensor([100.0, 300.0])
    crop = camera.pixels_to_crop(uv, center, box)
    torch.testing.assert_close(crop * box[:, None, None] + center[:, None], uv)


@pytest.mark.parametrize("name", LENSES)
def test_mirrored_hand_projects_to_the_mirrored_pixel(name: str) -> None:
    width, distortion, points = 2800, torch.tensor(LENSES[name], dtype=torch.float64), scene(50)
    mirrored_k = K.clone()
    mirrored_k[:2, 2] = camera.mirror_pixels(K[:2, 2], width)
    uv, _ = camera.project_distorted(points, K, distortion)
    mirrored_lens = distortion * torch.tensor([1, 1, 1, -1, 1, 1, 1, 1])  # p2 changes its sign
    other, _ = camera.project_distorted(camera.mirror_points(points), mirrored_k, mirrored_lens)
    torch.testing.assert_close(other, camera.mirror_pixels(uv, width))


def test_mirror_pixels_equals_reversed_columns() -> None:
    image = torch.rand(4, 6)
    x, y = camera.mirror_pixels(torch.tensor([1.0, 2.0]), 6).int().tolist()
    assert image.flip(1)[y, x] == image[2, 1]
