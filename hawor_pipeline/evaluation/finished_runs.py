"""Lookup of finished runs: the newest one, and its rows of some samples."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from hawor_pipeline.evaluation.tables import iterate_table, list_runs, partition_file, read_table

BASELINE_PREFIX = "baseline-"


def is_baseline(run_id: str) -> bool:
    """Test if the tables of this run are those of a baseline."""
    return run_id.startswith(BASELINE_PREFIX)


def newest(metrics_dir: Path | str, table: str, run_ids: Iterable[str]) -> str | None:
    """Return the run whose table was written last, except baselines; None where there is none."""
    runs = [run for run in run_ids if not is_baseline(run)]
    written = {run: (partition_file(metrics_dir, table, run)).stat().st_mtime_ns for run in runs}
    return max(runs, key=lambda run: (written[run], run), default=None)


def last_run(metrics_dir: Path | str, table: str, sample_ids: Sequence[str]) -> str | None:
    """Return the run, except baselines, whose table was written last and has at least one of these samples."""
    wanted = pa.array(sample_ids, pa.string())

    def has_any(run: str) -> bool:
        return pc.any(
            pc.is_in(read_table(metrics_dir, table, run, ["sample_id"])["sample_id"], value_set=wanted)
        ).as_py()

    return newest(metrics_dir, table, (run for run in list_runs(metrics_dir, table) if has_any(run)))


def rows_of(
    metrics_dir: Path | str, table: str, run_id: str, sample_ids: Iterable[str], columns: Sequence[str] | None = None
) -> pa.Table:
    """Read the rows of a few samples, in the order of the table; memory does not grow with the table."""
    wanted = pa.array(sorted(set(sample_ids)), pa.string())
    batches = []
    for batch in iterate_table(metrics_dir, table, run_id, columns):
        batches.append(batch.filter(pc.is_in(batch["sample_id"], value_set=wanted)))
    return pa.Table.from_batches([batch for batch in batches if batch.num_rows] or batches[:1]).combine_chunks()


def errors_of(metrics_dir: Path | str, run_id: str, sample_ids: Sequence[str]) -> dict[str, float | None]:
    """Return mpjpe_mm of these samples by name, of those that the run measured."""
    table = rows_of(metrics_dir, "samples", run_id, sample_ids, ["sample_id", "mpjpe_mm"])
    return dict(zip(table["sample_id"].to_pylist(), table["mpjpe_mm"].to_pylist(), strict=True))
