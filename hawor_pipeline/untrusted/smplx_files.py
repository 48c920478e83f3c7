"""Reading SMPL-X's model files, official `.npz` or `.pkl`, without running code stored in them.

Convention: metres, radians, in the model's own frame; arrays as SMPL-X names and orders them.
"""

from pathlib import Path
from typing import Any

import numpy as np

from hawor_pipeline.core.body import (
    BODY_FACE_COUNT,
    BODY_JOINT_COUNT,
    BODY_PARENTS,
    BODY_VERTEX_COUNT,
    BodyArrays,
)
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.untrusted.safe_load import load_npz, load_pickle

GENDERS = ("neutral", "female", "male")
_FOLDERS = ("", "smplx", "models/smplx")
_SHAPE_OF = {
    "v_template": (BODY_VERTEX_COUNT, 3),
    "posedirs": (BODY_VERTEX_COUNT, 3, 9 * (BODY_JOINT_COUNT - 1)),
    "J_regressor": (BODY_JOINT_COUNT, BODY_VERTEX_COUNT),
    "weights": (BODY_VERTEX_COUNT, BODY_JOINT_COUNT),
    "f": (BODY_FACE_COUNT, 3),
    "kintree_table": (2, BODY_JOINT_COUNT),
}


def find_smplx(folder: Path, gender: str) -> Path:
    """Find the model file of one gender in a folder as unpacked from models_smplx_v1_1.zip or as smplx expects it.

    Raises:
        ConfigError: there is none; the message names the searched places and how to get SMPL-X.
    """
    searched = [folder / below / f"SMPLX_{gender.upper()}{suffix}" for below in _FOLDERS for suffix in (".npz", ".pkl")]
    found = next((file for file in searched if file.is_file()), None)
    if found is None:
        places = ", ".join(str(file.parent) for file in searched[::2])
        raise ConfigError(
            f"no SMPLX_{gender.upper()}.npz or .pkl found; searched {places}. Register at "
            "https://smpl-x.is.tue.mpg.de, download models_smplx_v1_1.zip, unpack it and give its folder."
        )
    return found


def find_any_smplx(folder: Path) -> Path:
    """Find the model file of some gender.

    Raises:
        ConfigError: there is none.
    """
    for gender in GENDERS[1:]:
        try:
            return find_smplx(folder, gender)
        except ConfigError:
            continue
    return find_smplx(folder, GENDERS[0])


def load_smplx(file: Path) -> BodyArrays:
    """Read SMPL-X from a `.npz` or `.pkl` file without running code stored in it.

    Raises:
        ConfigError: the file does not exist.
        DataError: the file lacks an array, or one has the wrong shape, kinematic tree or values.
    """
    raw = _read(file, tuple(_SHAPE_OF))
    arrays = {}
    for name, shape in _SHAPE_OF.items():
        stored: Any = raw.get(name)
        value = np.asarray(stored.toarray() if hasattr(stored, "toarray") else stored)
        if value.shape != shape or value.dtype.kind not in "fiu" or not np.isfinite(value).all():
            raise DataError(
                f"{file}: found {name} of shape {value.shape} and type {value.dtype}, expected finite numbers of shape "
                f"{shape}; get SMPL-X v1.1 again."
            )
        arrays[name] = value
    parents = arrays["kintree_table"][0].astype(np.int64)
    if tuple(parents[1:]) != BODY_PARENTS[1:]:
        raise DataError(f"{file}: found parents {parents.tolist()}, expected those of SMPL-X; get SMPL-X v1.1 again.")
    faces = arrays["f"].astype(np.int64)
    if faces.min() < 0 or faces.max() >= BODY_VERTEX_COUNT:
        raise DataError(f"{file}: face indices reach from {faces.min()} to {faces.max()}; get SMPL-X v1.1 again.")
    names = {"template": "v_template", "pose_dirs": "posedirs", "joint_regressor": "J_regressor"}
    values = {
        field: np.asarray(arrays[name], np.float32) for field, name in (names | {"skin_weights": "weights"}).items()
    }
    return BodyArrays(faces=faces.astype(np.int32), **values)


def is_procedural_body(file: Path) -> bool:
    """Return True for the body of the built-in sample, whose files are marked."""
    return str(_read(file, ("source",)).get("source", "")).startswith("synthetic")


def _read(file: Path, names: tuple[str, ...]) -> dict:
    """Read these arrays of a model; the official archive also has some that hold objects, which stay closed."""
    raw = load_npz(file, names) if file.suffix == ".npz" else load_pickle(file)
    if not isinstance(raw, dict):
        raise DataError(f"{file}: holds {type(raw).__name__}, expected a dictionary of arrays; get SMPL-X v1.1 again.")
    return raw
