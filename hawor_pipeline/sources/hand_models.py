"""The two MANO models that a dataset's hands are posed with."""

import logging
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hawor_pipeline.core.mano import ManoArrays, ManoLayer, Side, tip_vertices
from hawor_pipeline.core.mano_convention import ARCTIC, ManoConvention
from hawor_pipeline.core.skeleton import MANO_JOINT_COUNT, OPENPOSE_FROM_MANO
from hawor_pipeline.core.units import m_to_mm
from hawor_pipeline.errors import DataError
from hawor_pipeline.provenance import sha256_file
from hawor_pipeline.untrusted.mano_files import find_mano, is_procedural, left_shape_state, load_mano

log = logging.getLogger(__name__)
_MODEL_SIDES: tuple[Side, ...] = ("left", "right")
_MIRROR = np.array([-1.0, 1.0, 1.0])


@dataclass(frozen=True, slots=True)
class HandModels:
    """Both sides of MANO in double precision.

    Attributes:
        arrays: by side, as in the files; the left shape directions as the convention states.
        layers: by side; their joints are those that shards store.
        convention: of the dataset.
    """

    arrays: dict[str, ManoArrays]
    layers: dict[str, ManoLayer]
    convention: ManoConvention = ARCTIC

    @classmethod
    def load(cls, mano_dir: Path | str, convention: ManoConvention = ARCTIC) -> "HandModels":
        """Load both models of a folder, with the left shape directions that a dataset was fitted with.

        Raises:
            ConfigError: a side is not in the folder.
            DataError: a file is damaged or refused, or holds the model of the other side.
        """
        arrays: dict[str, ManoArrays] = {
            "left": load_mano(mano_dir, "left", fix_left_shapedirs=convention.left_shapedirs_fixed),
            "right": load_mano(mano_dir, "right"),
        }
        if np.array_equal(arrays["left"].template, arrays["right"].template):
            raise DataError(f"{mano_dir}: MANO_LEFT and MANO_RIGHT hold the same model; give both as downloaded.")
        if not convention.left_shapedirs_fixed:
            _warn_if_corrected(find_mano(mano_dir, "left"), *(arrays[side].shape_dirs for side in arrays))
        return cls(arrays, {side: ManoLayer(arrays[side]).double().eval() for side in arrays}, convention)

    def own_joints(self, side: str, vertices: Tensor, joints: Tensor) -> Tensor:
        """Compute the joints that the dataset's publication defines.

        Args:
            side: side of the hands.
            vertices: (*batch, 778, 3) of the posed model, metres.
            joints: (*batch, 21, 3) of the posed skeleton, OpenPose order.

        Returns:
            (*batch, 21, 3), OpenPose order.
        """
        in_mano_order = joints[..., np.argsort(OPENPOSE_FROM_MANO)[:MANO_JOINT_COUNT], :]
        if self.convention.joints_from_mesh:
            in_mano_order = torch.from_numpy(self.arrays[side].joint_regressor).to(vertices) @ vertices
        tips = vertices[..., tip_vertices(self.convention.tips, side), :]
        return torch.cat((in_mano_order, tips), -2)[..., OPENPOSE_FROM_MANO, :]

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


def _warn_if_corrected(file: Path, left: np.ndarray, right: np.ndarray) -> None:
    """Warn where hands were fitted with the published left model, and the file is a corrected one."""
    # The sample's left hand is a true mirror image of its right one, and its labels belong to the file as it is.
    if left_shape_state(left, right) == "corrected" and not is_procedural(file):
        log.warning(
            "%s: the left shape directions are mirrored from the right ones, unlike those of the published MANO_LEFT, "
            "which this data was fitted with. If this is an edited MANO, give the file as downloaded: left hands are "
            "posed some millimetres off otherwise.",
            file,
        )


@lru_cache(maxsize=2)
def load_hand_models(mano_dir: Path, convention: ManoConvention) -> HandModels:
    """`HandModels.load`, once per process."""
    return HandModels.load(mano_dir, convention)


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
