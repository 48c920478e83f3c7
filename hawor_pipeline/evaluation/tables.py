"""Metric tables: reading them, and the only way to write one.

Tables lie under one directory as `<table>/run_id=<run_id>/part-0.parquet`: DuckDB, pandas and Polars read the run from
the path. A table that does not fit its published schema is refused before anything is published. A value that is not
defined is null, never NaN and never 0. No torch here.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hawor_pipeline.errors import ConfigError, DataError, UnknownRun, nearest
from hawor_pipeline.evaluation.schemas import arrow_schema, columns_of
from hawor_pipeline.provenance import staging_dir
from hawor_pipeline.shards.columns import Column

PART_NAME = "part-0.parquet"
_ROW_GROUP = 16_384  # rows held back until a row group is written
_RUNS_NAMED = 8  # in a message
_RUN_ID = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class RunIdentity:
    """Identity of a row's numbers. `checkpoint_sha256` is None where no checkpoint made the prediction."""

    run_id: str
    protocol: str
    dataset_version: str
    source: str
    checkpoint_sha256: str | None = None

    def columns(self) -> dict[str, str | None]:
        """Return the values repeated in every row (the run_id is in the path)."""
        return {name: value for name, value in asdict(self).items() if name != "run_id"}


def baseline_run_id(kind: str, dataset_version: str, parent: str = "") -> str:
    """Return the run_id of a baseline or rival for one version of the dataset.

    Args:
        kind: "mean_pose", "smoothed", ..
        dataset_version: of the shards.
        parent: what the rows are derived from (a run, or a checkpoint and a setting); "" for baselines of the data.
    """
    return "-".join(filter(None, ("baseline", kind, dataset_version, parent)))


def partition_dir(metrics_dir: Path | str, table: str, run_id: str) -> Path:
    """Return the folder of one run's rows of a table.

    Raises:
        ConfigError: the run_id does not begin with a letter or has characters that a path may not have.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise ConfigError(
            f"run_id {run_id!r} must begin with a letter and hold only letters, digits, '.', '_' and '-'."
        )
    return Path(metrics_dir) / table / f"run_id={run_id}"


def partition_file(metrics_dir: Path | str, table: str, run_id: str) -> Path:
    """Return the Parquet file of one run's rows of a table."""
    return partition_dir(metrics_dir, table, run_id) / PART_NAME


def list_runs(metrics_dir: Path | str, table: str) -> list[str]:
    """List the run_ids that have this table, sorted."""
    paths = (Path(metrics_dir) / table).glob(f"run_id=*/{PART_NAME}")
    return sorted(path.parent.name.removeprefix("run_id=") for path in paths)


def read_table(metrics_dir: Path | str, table: str, run_id: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read one run's rows, all in memory.

    Raises:
        DataError: the run has no such table, or the file cannot be read.
    """
    return _open_table(metrics_dir, table, run_id).read(columns=list(columns) if columns else None)


def column_names(metrics_dir: Path | str, table: str, run_id: str) -> set[str]:
    """Return the names of the columns of a run's table; tables of older versions have fewer."""
    return set(_open_table(metrics_dir, table, run_id).schema_arrow.names)


def read_identity(metrics_dir: Path | str, table: str, run_id: str) -> RunIdentity:
    """Read the identity of a run from its rows.

    Raises:
        DataError: the run has no such table, or it is empty.
    """
    columns = ["protocol", "dataset_version", "source", "checkpoint_sha256"]
    rows = next(iterate_table(metrics_dir, table, run_id, columns, batch_rows=1), None)
    if rows is None or not rows.num_rows:
        raise DataError(f"the {table} table of run {run_id!r} is empty; evaluate the run again.")
    return RunIdentity(run_id, **rows.to_pylist()[0])


def iterate_table(
    metrics_dir: Path | str, table: str, run_id: str, columns: Sequence[str] | None = None, batch_rows: int = 4096
) -> Iterator[pa.RecordBatch]:
    """Yield one run's rows in order, in batches of at most `batch_rows`."""
    file = _open_table(metrics_dir, table, run_id)
    yield from file.iter_batches(batch_size=batch_rows, columns=list(columns) if columns else None)


def _open_table(metrics_dir: Path | str, table: str, run_id: str) -> pq.ParquetFile:
    path = partition_file(metrics_dir, table, run_id)
    if not path.is_file():
        known = any(Path(metrics_dir).glob(f"*/run_id={run_id}"))
        hint = "" if known else _others(run_id, list_runs(metrics_dir, table))
        message = f"run {run_id!r} has no {table} table: {path} is missing.{hint} Evaluate the run first."
        raise DataError(message) if known else UnknownRun(message)
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}). Evaluate the run again.") from error


