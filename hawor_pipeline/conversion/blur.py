"""Measure of the blur of a hand."""

from collections.abc import Callable

import cv2
import numpy as np

REACH = 5  # pixels to either side of the blur that serves as comparison
_TWO, _HALF, _WINDOW = (np.float32(number) for number in (2, 0.5, 2 * REACH + 1))
_EXACT_COLUMNS = 1400  # up to here the sums of a row are exact in float32: 1400 * 4 * 255 * 11 < 2**24


def measure_blur(crop: np.ndarray, crop_margin: float) -> float:
    """Measure the blur of the hand's box at the crop's resolution: 0 sharp, 1 without any detail.

    Compares the gradients along each axis with those after another blur along it: a sharp image loses much, a blurred
    one little. The worse axis counts, so motion blur shows. Small hands that were enlarged count as blurred, too.

    Args:
        crop: (S, S, 3) uint8 RGB, the bounding box with its margin.
        crop_margin: Side of the crop over the side of the box.

    Source: Crete et al., The blur effect, 2007, with a window of 11 pixels, as scikit-image's `blur_effect`.
    """
    edge = round(crop.shape[0] * (1 - 1 / crop_margin) / 2)
    box = crop[edge : crop.shape[0] - edge, edge : crop.shape[1] - edge]
    gray = cv2.cvtColor(box, cv2.COLOR_RGB2GRAY)
    down, along = (loop_sums if max(gray.shape) <= _EXACT_COLUMNS and loop_sums is not None else array_sums)(gray)
    return max(_share(*down), _share(*along))


def _share(gradients: float, lost: float) -> float:
    return 1.0 - lost / gradients if gradients else 1.0


# Formulas for arrays and for single values. All values are whole numbers, exact in float32, so that the array and the
# loop version agree bit for bit.


def across(before: np.ndarray, here: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Smooth by (1, 2, 1), as Sobel's filter does across the gradient."""
    return before + _TWO * here + after


def gradient(ahead: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """Return the absolute gradient times the window: the sum over a window in which it is constant."""
    return _WINDOW * abs(ahead - behind)


def loss(gradients: np.ndarray, entering: np.ndarray, leaving: np.ndarray) -> np.ndarray:
    """Return the part of gradients that another blur removes.

    Sums over neighbouring windows differ by the value that enters and the one that leaves, so no window is summed.
    """
    more = gradients - abs(entering - leaving)
    return (more + abs(more)) * _HALF  # max(more, 0) without a branch


def array_sums(gray: np.ndarray) -> tuple[tuple[float, float], tuple[float, float]]:
    """Sum up (gradients, losses) of an (H, W) uint8 image, first down the columns, then along the rows."""
    return _array_sums_down(gray), _array_sums_down(gray.T)


def _array_sums_down(gray: np.ndarray) -> tuple[float, float]:
    values = gray.astype(np.float32)
    smooth = across(values[:, 1:-2], values[:, 2:-1], values[:, 3:])
    padded = np.pad(smooth, ((REACH, REACH), (0, 0)), "symmetric")
    pairs = padded[1:] + padded[:-1]
    gradients = gradient(smooth[3:], smooth[1:-2])
    lost = loss(gradients, pairs[2 * REACH + 2 :], pairs[1 : -2 * REACH - 1])
    return float(gradients.sum(dtype=np.float64)), float(lost.sum(dtype=np.float64))


# Twice as fast, with the same results; None without numba.
loop_sums: Callable[[np.ndarray], tuple[tuple[float, float], tuple[float, float]]] | None = None
try:
    from hawor_pipeline.conversion.compiled import compiled, compiled_any_order, inlined
except (ImportError, OSError):
    pass
else:
    _across, _gradient, _loss = (inlined(formula) for formula in (across, gradient, loss))

    @compiled_any_order
    def _sums_down(gray):
        """Compute `_array_sums_down` in one pass."""
        height, width = gray.shape
        width -= 3  # the published measure omits one column on one side, two on the other
        smooth = np.empty((height + 2 * REACH, width), np.float32)
        for y in range(height):
            before, here, after, out = gray[y, 1:], gray[y, 2:], gray[y, 3:], smooth[y + REACH]
            for x in range(width):
                out[x] = _across(np.float32(before[x]), np.float32(here[x]), np.float32(after[x]))
        for edge in range(REACH):
            smooth[REACH - 1 - edge] = smooth[REACH + edge]
            smooth[height + REACH + edge] = smooth[height + REACH - 1 - edge]
        total, lost = np.float64(0), np.float64(0)
        for y in range(2, height - 1):
            middle = y + REACH
            ahead, behind = smooth[middle + 1], smooth[middle - 1]
            in_1, in_2 = smooth[middle + 1 + REACH], smooth[middle + REACH]
            out_1, out_2 = smooth[middle - REACH], smooth[middle - 1 - REACH]
            row_total, row_lost = np.float32(0), np.float32(0)
            for x in range(width):
                found = _gradient(ahead[x], behind[x])
                row_total += found
                row_lost += _loss(found, in_1[x] + in_2[x], out_1[x] + out_2[x])
            total += row_total
            lost += row_lost
        return total, lost

    @compiled_any_order
    def _sums_along(gray):
        """Compute `_sums_down` of the transposed image without transposing it."""
        height, width = gray.shape
        smooth = np.empty(width + 2 * REACH, np.float32)
        total, lost = np.float64(0), np.float64(0)
        for y in range(2, height - 1):
            before, here, after = gray[y - 1], gray[y], gray[y + 1]
            for x in range(width):
                smooth[x + REACH] = _across(np.float32(before[x]), np.float32(here[x]), np.float32(after[x]))
            for edge in range(REACH):
                smooth[REACH - 1 - edge] = smooth[REACH + edge]
                smooth[width + REACH + edge] = smooth[width + REACH - 1 - edge]
            row_total, row_lost = np.float32(0), np.float32(0)
            for x in range(2, width - 1):
                found = _gradient(smooth[x + REACH + 1], smooth[x + REACH - 1])
                row_total += found
                row_lost += _loss(found, smooth[x + 1 + 2 * REACH] + smooth[x + 2 * REACH], smooth[x] + smooth[x - 1])
            total += row_total
            lost += row_lost
        return total, lost

    @compiled
    def _loop_sums(gray):
        """Compute `array_sums` row by row."""
        return _sums_down(gray), _sums_along(gray)

    loop_sums = _loop_sums
