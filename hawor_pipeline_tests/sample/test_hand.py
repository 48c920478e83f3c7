"""The synthetic hand: MANO's format and topology, plausible anatomy, mirrored sides, sane motion, and its generator."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from hawor_pipeline.core.skeleton import FINGERS, TIP_VERTEX_IDS
from hawor_pipeline.sample import hand
from hawor_pipeline.sample.hand import SIDES, mirror_pose
from hawor_pipeline_tests.sample.joint_angles import pose_to_joint_angles
from tools.procedural_hand import mesh, surface
from tools.procedural_hand.decimate import CollapseMesh, mesh_edges, rim_edges
from tools.procedural_hand.deformation import SHAPE_NAMES, shape_motion
from tools.procedural_hand.model import GRASPS, hand_arrays

REST = hand.rest_skeleton()
TIP_IDS = dict(zip(FINGERS, TIP_VERTEX_IDS, strict=True))
MIRROR = np.array([-1.0, 1.0, 1.0])


def pose_mesh(model: dict[str, np.ndarray], pose: np.ndarray, betas: np.ndarray | None = None, root=(0.0, 0.0, 0.0)):
    """Skin linearly in float64, joint by joint: vertices (778, 3) and joints (16, 3)."""
    betas = np.zeros(10) if betas is None else betas
    shaped = model["v_template"] + model["shapedirs"] @ betas
    rest = model["J_regressor"] @ shaped
    turns = Rotation.from_rotvec(np.concatenate([np.asarray(root), pose]).reshape(16, 3)).as_matrix()
    shaped = shaped + model["posedirs"] @ (turns[1:] - np.eye(3)).ravel()
    turn, place = [turns[0]], [rest[0]]
    for joint in range(1, 16):
        parent = int(model["kintree_table"][0, joint])
        turn.append(turn[parent] @ turns[joint])
        place.append(place[parent] + turn[parent] @ (rest[joint] - rest[parent]))
    moved = np.stack([(shaped - rest[j]) @ turn[j].T + place[j] for j in range(16)])
    return np.einsum("vj,jvk->vk", model["weights"], moved), np.stack(place)


def closed_volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Compute the volume, closed by a fan over the rim."""
    rim = rim_edges(faces)
    centre = vertices[np.unique(rim)].mean(axis=0)
    directed = {(a, b) for f in faces.tolist() for a, b in zip(f, f[1:] + f[:1], strict=True)}
    cap = [(b, a) if (a, b) in directed else (a, b) for a, b in rim.tolist()]
    triangles = np.concatenate([vertices[faces], [[vertices[a], vertices[b], centre] for a, b in cap]])
    return float(np.linalg.det(triangles - centre).sum() / 6.0)


@pytest.fixture(scope="module")
def models() -> dict[str, dict[str, np.ndarray]]:
    return {side: hand.build_mano(side) for side in SIDES}


@pytest.fixture(scope="module")
def right(models) -> dict[str, np.ndarray]:
    return models["right"]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    return hand.write_mano_models(tmp_path_factory.mktemp("mano"))


