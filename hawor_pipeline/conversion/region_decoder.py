"""Decoding a region of a JPEG through the system's libturbojpeg, version 3 or newer, where there is one.

Rows below the region are not read and blocks beside it are not transformed. Debian 12 ships version 2.1, which cannot;
Debian 13, Ubuntu 24.10, Homebrew and conda-forge ship one that can. Pixels inside the region equal those of a full
decode, so what is found on a machine changes the speed of a conversion, never its result.
"""

import ctypes
import ctypes.util
import os
import sys
from functools import lru_cache
from pathlib import Path

import numpy as np

LIBRARY_VARIABLE = "HAWOR_TURBOJPEG"  # path of a libturbojpeg to use, or
WHOLE_IMAGES = "off"  # to decode whole pictures, without any way to decode regions
MARGIN_PX = 4  # upsampling of colour looks one or two pixels past the edge of the region
_DECOMPRESS, _RGB = 1, 0
_STOP_ON_WARNING, _SUBSAMPLING, _WIDTH, _HEIGHT = 0, 4, 5, 6
_BLOCK_WIDTHS = (8, 16, 16, 8, 8, 32, 8)  # pixels, by the library's number of the colour subsampling


class _ScalingFactor(ctypes.Structure):
    _fields_ = [("num", ctypes.c_int), ("denom", ctypes.c_int)]


class _Region(ctypes.Structure):
    _fields_ = [("x", ctypes.c_int), ("y", ctypes.c_int), ("w", ctypes.c_int), ("h", ctypes.c_int)]


class RegionDecoder:
    """One decompressor of the library; for one thread.

    Source: TurboJPEG 3 API, turbojpeg.h of libjpeg-turbo.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._handle = ctypes.c_void_p(library.tj3Init(_DECOMPRESS))
        if not self._handle:
            raise MemoryError("libturbojpeg could not make a decompressor")
        library.tj3Set(self._handle, _STOP_ON_WARNING, 1)

    def __del__(self) -> None:
        if self._handle:
            self._library.tj3Destroy(self._handle)

    def size(self, data: bytes) -> tuple[int, int]:
        """(height, width) of a JPEG.

        Raises:
            ValueError: it is damaged.
        """
        self._call(self._library.tj3DecompressHeader(self._handle, data, len(data)))
        return self._get(_HEIGHT), self._get(_WIDTH)

    def decode(
        self, data: bytes, shrink: int, region: tuple[int, int, int, int], buffer: np.ndarray
    ) -> tuple[np.ndarray, int, int]:
        """Decode part of a picture.

        Args:
            data: the JPEG.
            shrink: 1, 2, 4 or 8, done by the transform itself.
            region: (left, top, right, bottom) in pixels of the shrunk picture.
            buffer: uint8, at least as large as the shrunk picture; the result lies in it.

        Returns:
            RGB pixels (h, w, 3) that hold the region, and their left and top in the shrunk picture.

        Raises:
            ValueError: it is damaged.
        """
        height, width = (-(-size // shrink) for size in self.size(data))
        subsampling = self._get(_SUBSAMPLING)
        if not 0 <= subsampling < len(_BLOCK_WIDTHS):
            raise ValueError("unknown colour subsampling")
        step = -(-_BLOCK_WIDTHS[subsampling] // shrink)
        left = max(0, region[0] - MARGIN_PX) // step * step
        top = max(0, region[1] - MARGIN_PX)
        right, bottom = min(width, region[2] + MARGIN_PX), min(height, region[3] + MARGIN_PX)
        shape = (bottom - top, right - left, 3)
        pixels = buffer[: shape[0] * shape[1] * 3].reshape(shape)
        library, handle = self._library, self._handle
        self._call(library.tj3SetScalingFactor(handle, _ScalingFactor(1, shrink)))
        self._call(library.tj3SetCroppingRegion(handle, _Region(left, top, shape[1], shape[0])))
        self._call(library.tj3Decompress8(handle, data, len(data), pixels.ctypes.data, shape[1] * 3, _RGB))
        return pixels, left, top

    def _get(self, parameter: int) -> int:
        return self._library.tj3Get(self._handle, parameter)

    def _call(self, result: int) -> None:
        if result:
            raise ValueError(self._library.tj3GetErrorStr(self._handle).decode(errors="replace"))


@lru_cache(maxsize=4)
def load_library(named: str) -> ctypes.CDLL | None:
    """A libturbojpeg that decodes regions, or None.

    Args:
        named: value of `$HAWOR_TURBOJPEG`; "" searches the system.
    """
    if named == WHOLE_IMAGES:
        return None
    beside = [str(path) for path in sorted(Path(sys.prefix, "lib").glob("libturbojpeg.*"))]
    for name in [named] if named else [*beside, ctypes.util.find_library("turbojpeg")]:
        try:
            library = ctypes.CDLL(name) if name else None
        except OSError:
            continue
        if library is not None and hasattr(library, "tj3SetCroppingRegion"):
            _declare(library)
            return library
    return None


def _declare(library: ctypes.CDLL) -> None:
    handle, number, text, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t
    for name, result, arguments in (
        ("tj3Init", handle, [number]),
        ("tj3Destroy", None, [handle]),
        ("tj3Get", number, [handle, number]),
        ("tj3Set", number, [handle, number, number]),
        ("tj3DecompressHeader", number, [handle, text, size]),
        ("tj3SetScalingFactor", number, [handle, _ScalingFactor]),
        ("tj3SetCroppingRegion", number, [handle, _Region]),
        ("tj3Decompress8", number, [handle, text, size, ctypes.c_void_p, number, number]),
        ("tj3GetErrorStr", text, [handle]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


def find_region_decoder() -> RegionDecoder | None:
    """A decoder of the library that `$HAWOR_TURBOJPEG` names, else of the system's; None where it cannot."""
    library = load_library(os.environ.get(LIBRARY_VARIABLE, ""))
    return None if library is None else RegionDecoder(library)
