"""FreiHAND (v2): `{part}/rgb/{number}.jpg` with `{part}_K.json`, `{part}_mano.json` and `{part}_xyz.json`.

The parts are `training` and `evaluation`; the labels of the evaluation set are a download of their own. Every image is
a moment of its own: no two form a clip. The hands of a part are therefore dealt out to SEQUENCES sequences in turn, so
that neighbours in a sequence are never consecutive numbers. Image n + 32560 k of the training set shows hand n again
before another background, with the labels of n. All versions of a hand are in one sequence: held-out sequences show no
hand that was trained on.

Source: FreiHAND's published files; its MANO vector is pose 48 (relative to the mean pose), betas 10, the pixel of the
middle finger's root, and the scale that puts that root at depth focal / scale. Root and joints are regressed from the
posed mesh, as its toolbox does; they differ from the posed skeleton.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hawor_pipeline.core.mano_convention import ManoConvention
from hawor_pipeline.errors import DataError
from hawor_pipeline.sources.arctic import read_json
from hawor_pipeline.sources.hand_models import load_hand_models
from hawor_pipeline.sources.image_files import JPEG_OR_PNG, ImageFile, list_images
from hawor_pipeline.sources.reader import (
    NO_IMAGE,
    NO_LABEL,
    HandLabels,
    Reader,
    SequenceRef,
    Take,
    checked_array,
)

SEQUENCES = 100  # of each part
IMAGE_SIZE = (224, 224)
ROOT_JOINT = 9  # middle finger's first joint, OpenPose order
SUBJECTS = {"training": "freihand", "evaluation": "freihand_evaluation"}
_VERSIONS = {"training": 4, "evaluation": 1}  # images of each hand
_LABELS = ("K", "mano", "xyz")


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image and the labels of its hand; one of them may be missing."""

    number: int  # of the image, also of a missing one
    image: ImageFile | None
    hand: int  # its place in the label files
    values: dict[str, Any] | None  # by name of the label file, not checked yet