class TestFormat:
    @pytest.mark.parametrize("side", SIDES)
    def test_keys_shapes_and_types(self, files, side):
        with np.load(files[side], allow_pickle=False) as archive:
            model = {key: archive[key] for key in archive.files}
        assert files[side].name == f"MANO_{side.upper()}.npz"
        shapes = {
            "v_template": (778, 3), "f": (1538, 3), "shapedirs": (778, 3, 10), "posedirs": (778, 3, 135),
            "J_regressor": (16, 778), "J": (16, 3), "weights": (778, 16), "kintree_table": (2, 16),
            "hands_mean": (45,), "hands_components": (45, 45), "hands_coeffs": (len(GRASPS), 45),
        }  # fmt: skip
        for key, shape in shapes.items():
            assert model[key].shape == shape, key
            assert np.isfinite(model[key]).all(), key
        assert model["f"].dtype == model["kintree_table"].dtype == np.uint32
        assert model["kintree_table"][0].tolist() == [2**32 - 1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14]
        assert "synthetic" in str(model["source"])

    def test_same_bytes_when_made_again(self, files, tmp_path):
        hand.stored_arrays.cache_clear()
        again = hand.write_mano_models(tmp_path)
        for side in SIDES:
            assert again[side].read_bytes() == files[side].read_bytes()

    def test_unknown_side(self):
        with pytest.raises(ValueError, match="expected 'right' or 'left'"):
            hand.build_mano("middle")

    def test_caller_cannot_spoil_the_model(self):
        hand.build_mano("right")["v_template"][:] = 0.0
        assert np.abs(hand.build_mano("right")["v_template"]).max() > 0.05

    def test_components_are_orthonormal_and_give_the_grasps_back(self, right):
        components = right["hands_components"]
        np.testing.assert_allclose(components @ components.T, np.eye(45), atol=1e-10)
        grasps = right["hands_mean"] + right["hands_coeffs"] @ components
        np.testing.assert_allclose(grasps, np.stack(list(GRASPS.values())), atol=1e-10)


class TestSmplx:
    @pytest.mark.parametrize("side", SIDES)
    @pytest.mark.parametrize("flat", [False, True])
    def test_smplx_agrees_with_slow_skinning(self, files, models, side, flat):
        smplx = pytest.importorskip("smplx")
        torch = pytest.importorskip("torch")
        layer = smplx.MANO(
            str(files[side]), is_rhand=side == "right", use_pca=False, flat_hand_mean=flat, ext="npz"
        )  # fmt: skip
        rng = np.random.default_rng(3)
        pose, betas, root = rng.normal(0, 0.3, 45), rng.normal(size=10), rng.normal(size=3)
        with torch.no_grad():
            found = layer(
                hand_pose=torch.tensor(pose, dtype=torch.float32)[None],
                betas=torch.tensor(betas, dtype=torch.float32)[None],
                global_orient=torch.tensor(root, dtype=torch.float32)[None],
            )
        mean = 0.0 if flat else models[side]["hands_mean"]
        vertices, joints = pose_mesh(models[side], pose + mean, betas, root)
        np.testing.assert_allclose(found.vertices[0].numpy(), vertices, atol=1e-6)
        np.testing.assert_allclose(found.joints[0].numpy()[:16], joints, atol=1e-6)


class TestMesh:
    def test_topology(self, right):
        faces = right["f"].astype(np.int64)
        assert 778 - len(mesh_edges(faces)) + len(faces) == 1  # Euler characteristic of a disc
        rim = rim_edges(faces)
        assert len(rim) == len(np.unique(rim)) == 16
        directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
        assert len(np.unique(directed, axis=0)) == len(directed)  # one winding
        assert np.array_equal(np.unique(faces), np.arange(778))

    @pytest.mark.parametrize("side", SIDES)
    def test_faces_look_outward(self, models, side):
        faces = models[side]["f"].astype(np.int64)
        assert 2.0e-4 < closed_volume(models[side]["v_template"], faces) < 5.0e-4  # 0.2 to 0.5 litre

    def test_triangles_are_well_shaped(self, right):
        corner = right["v_template"][right["f"].astype(np.int64)]
        sides = np.linalg.norm(corner - np.roll(corner, 1, axis=1), axis=2)
        area = np.linalg.norm(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1) / 2
        quality = 4 * np.sqrt(3) * area / (sides**2).sum(axis=1)  # 1 for an equilateral triangle
        assert quality.min() > 0.4
        assert quality.mean() > 0.9
        assert 0.0015 < sides.min() < sides.max() < 0.020

    def test_vertices_lie_on_the_implicit_surface(self, right):
        assert np.abs(surface.hand_sdf(right["v_template"])).max() < 1e-5

    def test_rim_is_at_the_wrist(self, right):
        rim = right["v_template"][np.unique(rim_edges(right["f"].astype(np.int64)))]
        np.testing.assert_allclose(rim[:, 0], mesh.WRIST_PLANE_M, atol=1e-9)
        assert right["v_template"][:, 0].max() <= mesh.WRIST_PLANE_M + 1e-9

    def test_rest_frame_and_tips(self, right):
        """Right hand: fingers along -x, thumb at +z; each tip id is the farthest vertex of its digit."""
        vertices, weights = right["v_template"], right["weights"]
        for k, name in enumerate(hand.DIGITS):
            tip = TIP_IDS[name]
            last = weights[:, 3 + 3 * k] > 0.9
            along = vertices[last] @ REST.bone_axes[3 * k + 2]
            assert vertices[tip] @ REST.bone_axes[3 * k + 2] > along.max() - 5e-4
        tips = vertices[list(TIP_IDS.values())]
        assert tips[0, 2] == tips[:, 2].max()
        assert np.argmin(tips[:, 0]) == 2  # the middle finger is the longest

    def test_adult_dimensions(self, right):
        vertices = right["v_template"]
        length = np.linalg.norm(vertices[TIP_IDS["middle"]] - right["J"][0])
        knuckles = vertices[(np.abs(vertices[:, 0] - 0.012) < 0.008) & (right["weights"][:, 13:].sum(axis=1) < 0.01)]
        assert 0.175 < length < 0.200
        assert 0.075 < np.ptp(knuckles[:, 2]) < 0.095
        assert 0.022 < np.ptp(knuckles[:, 1]) < 0.036


