"""A user's own footage, frame by frame: a video file, or a folder of images in the order of their names."""

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
        return sorted(file for file in self.path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)

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