class FreiHand(Reader):
    """FreiHAND: its training set, its evaluation set, or both.

    Args:
        root: folder with `training/rgb` or `evaluation/rgb`.
        mano_dir: folder of the MANO models; the labels place a joint of the posed hand, not its origin.

    Raises:
        ConfigError: the layout is not there.
    """

    name = "freihand"
    convention = ManoConvention(tips="freihand", joints_from_mesh=True)
    folders = tuple(SUBJECTS)
    title = "FreiHAND (v2)"
    example = "training/rgb/00000000.jpg"

    def _layout(self) -> list[Path]:
        parts = self._parts or ["training"]
        folders = [self._images(part) for part in parts]
        files = [file for part in parts if self._is_labelled(part) for file in self._files(part)]
        return [next((folder for folder in folders if folder.is_dir()), folders[0]), *files]

    @property
    def _parts(self) -> list[str]:
        """Parts of which anything is there but the evaluation set's cameras, which tell nothing alone."""
        files = {"training": self._files("training"), "evaluation": self._files("evaluation")[1:]}
        return [part for part in SUBJECTS if self._images(part).is_dir() or any(map(Path.exists, files[part]))]

    def _images(self, part: str) -> Path:
        return self.root / part / "rgb"

    def _is_labelled(self, part: str) -> bool:
        """Test for labels: the training download has the evaluation set's images and cameras alone."""
        return part == "training" or any(file.exists() for file in self._files(part)[1:])

    def _files(self, part: str) -> list[Path]:
        return [self.root / f"{part}_{name}.json" for name in _LABELS]

    def refs(self) -> list[SequenceRef]:
        """Return SEQUENCES sequences of about equal size of each part.

        Raises:
            DataError: a label file is damaged, or the files disagree.
        """
        return [SequenceRef(SUBJECTS[_part(name)], name, "", "single") for name in sorted(self._sequences)]

    def label_files(self, ref: SequenceRef) -> Sequence[Path]:
        """Return all label files of the part: each holds all its images."""
        part = _part(ref.sequence)
        return self._files(part) if self._is_labelled(part) else []

    def splits(self) -> dict[str, list[str]]:
        """Return the published split: one set trains, the other tests."""
        training, evaluation = ([SUBJECTS[part]] if part in self._parts else [] for part in SUBJECTS)
        return {"train": training, "val": [], "test": evaluation}

    @cached_property
    def _sequences(self) -> dict[str, list[LabelledImage]]:
        found: dict[str, list[LabelledImage]] = {}
        for part in self._parts:
            for item in self._labelled_images(part):
                found.setdefault(f"{part}_{item.hand % SEQUENCES:02d}", []).append(item)
        return found

    def _labelled_images(self, part: str) -> list[LabelledImage]:
        """Return the images of a part with their labels, and the labels whose image is missing, by number."""
        labels = self._labels(part) if self._is_labelled(part) else dict.fromkeys(_LABELS, ())
        hands = [dict(zip(_LABELS, values, strict=True)) for values in zip(*labels.values(), strict=True)]
        images, found = list_images(self._images(part), suffix=JPEG_OR_PNG), []
        for number in sorted({*images, *_missing(images, len(hands), _VERSIONS[part])}):
            hand = number % len(hands) if number < _VERSIONS[part] * len(hands) else number
            values = hands[hand] if hand < len(hands) else None
            found.append(LabelledImage(number, images.get(number), hand, values))
        return found

    def _labels(self, part: str) -> dict[str, list]:
        found: dict[str, list] = {name: read_json(path) for name, path in zip(_LABELS, self._files(part), strict=True)}
        counts = {name: len(values) for name, values in found.items()}
        if len(set(counts.values())) != 1 or not counts["K"]:
            raise DataError(
                f"{self.root}: the label files of {part} hold {counts} hands, expected the same number, above zero, in "
                "all; get them again."
            )
        return found

    def images(self, ref: SequenceRef, views: Sequence[int]) -> dict[int, dict[int, ImageFile]]:
        """Return the images of the one view."""
        return {0: {found.number: found.image for found in self._sequences[ref.sequence] if found.image}}

    def labels_of(self, ref: SequenceRef) -> list[LabelledImage]:
        """Return the images of one sequence with their labels."""
        return self._sequences[ref.sequence]

    def takes(self, ref: SequenceRef, labels: list[LabelledImage], views: Sequence[int]) -> Iterator[Take]:
        """Yield the images of one sequence."""
        part = _part(ref.sequence)
        for found in labels:
            if found.image is None or found.values is None:
                reason = NO_IMAGE if found.image is None else NO_LABEL
                yield Take.without_hands(0, found.number, found.image, (("right", reason),))
                continue
            values = {
                name: checked_array(found.values[name], shape, f"{part}_{name}.json: entry {found.hand}")
                for name, shape in (("K", (3, 3)), ("mano", (61,)), ("xyz", (21, 3)))
            }
            hands: dict[str, HandLabels] = {"right": self._hand(values)}
            yield Take.of_image(0, found.number, found.image, IMAGE_SIZE, values["K"], hands)

    def _hand(self, values: dict[str, np.ndarray]) -> HandLabels:
        intrinsics, mano = values["K"], values["mano"]
        pose, betas, pixel, scale = mano[:48], mano[48:58], mano[58:60], mano[60]
        focal = (intrinsics[0, 0] + intrinsics[1, 1]) / 2
        root = np.array([*(pixel - intrinsics[:2, 2]), focal]) / scale
        translation = root - self._posed_root(pose, betas)
        return HandLabels.of_moment(pose[:3], pose[3:], translation, betas, values["xyz"])

    @torch.no_grad()
    def _posed_root(self, pose: np.ndarray, betas: np.ndarray) -> np.ndarray:
        """Return the root joint of the posed hand without translation, (3,) metres."""
        models = load_hand_models(self.mano_dir, self.convention)
        layer = models.layers["right"]
        orient, fingers, shape = (torch.tensor(values[None]) for values in (pose[:3], pose[3:], betas))
        hand = layer(layer.absolute_rotmats(orient, fingers, mean_included=False), shape)
        return models.own_joints("right", hand.vertices, hand.joints)[0, ROOT_JOINT].numpy()


def _missing(images: Collection[int], hands: int, versions: int) -> set[int]:
    """Return the numbers of missing images: of versions that were downloaded, and of hands without any image.

    A version of which fewer than half of the images are there was not downloaded as a whole.
    """
    missing = set(range(hands)) - {number % hands for number in images if number < versions * hands}
    for version in range(versions):
        lacking = set(range(version * hands, (version + 1) * hands)) - set(images)
        missing |= lacking if 2 * len(lacking) < hands else set()
    return missing


def _part(sequence: str) -> str:
    """ "training_07" is of the training set."""
    return sequence.rsplit("_", 1)[0]
