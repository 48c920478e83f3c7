"""Shards on disk: writing one sequence, and reading many.

    {shards}/{subject}/manifest.json                         sequences in force, row counts, sha256
    {shards}/{subject}/{sequence}/annotations.parquet        a row per hand, frame and view, sorted by view, side, frame
    {shards}/{subject}/{sequence}/images.arrow               record i is the JPEG of row i; memory-mapped
    {shards}/{subject}/{sequence}/ledger.parquet             skipped frames and hands, with the reason

Only sequences that a manifest lists are read, never one that is being written or belongs to older settings.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.provenance import hash_json, sha256_file
from hawor_pipeline.remote import local_copy
from hawor_pipeline.shards.manifest import Manifest, converted_names, read_manifest, read_manifests
from hawor_pipeline.shards.schema import (
    ANNOTATIONS_FILE,
    BATCH_ROWS,
    DISTANCES_FILE,
    DISTANCES_SCHEMA,
    IMAGES_FILE,
    IMAGES_SCHEMA,
    LEDGER_FILE,
    LEDGER_SCHEMA,
    ROW_GROUP_ROWS,
    annotations_schema,
    as_numpy,
    to_arrow,
)

__all__ = ["ImageWriter", "ShardSet", "as_numpy", "open_shards", "read_side_tables", "write_parquet", "write_tables"]

SHARD_FILES = (ANNOTATIONS_FILE, IMAGES_FILE, LEDGER_FILE, DISTANCES_FILE)
_SIDE_TABLES = {LEDGER_FILE: LEDGER_SCHEMA, DISTANCES_FILE: DISTANCES_SCHEMA}


class ImageWriter:
    """Writer of JPEGs to an Arrow file, in batches of a fixed size.

    The size of the batches is part of the bytes, and lets a reader compute the batch of a row instead of searching it.
    """

    def __init__(self, path: Path) -> None:
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._sink, IMAGES_SCHEMA)
        self._waiting: list[bytes] = []
        self.count = 0

    def append(self, jpeg: bytes) -> None:
        """Add one record."""
        self._waiting.append(jpeg)
        self.count += 1
        if len(self._waiting) == BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        batch = pa.record_batch([pa.array(self._waiting, pa.binary())], schema=IMAGES_SCHEMA)
        self._writer.write_batch(batch)
        self._waiting = []

    def __enter__(self) -> "ImageWriter":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            if kind is None:
                if self._waiting:
                    self._flush()
                self._writer.close()
        finally:
            self._sink.close()


def write_tables(
    folder: Path,
    name: tuple[str, str],
    arrays: dict[str, np.ndarray],
    side_tables: Mapping[str, Iterable[tuple]],
    metadata: dict[str, str],
) -> tuple[dict[str, str], int]:
    """Write the tables of one sequence beside its images.

    Args:
        folder: Holds the images.
        name: Subject and sequence, the first columns of both side tables.
        arrays: The annotations, one array (N, *shape) per column.
        side_tables: LEDGER_FILE and DISTANCES_FILE to their rows without these columns.
        metadata: Text metadata of all tables.

    Returns:
        Digests by file and the size in bytes of the shard, as in its `SequenceInfo`.
    """
    write_parquet(to_arrow(arrays, metadata), folder / ANNOTATIONS_FILE)
    for file, schema in _SIDE_TABLES.items():
        records = [dict(zip(schema.names, (*name, *row), strict=True)) for row in side_tables[file]]
        write_parquet(pa.Table.from_pylist(records, schema).replace_schema_metadata(metadata), folder / file)
    files = {file: folder / file for file in SHARD_FILES}
    digests = {file: sha256_file(path) for file, path in files.items()}
    return digests, sum(path.stat().st_size for path in files.values())


def write_parquet(table: pa.Table, path: Path) -> None:
    """Write a table with the fixed options of all tables of a shard, so that its bytes depend on the contents alone."""
    text = [field.name for field in table.schema if pa.types.is_string(field.type)]
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=3,
        row_group_size=ROW_GROUP_ROWS,
        use_dictionary=text,
        write_statistics=True,
        version="2.6",
    )


class ShardSet:
    """Annotations of several sequences in one table, and random access to their images.

    `table` holds the annotations plus `shard_id` (index into `directories`) and `row_in_shard`. Instances can be
    pickled: each process opens its own memory maps on first use.
    """

    def __init__(self, directories: Sequence[Path], table: pa.Table, source: str) -> None:
        self.directories = list(directories)
        self.table = table
        self.source = source
        self._shard = table.column("shard_id").to_numpy()
        self._row = table.column("row_in_shard").to_numpy()
        self._maps: dict[int, _ImageMap] = {}

    def __len__(self) -> int:
        return len(self.table)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_maps": {}}  # a memory map belongs to its process; loader workers map again

    def column(self, name: str) -> np.ndarray:
        """Return a column as an array (N, *shape)."""
        return as_numpy(self.table, name)

    def select(self, rows: np.ndarray) -> "ShardSet":
        """Select rows by a boolean mask (N,) or by row numbers."""
        rows = np.asarray(rows)
        picked = np.flatnonzero(rows) if rows.dtype == bool else rows
        return ShardSet(self.directories, self.table.take(pa.array(picked)), self.source)

    def jpeg(self, index: int) -> bytes:
        """Return the encoded crop of one row.

        Raises:
            DataError: The image file is damaged.
        """
        shard = int(self._shard[index])
        if shard not in self._maps:
            self._maps[shard] = _ImageMap(self.directories[shard] / IMAGES_FILE)
        return self._maps[shard].record(int(self._row[index]))


class _ImageMap:
    """Records of one memory-mapped Arrow file, found by offset.

    Processes share the pages of a map, and nothing is read before a record is used. Each map holds one file descriptor
    until its process ends, so it is opened at the first record, not with the table. Only the offsets and the buffer of
    each batch are kept, because slicing them takes half the time of an Arrow scalar.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = pa.memory_map(str(path), "r")
            reader = pa.ipc.open_file(self._file)
            batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: damaged or missing ({error}); run the conversion again.") from None
        self._parts = []
        for batch in batches:
            _, offsets, data = batch.column(0).buffers()
            starts = np.frombuffer(offsets, np.int32, len(batch) + 1) if len(batch) else np.zeros(1, np.int32)
            self._parts.append((starts, memoryview(data) if data is not None else memoryview(b"")))

    def record(self, row: int) -> bytes:
        part, index = divmod(row, BATCH_ROWS)
        if part >= len(self._parts) or index + 1 >= len(self._parts[part][0]):
            raise DataError(f"{self._path}: has no record {row}; run the conversion again.")
        starts, data = self._parts[part]
        return bytes(data[starts[index] : starts[index + 1]])