def _others(run_id: str, runs: Sequence[str]) -> str:
    """Suggest the nearest name, or some of the existing ones."""
    if not runs:
        return ""
    shown = ", ".join(runs[:_RUNS_NAMED]) + (f" and {len(runs) - _RUNS_NAMED} more" if len(runs) > _RUNS_NAMED else "")
    return nearest(run_id, runs) or f" There are {shown}."


class TableWriter:
    """Appends validated rows to one table of one run; get it from `table_writer`."""

    def __init__(self, path: Path, table: str, identity: RunIdentity):
        self.rows = 0
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._table = table
        self._identity = identity.columns()
        self._schema = arrow_schema(table)
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, columns: Mapping[str, Any]) -> None:
        """Append rows. Values are numpy arrays or sequences, one per column, without the identity columns.

        Raises:
            DataError: a column is missing, unknown, of another type, or undefined where it may not be.
        """
        batch = self._validated(columns)
        self._pending.append(batch)
        self._pending_rows += batch.num_rows
        self.rows += batch.num_rows
        if self._pending_rows >= _ROW_GROUP:
            self._flush()

    def append(self, path: Path | str) -> None:
        """Append the rows of a file that another writer of the same table has made.

        Raises:
            DataError: it has other columns.
        """
        self._flush()
        file = pq.ParquetFile(path)
        if not file.schema_arrow.equals(self._schema):
            raise DataError(f"{path} does not have the columns of table {self._table}.")
        for batch in file.iter_batches(batch_size=_ROW_GROUP):
            self._writer.write_batch(batch)
            self.rows += batch.num_rows

    def close(self) -> None:
        """Write what is still held back and end the file."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._pending:
            self._writer.write_table(pa.concat_tables(self._pending))
        self._pending, self._pending_rows = [], 0

    def _validated(self, columns: Mapping[str, Any]) -> pa.Table:
        optional = {column.name for column in columns_of(self._table) if column.optional}
        expected = set(self._schema.names) - set(self._identity) - (optional - set(columns))
        if wrong := expected.symmetric_difference(columns):
            raise DataError(f"table {self._table}: columns {sorted(wrong)} are missing or unknown.")
        rows = len(next(iter(columns.values())))
        arrays = []
        for column in columns_of(self._table):
            if column.name in self._identity:
                array = pa.array([self._identity[column.name]], column.type).take(pa.array(np.zeros(rows, np.int64)))
            elif column.name not in columns:
                array = pa.nulls(rows, column.type)
            else:
                array = self._array(column, columns[column.name])
            if len(array) != rows:
                raise DataError(f"table {self._table}: column {column.name} has {len(array)} rows, expected {rows}.")
            arrays.append(array)
        return pa.Table.from_arrays(arrays, schema=self._schema)

    def _array(self, column: Column, values: Any) -> pa.Array:
        try:
            array = column.to_arrow(values, nan_is_null=True)
        except (pa.ArrowException, ValueError, TypeError) as error:
            raise DataError(f"table {self._table}: column {column.name} is not {column.type}: {error}") from error
        if array.null_count and not column.nullable:
            raise DataError(f"table {self._table}: column {column.name} has {array.null_count} undefined values.")
        if pa.types.is_floating(array.type) and pc.any(pc.is_inf(array)).as_py():
            raise DataError(f"table {self._table}: column {column.name} has an infinite value.")
        return array


@contextmanager
def table_writer(metrics_dir: Path | str, table: str, identity: RunIdentity) -> Iterator[TableWriter]:
    """Open a writer whose table replaces the run's old one when the block ends well, and is dropped otherwise."""
    with staging_dir(partition_dir(metrics_dir, table, identity.run_id)) as staged:
        writer = TableWriter(staged / PART_NAME, table, identity)
        try:
            yield writer
        finally:
            writer.close()


def to_numpy(column: pa.Array | pa.ChunkedArray, shape: Iterable[int] = ()) -> np.ndarray:
    """Convert a float or nested fixed-size list column to an (N, *shape) array; null becomes NaN."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    shape = tuple(shape)
    if not shape:
        return array.to_numpy(zero_copy_only=False)
    defined = array.is_valid().to_numpy(zero_copy_only=False)
    flat = array
    while pa.types.is_nested(flat.type):
        flat = flat.flatten()  # drops the rows that are null
    values = flat.to_numpy(zero_copy_only=False)
    result = np.full((len(array), *shape), np.nan, values.dtype if values.dtype.kind == "f" else np.float64)
    result[defined] = values.reshape(-1, *shape)
    return result
