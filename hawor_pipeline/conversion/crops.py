"""Cutting hand crops out of frames: cut on whole pixels, resample without aliasing, encode.

The cut is snapped to whole pixels of the decoded image. If it is much larger than the crop, the image is shrunk while
it is decoded; then the cut's side is a multiple of an integer factor that an exact area average removes, and a linear
resize does the rest. `crop_from_image` of a row is the exact mapping of these steps, so the snapping loses nothing. All
of it depends on the boxes alone, never on the decoder.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg

from hawor_pipeline.conversion.decode import Decoder, Part

# Colour (RGB) past the edge of a frame: the mean of ImageNet, on which backbones are trained.
PAD_RGB = (124, 116, 104)
_SHRINKS = (8, 4, 2)
_REDUCE_FROM = 1.65  # from here on an average over 2x2 pixels is closer to exact resampling than linear alone
_BLACK_LEVEL = 24  # brightest sample of a black image; JPEG noise stays below
_BLACK_STEP = 8


@dataclass(frozen=True, slots=True)
class Cut:
    """Square of whole pixels of an image, and the factors that turn it into a crop."""

    left: int  # pixels of the shrunk image, as are top and side
    top: int
    side: int
    reduce: int  # integer factor that an area average removes first
    shrink: int = 1  # factor by which the file is shrunk while it is decoded


@dataclass(frozen=True, slots=True)
class Crop:
    """Crop of an image."""

    pixels: np.ndarray  # (crop_px, crop_px, 3) uint8 RGB
    crop_from_file: np.ndarray  # (2, 3)
    black: bool  # shows nothing


def plan_shrink(sizes: Sequence[float], crop_px: int) -> int:
    """Return the factor by which the decoder shrinks: 2 wherever an average over 2x2 pixels would follow."""
    return next((shrink for shrink in _SHRINKS if min(sizes) >= shrink / 2 * _REDUCE_FROM * crop_px), 1)


def plan_cut(center: Sequence[float] | np.ndarray, size: float, crop_px: int, shrink: int = 1) -> Cut:
    """Plan the cut of one crop.

    Args:
        center: (2,), pixels of the file.
        size: Side of the square to cut, pixels of the file.
        crop_px: Side of the crop.
        shrink: Factor by which the decoder shrinks the image.
    """
    size = size / shrink
    reduce = max(2, int(size / crop_px)) if size >= _REDUCE_FROM * crop_px else 1
    side = reduce * max(1, round(size / reduce))
    # pixel centres are integers, so pixel c of the file is at (c + 0.5) / shrink - 0.5 of the shrunk image; of all
    # squares on whole pixels the one whose centre is nearest is taken
    left, top = (math.floor((c + 0.5) / shrink - 0.5 + 1.0 - side / 2) for c in center)
    return Cut(left, top, side, reduce, shrink)


def crop_from_file(cut: Cut, crop_px: int) -> np.ndarray:
    """Return the (2, 3) affine map from pixels of the file to pixels of the crop; integer pixels are pixel centres."""
    scale = crop_px / cut.side
    each = scale / cut.shrink
    left, top = ((0.5 / cut.shrink - corner) * scale - 0.5 for corner in (cut.left, cut.top))
    return np.array([[each, 0.0, left], [0.0, each, top]], np.float64)


def cut_crops(
    data: bytes,
    name: object,
    expected: tuple[int, int] | None,
    boxes: Sequence[tuple[Sequence[float] | np.ndarray, float]],
    crop_px: int,
    decoder: Decoder,
) -> list[Crop]:
    """Decode as much of one image as needed and cut squares out of it.

    Args:
        data: The file's bytes.
        name: For messages.
        expected: (height, width) of the file, or None to accept any size.
        boxes: Centre (2,) and side of each square, pixels of the file.
        crop_px: Side of the crops.
        decoder: Decoder of this thread.

    Raises:
        CorruptImage: The image is damaged.
        DataError: The image is of another size.
    """
    shrink = plan_shrink([size for _, size in boxes], crop_px)
    cuts = [plan_cut(center, size, crop_px, shrink) for center, size in boxes]
    regions = [(cut.left, cut.top, cut.left + cut.side, cut.top + cut.side) for cut in cuts]
    parts = decoder.decode_parts(data, name, expected, shrink, regions)
    return [_crop(part, cut, crop_px) for part, cut in zip(parts, cuts, strict=True)]


def _crop(part: Part, cut: Cut, crop_px: int) -> Crop:
    shown, left, top = _shown(part, cut)
    black = shown.size > 0 and is_black(shown)
    return Crop(_resampled(shown, left, top, cut, crop_px), crop_from_file(cut, crop_px), black)


def cut_crop(part: Part, cut: Cut, crop_px: int) -> np.ndarray:
    """Return the crop (crop_px, crop_px, 3) of a decoded image, with `PAD_RGB` past the image's edge."""
    return _resampled(*_shown(part, cut), cut, crop_px)


def _resampled(shown: np.ndarray, left: int, top: int, cut: Cut, crop_px: int) -> np.ndarray:
    below, beside = cut.side - top - shown.shape[0], cut.side - left - shown.shape[1]
    region = shown
    if not shown.size:
        region = np.full((cut.side, cut.side, 3), PAD_RGB, np.uint8)
    elif top or left or below or beside:
        region = cv2.copyMakeBorder(shown, top, below, left, beside, cv2.BORDER_CONSTANT, value=PAD_RGB)
    if cut.reduce > 1:
        small = cut.side // cut.reduce
        region = cv2.resize(region, (small, small), interpolation=cv2.INTER_AREA)
    if region.shape[0] != crop_px:
        region = cv2.resize(region, (crop_px, crop_px), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(region)


def _shown(part: Part, cut: Cut) -> tuple[np.ndarray, int, int]:
    """Return the pixels of the cut that lie in the image, and the left and top of them in the cut."""
    height, width = part.size
    x0, x1 = max(cut.left, 0), min(cut.left + cut.side, width)
    y0, y1 = max(cut.top, 0), min(cut.top + cut.side, height)
    if x1 <= x0 or y1 <= y0:
        return np.zeros((0, 0, 3), np.uint8), 0, 0
    pixels = part.pixels[y0 - part.top : y1 - part.top, x0 - part.left : x1 - part.left]
    return pixels, x0 - cut.left, y0 - cut.top


def encode_crop(crop: np.ndarray, quality: int) -> bytes:
    """Encode an RGB crop with colour at half the resolution, a third faster to write and read (decision 0025)."""
    return simplejpeg.encode_jpeg(crop, quality=quality, colorspace="RGB", colorsubsampling="420")


def is_black(image: np.ndarray) -> bool:
    """Return whether an image is black, as ARCTIC's first and last frames sometimes are."""
    steps = (8 * _BLACK_STEP, _BLACK_STEP)  # the few pixels of the coarse grid decide nearly every image
    return all(max(image[::step, ::step].tobytes(), default=0) < _BLACK_LEVEL for step in steps)
