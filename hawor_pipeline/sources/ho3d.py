"""HO-3D (v3, and v2 with .png images converted to .jpg): `train/{sequence}/{rgb,meta}/{number}.{jpg,pkl}`.

Poses are absolute (mean pose included), in the camera's frame with OpenGL's axes (y up, looking along -z); here they
become OpenCV's. Right hands. Frames without annotation hold None and are skipped with a reason.

Source: HO-3D's published files and its own viewer (flat hand mean, joints in MANO's order, tips appended).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hawor_pipeline.core.mano_convention import ManoConvention
from hawor_pipeline.core.rotations import axis_angle_to_rotmat, rotmat_to_axis_angle
from hawor_pipeline.core.skeleton import OPENPOSE_FROM_MANO
from hawor_pipeline.errors import DataError
from hawor_pipeline.sources.hand_models import load_hand_models
from hawor_pipeline.sources.image_files import ImageFile, list_images
from hawor_pipeline.sources.reader import NOT_ANNOTATED, HandLabels, Reader, SequenceRef, Take, checked_array
from hawor_pipeline.untrusted.safe_load import load_pickle

IMAGE_SIZE = (480, 640)
OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0])
_SHAPES = {"handPose": (48,), "handTrans": (3,), "handBeta": (10,), "handJoints3D": (21, 3), "camMat": (3, 3)}


class Ho3d(Reader):
    """The training set of HO-3D; the evaluation set has no hand poses.

    Args:
        root: folder with `train/`.
        mano_dir: folder of the MANO models; turning a hand's frame turns it about its root joint.

    Raises:
        ConfigError: the layout is not there.
    """

    name = "ho3d"
    convention = ManoConvention(tips="ho3d")
    folders = layout = ("train",)
    title = "HO-3D"

    @property
    def _train(self) -> Path:
        return self.root / "train"

    def refs(self) -> list[SequenceRef]:
        """Return a ref per folder; the letters of its name are person and object, the digits the camera."""
        names = sorted(path.name for path in self._train.iterdir() if (path / "rgb").is_dir())
        return [SequenceRef(f"ho3d_{name.rstrip('0123456789')}", name, self._object(name), "hold") for name in names]

    def _object(self, sequence: str) -> str:
        first = min((self._train / sequence / "meta").glob("*.pkl"), default=None)
        name = self._read(first).get("objName") if first else None
        return str(name) if name is not None else ""

    def label_files(self, ref: SequenceRef) -> Sequence[Path]:
        """Return a file per image."""
        return sorted((self._train / ref.sequence / "meta").glob("*.pkl"))

    def splits(self) -> dict[str, list[str]]:
        """Return no split: all of it trains; validate by share of sequences, or on the leaderboard."""
        return {"train": self.subjects(), "val": [], "test": []}

    def images(self, ref: SequenceRef, views: Sequence[int]) -> dict[int, dict[int, ImageFile]]:
        """Return the images of the one view."""
        return {0: list_images(self._train / ref.sequence / "rgb")}

    def takes(self, ref: SequenceRef, labels: None, views: Sequence[int]) -> Iterator[Take]:
        """Yield the images of one sequence."""
        folder = self._train / ref.sequence
        for number, image in list_images(folder / "rgb").items():
            path = folder / "meta" / f"{image.path.stem}.pkl"
            if not path.is_file():
                raise DataError(f"{path}: missing, and {image} is there; unpack HO-3D again.")
            found = self._read(path)
            intrinsics = self._array(found, "camMat", path)
            if intrinsics is None:
                raise DataError(f"{path}: camMat is missing; get the file again.")
            hand = self._hand(found, path)
            hands: dict[str, HandLabels] = {"right": hand} if hand else {}
            unlabelled = () if hand else (("right", NOT_ANNOTATED),)
            yield Take.of_image(0, number, image, IMAGE_SIZE, intrinsics, hands, unlabelled=unlabelled)

    def _read(self, path: Path) -> dict[str, Any]:
        found = load_pickle(path)
        if not isinstance(found, dict):
            raise DataError(f"{path}: holds {type(found).__name__}, expected a dictionary; get the file again.")
        return found

    def _hand(self, found: dict[str, Any], path: Path) -> HandLabels | None:
        values = {name: self._array(found, name, path) for name in _SHAPES}
        pose, shift, betas = values["handPose"], values["handTrans"], values["handBeta"]
        if pose is None or shift is None or betas is None:
            return None
        turned = OPENCV_FROM_OPENGL @ axis_angle_to_rotmat(torch.tensor(pose[:3])).numpy()
        models = load_hand_models(self.mano_dir, self.convention)
        with torch.no_grad():
            pivot = models.layers["right"].rest_joints(torch.tensor(betas[None]))[0, 0].numpy()
        joints = values["handJoints3D"]
        return HandLabels.of_moment(
            rotmat_to_axis_angle(torch.tensor(turned)).numpy(),
            pose[3:] - models.arrays["right"].hands_mean,
            # the global rotation turns about the root joint, so a change of frame moves the translation too
            OPENCV_FROM_OPENGL @ (pivot + shift) - pivot,
            betas,
            None if joints is None else joints[list(OPENPOSE_FROM_MANO)] @ OPENCV_FROM_OPENGL.T,
        )

    def _array(self, found: dict[str, Any], name: str, path: Path) -> np.ndarray | None:
        value = found.get(name)
        return None if value is None else checked_array(value, _SHAPES[name], f"{path}: {name}")
