"""The summary table: means of the numbers of samples by stratum, with intervals.

Everything is kept as one sum and one count per sequence (see `bootstrap`), so memory does not grow with the number of
samples.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import fsum
from typing import Any

import numpy as np

from hawor_pipeline.core import metrics as core_metrics
from hawor_pipeline.evaluation.bootstrap import SequenceSums, interval, interval_note, resampling_weights
from hawor_pipeline.evaluation.declared_metrics import ALL_METRICS, PCK_BOX_PERCENT, SUMMARY_METRICS

JOINT_MEANS = tuple(f"pck_box_{percent}pct" for percent in PCK_BOX_PERCENT)
_COLUMNS = ("stratum", "level", "metric", "unit", "value", "ci_low", "ci_high", "n", "sequences", "note")
Mean = tuple[float | None, float | None, float | None, int, int]  # value, interval, values, sequences


class Summary:
    """Collects sequences one at a time; `rows` returns the summary table."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str, str], SequenceSums] = defaultdict(SequenceSums)
        self._sequences = 0
        self._weights = resampling_weights(0)

    def __len__(self) -> int:
        """Number of sequences added."""
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
        self._cells[stratum, level, metric].add(sequence, values)

    def rows(self) -> dict[str, list]:
        """Return the columns of the summary table, without the identity."""
        self._weights = resampling_weights(self._sequences)
        rows = [(*key, *self._mean(cell)) for key, cell in self._cells.items()]
        declared = [metric for metric in SUMMARY_METRICS.values() if metric.inputs == "summary"]
        rows += [("all", "sample", metric.name, *metric.function(core_metrics, self)) for metric in declared]
        rows += self._joint_means()
        columns: dict[str, list] = {name: [] for name in _COLUMNS}
        for stratum, level, metric, value, low, high, n, sequences in rows:
            note = interval_note(sequences) if value is not None and low is None else None
            row = (stratum, level, metric, ALL_METRICS[metric].unit, value, low, high, n, sequences, note)
            for name, item in zip(columns, row, strict=True):
                columns[name].append(item)
        return columns

    def _mean(self, cell: SequenceSums) -> Mean:
        if not cell.n:
            return None, None, None, 0, 0
        sequences = len(cell.sequences)
        return cell.mean(), *interval(cell.resampled(self._weights), sequences), cell.n, sequences

    def ratio(self, metric: str, above: str, below: str) -> Mean:
        """Divide the mean of a metric in one stratum by that in another."""
        cells = [self._cells.get((stratum, "sample", metric), SequenceSums()) for stratum in (above, below)]
        n, sequences = sum(cell.n for cell in cells), min(len(cell.sequences) for cell in cells)
        if not all(cell.n for cell in cells) or not sum(cells[1].sums):
            return None, None, None, n, sequences
        first, second = (cell.resampled(self._weights) for cell in cells)
        with np.errstate(invalid="ignore", divide="ignore"):
            return cells[0].mean() / cells[1].mean(), *interval(first / second, sequences), n, sequences

    def joint_mean(self, metric: str) -> Mean:
        """Average so that each of the joints has equal weight, however often it is seen."""
        cells = [c for (_, level, m), c in self._cells.items() if (level, m) == ("joint", metric) and c.n]
        if not cells:
            return None, None, None, 0, 0
        sequences = len(set().union(*(cell.sequences for cell in cells)))
        ends = interval(np.mean([cell.resampled(self._weights) for cell in cells], 0), sequences)
        return fsum(cell.mean() for cell in cells) / len(cells), *ends, sum(cell.n for cell in cells), sequences

    def _joint_means(self) -> list[tuple]:
        means = ((metric, self.joint_mean(metric)) for metric in JOINT_MEANS)
        return [("all", "joint", metric, *mean) for metric, mean in means if mean[0] is not None]
