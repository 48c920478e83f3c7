"""The rest skeleton of the procedural hand: where its joints, tips and axes are.

Convention: right hand, metres, MANO's rest frame: fingers point along -x, the back of the hand faces +y (palm
down, -y), the thumb is on the +z side. Joint order and parents are MANO's (wrist, index, middle, pinky, ring,
thumb; three joints a digit, root to tip). The lengths are those of an average adult hand (185 mm from the wrist
joint to the middle finger's tip); they come from tables of anatomy, not from any scanned model.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

DIGITS = ("index", "middle", "pinky", "ring", "thumb")
"""Digits in MANO's joint order."""

PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
"""Parent of each of the 16 joints; -1 for the wrist."""

TIP_VERTEX_IDS = {"thumb": 744, "index": 320, "middle": 443, "ring": 554, "pinky": 671}
"""Vertex at each fingertip, the ids that MANO users expect."""

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
    """Joint positions (4, 3) in metres (the last is the tip) and the bone, palmar and flexion directions (3, 3)."""
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


def _assemble() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    joints, tips, bones, palmar, axes = [np.asarray(WRIST_MM)[None] * 1e-3], [], [], [], []
    for name in DIGITS:
        points, bone, pulp, axis = _digit_frames(SKELETON_MM[name])
        joints.append(points[:3])
        tips.append(points[3])
        bones.append(bone)
        palmar.append(pulp)
        axes.append(axis)
    return np.concatenate(joints), np.stack(tips), np.concatenate(bones), np.concatenate(palmar), np.concatenate(axes)


REST_JOINTS, REST_TIPS, BONE_AXES, PALMAR_AXES, FLEXION_AXES = _assemble()
"""REST_JOINTS (16, 3) m; REST_TIPS (5, 3) m in the order of `DIGITS`; unit axes (15, 3) of joints 1..15: along the
bone that leaves the joint, towards the pulp, and the axis about which a positive turn flexes."""

ABDUCTION_AXES = -PALMAR_AXES
"""(15, 3) axes about which a positive turn swings the digit to the thumb's side (for the thumb: away from the palm's
edge, opening the first web)."""
