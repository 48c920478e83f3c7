"""Import of the tars of `webdataset` as shards: every exported row, with equal columns and the same JPEG.

Tars are read once, in order, one sequence after another, so memory holds the labels of one sequence and no images. A
sequence appears by one rename and is then listed in its subject's manifest; an existing one is compared.
"""

import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import TypeAdapter

from hawor_pipeline.core.mano_convention import ManoConvention
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.provenance import hash_json, mark_done, staging_dir
from hawor_pipeline.shards.columns import Column
from hawor_pipeline.shards.manifest import (
    Manifest,
    SequenceEntry,
    SequenceInfo,
    find_shard,
    read_manifest,
    read_manifests,
    write_manifest,
)
from hawor_pipeline.shards.schema import COLUMNS, DISTANCES_FILE, IMAGES_FILE, LEDGER_FILE
from hawor_pipeline.shards.splits import PROTOCOLS_FILE, SplitProtocol, record_protocols, recorded_protocols
from hawor_pipeline.shards.store import SHARD_FILES, ImageWriter, write_tables
from hawor_pipeline.shards.webdataset import CARRIED, CHECKSUM, DISTANCE, Hand, Origin, Row, read_webdataset
from hawor_pipeline.sources.arctic import SIDES
from hawor_pipeline.sources.registry import convention_of_source
from hawor_pipeline.sources.sample_id import parse_sample_id
from hawor_pipeline.versions import IMPORT_VERSION

_ORIGIN = {field.name: field.type for field in fields(Origin)}
_PYTHON_TYPES = {pa.string(): str, pa.int32(): int, pa.float32(): float}
_POSITIVE = ("image_height", "image_width", "box_size_px")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # of a source, a subject or a sequence: one folder, no path
_CAMERA = ("intrinsics", "distortion", "cam_from_world")
_TRANSLATION = "translation_m"
_OF_HAMER = {"keypoints_2d": (21, 3), "keypoints_3d": (21, 4), "hand_pose": (48,), "betas": (10,)}


@dataclass(frozen=True, slots=True)
class Imported:
    """Result of an import."""

    output: Path
    tars: int
    sequences: int
    reused_sequences: int  # existed already, identical byte for byte
    samples: int


@dataclass(frozen=True, slots=True)
class _Sample:
    place: str  # tar and key, for messages
    jpeg: bytes
    row: Row
    origin: Origin
    distance_m: float | None

    @property
    def sequence(self) -> tuple[str, str]:
        return self.row["subject"], self.row["sequence"]

    @property
    def order(self) -> tuple[int, int, int]:
        """Return the sort key of the table of a shard."""
        return self.row["view"], SIDES.index(self.row["side"]), self.row["frame"]


class _AlreadyThereError(Exception):
    """Raised to drop the new copy of a shard that exists already, identical byte for byte."""


def import_webdataset(
    tars_dir: str | Path, output_dir: str | Path, *, progress: Callable[[int, int], None] | None = None
) -> Imported:
    """Create shards from the tars that `export_webdataset` wrote.

    Invalid rows were not exported and are missing; the ledger is empty. Therefore `data_version` is a new one, and the
    exported shard's is kept as `exported_data_version`.

    Args:
        tars_dir: Folder of numbered tars, and of the protocols if they were recorded.
        output_dir: Folder with a folder per subject; may hold shards of the same source and settings.
        progress: Called with (finished tars, all tars).

    Raises:
        ConfigError: There are no tars, or `output_dir` holds shards of another source, other settings or protocols.
        DataError: A tar is damaged, foreign, missing or out of order, an existing sequence differs, or the disk is
            full. Finished sequences stay and are reused by the next call.
    """
    tars, output = sorted(Path(tars_dir).glob("*.tar")), Path(output_dir)
    if not tars:
        raise ConfigError(f"{tars_dir} holds no .tar; expected the folder that `export-webdataset` wrote")
    protocols = recorded_protocols(tars_dir)
    _check_protocols(output, protocols)
    done: dict[tuple[str, str], bool] = {}
    samples = 0
    for name, of_sequence in groupby(_read(tars, progress), key=lambda sample: sample.sequence):
        if name in done:
            raise DataError(
                f"{tars_dir}: {'/'.join(name)} appears again after another sequence; expected the tars of one export, "
                "in its order and under its names. Export again."
            )
        rows, done[name] = _import_sequence(output, name, of_sequence)
        samples += rows
    if not done:
        raise DataError(f"{tars_dir}: the tars hold no sample; export them again.")
    record_protocols(output, protocols)
    return Imported(output, len(tars), len(done), sum(done.values()), samples)


