"""How blurred a hand is, by a published measure."""

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np

REACH = 5  # of the blur that is compared with, to either side
_ONE, _TWO, _HALF, _WINDOW = (np.float32(number) for number in (1, 2, 0.5, 2 * REACH + 1))


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
    gray = cv2.cvtColor(box, cv2.COLOR_RGB2GRAY)
    return max(_share(*_find_sums()(along)) for along in (gray, cv2.transpose(gray)))


def _share(gradients: float, lost: float) -> float:
    return 1.0 - lost / gradients if gradients else 1.0


# Formulas for arrays and for single values; all of them are whole numbers, exact in single precision.


def across(before: np.ndarray, here: np.ndarray, after: np.ndarray) -> np.ndarray:
    """One, two, one: as Sobel's filter does across the gradient."""
    return before + _TWO * here + after


def gradient(ahead: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """Its size, times the window: as a sum over the window would be that did not change."""
    return _WINDOW * abs(ahead - behind)


def loss(gradients: np.ndarray, entering: np.ndarray, leaving: np.ndarray) -> np.ndarray:
    """What another blur takes from gradients.

    Sums over windows that overlap differ by what enters and what leaves, so no window is summed.
    """
    more = gradients - abs(entering - leaving)
    return (more + abs(more)) * _HALF


def array_sums(gray: np.ndarray) -> tuple[float, float]:
    """Sum of the gradients down the columns of (H, W) uint8, and of what they lose; with NumPy alone."""
    values = gray.astype(np.float32)
    smooth = across(values[:, 1:-2], values[:, 2:-1], values[:, 3:])
    padded = np.pad(smooth, ((REACH, REACH), (0, 0)), "symmetric")
    pairs = padded[1:] + padded[:-1]
    gradients = gradient(smooth[3:], smooth[1:-2])
    lost = loss(gradients, pairs[2 * REACH + 2 :], pairs[1 : -2 * REACH - 1])
    return float(gradients.sum(dtype=np.float64)), float(lost.sum(dtype=np.float64))


@lru_cache(maxsize=1)
def _find_sums() -> Callable[[np.ndarray], tuple[float, float]]:
    """The compiled sums, twice as fast; those of arrays where numba is missing. The numbers are the same."""
    try:
        from hawor_pipeline.data.blur_loops import loop_sums
    except ImportError:
        return array_sums
    return loop_sums
