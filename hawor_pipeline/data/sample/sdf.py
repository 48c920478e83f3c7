"""The procedural hand as an implicit surface: a smooth union of tapered capsules around the rest skeleton.

Convention: right hand, metres, the frame of `hand_skeleton`; the field is negative inside. It is a distance only
near the surface, which is all that marching cubes and the projection need.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from hawor_pipeline.data.sample.hand_skeleton import BONE_AXES, DIGITS, PALMAR_AXES, REST_JOINTS, REST_TIPS, SKELETON_MM

BLEND_PALM_M = 0.0040
"""Softness of the union inside the palm."""
BLEND_DIGIT_M = 0.0011
"""Softness of the union along one digit; the overlap at its joints becomes the knuckles."""
BLEND_ROOT_M = 0.0030
"""Softness where a digit grows out of the palm."""
BLEND_BETWEEN_M = 0.0004
"""Softness between digits: small, so that fingers do not grow together."""


@dataclass(frozen=True, slots=True)
class Capsules:
    """Tapered capsules: ends (N, 3) m, radii (N,) m, a unit axis (N, 3) along which they are flattened, by (N,)."""

    start: np.ndarray
    end: np.ndarray
    start_radius: np.ndarray
    end_radius: np.ndarray
    flat_axis: np.ndarray
    flat: np.ndarray

    def distance(self, points: np.ndarray) -> np.ndarray:
        """(P, N) signed distance of points (P, 3) to each capsule, metres."""
        columns = []
        for a, b, ra, rb, axis, flat in zip(
            self.start, self.end, self.start_radius, self.end_radius, self.flat_axis, self.flat, strict=True
        ):
            bone = b - a
            offset = points - a
            along = np.clip(offset @ bone / max(bone @ bone, 1e-12), 0.0, 1.0)
            offset = offset - along[:, None] * bone
            squared = np.einsum("pk,pk->p", offset, offset)
            if flat != 1.0:
                squared = squared + (offset @ axis) ** 2 * (1.0 / flat**2 - 1.0)
            columns.append(np.sqrt(squared) - (ra + along * (rb - ra)))
        return np.stack(columns, axis=1)


def _capsules(rows: list[tuple], unit: float = 1e-3) -> Capsules:
    """Rows of (start, end, start radius, end radius[, flat axis, flat]) in multiples of `unit` metres."""
    full = [row if len(row) == 6 else (*row, (0.0, 1.0, 0.0), 1.0) for row in rows]
    start, end, start_radius, end_radius, axis, flat = (np.array([row[k] for row in full], dtype=float) for k in range(6))
    return Capsules(start * unit, end * unit, start_radius * unit, end_radius * unit, axis, flat)


def _digit_rows(index: int) -> list[tuple]:
    """Capsules of one digit, mm: three bones, their palmar pads and, for a finger, the knuckle."""
    name = DIGITS[index]
    digit = SKELETON_MM[name]
    span = slice(3 * index, 3 * index + 3)
    joints, tip = REST_JOINTS[1:][span] * 1e3, REST_TIPS[index] * 1e3
    bones, palmar = BONE_AXES[span], PALMAR_AXES[span]
    r = np.array(digit.radii)
    last = tip - r[3] * 0.97 * bones[2] + 0.3 * palmar[2]
    ends = [joints[1], joints[2], last]
    rows: list[tuple] = []
    for k in range(3):
        waist = 0.5 * (joints[k] + ends[k])
        thin = 0.955 * 0.5 * (r[k] + r[k + 1])
        flat = 0.90 if k == 2 else 0.96
        rows.append((joints[k], waist, r[k] * 0.97, thin, palmar[k], flat))
        rows.append((waist, ends[k], thin, r[k + 1] * 0.97, palmar[k], flat))
    pad = 0.16
    for k, (low, high) in enumerate(((0.30, 0.72), (0.32, 0.70), (0.42, 0.86))):
        if name == "thumb" and k == 0:
            continue  # the ball of the thumb belongs to the palm
        a, b = (joints[k] + t * (ends[k] - joints[k]) + pad * r[k + 1] * palmar[k] for t in (low, high))
        rows.append((a, b, 0.93 * r[k + 1], 0.90 * r[k + 1]))
    if name != "thumb":
        knuckle = joints[0] - 0.10 * r[0] * palmar[0]
        rows.append((knuckle, knuckle, 0.93 * r[0], 0.93 * r[0]))
    return rows


def _palm_rows() -> list[tuple]:
    """Capsules of the palm, mm: forearm, wrist, metacarpals, the balls of thumb and little finger, the webs."""
    mcp = {name: REST_JOINTS[1 + 3 * k] * 1e3 for k, name in enumerate(DIGITS)}
    rows: list[tuple] = [
        ((92, 3, 3), (150, 3, 3), 25.5, 27.0, (0, 1, 0), 0.66),
        ((88, 2, 9), (mcp["index"]), 12.5, 9.6),
        ((88, 3, 6), (mcp["middle"]), 12.5, 9.9),
        ((88, 2, -2), (mcp["ring"]), 12.5, 9.3),
        ((88, 0, -8), (mcp["pinky"]), 12.0, 8.4),
        ((76, -6, 17), (50, -11, 38), 13.0, 11.2),  # ball of the thumb
        ((66, -7, 20), (40, -7, 30), 11.0, 7.5),
        ((50, -3, 36), (28, -1, 33), 5.5, 5.0),  # first web
        ((80, -5, -11), (36, -8, -29), 12.0, 9.2),  # ball of the little finger
        ((22, -2.5, 22), (24, -4, -20), 7.5, 7.0),  # pads under the knuckles
    ]
    fingers = ("index", "middle", "ring", "pinky")
    for one, other in zip(fingers[:-1], fingers[1:], strict=True):
        ends = []
        for name in (one, other):
            k = 3 * DIGITS.index(name)
            ends.append(mcp[name] + 11.5 * BONE_AXES[k] + 1.8 * PALMAR_AXES[k])
        rows.append((ends[0], ends[1], 5.8, 5.8))
    return rows


@lru_cache(maxsize=1)
def _parts() -> tuple[Capsules, tuple[Capsules, ...]]:
    return _capsules(_palm_rows()), tuple(_capsules(_digit_rows(k)) for k in range(5))


def _smooth_union(distances: np.ndarray, blend: float) -> np.ndarray:
    """Soft minimum over the last axis: -blend log sum exp(-d / blend)."""
    lowest = distances.min(axis=-1, keepdims=True)
    return lowest[..., 0] - blend * np.log(np.exp((lowest - distances) / blend).sum(axis=-1))


def hand_sdf(points: np.ndarray) -> np.ndarray:
    """Signed distance of the resting right hand, negative inside.

    Args:
        points: (P, 3) m.

    Returns:
        (P,) m.
    """
    palm_parts, digit_parts = _parts()
    palm = _smooth_union(palm_parts.distance(points), BLEND_PALM_M)
    digits = [_smooth_union(part.distance(points), BLEND_DIGIT_M) for part in digit_parts]
    rooted = [_smooth_union(np.stack([palm, digit], axis=-1), BLEND_ROOT_M) for digit in digits]
    return _smooth_union(np.stack(rooted, axis=-1), BLEND_BETWEEN_M)


def hand_sdf_gradient(points: np.ndarray, step_m: float = 2e-4) -> np.ndarray:
    """(P, 3) gradient of `hand_sdf` by central differences."""
    shifts = np.concatenate([np.eye(3), -np.eye(3)]) * step_m
    values = hand_sdf((points[None] + shifts[:, None]).reshape(-1, 3)).reshape(6, -1)
    return ((values[:3] - values[3:]) / (2 * step_m)).T


def project_to_surface(points: np.ndarray, rounds: int = 2) -> np.ndarray:
    """Moves points (P, 3) along the gradient onto the zero level (Newton, `rounds` times)."""
    for _ in range(rounds):
        gradient = hand_sdf_gradient(points)
        scale = hand_sdf(points) / np.maximum(np.einsum("pk,pk->p", gradient, gradient), 0.05)
        points = points - np.clip(scale, -0.004, 0.004)[:, None] * gradient
    return points
