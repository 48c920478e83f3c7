"""From the numbers of samples to the summary table: means by stratum, with intervals.

Everything is kept as one sum and one count per sequence, so memory does not grow with the number of samples, and an
interval draws whole sequences (see `bootstrap`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum
from typing import Any

import numpy as np

from hawor_pipeline.evaluation.bootstrap import interval, interval_note, resampled_means, resampling_weights
from hawor_pipeline.evaluation.schemas import ALL_METRICS

JOINT_MEANS = ("pck_box_5pct", "pck_box_10pct", "pck_box_15pct")
_COLUMNS = ("stratum", "level", "metric", "unit", "value", "ci_low", "ci_high", "n", "sequences", "note")
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
        weights = resampling_weights(self._sequences)
        rows = [
            (*key, *_mean_with_interval(cell, weights), sum(cell.counts), len(cell.sequences))
            for key, cell in self._cells.items()
        ]
        rows += [self._robustness(weights), *self._joint_means(weights)]
        columns: dict[str, list] = {name: [] for name in _COLUMNS}
        for stratum, level, metric, value, low, high, n, sequences in rows:
            note = interval_note(sequences) if value is not None and low is None else None
            row = (stratum, level, metric, ALL_METRICS[metric].unit, value, low, high, n, sequences, note)
            for name, item in zip(columns, row, strict=True):
                columns[name].append(item)
        return columns

    def _cell(self, stratum: str, level: str, metric: str) -> _Cell:
        return self._cells.get((stratum, level, metric), _Cell())

    def _robustness(self, weights: np.ndarray) -> tuple:
        hidden = self._cell(ROBUSTNESS_HIDDEN, "sample", "mpjpe_mm")
        clear = self._cell(ROBUSTNESS_CLEAR, "sample", "mpjpe_mm")
        result = _ratio_with_interval(hidden, clear, weights)
        n = sum(hidden.counts) + sum(clear.counts)
        sequences = min(len(hidden.sequences), len(clear.sequences))
        return ("all", "sample", "occlusion_robustness", *result, n, sequences)

    def _joint_means(self, weights: np.ndarray) -> list[tuple]:
        """Means in which each of the joints has equal weight, however often it is seen."""
        rows = []
        for metric in JOINT_MEANS:
            cells = [c for (s, level, m), c in self._cells.items() if (level, m) == ("joint", metric) and c.counts]
            if not cells:
                continue
            value = fsum(fsum(c.sums) / sum(c.counts) for c in cells) / len(cells)
            means = [resampled_means(c.sums, c.counts, weights[:, c.sequences]) for c in cells]
            sequences = len(set().union(*(c.sequences for c in cells)))
            low, high = interval(np.mean(means, 0), sequences)
            rows.append(("all", "joint", metric, value, low, high, sum(sum(c.counts) for c in cells), sequences))
        return rows


def _mean_with_interval(cell: _Cell, weights: np.ndarray) -> tuple[float | None, float | None, float | None]:
    if not cell.counts:
        return None, None, None
    resampled = resampled_means(cell.sums, cell.counts, weights[:, cell.sequences])
    return fsum(cell.sums) / sum(cell.counts), *interval(resampled, len(cell.sequences))


def _ratio_with_interval(above: _Cell, below: _Cell, weights: np.ndarray) -> tuple[float | None, ...]:
    if not above.counts or not below.counts or not sum(below.sums):
        return None, None, None
    value = (fsum(above.sums) / sum(above.counts)) / (fsum(below.sums) / sum(below.counts))
    first, second = (resampled_means(c.sums, c.counts, weights[:, c.sequences]) for c in (above, below))
    with np.errstate(invalid="ignore", divide="ignore"):
        return value, *interval(first / second, min(len(above.sequences), len(below.sequences)))
