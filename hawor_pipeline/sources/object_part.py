"""Rigid parts of an object, with what rays and distances need: built once, in the part's own frame, for all moments."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

_FEW = 8  # points that are nearest to a part's box bound the distance of all
_ROUNDING_M = 1e-9


class ObjectPart:
    """A triangle mesh that never changes its shape, and its search structures.

    Args:
        vertices: (V, 3), metres, in the part's own frame.
        faces: (F, 3).
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray):
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        self._scene = EmbreeScene()
        self._mesh = TriangleMesh(self._scene, np.float32(vertices), np.int32(faces))
        self._vertices, self._faces = vertices, faces
        self._low, self._high = vertices.min(axis=0), vertices.max(axis=0)

    @cached_property
    def _surface(self) -> "cKDTree":
        from scipy.spatial import cKDTree

        return cKDTree(np.concatenate((self._vertices, self._vertices[self._faces].mean(1))))

    def first_hits(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Depth along each ray, (N,) metres, huge where nothing is hit; origins and unit directions are (N, 3)."""
        rays = (np.ascontiguousarray(part, np.float32) for part in (origins, directions))
        return self._scene.run(*rays, output=True)["tfar"]

    def nearest(self, points: np.ndarray, at_most: float = np.inf) -> float:
        """Least distance of points (N, 3) to corners and middles of the triangles, infinite if above `at_most`."""
        # No point is nearer to the part than to the box around it, so few points need a search.
        gaps = np.linalg.norm(np.maximum(np.maximum(self._low - points, points - self._high), 0), axis=1)
        if at_most == np.inf and len(points) > _FEW:
            at_most = self._search(points[np.argpartition(gaps, _FEW)[:_FEW]], at_most)
        return self._search(points[gaps <= at_most + _ROUNDING_M], at_most)

    def _search(self, points: np.ndarray, at_most: float) -> float:
        if not len(points):
            return np.inf
        return float(self._surface.query(points, distance_upper_bound=np.nextafter(at_most, np.inf))[0].min())


@dataclass(frozen=True, slots=True)
class PosedPart:
    """A part where it is at one moment: own point p lies at `rotation @ p + translation_m` in the world."""

    part: ObjectPart
    rotation: np.ndarray  # (3, 3)
    translation_m: np.ndarray  # (3,)

    def first_hits(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """`ObjectPart.first_hits` of rays in the world frame."""
        return self.part.first_hits(self._own(origins), directions @ self.rotation)

    def nearest(self, points: np.ndarray, at_most: float = np.inf) -> float:
        """`ObjectPart.nearest` of points in the world frame."""
        return self.part.nearest(self._own(points), at_most)

    def _own(self, points: np.ndarray) -> np.ndarray:
        return (points - self.translation_m) @ self.rotation


def least_distance(parts: Sequence[PosedPart], points: np.ndarray) -> float:
    """From the nearest of points (N, 3), world frame, to the nearest part, metres: corners and middles of triangles."""
    least = np.inf
    for part in parts:
        least = min(least, part.nearest(points, least))
    return least
