"""Decoding no more of a picture than its crops need, strictly: a damaged picture is refused.

Large crops are shrunk while they are decoded (by 2, 4 or 8, inside the cosine transform), and only the part around the
hands is decoded: cut out of the file beforehand where it is a plain JPEG and numba is there, else by a libturbojpeg
that can. Every way gives the same pixels of a sound picture. Of a damaged one, a way that does not look at all of it
cannot see all damage: a file that is cut short is always refused, what else is wrong below the hands is not noticed.
"""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg

from hawor_pipeline.conversion.region_decoder import (
    LIBRARY_VARIABLE,
    WHOLE_IMAGES,
    RegionDecoder,
    find_region_decoder,
)
from hawor_pipeline.errors import DataError

if TYPE_CHECKING:
    from hawor_pipeline.conversion.jpeg_cut import JpegCutter

_END = b"\xff\xd9"
END_WITHIN = 64  # bytes; some writers pad the file
_SMALL_PX = 500_000  # of the file; smaller pictures are decoded about as fast as cut
_LARGE_SHARE = 0.5  # of a picture; a larger region is not worth cutting, as its blocks are read twice
_LARGE_SHARE_ABOVE = 0.35  # of what is above its lower edge; from here on a library that decodes regions is faster
_EACH_PX = 10_000  # what a further small picture costs, in pixels that could be decoded in the meantime
Region = tuple[int, int, int, int]  # left, top, right, bottom


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
        region: Region | None = None,
    ) -> Part:
        """`decode_parts` of one region, or of the whole picture."""
        return self.decode_parts(data, name, expected, shrink, [] if region is None else [region])[0]

    def decode_parts(
        self,
        data: bytes,
        name: object,
        expected: tuple[int, int] | None,
        shrink: int,
        regions: Sequence[Region],
    ) -> list[Part]:
        """Decode one JPEG, refusing damaged ones.

        Args:
            data: the file's bytes.
            name: for messages.
            expected: (height, width) of the file, or None where any size will do.
            shrink: 1, 2, 4 or 8.
            regions: (left, top, right, bottom) in pixels of the shrunk picture that must be there.

        Returns:
            What holds each region; several may be in the same part. The whole picture where no region is asked for.

        Raises:
            DataError: it is cut short, damaged, or of another size.
        """
        try:
            size = simplejpeg.decode_jpeg_header(data)[:2]
            if expected is not None and size != expected:
                raise DataError(
                    f"{name}: {size[1]}x{size[0]} pixels, expected {expected[1]}x{expected[0]} as meta/misc.json says."
                )
            if not has_end(data):
                raise ValueError("it has no end marker")
            parts = self._parts(data, shrink, (-(-size[0] // shrink), -(-size[1] // shrink)), regions)
            return parts if len(parts) == len(regions) else parts * max(1, len(regions))
        except ValueError as error:
            raise DataError(
                f"{name}: damaged JPEG ({error}); expected a complete picture. Get the file again."
            ) from None

    def _parts(self, data: bytes, shrink: int, shrunk: tuple[int, int], regions: Sequence[Region]) -> list[Part]:
        """A part for each region, or one that holds all of them."""
        inside = [found for region in regions if (found := _inside(region, shrunk)) is not None]
        together = _around(inside) if inside else (0, 0, shrunk[1], shrunk[0])
        apart = inside if len(inside) == len(regions) and _better_apart(inside, together) else [together]
        if inside and self._cuts(apart, shrunk, shrink):
            parts = self._cut_out(data, shrink, shrunk, apart)
            if parts is not None:
                return parts
        buffer = self._room(shrunk[0] * shrunk[1])
        if self._regions is not None:
            return [Part(*self._regions.decode(data, shrink, together, buffer), shrunk)]
        pixels = _all_pixels(data, shrunk, buffer)
        if pixels.shape[:2] != shrunk:
            raise ValueError(f"the decoder made it {pixels.shape[1]}x{pixels.shape[0]}, not {shrunk[1]}x{shrunk[0]}")
        return [Part(pixels, 0, 0, shrunk)]

    def _room(self, count: int) -> np.ndarray:
        """Memory for pixels."""
        if self._buffer.size < 3 * count:
            self._buffer = np.empty(3 * count, np.uint8)
        return self._buffer

    def _cuts(self, regions: Sequence[Region], shrunk: tuple[int, int], shrink: int) -> bool:
        """Whether cutting is the fastest way: blocks of the regions are read twice, those above them only once."""
        wanted, (height, width) = sum(map(_area, regions)), shrunk
        if self._cutter is None or height * width * shrink**2 < _SMALL_PX or wanted > _LARGE_SHARE * height * width:
            return False
        return self._regions is None or wanted < _LARGE_SHARE_ABOVE * max(region[3] for region in regions) * width

    def _cut_out(
        self, data: bytes, shrink: int, shrunk: tuple[int, int], regions: Sequence[Region]
    ) -> list[Part] | None:
        """The parts by way of smaller files; None where that is not possible, and a decoder has to see all of it."""
        assert self._cutter is not None
        found = self._cutter.cut(data, shrink, regions)
        if found is None:
            return None
        sizes = [(-(-small.size[0] // shrink), -(-small.size[1] // shrink)) for small in found]
        ends = np.cumsum([height * width for height, width in sizes]).tolist()
        room, parts = self._room(ends[-1]), []
        for small, size, end in zip(found, sizes, ends, strict=True):
            try:
                pixels = _all_pixels(small.data, size, room[3 * (end - size[0] * size[1]) : 3 * end])
            except ValueError:
                return None
            if pixels.shape[:2] != size:
                return None
            parts.append(Part(pixels, small.left // shrink, small.top // shrink, shrunk))
        return parts


def has_end(data: bytes) -> bool:
    """Whether a JPEG, or the last END_WITHIN bytes of one, ends as a complete one does."""
    return data.rfind(_END, -END_WITHIN) >= 0


def _all_pixels(data: bytes, size: tuple[int, int], buffer: np.ndarray) -> np.ndarray:
    return simplejpeg.decode_jpeg(data, "RGB", min_height=size[0], min_width=size[1], buffer=buffer, strict=True)


def _area(region: Region) -> int:
    left, top, right, bottom = region
    return (right - left) * (bottom - top)


def _around(regions: Sequence[Region]) -> Region:
    left, top, right, bottom = zip(*regions, strict=True)
    return min(left), min(top), max(right), max(bottom)


def _better_apart(regions: Sequence[Region], together: Region) -> bool:
    """Whether regions are decoded faster each by itself than all at once."""
    return sum(map(_area, regions)) + _EACH_PX * len(regions) < _area(together)


def _inside(region: Region, size: tuple[int, int]) -> Region | None:
    """The region cut to the picture; None where nothing is left of it."""
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
    if os.environ.get(LIBRARY_VARIABLE) == WHOLE_IMAGES:
        return None
    try:
        from hawor_pipeline.conversion.jpeg_cut import JpegCutter
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
