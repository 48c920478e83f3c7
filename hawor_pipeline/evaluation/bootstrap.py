"""Intervals of means by drawing whole sequences.

Frames of one recording are near copies of each other; recordings are independent. So a mean is kept as one sum and one
count per sequence, and its interval is a bootstrap over sequences. The draws are the same for every mean, so that means
of one evaluation, and differences of two, can be compared.
"""

from collections.abc import Sequence
from math import fsum

import numpy as np

MIN_SEQUENCES = 5  # fewer do not show how much sequences differ
RESAMPLES = 1000
_SEED = 20260
Interval = tuple[float | None, float | None]


class SequenceSums:
    """Sums and counts of one mean, a pair for each sequence that contributes: exact however the values arrive."""

    def __init__(self) -> None:
        self._sums: dict[int, float] = {}
        self._counts: dict[int, int] = {}

    def add(self, sequence: int, values: np.ndarray | float) -> None:
        """Add values of a sequence; those that are not finite do not count."""
        values = np.asarray(values, np.float64)
        finite = np.isfinite(values)
        if count := int(finite.sum()):
            self._sums[sequence] = self._sums.get(sequence, 0.0) + float(values[finite].sum())
            self._counts[sequence] = self._counts.get(sequence, 0) + count

    @property
    def sequences(self) -> list[int]:
        """Sorted numbers of the sequences that contribute."""
        return sorted(self._sums)

    @property
    def sums(self) -> list[float]:
        """Sum of each of them."""
        return [self._sums[number] for number in self.sequences]

    @property
    def counts(self) -> list[int]:
        """Number of values of each of them."""
        return [self._counts[number] for number in self.sequences]

    @property
    def n(self) -> int:
        """Number of all values."""
        return sum(self._counts.values())

    def mean(self) -> float:
        """Average all values; there must be some."""
        return fsum(self._sums.values()) / self.n

    def resampled(self, weights: np.ndarray) -> np.ndarray:
        """(RESAMPLES,) means of what was drawn, from the weights of all sequences."""
        return resampled_means(self.sums, self.counts, weights[:, self.sequences])


def resampling_weights(sequences: int) -> np.ndarray:
    """Draw sequences; (RESAMPLES, sequences) times that each is drawn."""
    if not sequences:
        return np.zeros((RESAMPLES, 0))
    generator = np.random.default_rng(_SEED)
    return generator.multinomial(sequences, np.full(sequences, 1 / sequences), RESAMPLES).astype(float)


def resampled_means(sums: Sequence[float], counts: Sequence[float], drawn: np.ndarray) -> np.ndarray:
    """Average what was drawn; (RESAMPLES,), NaN where a draw has none of these sequences.

    Args:
        sums: (S,) sum of each sequence.
        counts: (S,) number of values of each.
        drawn: (RESAMPLES, S), those columns of the weights that belong to these sequences.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return (drawn @ np.asarray(sums, float)) / (drawn @ np.asarray(counts, float))


def interval(resampled: np.ndarray, sequences: int) -> Interval:
    """Return the 95 % interval of resampled values; (None, None) below `MIN_SEQUENCES`."""
    finite = resampled[np.isfinite(resampled)]
    if sequences < MIN_SEQUENCES or not len(finite):
        return None, None
    low, high = np.percentile(finite, (2.5, 97.5))
    return float(low), float(high)


def interval_note(sequences: int) -> str | None:
    """Explain why there is no interval; None where there is one."""
    if sequences >= MIN_SEQUENCES:
        return None
    return f"no interval: {sequences} sequences, at least {MIN_SEQUENCES} are needed"
