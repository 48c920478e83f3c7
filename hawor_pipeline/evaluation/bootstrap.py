"""How sure a mean is: intervals that draw whole sequences.

Frames of one recording are near copies of each other; what is independent is the recording. So a mean is kept as one
sum and one count per sequence, and an interval is a bootstrap over sequences. The draws are the same for every mean, so
that means of one evaluation, and differences of two, can be compared.
"""

from collections.abc import Sequence

import numpy as np

MIN_SEQUENCES = 5  # fewer say too little about how much sequences differ
RESAMPLES = 1000
_SEED = 20260


def resampling_weights(sequences: int) -> np.ndarray:
    """(RESAMPLES, sequences): how often each sequence is drawn."""
    if not sequences:
        return np.zeros((RESAMPLES, 0))
    generator = np.random.default_rng(_SEED)
    return generator.multinomial(sequences, np.full(sequences, 1 / sequences), RESAMPLES).astype(float)


def resampled_means(sums: Sequence[float], counts: Sequence[float], drawn: np.ndarray) -> np.ndarray:
    """(RESAMPLES,) means of what was drawn; NaN where a draw has none of these sequences.

    Args:
        sums: (S,) sum of each sequence.
        counts: (S,) number of values of each.
        drawn: (RESAMPLES, S), those columns of the weights that belong to these sequences.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return (drawn @ np.asarray(sums, float)) / (drawn @ np.asarray(counts, float))


def interval(resampled: np.ndarray, sequences: int) -> tuple[float | None, float | None]:
    """The 95 % interval of resampled values; (None, None) below `MIN_SEQUENCES`."""
    finite = resampled[np.isfinite(resampled)]
    if sequences < MIN_SEQUENCES or not len(finite):
        return None, None
    low, high = np.percentile(finite, (2.5, 97.5))
    return float(low), float(high)


def interval_note(sequences: int) -> str | None:
    """Why there is no interval, or None where there is one."""
    if sequences >= MIN_SEQUENCES:
        return None
    return f"no interval: {sequences} sequences, at least {MIN_SEQUENCES} are needed"
