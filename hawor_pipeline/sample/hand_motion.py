"""Motion of two hands that pick up, turn, open and close an articulated object, and of the head above them.

Times are seconds, positions metres, in the world frame (z up). A sequence is drawn from one random generator: the
grasps, the object's path, the times at which each hand releases and grasps again. The stored parameters are exactly
those that the meshes are built from, so that ground truth and images cannot differ. Nothing here depends on static
cameras or on looks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.spatial.transform import Rotation

from hawor_pipeline.core.units import ARCTIC_FPS, MM_PER_M
from hawor_pipeline.sample.articulated_objects import BOTTOM_PART, TOP_PART, ObjectModel, build_object, hinge
from hawor_pipeline.sample.grasp import Grasp, HandRig, Reach, choose_grasp, elbow_position, grasp_points
from hawor_pipeline.sample.hand import GRASP_ANGLES, JOINT_LIMITS, SIDES

SHOULDER_M = np.array([0.185, -0.02, 1.36])  # right; body frame: x to the right, y forward, z up
WORKSPACE_M = np.array([0.0, 0.34, 1.08])
HEAD_M = np.array([0.0, 0.07, 1.60])
LIFT_M = 0.095  # largest distance of a hand from the object between two grasps
# Columns: body-frame directions of the object's axes at rest in front of the person (front to the person, top up).
OBJECT_AT_REST = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


@dataclass(frozen=True)
class HandTrack:
    """One hand over time: MANO parameters as ARCTIC stores them, and the resulting meshes (world frame, metres)."""

    orient: np.ndarray  # (T, 3) axis-angle
    pose: np.ndarray  # (T, 45) relative to the mean pose
    translation: np.ndarray  # (T, 3)
    betas: np.ndarray  # (10,)
    vertices: np.ndarray  # (T, 778, 3)
    joints: np.ndarray  # (T, 21, 3)
    elbow: np.ndarray  # (T, 3)
    shoulder: np.ndarray  # (3,)
    away: np.ndarray  # (T, 3) direction from the knuckles back to the wrist


@dataclass(frozen=True)
class Motion:
    """One sequence. Frame i of every array is ground-truth index `first + i`."""

    object_name: str
    first: int
    step_s: float  # between two frames
    hands: Mapping[str, HandTrack]
    articulation: np.ndarray  # (T,) radians
    object_rotation: np.ndarray  # (T, 3) axis-angle
    object_translation: np.ndarray  # (T, 3)
    object_vertices: np.ndarray  # (T, N, 3)
    ego_from_world: np.ndarray  # (T, 4, 4)


class Wobble:
    """A smooth random function of time with values (T, size): three sinusoids at the speed of human motion."""

    def __init__(self, rng: np.random.Generator, size: int, amplitude, hertz: tuple[float, float] = (0.15, 0.8)):
        self.amplitude = np.broadcast_to(np.asarray(amplitude, float), (size,))
        self.hertz = rng.uniform(*hertz, size=(3, size))
        self.phase = rng.uniform(0, 2 * np.pi, size=(3, size))
        self.share = np.array([0.6, 0.3, 0.2])[:, None]

    def __call__(self, time: np.ndarray) -> np.ndarray:
        angle = 2 * np.pi * time[:, None, None] * self.hertz + self.phase
        return (np.sin(angle) * self.share).sum(axis=1) * self.amplitude


class ObjectPath:
    """Path of the object in the body frame."""

    def __init__(self, model: ObjectModel, action: str, rng: np.random.Generator) -> None:
        lively = 1.0 if action == "grab" else 0.7
        turn = Rotation.from_rotvec(rng.uniform(-1, 1, 3) * np.array([0.2, 0.18, 0.3]) * lively)
        self.base = turn.as_matrix() @ OBJECT_AT_REST
        self.turn = Wobble(rng, 3, np.array([0.2, 0.18, 0.24]) * lively)
        self.centre = model.vertices_mm.mean(axis=0) / MM_PER_M
        self.place = WORKSPACE_M + rng.uniform(-1, 1, 3) * np.array([0.05, 0.03, 0.06])
        self.shift = Wobble(rng, 3, np.array([0.03, 0.02, 0.035]))
        low, high = model.articulation_range
        centre = rng.uniform(0.25, 0.75) if action == "use" else rng.uniform(0.0, 0.25)
        reach = 0.45 if action == "use" else 0.05
        self.low, self.high = low, high
        self.opening = Wobble(rng, 1, reach * (high - low), (0.25, 0.7))
        self.opening_centre = low + centre * (high - low)

    def __call__(self, time: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Compute rotation (T, 3, 3), translation (T, 3) in the body frame and articulation (T,)."""
        rotation = Rotation.from_rotvec(self.turn(time)).as_matrix() @ self.base
        middle = self.place + self.shift(time)
        articulation = np.clip(self.opening_centre + self.opening(time)[:, 0], self.low, self.high)
        return rotation, middle - rotation @ self.centre, articulation


