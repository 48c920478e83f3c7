"""Motions are smooth and natural, hands touch objects without sinking in, object meshes match their distance fields."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from hawor_pipeline.sample import hand_motion, studio
from hawor_pipeline.sample.articulated_objects import TOP_PART, build_object
from hawor_pipeline.sample.grasp import HandRig
from hawor_pipeline.sample.hand import JOINT_LIMITS, SIDES, mirror_pose
from hawor_pipeline.sample.skin import FineMesh
from hawor_pipeline.sample.spec import OBJECT_NAMES
from hawor_pipeline.untrusted.mano_files import load_mano
from hawor_pipeline.workers.pool import one_thread
from hawor_pipeline_tests.sample.joint_angles import pose_to_joint_angles
from tools.procedural_scene.objects import OBJECTS


@pytest.fixture(scope="module", autouse=True)
def single_threaded():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def rigs(sample_root) -> dict[str, HandRig]:
    folder = sample_root / "body_models" / "mano"
    return {side: HandRig(load_mano(folder, side), side, np.zeros(10)) for side in SIDES}


@pytest.fixture(scope="module")
def motions(rigs) -> list[hand_motion.Motion]:
    plans = [("box", "use"), ("laptop", "grab"), ("ketchup", "use"), ("phone", "grab")]
    return [
        hand_motion.make_motion(rigs, name, action, -2, 50, np.random.default_rng(k), 0.3 * k)
        for k, (name, action) in enumerate(plans)
    ]


def test_hands_touch_the_object_without_sinking_in(motions) -> None:
    for one in motions:
        model = build_object(one.object_name)
        turn = Rotation.from_rotvec(one.object_rotation).as_matrix()
        for track in one.hands.values():
            local = (track.vertices - one.object_translation[:, None]).astype(float) @ turn
            gap_mm = model.distance_mm(local * 1000, one.articulation.astype(float)).min(axis=1)
            assert (gap_mm < 3.0).mean() > 0.25, "the hand hardly ever touches the object"
            assert np.median(gap_mm) > -8.0, "the hand sinks into the object"


def test_motion_is_smooth_and_within_human_reach(motions) -> None:
    for one in motions:
        for track in one.hands.values():
            speed = np.linalg.norm(np.diff(track.joints[:, 0], axis=0), axis=-1) * 30
            assert speed.max() < 3.0
            jerk = np.linalg.norm(np.diff(track.joints, n=2, axis=0), axis=-1)
            assert jerk.max() < 0.06
            shoulder_to_wrist = np.linalg.norm(track.joints[:, 0] - track.shoulder, axis=-1)
            assert shoulder_to_wrist.max() < 0.62


def test_fingers_stay_within_joint_limits(motions, rigs) -> None:
    for one in motions:
        for side, track in one.hands.items():
            pose = track.pose + rigs[side].mean
            angles = pose_to_joint_angles(pose if side == "right" else mirror_pose(pose))
            assert (angles > JOINT_LIMITS[..., 0] - 1e-3).all() and (angles < JOINT_LIMITS[..., 1] + 1e-3).all()


def test_same_generator_same_motion_other_generator_other_motion(rigs) -> None:
    first, again, other = (
        hand_motion.make_motion(rigs, "box", "use", 0, 9, np.random.default_rng(seed), 0.0) for seed in (4, 4, 5)
    )
    np.testing.assert_array_equal(first.hands["left"].vertices, again.hands["left"].vertices)
    assert np.abs(first.hands["left"].vertices - other.hands["left"].vertices).max() > 0.02


def test_orientations_in_the_cameras_cover_the_sphere(motions) -> None:
    seen = []
    for camera in studio.make_cameras("s01", 0, 0.25)[1:]:
        for one in motions:
            turn = Rotation.from_matrix(camera.cam_from_world[:3, :3]) * Rotation.from_rotvec(one.hands["right"].orient)
            seen.append(turn.as_matrix()[::10])
    directions = np.concatenate(seen)[:, :, 0]
    octants = {tuple(d > 0) for d in directions}
    assert len(octants) >= 7
    angles = (Rotation.from_matrix(np.concatenate(seen)) * Rotation.from_matrix(seen[0][0]).inv()).magnitude()
    assert np.median(angles) > np.radians(60) and angles.max() > np.radians(150)


@pytest.mark.parametrize("name", OBJECT_NAMES)
def test_object_mesh_lies_on_its_distance_field_and_faces_outwards(name: str) -> None:
    model = build_object(name)
    for part in (0, 1):
        for solid, primitive in zip(OBJECTS[name]()[part], model.primitives[part], strict=True):
            vertices, faces = solid.mesh()
            assert np.abs(primitive.distance_mm(vertices)).max() < 0.02
            a, b, c = np.moveaxis(vertices[faces], 1, 0)
            assert np.einsum("ij,ij->i", a - vertices.mean(axis=0), np.cross(b - a, c - a)).sum() > 0
    low, high = model.articulation_range
    opened = model.articulated_mm(np.array([low, high]))
    assert np.abs(opened[0] - opened[1])[model.parts != TOP_PART].max() == 0
    assert np.abs(opened[0] - opened[1])[model.parts == TOP_PART].max() > 20


def test_finer_mesh_keeps_the_original_vertices_and_lies_on_a_sphere() -> None:
    corner = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
    faces = np.array([[0, 2, 4], [2, 1, 4], [1, 3, 4], [3, 0, 4], [2, 0, 5], [1, 2, 5], [3, 1, 5], [0, 3, 5]])
    fine = FineMesh.of(faces)
    points = fine.rounded(corner[None], corner[None])[0]
    np.testing.assert_array_equal(points[:6], corner)
    flat = np.linalg.norm(fine.average(corner[None])[0][6:], axis=-1)
    assert len(fine.faces) == 32 and (np.linalg.norm(points[6:], axis=-1) > flat + 0.1).all()
