"""Cutting hand crops out of frames: decode strictly, cut on whole pixels, resample without aliasing, encode.

The cut is snapped to whole pixels of the picture file, and where it is much larger than the crop its side is a multiple
of an integer that an exact area average removes first; a linear resize does the rest. `crop_from_image` of a row is the
exact mapping of what was done, so nothing is lost by the snapping.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from hawor_pipeline.errors import DataError

# Mean colour (RGB) of the pictures the backbones were trained on, past the edge of a frame.
PAD_RGB = (124, 116, 104)
_REDUCE_FROM = 1.5  # linear resampling alone aliases visibly when it shrinks by more than this
_BLACK_LEVEL = 24  # brightest sample of a frame that shows nothing; JPEG noise stays below
_BLUR_WINDOW = 11


@dataclass(frozen=True, slots=True)
class Cut:
    """A square of whole pixels of a picture file and how it becomes a crop."""

    left: int
    top: int
    side: int
    reduce: int  # integer factor that an area average removes first


def plan_cut(center: np.ndarray, size: float, crop_px: int) -> Cut:
    """Args:
    center: (2,), pixels of the file.
    size: side of the square to cut, pixels of the file.
    crop_px: side of the crop.
    """
    reduce = max(1, round(size / crop_px)) if size >= _REDUCE_FROM * crop_px else 1
    side = reduce * max(1, round(size / reduce))
    left, top = (int(np.floor(c + 1.0 - side / 2)) for c in center)  # the square's centre is nearest to `center`
    return Cut(left, top, side, reduce)


def crop_from_file(cut: Cut, crop_px: int) -> np.ndarray:
    """(2, 3) affine map from pixels of the file to pixels of the crop; integer pixels are pixel centres."""
    scale = crop_px / cut.side
    return np.array(
        [[scale, 0.0, (0.5 - cut.left) * scale - 0.5], [0.0, scale, (0.5 - cut.top) * scale - 0.5]], np.float64
    )


def cut_crop(image: np.ndarray, cut: Cut, crop_px: int) -> np.ndarray:
    """The crop (crop_px, crop_px, 3) of an RGB picture; what lies past its edge is `PAD_RGB`."""
    height, width = image.shape[:2]
    right, bottom = cut.left + cut.side, cut.top + cut.side
    x0, x1, y0, y1 = max(cut.left, 0), min(right, width), max(cut.top, 0), min(bottom, height)
    region = image[y0:y1, x0:x1]
    if (y1 - y0, x1 - x0) != (cut.side, cut.side):
        if x1 <= x0 or y1 <= y0:
            region = np.zeros((0, 0, 3), np.uint8)
        padded = np.empty((cut.side, cut.side, 3), np.uint8)
        padded[:] = PAD_RGB
        padded[y0 - cut.top : y0 - cut.top + region.shape[0], x0 - cut.left : x0 - cut.left + region.shape[1]] = region
        region = padded
    if cut.reduce > 1:
        small = cut.side // cut.reduce
        region = cv2.resize(region, (small, small), interpolation=cv2.INTER_AREA)
    if region.shape[0] != crop_px:
        region = cv2.resize(region, (crop_px, crop_px), interpolation=cv2.INTER_LINEAR)
    return np.ascontiguousarray(region)


def decode_image(data: bytes, path: Path, expected: tuple[int, int] | None) -> np.ndarray:
    """Decode one JPEG, refusing damaged ones.

    Args:
        data: the file's bytes.
        path: for messages.
        expected: (height, width), or None where any size will do.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        DataError: it is cut short, damaged, or of another size.
    """
    try:
        image = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)
    except ValueError as error:
        raise DataError(f"{path}: damaged JPEG ({error}); expected a complete picture. Get the file again.") from None
    if expected is not None and image.shape[:2] != expected:
        found = f"{image.shape[1]}x{image.shape[0]}"
        raise DataError(f"{path}: {found} pixels, expected {expected[1]}x{expected[0]} as meta/misc.json says.")
    return image


def encode_crop(crop: np.ndarray, quality: int) -> bytes:
    """JPEG of an RGB crop with full colour resolution, which at crop size matters more than the quality setting."""
    return simplejpeg.encode_jpeg(crop, quality=quality, colorspace="RGB", colorsubsampling="444")


def is_black(image: np.ndarray) -> bool:
    """Whether a frame shows nothing, as ARCTIC's first and last ones sometimes do."""
    return int(image[::8, ::8].max(initial=0)) < _BLACK_LEVEL


def measure_blur(crop: np.ndarray, crop_margin: float) -> float:
    """How blurred the hand's box is at the crop's resolution: 0 sharp, 1 without any detail.

    Compares the gradients along each axis with those after another blur along it: what is sharp loses much, what is
    blurred little. The worse axis counts, so motion blur shows. Enlarged small hands are blurred by this measure, too.

    Args:
        crop: (S, S, 3) uint8 RGB, the box with its margin.
        crop_margin: side of the crop over the side of the box.

    Source: Crete et al., The blur effect, 2007, with a window of 11 pixels, as scikit-image's `blur_effect`.
    """
    edge = round(crop.shape[0] * (1 - 1 / crop_margin) / 2)
    box = crop[edge : crop.shape[0] - edge, edge : crop.shape[1] - edge]
    gray = cv2.cvtColor(box, cv2.COLOR_RGB2GRAY).astype(np.float32)
    worst = 0.0
    for dx, dy in ((1, 0), (0, 1)):
        window = (_BLUR_WINDOW, 1) if dx else (1, _BLUR_WINDOW)
        again = cv2.blur(gray, window, borderType=cv2.BORDER_REFLECT)
        sharp = np.abs(cv2.Sobel(gray, cv2.CV_32F, dx, dy))[2:-1, 2:-1]
        soft = np.abs(cv2.Sobel(again, cv2.CV_32F, dx, dy))[2:-1, 2:-1]
        total = float(sharp.sum(dtype=np.float64))
        if total == 0.0:
            return 1.0
        worst = max(worst, 1.0 - float(np.maximum(sharp - soft, 0.0).sum(dtype=np.float64)) / total)
    return worst