@dataclass(frozen=True)
class Hold:
    """A grasp between two times; outside them the hand moves to or from it."""

    start: float
    end: float
    grasp: Grasp


def _episodes(rng: np.random.Generator, begin: float, end: float, steady: bool) -> list[tuple[float, float]]:
    """Draw the times of holding, from before `begin` to after `end`; a steady hand rarely releases."""
    spans, time = [], begin - rng.uniform(0.1, 1.5)
    while time < end + 0.1:
        length = rng.uniform(1.2, 2.2) if steady else rng.uniform(0.4, 0.8)
        spans.append((time, time + length))
        time += length + (rng.uniform(1.0, 1.4) if steady else rng.uniform(1.2, 2.0))
    spans.append((time, time + 1.0))
    return spans


def _part_motion(part: int, rotation, translation, articulation) -> tuple[np.ndarray, np.ndarray]:
    """Compute the body-frame motion (T, 3, 3), (T, 3) of one part's canonical frame."""
    if part == TOP_PART:
        rotation = rotation @ np.moveaxis(hinge(np.eye(3)[None].repeat(len(articulation), 0), articulation), -1, -2)
    return rotation, translation


def _plan_holds(model, rigs, path: ObjectPath, time: np.ndarray, action: str, rng) -> dict[str, list[Hold]]:
    """Choose the grasps of both hands over the whole sequence."""
    steady = str(rng.choice(SIDES))
    holds: dict[str, list[Hold]] = {}
    for side in sorted(SIDES, key=lambda s: s != steady):
        rig = rigs[side]
        parts = (BOTTOM_PART,) if side == steady else (TOP_PART,) if action == "use" else (TOP_PART, BOTTOM_PART)
        shoulder = SHOULDER_M * np.array([rig.sign, 1, 1])
        holds[side] = []
        for start, end in _episodes(rng, time[0], time[-1], side == steady):
            inside = np.linspace(max(start, time[0] - 0.5), min(end, time[-1] + 0.5), 5)
            rotation, translation, articulation = path(inside)
            middle = float(np.median(articulation))
            others = [
                grasp_points(h.grasp, middle)
                for other, other_holds in holds.items()
                for h in other_holds
                if other != side and h.start < end and h.end > start
            ]
            reach = Reach(rotation[2], translation[2], tuple(np.percentile(articulation, [0, 50, 100])), parts,
                          shoulder, np.concatenate(others) if others else np.zeros((0, 3)))  # fmt: skip
            holds[side].append(Hold(start, end, choose_grasp(model, rig, reach, rng)))
    return holds


def _smooth(u: np.ndarray) -> np.ndarray:
    """Ease from 0 to 1 by the quintic 6 u^5 - 15 u^4 + 10 u^3: velocity and acceleration vanish at both ends."""
    u = np.clip(u, 0, 1)
    return u * u * u * (u * (6 * u - 15) + 10)


def _hand_path(holds: list[Hold], time, rotation, translation, articulation, rng) -> tuple:
    """Compute the body-frame hand rotation (T, 3, 3), wrist (T, 3) and joint angles (T, 15, 3)."""
    placed = []
    for hold in holds:
        part_rotation, part_translation = _part_motion(hold.grasp.part, rotation, translation, articulation)
        placed.append(
            (
                part_rotation @ hold.grasp.rotation,
                part_translation + part_rotation @ hold.grasp.wrist_m,
                part_rotation @ hold.grasp.away,
            )
        )
    hand_rotation, wrist, _ = (part.copy() for part in placed[0])
    angles = np.broadcast_to(holds[0].grasp.angles, (len(time), 15, 3)).copy()
    gestures = [GRASP_ANGLES[str(rng.choice(list(GRASP_ANGLES)))] * rng.uniform(0.85, 1.15) for _ in holds]
    for k, (hold, following) in enumerate(pairwise(holds)):
        gap = following.start - hold.end
        u = np.clip((time - hold.end) / gap, 0, 1)
        moving = time > hold.end
        blend, bump = _smooth(u), np.sin(np.pi * _smooth(u)) ** 2
        (r0, w0, a0), (r1, w1, a1) = placed[k], placed[k + 1]
        step = Rotation.from_matrix(np.swapaxes(r0, 1, 2) @ r1).as_rotvec() * blend[:, None]
        hand_rotation[moving] = (r0 @ Rotation.from_rotvec(step).as_matrix())[moving]
        leave = (1 - blend)[:, None] * a0 + blend[:, None] * a1
        path = w0 + (w1 - w0) * blend[:, None] + LIFT_M * bump[:, None] * leave
        wrist[moving] = path[moving]
        angles[moving] = _finger_path(hold.grasp, following.grasp, gestures[k], u)[moving]
    return hand_rotation, wrist, angles


