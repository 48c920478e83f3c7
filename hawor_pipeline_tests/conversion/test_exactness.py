"""Every number of a row against the slow twin, on static and egocentric views and both hands."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from hawor_pipeline.core.mano import ManoLayer
from hawor_pipeline.core.mano_convention import ARCTIC
from hawor_pipeline.core.rotations import axis_angle_to_rotmat
from hawor_pipeline.shards.store import open_shards
from hawor_pipeline.sources.hand_models import load_hand_models
from hawor_pipeline.untrusted.mano_files import load_mano
from hawor_pipeline_tests.conversion.twin import Twin


@pytest.fixture(scope="module")
def twin(sample_root):
    return Twin(sample_root / "arctic", sample_root / "body_models" / "mano")


@pytest.fixture(scope="module")
def shards(sample_shards):
    return open_shards(sample_shards)


@pytest.fixture(scope="module")
def truths(shards, twin):
    keys = zip(*(shards.column(name) for name in ("subject", "sequence", "view", "frame", "side")), strict=True)
    return [twin.hand(*key) for key in keys]


def stacked(truths, name):
    return np.stack([truth[name] for truth in truths])


def test_all_views_and_sides_are_there(shards):
    assert set(zip(shards.column("view").tolist(), shards.column("side").tolist(), strict=True)) == {
        (view, side) for view in (0, 1, 4) for side in ("left", "right")
    }


@pytest.mark.agreement(
    subject="conversion of ARCTIC: joints",
    publication="ARCTIC's processing (world to camera, both sides, MANO of each side)",
    compared="float64 twin of the published processing with smplx, static and egocentric views",
    tolerance=1e-05,
    unit="m",
)
def test_joints_in_every_frame_of_reference(shards, truths, tolerance):
    assert np.abs(shards.column("joints_world_m") - stacked(truths, "joints_world")).max() < tolerance
    assert np.abs(shards.column("joints_cam_m") - stacked(truths, "joints_cam")).max() < tolerance
    assert np.abs(shards.column("joints_px") - stacked(truths, "joints_px")).max() < 1e-2


def test_parameters_are_absolute_and_in_the_camera_frame(shards, truths):
    found = Rotation.from_rotvec(shards.column("global_orient").astype(float)).as_matrix()
    assert np.abs(found - stacked(truths, "orient")).max() < 1e-5
    assert np.abs(shards.column("hand_pose") - stacked(truths, "pose")).max() < 1e-5
    assert np.abs(shards.column("betas") - stacked(truths, "betas")).max() < 1e-5
    assert shards.column("gt_index").tolist() == [truth["index"] for truth in truths]


@pytest.mark.parametrize("side", ["left", "right"])
def test_stored_parameters_give_the_surface_in_the_camera_frame(shards, truths, sample_root, side):
    """What a trainer does: MANO on the row's own numbers plus translation_m, in single precision."""
    rows = np.flatnonzero(shards.column("side") == side)
    layer = ManoLayer(load_mano(sample_root / "body_models" / "mano", side))
    angles = np.concatenate((shards.column("global_orient"), shards.column("hand_pose")), 1)[rows].reshape(-1, 16, 3)
    out = layer(axis_angle_to_rotmat(torch.from_numpy(angles)), torch.from_numpy(shards.column("betas")[rows]))
    translation = torch.from_numpy(shards.column("translation_m")[rows])[:, None]
    assert np.abs((out.vertices + translation).numpy() - stacked(truths, "vertices_cam")[rows]).max() < 1e-5
    assert np.abs((out.joints + translation).numpy() - stacked(truths, "joints_cam")[rows]).max() < 1e-5


@pytest.mark.agreement(
    subject="bounding boxes",
    publication="HaMeR, expand_to_aspect_ratio with 192 x 256, margin 1.2",
    compared="boxes of the projected vertices of the float64 twin",
    tolerance=0.01,
    unit="px",
)
def test_boxes_surround_the_projected_surface(shards, truths, tolerance):
    pixels = stacked(truths, "vertices_px")
    low, high = pixels.min(1), pixels.max(1)
    width, height = (high - low).T
    assert np.abs(shards.column("box_center_px") - (low + high) / 2).max() < tolerance
    assert np.abs(shards.column("box_size_px") - 1.2 * np.maximum(height, 4 * width / 3)).max() < tolerance


def test_in_frame_marks_exactly_what_the_image_holds(shards, truths):
    size = np.stack((shards.column("image_width"), shards.column("image_height")), -1)[:, None]
    pixels, depth = stacked(truths, "joints_px"), stacked(truths, "joints_cam")[..., 2]
    inside = ((pixels >= -0.5) & (pixels < size - 0.5)).all(-1) & (depth > 0.05)
    np.testing.assert_array_equal(shards.column("joint_in_frame"), inside)


def test_camera_columns_reproduce_the_camera_joints(shards):
    transforms = shards.column("cam_from_world").astype(float)
    joints = (
        np.einsum("nij,nkj->nki", transforms[:, :3, :3], shards.column("joints_world_m")) + transforms[:, None, :3, 3]
    )
    assert np.abs(joints - shards.column("joints_cam_m")).max() < 1e-5
    static = shards.column("view") != 0
    assert not shards.column("distortion")[static].any()
    assert shards.column("distortion")[~static].any(1).all()


def test_right_hands_keep_their_shape_and_left_hands_are_refitted(shards):
    right = shards.column("is_right")
    np.testing.assert_array_equal(shards.column("betas_as_right")[right], shards.column("betas")[right])
    assert not shards.column("betas_as_right_residual_mm")[right].any()


@pytest.mark.parametrize("wrong_sign", [False, True])
def test_refit_of_left_shapes_is_the_least_squares_optimum(sample_root, wrong_sign):
    """With a mirrored left model nothing is left over; with the official file's sign fault the optimum remains."""
    models = load_hand_models(sample_root / "body_models" / "mano", ARCTIC)
    right = models.arrays["right"]
    left = models.arrays["left"]
    mirror = np.array([-1.0, 1.0, 1.0])
    directions = right.shape_dirs * mirror[:, None]
    if wrong_sign:
        directions = directions * mirror[:, None]

    case = dataclasses.replace(left, template=right.template * mirror, shape_dirs=directions)
    models = dataclasses.replace(models, arrays={"right": right, "left": case})
    betas = np.random.default_rng(0).normal(size=(3, 10))
    fitted, residual_mm = models.betas_as_right("left", betas)
    goal = (case.template + np.einsum("vcs,ts->tvc", directions, betas)) * mirror
    rest = goal - right.template - np.einsum("vcs,ts->tvc", right.shape_dirs, fitted)
    gradient = np.einsum("vcs,tvc->ts", right.shape_dirs, rest)
    assert np.abs(gradient).max() < 1e-10
    np.testing.assert_allclose(residual_mm, np.linalg.norm(rest, axis=-1).mean(-1) * 1000, rtol=1e-9, atol=1e-9)
    if wrong_sign:
        assert (residual_mm > 0.1).all()
    else:
        np.testing.assert_allclose(fitted, betas, atol=1e-9)