def _check_protocols(output: Path, protocols: dict[str, SplitProtocol]) -> None:
    found = recorded_protocols(output)
    if found and found != protocols:
        raise ConfigError(
            f"{output / PROTOCOLS_FILE} states other splits than the tars ({', '.join(found)} there, "
            f"{', '.join(protocols) or 'none'} beside the tars); choose another output folder"
        )


def _read(tars: list[Path], progress: Callable[[int, int], None] | None) -> Iterator[_Sample]:
    for number, path in enumerate(tars, 1):
        for key, jpeg, hands in read_webdataset([path]):
            yield _sample(f"{path}:{key}", jpeg, hands)
        if progress:
            progress(number, len(tars))


def _sample(place: str, jpeg: bytes, hands: list[Hand]) -> _Sample:
    """Check one sample field by field.

    Raises:
        DataError: It was not written by `export_webdataset` as it is now.
    """
    extra = hands[0].get("extra_info", {}) if hands else {}
    if not isinstance(extra, dict):
        extra = {}
    _check_is_ours(place, extra)
    if len(hands) != 1:
        raise DataError(f"{place}: holds {len(hands)} hands, expected one; export again.")
    hand = hands[0]
    row = {name: _checked(place, name, extra[name]) for name in CARRIED}
    recorded = {name: _of_type(place, name, extra[name], kind) for name, kind in _ORIGIN.items() if name in extra}
    row |= _from_name(place, row["sample_id"]) | _from_hamer_fields(place, hand)
    _check_values(place, jpeg, row, extra, recorded["source"])
    distance = _of_type(place, DISTANCE, extra[DISTANCE], float) if DISTANCE in extra else None
    return _Sample(place, jpeg, row, Origin(**recorded), distance)


def _check_is_ours(place: str, extra: Hand) -> None:
    known = {*extra, "hand_models", "convention"}  # the last two are not in earlier tars
    missing = [name for name in (*CARRIED, *_ORIGIN) if name not in known]
    if not missing:
        return
    parts = {
        "the camera": [name for name in _CAMERA if name in missing],
        "the translation": [_TRANSLATION] if _TRANSLATION in missing else [],
        "other values": [name for name in missing if name not in (*_CAMERA, _TRANSLATION)],
    }
    lacking = "; ".join(f"{what} ({', '.join(names)})" for what, names in parts.items() if names)
    raise DataError(
        f"{place}: cannot become a row of a shard, its extra_info lacks {lacking}. Expected a tar of this version's "
        "`export-webdataset`: export again. Tars published by others, HaMeR's among them, lack these for good."
    )


def _checked(place: str, name: str, value: Any) -> Any:
    """Return a value of `extra_info` if it has the column's shape and type."""
    column = COLUMNS[name]
    if not column.shape:
        return _of_type(place, name, value, _PYTHON_TYPES[column.kind])
    return _array(place, name, value, column.shape, np.dtype(column.kind.to_pandas_dtype()))


def _check_values(place: str, jpeg: bytes, row: Row, extra: Hand, source: str) -> None:
    """Refuse values that no export has: another sample's image, names that are paths, numbers out of range."""
    if CHECKSUM in extra and zlib.crc32(jpeg) != extra[CHECKSUM]:
        raise DataError(f"{place}: the image is not the one that was exported with these labels; export again.")
    for kind, name in (("source", source), ("subject", row["subject"]), ("sequence", row["sequence"])):
        if not _NAME.fullmatch(name):
            raise DataError(f"{place}: {kind} is {name!r}, expected letters, digits, '.', '_' and '-'; export again.")
    for name, value in row.items():
        numbers = np.asarray(value)
        if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
            raise DataError(f"{place}: {name} holds values that are not finite; export again.")
        if type(value) is int and not _holds(COLUMNS[name], value):
            raise DataError(f"{place}: {name} is {value}, which its column cannot hold; export again.")
    for name in _POSITIVE:
        if row[name] <= 0:
            raise DataError(f"{place}: {name} is {row[name]}, expected a number above 0; export again.")


