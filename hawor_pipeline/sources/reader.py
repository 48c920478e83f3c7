"""What every reader of another data set says: pictures, cameras and MANO parameters, by sequence.

*Convention*: each hand is in the frame of the camera that its picture was taken with, or in a world frame with a camera
pose; OpenCV axes, metres, integer pixel = pixel centre.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from hawor_pipeline.core.mano import Side
from hawor_pipeline.sources.image_files import ImageFile

# Reasons of hands without ground truth, by the data set's own word; any other reason loses a labelled hand.
NO_HAND = "no_hand"
NOT_ANNOTATED = "not_annotated"
WITHOUT_GROUND_TRUTH = frozenset({NO_HAND, NOT_ANNOTATED})
PoseKind = Literal["relative", "absolute"]  # axis-angle without, or with, MANO's mean pose


@dataclass(frozen=True, slots=True)
class HandLabel:
    """MANO parameters of one hand in one picture, world frame."""

    side: Side
    global_orient: np.ndarray  # (3,) axis-angle
    hand_pose: np.ndarray  # (45,) axis-angle, by the reader's `pose_kind`
    betas: np.ndarray  # (10,)
    translation_m: np.ndarray  # (3,) vertices = MANO(...) + translation_m
    joints_m: np.ndarray | None = None  # (21, 3) the data set's own joints, world frame, OpenPose order


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture with its hands."""

    view: int
    frame: int
    image: ImageFile
    image_size: tuple[int, int]  # (height, width)
    intrinsics: np.ndarray  # (3, 3)
    hands: tuple[HandLabel, ...]
    cam_from_world: np.ndarray = field(default_factory=lambda: np.eye(4))  # (4, 4)
    left_out: tuple[tuple[str, str], ...] = ()  # (side or "", reason) of hands without usable ground truth


@dataclass(frozen=True, slots=True)
class Unit:
    """One sequence: the unit of conversion."""

    subject: str
    sequence: str
    object: str
    action: str


class Reader(Protocol):
    """One data set in its published layout."""

    name: str
    pose_kind: PoseKind
    tips: str  # of the data set's own joints
    fix_left_shapedirs: bool  # whether its left hands were fitted with the corrected left model

    def units(self) -> Sequence[Unit]:
        """All sequences, sorted."""

    def images(self, unit: Unit) -> Iterable[ImageFile]:
        """All pictures of a sequence, in a fixed order; opens none, nor a label file of a picture."""

    def labels_of(self, unit: Unit) -> Any:
        """What `shots` needs out of label files that many sequences share, and nothing of other sequences.

        Can be pickled: it is sent to a worker, which need not read those files. None where a sequence has its own.
        """

    def shots(self, unit: Unit, labels: Any) -> Iterator[Shot]:
        """Pictures of a sequence with what `labels_of` said of it, sorted by view and frame."""

    def label_files(self, unit: Unit) -> Sequence[Path]:
        """Files whose content decides the labels of a sequence."""

    def splits(self) -> dict[str, list[str]]:
        """Train, val and test subjects, as published; empty lists where none is stated by subject."""