class TestMirror:
    def test_mirrored_parameters_give_the_mirrored_mesh(self, models):
        rng = np.random.default_rng(5)
        for _ in range(4):
            pose, betas, root = rng.normal(0, 0.5, 45), rng.normal(size=10), rng.normal(size=3)
            vertices, joints = pose_mesh(models["right"], pose, betas, root)
            other, other_joints = pose_mesh(models["left"], mirror_pose(pose), betas, mirror_pose(root))
            np.testing.assert_allclose(other, vertices * MIRROR, atol=1e-12)
            np.testing.assert_allclose(other_joints, joints * MIRROR, atol=1e-12)

    def test_means_are_mirror_images_and_not_flat(self, models):
        mean = models["right"]["hands_mean"]
        np.testing.assert_allclose(models["left"]["hands_mean"], mirror_pose(mean))
        assert 0.1 < np.linalg.norm(mean.reshape(15, 3), axis=1).mean() < 0.6

    def test_left_shape_is_not_the_unfixed_kind(self, models):
        difference = models["left"]["shapedirs"][:, 0] - models["right"]["shapedirs"][:, 0]
        assert np.abs(difference).sum() > 1.0


class TestMotion:
    def test_weights(self, right):
        weights = right["weights"]
        assert weights.min() >= 0
        np.testing.assert_allclose(weights.sum(axis=1), 1.0, atol=1e-12)
        assert (weights > 0).sum(axis=1).max() <= 4
        assert (weights.max(axis=0) > 0.9).all()

    def test_weights_change_gently_along_edges(self, right):
        edges = mesh_edges(right["f"].astype(np.int64))
        assert np.abs(right["weights"][edges[:, 0]] - right["weights"][edges[:, 1]]).max() < 0.75

    @pytest.mark.parametrize("joint", range(1, 16))
    def test_flexion_moves_the_tip_to_the_palm_and_nothing_else(self, right, joint):
        digit = (joint - 1) // 3
        tip = TIP_IDS[hand.DIGITS[digit]]
        pose = np.zeros((15, 3))
        pose[joint - 1] = 0.3 * REST.flexion_axes[joint - 1]
        moved = pose_mesh(right, pose.ravel())[0] - pose_mesh(right, np.zeros(45))[0]
        palmar = REST.palmar_axes[joint - 1]
        assert moved[tip] @ palmar > 0.9 * np.linalg.norm(moved[tip])
        assert np.linalg.norm(moved[tip]) > 0.005
        if digit != hand.DIGITS.index("thumb"):
            assert moved[tip, 1] < -0.004  # down: the palm faces -y
        other_tips = [v for name, v in TIP_IDS.items() if name != hand.DIGITS[digit]]
        assert np.abs(moved[other_tips]).max() < 1e-6

    def test_abduction_swings_the_index_to_the_thumb(self, right):
        angles = np.zeros((15, 3))
        angles[0, 1] = 0.2
        moved = pose_mesh(right, hand.angles_to_pose(angles, REST))[0] - right["v_template"]
        tip = moved[TIP_IDS["index"]]
        assert tip[2] > 0.9 * np.linalg.norm(tip)

    @pytest.mark.parametrize("name", GRASPS)
    def test_skin_does_not_tear_or_collapse(self, right, name):
        faces = right["f"].astype(np.int64)
        edges = mesh_edges(faces)
        posed = pose_mesh(right, GRASPS[name])[0]
        span = [np.linalg.norm(v[edges[:, 0]] - v[edges[:, 1]], axis=1) for v in (right["v_template"], posed)]
        stretch = span[1] / span[0]
        assert stretch.max() < 4.5  # the web beside a pointing finger
        assert np.median(np.abs(np.log(stretch))) < 0.1
        kept = closed_volume(posed, faces) / closed_volume(right["v_template"], faces)
        assert 0.9 < kept < 1.1

    @pytest.mark.parametrize("joint", [1, 5, 9, 14])
    def test_correctives_bring_the_skin_closer_to_the_bent_hand(self, right, joint):
        """Ground truth is the implicit hand with the same joint bent, at an angle that the fit does not use."""
        pose = np.zeros((15, 3))
        pose[joint - 1] = np.radians(70) * REST.flexion_axes[joint - 1]
        bend = surface.Bend(joint, Rotation.from_rotvec(pose[joint - 1]).as_matrix())
        plain = pose_mesh({**right, "posedirs": np.zeros_like(right["posedirs"])}, pose.ravel())[0]
        far = [np.abs(surface.hand_sdf(v, bend)) for v in (plain, pose_mesh(right, pose.ravel())[0])]
        bent = far[0] > 5e-4
        assert bent.sum() > 5
        assert far[1][bent].mean() < 0.65 * far[0][bent].mean()

    def test_relaxed_is_the_mean(self, right):
        np.testing.assert_array_equal(right["hands_mean"], GRASPS["relaxed"])


