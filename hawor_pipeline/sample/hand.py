"""The synthetic hand model in MANO's file format, so that every stage runs without the licensed model, and its poses.

Convention: MANO's. Metres; at rest the right hand's fingers point along -x, its palm faces -y and its thumb is on the
+z side; the left hand is its mirror image in the plane x = 0, so mirrored parameters give mirrored meshes. Shapes,
data types and keys are those of MANO's own files, read by smplx with `ext="npz"`; `source` marks them as synthetic.

Joint angles are radians of the right hand's joints 1..15 in MANO's order, three each: flexion (positive closes the
hand), abduction (positive towards the thumb's side) and twist (about the bone). A pose is the (45,) absolute axis-angle
vector, mean pose included: subtract the model's `hands_mean` to get the pose that smplx expects with
`flat_hand_mean=False`.

The arrays are constants in `hand.npz`, written by `python -m tools.procedural_hand` of the repository.
"""

import importlib.resources
import io
import pickle
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import yaml
from scipy.spatial.transform import Rotation

from hawor_pipeline.core.skeleton import MANO_PARENTS
from hawor_pipeline.provenance import atomic_write_bytes

SIDES = ("right", "left")
DIGITS = ("index", "middle", "pinky", "ring", "thumb")
"""Digits in MANO's joint order."""
SOURCE = "synthetic: procedural hand of hawor_pipeline, not MANO"
MIRROR = np.array([-1.0, 1.0, 1.0])
HAND_FILE = "hand.npz"
FINGER_LIMITS_DEG = (((-20, 92), (-16, 16), (-5, 5)), ((-3, 105), (-2, 2), (-2, 2)), ((-8, 80), (-2, 2), (-2, 2)))
THUMB_LIMITS_DEG = (((-25, 50), (-30, 30), (-35, 35)), ((-10, 60), (-10, 10), (-10, 10)), ((-15, 85), (-3, 3), (-3, 3)))

JOINT_LIMITS = np.radians(np.array(FINGER_LIMITS_DEG * 4 + THUMB_LIMITS_DEG, dtype=float))
"""(15, 3, 2) lowest and highest angle of each joint's flexion, abduction and twist, radians: slightly inside the usual
active ranges of an adult hand, so that every motion within the limits looks possible."""
# In the order of the written files, whose bytes depend on it.
_ARRAYS = (
    *("v_template", "f", "shapedirs", "posedirs", "J_regressor", "J", "weights", "kintree_table"),
    *("hands_mean", "hands_components", "hands_coeffs"),
)


@dataclass(frozen=True, slots=True)
class RestSkeleton:
    """Joints and axes of the right hand at rest, metres.

    Axes are unit vectors (15, 3) of the joints 1..15.

    Attributes:
        joints: (16, 3).
        tips: (5, 3), in the order of `DIGITS`.
        bone_axes: along the bone that leaves the joint; a positive turn about it twists.
        palmar_axes: towards the pulp of the digit.
        flexion_axes: a positive turn about it closes the hand.
    """

    joints: np.ndarray
    tips: np.ndarray
    bone_axes: np.ndarray
    palmar_axes: np.ndarray
    flexion_axes: np.ndarray

    @property
    def abduction_axes(self) -> np.ndarray:
        """Axes (15, 3) about which a positive turn swings a finger to the thumb's side and opens the thumb's web."""
        return -self.palmar_axes


@cache
def rest_skeleton() -> RestSkeleton:
    """Return the rest skeleton of the synthetic right hand."""
    return RestSkeleton(**{name: stored_arrays(HAND_FILE)[name] for name in RestSkeleton.__slots__})


def build_mano(side: str) -> dict[str, np.ndarray]:
    """Build the arrays of one hand model, as in MANO's file.

    Args:
        side: "right" or "left".

    Returns:
        Fresh arrays: `v_template` (778, 3) m, `f` (1538, 3) uint32, `shapedirs` (778, 3, 10), `posedirs`
        (778, 3, 135), `J_regressor` (16, 778), `J` (16, 3), `weights` (778, 16), `kintree_table` (2, 16) uint32
        with 2**32 - 1 as the root's parent, `hands_mean` (45,), `hands_components` (45, 45), `hands_coeffs`
        (grasps, 45), and the strings `bs_style`, `bs_type`, `source`.

    Raises:
        ValueError: `side` is neither of the two.
    """
    if side not in SIDES:
        raise ValueError(f"side is {side!r}; expected 'right' or 'left'")
    stored = stored_arrays(HAND_FILE)
    parents = np.array(MANO_PARENTS, dtype=np.int64) % 2**32  # MANO stores the root's parent -1 as uint32
    computed = {
        "f": stored["f"].astype(np.uint32),
        "posedirs": _posedirs(stored),
        "kintree_table": np.stack([parents, np.arange(16)]).astype(np.uint32),
    }
    model = {name: computed[name] if name in computed else stored[name].copy() for name in _ARRAYS} | {
        "bs_style": np.array("lbs"),
        "bs_type": np.array("lrotmin"),
        "source": np.array(SOURCE),
    }
    return model if side == "right" else _mirrored(model)


