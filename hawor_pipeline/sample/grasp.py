"""Grasps of an object: natural placements of a hand, with the fingers closed until they touch.

A grasp is relative to the canonical frame of one part of the object (metres), so it follows the object's motion. The
object's signed distance stops every finger on the surface; the wrist's placement is drawn at random and rated by how
an arm would reach it. Nothing here depends on time.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from hawor_pipeline.core.mano import ManoArrays, ManoLayer
from hawor_pipeline.core.units import MM_PER_M
from hawor_pipeline.sample.articulated_objects import BOTTOM_PART, TOP_PART, ObjectModel, hinge
from hawor_pipeline.sample.hand import GRASP_ANGLES, JOINT_LIMITS, angles_to_pose, mirror_pose, rest_skeleton

CLOSING_LEVELS = np.linspace(0.0, 1.0, 10)
GOOD_ENOUGH = 0.6  # cost below which no further placement is tried
TOUCH_M = 0.0005  # skin gives way by this much
WRIST_TO_PALM_M = 0.072
UPPER_ARM_M, FOREARM_M = 0.29, 0.26  # an adult arm
FINGER_JOINTS_MANO = np.arange(1, 16).reshape(5, 3)  # index, middle, pinky, ring, thumb


class HandRig:
    """One side's hand model in NumPy arrays, metres.

    Poses are (…, 15, 3) joint angles of a right hand (flexion, abduction, twist); left hands mirror them.
    """

    def __init__(self, arrays: ManoArrays, side: str, betas: np.ndarray) -> None:
        self.side, self.sign = side, 1.0 if side == "right" else -1.0
        self.betas = np.asarray(betas, np.float32)
        self.arrays, self.layer = arrays, ManoLayer(arrays)
        self.faces = arrays.faces.astype(np.int32)
        self.mean = arrays.hands_mean
        owner = arrays.skin_weights.argmax(axis=1)
        self.finger_of_vertex = np.where(owner > 0, (owner - 1) // 3, -1)  # -1: palm and wrist
        self.rest_joints = self.layer.rest_joints(torch.from_numpy(self.betas)).numpy().astype(np.float64)
        self.root = self.rest_joints[0]
        # Columns, in the rest frame: direction of the fingers, direction of the palm, their cross product.
        self.rest_frame = np.array([[-self.sign, 0, 0], [0, -1, 0], [0, 0, self.sign]]).T

    def orientation(self, pointing: np.ndarray, palm: np.ndarray) -> np.ndarray:
        """Return the rotation (*b, 3, 3) that turns fingers to `pointing` and palm to `palm` (unit, orthogonal)."""
        frame = np.stack([pointing, palm, np.cross(pointing, palm)], axis=-1)
        return frame @ self.rest_frame.T

    def absolute_pose(self, angles: np.ndarray) -> np.ndarray:
        """Convert joint angles (*b, 15, 3) to this side's (*b, 45) axis-angle, mean pose included."""
        pose = angles_to_pose(angles, rest_skeleton())
        return pose if self.side == "right" else mirror_pose(pose)

    def mesh(self, orient: np.ndarray, pose: np.ndarray, translation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute vertices (B, 778, 3) and joints (B, 21, 3) of axis-angle orient (B, 3) and absolute pose (B, 45)."""
        to_tensor = torch.from_numpy
        with torch.no_grad():
            rotmats = self.layer.absolute_rotmats(
                to_tensor(orient.astype(np.float32)), to_tensor(pose.astype(np.float32)), mean_included=True
            )
            betas = to_tensor(self.betas).expand(len(orient), 10)
            out = self.layer(rotmats, betas)
        shift = translation[:, None].astype(np.float32)
        return out.vertices.numpy() + shift, out.joints.numpy() + shift

    def translation(self, wrist: np.ndarray) -> np.ndarray:
        """Return MANO's translation that places the wrist joint at `wrist` (*b, 3)."""
        return wrist - self.root


@dataclass(frozen=True)
class Grasp:
    """A hand resting on one part of the object.

    `rotation` (3, 3) and `wrist_m` (3) are relative to that part's canonical frame, `away` (3) is the direction in
    which the hand leaves, `angles` (15, 3) the fingers in contact and `open_angles` the same hand opened.
    """

    part: int
    rotation: np.ndarray
    wrist_m: np.ndarray
    away: np.ndarray
    angles: np.ndarray
    open_angles: np.ndarray


@dataclass(frozen=True)
class Reach:
    """Constraints on a grasp: the object's pose (body frame), its articulations, the shoulder, the other hand."""

    rotation: np.ndarray  # (3, 3) body from object
    translation_m: np.ndarray  # (3,)
    articulations: tuple[float, ...]
    parts: tuple[int, ...]
    shoulder_m: np.ndarray
    other_points_m: np.ndarray  # (N, 3) of the other hand, object frame at the middle articulation; may be empty


@dataclass(frozen=True, slots=True)
class Placements:
    """Candidate placements of a hand, N of them; vectors and metres are those of the part's frame.

    Attributes:
        part: (N,) the part that is held.
        pointing: (N, 3) direction of the fingers.
        palm: (N, 3) direction of the palm.
        wrist: (N, 3) m.
        away: (N, 3) direction in which the hand leaves.
        pinch: (N,) True where fingers and thumb hold an edge.
        grip_cost: (N,) cost of pinching the edge.
        rotation: (N, 3, 3).
    """

    part: np.ndarray
    pointing: np.ndarray
    palm: np.ndarray
    wrist: np.ndarray
    away: np.ndarray
    pinch: np.ndarray
    grip_cost: np.ndarray
    rotation: np.ndarray


def _tangents(normals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a random unit vector orthogonal to each normal."""
    random = rng.normal(size=normals.shape)
    random -= (random * normals).sum(-1, keepdims=True) * normals
    return random / np.linalg.norm(random, axis=-1, keepdims=True)


def _surface(model: ObjectModel, part: int, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw points in metres with outward normals, uniform over the area of one part."""
    vertices, faces = model.part_mesh(part)
    corners = vertices[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normal, axis=1)
    chosen = rng.choice(len(faces), size=count, p=area / area.sum())
    weights = rng.dirichlet(np.ones(3), size=count)
    points = np.einsum("nk,nkc->nc", weights, corners[chosen])
    return points / MM_PER_M, normal[chosen] / np.maximum(area[chosen, None], 1e-9)


def _placements(model: ObjectModel, rig: HandRig, reach: Reach, count: int, rng: np.random.Generator) -> Placements:
    """Draw placements: palm against the surface, and pinches of thin edges; arrays of length 2 * count."""
    part = np.repeat(rng.choice(reach.parts, size=count), 2)
    points, normals = np.empty((2 * count, 3)), np.empty((2 * count, 3))
    for value in set(part):
        here = part == value
        points[here], normals[here] = _surface(model, int(value), int(here.sum()), rng)
    pointing = _tangents(normals, rng)
    pinch = np.arange(2 * count) % 2 == 1
    palm = -normals
    # A palm rests on the face; a pinch holds the edge behind the point between fingers and thumb.
    slant = np.where(pinch, rng.uniform(-0.1, 0.2, 2 * count), rng.uniform(-0.1, 0.15, 2 * count))[:, None]
    tilted = np.cos(slant) * pointing + np.sin(slant) * palm
    palm = np.cos(slant) * palm - np.sin(slant) * pointing
    edge, grip_cost = _edge_behind(model, part, points, normals, pointing)
    standoff = np.where(pinch, rng.uniform(0.011, 0.015, 2 * count), rng.uniform(0.016, 0.03, 2 * count))[:, None]
    length = np.where(pinch, rng.uniform(0.045, 0.062, 2 * count), WRIST_TO_PALM_M)[:, None]
    wrist = np.where(pinch[:, None], edge, points) + normals * standoff - tilted * length
    away = np.where(pinch[:, None], -pointing, normals)
    grip_cost = np.where(pinch, grip_cost, 0.0)
    return Placements(part, tilted, palm, wrist, away, pinch, grip_cost, rig.orientation(tilted, palm))


def _edge_behind(model: ObjectModel, part, points, normals, pointing) -> tuple[np.ndarray, np.ndarray]:
    """Return the edge of the part behind each point, seen from the fingers, and the cost of pinching it."""
    walk = np.arange(0.004, 0.16, 0.004)
    inside = points - 0.002 * normals
    path = inside[:, None] - walk[:, None] * pointing[:, None]
    outside = _part_distance(model, part, path) > 0.0005
    first = outside.argmax(axis=1)
    edge = points - walk[first, None] * pointing
    through = edge + 0.012 * pointing - 0.013 * normals  # the other side, if the part is thin at the edge
    thick = _part_distance(model, part, through[:, None])[:, 0] < 0
    return edge, 5.0 * thick + 5.0 * ~outside.any(axis=1)


def _part_distance(model: ObjectModel, part: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Compute the distance (N, K) in metres of points (N, K, 3) to the parts (N,) in whose frames they are."""
    points_mm = points * MM_PER_M
    top, bottom = (model.part_distance_mm(points_mm, k) for k in (TOP_PART, BOTTOM_PART))
    return np.where((part == TOP_PART)[:, None], top, bottom) / MM_PER_M


def _in_canonical(model_points: np.ndarray, part: np.ndarray, articulation: float) -> np.ndarray:
    """Transform part-frame points (N, K, 3) to the object's frame, with the top turned by `articulation`."""
    turned = hinge(model_points, np.full(len(part), articulation))
    return np.where((part == TOP_PART)[:, None, None], turned, model_points)


def _awkwardness(model: ObjectModel, rig: HandRig, reach: Reach, place: Placements) -> np.ndarray:
    """Rate each placement before the fingers close by arm direction, palm direction, collisions; lower is better."""
    middle = float(np.median(reach.articulations))

    def to_body(vectors: np.ndarray, shift: bool) -> np.ndarray:
        turned = _in_canonical(vectors[:, None], place.part, middle)[:, 0] @ reach.rotation.T
        return turned + reach.translation_m if shift else turned

    wrist, pointing, palm = to_body(place.wrist, True), to_body(place.pointing, False), to_body(place.palm, False)
    elbow = elbow_position(reach.shoulder_m, wrist, rig.sign)
    forearm = wrist - elbow
    distance = np.linalg.norm(wrist - reach.shoulder_m, axis=-1)
    forearm /= np.linalg.norm(forearm, axis=-1, keepdims=True)
    bend = np.arccos(np.clip((pointing * forearm).sum(-1), -1, 1))
    cost = 2.0 * np.maximum(bend - 0.5, 0) ** 2 + 12.0 * np.maximum(bend - 1.05, 0)
    inward = -rig.sign * palm[:, 0]
    cost += 3.0 * np.maximum(0.25 - inward, 0) + 30.0 * np.maximum(distance - 0.52, 0)
    cost += 20.0 * np.maximum(0.12 - rig.sign * (wrist[:, 0] - reach.translation_m[0]), 0) ** 2
    # Points of the wrist, palm and the forearm behind it must stay outside the object at every articulation.
    offsets = np.array([0.0, 0.045, 0.085, -0.06, -0.12])
    body = place.wrist[:, None] + place.pointing[:, None] * offsets[:, None]
    for articulation in reach.articulations:
        gap = model.distance_mm(_in_canonical(body, place.part, articulation) * MM_PER_M, articulation) / MM_PER_M
        cost += 400.0 * np.maximum(0.012 - gap, 0).sum(-1)
    if len(reach.other_points_m):
        here = _in_canonical(body, place.part, middle)
        gap = np.linalg.norm(here[:, :, None] - reach.other_points_m, axis=-1).min(axis=(1, 2))
        cost += 110.0 * np.maximum(0.06 - gap, 0)
    return cost + place.grip_cost + np.where(place.pinch, 0.0, 0.1)


def elbow_position(shoulder: np.ndarray, wrist: np.ndarray, sign: float) -> np.ndarray:
    """Compute the elbow (*b, 3) in the body frame by two-bone inverse kinematics, hanging down and outwards."""
    upper, lower = UPPER_ARM_M, FOREARM_M
    axis = wrist - shoulder
    distance = np.linalg.norm(axis, axis=-1, keepdims=True)
    axis = axis / distance
    reach = np.clip(distance, 0.15, (upper + lower) * 0.999)
    # Law of cosines: the elbow lies `along` the line from shoulder to wrist and `height` off it.
    along = (reach**2 + upper**2 - lower**2) / (2 * reach)
    height = np.sqrt(np.maximum(upper**2 - along**2, 0.0))
    hint = np.array([sign * 0.55, -0.25, -0.8])
    side = hint - (axis * hint).sum(-1, keepdims=True) * axis
    side /= np.linalg.norm(side, axis=-1, keepdims=True)
    return shoulder + axis * along + side * height


def _close_fingers(
    model: ObjectModel, rig: HandRig, reach: Reach, place: Placements, i: int, rng
) -> tuple[Grasp, float]:
    """Close each finger of placement i until it touches; return the grasp and its cost."""
    start, end = _closing_path(bool(place.pinch[i]), rng)
    angles = start + CLOSING_LEVELS[:, None, None] * (end - start)
    count = len(angles)
    vertices, _ = rig.mesh(
        np.repeat(Rotation.from_matrix(place.rotation[i]).as_rotvec()[None], count, axis=0),
        rig.absolute_pose(angles),
        np.repeat(rig.translation(place.wrist[i])[None], count, axis=0),
    )
    part = np.full(count, place.part[i])
    gap = np.min(
        [
            model.distance_mm(_in_canonical(vertices, part, float(a)) * np.float32(MM_PER_M), a) / MM_PER_M
            for a in reach.articulations
        ],
        axis=0,
    )  # (levels, 778)
    palm_depth = np.maximum(-gap[0][rig.finger_of_vertex < 0], 0).max()
    cost = 500.0 * palm_depth + 2.0 * (palm_depth > 0.0015)
    chosen = np.empty(5)
    for finger in range(5):
        nearest = gap[:, rig.finger_of_vertex == finger].min(axis=1) + TOUCH_M
        inside = np.flatnonzero(nearest < 0)
        if len(inside) == 0:
            chosen[finger] = rng.uniform(0.35, 0.8)
            cost += 0.35
        elif inside[0] == 0:
            chosen[finger] = 0.0
            cost += 0.8 + 200.0 * -nearest[0]
        else:
            low, high = inside[0] - 1, inside[0]
            share = nearest[low] / (nearest[low] - nearest[high])
            chosen[finger] = CLOSING_LEVELS[low] + share * (CLOSING_LEVELS[high] - CLOSING_LEVELS[low])
    if not place.pinch[i]:  # prefer hands that wrap around the object to hands that lie on it
        cost += 1.2 * max(0.0, 0.55 - float(chosen[:4].mean()))
    levels = np.repeat(chosen, 3)[:, None]
    closed = start + levels * (end - start)
    opened = start + np.maximum(levels - 0.45, -0.15) * (end - start)
    opened = np.clip(opened, JOINT_LIMITS[..., 0], JOINT_LIMITS[..., 1])
    grasp = Grasp(int(place.part[i]), place.rotation[i], place.wrist[i], place.away[i], closed, opened)
    return grasp, cost


def _closing_path(pinch: bool, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw the joint angles (15, 3) of the open and of the fully closed end, around the named grasps."""
    opened = GRASP_ANGLES["open"] * rng.uniform(0.6, 1.6)
    names = ("pinch", "tripod", "flat_on_side") if pinch else ("power", "hook", "fist", "power", "flat_on_side")
    target = GRASP_ANGLES[str(rng.choice(names))]
    if pinch:  # the thumb starts below the edge and moves up to it
        opened[12:15] = GRASP_ANGLES["flat_on_side"][12:15] + np.radians([[8.0, 6.0, 0.0], [0.0] * 3, [0.0] * 3])
        target = target.copy()
        target[12:15] = np.radians([[-6.0, -14.0, 10.0], [12.0, 0.0, 0.0], [20.0, 0.0, 0.0]])
    spread = rng.normal(0.0, np.radians(4.0))
    end = target * rng.uniform(0.95, 1.3, size=(15, 1))
    for path in (opened, end):
        path[FINGER_JOINTS_MANO[:4, 0], 1] += spread * np.array([1.0, 0.3, -1.0, -0.5])
    limits = JOINT_LIMITS[..., 0], JOINT_LIMITS[..., 1]
    return np.clip(opened, *limits), np.clip(end, *limits)


def choose_grasp(
    model: ObjectModel, rig: HandRig, reach: Reach, rng: np.random.Generator, *, tries: int = 140, finalists: int = 7
) -> Grasp:
    """Draw placements, keep the least awkward, close their fingers and return the best."""
    place = _placements(model, rig, reach, tries, rng)
    cost = _awkwardness(model, rig, reach, place)
    best: tuple[Grasp, float] | None = None
    for i in np.argsort(cost, kind="stable")[:finalists]:
        grasp, touch = _close_fingers(model, rig, reach, place, int(i), rng)
        if best is None or cost[i] + touch < best[1]:
            best = grasp, float(cost[i] + touch)
        if best[1] < GOOD_ENOUGH:
            break
    assert best is not None
    return best[0]


def grasp_points(grasp: Grasp, articulation: float) -> np.ndarray:
    """Return a few points of a grasping hand (object frame), enough to keep another hand away."""
    offsets = np.array([0.0, 0.05, 0.1, 0.14])
    pointing = grasp.rotation @ np.array([1.0, 0, 0])
    points = np.concatenate([grasp.wrist_m + np.outer(offsets, pointing), grasp.wrist_m - np.outer(offsets, pointing)])
    return _in_canonical(points[None], np.array([grasp.part]), articulation)[0]
