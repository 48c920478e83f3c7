"""Decoding no more of a picture than its crops need, strictly: a damaged picture is refused.

Large crops are shrunk while they are decoded (by 2, 4 or 8, inside the cosine transform), and only the part around the
hands is decoded: cut out of the file beforehand where it is a plain JPEG and numba is there, else by a libturbojpeg
that can. Every way gives the same pixels of a sound picture. Of a damaged one, a way that does not look at all of it
cannot see all damage: a file that is cut short is always refused, what else is wrong below the hands is not noticed.
"""

import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg

from hawor_pipeline.data.region_decoder import LIBRARY_VARIABLE, WHOLE_PICTURES, RegionDecoder, find_region_decoder
from hawor_pipeline.errors import DataError

if TYPE_CHECKING:
    from hawor_pipeline.data.jpeg_cut import JpegCutter

_END = b"\xff\xd9"
_END_WITHIN = 64  # bytes; some writers pad the file
_SMALL_PX = 500_000  # of the file; smaller pictures are decoded about as fast as cut
_LARGE_SHARE = 0.5  # of a picture; a larger region is not worth cutting, as its blocks are read twice
_LARGE_SHARE_ABOVE = 0.35  # of what is above its lower edge; from here on a library that decodes regions is faster


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
        cutter: what cuts regions out of files beforehand; comes first.
    """

    def __init__(self, regions: RegionDecoder | None, cutter: "JpegCutter | None" = None) -> None:
        self._regions, self._cutter = regions, cutter
        self._buffer = np.empty(0, np.uint8)

    @property
    def ways(self) -> list[str]:
        """How it decodes less than a whole picture; empty where it cannot."""
        ways = {"cut out by numba": self._cutter, "decoded by libturbojpeg": self._regions}
        return [name for name, way in ways.items() if way is not None]

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
            size = simplejpeg.decode_jpeg_header(data)[:2]
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

    def _pixels(
        self, data: bytes, shrink: int, shrunk: tuple[int, int], region: tuple[int, int, int, int] | None
    ) -> Part:
        wanted = _inside(region, shrunk)
        part = (
            self._cut_out(data, shrink, shrunk, wanted)
            if wanted is not None and self._cuts(wanted, shrunk, shrink)
            else None
        )
        if part is not None:
            return part
        if self._regions is not None:
            everything = (0, 0, shrunk[1], shrunk[0])
            return Part(*self._regions.decode(data, shrink, wanted or everything, self._buffer), shrunk)
        pixels = self._all_pixels(data, shrunk)
        if pixels.shape[:2] != shrunk:
            raise ValueError(f"the decoder made it {pixels.shape[1]}x{pixels.shape[0]}, not {shrunk[1]}x{shrunk[0]}")
        return Part(pixels, 0, 0, shrunk)

    def _all_pixels(self, data: bytes, shrunk: tuple[int, int]) -> np.ndarray:
        return simplejpeg.decode_jpeg(
            data, "RGB", min_height=shrunk[0], min_width=shrunk[1], buffer=self._buffer, strict=True
        )

    def _cuts(self, wanted: tuple[int, int, int, int], shrunk: tuple[int, int], shrink: int) -> bool:
        """Whether cutting is the fastest way: blocks of the region are read twice, those above it only once."""
        left, top, right, bottom = wanted
        region, (height, width) = (right - left) * (bottom - top), shrunk
        if self._cutter is None or height * width * shrink**2 < _SMALL_PX or region > _LARGE_SHARE * height * width:
            return False
        return self._regions is None or region < _LARGE_SHARE_ABOVE * bottom * width

    def _cut_out(
        self, data: bytes, shrink: int, shrunk: tuple[int, int], wanted: tuple[int, int, int, int]
    ) -> Part | None:
        """The part by way of a smaller file; None where that is not possible, and a decoder has to see all of it."""
        assert self._cutter is not None
        found = self._cutter.cut(data, shrink, wanted)
        if found is None:
            return None
        size = (-(-found.size[0] // shrink), -(-found.size[1] // shrink))
        try:
            pixels = self._all_pixels(found.data, size)
        except ValueError:
            return None
        whole = pixels.shape[:2] == size
        return Part(pixels, found.left // shrink, found.top // shrink, shrunk) if whole else None


def _inside(region: tuple[int, int, int, int] | None, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The region cut to the picture; None where nothing is left of it."""
    if region is None:
        return None
    left, top, right, bottom = max(region[0], 0), max(region[1], 0), min(region[2], size[1]), min(region[3], size[0])
    return (left, top, right, bottom) if right > left and bottom > top else None


_of_thread = threading.local()


def thread_decoder() -> Decoder:
    """This thread's decoder, with what this machine has to decode regions."""
    if not hasattr(_of_thread, "decoder"):
        _of_thread.decoder = Decoder(find_region_decoder(), _find_cutter())
    return _of_thread.decoder


def _find_cutter() -> "JpegCutter | None":
    """None without numba (it follows new versions of Python and NumPy late), or where whole pictures are asked for."""
    if os.environ.get(LIBRARY_VARIABLE) == WHOLE_PICTURES:
        return None
    try:
        from hawor_pipeline.data.jpeg_cut import JpegCutter
    except (ImportError, OSError):
        return None
    return JpegCutter()


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
