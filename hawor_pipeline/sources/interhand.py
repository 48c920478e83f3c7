"""InterHand2.6M (v1.0): `images/{split}/Capture*/{sequence}/cam*/image*.jpg` and `annotations/{split}/*.json`.

MANO parameters are in the world frame, axis-angle relative to the mean pose; cameras are a rotation and a centre in
millimetres; joints are in millimetres, finger by finger from tip to root, right hand first. Left hands were fitted with
the corrected sign of the left model's shape directions.

The label files of the training split describe 1.4 million images: as Python objects, several gigabytes. They are read
once, by the process that plans, one split at a time and without what is not used; a worker gets those of its sequence.

Source: InterHand2.6M's published files and its notes on the MANO fits (NeuralAnnot).
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hawor_pipeline.core.mano import Side
from hawor_pipeline.core.mano_convention import ManoConvention
from hawor_pipeline.core.units import mm_to_m
from hawor_pipeline.errors import DataError
from hawor_pipeline.sources.arctic import read_json
from hawor_pipeline.sources.image_files import JPEG_OR_PNG, ImageFile, list_images
from hawor_pipeline.sources.reader import (
    NO_IMAGE,
    NO_LABEL,
    NO_MANO_FIT,
    HandLabels,
    Reader,
    SequenceRef,
    Take,
    checked_array,
)

SPLITS = ("train", "val", "test")
_IMAGES, _CAMERAS, _JOINTS, _FITS = _LABELS = ("data", "camera", "joint_3d", "MANO_NeuralAnnot")
_CAMERA = re.compile(r"cam([0-9]{1,9})")
_SIDES: tuple[Side, Side] = ("right", "left")
# OpenPose order out of the data set's: thumb, index, middle, ring, pinky, each from tip to root, then the wrist.
_OPENPOSE_FROM_INTERHAND = (20, *(4 * finger + joint for finger in range(5) for joint in (3, 2, 1, 0)))


class Image(NamedTuple):
    """One image of the list of images."""

    camera: int
    frame: int
    file: str  # path below the split's folder of images
    height: int
    width: int


@dataclass(frozen=True, slots=True)
class SequenceLabels:
    """Labels of one sequence from the label files of a split."""

    images: list[Image]  # by camera and frame
    cameras: dict[int, tuple[np.ndarray, np.ndarray]]  # intrinsics (3, 3), pixels, and pose (4, 4), metres
    hands: dict[int, dict[str, HandLabels]]  # by frame, the same in all cameras
    unlabelled: dict[int, tuple[tuple[str, str], ...]]  # by frame, (side, reason)


class InterHand(Reader):
    """InterHand2.6M, all splits that are there.

    Raises:
        ConfigError: the layout is not there.
    """

    name = "interhand"
    convention = ManoConvention(left_shapedirs_fixed=True)
    folders = ("images", "annotations")
    title = "InterHand2.6M"
    example = "images/test/Capture0/0000_neutral_relaxed/cam400262/image10210.jpg"

    def __init__(self, root: Path, mano_dir: Path) -> None:
        super().__init__(root, mano_dir)
        self.present = [split for split in SPLITS if self._files(split)[0].exists()]
        self._held: dict[str, Any] = {}
        self._held_split = ""

    def _layout(self) -> list[Path]:
        begun = [
            split
            for split in SPLITS
            if any(path.exists() for path in self._files(split)) or any((self.root / "images" / split).glob("*/*"))
        ]
        return [path for split in begun or SPLITS[:1] for path in self._files(split)]

    def _files(self, split: str) -> list[Path]:
        return [self._file(split, name) for name in _LABELS]

    def _file(self, split: str, name: str) -> Path:
        return self.root / "annotations" / split / f"InterHand2.6M_{split}_{name}.json"

    @cached_property
    def _images(self) -> dict[tuple[str, str], list[Image]]:
        """(subject, sequence) to its listed images, by camera and frame; none of a folder that no list names."""
        found: dict[tuple[str, str], list[Image]] = {}
        for split in self.present:
            for (capture, sequence), images in _read_images(self._file(split, _IMAGES)).items():
                found[f"{split}_Capture{capture}", sequence] = sorted(images)
        for split in self.present if found else ():
            for folder in (self.root / "images" / split).glob("Capture[0-9]*/[!.]*/"):
                found.setdefault((f"{split}_{folder.parent.name}", folder.name), [])
        return dict(sorted(found.items()))

    def _labels(self, split: str, name: str) -> Any:
        """A label file, kept until one of another split is asked for."""
        if self._held_split != split:
            self._held, self._held_split = {}, split
        if name not in self._held:
            self._held[name] = read_json(self._file(split, name))
        return self._held[name]

    def refs(self) -> list[SequenceRef]:
        """Return a ref per capture and sequence, all cameras together."""
        return [SequenceRef(subject, sequence, "", _action(sequence)) for subject, sequence in self._images]

    def label_files(self, ref: SequenceRef) -> Sequence[Path]:
        """The files of its split."""
        return self._files(_split_and_capture(ref)[0])

    def splits(self) -> dict[str, list[str]]:
        """The published split."""
        subjects = sorted({subject for subject, _ in self._images})
        return {split: [name for name in subjects if name.startswith(f"{split}_")] for split in SPLITS}

    def images(self, ref: SequenceRef, views: Sequence[int]) -> dict[int, dict[int, ImageFile]]:
        """Return the images by camera and frame, listed in the label files or not."""
        found: dict[int, dict[int, ImageFile]] = {}
        for (camera, frame), image in sorted(self._present(ref, self._images[ref.subject, ref.sequence]).items()):
            found.setdefault(camera, {})[frame] = image
        return found

    def _present(self, ref: SequenceRef, listed: list[Image]) -> dict[tuple[int, int], ImageFile]:
        """(camera, frame) to the images that are there: those of the sequence's folder, and those listed elsewhere."""
        split, capture = _split_and_capture(ref)
        root = self.root / "images" / split
        found: dict[tuple[int, int], ImageFile] = {}
        for folder in (root / f"Capture{capture}" / ref.sequence).glob("cam*/"):
            if match := _CAMERA.fullmatch(folder.name):
                camera = int(match.group(1))
                found |= {(camera, frame): image for frame, image in list_images(folder, "image", JPEG_OR_PNG).items()}
        for image in listed:
            if (image.camera, image.frame) not in found and (path := root / image.file).is_file():
                found[image.camera, image.frame] = ImageFile(path)
        return found

    def labels_of(self, ref: SequenceRef) -> SequenceLabels:
        """Cameras and hands of its images."""
        split, capture = _split_and_capture(ref)
        images = self._images[ref.subject, ref.sequence]
        cameras = {camera: self._camera(split, capture, camera) for camera in sorted({item.camera for item in images})}
        hands, unlabelled = {}, {}
        for frame in sorted({image.frame for image in images}):
            hands[frame], unlabelled[frame] = self._hands(split, capture, str(frame))
        return SequenceLabels(images, cameras, hands, unlabelled)

    def takes(self, ref: SequenceRef, labels: SequenceLabels, views: Sequence[int]) -> Iterator[Take]:
        """Yield the images of one sequence; the view is the camera's number."""
        listed = {(image.camera, image.frame): image for image in labels.images}
        present = self._present(ref, labels.images)
        for camera, frame in sorted({*listed, *present}):
            entry, image = listed.get((camera, frame)), present.get((camera, frame))
            if entry is None:
                yield Take.without_hands(camera, frame, image, (("", NO_LABEL),))
                continue
            hands, unlabelled = labels.hands[frame], labels.unlabelled[frame]
            if image is None:
                lost = (*((side, NO_IMAGE) for side in hands), *unlabelled)
                yield Take.without_hands(camera, frame, None, lost or (("", NO_IMAGE),))
                continue
            size, (intrinsics, cam_from_world) = (entry.height, entry.width), labels.cameras[camera]
            yield Take.of_image(camera, frame, image, size, intrinsics, hands, cam_from_world, unlabelled)

    def _hands(self, split: str, capture: str, frame: str) -> tuple[dict[str, HandLabels], tuple[tuple[str, str], ...]]:
        """Return the hands of one moment, and (side, reason) of those without usable labels."""
        fits = self._labels(split, _FITS).get(capture, {}).get(frame, {})
        stated = self._labels(split, _JOINTS).get(capture, {}).get(frame)
        hands: dict[str, HandLabels] = {}
        lost = []
        for order, side in enumerate(_SIDES):
            if fits.get(side) is not None:
                hands[side] = self._hand(fits[side], side, _joints(stated, order), (capture, frame))
            elif stated is None or stated["hand_type"] in (side, "interacting"):
                lost.append((side, NO_MANO_FIT))
        return hands, tuple(lost)

    def _hand(self, fit: dict[str, Any], side: Side, joints: np.ndarray | None, where: tuple[str, str]) -> HandLabels:
        place = f"MANO_NeuralAnnot of capture {where[0]}, frame {where[1]}, {side}"
        pose, betas, shift = (
            checked_array(fit.get(name), (count,), f"{place}: {name}")
            for name, count in (("pose", 48), ("shape", 10), ("trans", 3))
        )
        return HandLabels.of_moment(pose[:3], pose[3:], shift, betas, joints)

    def _camera(self, split: str, capture: str, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Intrinsics (3, 3), pixels, and pose (4, 4), metres."""
        camera = str(number)
        try:
            found = self._labels(split, _CAMERAS)[capture]
            focal, point = found["focal"][camera], found["princpt"][camera]
            rotation = np.asarray(found["camrot"][camera], np.float64).reshape(3, 3)
            centre = mm_to_m(np.asarray(found["campos"][camera], np.float64).reshape(3))
        except (KeyError, ValueError) as error:
            raise DataError(f"camera {camera} of capture {capture} ({split}) is not calibrated ({error})") from None
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation, -rotation @ centre
        return np.array([[focal[0], 0, point[0]], [0, focal[1], point[1]], [0, 0, 1]], np.float64), pose


def _joints(stated: dict[str, Any] | None, order: int) -> np.ndarray | None:
    """(21, 3) metres, world frame, OpenPose order, NaN where a joint is not valid; None where none is stated."""
    if stated is None:
        return None
    mine = slice(21 * order, 21 * order + 21)
    valid = np.asarray(stated["joint_valid"], bool).reshape(-1)[mine]
    points = np.asarray(stated["world_coord"], np.float64).reshape(-1, 3)[mine]
    return mm_to_m(np.where(valid[:, None], points, np.nan)[list(_OPENPOSE_FROM_INTERHAND)])


def _split_and_capture(ref: SequenceRef) -> tuple[str, str]:
    """ "train_Capture3" is capture "3" of the training split."""
    split, capture = ref.subject.split("_Capture", 1)
    return split, capture


def _action(sequence: str) -> str:
    """ "0390_dh_touchROM" is the range of motion of touching hands."""
    return re.sub(r"^\d+_", "", sequence)


def _read_images(path: Path) -> dict[tuple[str, str], list[Image]]:
    """(capture, sequence) to images; the rest of the file, most of it, is dropped while it is read."""
    found: dict[tuple[str, str], list[Image]] = {}

    def keep(entry: dict[str, Any]) -> None:
        if "file_name" in entry:
            image = Image(
                int(entry["camera"]),
                int(entry["frame_idx"]),
                entry["file_name"],
                int(entry["height"]),
                int(entry["width"]),
            )
            found.setdefault((str(entry["capture"]), entry["seq_name"]), []).append(image)

    try:
        read_json(path, keep)
    except (KeyError, TypeError) as error:
        raise DataError(f"{path}: an image's entry is not complete ({error}); get the file again.") from None
    return found
