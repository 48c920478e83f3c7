"""Decoding no more of an image than its crops need, strictly: a damaged image is refused.

Large crops are shrunk while they are decoded (by 2, 4 or 8, inside the cosine transform). Where numba is installed and
the file is a plain JPEG, only the part around the hands is decoded: it is cut out of the file first. Both ways give the
same pixels, and both refuse the same files: the cutter reads every block of the image, and what looks damaged to it is
decoded whole. A PNG is always decoded whole, after its checksums were compared.
"""

import os
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import simplejpeg

from hawor_pipeline.errors import CorruptImage, DataError

if TYPE_CHECKING:
    from hawor_pipeline.conversion.jpeg_cut import JpegCutter

CUTTING_VARIABLE = "HAWOR_TURBOJPEG"  # named after a decoder that is gone; the value "off" still decodes whole images
WHOLE_IMAGES = "off"
END_WITHIN = 64  # bytes; some writers pad the file
_END = b"\xff\xd9"
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
# Measured, see docs/decisions/0024 and 0029.
_SMALL_PX = 500_000  # of the file; smaller images are decoded about as fast as cut
_LARGE_SHARE = 0.5  # of an image; a larger region is not worth cutting, as its blocks are read twice
_EACH_PX = 10_000  # cost of one more small JPEG, in pixels that could be decoded in the meantime
Region = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True, slots=True)
class Part:
    """Decoded pixels of an image and their place in it, in pixels of the shrunk image."""

    pixels: np.ndarray  # (h, w, 3) uint8 RGB
    left: int
    top: int
    size: tuple[int, int]  # (height, width) of the whole shrunk image

    @classmethod
    def whole(cls, pixels: np.ndarray) -> "Part":
        """Return a part that is the whole image."""
        return cls(pixels, 0, 0, (pixels.shape[0], pixels.shape[1]))


