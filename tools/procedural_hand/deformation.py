"""Deformation of the resting mesh: blend weights, shape directions, joint regressor, pose correctives (right hand).

Everything is a smooth function of the position on the resting hand, so it does not depend on which triangles the
decimation chose.
"""

import numpy as np
from scipy.optimize import nnls
from scipy.spatial.transform import Rotation

from hawor_pipeline.sample.hand import DIGITS
from tools.procedural_hand.decimate import mesh_edges
from tools.procedural_hand.skeleton import SKELETON
from tools.procedural_hand.surface import Bend, digit_distances, project_to_surface

THUMB = DIGITS.index("thumb")
JOINT_WIDTH_M = {False: (0.018, 0.012, 0.010), True: (0.034, 0.018, 0.013)}
"""Length over which the weight passes to the next bone, by joint, for a finger (False) and the thumb (True)."""
CORRECTIVE_ANGLES_DEG = (-20.0, 45.0, 90.0)
CORRECTIVE_LIMIT_M = 0.004
SHAPE_NAMES = (
    "size",
    "thickness",
    "palm width",
    "finger length",
    "palm length",
    "thumb length",
    "thumb opening",
    "finger spread",
    "little side length",
    "taper",
)
"""The quantity that one positive unit of each shape coefficient increases; a unit is about one standard deviation."""


