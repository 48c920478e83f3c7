"""Visibility of hand joints from geometry: rays against both hands, the articulated object and the person's body.

A joint lies inside the hand, so the first thing a ray towards it meets is, at best, its own skin. The joint counts as
visible if that first hit is skin of the same hand that belongs to the joint (its own bone or a neighbour in the
kinematic chain) and lies within `SKIN_DEPTH_M` of it along the ray, or if nothing is hit before it. Everything else in
front of it (the other hand, the object, another finger, the far side of the palm, an arm, the trunk, the head) hides
it. The forearm continues the hand, so its skin shows the joints that the skin of the wrist shows. The search structure
of the hands is built once per frame in the world frame and serves all views; that of rigid parts once for all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hawor_pipeline.core.skeleton import MANO_PARENTS, OPENPOSE_FROM_MANO
from hawor_pipeline.sources.arctic import SIDES
from hawor_pipeline.sources.object_part import PosedPart
from hawor_pipeline.sources.own_body import BodyMoment

# How much tissue may lie between a joint and the skin that shows it, along a ray that may be slanted: about one and a
# half times half the thickness of an adult's wrist, thumb root, palm and fingers (OpenPose order).
_WRIST_M, _THUMB_ROOT_M, _PALM_M, _FINGER_M = 0.045, 0.035, 0.030, 0.020
_THUMB_M = (_THUMB_ROOT_M, _PALM_M, _FINGER_M, _FINGER_M)
SKIN_DEPTH_M = np.array([_WRIST_M, *_THUMB_M, *4 * (_PALM_M, _FINGER_M, _FINGER_M, _FINGER_M)])
_SLACK_M = 0.0005  # single-precision intersection against points that lie on the surface (fingertips)
_WRIST_BONE = 0
_TIP_BONES = (15, 3, 6, 12, 9)  # last bone of thumb, index, middle, ring, pinky


def _joint_bones() -> np.ndarray:
    """(21, 16) bool: which bones' skin may show each joint (OpenPose order)."""
    related = np.eye(16, dtype=bool)
    for bone, parent in enumerate(MANO_PARENTS):
        if parent >= 0:
            related[bone, parent] = related[parent, bone] = True
    own = [*range(16), *_TIP_BONES]
    return related[[own[index] for index in OPENPOSE_FROM_MANO]]


JOINT_BONES = _joint_bones()


@dataclass(frozen=True, slots=True)
class Body:
    """The person's body at one moment, and which of the C cameras sit on its head."""

    moment: BodyMoment
    worn: Sequence[bool]  # C


@dataclass(frozen=True, slots=True)
class SkinFaces:
    """Triangles of both hands, and the bone that each belongs to."""

    faces: dict[str, np.ndarray]  # side -> (F, 3) int32
    bones: dict[str, np.ndarray]  # side -> (F,) bone with the largest skinning weight
    # `faces` as Python's numbers: embreex reads arrays number by number, which takes a quarter longer from NumPy's.
    plain_faces: dict[str, np.ndarray]

    @classmethod
    def from_models(cls, faces: dict[str, np.ndarray], skin_weights: dict[str, np.ndarray]) -> "SkinFaces":
        """Args:
        faces: side to (F, 3).
        skin_weights: side to (778, 16).
        """
        bones = {side: skin_weights[side][faces[side]].sum(1).argmax(1) for side in faces}
        whole = {side: np.ascontiguousarray(value, np.int32) for side, value in faces.items()}
        return cls(whole, bones, {side: value.astype(object) for side, value in whole.items()})


def joint_visibility(
    vertices: dict[str, np.ndarray],
    joints: dict[str, np.ndarray],
    cameras: np.ndarray,
    skin: SkinFaces,
    obstacles: Sequence[PosedPart] = (),
    body: Body | None = None,
) -> dict[str, np.ndarray]:
    """Cast one ray per camera, hand and joint, for one moment.

    Args:
        vertices: side to (778, 3), world frame, metres.
        joints: side to (21, 3), world frame, metres, OpenPose order.
        cameras: (C, 3), camera centres, world frame, metres.
        skin: triangles of the hands and the bones they belong to.
        obstacles: what else may hide a joint.
        body: the person's body, if it counts.

    Returns:
        Side to (C, 21) bool.
    """
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene

    scene = EmbreeScene()
    sides = list(vertices)
    # the scene numbers its meshes in the order in which they are added
    kept = [TriangleMesh(scene, np.float32(vertices[side]).astype(object), skin.plain_faces[side]) for side in sides]
    goals = np.stack([joints[side] for side in sides])  # (S, 21, 3)
    rays = goals[None] - cameras[:, None, None]  # (C, S, 21, 3)
    distance = np.linalg.norm(rays, axis=-1)
    directions = (rays / distance[..., None]).reshape(-1, 3)
    origins = np.broadcast_to(cameras[:, None, None], rays.shape).reshape(-1, 3)
    hits = scene.run(*(np.ascontiguousarray(part, np.float32) for part in (origins, directions)), output=True)
    del kept
    skin_depth = hits["tfar"].reshape(distance.shape)  # huge where nothing is hit
    mesh, face = hits["geomID"].reshape(distance.shape), hits["primID"].reshape(distance.shape)
    depth = skin_depth
    for obstacle in obstacles:
        depth = np.minimum(depth, obstacle.first_hits(origins, directions).reshape(distance.shape))
    clear = depth >= distance - _SLACK_M
    near = (depth == skin_depth) & (depth >= distance - SKIN_DEPTH_M)
    visible = {}
    for index, side in enumerate(sides):
        bone = skin.bones[side][np.clip(face[:, index], 0, len(skin.bones[side]) - 1)]  # (C, 21)
        own = (mesh[:, index] == index) & JOINT_BONES[np.arange(21), bone]
        visible[side] = clear[:, index] | (own & near[:, index])
    if body is not None:
        _hide_behind(body, visible, (origins, directions, distance), np.minimum(depth, distance - _SLACK_M))
    return visible


def _hide_behind(
    body: Body, visible: dict[str, np.ndarray], rays: tuple[np.ndarray, np.ndarray, np.ndarray], skin_depth: np.ndarray
) -> None:
    """Mark those of the visible joints as hidden that are behind the person's body.

    Args:
        body: the body, and the cameras that it wears.
        visible: side to (C, 21), changed in place.
        rays: origins and directions (C S 21, 3), and lengths (C, S, 21).
        skin_depth: (C, S, 21) depth of the skin that shows each joint, or of the joint.
    """
    origins, directions, lengths = rays
    sides = list(visible)
    asked = np.stack([visible[side] for side in sides], axis=1)  # (C, S, 21)
    chosen = np.flatnonzero(asked)
    worn = np.broadcast_to(np.asarray(body.worn)[:, None, None], asked.shape).ravel()[chosen]
    length, skin_at = lengths.ravel()[chosen], skin_depth.ravel()[chosen]
    depth, forearm = body.moment.first_hits(origins[chosen], directions[chosen], length, worn)
    _, side_of, joint_of = np.unravel_index(chosen, asked.shape)
    own = JOINT_BONES[joint_of, _WRIST_BONE] & (forearm == np.array([SIDES.index(side) for side in sides])[side_of])
    hidden = (depth < skin_at) & ~(own & (depth >= length - SKIN_DEPTH_M[joint_of]))
    asked.ravel()[chosen[hidden]] = False
    for index, side in enumerate(sides):
        visible[side] = asked[:, index]