class Decoder:
    """Decoder of JPEGs and PNGs for one thread. A result lies in a buffer that the next call overwrites.

    Args:
        cutter: Cuts regions out of files; None to decode whole images.
    """

    def __init__(self, cutter: "JpegCutter | None" = None) -> None:
        self._cutter = cutter
        self._buffer = np.empty(0, np.uint8)

    @property
    def decodes_regions(self) -> bool:
        """Return whether this decoder can decode less than a whole image."""
        return self._cutter is not None

    def decode(
        self,
        data: bytes,
        name: object,
        expected: tuple[int, int] | None = None,
        shrink: int = 1,
        region: Region | None = None,
    ) -> Part:
        """Decode one region, or the whole image; see `decode_parts`."""
        return self.decode_parts(data, name, expected, shrink, [] if region is None else [region])[0]

    def decode_parts(
        self,
        data: bytes,
        name: object,
        expected: tuple[int, int] | None,
        shrink: int,
        regions: Sequence[Region],
    ) -> list[Part]:
        """Decode one image.

        Args:
            data: The file's bytes.
            name: For messages.
            expected: (height, width) of the file, or None to accept any size.
            shrink: 1, 2, 4 or 8.
            regions: (left, top, right, bottom) in pixels of the shrunk image that are needed.

        Returns:
            A part that holds each region; several may be in the same part. Without regions, the whole image.

        Raises:
            CorruptImage: The file is cut short or damaged.
            DataError: The image is of another size.
        """
        try:
            size = _png_size(data) if is_png(data) else simplejpeg.decode_jpeg_header(data)[:2]
            if expected is not None and size != expected:
                raise DataError(
                    f"{name}: {size[1]}x{size[0]} pixels, expected {expected[1]}x{expected[0]} as the dataset states."
                )
            if is_png(data):
                return [Part.whole(_shrunk(_png_pixels(data), shrink))] * max(1, len(regions))
            if not has_end(data):
                raise ValueError("it has no end marker")
            parts = self._parts(data, shrink, (-(-size[0] // shrink), -(-size[1] // shrink)), regions)
            return parts if len(parts) == len(regions) else parts * max(1, len(regions))
        except ValueError as error:
            raise _corrupt(name, error, "PNG" if is_png(data) else "JPEG") from None

    def _parts(self, data: bytes, shrink: int, shrunk: tuple[int, int], regions: Sequence[Region]) -> list[Part]:
        """Return a part for each region, or one that holds all of them."""
        inside = [found for region in regions if (found := _inside(region, shrunk)) is not None]
        if inside:
            together = _around(inside)
            apart = inside if len(inside) == len(regions) and _better_apart(inside, together) else [together]
            parts = self._cut_out(data, shrink, shrunk, apart) if self._cuts(apart, shrunk, shrink) else None
            if parts is not None:
                return parts
        pixels = _all_pixels(data, shrunk, self._room(shrunk[0] * shrunk[1]))
        if pixels.shape[:2] != shrunk:
            raise ValueError(f"the decoder made it {pixels.shape[1]}x{pixels.shape[0]}, not {shrunk[1]}x{shrunk[0]}")
        return [Part.whole(pixels)]

    def _room(self, count: int) -> np.ndarray:
        """Return memory for pixels."""
        if self._buffer.size < 3 * count:
            self._buffer = np.empty(3 * count, np.uint8)
        return self._buffer

    def _cuts(self, regions: Sequence[Region], shrunk: tuple[int, int], shrink: int) -> bool:
        """Return whether cutting is possible and faster: blocks of regions are read twice, those above them once."""
        height, width = shrunk
        return (
            self._cutter is not None
            and height * width * shrink**2 >= _SMALL_PX
            and sum(map(_area, regions)) <= _LARGE_SHARE * height * width
        )

    def _cut_out(
        self, data: bytes, shrink: int, shrunk: tuple[int, int], regions: Sequence[Region]
    ) -> list[Part] | None:
        """Decode the parts from smaller files; return None where the whole file must be decoded instead."""
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
    """Return whether an image, or the last END_WITHIN bytes of one, has an end marker where a complete file has it."""
    return max(data.rfind(end, -END_WITHIN) for end in (_END, _PNG_END)) >= 0


def is_png(data: bytes) -> bool:
    """Return whether a file is a PNG, by its first bytes; its name does not matter."""
    return data.startswith(_PNG)


def _png_size(data: bytes) -> tuple[int, int]:
    """Return (height, width), after comparing the checksum of every chunk: OpenCV decodes a damaged file in part."""
    position = len(_PNG)
    while data[position - 8 : position] != _PNG_END:
        length = int.from_bytes(data[position : position + 4], "big")
        content = data[position + 4 : position + 8 + length]
        stated = data[position + 8 + length : position + 12 + length]
        if len(stated) < 4 or zlib.crc32(content) != int.from_bytes(stated, "big"):
            raise ValueError(f"the chunk at byte {position} is cut short or differs from its checksum")
        position += 12 + length
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    return height, width


def _png_pixels(data: bytes) -> np.ndarray:
    """Decode a PNG to (h, w, 3) uint8 RGB; transparency is dropped, and deeper samples become 8 bits."""
    how = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), how)
    except cv2.error as error:
        raise ValueError(str(error)) from None
    if pixels is None:
        raise ValueError("OpenCV cannot decode it")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _shrunk(pixels: np.ndarray, shrink: int) -> np.ndarray:
    """Average squares of shrink x shrink pixels, as the JPEG decoder does; those past the edge repeat the last ones."""
    if shrink == 1:
        return pixels
    below, beside = (-side % shrink for side in pixels.shape[:2])
    whole = cv2.copyMakeBorder(pixels, 0, below, 0, beside, cv2.BORDER_REPLICATE)
    size = whole.shape[1] // shrink, whole.shape[0] // shrink
    return cv2.resize(whole, size, interpolation=cv2.INTER_AREA)


def check_jpeg(data: bytes, name: object) -> None:
    """Check that a JPEG can be decoded without a warning of the decoder.

    Raises:
        CorruptImage: It is cut short or damaged.
    """
    try:
        simplejpeg.decode_jpeg(data, "RGB", min_height=1, min_width=1, strict=True)  # an eighth: all blocks are read
    except ValueError as error:
        raise _corrupt(name, error) from None


def _corrupt(name: object, error: ValueError, kind: str = "JPEG") -> CorruptImage:
    return CorruptImage(f"{name}: damaged {kind} ({error}); expected a complete image. Get the file again.")


def _all_pixels(data: bytes, size: tuple[int, int], buffer: np.ndarray) -> np.ndarray:
    return simplejpeg.decode_jpeg(data, "RGB", min_height=size[0], min_width=size[1], buffer=buffer, strict=True)


def _area(region: Region) -> int:
    left, top, right, bottom = region
    return (right - left) * (bottom - top)


def _around(regions: Sequence[Region]) -> Region:
    left, top, right, bottom = zip(*regions, strict=True)
    return min(left), min(top), max(right), max(bottom)


def _better_apart(regions: Sequence[Region], together: Region) -> bool:
    """Return whether regions are decoded faster one by one than all at once."""
    return sum(map(_area, regions)) + _EACH_PX * len(regions) < _area(together)


def _inside(region: Region, size: tuple[int, int]) -> Region | None:
    """Clip a region to the image; return None if nothing is left of it."""
    left, top, right, bottom = max(region[0], 0), max(region[1], 0), min(region[2], size[1]), min(region[3], size[0])
    return (left, top, right, bottom) if right > left and bottom > top else None


_of_thread = threading.local()


def thread_decoder() -> Decoder:
    """Return the decoder of this thread."""
    if not hasattr(_of_thread, "decoder"):
        _of_thread.decoder = Decoder(_find_cutter())
    return _of_thread.decoder


def _find_cutter() -> "JpegCutter | None":
    """Return a cutter, or None without numba (which follows new versions of Python late) or where it is off."""
    if os.environ.get(CUTTING_VARIABLE) == WHOLE_IMAGES:
        return None
    try:
        from hawor_pipeline.conversion.jpeg_cut import JpegCutter
    except (ImportError, OSError):
        return None
    return JpegCutter()


def decode_image(data: bytes, name: object, expected: tuple[int, int] | None) -> np.ndarray:
    """Decode one whole image.

    Args:
        data: The file's bytes.
        name: For messages.
        expected: (height, width), or None to accept any size.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        CorruptImage: The file is cut short or damaged.
        DataError: The image is of another size.
    """
    return thread_decoder().decode(data, name, expected).pixels.copy()
