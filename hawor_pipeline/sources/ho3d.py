"""HO-3D (v3, and v2 with .png pictures converted to .jpg): `train/{sequence}/{rgb,meta}/{number}.{jpg,pkl}`.

Poses are absolute (mean pose included), in the camera's frame with OpenGL's axes (y up, looking along -z); here they
become OpenCV's. Right hands. Frames without annotation hold None and are left out with a reason.

Source: HO-3D's published files and its own viewer (flat hand mean, joints in MANO's order, tips appended).
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hawor_pipeline.core.rotations import axis_angle_to_rotmat, rotmat_to_axis_angle
from hawor_pipeline.core.skeleton import OPENPOSE_FROM_MANO
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.sources.hand_models import load_hand_models
from hawor_pipeline.sources.image_files import ImageFile, list_images
from hawor_pipeline.sources.reader import NOT_ANNOTATED, HandLabel, PoseKind, Shot, Unit
from hawor_pipeline.untrusted.safe_load import load_pickle

IMAGE_SIZE = (480, 640)
OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0])
_SHAPES = {"handPose": (48,), "handTrans": (3,), "handBeta": (10,), "handJoints3D": (21, 3), "camMat": (3, 3)}


class Ho3d:
    """The training set of HO-3D; the evaluation set has no hand poses.

    Args:
        root: folder with `train/`.
        mano_dir: folder of the MANO models; turning a hand's frame turns it about its root joint.

    Raises:
        ConfigError: the layout is not there.
    """

    name = "ho3d"
    pose_kind: PoseKind = "absolute"
    tips = "smplx"
    fix_left_shapedirs = False  # right hands only

    def __init__(self, root: Path, mano_dir: Path) -> None:
        self.root, self.mano_dir = root / "train", mano_dir
        if not self.root.is_dir():
            raise ConfigError(f"{self.root} not found; expected HO-3D unpacked in {root}")

    def units(self) -> Sequence[Unit]:
        """A unit per sequence; the letters of its name are person and object, the digits the camera."""
        names = sorted(path.name for path in self.root.iterdir() if (path / "rgb").is_dir())
        return [Unit(f"ho3d_{name.rstrip('0123456789')}", name, self._object(name), "hold") for name in names]

    def _object(self, sequence: str) -> str:
        first = min((self.root / sequence / "meta").glob("*.pkl"), default=None)
        name = self._read(first).get("objName") if first else None
        return str(name) if name is not None else ""

    def label_files(self, unit: Unit) -> Sequence[Path]:
        """A file per picture."""
        return sorted((self.root / unit.sequence / "meta").glob("*.pkl"))

    def splits(self) -> dict[str, list[str]]:
        """All of it trains; validate by share of sequences, or on the leaderboard."""
        return {"train": sorted({unit.subject for unit in self.units()}), "val": [], "test": []}

    def images(self, unit: Unit) -> Iterable[ImageFile]:
        """The sequence's folder."""
        return list_images(self.root / unit.sequence / "rgb").values()

    def labels_of(self, unit: Unit) -> None:
        """Nothing: each picture has a label file."""

    def shots(self, unit: Unit, labels: None) -> Iterator[Shot]:
        """Pictures of one sequence."""
        folder = self.root / unit.sequence
        for number, image in list_images(folder / "rgb").items():
            path = folder / "meta" / f"{image.path.stem}.pkl"
            if not path.is_file():
                raise DataError(f"{path}: missing, and {image} is there; unpack HO-3D again.")
            found = self._read(path)
            intrinsics = self._array(found, "camMat", path)
            if intrinsics is None:
                raise DataError(f"{path}: camMat is missing; get the file again.")
            hand = self._hand(found, path)
            hands, lost = ((hand,), ()) if hand else ((), (("right", NOT_ANNOTATED),))
            yield Shot(0, number, image, IMAGE_SIZE, intrinsics, hands, left_out=lost)

    def _read(self, path: Path) -> dict[str, Any]:
        found = load_pickle(path)
        if not isinstance(found, dict):
            raise DataError(f"{path}: holds {type(found).__name__}, expected a dictionary; get the file again.")
        return found

    def _hand(self, found: dict[str, Any], path: Path) -> HandLabel | None:
        values = {name: self._array(found, name, path) for name in _SHAPES}
        pose, shift, betas = values["handPose"], values["handTrans"], values["handBeta"]
        if pose is None or shift is None or betas is None:
            return None
        turned = OPENCV_FROM_OPENGL @ axis_angle_to_rotmat(torch.tensor(pose[:3])).numpy()
        with torch.no_grad():
            pivot = load_hand_models(self.mano_dir).layers["right"].rest_joints(torch.tensor(betas[None]))[0, 0].numpy()
        joints = values["handJoints3D"]
        return HandLabel(
            "right",
            rotmat_to_axis_angle(torch.tensor(turned)).numpy(),
            pose[3:],
            betas,
            OPENCV_FROM_OPENGL @ (pivot + shift) - pivot,
            None if joints is None else joints[list(OPENPOSE_FROM_MANO)] @ OPENCV_FROM_OPENGL.T,
        )

    def _array(self, found: dict[str, Any], name: str, path: Path) -> np.ndarray | None:
        value = found.get(name)
        if value is None:
            return None
        try:
            array = np.asarray(value, np.float64).reshape(_SHAPES[name])
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}: {name} is not {_SHAPES[name]} ({error}); get the file again.") from None
        if not np.isfinite(array).all():
            raise DataError(f"{path}: {name} holds values that are not finite; get the file again.")
        return array
