"""The rest skeleton of the procedural hand: its joints, tips and axes.

Convention: right hand, metres, MANO's rest frame: fingers point along -x, the back of the hand faces +y (palm
down, -y), the thumb is on the +z side. Joint order and parents are MANO's (wrist, index, middle, pinky, ring,
thumb; three joints a digit, root to tip). The lengths are those of an average adult hand (185 mm from the wrist
joint to the middle finger's tip); they come from tables of anatomy, not from any scanned model.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from hawor_pipeline.sample.hand import DIGITS, RestSkeleton

WRIST_MM = (95.0, 5.0, 5.0)


@dataclass(frozen=True, slots=True)
class Digit:
    """One digit at rest, in millimetres and degrees.

    Attributes:
        base: first joint (MCP of a finger, CMC of the thumb).
        direction: direction of the first bone (normalised on use).
        palmar: rough direction that the pulp faces (made orthogonal to the bones on use).
        lengths: the three bones; the last one ends at the skin of the tip.
        rest_flexion_deg: bend at the first, second and third joint in the rest shape.
        radii: half width of the digit at its joints and at the last pulp, root to tip.
    """

    base: tuple[float, float, float]
    direction: tuple[float, float, float]
    palmar: tuple[float, float, float]
    lengths: tuple[float, float, float]
    rest_flexion_deg: tuple[float, float, float]
    radii: tuple[float, float, float, float]


SKELETON_MM = {
    "index": Digit((8, 4, 29), (-1, 0, 0.08), (0, -1, 0.06), (43, 25, 24.5), (3, 4, 3), (10.8, 9.4, 8.3, 6.9)),
    "middle": Digit((4, 6.5, 7.5), (-1, 0, 0.0), (0, -1, 0.0), (47.5, 28.5, 25.5), (3, 4, 3), (10.8, 9.5, 8.4, 7.0)),
    "pinky": Digit((19, -0.5, -31), (-1, 0, -0.25), (0, -1, -0.12), (35, 20, 22), (4, 5, 3), (9.6, 8.2, 7.2, 5.9)),
    "ring": Digit((9.5, 4.5, -13), (-1, 0, -0.10), (0, -1, -0.05), (44, 27.5, 25), (3, 5, 3), (10.3, 9.0, 7.9, 6.6)),
    "thumb": Digit(
        (74, -5, 22), (-0.79, -0.20, 0.58), (0.0, -0.55, -0.85), (45, 33, 28.5), (0, 7, 5), (13.0, 11.2, 10.3, 7.9)
    ),
}


def _digit_frames(digit: Digit) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return joint positions (4, 3) in metres, the tip last, and the bone, palmar and flexion directions (3, 3)."""
    bone = np.asarray(digit.direction, dtype=float)
    bone /= np.linalg.norm(bone)
    palmar = np.asarray(digit.palmar, dtype=float)
    palmar -= (palmar @ bone) * bone
    palmar /= np.linalg.norm(palmar)
    axis = np.cross(bone, palmar)  # a positive turn about it bends the digit towards its pulp
    points = [np.asarray(digit.base, dtype=float)]
    bones = []
    for length, bend in zip(digit.lengths, np.radians(digit.rest_flexion_deg), strict=True):
        bone = Rotation.from_rotvec(bend * axis).apply(bone)
        bones.append(bone)
        points.append(points[-1] + length * bone)
    axes = np.repeat(axis[None], 3, axis=0)
    return np.stack(points) * 1e-3, np.stack(bones), np.cross(axes, np.stack(bones)), axes


def _assemble() -> RestSkeleton:
    frames = [_digit_frames(SKELETON_MM[name]) for name in DIGITS]
    points, bones, palmar, axes = (np.stack(part) for part in zip(*frames, strict=True))
    return RestSkeleton(
        joints=np.concatenate([np.asarray(WRIST_MM)[None] * 1e-3, points[:, :3].reshape(-1, 3)]),
        tips=points[:, 3].copy(),
        bone_axes=bones.reshape(-1, 3),
        palmar_axes=palmar.reshape(-1, 3),
        flexion_axes=axes.reshape(-1, 3),
    )


SKELETON = _assemble()
