"""Articulated objects of the synthetic source, in ARCTIC's canonical form.

Each object has a bottom and a top part. Units are millimetres; the hinge is the z axis through the origin and the top
part turns about (0, 0, -1) by the articulation angle, as in ARCTIC's official code. Parts are unions of rounded boxes
and cylinders: a mesh to draw, and an exact signed distance for fingers to rest on. `python -m tools.procedural_scene`
of the repository writes both to `scene.npz`.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from hawor_pipeline.core.units import MM_PER_M
from hawor_pipeline.sample.hand import stored_arrays

SCENE_FILE = "scene.npz"
TOP_PART, BOTTOM_PART = 0, 1  # as in ARCTIC's parts.json


@dataclass(frozen=True)
class Primitive:
    """A rounded box, or a cylinder along y where `half_mm[0]` is the radius."""

    centre_mm: np.ndarray  # (3,)
    half_mm: np.ndarray  # (3,)
    round_mm: float
    cylinder: bool

    def distance_mm(self, points_mm: np.ndarray) -> np.ndarray:
        """Compute the signed distance (..., 3) -> (...), negative inside."""
        # Constants take the type of the points, or NumPy would compute float32 points in float64.
        x, y, z = (points_mm[..., k] - points_mm.dtype.type(self.centre_mm[k]) for k in range(3))
        a, b, c = (points_mm.dtype.type(half - self.round_mm) for half in self.half_mm)
        if self.cylinder:
            sides, ends = np.sqrt(x * x + z * z) - a, np.abs(y) - b
            outside = np.sqrt(np.maximum(sides, 0) ** 2 + np.maximum(ends, 0) ** 2)
            inside = np.maximum(sides, ends)
        else:
            x, y, z = np.abs(x) - a, np.abs(y) - b, np.abs(z) - c
            outside = np.sqrt(np.maximum(x, 0) ** 2 + np.maximum(y, 0) ** 2 + np.maximum(z, 0) ** 2)
            inside = np.maximum(np.maximum(x, y), z)
        return outside + np.minimum(inside, 0) - points_mm.dtype.type(self.round_mm)


@dataclass(frozen=True)
class ObjectModel:
    """One articulated object.

    `vertices_mm` (N, 3) lists the top part first, `faces` (F, 3), `parts` (N,) 0 = top and 1 = bottom,
    `colours` (N, 3). `articulation_range` is the natural range in radians.
    """

    name: str
    vertices_mm: np.ndarray
    faces: np.ndarray
    parts: np.ndarray
    colours: np.ndarray
    primitives: tuple[list[Primitive], list[Primitive]]
    articulation_range: np.ndarray  # (2,)

    @property
    def diameter_m(self) -> float:
        """Diagonal of the closed object's bounding box, in metres."""
        return float(np.linalg.norm(np.ptp(self.vertices_mm, axis=0)) / MM_PER_M)

    def part_mesh(self, part: int) -> tuple[np.ndarray, np.ndarray]:
        """Return vertices in mm and faces of one part alone."""
        keep = np.flatnonzero(self.parts == part)
        renumber = np.full(len(self.parts), -1)
        renumber[keep] = np.arange(len(keep))
        return self.vertices_mm[keep], renumber[self.faces[self.parts[self.faces[:, 0]] == part]]

    def distance_mm(self, points_mm: np.ndarray, articulation: np.ndarray | float) -> np.ndarray:
        """Compute the distance of points (*b, N, 3) in the canonical frame, the top turned by `articulation` (*b)."""
        turned = hinge(points_mm, -np.asarray(articulation))
        return np.minimum(self.part_distance_mm(turned, TOP_PART), self.part_distance_mm(points_mm, BOTTOM_PART))

    def part_distance_mm(self, points_mm: np.ndarray, part: int) -> np.ndarray:
        """Compute the signed distance to one part of points (*b, 3) in that part's own frame."""
        distances = [p.distance_mm(points_mm) for p in self.primitives[part]]
        nearest = distances[0]
        for other in distances[1:]:
            nearest = np.minimum(nearest, other)
        return nearest

    def articulated_mm(self, articulation: np.ndarray) -> np.ndarray:
        """Return vertices (*b, N, 3) in the canonical frame for articulation angles (*b)."""
        articulation = np.asarray(articulation, float)
        still = np.broadcast_to(self.vertices_mm, (*articulation.shape, *self.vertices_mm.shape))
        return np.where((self.parts == TOP_PART)[:, None], hinge(still, articulation), still)


def hinge(points: np.ndarray, angle: np.ndarray | float) -> np.ndarray:
    """Rotate points (*b, N, 3) about (0, 0, -1) by angles (*b)."""
    angle = np.asarray(angle, points.dtype)[..., None]
    c, s = np.cos(angle), np.sin(angle)
    x, y, z = np.moveaxis(points, -1, 0)
    return np.stack([c * x + s * y, -s * x + c * y, z], axis=-1)


@cache
def build_object(name: str) -> ObjectModel:
    """Build the object of a name in `spec.OBJECT_NAMES`."""
    stored = stored_arrays(SCENE_FILE)
    fields = ("vertices_mm", "faces", "parts", "colours", "articulation_range")
    top, bottom = (
        [Primitive(row[:3], row[3:6], row[6], bool(row[7])) for row in stored[f"{name}.{part}"]]
        for part in ("top", "bottom")
    )
    return ObjectModel(name=name, primitives=(top, bottom), **{field: stored[f"{name}.{field}"] for field in fields})