def _finger_path(before: Grasp, after: Grasp, gesture: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Interpolate the fingers from one grasp to the next: open, hold a gesture, open, close."""
    keys = np.stack([before.angles, before.open_angles, gesture, gesture, after.open_angles, after.angles])
    times = np.array([0.0, 0.18, 0.4, 0.62, 0.82, 1.0])
    k = np.clip(np.searchsorted(times, u, side="right") - 1, 0, len(times) - 2)
    share = _smooth((u - times[k]) / (times[k + 1] - times[k]))[:, None, None]
    return keys[k] * (1 - share) + keys[k + 1] * share


def make_motion(
    rigs: Mapping[str, HandRig], object_name: str, action: str, first: int, count: int, rng: np.random.Generator,
    heading: float, step_s: float = 1.0 / ARCTIC_FPS,
) -> Motion:  # fmt: skip
    """Draw `count` frames `step_s` apart, the first being ground-truth index `first` (may be negative)."""
    model = build_object(object_name)
    time = (first + np.arange(count)) * step_s
    path = ObjectPath(model, action, rng)
    rotation, translation, articulation = path(time)
    holds = _plan_holds(model, rigs, path, time, action, rng)
    to_world = Rotation.from_euler("z", heading).as_matrix()
    hands = {}
    for side in SIDES:
        hand_rotation, wrist, angles = _hand_path(holds[side], time, rotation, translation, articulation, rng)
        tremble = Wobble(rng, 45, np.radians(1.5), (0.3, 1.2))(time).reshape(-1, 15, 3)
        angles = np.clip(angles + tremble * [1, 0.5, 0.2], JOINT_LIMITS[..., 0], JOINT_LIMITS[..., 1])
        hands[side] = _track(rigs[side], to_world, hand_rotation, wrist, angles)
    object_rotation = Rotation.from_matrix(to_world @ rotation).as_rotvec().astype(np.float32)
    object_translation = (translation @ to_world.T).astype(np.float32)
    shape = model.articulated_mm(articulation.astype(np.float32)) / MM_PER_M
    turned = shape @ np.swapaxes(Rotation.from_rotvec(object_rotation).as_matrix(), 1, 2)
    return Motion(
        object_name=object_name,
        first=first,
        step_s=step_s,
        hands=hands,
        articulation=articulation.astype(np.float32),
        object_rotation=object_rotation,
        object_translation=object_translation,
        object_vertices=(turned + object_translation[:, None]).astype(np.float32),
        ego_from_world=_ego_path(time, to_world, rng),
    )


def _track(
    rig: HandRig, to_world: np.ndarray, rotation: np.ndarray, wrist: np.ndarray, angles: np.ndarray
) -> HandTrack:
    orient = Rotation.from_matrix(to_world @ rotation).as_rotvec().astype(np.float32)
    relative = (rig.absolute_pose(angles) - rig.mean).astype(np.float32)
    place = rig.translation(wrist @ to_world.T).astype(np.float32)
    vertices, joints = rig.mesh(orient, relative + rig.mean, place)
    shoulder = SHOULDER_M * np.array([rig.sign, 1, 1])
    back = joints[:, 0] - joints[:, [5, 9, 13, 17]].mean(axis=1)
    return HandTrack(
        orient=orient,
        pose=relative,
        translation=place,
        betas=rig.betas,
        vertices=vertices,
        joints=joints,
        elbow=elbow_position(shoulder, wrist, rig.sign) @ to_world.T,
        shoulder=to_world @ shoulder,
        away=back / np.linalg.norm(back, axis=-1, keepdims=True),
    )


def _ego_path(time: np.ndarray, to_world: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw the world-to-camera transforms (T, 4, 4) of a camera on a head that loosely follows the hands."""
    eye = HEAD_M + Wobble(rng, 3, np.array([0.02, 0.025, 0.015]), (0.1, 0.5))(time)
    target = WORKSPACE_M + Wobble(rng, 3, np.array([0.04, 0.04, 0.04]), (0.1, 0.5))(time) + rng.normal(0, 0.015, 3)
    forward = target - eye
    forward /= np.linalg.norm(forward, axis=-1, keepdims=True)
    roll = Wobble(rng, 1, 0.08, (0.1, 0.4))(time)
    up = np.concatenate([np.sin(roll), np.zeros_like(roll), np.cos(roll)], axis=1)
    right = np.cross(forward, up)
    right /= np.linalg.norm(right, axis=-1, keepdims=True)
    cam_from_body = np.stack([right, np.cross(forward, right), forward], axis=1)
    transform = np.tile(np.eye(4), (len(time), 1, 1))
    transform[:, :3, :3] = cam_from_body @ to_world.T
    transform[:, :3, 3] = -np.einsum("tij,tj->ti", cam_from_body, eye)
    return transform.astype(np.float32)