class TestShape:
    def test_joints_follow_every_shape(self, right):
        """The regressor was fitted to these; the skeleton, deformed the same way, is the ground truth."""
        wanted = shape_motion(REST.joints, np.eye(16))
        found = np.einsum("jv,vkc->jkc", right["J_regressor"], right["shapedirs"])
        np.testing.assert_allclose(right["J_regressor"] @ right["v_template"], REST.joints, atol=1e-4)
        assert np.linalg.norm(found - wanted, axis=1).max() < 5e-4
        np.testing.assert_allclose(right["J_regressor"].sum(axis=1), 1.0, atol=1e-12)
        assert right["J_regressor"].min() >= 0

    def test_every_shape_is_seen_and_small(self, right):
        largest = np.linalg.norm(right["shapedirs"], axis=1).max(axis=0)
        assert len(SHAPE_NAMES) == 10
        assert (largest > 5e-4).all()
        assert (largest < 0.012).all()
        flat = right["shapedirs"].reshape(-1, 10)
        alike = np.corrcoef(flat.T) - np.eye(10)
        assert np.abs(alike).max() < 0.9  # no two directions are the same

    def test_size_scales_the_bones(self, right):
        rest = right["J_regressor"] @ right["v_template"]
        grown = right["J_regressor"] @ (right["v_template"] + right["shapedirs"][:, :, 0])
        bones = [np.linalg.norm(j[5] - j[4]) for j in (rest, grown)]
        assert bones[1] / bones[0] == pytest.approx(1.045, abs=0.005)

    @pytest.mark.parametrize("extreme", [-3.0, 3.0])
    def test_extreme_shapes_keep_the_surface_right_side_out(self, right, extreme):
        faces = right["f"].astype(np.int64)
        for k in range(10):
            changed = right["v_template"] + extreme * right["shapedirs"][:, :, k]
            before, after = (
                np.cross(c[:, 1] - c[:, 0], c[:, 2] - c[:, 0]) for c in (right["v_template"][faces], changed[faces])
            )
            assert (np.einsum("fk,fk->f", before, after) > 0).all(), SHAPE_NAMES[k]


