"""A user's own footage, frame by frame: a video file, or a folder of images in the order of their names.

Numbers in names count as numbers: 2.jpg comes before 10.jpg. Hidden files and folders are skipped.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from hawor_pipeline.conversion.decode import check_jpeg
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.prediction.boxes import HandBox

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_JPEG_START = b"\xff\xd8"
_NORMALISED = 1.0
_LEAST_BOX_PX = 2
_LARGEST_BOX = 4  # sides of the image; a hand that fills an image can reach past it
FOLDER_FPS = 30.0  # of the video made from a folder, whose images have no time


@dataclass(frozen=True, slots=True)
class Frame:
    """One image."""

    number: int  # from 0
    name: str  # its name in a boxes file: path below the folder, or number in a video
    image: np.ndarray  # (height, width, 3) uint8 RGB


@dataclass(frozen=True, slots=True)
class Footage:
    """A video file or a folder of images, which can be read repeatedly."""

    path: Path

    def __post_init__(self) -> None:
        if not self.path.exists():
            raise ConfigError(f"input {self.path} does not exist; give a video file or a folder of images")
        if self.path.is_dir() and not self._files():
            raise ConfigError(f"input {self.path} holds no image ({', '.join(IMAGE_SUFFIXES)})")

    def _files(self) -> list[Path]:
        inside = [file.relative_to(self.path) for file in self.path.rglob("*")]
        visible = [file for file in inside if not any(part.startswith(".") for part in file.parts)]
        images = [file for file in visible if file.suffix.lower() in IMAGE_SUFFIXES]
        return [self.path / file for file in sorted(images, key=_natural_order)]

    def frames(self) -> Iterator[Frame]:
        """Yield every frame in order.

        Raises:
            DataError: an image or the video is damaged, or frames differ in size.
        """
        size = None
        for frame in self._from_folder() if self.path.is_dir() else self._from_video():
            size = size or frame.image.shape
            if frame.image.shape != size:
                found = f"{frame.image.shape[1]}x{frame.image.shape[0]}"
                raise DataError(f"{self.path}, {frame.name}: {found} pixels, the first has {size[1]}x{size[0]}")
            yield frame

    def _from_folder(self) -> Iterator[Frame]:
        for number, file in enumerate(self._files()):
            image = cv2.imread(str(file), cv2.IMREAD_COLOR)
            if image is None:
                raise DataError(f"{file}: damaged, or not an image; get it again or remove it from the folder")
            data = file.read_bytes()
            if data.startswith(_JPEG_START):  # the only format that OpenCV reads though it is cut short
                check_jpeg(data, file)
            yield Frame(number, file.relative_to(self.path).as_posix(), cv2.cvtColor(image, cv2.COLOR_BGR2RGB))

    def _from_video(self) -> Iterator[Frame]:
        try:
            with av.open(str(self.path)) as file:
                for number, frame in enumerate(file.decode(video=0)):
                    yield Frame(number, str(number), frame.to_ndarray(format="rgb24"))
        except (av.error.FFmpegError, IndexError) as error:
            raise DataError(
                f"{self.path}: no readable video ({error}); convert it to MP4, or give its frames"
            ) from None

    def fps(self) -> float:
        """Return frames per second: the average of the video, or FOLDER_FPS."""
        if self.path.is_dir():
            return FOLDER_FPS
        with av.open(str(self.path)) as file:
            rate = file.streams.video[0].average_rate
        return float(rate) if rate else FOLDER_FPS


def _natural_order(file: Path) -> list[tuple[bool, int, str]]:
    """Return a sort key in which the digits of a name are numbers."""
    parts = re.split(r"(\d+)", file.as_posix())
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]


def require_plausible_boxes(boxes: Mapping[str, Mapping[str, HandBox]], height: int, width: int) -> None:
    """Check that boxes can be those of hands in images of this size.

    Raises:
        DataError: coordinates are normalised, or a box is outside its image, far larger than it, or below two pixels.
    """
    named = [
        (f"the {side} hand in {image}", box) for image, of_image in boxes.items() for side, box in of_image.items()
    ]
    if named and all(max(box.x_max, box.y_max) <= _NORMALISED for _, box in named):
        raise DataError(
            f"the largest coordinate of all boxes is {max(max(box.x_max, box.y_max) for _, box in named):g}; expected "
            f"pixels of images of {width}x{height}. Multiply normalised boxes by the size of the image."
        )
    for name, box in named:
        size = max(box.x_max - box.x_min, box.y_max - box.y_min)
        outside = box.x_max < 0 or box.y_max < 0 or box.x_min > width - 1 or box.y_min > height - 1
        if outside or not _LEAST_BOX_PX <= size <= _LARGEST_BOX * max(height, width):
            corners = f"{box.x_min:g}, {box.y_min:g} to {box.x_max:g}, {box.y_max:g}"
            raise DataError(
                f"the box of {name} is {corners}; expected one that overlaps the image of {width}x{height} px, at "
                f"least {_LEAST_BOX_PX} px and at most {_LARGEST_BOX} times the image. Correct or remove its line."
            )


def require_known_images(boxes: Mapping[str, Mapping[str, HandBox]], names: set[str], source: Path) -> None:
    """Check that every box belongs to an image.

    Raises:
        DataError: one does not; the message names it and shows the form of the names.
    """
    unknown = sorted(set(boxes) - names)
    if unknown:
        example = min(names)
        raise DataError(
            f"the boxes file names {len(unknown)} images that {source} lacks, such as {unknown[0]!r}; its {len(names)} "
            f"images have names like {example!r} (a video's frames are numbered from 0)"
        )
