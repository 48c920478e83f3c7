"""The synthetic hand model in MANO's file format, so that every stage runs without the licensed model.

Convention: MANO's. Metres; at rest the right hand's fingers point along -x, its palm faces -y and its thumb is on the
+z side; the left hand is its mirror image in the plane x = 0, so mirrored parameters give mirrored meshes. Shapes,
data types and keys are those of MANO's own files, read by smplx with `ext="npz"`; `source` marks them as synthetic.

The arrays are constants in `hand.npz`, written by `python -m tools.procedural_hand` of the repository.
"""

import importlib.resources
import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from hawor_pipeline.core.skeleton import MANO_PARENTS
from hawor_pipeline.provenance import atomic_write_bytes

SIDES = ("right", "left")
DIGITS = ("index", "middle", "pinky", "ring", "thumb")
"""Digits in MANO's joint order."""
SOURCE = "synthetic: procedural hand of hawor_pipeline, not MANO"
MIRROR = np.array([-1.0, 1.0, 1.0])
HAND_FILE = "hand.npz"
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
    """Write MANO_RIGHT.npz and MANO_LEFT.npz; the bytes are the same each time.

    Args:
        directory: created if missing.

    Returns:
        The file of each side.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = {}
    for side in SIDES:
        files[side] = directory / f"MANO_{side.upper()}.npz"
        buffer = io.BytesIO()
        np.savez(buffer, **build_mano(side))  # type: ignore[arg-type]
        atomic_write_bytes(files[side], buffer.getvalue())
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
