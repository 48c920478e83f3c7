"""The recorded person's own body as an occluder: SMPL-X, posed over time, without its hands.

Hands come from MANO, which fits them better; SMPL-X's own end at the wrists. Trunk, head, legs and upper arms are rigid
parts, one for each bone, whose search structures are built once for all moments; a triangle that moves with several
bones is in the part of each. The forearms bend near the hands, so they are skinned and built anew at each moment, from
a mesh of fewer vertices.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch

from hawor_pipeline.core.body import (
    BODY_VERTEX_COUNT,
    ELBOW_BONES,
    FIRST_FINGER_BONE,
    NECK_AND_HEAD_BONES,
    WRIST_BONES,
    BodyArrays,
    bone_motions,
    skin,
)
from hawor_pipeline.core.rotations import axis_angle_to_rotmat
from hawor_pipeline.errors import DataError
from hawor_pipeline.sources.arctic import SIDES
from hawor_pipeline.sources.object_mesh import read_obj
from hawor_pipeline.sources.object_part import ObjectPart, PosedPart
from hawor_pipeline.untrusted.smplx_files import load_smplx

_SHARED_WEIGHT = 0.25  # a triangle is in the part of each bone that moves one of its corners by at least this weight
_BENT_WEIGHT = 0.05  # of the forearm's bones, from which on a triangle belongs to the bending forearm
_WRIST_MARGIN_M = 0.01  # before the wrist joint, where MANO's surface begins
_CELL_M = 0.03  # size of the cells of which a forearm keeps one vertex each


@dataclass(frozen=True, slots=True)
class BodyPose:
    """Pose of SMPL-X over T moments, world frame; hands absolute (flat_hand_mean=True)."""

    rotations: np.ndarray  # (T, 55, 3) axis-angle, relative to the parent bone
    translation_m: np.ndarray  # (T, 3)

    def moment(self, index: int) -> "BodyPose":
        """Reduce to one moment."""
        part = slice(index, index + 1)
        return BodyPose(self.rotations[part], self.translation_m[part])


@dataclass(frozen=True, slots=True)
class _BonePart:
    """Triangles that move with one bone, in the rest pose, and the sphere around them."""

    bone: int
    part: ObjectPart
    centre_m: np.ndarray  # (3,)
    radius_m: float

    @classmethod
    def of(cls, bone: int, template: np.ndarray, faces: np.ndarray) -> "_BonePart":
        """Cut the triangles (F, 3) out of the rest mesh."""
        used, renumbered = np.unique(faces, return_inverse=True)
        vertices = template[used]
        centre = (vertices.min(0) + vertices.max(0)) / 2
        radius = float(np.linalg.norm(vertices - centre, axis=1).max())
        return cls(bone, ObjectPart(vertices, renumbered.reshape(-1, 3)), centre, radius)


@dataclass(frozen=True, slots=True)
class _Forearm:
    """The skin of one forearm in the rest pose."""

    vertices: torch.Tensor  # (V, 3)
    weights: torch.Tensor  # (V, 55)
    pose_dirs: torch.Tensor  # (V, 3, 486)
    plain_faces: np.ndarray  # (F, 3) Python's numbers, which embreex reads faster than NumPy's


class BodySurface:
    """The body of one subject in the rest pose, cut into parts.

    Args:
        arrays: SMPL-X of the subject's gender.
        template: (10475, 3) rest vertices of the subject, metres.
    """

    def __init__(self, arrays: BodyArrays, template: np.ndarray) -> None:
        joints = arrays.joint_regressor @ template
        self.joints = torch.from_numpy(joints).float()
        weights, faces = arrays.skin_weights, _without_hands(arrays, template, joints)
        self.forearms: dict[str, _Forearm] = {}
        bent_at_all = np.zeros(len(faces), bool)
        for side in SIDES:
            moved = weights[:, [ELBOW_BONES[side], WRIST_BONES[side]]].sum(1)
            bent = (moved[faces] > _BENT_WEIGHT).any(1)
            self.forearms[side] = _forearm(arrays, template, faces[bent])
            bent_at_all |= bent
        faces = faces[~bent_at_all]
        most = weights[faces].max(1)  # (F, 55)
        self.parts = [
            _BonePart.of(bone, template, faces[most[:, bone] >= _SHARED_WEIGHT])
            for bone in np.flatnonzero((most >= _SHARED_WEIGHT).any(0)).tolist()
        ]
        self.centres_m = np.array([part.centre_m for part in self.parts], float)
        self.radii_m = np.array([part.radius_m for part in self.parts])


def _without_hands(arrays: BodyArrays, template: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """Return the triangles (F, 3) that have an area and begin before the wrists."""
    beyond = np.zeros(BODY_VERTEX_COUNT, bool)
    for side in SIDES:
        wrist, elbow, first = WRIST_BONES[side], ELBOW_BONES[side], FIRST_FINGER_BONE[side]
        inward = (joints[elbow] - joints[wrist]) / np.linalg.norm(joints[elbow] - joints[wrist])
        hand = arrays.skin_weights[:, [wrist, *range(first, first + 15)]].sum(1) > 0
        beyond |= hand & ((template - joints[wrist]) @ inward < _WRIST_MARGIN_M)
    faces = arrays.faces[~beyond[arrays.faces].all(1)]
    a, b, c = template[faces].transpose(1, 0, 2)
    return faces[np.linalg.norm(np.cross(b - a, c - a), axis=1) > 0]


def _forearm(arrays: BodyArrays, template: np.ndarray, faces: np.ndarray) -> _Forearm:
    """Merge the vertices of each cell into the one nearest to their mean."""
    used = np.unique(faces)
    points = template[used]
    cells, cell_of = np.unique(np.floor(points / _CELL_M).astype(int), axis=0, return_inverse=True)
    cell_of = cell_of.ravel()
    means = np.stack([np.bincount(cell_of, points[:, k]) for k in range(3)], 1) / np.bincount(cell_of)[:, None]
    order = np.lexsort((np.linalg.norm(points - means[cell_of], axis=1), cell_of))
    kept = used[order[np.searchsorted(cell_of[order], np.arange(len(cells)))]]
    number = np.zeros(BODY_VERTEX_COUNT, np.int32)
    number[used] = cell_of
    merged = number[faces]
    a, b, c = merged.T
    merged = np.unique(merged[(a != b) & (b != c) & (c != a)], axis=0)

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values[kept])).float()

    return _Forearm(tensor(template), tensor(arrays.skin_weights), tensor(arrays.pose_dirs), merged.astype(object))


@lru_cache(maxsize=2)
def _arrays(file: Path) -> BodyArrays:
    return load_smplx(file)


@lru_cache(maxsize=2)
def load_surface(model: Path, template: Path) -> BodySurface:
    """Read the body of a subject.

    Args:
        model: file of SMPL-X.
        template: the subject's rest mesh, ARCTIC's `meta/subject_vtemplates/{subject}.obj`.

    Raises:
        DataError: a file is damaged, or the template has another number of vertices.
    """
    vertices, _ = read_obj(template)
    if len(vertices) != BODY_VERTEX_COUNT:
        raise DataError(
            f"{template}: has {len(vertices)} vertices, expected SMPL-X's {BODY_VERTEX_COUNT}; get ARCTIC's meta "
            "folder again."
        )
    return BodySurface(_arrays(model), vertices.astype(np.float32))


@dataclass(frozen=True)
class PosedBody:
    """A body over T moments in the world frame. Views in `worn_views` are those of a camera on its head."""

    surface: BodySurface
    pose: BodyPose
    worn_views: frozenset[int] = frozenset()

    def moment(self, index: int) -> "PosedBody":
        """Reduce to one moment."""
        return replace(self, pose=self.pose.moment(index))

    @cached_property
    def _posed(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Motions of the bones (T, 55, 3, 4) and vertices of the forearms (T, V, 3)."""
        rotations = axis_angle_to_rotmat(torch.from_numpy(self.pose.rotations)).float()
        shift = torch.from_numpy(self.pose.translation_m).float()
        motions = bone_motions(rotations, self.surface.joints, shift)
        skins = {
            side: skin(arm.vertices, arm.weights, arm.pose_dirs, rotations, motions).numpy()
            for side, arm in self.surface.forearms.items()
        }
        return motions.double().numpy(), skins

    def at(self, index: int) -> "BodyMoment":
        """Return the body at one moment."""
        motions, skins = self._posed
        return BodyMoment(self.surface, motions[index], {side: vertices[index] for side, vertices in skins.items()})


