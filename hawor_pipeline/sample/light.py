"""Light on surfaces: normals, two soft lights under a sky, and the shade that hands and object cast on each other.

Shade is measured in a distance field: where a short step from the surface, outwards or towards the light, ends nearer
to something than the step is long, that thing blocks the light (Evans 2006, "Fast approximations for global
illumination"). Arrays are (T, N, ...), world frame, metres, linear RGB unless a name contains sRGB.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial.transform import Rotation

from hawor_pipeline.core.skeleton import BONES
from hawor_pipeline.core.units import MM_PER_M
from hawor_pipeline.sample.articulated_objects import build_object
from hawor_pipeline.sample.hand_motion import Motion
from hawor_pipeline.sample.studio import Look

EVERY = 3  # shade changes slowly: it is computed at every third frame and interpolated
EXPOSURE = 1.2
GAMMA = 1 / 2.2
_OUTWARD_STEPS_M = (0.012, 0.035)
_LIGHT_STEPS_M = (0.02, 0.055)


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Compute area-weighted unit normals (T, N, 3) of meshes (T, N, 3)."""
    corners = vertices[:, faces]
    normal = np.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0])
    count = vertices.shape[1]
    # One sparse product sums the faces around each vertex for all frames at once.
    rows, columns = faces.T.ravel(), np.tile(np.arange(len(faces)), 3)
    gather = csr_matrix((np.ones(len(rows), vertices.dtype), (rows, columns)), shape=(count, len(faces)))
    flat = np.moveaxis(normal, 1, 0).reshape(len(faces), -1)
    summed = np.moveaxis((gather @ flat).reshape(count, len(vertices), 3), 0, 1)
    return summed / np.maximum(np.linalg.norm(summed, axis=-1, keepdims=True), 1e-12)


@dataclass(frozen=True)
class Shade:
    """Share of light that reaches each vertex (T, N): from the whole sky, and from the main light."""

    sky: np.ndarray
    sun: np.ndarray


class Surroundings:
    """Distance field of both hands and the object at every `EVERY`-th frame (S of them)."""

    def __init__(self, motion: Motion, look: Look) -> None:
        count = len(motion.articulation)
        self.frames = np.unique(np.append(np.arange(0, count, EVERY), count - 1))
        self.count = count
        self.light = look.light_direction[0].astype(np.float32)
        self.model = build_object(motion.object_name)
        self.articulation = motion.articulation[self.frames]
        self.turn = Rotation.from_rotvec(motion.object_rotation[self.frames]).as_matrix().astype(np.float32)
        self.shift = motion.object_translation[self.frames]
        joints = np.stack([track.joints[self.frames] for track in motion.hands.values()], axis=1)  # (S, 2, 21, 3)
        start, end = (joints[:, :, [b[k] for b in BONES]].reshape(len(self.frames), -1, 3) for k in (0, 1))
        self.start, self.bone = start, end - start
        # Radii of the 20 bones as capsules, thumb first; half widths of an adult hand, metres.
        radius = np.array([0.012, 0.0105, 0.009, 0.0075] + 4 * [0.0115, 0.009, 0.008, 0.0068])
        self.radius = np.tile(radius, 2).astype(np.float32)

    def _distance(self, points: np.ndarray, *, from_object: bool) -> np.ndarray:
        """Compute the distance (S, N) in metres of points (S, N, 3) to the hands and, if not on it, to the object."""
        nearest = np.full(points.shape[:2], 1.0, np.float32)
        length_sq = np.maximum((self.bone**2).sum(-1), 1e-8)
        for k in range(self.start.shape[1]):
            offset = points - self.start[:, None, k]
            bone = self.bone[:, None, k]
            share = np.clip((offset * bone).sum(-1) / length_sq[:, k, None], 0, 1)
            offset -= share[..., None] * bone
            np.minimum(nearest, np.sqrt((offset * offset).sum(-1)) - self.radius[k], out=nearest)
        if not from_object:
            local = (points - self.shift[:, None]) @ self.turn * np.float32(MM_PER_M)
            np.minimum(nearest, self.model.distance_mm(local, self.articulation) / np.float32(MM_PER_M), out=nearest)
        return nearest

    def shade(self, vertices: np.ndarray, normals: np.ndarray, *, from_object: bool) -> Shade:
        """Compute the shade on a mesh (T, N, 3) with unit normals."""
        points, outward = vertices[self.frames].astype(np.float32), normals[self.frames].astype(np.float32)
        sky = np.ones(points.shape[:2], np.float32)
        sun = np.ones_like(sky)
        for step in _OUTWARD_STEPS_M:
            near = self._distance(points + np.float32(step) * outward, from_object=from_object)
            sky -= 0.42 * np.clip(1 - near / step, 0, 1.2)
        base = points + np.float32(0.006) * outward  # off the surface, which would otherwise shade itself
        for step in _LIGHT_STEPS_M:
            near = self._distance(base + np.float32(step) * self.light, from_object=from_object)
            sun = np.minimum(sun, np.clip(0.25 + near / (0.55 * step), 0, 1))
        return Shade(self._all_frames(np.clip(sky, 0.12, 1)), self._all_frames(sun))

    def _all_frames(self, values: np.ndarray) -> np.ndarray:
        place = np.interp(np.arange(self.count), self.frames, np.arange(len(self.frames)))
        low = np.minimum(place.astype(int), len(self.frames) - 2) if len(self.frames) > 1 else place.astype(int)
        share = (place - low).astype(np.float32)[:, None]
        return values[low] * (1 - share) + values[np.minimum(low + 1, len(values) - 1)] * share


def shade_srgb(albedo: np.ndarray, normals: np.ndarray, shade: Shade, look: Look, *, skin: bool) -> np.ndarray:
    """Compute sRGB colours 0..1 (T, N, 3); on skin, red light bleeds past the shadow's edge."""
    wrap = np.array([0.42, 0.2, 0.14] if skin else [0.1] * 3, np.float32)
    up = (0.5 + 0.5 * normals[..., 2:]).astype(np.float32)
    above, below = look.ambient.astype(np.float32)
    light = (above * up + below * (1 - up)) * shade.sky[..., None]
    reaching = (shade.sun[..., None], shade.sky[..., None])
    for direction, colour, share in zip(look.light_direction, look.light_colour, reaching, strict=True):
        facing = (normals @ direction.astype(np.float32))[..., None]
        diffuse = np.maximum((facing + wrap) / (1 + wrap), 0)
        light += diffuse * colour.astype(np.float32) * share
    bleed = np.array([0.0, -0.10, -0.14] if skin else [0.0] * 3, np.float32) * (1 - shade.sky[..., None])
    linear = albedo.astype(np.float32) * light * (1 + bleed) * np.float32(EXPOSURE)
    return np.clip(linear, 0, 1) ** np.float32(GAMMA)
