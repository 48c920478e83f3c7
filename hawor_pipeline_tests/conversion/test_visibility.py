"""Visibility by ray casting against a slow twin that tries every triangle, and against cases one can see by eye."""

import numpy as np
import pytest

from hawor_pipeline.conversion.hand_geometry import pose_hand
from hawor_pipeline.conversion.visibility import SKIN_DEPTH_M, SkinFaces, joint_visibility
from hawor_pipeline.core.mano_convention import ARCTIC
from hawor_pipeline.core.skeleton import JOINT_NAMES, MANO_PARENTS, OPENPOSE_FROM_MANO
from hawor_pipeline.sources.arctic import ArcticRoot
from hawor_pipeline.sources.hand_models import load_hand_models
from hawor_pipeline.sources.object_mesh import load_object
from hawor_pipeline.sources.object_part import ObjectPart, PosedPart, least_distance
from hawor_pipeline.sources.reader import HandLabels

WRIST, TIPS = 0, [4, 8, 12, 16, 20]


@pytest.fixture(scope="module")
def models(sample_root):
    return load_hand_models(sample_root / "body_models" / "mano", ARCTIC)


@pytest.fixture(scope="module")
def skin(models):
    return SkinFaces.from_models(
        {side: arrays.faces for side, arrays in models.arrays.items()},
        {side: arrays.skin_weights for side, arrays in models.arrays.items()},
    )


def flat_hand(models, side, shift=(0.0, 0.0, 0.0), bend=0.0):
    pose = np.zeros((1, 15, 3)) - models.arrays[side].hands_mean.reshape(1, 15, 3)
    pose[..., 2] += bend
    raw = HandLabels(np.zeros((1, 3)), pose.reshape(1, 45), np.array([shift]), np.zeros((1, 10)), np.zeros(1))
    hand = pose_hand(models, side, raw)
    return hand.vertices_m[0], hand.joints_m[0]


def broad_direction(vertices):
    """The thin axis of a flat hand: from along it, all of the hand is in sight."""
    return np.linalg.svd(vertices - vertices.mean(0), full_matrices=False)[2][2]


def wall(center, normal, size=1.0):
    side = np.linalg.svd(normal[None])[2][1:] * size
    corners = center + np.array([side[0] + side[1], side[0] - side[1], -side[0] - side[1], -side[0] + side[1]])
    return corners, np.array([[0, 1, 2], [0, 2, 3]])