def _holds(column: Column, value: int) -> bool:
    limits = np.iinfo(column.kind.to_pandas_dtype())
    return int(limits.min) <= value <= int(limits.max)


def _array(place: str, name: str, value: Any, shape: tuple[int, ...], kind: np.dtype) -> np.ndarray:
    if isinstance(value, np.ndarray) and value.shape == shape and value.dtype == kind:
        return value
    found = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
    raise DataError(f"{place}: {name} is {found}, expected {kind} {shape}; export again.")


def _of_type(place: str, name: str, value: Any, kind: Any) -> Any:
    if type(value) is not kind:
        raise DataError(f"{place}: {name} is {value!r}, expected {kind.__name__}; export again.")
    return value


def _from_name(place: str, sample_id: str) -> Row:
    found = parse_sample_id(sample_id)
    if found is None:
        raise DataError(f"{place}: sample_id is {sample_id!r}, expected subject/sequence/view/frame/side")
    return {**found._asdict(), "is_right": found.side == "right", "valid": True, "skip_reason": ""}


def _from_hamer_fields(place: str, hand: Hand) -> dict[str, np.ndarray]:
    """Return the columns that HaMeR's own fields hold exactly."""
    float32 = np.dtype(np.float32)
    values = {name: _array(place, name, hand.get(name), shape, float32) for name, shape in _OF_HAMER.items()}
    return {
        "joint_in_frame": values["keypoints_2d"][:, 2] > 0,
        "joints_cam_m": values["keypoints_3d"][:, :3],
        "global_orient": values["hand_pose"][:3],
        "hand_pose": values["hand_pose"][3:],
        "betas_as_right": values["betas"],
    }


def _import_sequence(output: Path, name: tuple[str, str], samples: Iterator[_Sample]) -> tuple[int, bool]:
    """Publish one sequence and list it.

    Returns:
        (rows, whether it existed already).
    """
    first = next(samples)
    _check_folder(output, name[0], first.origin)
    final, reused = output.joinpath(*name), False
    key = hash_json(
        {"import": IMPORT_VERSION, "sequence": name, "exported": {n: getattr(first.origin, n) for n in _ORIGIN}}
    )
    with suppress(_AlreadyThereError), staging_dir(final) as folder:
        info = _write_shard(folder, name, first, samples, key)
        if final.exists():
            _check_same(final, key, info)
            reused = True
            raise _AlreadyThereError
    _list_sequence(output, name, first.origin, info)
    return info.rows, reused


def _check_folder(output: Path, subject: str, origin: Origin) -> None:
    """Refuse to mix sources in a folder, or settings in a subject."""
    for name, manifest in read_manifests(output).items():
        difference = ""
        made_by, recorded, stated = manifest.converter_version, manifest.hand_models, _hand_models(origin)
        if manifest.source != origin.source:
            difference = f" holds {manifest.source} shards and the tars are of {origin.source}: the two never mix"
        elif name != subject:
            continue
        elif (made_by, manifest.settings) != (origin.converter_version, _from_json("settings", origin.settings)):
            difference = (
                " was converted with other settings or by another converter version than the tars "
                f"(version {made_by} there, {origin.converter_version} in the tars)"
            )
        elif recorded and stated and recorded != stated:
            difference = f" was converted with other hand models than the tars: {recorded} there, {stated} in the tars"
        if difference:
            raise ConfigError(f"{output / name}{difference}. Choose another output folder.")


def _hand_models(origin: Origin) -> dict[str, str] | None:
    """Return the digests of the hand models that tars state; None for tars older than that entry."""
    return _from_json("hand_models", origin.hand_models) if origin.hand_models else None


