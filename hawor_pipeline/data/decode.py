"""Decoding no more of a picture than its crops need, strictly: a damaged picture is refused.

Large crops are shrunk while they are decoded (by 2, 4 or 8, inside the cosine transform), and where the machine has a
libturbojpeg that can, only the part around the hands is decoded. Both ways give the same pixels.
"""

import threading
from dataclasses import dataclass

import numpy as np
import simplejpeg

from hawor_pipeline.data.region_decoder import RegionDecoder, find_region_decoder
from hawor_pipeline.errors import DataError

_END = b"\xff\xd9"
_END_WITHIN = 64  # bytes; some writers pad the file


@dataclass(frozen=True, slots=True)
class Part:
    """Decoded pixels of a picture, and where they lie in it. Everything is in pixels of the shrunk picture."""

    pixels: np.ndarray  # (h, w, 3) uint8 RGB
    left: int
    top: int
    size: tuple[int, int]  # (height, width) of the whole shrunk picture

    @classmethod
    def whole(cls, pixels: np.ndarray) -> "Part":
        """A picture of which everything is there."""
        return cls(pixels, 0, 0, (pixels.shape[0], pixels.shape[1]))


class Decoder:
    """Decodes pictures for one thread. A result lies in a buffer that the next call overwrites.

    Args:
        regions: what decodes regions; None decodes whole pictures.
    """

    def __init__(self, regions: RegionDecoder | None) -> None:
        self._regions = regions
        self._buffer = np.empty(0, np.uint8)

    def decode(
        self,
        data: bytes,
        name: object,
        expected: tuple[int, int] | None = None,
        shrink: int = 1,
        region: tuple[int, int, int, int] | None = None,
    ) -> Part:
        """Decode one JPEG, refusing damaged ones.

        Args:
            data: the file's bytes.
            name: for messages.
            expected: (height, width) of the file, or None where any size will do.
            shrink: 1, 2, 4 or 8.
            region: (left, top, right, bottom) in pixels of the shrunk picture that must be there; None for all.

        Raises:
            DataError: it is cut short, damaged, or of another size.
        """
        try:
            size = self._size(data)
            if expected is not None and size != expected:
                raise DataError(
                    f"{name}: {size[1]}x{size[0]} pixels, expected {expected[1]}x{expected[0]} as meta/misc.json says."
                )
            if data.rfind(_END, -_END_WITHIN) < 0:
                raise ValueError("it has no end marker")
            shrunk = (-(-size[0] // shrink), -(-size[1] // shrink))
            if self._buffer.size < 3 * shrunk[0] * shrunk[1]:
                self._buffer = np.empty(3 * shrunk[0] * shrunk[1], np.uint8)
            return self._pixels(data, shrink, shrunk, region)
        except ValueError as error:
            raise DataError(
                f"{name}: damaged JPEG ({error}); expected a complete picture. Get the file again."
            ) from None

    def _size(self, data: bytes) -> tuple[int, int]:
        if self._regions is not None:
            return self._regions.size(data)
        return simplejpeg.decode_jpeg_header(data)[:2]

    def _pixels(
        self, data: bytes, shrink: int, shrunk: tuple[int, int], region: tuple[int, int, int, int] | None
    ) -> Part:
        if self._regions is not None:
            wanted = _inside(region, shrunk) or (0, 0, shrunk[1], shrunk[0])
            return Part(*self._regions.decode(data, shrink, wanted, self._buffer), shrunk)
        pixels = simplejpeg.decode_jpeg(
            data, "RGB", min_height=shrunk[0], min_width=shrunk[1], buffer=self._buffer, strict=True
        )
        if pixels.shape[:2] != shrunk:
            raise ValueError(f"the decoder made it {pixels.shape[1]}x{pixels.shape[0]}, not {shrunk[1]}x{shrunk[0]}")
        return Part(pixels, 0, 0, shrunk)


def _inside(region: tuple[int, int, int, int] | None, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The region cut to the picture; None where nothing is left of it."""
    if region is None:
        return None
    left, top, right, bottom = max(region[0], 0), max(region[1], 0), min(region[2], size[1]), min(region[3], size[0])
    return (left, top, right, bottom) if right > left and bottom > top else None


_of_thread = threading.local()


def thread_decoder() -> Decoder:
    """This thread's decoder, with region decoding where the machine has it."""
    if not hasattr(_of_thread, "decoder"):
        _of_thread.decoder = Decoder(find_region_decoder())
    return _of_thread.decoder


def decode_image(data: bytes, name: object, expected: tuple[int, int] | None) -> np.ndarray:
    """Decode one whole JPEG, refusing damaged ones.

    Args:
        data: the file's bytes.
        name: for messages.
        expected: (height, width), or None where any size will do.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        DataError: it is cut short, damaged, or of another size.
    """
    return thread_decoder().decode(data, name, expected).pixels.copy()
