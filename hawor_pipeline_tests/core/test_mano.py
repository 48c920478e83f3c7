"""The hand layer against smplx, and its errors for files that are not MANO."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch

from hawor_pipeline.core.mano import TIP_SETS, ManoArrays, ManoLayer, Side, tip_vertices
from hawor_pipeline.core.rotations import axis_angle_to_rotmat, mirror_rotmat
from hawor_pipeline.core.skeleton import MANO_PARENTS, OPENPOSE_FROM_MANO
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.untrusted.mano_files import find_mano, load_mano
from hawor_pipeline_tests.core.conftest import random_mano

smplx = pytest.importorskip("smplx")


def pose(batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(batch, 3), torch.randn(batch, 45) * 0.7, torch.randn(batch, 10)


def reference(mano_dir: Path, side: Side, **options: object):
    return smplx.MANO(
        str(mano_dir / f"MANO_{side.upper()}.npz"), is_rhand=side == "right", use_pca=False, ext="npz", **options
    )


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("flat_hand_mean", [True, False])
@pytest.mark.agreement(
    subject="MANO layer",
    publication="smplx (Pavlakos et al. 2019; MANO of Romero et al. 2017)",
    compared="vertices and joints of both sides, with and without mean pose, against smplx.MANO",
    tolerance=1e-06,
    unit="m",
)
def test_layer_equals_smplx(mano_dir: Path, side: Side, flat_hand_mean: bool, tolerance: float) -> None:
    layer = ManoLayer(load_mano(mano_dir, side))
    orient, hand, betas = pose(5)
    theirs = reference(mano_dir, side, flat_hand_mean=flat_hand_mean)(
        global_orient=orient, hand_pose=hand, betas=betas, return_verts=True
    )
    ours = layer(layer.absolute_rotmats(orient, hand, mean_included=flat_hand_mean), betas)
    assert (ours.vertices - theirs.vertices).abs().max() < tolerance
    tips = theirs.vertices[:, list(TIP_SETS["smplx"])]
    joints = torch.cat((theirs.joints[:, :16], tips), 1)[:, list(OPENPOSE_FROM_MANO)]
    assert (ours.joints - joints).abs().max() < tolerance


@pytest.mark.parametrize("side", ["right", "left"])
def test_gradients_equal_those_through_smplx(mano_dir: Path, side: Side) -> None:
    orient, hand, betas = (x.requires_grad_() for x in pose(3))
    theirs = reference(mano_dir, side, flat_hand_mean=True)(global_orient=orient, hand_pose=hand, betas=betas)
    weights = torch.randn_like(theirs.vertices)
    expected = torch.autograd.grad((weights * theirs.vertices).sum(), (orient, hand, betas))
    layer = ManoLayer(load_mano(mano_dir, side))
    ours = layer(layer.absolute_rotmats(orient, hand, mean_included=True), betas)
    found = torch.autograd.grad((weights * ours.vertices).sum(), (orient, hand, betas))
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, atol=2e-4, rtol=1e-4)


def test_second_derivatives_exist(mano_dir: Path) -> None:
    layer = ManoLayer(load_mano(mano_dir, "right")).double()
    betas = torch.randn(1, 10).double().requires_grad_()
    rotmats = axis_angle_to_rotmat(torch.randn(1, 16, 3).double()).requires_grad_()

    def size(r: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return layer(r, b).vertices[:, ::250].square().sum()

    assert torch.autograd.gradgradcheck(size, (rotmats, betas))


def slow_twin(arrays: ManoArrays, rotmats: np.ndarray, betas: np.ndarray) -> np.ndarray:
    """Pose one hand, joint by joint and with homogeneous matrices, in float64."""
    rest = arrays.template + arrays.shape_dirs @ betas
    joints = arrays.joint_regressor @ rest
    rest = rest + arrays.pose_dirs @ (rotmats[1:] - np.eye(3)).reshape(-1)
    world: list[np.ndarray] = []
    for index, parent in enumerate(MANO_PARENTS):
        local = np.eye(4)
        local[:3, :3] = rotmats[index]
        local[:3, 3] = joints[index] - (joints[parent] if parent >= 0 else 0)
        world.append(world[parent] @ local if parent >= 0 else local)
    skinning = np.zeros((778, 4, 4))
    for index, matrix in enumerate(world):
        back = np.eye(4)
        back[:3, 3] = -joints[index]
        skinning += arrays.skin_weights[:, index, None, None] * (matrix @ back)
    return (skinning @ np.concatenate((rest, np.ones((778, 1))), 1)[..., None])[:, :3, 0]


def test_layer_in_float64_equals_the_slow_twin(mano_dir: Path) -> None:
    arrays = load_mano(mano_dir, "right")
    torch.set_default_dtype(torch.float64)
    try:
        layer = ManoLayer(arrays)
    finally:
        torch.set_default_dtype(torch.float32)
    rotmats, betas = axis_angle_to_rotmat(torch.randn(16, 3).double()), torch.randn(10).double()
    expected = slow_twin(arrays, rotmats.numpy(), betas.numpy())
    np.testing.assert_allclose(layer(rotmats, betas).vertices, expected, atol=1e-14)


def test_large_batches_in_pieces_equal_small_ones(mano_layer: ManoLayer) -> None:
    """Covers chunks with and without gradients, a last one that is not full, and the gradients themselves."""
    rotmats, betas = axis_angle_to_rotmat(torch.randn(600, 16, 3)), torch.randn(600, 10)
    weights = torch.randn(600, 778, 3)
    small = [(r.requires_grad_(), b) for r, b in zip(rotmats.clone().split(50), betas.split(50), strict=True)]
    hands = [mano_layer(r, b) for r, b in small]
    expected = torch.cat([hand.vertices for hand in hands])
    with_gradient = mano_layer(rotmats.requires_grad_(), betas)
    for found in (mano_layer(rotmats.detach(), betas), with_gradient):
        torch.testing.assert_close(found.vertices.detach(), expected.detach(), atol=1e-7, rtol=0)
        joints = torch.cat([hand.joints for hand in hands]).detach()
        torch.testing.assert_close(found.joints.detach(), joints, atol=1e-7, rtol=0)
    (gradient,) = torch.autograd.grad((weights * with_gradient.vertices).sum(), rotmats)
    by_piece = torch.autograd.grad((weights * expected).sum(), [r for r, _ in small])
    torch.testing.assert_close(gradient, torch.cat(by_piece), atol=1e-4, rtol=1e-4)


def test_leading_dimensions_are_free(mano_layer: ManoLayer) -> None:
    out = mano_layer(torch.eye(3).expand(2, 3, 16, 3, 3), torch.zeros(2, 3, 10))
    assert out.vertices.shape == (2, 3, 778, 3) and out.joints.shape == (2, 3, 21, 3)
    assert mano_layer(torch.eye(3).expand(16, 3, 3), torch.zeros(10)).joints.shape == (21, 3)
    assert mano_layer(torch.eye(3).expand(0, 16, 3, 3), torch.zeros(0, 10)).joints.shape == (0, 21, 3)


def test_gradients_equal_finite_differences(mano_dir: Path) -> None:
    layer = ManoLayer(load_mano(mano_dir, "right")).double()
    rotmats = axis_angle_to_rotmat(torch.randn(1, 16, 3).double()).requires_grad_()
    betas = torch.randn(1, 10).double().requires_grad_()

    def some_points(r: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        out = layer(r, b)
        return torch.cat((out.vertices[:, ::200], out.joints), 1)

    assert torch.autograd.gradcheck(some_points, (rotmats, betas))


def test_global_rotation_turns_about_the_root(mano_layer: ManoLayer) -> None:
    rotmats, betas = torch.eye(3).repeat(1, 16, 1, 1), torch.randn(1, 10)
    still = mano_layer(rotmats, betas)
    rotmats[:, 0] = axis_angle_to_rotmat(torch.tensor([[0.3, -1.0, 2.0]]))
    turned = mano_layer(rotmats, betas)
    root = mano_layer.rest_joints(betas)[:, :1]
    torch.testing.assert_close(turned.joints[:, :1], root)
    torch.testing.assert_close(turned.vertices - root, (still.vertices - root) @ rotmats[:, 0].mT, atol=1e-6, rtol=0)


def test_mirrored_model_makes_the_mirrored_hand(mano_dir: Path, tmp_path: Path) -> None:
    arrays = random_mano(0)
    for name in ("v_template", "shapedirs"):
        arrays[name] = arrays[name] * np.array([-1.0, 1, 1]).reshape(1, 3, *[1] * (arrays[name].ndim - 2))
    sign = np.array([[1, -1, -1], [-1, 1, 1], [-1, 1, 1]]).reshape(9)
    arrays["posedirs"] = arrays["posedirs"] * np.array([-1.0, 1, 1])[:, None] * np.tile(sign, 15)
    np.savez(tmp_path / "MANO_LEFT.npz", **arrays)
    right, left = ManoLayer(load_mano(mano_dir, "right")), ManoLayer(load_mano(tmp_path, "left"))
    rotmats, betas = axis_angle_to_rotmat(torch.randn(4, 16, 3)), torch.randn(4, 10)
    mirrored = right(rotmats, betas).vertices * torch.tensor([-1.0, 1, 1])
    torch.testing.assert_close(left(mirror_rotmat(rotmats), betas).vertices, mirrored, atol=1e-6, rtol=0)


def test_autocast_does_not_round_the_hand(mano_layer: ManoLayer) -> None:
    rotmats, betas = axis_angle_to_rotmat(torch.randn(2, 16, 3)), torch.randn(2, 10)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = mano_layer(rotmats, betas)
    assert rounded.vertices.dtype == torch.float32
    assert torch.equal(rounded.vertices, mano_layer(rotmats, betas).vertices)


def test_model_arrays_stay_out_of_checkpoints(mano_layer: ManoLayer) -> None:
    assert mano_layer.state_dict() == {}


@pytest.mark.parametrize("tips", ["freihand", "manopth"])
def test_tip_sets_choose_other_vertices(mano_dir: Path, tips: str) -> None:
    layer = ManoLayer(load_mano(mano_dir, "right"), tips=tips)
    out = layer(torch.eye(3).expand(16, 3, 3), torch.zeros(10))
    assert torch.equal(out.joints[[4, 8, 12, 16, 20]], out.vertices[list(tip_vertices(tips, "right"))])


def test_unknown_tip_set_names_the_choices(mano_dir: Path) -> None:
    with pytest.raises(ConfigError, match="found tip set 'nails', expected one of"):
        ManoLayer(load_mano(mano_dir, "right"), tips="nails")


@pytest.mark.parametrize("folder", ["", "mano", "mano_v1_2/models"])
def test_files_are_found_in_every_layout(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    file = tmp_path / folder / "MANO_LEFT.npz"
    np.savez(file, **random_mano(1))
    assert find_mano(tmp_path, "left") == file == find_mano(file, "left")


def test_pickle_with_sparse_regressor_equals_npz(tmp_path: Path) -> None:
    arrays = random_mano(0)
    np.savez(tmp_path / "MANO_RIGHT.npz", **arrays)
    official = {**arrays, "J_regressor": scipy.sparse.csc_matrix(arrays["J_regressor"])}
    (tmp_path / "pkl").mkdir()
    (tmp_path / "pkl" / "MANO_RIGHT.pkl").write_bytes(pickle.dumps(official, protocol=2))
    first, second = load_mano(tmp_path, "right"), load_mano(tmp_path / "pkl", "right")
    for name in ("template", "shape_dirs", "pose_dirs", "joint_regressor", "skin_weights", "faces", "hands_mean"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_missing_model_reports_where_it_looked_and_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load_mano(tmp_path, "right")
    for part in ("MANO_RIGHT", str(tmp_path / "mano_v1_2" / "models"), "mano.is.tue.mpg.de"):
        assert part in str(error.value)


def write_models(folder: Path, mano_dir: Path, **left: np.ndarray) -> Path:
    """Both models of a folder, the left one with other arrays where given."""
    folder.mkdir()
    for side in ("RIGHT", "LEFT"):
        arrays = dict(np.load(mano_dir / f"MANO_{side}.npz"))
        np.savez(folder / f"MANO_{side}.npz", **(arrays | (left if side == "LEFT" else {})))
    return folder


def test_left_fix_flips_x_of_the_published_model_and_of_no_other(mano_dir: Path, tmp_path: Path) -> None:
    unsigned = load_mano(mano_dir, "right").shape_dirs
    mirrored = unsigned * np.array([-1.0, 1.0, 1.0])[:, None]
    published = write_models(tmp_path / "published", mano_dir, shapedirs=unsigned)
    np.testing.assert_array_equal(load_mano(published, "left").shape_dirs, unsigned)
    fixed = load_mano(published, "left", fix_left_shapedirs=True)
    np.testing.assert_array_equal(fixed.shape_dirs, mirrored)
    again = write_models(tmp_path / "corrected", mano_dir, shapedirs=fixed.shape_dirs)
    np.testing.assert_array_equal(load_mano(again, "left", fix_left_shapedirs=True).shape_dirs, fixed.shape_dirs)
    np.testing.assert_array_equal(
        load_mano(published / "MANO_LEFT.npz", "left", fix_left_shapedirs=True).shape_dirs, fixed.shape_dirs
    )
    other = load_mano(mano_dir, "left")
    np.testing.assert_array_equal(load_mano(mano_dir, "left", fix_left_shapedirs=True).shape_dirs, other.shape_dirs)
    with pytest.raises(ConfigError, match="only the left file needs the fix"):
        load_mano(mano_dir, "right", fix_left_shapedirs=True)


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_model_of_the_other_side_is_refused(side: Side, sample_root: Path, tmp_path: Path) -> None:
    mano_dir = sample_root / "body_models" / "mano"
    other = "left" if side == "right" else "right"
    copy = tmp_path / f"MANO_{side.upper()}.npz"
    copy.write_bytes((mano_dir / f"MANO_{other.upper()}.npz").read_bytes())
    for given in (tmp_path, copy, mano_dir / f"MANO_{other.upper()}.npz"):
        with pytest.raises(DataError, match=f"found the model of a {other} hand, expected a {side} one"):
            load_mano(given, side)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"posedirs": None}, "found no array 'posedirs'"),
        ({"weights": np.zeros((778, 15))}, r"found weights of shape \(778, 15\), expected \(778, 16\)"),
        ({"v_template": np.full((778, 3), np.nan)}, "v_template holds values that are not finite"),
        ({"kintree_table": np.zeros((2, 16))}, "found parents"),
        ({"shapedirs": np.zeros((778, 3, 4))}, "found shapedirs of shape"),
        ({"f": np.full((1538, 3), 778)}, "face indices reach from 778 to 778"),
    ],
)
def test_damaged_models_are_refused_with_the_reason(tmp_path: Path, change: dict, message: str) -> None:
    arrays = {name: value for name, value in (random_mano(0) | change).items() if value is not None}
    np.savez(tmp_path / "MANO_RIGHT.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_mano(tmp_path, "right")
