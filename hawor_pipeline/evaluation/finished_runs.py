"""Lookup of finished runs: the newest one, its rows of some samples, and the baselines and rivals that belong to it."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from hawor_pipeline.errors import DataError
from hawor_pipeline.evaluation.tables import (
    RunIdentity,
    iterate_table,
    list_runs,
    partition_file,
    read_identity,
    read_table,
)

BASELINE_PREFIX = "baseline-"


def is_baseline(run_id: str) -> bool:
    """Test if the tables of this run are those of a baseline."""
    return run_id.startswith(BASELINE_PREFIX)


def sequence_counts(metrics_dir: Path | str, run_id: str) -> dict[str, int]:
    """Return the number of measured samples of each sequence, by "subject/sequence".

    Runs of one protocol and dataset version that have the same counts were measured on the same samples.
    """
    rows = read_table(metrics_dir, "samples", run_id, ["subject", "sequence"])
    groups = rows.group_by(["subject", "sequence"]).aggregate([([], "count_all")]).to_pylist()
    return {f"{row['subject']}/{row['sequence']}": row["count_all"] for row in groups}


def baselines_of(metrics_dir: Path | str, run: RunIdentity) -> dict[str, list[str]]:
    """List the baselines and rivals on the samples of a run, by its protocol: kind to sorted run_ids.

    Smoothed predictions belong to one run: those of others are skipped. Tables of version 3 and older have no parent in
    their names and are recognised by their checkpoint.
    """
    counts = sequence_counts(metrics_dir, run.run_id)
    found: dict[str, list[str]] = {}
    for name in filter(is_baseline, list_runs(metrics_dir, "samples")):
        kind, version, parent = name.removeprefix(BASELINE_PREFIX).partition(f"-{run.dataset_version}")
        if not version or parent[:1] not in ("", "-") or (kind == "smoothed" and parent not in ("", f"-{run.run_id}")):
            continue
        try:
            about = read_identity(metrics_dir, "samples", name)
            is_on_same = about.columns() == {**run.columns(), "checkpoint_sha256": about.checkpoint_sha256}
            if is_on_same and _fits(kind, about, run) and sequence_counts(metrics_dir, name) == counts:
                found.setdefault(kind, []).append(name)
        except DataError:
            if kind not in ("smoothed", "champion"):  # those are made again from their parents
                raise
    if (own := f"{BASELINE_PREFIX}smoothed-{run.dataset_version}-{run.run_id}") in found.get("smoothed", ()):
        found["smoothed"] = [own]
    return found


def _fits(kind: str, about: RunIdentity, run: RunIdentity) -> bool:
    """Test a table's checkpoint: the run's own if smoothed, another one if of a champion, none if of a baseline."""
    is_own = about.checkpoint_sha256 == run.checkpoint_sha256
    return {"smoothed": is_own, "champion": not is_own}.get(kind, about.checkpoint_sha256 is None)


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
