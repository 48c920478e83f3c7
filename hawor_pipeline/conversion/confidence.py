"""Confidence of a sample, and the rules that make a sample invalid.

    confidence = seen x sharp x fit
    seen    share of the 21 joints that are in the image and not hidden
    sharp   1 up to a blur of SHARP_BLUR, falling linearly to 0 at blur 1
    fit     1 up to twice the median fitting error of this hand in this sequence, then twice the median over the error

Each factor is 0..1 and so is the product. `fit` is relative: ARCTIC does not state the unit of its fitting error.
"""

import numpy as np

from hawor_pipeline.config import ConversionConfig

SHARP_BLUR = 0.35  # blur of a photograph in focus by `measure_blur`
_GOOD_FIT = 2.0

# Rules in the order in which they are checked; `skip_reason` names the first that fails.
BLACK_IMAGE = "black_image"
FEW_JOINTS = "few_joints_in_frame"
SMALL_BOX = "small_box"


def confidence(
    joint_in_frame: np.ndarray, joint_visible: np.ndarray, blur: np.ndarray, fitting_err: np.ndarray, typical_err: float
) -> np.ndarray:
    """Compute the confidence of samples.

    Args:
        joint_in_frame: (N, 21) bool.
        joint_visible: (N, 21) bool.
        blur: (N,), 0..1.
        fitting_err: (N,), any unit.
        typical_err: Median of the fitting error over the sequence, same unit.

    Returns:
        (N,), 0..1.
    """
    seen = (joint_in_frame & joint_visible).mean(1)
    sharp = 1.0 - np.clip((blur - SHARP_BLUR) / (1.0 - SHARP_BLUR), 0.0, 1.0)
    limit = _GOOD_FIT * typical_err
    fit = np.where(fitting_err > limit, limit / np.maximum(fitting_err, np.finfo(float).tiny), 1.0)
    return seen * sharp * fit


def skip_reasons(
    black: np.ndarray, joint_in_frame: np.ndarray, box_size_px: np.ndarray, settings: ConversionConfig
) -> np.ndarray:
    """Return the first rule that each sample fails, "" if it passes all; (N,) text."""
    failed = [
        (black, BLACK_IMAGE),
        (joint_in_frame.sum(1) < settings.min_joints_in_frame, FEW_JOINTS),
        (box_size_px < settings.min_box_px, SMALL_BOX),
    ]
    return np.select([mask for mask, _ in failed], [name for _, name in failed], "").astype(object)
