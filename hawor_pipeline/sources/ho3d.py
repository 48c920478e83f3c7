"""HO-3D (v2 and v3): `{part}/{sequence}/{rgb,meta}/{number}.{png or jpg,pkl}`, the parts `train` and `evaluation`.

Poses are absolute (mean pose included), in the camera's frame with OpenGL's axes (y up, looking along -z); here they
become OpenCV's. Right hands. Frames without annotation hold None or have no file, and are skipped with a reason. So is
the published evaluation set, which has wrist and bounding box; with poses in its files, it is read as the rest.

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
from hawor_pipeline.sources.image_files import JPEG_OR_PNG, ImageFile, list_images, list_numbered
from hawor_pipeline.sources.reader import (
    NO_IMAGE,
    NO_LABEL,
    NOT_ANNOTATED,
    HandLabels,
    Reader,
    SequenceRef,
    Take,
    checked_array,
)
from hawor_pipeline.untrusted.safe_load import load_pickle

IMAGE_SIZE = (480, 640)
OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0])
PARTS = {"train": "ho3d_", "evaluation": "ho3d_evaluation_"}  # folder to start of the subject's name
_SHAPES = {"handPose": (48,), "handTrans": (3,), "handBeta": (10,)}


class Ho3d(Reader):
    """HO-3D: its training set, its evaluation set, or both.

    Args:
        root: folder with `train/` or `evaluation/`.
        mano_dir: folder of the MANO models; turning a hand's frame turns it about its root joint.

    Raises:
        ConfigError: the layout is not there.
    """

    name = "ho3d"
    convention = ManoConvention(tips="ho3d")
    folders = tuple(PARTS)
    title = "HO-3D"
    example = "train/ABF10/rgb/0000.png (version 2) or .jpg (version 3)"

    def _layout(self) -> list[Path]:
        folders = [self.root / part for part in PARTS]
        return [next((folder for folder in folders if folder.is_dir()), folders[0])]

    def refs(self) -> list[SequenceRef]:
        """Return a ref per folder; the letters of its name are person and object, the digits the camera."""
        found = []
        for part, start in PARTS.items():
            for folder in sorted((self.root / part).glob("[!.]*")):
                if (folder / "rgb").is_dir() or (folder / "meta").is_dir():
                    subject = f"{start}{folder.name.rstrip('0123456789')}"
                    found.append(SequenceRef(subject, folder.name, self._object(folder), "hold"))
        return sorted(found, key=lambda ref: (ref.subject, ref.sequence))

    def _object(self, folder: Path) -> str:
        first = next(iter(_labels(folder).values()), None)
        try:
            name = self._read(first).get("objName") if first else None
        except DataError:  # an error of this sequence, raised when its labels are read; not of the others
            return ""
        return str(name) if name is not None else ""

    def _folder(self, ref: SequenceRef) -> Path:
        part = "evaluation" if ref.subject.startswith(PARTS["evaluation"]) else "train"
        return self.root / part / ref.sequence

    def label_files(self, ref: SequenceRef) -> Sequence[Path]:
        """Return a file per image."""
        return list(_labels(self._folder(ref)).values())

    def splits(self) -> dict[str, list[str]]:
        """Return the published split by folder; it states no validation set."""
        test = [name for name in self.subjects() if name.startswith(PARTS["evaluation"])]
        return {"train": [name for name in self.subjects() if name not in test], "val": [], "test": test}

    def images(self, ref: SequenceRef, views: Sequence[int]) -> dict[int, dict[int, ImageFile]]:
        """Return the images of the one view."""
        return {0: list_images(self._folder(ref) / "rgb", suffix=JPEG_OR_PNG)}

    def takes(self, ref: SequenceRef, labels: None, views: Sequence[int]) -> Iterator[Take]:
        """Yield the images of one sequence, and its labels without an image."""
        folder = self._folder(ref)
        images, files = list_images(folder / "rgb", suffix=JPEG_OR_PNG), _labels(folder)
        for number in sorted({*images, *files}):
            image, path = images.get(number), files.get(number)
            hand = found = None
            if path is not None:
                found = self._read(path)
                hand = self._hand(found, path)
            if image is None or found is None or hand is None:
                reason = NO_LABEL if found is None else NOT_ANNOTATED if hand is None else NO_IMAGE
                yield Take.without_hands(0, number, image, (("right", reason),))
                continue
            intrinsics = checked_array(found.get("camMat"), (3, 3), f"{path}: camMat")
            yield Take.of_image(0, number, image, IMAGE_SIZE, intrinsics, {"right": hand})

    def _read(self, path: Path) -> dict[str, Any]:
        found = load_pickle(path)
        if not isinstance(found, dict):
            raise DataError(f"{path}: holds {type(found).__name__}, expected a dictionary; get the file again.")
        return found

    def _hand(self, found: dict[str, Any], path: Path) -> HandLabels | None:
        if any(found.get(name) is None for name in _SHAPES):
            return None
        pose, shift, betas = (checked_array(found[name], shape, f"{path}: {name}") for name, shape in _SHAPES.items())
        turned = OPENCV_FROM_OPENGL @ axis_angle_to_rotmat(torch.tensor(pose[:3])).numpy()
        models = load_hand_models(self.mano_dir, self.convention)
        with torch.no_grad():
            pivot = models.layers["right"].rest_joints(torch.tensor(betas[None]))[0, 0].numpy()
        joints = _joints(found.get("handJoints3D"), path)
        return HandLabels.of_moment(
            rotmat_to_axis_angle(torch.tensor(turned)).numpy(),
            pose[3:] - models.arrays["right"].hands_mean,
            # the global rotation turns about the root joint, so a change of frame moves the translation too
            OPENCV_FROM_OPENGL @ (pivot + shift) - pivot,
            betas,
            None if joints is None else joints[list(OPENPOSE_FROM_MANO)] @ OPENCV_FROM_OPENGL.T,
        )


def _labels(folder: Path) -> dict[int, Path]:
    return list_numbered(folder / "meta", "", r"\.pkl")


def _joints(stated: Any, path: Path) -> np.ndarray | None:
    """Return all 21 joints in MANO's order; the wrist alone, as in the evaluation set, leaves the others NaN."""
    if stated is None:
        return None
    if np.size(stated) != 3:
        return checked_array(stated, (21, 3), f"{path}: handJoints3D")
    joints = np.full((21, 3), np.nan)
    joints[0] = checked_array(stated, (3,), f"{path}: handJoints3D")
    return joints