def _smoothstep(t: np.ndarray) -> np.ndarray:
    t = np.clip(t, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def smooth_on_mesh(values: np.ndarray, faces: np.ndarray, rounds: int) -> np.ndarray:
    """Average values (V, ...) half-way with their neighbours, `rounds` times."""
    edges = mesh_edges(faces)
    degree = np.bincount(edges.ravel(), minlength=len(values)).reshape(-1, *[1] * (values.ndim - 1))
    for _ in range(rounds):
        total = np.zeros_like(values)
        np.add.at(total, edges[:, 0], values[edges[:, 1]])
        np.add.at(total, edges[:, 1], values[edges[:, 0]])
        values = 0.5 * values + 0.5 * total / degree
    return values


def _digit_share(points: np.ndarray) -> np.ndarray:
    """Return the share (P, 5) of each digit in each point; the rest to one belongs to the palm."""
    far = digit_distances(points)
    fingers = np.delete(far, THUMB, axis=1)
    lowest = fingers.min(axis=1, keepdims=True)
    finger_share = np.exp((lowest - fingers) / 0.0008)
    finger_share /= finger_share.sum(axis=1, keepdims=True)
    index_root, wrist = SKELETON.joints[1], SKELETON.joints[0] + np.array([-0.012, 0.0, 0.004])
    bone = index_root - wrist
    along = np.clip((points - wrist) @ bone / (bone @ bone), 0, 1)
    to_metacarpal = np.linalg.norm(points - wrist - along[:, None] * bone, axis=1) - 0.0115
    other = np.minimum(lowest[:, 0], to_metacarpal)
    thumb = 1.0 / (1.0 + np.exp(np.clip((far[:, THUMB] - other) / 0.0035, -50, 50)))
    return np.insert(finger_share * (1.0 - thumb)[:, None], THUMB, thumb, axis=1)


def blend_weights(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return skinning weights (V, 16); rows sum to one, with at most four joints per vertex."""
    share = _digit_share(vertices)
    weights = np.zeros((len(vertices), 16))
    for k in range(5):
        width = JOINT_WIDTH_M[k == THUMB]
        reach = [np.ones(len(vertices))]
        for level in range(3):
            joint = 1 + 3 * k + level
            incoming = SKELETON.joints[joint] - SKELETON.joints[joint - 1 if level else 0]
            across = incoming / np.linalg.norm(incoming) + SKELETON.bone_axes[joint - 1]
            across /= np.linalg.norm(across)
            passed = (vertices - SKELETON.joints[joint]) @ across / width[level] + 0.5
            reach.append(reach[-1] * _smoothstep(passed))
        reach.append(np.zeros(len(vertices)))
        for level in range(3):
            weights[:, 1 + 3 * k + level] = share[:, k] * (reach[level + 1] - reach[level + 2])
    weights[:, 0] = 1.0 - weights[:, 1:].sum(axis=1)
    weights = smooth_on_mesh(weights, faces, rounds=2)
    fourth = np.sort(weights, axis=1)[:, -4, None]
    weights = np.where((weights >= fourth) & (weights > 1e-4), weights, 0.0)
    return weights / weights.sum(axis=1, keepdims=True)


def _bone_ends() -> np.ndarray:
    """Return the far end (15, 3) of each joint's bone."""
    ends = np.concatenate([SKELETON.joints[1:], SKELETON.tips])
    return np.stack([SKELETON.tips[j // 3] if j % 3 == 2 else ends[j + 1] for j in range(15)])


def _palm_motion(points: np.ndarray) -> dict[str, np.ndarray]:
    """Return the displacement of the palm at points (P, 3) per unit of the shapes that change it."""
    from_wrist = points - SKELETON.joints[0]
    zero = np.zeros(len(points))
    fade = _smoothstep(-from_wrist[:, 0] / 0.05)  # the wrist keeps its width
    return {
        "size": 0.045 * from_wrist,
        "palm width": np.stack([zero, zero, 0.045 * (points[:, 2] - 0.002) * (0.35 + 0.65 * fade)], axis=1),
        "palm length": np.stack([0.035 * from_wrist[:, 0], zero, zero], axis=1),
    }


def _digit_motion(points: np.ndarray, joint: int) -> dict[str, np.ndarray]:
    """Return the displacement of points (P, 3) that move with a joint (1..15), per unit of each shape that moves it."""
    k, level = divmod(joint - 1, 3)
    name = DIGITS[k]
    first = 1 + 3 * k
    base = SKELETON.joints[first]
    ends = _bone_ends()
    stretch = sum((ends[j - 1] - SKELETON.joints[j] for j in range(first, joint)), np.zeros(3))
    offset = points - SKELETON.joints[joint]
    along = offset @ SKELETON.bone_axes[joint - 1]
    radial = offset - along[:, None] * SKELETON.bone_axes[joint - 1]
    stretched = stretch + along[:, None] * SKELETON.bone_axes[joint - 1]
    place = (level + np.clip(along / np.linalg.norm(ends[joint - 1] - SKELETON.joints[joint]), 0, 1)) / 3.0
    motion = {key: np.repeat(value, len(points), axis=0) for key, value in _palm_motion(base[None]).items()}
    motion["size"] = 0.045 * (points - SKELETON.joints[0])
    motion["thickness"] = 0.065 * radial
    motion["taper"] = (0.15 * place - 0.06)[:, None] * radial
    if name == "thumb":
        motion["thumb length"] = 0.05 * stretched
        motion["thumb opening"] = np.radians(4.0) * np.cross(SKELETON.abduction_axes[first - 1], points - base)
    else:
        motion["finger length"] = 0.045 * stretched
        spread = {"index": 2.0, "middle": 0.5, "ring": -1.0, "pinky": -2.5}[name]
        motion["finger spread"] = np.radians(spread) * np.cross(SKELETON.abduction_axes[first - 1], points - base)
        motion["little side length"] = {"index": -0.03, "middle": 0.0, "ring": 0.03, "pinky": 0.055}[name] * stretched
    return motion


def shape_motion(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Compute the displacement per unit of each shape coefficient, metres.

    Args:
        points: (P, 3) m.
        weights: (P, 16) skinning weights of the points.

    Returns:
        (P, 3, 10) in the order of `SHAPE_NAMES`.
    """
    palm = _palm_motion(points)
    offset = points - np.array([0.05, 0.001, 0.002])
    palm["thickness"] = 0.065 * np.stack([np.zeros(len(points)), offset[:, 1], 0.25 * offset[:, 2]], axis=1)
    result = np.zeros((len(points), 3, len(SHAPE_NAMES)))
    for joint in range(16):
        motion = palm if joint == 0 else _digit_motion(points, joint)
        for name, value in motion.items():
            result[:, :, SHAPE_NAMES.index(name)] += weights[:, joint, None] * value
    return result


def joint_regressor(vertices: np.ndarray, shapedirs: np.ndarray, nearest: int = 36) -> np.ndarray:
    """Fit MANO's joint regressor (16, V): non-negative rows that sum to one, right at rest and under every shape.

    Each row is a least-squares fit on the `nearest` vertices: the joint's position, its motion under the ten shapes
    and the sum of one, with a small ridge term that spreads the weight around the limb.
    """
    joint_motion = shape_motion(SKELETON.joints, np.eye(16))
    regressor = np.zeros((16, len(vertices)))
    for joint in range(16):
        near = np.argsort(np.linalg.norm(vertices - SKELETON.joints[joint], axis=1), kind="stable")[:nearest]
        rows = [
            (vertices[near] - SKELETON.joints[joint]).T,
            shapedirs[near].reshape(nearest, -1).T,
            np.ones((1, nearest)),
            1e-4 * np.eye(nearest),
        ]
        wanted = [np.zeros(3), joint_motion[joint].ravel(), np.ones(1), np.zeros(nearest)]
        solution, _ = nnls(np.concatenate(rows), np.concatenate(wanted))
        regressor[joint, near] = solution / solution.sum()
    return regressor


def pose_correctives(vertices: np.ndarray, faces: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit the displacements by which linear skinning misses the bent implicit hand.

    Each joint is bent alone to a few angles t; skinned vertices near it are projected to the bent surface, and the
    displacements, taken back to rest, are fitted by g (1 - cos t) + h sin t, which is linear in the rotation matrix.

    Args:
        vertices: (V, 3) m.
        faces: (F, 3).
        weights: (V, 16).

    Returns:
        g and h, (15, V, 3) m each.
    """
    angles = np.radians(CORRECTIVE_ANGLES_DEG)
    basis = np.stack([1.0 - np.cos(angles), np.sin(angles)], axis=1)
    fits = []
    for joint in range(1, 16):
        last = 3 * ((joint - 1) // 3) + 3
        moved = weights[:, joint : last + 1].sum(axis=1)
        active = smooth_on_mesh(np.clip(12.0 * moved * (1.0 - moved), 0, 1), faces, rounds=1)
        inside = active > 1e-3
        samples = []
        for angle in angles:
            turn = Rotation.from_rotvec(angle * SKELETON.flexion_axes[joint - 1]).as_matrix()
            blend = np.eye(3) + moved[inside, None, None] * (turn - np.eye(3))
            centre = SKELETON.joints[joint]
            skinned = np.einsum("vab,vb->va", blend, vertices[inside] - centre) + centre
            gap = project_to_surface(skinned, Bend(joint, turn), rounds=3) - skinned
            gap *= np.minimum(1.0, CORRECTIVE_LIMIT_M / np.maximum(np.linalg.norm(gap, axis=1), 1e-9))[:, None]
            rest = np.zeros_like(vertices)
            rest[inside] = active[inside, None] * np.linalg.solve(blend, gap[:, :, None])[:, :, 0]
            samples.append(smooth_on_mesh(rest, faces, rounds=1))
        fit = np.linalg.pinv(basis) @ np.stack(samples).reshape(len(angles), -1)
        fits.append(fit.reshape(2, len(vertices), 3))
    cosine, sine = np.stack(fits, axis=1)
    return cosine, sine
