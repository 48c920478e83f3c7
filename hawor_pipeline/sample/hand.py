"""A procedural pair of hands in MANO's file format, so that every stage runs without the licensed model.

Convention: MANO's. Metres; at rest the right hand's fingers point along -x, its palm faces -y and its thumb is on the
+z side; the left hand is its mirror image in the plane x = 0, so mirrored parameters give mirrored meshes. Shapes,
data types and keys are those of MANO's own files, read by smplx with `ext="npz"`; `source` says that it is synthetic.
"""

import io
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from hawor_pipeline.provenance import atomic_write_bytes
from hawor_pipeline.sample.hand_mesh import right_hand_mesh
from hawor_pipeline.sample.hand_pose import GRASPS, RELAXED_POSE, mirror_pose
from hawor_pipeline.sample.hand_skeleton import PARENTS
from hawor_pipeline.sample.hand_skin import blend_weights, joint_regressor, pose_correctives, shape_motion

Side = Literal["right", "left"]

SOURCE = "synthetic: procedural hand of hawor_pipeline, not MANO"
MIRROR = np.array([-1.0, 1.0, 1.0])


def build_mano(side: Side) -> dict[str, np.ndarray]:
    """The arrays of one hand model, as in MANO's file.

    Args:
        side: which hand.

    Returns:
        Fresh arrays: `v_template` (778, 3) m, `f` (1538, 3) uint32, `shapedirs` (778, 3, 10), `posedirs`
        (778, 3, 135), `J_regressor` (16, 778), `J` (16, 3), `weights` (778, 16), `kintree_table` (2, 16) uint32
        with 2**32 - 1 as the root's parent, `hands_mean` (45,), `hands_components` (45, 45), `hands_coeffs`
        (grasps, 45), and the strings `bs_style`, `bs_type`, `source`.

    Raises:
        NumericalError: the mesh did not come out with MANO's counts.
    """
    if side not in ("right", "left"):
        raise ValueError(f"side is {side!r}; expected 'right' or 'left'")
    model = {key: value.copy() for key, value in _right_model().items()}
    return model if side == "right" else _mirrored(model)


def write_mano_models(directory: Path) -> dict[str, Path]:
    """Writes MANO_RIGHT.npz and MANO_LEFT.npz; the same bytes each time on one machine.

    Args:
        directory: created if missing.

    Returns:
        The file of each side.
    """
    directory.mkdir(parents=True, exist_ok=True)
    sides: tuple[Side, Side] = ("right", "left")
    files = {side: directory / f"MANO_{side.upper()}.npz" for side in sides}
    for side in sides:
        buffer = io.BytesIO()
        np.savez(buffer, **build_mano(side))  # type: ignore[arg-type]
        atomic_write_bytes(files[side], buffer.getvalue())
    return {str(side): path for side, path in files.items()}


@lru_cache(maxsize=1)
def _right_model() -> dict[str, np.ndarray]:
    vertices, faces = right_hand_mesh()
    weights = blend_weights(vertices, faces)
    shapedirs = shape_motion(vertices, weights)
    regressor = joint_regressor(vertices, shapedirs)
    components, coefficients = _pose_components()
    parents = np.array(PARENTS, dtype=np.int64) % 2**32
    return {
        "v_template": vertices,
        "f": faces.astype(np.uint32),
        "shapedirs": shapedirs,
        "posedirs": pose_correctives(vertices, faces, weights),
        "J_regressor": regressor,
        "J": regressor @ vertices,
        "weights": weights,
        "kintree_table": np.stack([parents, np.arange(16)]).astype(np.uint32),
        "hands_mean": RELAXED_POSE.copy(),
        "hands_components": components,
        "hands_coeffs": coefficients,
        "bs_style": np.array("lbs"),
        "bs_type": np.array("lrotmin"),
        "source": np.array(SOURCE),
    }


def _pose_components() -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal directions (45, 45) of hand pose, the named grasps' principal ones first, and the grasps in them."""
    offsets = np.stack([pose - RELAXED_POSE for pose in GRASPS.values()])
    components = np.linalg.svd(offsets, full_matrices=True)[2]
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
    components = components * np.sign(largest)
    return components, offsets @ components.T


def _mirrored(model: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The other hand: x -> -x for points, R -> M R M for rotations, faces turned round."""
    pose_sign = (np.ones(15)[:, None] * (MIRROR[:, None] * MIRROR[None, :]).ravel()).ravel()
    model["v_template"] = model["v_template"] * MIRROR
    model["J"] = model["J"] * MIRROR
    model["f"] = np.ascontiguousarray(model["f"][:, ::-1])
    model["shapedirs"] = model["shapedirs"] * MIRROR[:, None]
    model["posedirs"] = model["posedirs"] * MIRROR[:, None] * pose_sign
    model["hands_mean"] = mirror_pose(model["hands_mean"])
    model["hands_components"] = mirror_pose(model["hands_components"])
    return model