@dataclass(frozen=True, slots=True)
class BodyMoment:
    """A body at one moment in the world frame."""

    surface: BodySurface
    motions: np.ndarray  # (55, 3, 4)
    forearms: Mapping[str, np.ndarray]  # side -> (V, 3)

    def first_hits(
        self, origins: np.ndarray, directions: np.ndarray, lengths: np.ndarray, worn: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Find the first hit along each ray.

        Args:
            origins, directions: (N, 3) in the world frame, directions of length 1.
            lengths: (N,) of the rays, metres; what lies beyond need not be found.
            worn: (N,) True for rays of a camera on the head, which neck and head never hide.

        Returns:
            Depth (N,), huge where nothing is hit, and the forearm that is hit (N,): its place in `SIDES`, or -1.
        """
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        scene = EmbreeScene()
        # the scene numbers its meshes in the order in which they are added
        kept = [
            TriangleMesh(scene, self.forearms[side].astype(object), self.surface.forearms[side].plain_faces)
            for side in SIDES
        ]
        hits = scene.run(np.float32(origins), np.float32(directions), output=True)
        del kept
        depth, forearm = hits["tfar"].astype(float), hits["geomID"].astype(np.int64)
        parts = self.surface.parts
        moved = self.motions[[part.bone for part in parts]]  # (P, 3, 4)
        for part, motion, close in zip(parts, moved, self._near(moved, origins, directions, lengths), strict=True):
            chosen = np.flatnonzero(close & ~worn if part.bone in NECK_AND_HEAD_BONES else close)
            if len(chosen):
                posed = PosedPart(part.part, motion[:, :3], motion[:, 3])
                found = posed.first_hits(origins[chosen], directions[chosen])
                before = found < depth[chosen]
                depth[chosen[before]], forearm[chosen[before]] = found[before], -1
        return depth, forearm

    def _near(self, moved: np.ndarray, origins: np.ndarray, directions: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Return which rays (P, N) pass through the sphere around each part."""
        centres = np.einsum("pij,pj->pi", moved[..., :3], self.surface.centres_m) + moved[..., 3]
        along = centres @ directions.T - np.einsum("ni,ni->n", origins, directions)
        squared = np.einsum("pi,pi->p", centres, centres)[:, None] - 2 * centres @ origins.T
        squared += np.einsum("ni,ni->n", origins, origins)
        at = np.clip(along, 0, lengths)
        return squared - 2 * at * along + at * at <= self.surface.radii_m[:, None] ** 2
