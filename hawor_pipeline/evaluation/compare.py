"""Two runs on the same samples: the mean of the differences, with its interval.

Paired, because most of the spread of an error comes from the samples and is common to both runs: the interval of the
difference is far narrower than the two intervals suggest. No torch here: the report imports this module.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.evaluation.bootstrap import (
    SequenceSums,
    interval,
    interval_note,
    resampled_means,
    resampling_weights,
)
from hawor_pipeline.evaluation.declared_metrics import SAMPLE_METRICS
from hawor_pipeline.evaluation.tables import iterate_table, read_identity, table_writer

_KEYS = ("sample_id", "subject", "sequence", "protocol", "dataset_version")


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of two runs over the samples where both have it; `difference` is run minus other."""

    metric: str
    unit: str
    better: str
    value: float | None
    other: float | None
    difference: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    sequences: int
    note: str | None

    @property
    def worse(self) -> bool:
        """Test if the run is worse beyond the interval of the difference; by sign alone where there is no interval."""
        return self._beyond(1.0 if self.better == "lower" else -1.0)

    @property
    def improved(self) -> bool:
        """Test if the run is better beyond the interval of the difference; by sign alone where there is no interval."""
        return self._beyond(-1.0 if self.better == "lower" else 1.0)

    def _beyond(self, sign: float) -> bool:
        """Test if the difference and both ends of its interval have this sign."""
        if self.difference is None:
            return False
        ends = [self.difference, *(end for end in (self.ci_low, self.ci_high) if end is not None)]
        return min(sign * end for end in ends) > 0

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, and `worse`, as plain values."""
        return {**asdict(self), "worse": self.worse}


class _PairedSums:
    """Sums of one metric over the samples where both runs have it."""

    def __init__(self) -> None:
        self.ours, self.theirs = SequenceSums(), SequenceSums()

    def add(self, sequence: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> None:
        both = np.isfinite(ours) & np.isfinite(theirs)
        for number in np.unique(sequence[both]).tolist():
            rows = both & (sequence == number)
            self.ours.add(number, ours[rows])
            self.theirs.add(number, theirs[rows])

    def difference(self, metric: str, weights: np.ndarray) -> Difference:
        about = (metric, SAMPLE_METRICS[metric].unit, SAMPLE_METRICS[metric].better)
        if not self.ours.n:
            return Difference(*about, None, None, None, None, None, 0, 0, "no sample has it in both runs")
        numbers, ours, theirs = self.ours.sequences, self.ours.mean(), self.theirs.mean()
        sums = [first - second for first, second in zip(self.ours.sums, self.theirs.sums, strict=True)]
        ends = interval(resampled_means(sums, self.ours.counts, weights[:, numbers]), len(numbers))
        note = interval_note(len(numbers))
        return Difference(*about, ours, theirs, ours - theirs, *ends, self.ours.n, len(numbers), note)


def compare_runs(
    metrics_dir: Path | str, run_id: str, other_run_id: str, metrics: Sequence[str] | None = None
) -> list[Difference]:
    """Compare metrics (None: all) of the samples tables of two runs; memory does not grow with the number of samples.

    Raises:
        ConfigError: an unknown metric.
        DataError: a run was not evaluated, or the two were evaluated on other samples, data or by another protocol.
    """
    names = list(SAMPLE_METRICS) if metrics is None else list(metrics)
    if unknown := sorted(set(names) - set(SAMPLE_METRICS)):
        raise ConfigError(f"unknown metrics {unknown}; the samples table has {', '.join(SAMPLE_METRICS)}.")
    sums = {name: _PairedSums() for name in names}
    numbers: dict[tuple[str, str], int] = {}
    columns = [*_KEYS, *names]
    for ours, theirs in _lockstep(metrics_dir, run_id, other_run_id, columns):
        recordings = zip(ours["subject"].to_pylist(), ours["sequence"].to_pylist(), strict=True)
        sequence = np.array([numbers.setdefault(recording, len(numbers)) for recording in recordings])
        for name in names:
            sums[name].add(sequence, _numbers(ours[name]), _numbers(theirs[name]))
    weights = resampling_weights(len(numbers))
    return [sums[name].difference(name, weights) for name in names]


def write_comparison(metrics_dir: Path | str, run_id: str, other_run_ids: Sequence[str]) -> int:
    """Publish the comparison table of a run: every metric against each of the others; returns its rows."""
    identity = read_identity(metrics_dir, "samples", run_id)
    with table_writer(metrics_dir, "comparison", identity) as writer:
        for other in other_run_ids:
            rows = [item.to_dict() for item in compare_runs(metrics_dir, run_id, other)]
            columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
            del columns["better"]
            columns["other_value"] = columns.pop("other")
            writer.write({"other_run_id": [other] * len(rows), **columns})
        return writer.rows


def _lockstep(
    metrics_dir: Path | str, run_id: str, other_run_id: str, columns: Sequence[str]
) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Pairs of batches that hold the same samples."""
    first, second = (iterate_table(metrics_dir, "samples", run, columns) for run in (run_id, other_run_id))
    while True:
        ours, theirs = next(first, None), next(second, None)
        if ours is None and theirs is None:
            return
        for run, batch in ((run_id, ours), (other_run_id, theirs)):
            if batch is not None and (absent := sorted(set(columns) - set(batch.schema.names))):
                raise DataError(
                    f"the samples table of run {run!r} is of an older version and lacks {', '.join(absent)}; evaluate "
                    "the run again, or name the metrics to compare."
                )
        if ours is None or theirs is None or ours.num_rows != theirs.num_rows:
            raise DataError(
                f"runs {run_id!r} and {other_run_id!r} have different numbers of samples; evaluate both on the same "
                "shards, subjects and protocol."
            )
        for key in ("protocol", "dataset_version", "sample_id"):
            if not ours[key].equals(theirs[key]):
                found, expected = ours[key][0].as_py(), theirs[key][0].as_py()
                what = f"{key} {found!r} against {expected!r}" if found != expected else f"other rows of {key}"
                raise DataError(
                    f"runs {run_id!r} and {other_run_id!r} cannot be compared sample by sample: {what}; evaluate both "
                    "on the same shards, subjects and protocol."
                )
        yield ours, theirs


def _numbers(column: pa.Array) -> np.ndarray:
    return column.to_numpy(zero_copy_only=False).astype(np.float64)
