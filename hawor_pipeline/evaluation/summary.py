"""From the numbers of samples to the summary table: means by stratum, with intervals.

Sequences are what is independent: frames of one recording are near copies of each other. So everything is kept as one
sum and one count per sequence, and an interval is a bootstrap that draws whole sequences. Memory does not grow with the
number of samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hawor_pipeline.evaluation.schemas import ALL_METRICS

MIN_SEQUENCES = 5  # fewer say too little about how much sequences differ
RESAMPLES = 1000
_SEED = 20260
ROBUSTNESS_HIDDEN = "occlusion>0.5"
ROBUSTNESS_CLEAR = "occlusion<0.1"


@dataclass(slots=True)
class _Cell:
    """Sums and counts of one mean, a pair for each sequence that contributes."""

    sequences: list[int] = field(default_factory=list)
    sums: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)


class Summary:
    """Collects sequences one at a time; `rows` gives the summary table."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str, str], _Cell] = {}
        self._sequences = 0

    def __len__(self) -> int:
        """How many sequences were added."""
        return self._sequences

    def add_sequence(self, metrics: Mapping[str, np.ndarray], strata: Mapping[str, Sequence[Any] | np.ndarray]) -> int:
        """Add the samples of one sequence.

        Args:
            metrics: name to (N,) values; NaN where undefined.
            strata: name of a column to (N,) labels ("" belongs to none), or name of a stratum to (N,) bools.

        Returns:
            The number of the sequence, for `add`.
        """
        sequence = self._sequences
        self._sequences += 1
        names = list(metrics)
        values = np.stack([np.asarray(metrics[name], np.float64) for name in names], 1)  # (N, M)
        self._add_rows(sequence, "all", names, values)
        with np.errstate(invalid="ignore"):
            means = np.nansum(values, 0) / np.isfinite(values).sum(0)
        for name, mean in zip(names, means, strict=True):
            self.add(sequence, "all", "sequence", name, mean)
        for column, labels in strata.items():
            labels = np.asarray(labels)
            if labels.dtype == bool:
                self._add_rows(sequence, column, names, values[labels])
                continue
            for label in np.unique(labels[labels.astype(str) != ""]):
                self._add_rows(sequence, f"{column}={label}", names, values[labels == label])
        return sequence

    def _add_rows(self, sequence: int, stratum: str, names: list[str], values: np.ndarray) -> None:
        for name, column in zip(names, values.T, strict=True):
            self.add(sequence, stratum, "sample", name, column)

    def add(self, sequence: int, stratum: str, level: str, metric: str, values: np.ndarray | float) -> None:
        """Add values that have equal weight in one mean; those that are not finite do not count."""
        cell = self._cells.setdefault((stratum, level, metric), _Cell())
        values = np.asarray(values, np.float64)
        finite = np.isfinite(values)
        count = int(finite.sum())
        if count:
            cell.sequences.append(sequence)
            cell.sums.append(float(values[finite].sum()))
            cell.counts.append(count)

    def rows(self) -> dict[str, list]:
        """Columns of the summary table, without the identity."""
        weights = _resampling_weights(self._sequences)
        columns: dict[str, list] = {
            name: [] for name in ("stratum", "level", "metric", "unit", "value", "ci_low", "ci_high", "n", "sequences")
        }
        for (stratum, level, metric), cell in self._cells.items():
            value, low, high = _mean_with_interval(cell, weights)
            row = (stratum, level, metric, ALL_METRICS[metric].unit, value, low, high, sum(cell.counts))
            for name, item in zip(columns, (*row, len(cell.sequences)), strict=True):
                columns[name].append(item)
        self._append_robustness(columns, weights)
        return columns

    def _append_robustness(self, columns: dict[str, list], weights: np.ndarray) -> None:
        hidden = self._cells.get((ROBUSTNESS_HIDDEN, "sample", "mpjpe_mm"), _Cell())
        clear = self._cells.get((ROBUSTNESS_CLEAR, "sample", "mpjpe_mm"), _Cell())
        value, low, high = _ratio_with_interval(hidden, clear, weights)
        sequences = len(set(hidden.sequences) | set(clear.sequences))
        n = sum(hidden.counts) + sum(clear.counts)
        unit = ALL_METRICS["occlusion_robustness"].unit
        row = ("all", "sample", "occlusion_robustness", unit, value, low, high, n, sequences)
        for name, item in zip(columns, row, strict=True):
            columns[name].append(item)


def _resampling_weights(sequences: int) -> np.ndarray:
    """(RESAMPLES, sequences): how often each sequence is drawn; the same draws for every mean, so they compare."""
    if not sequences:
        return np.zeros((RESAMPLES, 0))
    return (
        np.random.default_rng(_SEED).multinomial(sequences, np.full(sequences, 1 / sequences), RESAMPLES).astype(float)
    )


def _resampled_means(cell: _Cell, weights: np.ndarray) -> np.ndarray:
    drawn = weights[:, cell.sequences]
    with np.errstate(invalid="ignore", divide="ignore"):
        return (drawn @ np.array(cell.sums)) / (drawn @ np.array(cell.counts, float))


def _interval(values: np.ndarray, sequences: int) -> tuple[float | None, float | None]:
    values = values[np.isfinite(values)]
    if sequences < MIN_SEQUENCES or not len(values):
        return None, None
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def _mean_with_interval(cell: _Cell, weights: np.ndarray) -> tuple[float | None, float | None, float | None]:
    if not cell.counts:
        return None, None, None
    low, high = _interval(_resampled_means(cell, weights), len(cell.sequences))
    return sum(cell.sums) / sum(cell.counts), low, high


def _ratio_with_interval(above: _Cell, below: _Cell, weights: np.ndarray) -> tuple[float | None, ...]:
    if not above.counts or not below.counts or not sum(below.sums):
        return None, None, None
    value = (sum(above.sums) / sum(above.counts)) / (sum(below.sums) / sum(below.counts))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = _resampled_means(above, weights) / _resampled_means(below, weights)
    return value, *_interval(ratios, min(len(above.sequences), len(below.sequences)))
