"""DexYCB: `{subject}/{sequence}/{serial}/{color,labels}_{number}.{jpg,npz}`, with `meta.yml` and `calibration/`.

`pose_m` is 3 values of global orientation, 45 coefficients of MANO's pose components about its mean pose, and 3 of
translation, in the frame of each camera; all zero where the hand is absent. Left hands were fitted with MANO's left
model as published (without the sign fix of its shape directions). Joints are manopth's, whose left middle fingertip is
vertex 445 where manotorch and the right side take 444.

Source: DexYCB's toolkit (layout, splits, manopth as hand layer) and its issue 28 (left hands).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hawor_pipeline.core.mano import Side
from hawor_pipeline.core.mano_convention import ManoConvention
from hawor_pipeline.errors import DataError
from hawor_pipeline.sources.fingerprint import file_states
from hawor_pipeline.sources.image_files import JPEG_OR_PNG, ImageFile, list_images, list_numbered
from hawor_pipeline.sources.reader import (
    NO_HAND,
    NO_IMAGE,
    NO_LABEL,
    HandLabels,
    Reader,
    SequenceRef,
    Take,
    checked_array,
)
from hawor_pipeline.untrusted.mano_files import load_pose_components
from hawor_pipeline.untrusted.safe_load import load_npz

IMAGE_SIZE = (480, 640)
# Setup s1 of the toolkit (unseen subjects), by position in the sorted list of the ten subjects.
_VAL_SUBJECTS, _TEST_SUBJECTS = (6,), (7, 8)
_SUBJECT_COUNT = 10
_IMAGE = "color_"  # start of an image's name


@dataclass(frozen=True, slots=True)
class RecordingMeta:
    """Contents of `meta.yml` of one recording."""

    serials: list[str]  # of the cameras
    frames: int
    side: Side
    calibrations: list[str]  # of the hand's shape; the first is that of `side`
    grasped: int  # number of the object

    @classmethod
    def read(cls, folder: Path) -> "RecordingMeta":
        """Read the metadata of a recording.

        Raises:
            DataError: the file is missing or damaged.
        """
        path = folder / "meta.yml"
        meta = _read_yaml(path)
        try:
            grasped = meta["ycb_ids"][meta["ycb_grasp_ind"]]
            return cls(meta["serials"], meta["num_frames"], meta["mano_sides"][0], meta["mano_calib"], grasped)
        except (KeyError, IndexError, TypeError) as error:
            raise DataError(f"{path}: an entry is missing or damaged ({error!r}); get the file again.") from None


class DexYcb(Reader):
    """DexYCB, all subjects that are there.

    Raises:
        ConfigError: the layout is not there.
    """

    name = "dexycb"
    convention = ManoConvention(tips="manopth")
    folders = layout = ("calibration",)
    title = "DexYCB"
    example = "20200709-subject-01/20200709_141754/836212060125/color_000000.jpg"

    def refs(self) -> list[SequenceRef]:
        """Return a sequence per recording, all cameras together; also of one whose metadata is missing."""
        subjects = sorted({path.parent.parent for path in self.root.glob("[!.]*/[!.]*/meta.yml")})
        folders = [folder for subject in subjects for folder in sorted(subject.glob("[!.]*")) if _is_recording(folder)]
        return [SequenceRef(folder.parent.name, folder.name, _grasped(folder), "grasp") for folder in folders]

    def label_files(self, ref: SequenceRef) -> Sequence[Path]:
        """Return metadata, calibrations, and a file per image."""
        folder = self._folder(ref)
        recording = RecordingMeta.read(folder)
        intrinsics = [self._intrinsics_file(serial) for serial in recording.serials]
        hands = [self._hand_file(name) for name in recording.calibrations]
        labels = [path for serial in recording.serials for path in _labels(folder / serial).values()]
        return [folder / "meta.yml", *intrinsics, *hands, *labels]

    def _folder(self, ref: SequenceRef) -> Path:
        return self.root / ref.subject / ref.sequence

    def splits(self) -> dict[str, list[str]]:
        """Return setup s1, where all ten subjects are there."""
        subjects = self.subjects()
        if len(subjects) != _SUBJECT_COUNT:
            return {"train": subjects, "val": [], "test": []}
        val, test = ([subjects[index] for index in chosen] for chosen in (_VAL_SUBJECTS, _TEST_SUBJECTS))
        return {"train": [name for name in subjects if name not in (*val, *test)], "val": val, "test": test}

    def _intrinsics_file(self, serial: str) -> Path:
        height, width = IMAGE_SIZE
        return self.root / "calibration" / "intrinsics" / f"{serial}_{width}x{height}.yml"

    def _hand_file(self, calibration: str) -> Path:
        return self.root / "calibration" / f"mano_{calibration}" / "mano.yml"

    def images(self, ref: SequenceRef, views: Sequence[int]) -> dict[int, dict[int, ImageFile]]:
        """Return the images of each camera."""
        folder = self._folder(ref)
        serials = RecordingMeta.read(folder).serials
        return {view: list_images(folder / serial, _IMAGE, JPEG_OR_PNG) for view, serial in enumerate(serials)}

    def takes(self, ref: SequenceRef, labels: None, views: Sequence[int]) -> Iterator[Take]:
        """Yield the images of one recording, and its labels without an image.

        The view is the camera's position in the list of serial numbers.
        """
        folder = self._folder(ref)
        recording = RecordingMeta.read(folder)
        side, hand_file = recording.side, self._hand_file(recording.calibrations[0])
        betas = checked_array(_read_yaml(hand_file).get("betas"), (10,), f"{hand_file}: betas")
        for view, serial in enumerate(recording.serials):
            intrinsics = self._intrinsics(serial)
            images, files = list_images(folder / serial, _IMAGE, JPEG_OR_PNG), _labels(folder / serial)
            for frame in sorted({*images, *files, *range(recording.frames)}):
                image, path = images.get(frame), files.get(frame)
                hand = None if path is None else self._hand(path, side, betas)
                if image is None or hand is None:
                    # where both files are missing, the metadata still lists the image
                    lacks_image = image is None and (hand is not None or path is None)
                    reason = NO_IMAGE if lacks_image else NO_HAND if path else NO_LABEL
                    yield Take.without_hands(view, frame, image, ((side, reason),))
                    continue
                yield Take.of_image(view, frame, image, IMAGE_SIZE, intrinsics, {side: hand})

    def _intrinsics(self, serial: str) -> np.ndarray:
        color = _read_yaml(self._intrinsics_file(serial))["color"]
        return np.array([[color["fx"], 0, color["ppx"]], [0, color["fy"], color["ppy"]], [0, 0, 1]], np.float64)

    def _hand(self, path: Path, side: Side, betas: np.ndarray) -> HandLabels | None:
        arrays = load_npz(path)
        pose = checked_array(arrays.get("pose_m"), (51,), f"{path}: pose_m")
        joints = checked_array(arrays.get("joint_3d"), (21, 3), f"{path}: joint_3d")
        if not pose.any():
            return None
        fingers = pose[3:48] @ _components(self.mano_dir, side)
        return HandLabels.of_moment(pose[:3], fingers, pose[48:], betas, joints)


def _labels(folder: Path) -> dict[int, Path]:
    return list_numbered(folder, "labels_", r"\.npz")


def _is_recording(folder: Path) -> bool:
    return (folder / "meta.yml").is_file() or next(folder.glob(f"*/{_IMAGE}*"), None) is not None


def _grasped(folder: Path) -> str:
    """Return the object of a recording; damaged metadata is an error of this recording, raised when it is planned."""
    try:
        return f"ycb_{RecordingMeta.read(folder).grasped:03d}"
    except DataError:
        return ""


@lru_cache(maxsize=2)
def _components(mano_dir: Path, side: Side) -> np.ndarray:
    return load_pose_components(mano_dir, side)


def _read_yaml(path: Path) -> dict[str, Any]:
    return _parsed_yaml(path, tuple(file_states([path])))


@lru_cache(maxsize=64)
def _parsed_yaml(path: Path, _states: tuple[tuple[str, int, int], ...]) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot be read ({error}); get the file again.") from None
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds {type(found).__name__}, expected named entries; get the file again.")
    return found
