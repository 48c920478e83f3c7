"""How the resting mesh moves: blend weights, shape directions, joint regressor and pose correctives (right hand).

Everything is a smooth function of the place on the resting hand, so that it does not depend on which triangles
the decimation chose.
"""

import numpy as np
from scipy.optimize import nnls
from scipy.spatial.transform import Rotation

from hawor_pipeline.sample.decimate import mesh_edges
from hawor_pipeline.sample.hand_skeleton import (
    ABDUCTION_AXES,
    BONE_AXES,
    DIGITS,
    FLEXION_AXES,
    REST_JOINTS,
    REST_TIPS,
)
from hawor_pipeline.sample.sdf import Bend, digit_distances, project_to_surface

THUMB = DIGITS.index("thumb")
JOINT_WIDTH_M = {False: (0.018, 0.012, 0.010), True: (0.034, 0.018, 0.013)}
"""Length over which the weight passes from a bone to the next, by joint, for a finger (False) and the thumb (True)."""
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
"""What one positive unit of each shape coefficient does more of; a unit is about one standard deviation."""


def _smoothstep(t: np.ndarray) -> np.ndarray:
    t = np.clip(t, 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def smooth_on_mesh(values: np.ndarray, faces: np.ndarray, rounds: int) -> np.ndarray:
    """Averages values (V, ...) half-way with their neighbours, `rounds` times."""
    edges = mesh_edges(faces)
    degree = np.bincount(edges.ravel(), minlength=len(values)).reshape(-1, *[1] * (values.ndim - 1))
    for _ in range(rounds):
        total = np.zeros_like(values)
        np.add.at(total, edges[:, 0], values[edges[:, 1]])
        np.add.at(total, edges[:, 1], values[edges[:, 0]])
        values = 0.5 * values + 0.5 * total / degree
    return values


def _digit_share(points: np.ndarray) -> np.ndarray:
    """(P, 5) how much each point belongs to each digit, sums to at most one; what is left belongs to the palm."""
    far = digit_distances(points)
    fingers = np.delete(far, THUMB, axis=1)
    lowest = fingers.min(axis=1, keepdims=True)
    finger_share = np.exp((lowest - fingers) / 0.0008)
    finger_share /= finger_share.sum(axis=1, keepdims=True)
    index_root, wrist = REST_JOINTS[1], REST_JOINTS[0] + np.array([-0.012, 0.0, 0.004])
    bone = index_root - wrist
    along = np.clip((points - wrist) @ bone / (bone @ bone), 0, 1)
    to_metacarpal = np.linalg.norm(points - wrist - along[:, None] * bone, axis=1) - 0.0115
    other = np.minimum(lowest[:, 0], to_metacarpal)
    thumb = 1.0 / (1.0 + np.exp(np.clip((far[:, THUMB] - other) / 0.0035, -50, 50)))
    return np.insert(finger_share * (1.0 - thumb)[:, None], THUMB, thumb, axis=1)


def blend_weights(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """(V, 16) skinning weights, rows sum to one, at most four joints a vertex."""
    share = _digit_share(vertices)
    weights = np.zeros((len(vertices), 16))
    for k in range(5):
        width = JOINT_WIDTH_M[k == THUMB]
        reach = [np.ones(len(vertices))]
        for level in range(3):
            joint = 1 + 3 * k + level
            incoming = REST_JOINTS[joint] - REST_JOINTS[joint - 1 if level else 0]
            across = incoming / np.linalg.norm(incoming) + BONE_AXES[joint - 1]
            across /= np.linalg.norm(across)
            passed = (vertices - REST_JOINTS[joint]) @ across / width[level] + 0.5
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
    """(15, 3) far end of each joint's bone."""
    ends = np.concatenate([REST_JOINTS[1:], REST_TIPS])
    return np.stack([REST_TIPS[j // 3] if j % 3 == 2 else ends[j + 1] for j in range(15)])


def _palm_motion(points: np.ndarray) -> dict[str, np.ndarray]:
    """Displacement of the palm at points (P, 3) per unit of the shapes that change it."""
    from_wrist = points - REST_JOINTS[0]
    zero = np.zeros(len(points))
    fade = _smoothstep(-from_wrist[:, 0] / 0.05)  # the wrist keeps its width
    return {
        "size": 0.045 * from_wrist,
        "palm width": np.stack([zero, zero, 0.045 * (points[:, 2] - 0.002) * (0.35 + 0.65 * fade)], axis=1),
        "palm length": np.stack([0.035 * from_wrist[:, 0], zero, zero], axis=1),
    }


def _digit_motion(points: np.ndarray, joint: int) -> dict[str, np.ndarray]:
    """Displacement of points (P, 3) that move with a joint (1..15), per unit of each shape it takes part in."""
    k, level = divmod(joint - 1, 3)
    name = DIGITS[k]
    first = 1 + 3 * k
    base = REST_JOINTS[first]
    ends = _bone_ends()
    stretch = sum((ends[j - 1] - REST_JOINTS[j] for j in range(first, joint)), np.zeros(3))
    offset = points - REST_JOINTS[joint]
    along = offset @ BONE_AXES[joint - 1]
    radial = offset - along[:, None] * BONE_AXES[joint - 1]
    stretched = stretch + along[:, None] * BONE_AXES[joint - 1]
    place = (level + np.clip(along / np.linalg.norm(ends[joint - 1] - REST_JOINTS[joint]), 0, 1)) / 3.0
    motion = {key: np.repeat(value, len(points), axis=0) for key, value in _palm_motion(base[None]).items()}
    motion["size"] = 0.045 * (points - REST_JOINTS[0])
    motion["thickness"] = 0.065 * radial
    motion["taper"] = (0.15 * place - 0.06)[:, None] * radial
    if name == "thumb":
        motion["thumb length"] = 0.05 * stretched
        motion["thumb opening"] = np.radians(4.0) * np.cross(ABDUCTION_AXES[first - 1], points - base)
    else:
        motion["finger length"] = 0.045 * stretched
        spread = {"index": 2.0, "middle": 0.5, "ring": -1.0, "pinky": -2.5}[name]
        motion["finger spread"] = np.radians(spread) * np.cross(ABDUCTION_AXES[first - 1], points - base)
        motion["little side length"] = {"index": -0.03, "middle": 0.0, "ring": 0.03, "pinky": 0.055}[name] * stretched
    return motion


def shape_motion(points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Displacement per unit of each shape coefficient, metres.

    Args:
        points: (P, 3) m.
        weights: (P, 16) which joints the points move with.

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
    """(16, V) non-negative weights, rows sum to one, that put the joints right at rest and under every shape.

    Each row is a least-squares fit on the `nearest` vertices: the joint's place, its motion under the ten shapes
    and the sum of one, with a little ridge to spread the weight around the limb.
    """
    joint_motion = shape_motion(REST_JOINTS, np.eye(16))
    regressor = np.zeros((16, len(vertices)))
    for joint in range(16):
        near = np.argsort(np.linalg.norm(vertices - REST_JOINTS[joint], axis=1), kind="stable")[:nearest]
        rows = [
            (vertices[near] - REST_JOINTS[joint]).T,
            shapedirs[near].reshape(nearest, -1).T,
            np.ones((1, nearest)),
            1e-4 * np.eye(nearest),
        ]
        wanted = [np.zeros(3), joint_motion[joint].ravel(), np.ones(1), np.zeros(nearest)]
        solution, _ = nnls(np.concatenate(rows), np.concatenate(wanted))
        regressor[joint, near] = solution / solution.sum()
    return regressor


def pose_correctives(vertices: np.ndarray, faces: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pose blend shapes: what linear skinning lacks against the bent implicit hand.

    Each joint is bent alone to a few angles; skinned vertices near it are put on the bent surface, and the moves,
    taken back to rest, are fitted by g (1 - cos t) + h sin t. Both are linear in the rotation matrix R: the trace
    of R - I is -2 (1 - cos t), and its product with the axis' cross matrix is 2 sin t.

    Args:
        vertices: (V, 3) m.
        faces: (F, 3).
        weights: (V, 16).

    Returns:
        (V, 3, 135) m, for the feature (R_1 - I, ..., R_15 - I) flattened by rows.
    """
    posedirs = np.zeros((len(vertices), 3, 15, 9))
    for joint in range(1, 16):
        last = 3 * ((joint - 1) // 3) + 3
        moved = weights[:, joint : last + 1].sum(axis=1)
        active = smooth_on_mesh(np.clip(12.0 * moved * (1.0 - moved), 0, 1), faces, rounds=1)
        inside = active > 1e-3
        samples = []
        for degrees in CORRECTIVE_ANGLES_DEG:
            turn = Rotation.from_rotvec(np.radians(degrees) * FLEXION_AXES[joint - 1]).as_matrix()
            blend = np.eye(3) + moved[inside, None, None] * (turn - np.eye(3))
            centre = REST_JOINTS[joint]
            skinned = np.einsum("vab,vb->va", blend, vertices[inside] - centre) + centre
            lack = project_to_surface(skinned, Bend(joint, turn), rounds=3) - skinned
            lack *= np.minimum(1.0, CORRECTIVE_LIMIT_M / np.maximum(np.linalg.norm(lack, axis=1), 1e-9))[:, None]
            rest = np.zeros_like(vertices)
            rest[inside] = active[inside, None] * np.linalg.solve(blend, lack[:, :, None])[:, :, 0]
            samples.append(smooth_on_mesh(rest, faces, rounds=1))
        angles = np.radians(CORRECTIVE_ANGLES_DEG)
        basis = np.stack([1.0 - np.cos(angles), np.sin(angles)], axis=1)
        fit = np.linalg.pinv(basis) @ np.stack(samples).reshape(len(angles), -1)
        even, odd = fit.reshape(2, len(vertices), 3)
        x, y, z = FLEXION_AXES[joint - 1]
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        posedirs[:, :, joint - 1] = -0.5 * even[:, :, None] * np.eye(3).ravel() + 0.5 * odd[:, :, None] * cross.ravel()
    return posedirs.reshape(len(vertices), 3, 135)