def open_shards(
    shards_dir: str | Path,
    subjects: Iterable[str] | None = None,
    columns: Sequence[str] | None = None,
    sequences: Iterable[str] | None = None,
) -> ShardSet:
    """Open converted sequences for reading.

    Args:
        shards_dir: Folder with a folder per subject; the URL of a published one is copied to the local cache.
        subjects: Names; None for all that have a manifest. Subjects without samples contribute none.
        columns: Annotation columns to read; None for all.
        sequences: Names of the sequences to read; None for all that the manifests list.

    Raises:
        ConfigError: The folder or a requested subject is missing.
        DataError: A shard is damaged, its row count differs from the manifest, or sources are mixed.
    """
    root = local_copy(shards_dir)
    if not root.is_dir():
        raise ConfigError(f"shards folder {root} does not exist; `hawor-pipeline prepare` creates it.")
    present = converted_names(root)
    wanted = present if subjects is None else list(subjects)
    for subject in wanted:
        if subject not in present:
            raise ConfigError(
                f"no shards of {subject} in {root} (has {', '.join(present) or 'none'}); convert it first."
            )
    chosen = None if sequences is None else set(sequences)
    directories: list[Path] = []
    tables: list[pa.Table] = []
    sources: set[str] = set()
    for subject in wanted:
        manifest = read_manifest(root, subject) or Manifest()
        if manifest.sequences:
            sources.add(manifest.source)
        for entry in manifest.sequences:
            if chosen is not None and entry.sequence not in chosen:
                continue
            directory = root / subject / entry.sequence
            tables.append(_read_annotations(directory, entry.rows, columns, len(directories)))
            directories.append(directory)
    if len(sources) > 1:
        raise DataError(f"{root}: holds shards of {' and '.join(sorted(sources))}; keep them in separate folders.")
    table = pa.concat_tables(tables) if tables else _empty(columns)
    return ShardSet(directories, table, sources.pop() if sources else "")


def _read_annotations(directory: Path, rows: int, columns: Sequence[str] | None, shard_id: int) -> pa.Table:
    path = directory / ANNOTATIONS_FILE
    table = _read_parquet(path, None if columns is None else list(columns))
    if len(table) != rows:
        raise DataError(f"{path}: {len(table)} rows, the manifest lists {rows}; run the conversion again.")
    return _with_position(table, shard_id)


def _read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns, partitioning=None).replace_schema_metadata(None)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: damaged or missing ({error}); run the conversion again.") from None


def _with_position(table: pa.Table, shard_id: int) -> pa.Table:
    count = len(table)
    table = table.append_column("shard_id", pa.array(np.full(count, shard_id, np.int32)))
    return table.append_column("row_in_shard", pa.array(np.arange(count, dtype=np.int32)))


def _empty(columns: Sequence[str] | None) -> pa.Table:
    empty = annotations_schema({}).remove_metadata().empty_table()
    return _with_position(empty.select(list(columns)) if columns is not None else empty, 0)


def read_side_tables(shards_dir: str | Path, subjects: Iterable[str], name: str) -> pa.Table:
    """Read one of the small tables (ledger, distances) of all sequences that the manifests list.

    Args:
        shards_dir: Folder with a folder per subject.
        subjects: Names; those without a manifest contribute nothing.
        name: LEDGER_FILE or DISTANCES_FILE.
    """
    tables = [_SIDE_TABLES[name].empty_table()]
    for subject in subjects:
        for entry in (read_manifest(shards_dir, subject) or Manifest()).sequences:
            tables.append(_read_parquet(Path(shards_dir) / subject / entry.sequence / name))
    return pa.concat_tables(tables)


def shards_version(shards_dir: str | Path) -> str:
    """Return the version of a dataset: a hash over the data versions of all subjects that have samples.

    Raises:
        ConfigError: No subject is converted there.
    """
    manifests = read_manifests(local_copy(shards_dir))
    if not manifests:
        raise ConfigError(f"{shards_dir} holds no converted subject; `hawor-pipeline prepare` creates shards.")
    return hash_json({name: manifest.data_version for name, manifest in manifests.items() if manifest.rows})
