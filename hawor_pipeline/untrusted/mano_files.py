"""Reading MANO's model files, official `.pkl` or `.npz`, without running code stored in them.

Convention: metres, radians, in the model's own frame; arrays in float64 as MANO names and orders them.
"""

from pathlib import Path
from typing import Literal

import numpy as np

from hawor_pipeline.core.mano import ManoArrays, Side
from hawor_pipeline.core.skeleton import FACE_COUNT, MANO_JOINT_COUNT, MANO_PARENTS, SHAPE_COUNT, VERTEX_COUNT
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.untrusted.safe_load import load_npz, load_pickle

_FINGER_ROOTS = (1, 4, 7, 10)  # first joints of index, middle, pinky and ring finger, MANO's order
_LEAST_REACH_M = 0.03  # of MANO's right hand they lie 0.07 to 0.10 m from the wrist along -x
_SAME_SHARE = 0.01  # shape directions that differ by less are equal but for rounding
_FOLDERS = ("", "mano", "mano_v1_2/models", "models")
_SHAPE_OF = {
    "v_template": (VERTEX_COUNT, 3),
    "shapedirs": (VERTEX_COUNT, 3, SHAPE_COUNT),
    "posedirs": (VERTEX_COUNT, 3, 9 * (MANO_JOINT_COUNT - 1)),
    "J_regressor": (MANO_JOINT_COUNT, VERTEX_COUNT),
    "weights": (VERTEX_COUNT, MANO_JOINT_COUNT),
    "f": (FACE_COUNT, 3),
    "hands_mean": (3 * (MANO_JOINT_COUNT - 1),),
}


def find_mano(path: str | Path, side: Side) -> Path:
    """Find the model file of one side.

    Args:
        path: The file itself, or a folder as unpacked from mano_v1_2.zip or as smplx expects it.
        side: "right" or "left".

    Returns:
        Path of `MANO_RIGHT` or `MANO_LEFT`, `.npz` before `.pkl`.

    Raises:
        ConfigError: There is none; the message names the searched places and how to get MANO.
    """
    if side not in ("right", "left"):
        raise ConfigError(f"found side {side!r}, expected 'right' or 'left'.")
    root = Path(path)
    if root.is_file():
        return root
    name = f"MANO_{side.upper()}"
    searched = [root / folder / f"{name}{suffix}" for folder in _FOLDERS for suffix in (".npz", ".pkl")]
    for candidate in searched:
        if candidate.is_file():
            return candidate
    places = ", ".join(str(p.parent) for p in searched[::2])
    raise ConfigError(
        f"no {name}.npz or {name}.pkl found; searched {places}. Register at https://mano.is.tue.mpg.de, download "
        f"mano_v1_2.zip, unpack it and give its folder; or use the hand model of the built-in sample."
    )


def load_mano(path: str | Path, side: Side, *, fix_left_shapedirs: bool = False) -> ManoArrays:
    """Read one side of MANO from a `.npz` or `.pkl` file without running code stored in it.

    Args:
        path: The file, or a folder that holds it; see `find_mano`.
        side: "right" or "left".
        fix_left_shapedirs: Flip the x component of the left shape directions where its sign is wrong, as in the
            official file; a model without this fault is left as it is. Compares with the right model of the same
            folder. ARCTIC and DexYCB were fitted with the file as it is, so the default leaves it. Only for "left".

    Returns:
        The arrays, in float64.

    Raises:
        ConfigError: The file does not exist, or the fix is requested for the right side.
        DataError: The file lacks an array, or one has the wrong shape, kinematic tree or values, or it holds the model
            of the other side.

    Source:
        File format of MANO v1.2 as smplx reads it.
    """
    if fix_left_shapedirs and side != "left":
        raise ConfigError("found fix_left_shapedirs=True with side 'right'; only the left file needs the fix.")
    file = find_mano(path, side)
    raw = load_npz(file) if file.suffix == ".npz" else load_pickle(file)
    if not isinstance(raw, dict):
        raise DataError(f"{file}: holds {type(raw).__name__}, expected a dictionary of arrays; get MANO v1.2.")
    arrays = {name: _checked(raw, name, shape, file) for name, shape in _SHAPE_OF.items()}
    shape_dirs = arrays["shapedirs"]
    parents = _dense(raw, "kintree_table", file)[0].astype(np.int64)
    if tuple(parents[1:]) != MANO_PARENTS[1:]:
        raise DataError(f"{file}: found parents {parents.tolist()}, expected {list(MANO_PARENTS)}; this is not MANO.")
    faces = arrays["f"].astype(np.int64)
    if faces.min() < 0 or faces.max() >= VERTEX_COUNT:
        raise DataError(f"{file}: face indices reach from {faces.min()} to {faces.max()}, expected 0 to 777.")
    _check_side(arrays, side, file)
    if fix_left_shapedirs:
        right = load_mano(file.parent if Path(path).is_file() else path, "right")
        if left_shape_state(shape_dirs, right.shape_dirs) == "published":
            shape_dirs = shape_dirs * np.array([-1.0, 1.0, 1.0])[:, None]
    return ManoArrays(
        side=side,
        template=arrays["v_template"],
        shape_dirs=shape_dirs,
        pose_dirs=arrays["posedirs"],
        joint_regressor=arrays["J_regressor"],
        skin_weights=arrays["weights"],
        faces=faces,
        hands_mean=arrays["hands_mean"],
    )