def write_mano_models(directory: Path) -> dict[str, Path]:
    """Write MANO_RIGHT and MANO_LEFT, as `.npz` and as the `.pkl` of MANO's download; same bytes each time.

    Args:
        directory: created if missing.

    Returns:
        The `.npz` file of each side.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = {}
    for side in SIDES:
        files[side] = directory / f"MANO_{side.upper()}.npz"
        buffer = io.BytesIO()
        model = build_mano(side)
        np.savez(buffer, **model)  # type: ignore[arg-type]
        atomic_write_bytes(files[side], buffer.getvalue())
        texts = {name: str(model[name]) for name in ("bs_style", "bs_type", "source")}
        atomic_write_bytes(files[side].with_suffix(".pkl"), pickle.dumps(model | texts, protocol=2))
    return files


@cache
def stored_arrays(name: str) -> dict[str, np.ndarray]:
    """Read the arrays of one of the package's `.npz` files."""
    file = importlib.resources.files(__package__) / name
    with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        return dict(archive)


def _posedirs(stored: dict[str, np.ndarray]) -> np.ndarray:
    """Expand the pose correctives to MANO's (778, 3, 135).

    The file has, for each vertex that a joint bulges, two displacements g and h per turn t about the flexion axis a:
    g (1 - cos t) + h sin t. Both are linear in the rotation matrix R: the trace of R - I is -2 (1 - cos t), and the
    inner product of R - I with the cross-product matrix of a is 2 sin t.
    """
    cosine, sine = (np.zeros((15, len(stored["v_template"]), 3)) for _ in range(2))
    joint, vertex = stored["bulge_index"]
    cosine[joint, vertex], sine[joint, vertex] = stored["bulge_cosine"], stored["bulge_sine"]
    posedirs = np.empty((cosine.shape[1], 3, 15, 9))
    for k, (x, y, z) in enumerate(stored["flexion_axes"]):
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]).ravel()
        posedirs[:, :, k] = -0.5 * cosine[k, :, :, None] * np.eye(3).ravel() + 0.5 * sine[k, :, :, None] * cross
    return posedirs.reshape(-1, 3, 135)


def _mirrored(model: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Mirror a model: x -> -x for points, R -> M R M for rotations, faces reversed to keep them outward."""
    pose_sign = np.tile(np.outer(MIRROR, MIRROR).ravel(), 15)
    model["v_template"] = model["v_template"] * MIRROR
    model["J"] = model["J"] * MIRROR
    model["f"] = np.ascontiguousarray(model["f"][:, ::-1])
    model["shapedirs"] = model["shapedirs"] * MIRROR[:, None]
    model["posedirs"] = model["posedirs"] * MIRROR[:, None] * pose_sign
    model["hands_mean"] = mirror_pose(model["hands_mean"])
    model["hands_components"] = mirror_pose(model["hands_components"])
    return model


def mirror_pose(pose: np.ndarray) -> np.ndarray:
    """Mirror axis-angle vectors (..., 3k) in the plane x = 0: right hand to left hand and back."""
    pose = np.asarray(pose)
    return (pose.reshape(-1, 3) * np.array([1.0, -1.0, -1.0], dtype=pose.dtype)).reshape(pose.shape)


def angles_to_pose(angles: np.ndarray, skeleton: RestSkeleton) -> np.ndarray:
    """Convert joint angles to MANO's axis-angle vector, right hand.

    Each joint twists first, then swings sideways, then flexes, all about axes fixed in its parent's frame.

    Args:
        angles: (..., 15, 3) flexion, abduction, twist in radians.
        skeleton: gives the axes.

    Returns:
        (..., 45) absolute axis-angle, radians.
    """
    angles = np.asarray(angles, dtype=float)
    axes = (skeleton.flexion_axes, skeleton.abduction_axes, skeleton.bone_axes)
    flexion, abduction, twist = (
        Rotation.from_rotvec((angles[..., k, None] * axis).reshape(-1, 3)) for k, axis in enumerate(axes)
    )
    return (flexion * abduction * twist).as_rotvec().reshape(*angles.shape[:-2], 45)


def _read_grasps() -> dict[str, np.ndarray]:
    table = yaml.safe_load((importlib.resources.files(__package__) / "grasps.yaml").read_text())
    angles = {}
    for name, grasp in table.items():
        digits = [(knuckle, (middle, 0, 0), (last, 0, 0)) for *knuckle, middle, last in (grasp[d] for d in DIGITS)]
        angles[name] = np.radians(np.array(digits, float).reshape(15, 3))
    return angles


GRASP_ANGLES = _read_grasps()
"""(15, 3) joint angles of each named grasp, radians. Blend these, not the axis-angle vectors."""
