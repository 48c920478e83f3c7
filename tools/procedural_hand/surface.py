"""The procedural hand as an implicit surface: a smooth union of tapered capsules around the rest skeleton.

Convention: right hand, metres, the frame of `skeleton`; the field is negative inside. It is a true distance only
near the surface, which is all that marching cubes and the projection need.
"""

from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import pairwise

import numpy as np

from hawor_pipeline.sample.hand import DIGITS
from tools.procedural_hand.skeleton import SKELETON, SKELETON_MM

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
    """Tapered capsules.

    Attributes:
        start, end: (N, 3) m.
        start_radius, end_radius: (N,) m.
        flat_axis, flat: unit axis (N, 3) along which the section is scaled by `flat` (N,).
        bone: (N,) index of the bone, of its digit's three, that carries the capsule; -1 for the palm.
    """

    start: np.ndarray
    end: np.ndarray
    start_radius: np.ndarray
    end_radius: np.ndarray
    flat_axis: np.ndarray
    flat: np.ndarray
    bone: np.ndarray

    def distance(self, points: np.ndarray, moved: np.ndarray | None = None, first_moved: int = 3) -> np.ndarray:
        """Return the signed distance (P, N) of points (P, 3) to each capsule, metres.

        With `moved` (P, 3), capsules of bones from `first_moved` on are measured from these points instead.
        """
        columns = []
        for a, b, ra, rb, axis, flat, owner in zip(
            self.start,
            self.end,
            self.start_radius,
            self.end_radius,
            self.flat_axis,
            self.flat,
            self.bone,
            strict=True,
        ):
            bone = b - a
            offset = (points if moved is None or owner < first_moved else moved) - a
            along = np.clip(offset @ bone / max(bone @ bone, 1e-12), 0.0, 1.0)
            offset = offset - along[:, None] * bone
            squared = np.einsum("pk,pk->p", offset, offset)
            if flat != 1.0:
                squared = squared + (offset @ axis) ** 2 * (1.0 / flat**2 - 1.0)
            columns.append(np.sqrt(squared) - (ra + along * (rb - ra)))
        return np.stack(columns, axis=1)


@dataclass(frozen=True, slots=True)
class _Part:
    """One capsule in millimetres, a row of the tables below."""

    start: tuple | np.ndarray
    end: tuple | np.ndarray
    start_radius: float
    end_radius: float
    flat_axis: tuple | np.ndarray = (0.0, 1.0, 0.0)
    flat: float = 1.0
    bone: int = -1


def _capsules(parts: list[_Part]) -> Capsules:
    columns = {f.name: np.array([getattr(part, f.name) for part in parts]) for f in fields(_Part)}
    for name in ("start", "end", "start_radius", "end_radius"):
        columns[name] = columns[name] * 1e-3
    return Capsules(**columns)


def _digit_parts(index: int) -> list[_Part]:
    """List the capsules of one digit, mm: three bones, their palmar pads and, for a finger, the knuckle."""
    name = DIGITS[index]
    digit = SKELETON_MM[name]
    span = slice(3 * index, 3 * index + 3)
    joints, tip = SKELETON.joints[1:][span] * 1e3, SKELETON.tips[index] * 1e3
    bones, palmar = SKELETON.bone_axes[span], SKELETON.palmar_axes[span]
    r = np.array(digit.radii)
    last = tip - r[3] * 0.97 * bones[2] + 0.3 * palmar[2]
    ends = [joints[1], joints[2], last]
    parts: list[_Part] = []
    for k in range(3):
        waist = 0.5 * (joints[k] + ends[k])
        thin = 0.955 * 0.5 * (r[k] + r[k + 1])
        flat = 0.90 if k == 2 else 0.96
        parts.append(_Part(joints[k], waist, r[k] * 0.97, thin, palmar[k], flat, k))
        parts.append(_Part(waist, ends[k], thin, r[k + 1] * 0.97, palmar[k], flat, k))
    pad = 0.16
    for k, (low, high) in enumerate(((0.30, 0.72), (0.32, 0.70), (0.42, 0.86))):
        if name == "thumb" and k == 0:
            continue  # the ball of the thumb belongs to the palm
        a, b = (joints[k] + t * (ends[k] - joints[k]) + pad * r[k + 1] * palmar[k] for t in (low, high))
        parts.append(_Part(a, b, 0.93 * r[k + 1], 0.90 * r[k + 1], bone=k))
    if name != "thumb":
        knuckle = joints[0] - 0.10 * r[0] * palmar[0]
        parts.append(_Part(knuckle, knuckle, 0.93 * r[0], 0.93 * r[0]))
    return parts