def left_shape_state(left: np.ndarray, right: np.ndarray) -> Literal["published", "corrected", "other"]:
    """Compare the x components of the shape directions of both sides, (778, 3, 10) each.

    Returns:
        "published" where they are equal, as in MANO's files, whose left model lacks a sign; "corrected" where the left
        ones are the negative of the right ones; "other" for models of any other origin.

    Source: smplx issue 48.
    """
    scale = np.abs(right[:, 0]).sum()
    if np.abs(left[:, 0] - right[:, 0]).sum() < _SAME_SHARE * scale:
        return "published"
    return "corrected" if np.abs(left[:, 0] + right[:, 0]).sum() < _SAME_SHARE * scale else "other"


def is_procedural(file: Path) -> bool:
    """Return True for the hand of the built-in sample, whose files are marked."""
    raw = load_npz(file) if file.suffix == ".npz" else load_pickle(file)
    return isinstance(raw, dict) and str(raw.get("source", "")).startswith("synthetic")


def _check_side(arrays: dict[str, np.ndarray], side: Side, file: Path) -> None:
    """Refuse the model of the other side: in MANO's rest pose right fingers point to -x, left ones to +x.

    Models whose fingers do not all point that far to one side have another rest pose than MANO; they are taken.
    """
    joints = arrays["J_regressor"] @ arrays["v_template"]
    reach = joints[list(_FINGER_ROOTS), 0] - joints[0, 0]
    found = "right" if (reach < -_LEAST_REACH_M).all() else "left" if (reach > _LEAST_REACH_M).all() else side
    if found != side:
        raise DataError(
            f"{file}: found the model of a {found} hand, expected a {side} one; give the folder that holds MANO_RIGHT "
            "and MANO_LEFT as downloaded."
        )


def load_pose_components(path: str | Path, side: Side) -> np.ndarray:
    """Read MANO's principal pose components, (45, 45): pose = coefficients @ components, about the mean pose.

    Raises:
        ConfigError: The file does not exist.
        DataError: The file lacks them, or they have another shape.
    """
    file = find_mano(path, side)
    raw = load_npz(file) if file.suffix == ".npz" else load_pickle(file)
    return _checked(raw, "hands_components", (45, 45), file)


def _dense(raw: dict, name: str, file: Path) -> np.ndarray:
    if name not in raw:
        raise DataError(f"{file}: found no array {name!r}, expected a MANO hand model; get MANO v1.2.")
    value = raw[name]
    return np.asarray(value.toarray() if hasattr(value, "toarray") else value)


def _checked(raw: dict, name: str, shape: tuple[int, ...], file: Path) -> np.ndarray:
    array = _dense(raw, name, file)
    if name == "hands_mean":
        array = array.reshape(-1)
    if name == "shapedirs":  # files may hold more directions
        array = array[..., :SHAPE_COUNT] if array.ndim else array
    if array.shape != shape:
        raise DataError(f"{file}: found {name} of shape {array.shape}, expected {shape}; get MANO v1.2.")
    array = np.ascontiguousarray(array, np.float64)
    if not np.isfinite(array).all():
        raise DataError(f"{file}: {name} holds values that are not finite; get the file again.")
    return array