class TestPose:
    def test_axes_are_right_handed_frames(self):
        frame = np.stack([REST.flexion_axes, REST.abduction_axes, REST.bone_axes], axis=-1)
        np.testing.assert_allclose(np.swapaxes(frame, 1, 2) @ frame, np.tile(np.eye(3), (15, 1, 1)), atol=1e-12)
        np.testing.assert_allclose(np.linalg.det(frame), 1.0)

    def test_angles_round_trip(self):
        limits = hand.JOINT_LIMITS
        angles = np.random.default_rng(0).uniform(limits[..., 0], limits[..., 1], size=(7, 15, 3))
        pose = hand.angles_to_pose(angles, REST)
        assert pose.shape == (7, 45)
        np.testing.assert_allclose(pose_to_joint_angles(pose), angles, atol=1e-10)
        np.testing.assert_allclose(mirror_pose(mirror_pose(pose)), pose)

    @pytest.mark.parametrize("name", hand.GRASP_ANGLES)
    def test_grasps_are_within_the_limits(self, name):
        angles, limits = hand.GRASP_ANGLES[name], hand.JOINT_LIMITS
        assert (angles >= limits[..., 0] - 1e-9).all()
        assert (angles <= limits[..., 1] + 1e-9).all()

    def test_grasps_match_their_names(self, right):
        tips = {name: {d: pose_mesh(right, pose)[0][v] for d, v in TIP_IDS.items()} for name, pose in GRASPS.items()}
        gap = {name: np.linalg.norm(tip["thumb"] - tip["index"]) for name, tip in tips.items()}
        assert gap["pinch"] < 0.02 < 0.07 < gap["flat_on_side"]
        for finger in ("index", "middle", "ring", "pinky"):
            assert np.linalg.norm(tips["fist"][finger] - right["J"][0]) < 0.095
            assert np.linalg.norm(tips["open"][finger] - right["J"][0]) > 0.14
        assert np.linalg.norm(tips["point"]["index"] - right["J"][0]) > 0.16


class TestCollapse:
    def test_grid_keeps_disc_topology_and_exact_counts(self):
        n = 9
        y, x = np.mgrid[:n, :n]
        points = np.stack([x.ravel(), y.ravel(), np.zeros(n * n)], axis=1) * 1.0
        corner = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).ravel()
        faces = np.concatenate([np.stack([corner, corner + 1, corner + n], 1),
                                np.stack([corner + 1, corner + n + 1, corner + n], 1)])  # fmt: skip
        grid = CollapseMesh(points, faces, np.ones(n * n))
        grid.reduce(0, 16, rim_only=True)
        grid.reduce(40, 16)
        vertices, fewer = grid.arrays()
        assert len(vertices) == 40
        assert len(rim_edges(fewer)) == 16
        assert len(fewer) == 2 * 40 - 16 - 2
        corner_points = vertices[fewer]
        normal = np.cross(corner_points[:, 1] - corner_points[:, 0], corner_points[:, 2] - corner_points[:, 0])
        assert (normal[:, 2] > 0).all()


class TestGenerator:
    def test_reproduces_the_file_of_the_package(self):
        """Floats may differ in the last digits between processors, so they are compared within a nanometre."""
        made, stored = hand_arrays(), hand.stored_arrays(hand.HAND_FILE)
        assert set(made) == set(stored)
        for name, value in made.items():
            assert value.dtype == stored[name].dtype, name
            np.testing.assert_allclose(value, stored[name], rtol=0, atol=1e-9, err_msg=name)