def somewhere(vertices, faces, seed=3):
    """A part whose own frame is turned and far away, posed so that it lies where `vertices` say."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    shift = rng.normal(size=3)
    return PosedPart(ObjectPart((vertices - shift) @ rotation, faces), rotation, shift)


def test_a_flat_hand_is_seen_from_both_broad_sides_and_not_through_a_wall(models, skin):
    vertices, joints = flat_hand(models, "right")
    away = broad_direction(vertices)
    cameras = vertices.mean(0) + np.stack([away, -away])
    seen = joint_visibility({"right": vertices}, {"right": joints}, cameras, skin)["right"]
    assert seen.all(), [JOINT_NAMES[j] for j in np.flatnonzero(~seen.all(0))]
    before = somewhere(*wall(vertices.mean(0) + 0.3 * away, away))
    hidden = joint_visibility({"right": vertices}, {"right": joints}, cameras, skin, [before])["right"]
    assert not hidden[0].any() and hidden[1].all()


def test_the_other_hand_hides(models, skin):
    vertices, joints = flat_hand(models, "right")
    away = broad_direction(vertices)
    other_vertices, other_joints = flat_hand(models, "left")
    other_vertices, other_joints = (
        x - other_vertices.mean(0) + vertices.mean(0) + 0.2 * away for x in (other_vertices, other_joints)
    )
    camera = (vertices.mean(0) + away)[None]
    seen = joint_visibility(
        {"left": other_vertices, "right": vertices}, {"left": other_joints, "right": joints}, camera, skin
    )
    assert seen["left"].all()
    assert seen["right"].mean() < 0.7


def first_hit(origin, direction, triangles):
    """Distance and index of the nearest triangle (Moeller-Trumbore), inf where none."""
    a, b, c = triangles[:, 0], triangles[:, 1], triangles[:, 2]
    edge1, edge2 = b - a, c - a
    p = np.cross(direction, edge2)
    det = (edge1 * p).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        s = origin - a
        u = (s * p).sum(-1) / det
        q = np.cross(s, edge1)
        v = (direction * q).sum(-1) / det
        t = (edge2 * q).sum(-1) / det
    hit = (np.abs(det) > 1e-14) & (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)
    t = np.where(hit, t, np.inf)
    return t.min(), int(t.argmin())


def test_agrees_with_trying_every_triangle(models, skin):
    """Bent fingers, two hands and a box, from all around: at most a grazing ray may differ (single precision)."""
    right, right_joints = flat_hand(models, "right", bend=-0.6)
    left, left_joints = flat_hand(models, "left", shift=(0.06, 0.05, 0.02), bend=0.5)
    box = wall(right.mean(0) + np.array([0.0, 0.06, 0.0]), np.array([0.3, 1.0, 0.1]), 0.05)
    rng = np.random.default_rng(0)
    cameras = rng.normal(size=(6, 3))
    cameras = right.mean(0) + 0.8 * cameras / np.linalg.norm(cameras, axis=1, keepdims=True)
    vertices, joints = {"left": left, "right": right}, {"left": left_joints, "right": right_joints}
    boxes = [somewhere(box[0], box[1][:1], 3), somewhere(box[0], box[1][1:], 4)]
    seen = joint_visibility(vertices, joints, cameras, skin, boxes)
    triangles = np.concatenate([left[skin.faces["left"]], right[skin.faces["right"]], box[0][box[1]]])
    owners = ["left"] * 1538 + ["right"] * 1538 + ["box"] * 2
    own_bone = {i: (OPENPOSE_FROM_MANO[i] if OPENPOSE_FROM_MANO[i] < 16 else None) for i in range(21)}
    tip_bone = dict(zip(TIPS, (15, 3, 6, 12, 9), strict=True))
    different = 0
    for side in ("left", "right"):
        for k, camera in enumerate(cameras):
            for j in range(21):
                ray = joints[side][j] - camera
                distance = np.linalg.norm(ray)
                depth, face = first_hit(camera, ray / distance, triangles)
                bone = tip_bone.get(j, own_bone[j])
                expected = depth >= distance - 0.0005
                if not expected and owners[face] == side:
                    weights = models.arrays[side].skin_weights[skin.faces[side][face % 1538]].sum(0).argmax()
                    related = weights == bone or MANO_PARENTS[weights] == bone or MANO_PARENTS[bone] == weights
                    expected = related and depth >= distance - SKIN_DEPTH_M[j]
                different += bool(expected) != bool(seen[side][k, j])
    total = sum(value.size for value in seen.values())
    assert different <= 0.01 * total
    assert 0.1 < np.mean([value.mean() for value in seen.values()]) < 0.95  # the case has both


def test_no_joint_of_a_visible_wrist_depends_on_units(models, skin):
    """The allowed depth is in metres: a hand a hundred times larger shows almost nothing but its tips."""
    vertices, joints = flat_hand(models, "right")
    away = broad_direction(vertices)
    big = joint_visibility(
        {"right": vertices * 100}, {"right": joints * 100}, (vertices.mean(0) * 100 + 100 * away)[None], skin
    )
    assert not big["right"][0, WRIST]


def test_the_least_distance_to_the_object_is_that_of_a_full_search():
    rng = np.random.default_rng(8)
    for gap in (0.0, 0.003, 0.2):
        corners = [rng.normal(size=(200, 3)) * 0.05, rng.normal(size=(90, 3)) * 0.05 - (0.05, 0, 0)]
        faces = [rng.integers(0, len(part), (300, 3)) for part in corners]
        hand = rng.normal(size=(778, 3)) * 0.04 + (0.1 + gap, 0, 0)
        surface = np.concatenate([*corners, *(part[of].mean(1) for part, of in zip(corners, faces, strict=True))])
        apart = np.linalg.norm(hand[:, None] - surface[None], axis=-1)
        found = least_distance(
            [somewhere(*part, seed) for seed, part in enumerate(zip(corners, faces, strict=True))], hand
        )
        assert found == pytest.approx(apart.min(), abs=1e-12)


def test_the_parts_of_an_object_lie_where_its_vertices_do(sample_root):
    """The posed parts, put together, are the posed object; an articulated top is not a rigid copy of the whole."""
    root = ArcticRoot.locate(sample_root)
    mesh = load_object(root, "box")
    rng = np.random.default_rng(5)
    motion = (rng.uniform(0, 2, 4), rng.normal(size=(4, 3)), rng.normal(size=(4, 3)))
    for parts, vertices in zip(mesh.posed_parts(*motion), mesh.posed(*motion), strict=True):
        corners = vertices[mesh.faces].reshape(-1, 3)
        assert max(least_distance(parts, point[None]) for point in corners[::50]) < 1e-9
        away = vertices.mean(0) + (vertices - vertices.mean(0)) * 1.5
        surface = np.concatenate((vertices, vertices[mesh.faces].mean(1)))
        expected = np.linalg.norm(away[::16, None] - surface, axis=-1).min()
        assert least_distance(parts, away[::16]) == pytest.approx(expected, abs=1e-9)