def _palm_parts() -> list[_Part]:
    """List the capsules of the palm, mm: forearm, wrist, metacarpals, balls of thumb and little finger, webs."""
    mcp = {name: SKELETON.joints[1 + 3 * k] * 1e3 for k, name in enumerate(DIGITS)}
    parts: list[_Part] = [
        _Part((92, 3, 3), (150, 3, 3), 26.5, 27.5, (0, 1, 0), 0.66),
        _Part((88, 2, 9), mcp["index"], 12.5, 9.6),
        _Part((88, 3, 6), mcp["middle"], 12.5, 9.9),
        _Part((88, 2, -2), mcp["ring"], 12.5, 9.3),
        _Part((88, 0, -8), mcp["pinky"], 12.0, 8.4),
        _Part((76, -6, 17), (50, -11, 38), 13.0, 11.2),  # ball of the thumb
        _Part((66, -7, 20), (40, -7, 30), 11.0, 7.5),
        _Part((50, -3, 36), (28, -1, 33), 5.5, 5.0),  # first web
        _Part((80, -5, -11), (36, -8, -29), 12.0, 9.2),  # ball of the little finger
        _Part((22, -2.5, 22), (24, -4, -20), 7.5, 7.0),  # pads under the knuckles
    ]
    fingers = ("index", "middle", "ring", "pinky")
    for one, other in pairwise(fingers):
        ends = []
        for name in (one, other):
            k = 3 * DIGITS.index(name)
            ends.append(mcp[name] + 11.5 * SKELETON.bone_axes[k] + 1.8 * SKELETON.palmar_axes[k])
        parts.append(_Part(ends[0], ends[1], 5.8, 5.8))
    return parts


@lru_cache(maxsize=1)
def _parts() -> tuple[Capsules, tuple[Capsules, ...]]:
    return _capsules(_palm_parts()), tuple(_capsules(_digit_parts(k)) for k in range(5))


def _smooth_union(distances: np.ndarray, blend: float) -> np.ndarray:
    """Compute the soft minimum over the last axis: -blend log sum exp(-d / blend)."""
    # The lowest distance is factored out, so that the largest exponent is 0 and exp cannot underflow everywhere.
    lowest = distances.min(axis=-1, keepdims=True)
    return lowest[..., 0] - blend * np.log(np.exp((lowest - distances) / blend).sum(axis=-1))


@dataclass(frozen=True, slots=True)
class Bend:
    """One joint turned about itself.

    Attributes:
        joint: 1..15, MANO's order.
        turn: (3, 3) rotation.
    """

    joint: int
    turn: np.ndarray


def hand_sdf(points: np.ndarray, bend: Bend | None = None) -> np.ndarray:
    """Compute the signed distance of the right hand, negative inside.

    Args:
        points: (P, 3) m.
        bend: the only joint that is not at rest; default none.

    Returns:
        (P,) m.
    """
    palm_parts, digit_parts = _parts()
    palm = _smooth_union(palm_parts.distance(points), BLEND_PALM_M)
    digits = []
    for k, part in enumerate(digit_parts):
        if bend is not None and (bend.joint - 1) // 3 == k:
            centre = SKELETON.joints[bend.joint]
            moved = (points - centre) @ bend.turn + centre
            digits.append(_smooth_union(part.distance(points, moved, (bend.joint - 1) % 3), BLEND_DIGIT_M))
        else:
            digits.append(_smooth_union(part.distance(points), BLEND_DIGIT_M))
    rooted = [_smooth_union(np.stack([palm, digit], axis=-1), BLEND_ROOT_M) for digit in digits]
    return _smooth_union(np.stack(rooted, axis=-1), BLEND_BETWEEN_M)


def hand_sdf_gradient(points: np.ndarray, bend: Bend | None = None, step_m: float = 2e-4) -> np.ndarray:
    """Compute the gradient (P, 3) of `hand_sdf` by central differences."""
    shifts = np.concatenate([np.eye(3), -np.eye(3)]) * step_m
    values = hand_sdf((points[None] + shifts[:, None]).reshape(-1, 3), bend).reshape(6, -1)
    return ((values[:3] - values[3:]) / (2 * step_m)).T


def project_to_surface(points: np.ndarray, bend: Bend | None = None, rounds: int = 2) -> np.ndarray:
    """Move points (P, 3) along the gradient onto the zero level by `rounds` Newton steps."""
    for _ in range(rounds):
        gradient = hand_sdf_gradient(points, bend)
        # Where blends flatten the field the gradient is short and a full Newton step would overshoot.
        scale = hand_sdf(points, bend) / np.maximum(np.einsum("pk,pk->p", gradient, gradient), 0.05)
        points = points - np.clip(scale, -0.004, 0.004)[:, None] * gradient
    return points


def digit_distances(points: np.ndarray) -> np.ndarray:
    """Return the distance (P, 5) of points (P, 3) to each digit alone, metres, in the order of `DIGITS`."""
    return np.stack([_smooth_union(part.distance(points), BLEND_DIGIT_M) for part in _parts()[1]], axis=-1)
