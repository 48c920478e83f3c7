"""HO-3D (v2 and v3): `{part}/{sequence}/{rgb,meta}/{number}.{png or jpg,pkl}`, the parts `train` and `evaluation`.

Poses are absolute (mean pose included), in the camera's frame with OpenGL's axes (y up, looking along -z); here they
become OpenCV's. Right hands. Frames without annotation hold None or have no file, and are skipped with a reason. So is
the evaluation set, whose files have wrist and bounding box, unless its ground truth is there: poses in its files, or
the vertices released later (`evaluation_verts.json`, in the order of `evaluation.txt`), which MANO is fitted to.

Source: HO-3D's published files and its own viewer and scripts (flat hand mean, joints in MANO's order, tips appended).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hawor_pipeline.core.mano_convention import ManoConvention
from hawor_pipeline.core.mano_fit import fit_meshes
from hawor_pipeline.core.rotations import axis_angle_to_rotmat, rotmat_to_axis_angle
from hawor_pipeline.core.skeleton import OPENPOSE_FROM_MANO, VERTEX_COUNT
from hawor_pipeline.core.units import m_to_mm
from hawor_pipeline.errors import DataError
from hawor_pipeline.sources.arctic import read_json
from hawor_pipeline.sources.hand_models import load_hand_models
from hawor_pipeline.sources.image_files import JPEG_OR_PNG, ImageFile, list_images, list_numbered
from hawor_pipeline.sources.reader import (
    NO_IMAGE,
    NO_LABEL,
    NO_MANO_FIT,
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
VERTICES_FILE, LIST_FILE = "evaluation_verts.json", "evaluation.txt"
_LARGEST_FIT_M = 0.002  # of the vertices; a mesh of this model is fitted to a ten thousandth of it
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

    def __init__(self, root: Path, mano_dir: Path) -> None:
        super().__init__(root, mano_dir)
        self._fits: dict[SequenceRef, dict[int, HandLabels]] = {}  # a dry run reads the takes of a sequence repeatedly

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
        """Return a file per image, and the vertices of the evaluation set where they are there."""
        shared = [self.root / LIST_FILE, self.root / VERTICES_FILE] if self._has_vertices(ref) else []
        return [*_labels(self._folder(ref)).values(), *shared]

    def _has_vertices(self, ref: SequenceRef) -> bool:
        return ref.subject.startswith(PARTS["evaluation"]) and (self.root / VERTICES_FILE).is_file()

    @cached_property
    def _vertices(self) -> dict[tuple[str, int], np.ndarray]:
        """(sequence, number) to vertices (778, 3) in OpenCV's axes; of all evaluation images."""
        path, names = self.root / VERTICES_FILE, self.root / LIST_FILE
        stated = read_json(path)
        try:
            listed = [line.split("/") for line in names.read_text().split()]
            keys = [(sequence, int(number)) for sequence, number in listed]
        except (OSError, ValueError) as error:
            raise DataError(f"{names}: expected lines such as SM1/0000 ({error}); get the file again.") from None
        if len(set(keys)) != len(keys):
            raise DataError(f"{names}: lists an image twice; get the file again.")
        if not isinstance(stated, list) or len(stated) != len(keys):
            found = len(stated) if isinstance(stated, list) else type(stated).__name__
            raise DataError(f"{path}: {found} hands, expected the {len(keys)} of {names.name}; get both again.")
        shape = (len(keys), VERTEX_COUNT, 3)
        return dict(zip(keys, checked_array(stated, shape, str(path)) @ OPENCV_FROM_OPENGL, strict=True))

    def labels_of(self, ref: SequenceRef) -> dict[int, np.ndarray] | None:
        """Return number to vertices of the images of a sequence whose vertices were released."""
        if not self._has_vertices(ref):
            return None
        return {number: mesh for (name, number), mesh in self._vertices.items() if name == ref.sequence}

    def splits(self) -> dict[str, list[str]]:
        """Return the published split by folder; it states no validation set."""
        test = [name for name in self.subjects() if name.startswith(PARTS["evaluation"])]
        return {"train": [name for name in self.subjects() if name not in test], "val": [], "test": test}

    def images(self, ref: SequenceRef, views: Sequence[int]) -> dict[int, dict[int, ImageFile]]:
        """Return the images of the one view."""
        return {0: list_images(self._folder(ref) / "rgb", suffix=JPEG_OR_PNG)}

    def takes(self, ref: SequenceRef, labels: Mapping[int, np.ndarray] | None, views: Sequence[int]) -> Iterator[Take]:
        """Yield the images of one sequence, and its labels without an image."""
        folder = self._folder(ref)
        images, files = list_images(folder / "rgb", suffix=JPEG_OR_PNG), _labels(folder)
        if labels and ref not in self._fits:
            self._fits[ref] = self._fitted(labels)
        fitted = self._fits.get(ref, {})
        for number in sorted({*images, *files}):
            image, path = images.get(number), files.get(number)
            hand = found = None
            if path is not None:
                found = self._read(path)
                hand = self._hand(found, path) or fitted.get(number)
            if image is None or found is None or hand is None:
                unfit = NO_MANO_FIT if labels and number in labels else NOT_ANNOTATED
                reason = NO_LABEL if found is None else unfit if hand is None else NO_IMAGE
                yield Take.without_hands(0, number, image, (("right", reason),))
                continue
            intrinsics = checked_array(found.get("camMat"), (3, 3), f"{path}: camMat")
            yield Take.of_image(0, number, image, IMAGE_SIZE, intrinsics, {"right": hand})

    def _fitted(self, meshes: Mapping[int, np.ndarray]) -> dict[int, HandLabels]:
        """Fit MANO to the meshes of a sequence; those that are not of this hand model are missing."""
        models = load_hand_models(self.mano_dir, self.convention)
        arrays = models.arrays["right"]
        vertices = torch.tensor(np.stack(list(meshes.values())))
        fit = fit_meshes(models.layers["right"], torch.tensor(arrays.skin_weights.argmax(1)), vertices)
        vectors, error = rotmat_to_axis_angle(fit.rotmats).flatten(1).numpy(), fit.error_m.numpy()
        pose, betas, shift = vectors[:, 3:] - arrays.hands_mean, fit.betas.numpy(), fit.translation_m.numpy()
        return {
            number: replace(
                HandLabels.of_moment(vectors[index, :3], pose[index], shift[index], betas[index], None),
                fitting_err=m_to_mm(error[index : index + 1]),
            )
            for index, number in enumerate(meshes)
            if error[index] <= _LARGEST_FIT_M
        }

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
