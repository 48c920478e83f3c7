"""FreiHAND (v2): `training/rgb/{number}.jpg` with `training_K.json`, `training_mano.json` and `training_xyz.json`.

Every image is a moment of its own: no two form a clip. The hands are therefore dealt out to SEQUENCES sequences in
turn, so that neighbours in a sequence are never consecutive numbers. Image n + 32560 k shows hand n again before
another background, with the labels of n. All versions of a hand are in one sequence: held-out sequences show no hand
that was trained on.

Source: FreiHAND's published files; its MANO vector is pose 48 (relative to the mean pose), betas 10, the pixel of the
middle finger's root, and the scale that puts that root at depth focal / scale. Root and joints are regressed from the
posed mesh, as its toolbox does; they differ from the posed skeleton.
"""

from collections.abc import Iterator, Sequence
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
from hawor_pipeline.sources.image_files import ImageFile, list_images
from hawor_pipeline.sources.reader import HandLabels, Reader, SequenceRef, Take, checked_array

SEQUENCES = 100
IMAGE_SIZE = (224, 224)
ROOT_JOINT = 9  # middle finger's first joint, OpenPose order
SUBJECT = "freihand"
_LABELS = ("K", "mano", "xyz")


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image and the labels of its hand."""

    number: int
    image: ImageFile
    hand: int  # its place in the label files
    values: dict[str, Any]  # by name of the label file, not checked yet


class FreiHand(Reader):
    """The training set of FreiHAND.

    Args:
        root: folder with `training/rgb`.
        mano_dir: folder of the MANO models; the labels place a joint of the posed hand, not its origin.

    Raises:
        ConfigError: the layout is not there.
    """

    name = "freihand"
    convention = ManoConvention(tips="freihand", joints_from_mesh=True)
    folders = ("training",)
    layout = ("training/rgb", *(f"training_{name}.json" for name in _LABELS))
    title = "FreiHAND's training set (v2)"

    def _files(self) -> list[Path]:
        return [self.root / f"training_{name}.json" for name in _LABELS]

    def refs(self) -> list[SequenceRef]:
        """Return SEQUENCES sequences of about equal size.

        Raises:
            DataError: a label file is damaged, or the files disagree.
        """
        return [SequenceRef(SUBJECT, sequence, "", "single") for sequence in sorted(self._sequences)]

    def label_files(self, ref: SequenceRef) -> Sequence[Path]:
        """Return all label files: each holds all images."""
        return self._files()

    def splits(self) -> dict[str, list[str]]:
        """Return no split: only the training set has MANO parameters for all images."""
        return {"train": [SUBJECT], "val": [], "test": []}

    @cached_property
    def _sequences(self) -> dict[str, list[LabelledImage]]:
        labels = self._labels
        found: dict[str, list[LabelledImage]] = {}
        for number, image in list_images(self.root / "training" / "rgb").items():
            hand = number % len(labels["K"])
            values = {name: labels[name][hand] for name in _LABELS}
            name = f"training_{hand % SEQUENCES:02d}"
            found.setdefault(name, []).append(LabelledImage(number, image, hand, values))
        return found

    @cached_property
    def _labels(self) -> dict[str, Any]:
        found: dict[str, Any] = {name: read_json(path) for name, path in zip(_LABELS, self._files(), strict=True)}
        counts = {name: len(values) for name, values in found.items()}
        if len(set(counts.values())) != 1 or not counts["K"]:
            raise DataError(
                f"{self.root}: the label files hold {counts} hands, expected the same number, above zero, in all; get "
                "them again."
            )
        return found

    def images(self, ref: SequenceRef, views: Sequence[int]) -> dict[int, dict[int, ImageFile]]:
        """Return the images of the one view."""
        return {0: {found.number: found.image for found in self._sequences[ref.sequence]}}

    def labels_of(self, ref: SequenceRef) -> list[LabelledImage]:
        """Return the images of one sequence with their labels."""
        return self._sequences[ref.sequence]

    def takes(self, ref: SequenceRef, labels: list[LabelledImage], views: Sequence[int]) -> Iterator[Take]:
        """Yield the images of one sequence."""
        for found in labels:
            intrinsics = _array(found, "K", (3, 3))
            hands: dict[str, HandLabels] = {"right": self._hand(found, intrinsics)}
            yield Take.of_image(0, found.number, found.image, IMAGE_SIZE, intrinsics, hands)

    def _hand(self, found: LabelledImage, intrinsics: np.ndarray) -> HandLabels:
        values = _array(found, "mano", (61,))
        pose, betas, pixel, scale = values[:48], values[48:58], values[58:60], values[60]
        focal = (intrinsics[0, 0] + intrinsics[1, 1]) / 2
        root = np.array([*(pixel - intrinsics[:2, 2]), focal]) / scale
        translation = root - self._posed_root(pose, betas)
        return HandLabels.of_moment(pose[:3], pose[3:], translation, betas, _array(found, "xyz", (21, 3)))

    @torch.no_grad()
    def _posed_root(self, pose: np.ndarray, betas: np.ndarray) -> np.ndarray:
        """Return the root joint of the posed hand without translation, (3,) metres."""
        models = load_hand_models(self.mano_dir, self.convention)
        layer = models.layers["right"]
        orient, fingers, shape = (torch.tensor(values[None]) for values in (pose[:3], pose[3:], betas))
        hand = layer(layer.absolute_rotmats(orient, fingers, mean_included=False), shape)
        return models.own_joints("right", hand.vertices, hand.joints)[0, ROOT_JOINT].numpy()


def _array(found: LabelledImage, name: str, shape: tuple[int, ...]) -> np.ndarray:
    return checked_array(found.values[name], shape, f"training_{name}.json: entry {found.hand}")
