"""Shards on disk: writing one sequence, and reading many.

    {shards}/{subject}/manifest.json                         sequences in force, row counts, sha256
    {shards}/{subject}/{sequence}/annotations.parquet        a row per hand, frame and view, sorted by view, side, frame
    {shards}/{subject}/{sequence}/images.arrow               record i is the JPEG of row i; memory-mapped
    {shards}/{subject}/{sequence}/ledger.parquet             skipped frames and hands, with the reason

Only sequences that a manifest lists are read, never one that is being written or belongs to older settings. Nothing is
read unchecked: tables are compared with the manifest's sha256 once per process and state of the file, and each JPEG
with the checksum in its row when it is read. So labels and images of different conversions are never combined, also in
a loader worker that maps the images after the shard was replaced.
"""

import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.core.box_rule import BoxRule
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.provenance import hash_json, sha256_file
from hawor_pipeline.remote import local_copy
from hawor_pipeline.shards.manifest import Manifest, SequenceEntry, converted_names, read_manifest, read_manifests
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

_CHECKSUMS = b"image_crc32"  # metadata of annotations.parquet: CRC-32 of each record, base64 of little-endian uint32
_FIRST_WITH_CHECKSUMS = 7  # converter version
SHARD_FILES = (ANNOTATIONS_FILE, IMAGES_FILE, LEDGER_FILE, DISTANCES_FILE)
_verified: dict[Path, tuple[tuple[int, ...], str]] = {}  # table -> its state and sha256, as it was compared
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
        self.checksums: list[int] = []  # CRC-32 of each record

    def append(self, jpeg: bytes) -> None:
        """Add one record."""
        self._waiting.append(jpeg)
        self.count += 1
        self.checksums.append(zlib.crc32(jpeg))
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
    checksums: Sequence[int],
) -> tuple[dict[str, str], int]:
    """Write the tables of one sequence beside its images.

    Args:
        folder: Holds the images.
        name: Subject and sequence, the first columns of both side tables.
        arrays: The annotations, one array (N, *shape) per column.
        side_tables: LEDGER_FILE and DISTANCES_FILE to their rows without these columns.
        metadata: Text metadata of all tables.
        checksums: CRC-32 of the image of each row.

    Returns:
        Digests by file and the size in bytes of the shard, as in its `SequenceInfo`.
    """
    coded = b64encode(np.asarray(checksums, "<u4").tobytes()).decode()
    write_parquet(to_arrow(arrays, {**metadata, _CHECKSUMS.decode(): coded}), folder / ANNOTATIONS_FILE)
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

    Args:
        directories: Folders of the sequences.
        table: Annotations of their rows.
        source: As in the manifests.
        checksums: By directory, CRC-32 of each of its records, (rows,), or the sha256 of its image file in shards of
            earlier versions; None leaves images unchecked.
    """

    def __init__(
        self,
        directories: Sequence[Path],
        table: pa.Table,
        source: str,
        checksums: Sequence[np.ndarray | str] | None = None,
    ) -> None:
        self.directories = list(directories)
        self.table = table
        self.source = source
        self.checksums = None if checksums is None else list(checksums)
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
        return ShardSet(self.directories, self.table.take(pa.array(picked)), self.source, self.checksums)

    def jpeg(self, index: int) -> bytes:
        """Return the encoded crop of one row.

        Raises:
            DataError: The image file is damaged, or not the one that the annotations were written with.
        """
        shard, row = int(self._shard[index]), int(self._row[index])
        expected = "" if self.checksums is None else self.checksums[shard]
        if shard not in self._maps:
            path = self.directories[shard] / IMAGES_FILE
            if isinstance(expected, str) and expected:
                check_file(path, expected)
            self._maps[shard] = _ImageMap(path)
        data = self._maps[shard].record(row)
        if not isinstance(expected, str) and zlib.crc32(data) != expected[row]:
            raise DataError(
                f"{self.directories[shard] / IMAGES_FILE}: record {row} is not the image of its row; the file is "
                "damaged, of another sequence, or was converted again after its annotations were read. Start again; if "
                f"the error stays, remove {self.directories[shard]} and run the conversion again."
            )
        return data


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
            if not reader.schema.equals(IMAGES_SCHEMA):
                raise DataError(f"{path}: has columns {reader.schema}, expected {IMAGES_SCHEMA}; convert again.")
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
    checksums: list[np.ndarray | str] = []
    sources: set[str] = set()
    for subject in wanted:
        manifest = read_manifest(root, subject) or Manifest()
        if manifest.sequences:
            sources.add(manifest.source)
        for entry in manifest.sequences:
            if chosen is not None and entry.sequence not in chosen:
                continue
            directory = root / subject / entry.sequence
            checked = manifest.converter_version >= _FIRST_WITH_CHECKSUMS
            table, checksum = _read_annotations(directory, entry, columns, len(directories), checked=checked)
            tables.append(table)
            checksums.append(checksum)
            directories.append(directory)
    if len(sources) > 1:
        raise DataError(f"{root}: holds shards of {' and '.join(sorted(sources))}; keep them in separate folders.")
    table = pa.concat_tables(tables) if tables else _empty(columns)
    return ShardSet(directories, table, sources.pop() if sources else "", checksums)


def _read_annotations(
    directory: Path, entry: SequenceEntry, columns: Sequence[str] | None, shard_id: int, *, checked: bool
) -> tuple[pa.Table, np.ndarray | str]:
    """Return the annotations of a sequence with their positions, and the checksums of its images.

    `checked` requires checksums; shards of earlier versions are compared with those that they have.
    """
    path = directory / ANNOTATIONS_FILE
    table = _read_parquet(path, entry, None if columns is None else list(columns))
    if len(table) != entry.rows:
        raise DataError(f"{path}: {len(table)} rows, the manifest lists {entry.rows}; run the conversion again.")
    stored = (table.schema.metadata or {}).get(_CHECKSUMS)
    if checked and (stored is None or not entry.sha256):
        raise DataError(f"{path}: it or its manifest has no checksums; run the conversion again.")
    checksums = entry.sha256.get(IMAGES_FILE, "") if stored is None else np.frombuffer(b64decode(stored), "<u4")
    return _with_position(table.replace_schema_metadata(None), shard_id), checksums


def check_file(path: Path, expected: str) -> bytes | None:
    """Compare a file with its sha256, once per process and state of the file.

    Returns:
        The contents, where they were read for it.

    Raises:
        DataError: It differs.
        OSError: It cannot be read.
    """
    state = path.stat()
    # the time of the last change of the inode cannot be set back, unlike that of the contents
    stamp = (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    if _verified.get(path) == (stamp, expected):
        return None
    data = path.read_bytes()
    found = sha256(data).hexdigest()
    if found != expected:
        raise DataError(
            f"{path}: differs from the file that the manifest lists (sha256 {found[:12]}, expected {expected[:12]}): "
            f"damaged, edited, or of another conversion. Remove {path.parent} and run the conversion again."
        )
    _verified[path] = stamp, found
    return data


def _read_parquet(path: Path, entry: SequenceEntry, columns: list[str] | None = None) -> pa.Table:
    """Read a table of a sequence, if it holds what the manifest lists."""
    try:
        expected = entry.sha256.get(path.name)
        data = check_file(path, expected) if expected else None
        return pq.read_table(path if data is None else pa.BufferReader(data), columns=columns, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: damaged or missing ({error}); run the conversion again.") from None


def verify_shards(shards_dir: str | Path) -> tuple[int, list[str]]:
    """Compare every file of all listed sequences with the sha256 in their manifests.

    Returns:
        Number of compared files, and a sentence for each file that differs.

    Raises:
        ConfigError: No subject is converted there.
        DataError: A manifest is damaged.
    """
    root, files, problems = local_copy(shards_dir), 0, []
    shards_version(root)
    for subject, manifest in read_manifests(root).items():
        for entry in manifest.sequences:
            for name, expected in entry.sha256.items():
                path, files = root / subject / entry.sequence / name, files + 1
                if not path.is_file():
                    problems.append(f"{path}: missing")
                elif sha256_file(path) != expected:
                    problems.append(f"{path}: differs from the file that was written")
    return files, problems


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
            table = _read_parquet(Path(shards_dir) / subject / entry.sequence / name, entry)
            tables.append(table.replace_schema_metadata(None))
    return pa.concat_tables(tables)


@dataclass(frozen=True, slots=True)
class StoredBoxes:
    """Bounding boxes of converted data, and the crops around them."""

    rule: BoxRule
    margin: float  # side of a crop over that of its box


def stored_boxes(shards_dir: str | Path, subjects: Iterable[str] | None = None) -> StoredBoxes:
    """Return the boxes of subjects that have samples, by default of all, as the settings in their manifests state them.

    A manifest that states none (it was not written by a conversion) has the default ones.

    Raises:
        DataError: They differ between subjects.
    """
    manifests, default = read_manifests(local_copy(shards_dir)), ConversionConfig()
    wanted = manifests if subjects is None else set(subjects) & set(manifests)
    settings = [manifests[name].settings for name in wanted if manifests[name].rows]
    found = {
        (float(each.get("box_scale", default.box_scale)), float(each.get("crop_margin", default.crop_margin)))
        for each in settings
    }
    if len(found) != 1:
        raise DataError(
            f"{shards_dir}: found (box_scale, crop_margin) {', '.join(map(str, sorted(found))) or 'of no subject'} in "
            "the settings of the manifests, expected one pair; convert all subjects with the same settings."
        )
    scale, margin = found.pop()
    return StoredBoxes(BoxRule(scale), margin)


def shards_version(shards_dir: str | Path) -> str:
    """Return the version of a dataset: a hash over the data versions of all subjects that have samples.

    Raises:
        ConfigError: No subject is converted there.
    """
    manifests = read_manifests(local_copy(shards_dir))
    if not manifests:
        raise ConfigError(f"{shards_dir} holds no converted subject; `hawor-pipeline prepare` creates shards.")
    return hash_json({name: manifest.data_version for name, manifest in manifests.items() if manifest.rows})