def _convention(origin: Origin) -> ManoConvention:
    """Return the convention that tars state; earlier ones belong to datasets whose convention is known."""
    if not origin.convention:
        return convention_of_source(origin.source)
    try:
        return TypeAdapter(ManoConvention).validate_json(origin.convention)
    except ValueError as error:
        raise DataError(f"the convention in the tars is damaged ({error}); export again.") from None


def _from_json(name: str, text: str) -> dict[str, Any]:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"the {name} in the tars are not JSON ({error}); export again.") from None


def _write_shard(
    folder: Path, name: tuple[str, str], first: _Sample, rest: Iterable[_Sample], key: str
) -> SequenceInfo:
    """Write the files of one sequence.

    Returns:
        Its counts and digests, as in a manifest.

    Raises:
        DataError: Samples are missing, out of order or of several exports.
    """
    rows = [first.row]
    distances = {_moment(first): first.distance_m}
    with ImageWriter(folder / IMAGES_FILE) as writer:
        writer.append(first.jpeg)
        before = first
        for sample in rest:
            _check_follows(before, sample)
            writer.append(sample.jpeg)
            rows.append(sample.row)
            distances[_moment(sample)] = sample.distance_m
            before = sample
    expected = first.origin.samples_in_sequence
    if len(rows) != expected:
        raise DataError(
            f"{before.place}: {'/'.join(name)} ends after {len(rows)} of {expected} samples; a tar is missing. "
            "Copy all tars of the export into the folder."
        )
    version = hash_json({"import": IMPORT_VERSION, "exported_data_version": first.origin.data_version})
    metadata = {
        "source": first.origin.source,
        "converter_version": str(first.origin.converter_version),
        "data_version": version,
        "exported_data_version": first.origin.data_version,
    }
    known = [(*moment, value) for moment, value in sorted(distances.items()) if value is not None]
    side_tables = {LEDGER_FILE: [], DISTANCES_FILE: known}
    sha256, size = write_tables(folder, name, _as_columns(rows), side_tables, metadata, writer.checksums)
    info = SequenceInfo(
        rows=len(rows),
        valid_rows=len(rows),
        ground_truth_frames=len({row["gt_index"] for row in rows}),
        data_version=version,
        exported_data_version=first.origin.data_version,
        sha256=sha256,
        bytes=size,
    )
    mark_done(folder, key, info.to_dict(), list(SHARD_FILES))
    return info


def _moment(sample: _Sample) -> tuple[int, str]:
    return sample.row["gt_index"], sample.row["side"]


def _check_follows(before: _Sample, sample: _Sample) -> None:
    if sample.origin != before.origin:
        raise DataError(
            f"{sample.place}: comes from another export than {before.place}; expected the tars of one export."
        )
    if sample.order <= before.order:
        raise DataError(
            f"{sample.place}: comes after {before.place}, expected rows by view, side and frame; "
            "use the tars in the order and under the names of one export."
        )


def _as_columns(rows: list[Row]) -> dict[str, np.ndarray]:
    """Stack rows into one array (N, *shape) per column."""
    return {
        name: np.array([row[name] for row in rows], column.kind.to_pandas_dtype()) for name, column in COLUMNS.items()
    }


def _check_same(final: Path, key: str, info: SequenceInfo) -> None:
    found, _ = find_shard(final, key)
    if found is None or found.sha256 != info.sha256:
        raise DataError(
            f"{final}: exists already and differs from the tars; nothing was changed. "
            "Remove it, or choose another output folder."
        )


def _list_sequence(output: Path, name: tuple[str, str], origin: Origin, info: SequenceInfo) -> None:
    """List a sequence in its subject's manifest, so that it is read."""
    subject, sequence = name
    before, stated = read_manifest(output, subject) or Manifest(), _hand_models(origin)
    entries = {entry.sequence: entry for entry in before.sequences} | {sequence: SequenceEntry.of(sequence, info)}
    manifest = Manifest(
        subject=subject,
        source=origin.source,
        converter_version=origin.converter_version,
        settings=_from_json("settings", origin.settings),
        left_out_sequences=before.left_out_sequences,
        hand_models=stated if not before.sequences or before.hand_models == stated else None,  # one entry for all
        convention=_convention(origin),
    )
    write_manifest(output, manifest.listing(entries[each] for each in sorted(entries)))
