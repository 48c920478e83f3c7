"""The protocol of dataset readers: paths, images, cameras and MANO parameters, by sequence.

*Convention*: hands are in a world frame with a camera pose per view, or in the frame of the camera (pose identity);
OpenCV axes, metres, radians, integer pixel = pixel centre. Poses are relative to MANO's mean pose.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from hawor_pipeline.core.mano_convention import ARCTIC, ManoConvention
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.sources.arctic import EGO_VIEW
from hawor_pipeline.sources.image_files import ImageFile
from hawor_pipeline.sources.image_frame import ImageFrame, ViewCamera, cropped_frame, full_frame

if TYPE_CHECKING:
    from hawor_pipeline.sources.object_mesh import PosedObject
    from hawor_pipeline.sources.own_body import PosedBody

# Reasons of hands without a row that readers know.
NO_IMAGE = "no_image"  # labels, or an entry of a list of images, without the image
NO_LABEL = "no_label"  # an image without labels: its file or entry is missing
NO_HAND = "no_hand"
NOT_ANNOTATED = "not_annotated"
NO_MANO_FIT = "no_mano_fit"
# No labelled hand is lost by these, which are gaps of the published data.
WITHOUT_GROUND_TRUTH = frozenset({NO_LABEL, NO_HAND, NOT_ANNOTATED, NO_MANO_FIT})


def checked_array(values: Any, shape: tuple[int, ...], where: str) -> np.ndarray:
    """Convert stored values to an array of doubles of a shape.

    Args:
        values: nested lists or an array, with as many values as the shape has.
        shape: shape of the result.
        where: file and name of the values, for messages.

    Raises:
        DataError: the values are missing, of another number, or not finite.
    """
    try:
        array = np.asarray(values, np.float64).reshape(shape)
    except (ValueError, TypeError) as error:
        raise DataError(f"{where} is not {shape} ({error}); get the file again.") from None
    if not np.isfinite(array).all():
        raise DataError(f"{where} holds values that are not finite; get the file again.")
    return array


@dataclass(frozen=True, slots=True)
class SequenceRef:
    """One sequence by name: the unit of conversion."""

    subject: str
    sequence: str
    object: str
    action: str

    def __str__(self) -> str:
        return f"{self.subject}/{self.sequence}"


@dataclass(frozen=True, slots=True)
class HandLabels:
    """MANO parameters of one hand over T moments, world frame, pose relative to the mean pose."""

    global_orient: np.ndarray  # (T, 3) axis-angle
    pose: np.ndarray  # (T, 45) axis-angle
    translation_m: np.ndarray  # (T, 3) vertices = MANO(...) + translation_m
    betas: np.ndarray  # (T, 10)
    fitting_err: np.ndarray | None = None  # (T,) as the dataset states it; None: measured against `joints_m`
    joints_m: np.ndarray | None = None  # (T, 21, 3) the dataset's own joints, OpenPose order, NaN where unknown

    @classmethod
    def of_moment(
        cls,
        global_orient: np.ndarray,
        pose: np.ndarray,
        translation_m: np.ndarray,
        betas: np.ndarray,
        joints_m: np.ndarray | None,
    ) -> Self:
        """Label a single moment, from arrays without the leading T."""
        orient, pose, shift, betas = (
            np.asarray(values, np.float64)[None] for values in (global_orient, pose, translation_m, betas)
        )
        return cls(orient, pose, shift, betas, joints_m=None if joints_m is None else joints_m[None])

    @property
    def can_be_checked(self) -> bool:
        """Some moment has a stated fit, or a joint to check the fit against; a hand without them gets no row."""
        return self.fitting_err is not None or (self.joints_m is not None and bool(np.isfinite(self.joints_m).any()))

    def moment(self, index: int) -> Self:
        """Reduce the labels to one moment."""
        arrays = {item.name: getattr(self, item.name) for item in fields(self)}
        return replace(
            self, **{name: values[index : index + 1] for name, values in arrays.items() if values is not None}
        )


@dataclass(frozen=True, slots=True)
class Take:
    """Labelled hands over T moments and the images that show them.

    A dataset of labelled images has a take per image (T = 1); ARCTIC has one per sequence, seen by all its cameras.
    """

    hands: Mapping[str, HandLabels]
    cameras: dict[int, ViewCamera]
    images: dict[int, dict[int, ImageFile]]  # view -> frame number -> image, ascending
    first_frame: int  # number of the image that shows moment 0
    first_index: int  # index of moment 0 in the ground truth
    unlabelled: tuple[tuple[str, str], ...] = ()  # (side or "", reason) of hands without usable ground truth
    posed_object: "PosedObject | None" = None
    body: "PosedBody | None" = None  # of the person, where it counts as an occluder
    cropped: bool = False  # the files are ARCTIC's `cropped_images`, cut around the object

    def __len__(self) -> int:
        return len(next(iter(self.cameras.values())).cam_from_world)

    @classmethod
    def of_image(
        cls,
        view: int,
        frame: int,
        image: ImageFile,
        image_size: tuple[int, int],
        intrinsics: np.ndarray,
        hands: Mapping[str, HandLabels],
        cam_from_world: np.ndarray | None = None,
        unlabelled: tuple[tuple[str, str], ...] = (),
    ) -> Self:
        """Make the take of one image.

        Args:
            view, frame: numbers of the camera and of the image.
            image: the file, which holds the full frame.
            image_size: (height, width).
            intrinsics: (3, 3), pixels.
            hands: side to labels with T = 1.
            cam_from_world: (4, 4), metres; None where labels are in the camera's frame.
            unlabelled: (side, reason) of hands without usable ground truth.
        """
        pose = np.eye(4) if cam_from_world is None else cam_from_world
        camera = ViewCamera(view, image_size, pose[None], intrinsics, np.zeros(8))
        return cls(hands, {view: camera}, {view: {frame: image}}, frame, frame, unlabelled)

    @classmethod
    def without_hands(
        cls, view: int, frame: int, image: ImageFile | None, unlabelled: tuple[tuple[str, str], ...]
    ) -> Self:
        """Make the take of one image of which no hand gets a row, or of labels that have no image.

        Args:
            view, frame: numbers of the camera and of the image.
            image: the file; None where it is missing.
            unlabelled: (side or "", reason) of its hands; one at least.
        """
        camera = ViewCamera(view, (0, 0), np.eye(4)[None], np.eye(3), np.zeros(8))  # nothing is projected
        return cls({}, {view: camera}, {view: {} if image is None else {frame: image}}, frame, frame, unlabelled)

    def file_frame(self, view: int) -> ImageFrame:
        """Return how the files of a view relate to the full frame."""
        camera = self.cameras[view]
        if not self.cropped:
            return full_frame(camera.image_size, len(self))
        if camera.view == EGO_VIEW or self.posed_object is None:
            return cropped_frame(camera, None)
        return cropped_frame(camera, camera.project(self.posed_object.vertices_m)[1])

    def moment(self, index: int) -> Self:
        """Reduce the take to one moment; the images stay."""
        found = self.posed_object
        return replace(
            self,
            hands={side: labels.moment(index) for side, labels in self.hands.items()},
            cameras={view: camera.moment(index) for view, camera in self.cameras.items()},
            first_frame=self.first_frame + index,
            first_index=self.first_index + index,
            posed_object=None if found is None else found.moment(index),
            body=None if self.body is None else self.body.moment(index),
        )


_OTHER_STRUCTURE = (AttributeError, IndexError, KeyError, TypeError, ValueError)


def _naming_the_data(method: Callable[..., Any]) -> Callable[..., Any]:
    """Turn errors that files of another structure cause in a method of a reader into data errors."""

    def problem(reader: "Reader", arguments: tuple[Any, ...], error: Exception) -> DataError:
        ref = next((f" of {each}" for each in arguments if isinstance(each, SequenceRef)), "")
        return DataError(
            f"{reader.root}: a label or metadata file{ref} has another structure than {reader.name} publishes "
            f"({error!r}); get it again."
        )

    @wraps(method)
    def call(reader: "Reader", *arguments: Any, **named: Any) -> Any:
        try:
            result = method(reader, *arguments, **named)
        except _OTHER_STRUCTURE as error:
            raise problem(reader, arguments, error) from error
        return iterate(reader, arguments, result) if isinstance(result, Iterator) else result

    def iterate(reader: "Reader", arguments: tuple[Any, ...], takes: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from takes
        except _OTHER_STRUCTURE as error:
            raise problem(reader, arguments, error) from error

    return call


class Reader(ABC):
    """One dataset in its published layout. Opening a reader reads no labels.

    Args:
        root: the folder that the dataset is unpacked in.
        mano_dir: folder of the MANO models; set after opening where it depends on the source, so the constructor must
            not use it. So is `smplx_dir`, the folder of the SMPL-X models: the body counts as an occluder if it is set
            and the dataset has poses of the body.

    Raises:
        ConfigError: the layout is missing.
    """

    name: ClassVar[str]  # in the registry
    convention: ClassVar[ManoConvention] = ARCTIC  # left model and own joints; `HandLabels` are relative to the mean
    # Whole recordings per view: images and ground truth may not match, views may be missing. Otherwise labelled images.
    records_views: ClassVar[bool] = False
    has_bodies: ClassVar[bool] = False  # poses of SMPL-X are published with the hands
    folders: ClassVar[tuple[str, ...]]  # of raw files below the root
    layout: ClassVar[tuple[str, ...]] = ()  # files and folders below the root that must be there
    title: ClassVar[str] = ""  # in messages about the layout
    example: ClassVar[str]  # path of an image below the root, in messages

    def __init_subclass__(cls) -> None:
        for name in ("refs", "images", "takes", "label_files", "labels_of", "content_hashes"):
            if name in vars(cls):
                setattr(cls, name, _naming_the_data(vars(cls)[name]))

    def __init__(self, root: Path, mano_dir: Path) -> None:
        self.root, self.mano_dir = root, mano_dir
        self.smplx_dir: Path | None = None
        self.needs_bodies = False  # a sequence whose body cannot be posed is an error
        for path in self._layout():
            if not path.exists():
                raise ConfigError(f"{path} not found; expected {self.title} unpacked in {root}")

    def _layout(self) -> Sequence[Path]:
        return [self.root / name for name in self.layout]

    @property
    def source(self) -> str:
        """Source of the shards, as manifests record it."""
        return self.name

    @property
    def image_source(self) -> str:
        """Kind of the image files: `images` (full frames) or ARCTIC's `cropped_images`."""
        return "images"

    @abstractmethod
    def refs(self) -> Sequence[SequenceRef]:
        """Return all sequences, sorted."""

    @abstractmethod
    def images(self, ref: SequenceRef, views: Sequence[int]) -> dict[int, dict[int, ImageFile]]:
        """Return view to images by frame number, in a fixed order; opens no image, nor the label file of one.

        Args:
            ref: the sequence.
            views: views to list, for datasets with `records_views`; others list all.
        """

    @abstractmethod
    def takes(self, ref: SequenceRef, labels: Any, views: Sequence[int]) -> Iterator[Take]:
        """Yield the takes of a sequence, sorted by view and frame.

        Args:
            ref: the sequence.
            labels: result of `labels_of`.
            views: as of `images`.
        """

    def verify(self, ref: SequenceRef, views: Sequence[int]) -> None:
        """Check the files of a sequence as a whole before it is converted, where checksums are published.

        Raises:
            DataError: a file differs from its published checksum.
        """
        return

    @abstractmethod
    def label_files(self, ref: SequenceRef) -> Sequence[Path]:
        """Return the files whose content decides the labels of a sequence."""

    @abstractmethod
    def splits(self) -> dict[str, list[str]]:
        """Return train, val and test subjects, as published; empty lists where none is stated by subject."""

    def labels_of(self, ref: SequenceRef) -> Any:
        """Return what `takes` needs of label files that many sequences share, and nothing of other sequences.

        It is pickled to a worker, which then need not read those files. None where a sequence has its own files.
        """
        return None

    @cached_property
    def _known(self) -> Sequence[SequenceRef]:
        """All sequences, listed once: a dataset may read a file of each for it."""
        return self.refs()

    def subjects(self) -> list[str]:
        """Return all subjects of the dataset, present here or not, sorted."""
        return sorted({ref.subject for ref in self._known})

    def sequences(self, subject: str) -> list[SequenceRef]:
        """Return the sequences of a subject, sorted."""
        return [ref for ref in self._known if ref.subject == subject]

    def unlabelled_sequences(self, subject: str) -> list[str]:
        """Return sequences of a subject that have images and no labels, and are therefore not among its sequences."""
        return []

    def status(self, subject: str) -> tuple[str, str]:
        """Return present, withheld or absent, and the reason where the ground truth is not here."""
        if self.sequences(subject):
            return "present", ""
        return "absent", f"{subject} is not downloaded: {self.name} has no sequence of it here; zero samples"

    def counts_body(self, ref: SequenceRef) -> bool:
        """Return True where the person's body counts as an occluder in a sequence."""
        return False

    def body_models(self) -> dict[str, Path]:
        """Return gender to file of SMPL-X; empty where the body does not count as an occluder.

        Raises:
            ConfigError: the folder of the models lacks a gender of the dataset.
        """
        return {}

    def content_hashes(self, ref: SequenceRef) -> dict[str, Any] | None:
        """Hash the raw files without the images, where contents decide reuse; None where sizes and times do."""
        return None
