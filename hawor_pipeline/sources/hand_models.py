"""The two MANO models that a dataset's hands are posed with."""

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np

from hawor_pipeline.core.mano import ManoArrays, ManoLayer, Side
from hawor_pipeline.core.mano_convention import ARCTIC
from hawor_pipeline.core.units import m_to_mm
from hawor_pipeline.provenance import sha256_file
from hawor_pipeline.untrusted.mano_files import find_mano, load_mano

_MODEL_SIDES: tuple[Side, ...] = ("left", "right")
_MIRROR = np.array([-1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True)
class HandModels:
    """Both sides of MANO in double precision.

    Attributes:
        arrays: by side, as in the files.
        layers: by side.
    """

    arrays: dict[str, ManoArrays]
    layers: dict[str, ManoLayer]

    @classmethod
    def load(cls, mano_dir: Path | str, *, fix_left_shapedirs: bool = ARCTIC.left_shapedirs_fixed) -> "HandModels":
        """Load both models of a folder, with the shape directions that a dataset was fitted with (default: ARCTIC's).

        Raises:
            ConfigError: a side is not in the folder.
            DataError: a file is damaged or refused.
        """
        arrays: dict[str, ManoArrays] = {
            "left": load_mano(mano_dir, "left", fix_left_shapedirs=fix_left_shapedirs),
            "right": load_mano(mano_dir, "right"),
        }
        return cls(arrays, {side: ManoLayer(arrays[side]).double().eval() for side in arrays})

    @property
    def faces(self) -> np.ndarray:
        """(1538, 3) triangles of the right hand; those of a left hand have the reverse winding."""
        return np.asarray(self.layers["right"].faces)

    def betas_as_right(self, side: str, betas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return right hands as they are, and left ones as mirrored right hands; see `mirrored_betas`."""
        return (betas, np.zeros(len(betas))) if side == "right" else self.mirrored_betas(side, betas)

    def mirrored_betas(self, side: str, betas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fit the other side's model to the mirrored hand, in its rest pose.

        Args:
            side: true side of the hand.
            betas: (T, 10) of that side's model.

        Returns:
            Shape coefficients (T, 10) of the other side's model, and the mean distance of the vertices that remains,
            (T,) millimetres.

        Source: linear least squares over the 778 rest-pose vertices; vertex i of one side is vertex i of the other.
        """
        own, other = self.arrays[side], self.arrays["left" if side == "right" else "right"]
        different, back = np.unique(betas, axis=0, return_inverse=True)
        mirrored = (own.template + np.einsum("vcs,ts->tvc", own.shape_dirs, different)) * _MIRROR
        basis = other.shape_dirs.reshape(-1, other.shape_dirs.shape[2])
        goal = (mirrored - other.template).reshape(len(different), -1)
        fitted = np.linalg.lstsq(basis, goal.T, rcond=None)[0].T
        rest = (goal - fitted @ basis.T).reshape(len(different), -1, 3)
        return fitted[back.ravel()], m_to_mm(np.linalg.norm(rest, axis=-1).mean(-1))[back.ravel()]


@lru_cache(maxsize=2)
def load_hand_models(mano_dir: Path, fix_left_shapedirs: bool = ARCTIC.left_shapedirs_fixed) -> HandModels:
    """`HandModels.load`, once per process."""
    return HandModels.load(mano_dir, fix_left_shapedirs=fix_left_shapedirs)


def hash_hand_models(mano_dir: Path) -> dict[str, str]:
    """Side to sha256 of its model file."""
    return {side: sha256_file(find_mano(mano_dir, side)) for side in _MODEL_SIDES}


def digest_hand_models(mano_dir: Path | str) -> dict[str, str]:
    """Return side to digest of its model's arrays; the `.pkl` and the `.npz` of one model have the same digest.

    Raises:
        ConfigError: a side is missing.
        DataError: a file is damaged or refused.
    """
    files = {side: find_mano(mano_dir, side) for side in _MODEL_SIDES}
    return {side: _digest(file, side, file.stat().st_mtime_ns, file.stat().st_size) for side, file in files.items()}


@lru_cache(maxsize=8)
def _digest(file: Path, side: Side, *_: int) -> str:
    arrays, digest = load_mano(file, side), sha256()
    for name in ("template", "shape_dirs", "pose_dirs", "joint_regressor", "skin_weights", "hands_mean", "faces"):
        # in single precision, because some copies of MANO are stored in it; + 0.0 turns -0.0 into 0.0
        values = np.ascontiguousarray(getattr(arrays, name), "<f4") + np.float32(0.0)
        digest.update(name.encode() + values.tobytes())
    return digest.hexdigest()
