"""Other data sets to shards: what is still valid, what is to be done, and the manifests."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hawor_pipeline.config import ConversionConfig, build
from hawor_pipeline.core.mano import find_mano
from hawor_pipeline.data.conversion_plan import (
    CONVERTER_VERSION,
    settings_that_matter,
    shard_is_whole,
    shared_key,
)
from hawor_pipeline.data.external.convert_unit import UnitTask, convert_unit
from hawor_pipeline.data.external.labels import Reader, Unit
from hawor_pipeline.data.external.readers import open_reader
from hawor_pipeline.data.hand_geometry import hash_hand_models
from hawor_pipeline.data.pictures import pictures_state
from hawor_pipeline.data.pool import map_tasks
from hawor_pipeline.data.shard_schema import MANIFEST_FILE
from hawor_pipeline.data.shards import read_manifest
from hawor_pipeline.data.splits import PROTOCOLS_FILE, SPLITS, Protocol
from hawor_pipeline.errors import ConfigError, DataError, HaworError, nearest
from hawor_pipeline.provenance import atomic_write_json, find_done, hash_json

EXTERNAL_VERSION = 2  # raise it with every change of a reader that alters shards
_WORKER_MODULES = ["hawor_pipeline.data.external.convert_unit", "embreex.mesh_construction"]


def prepare_dataset(
    dataset: str,
    root: str | Path,
    output_dir: str | Path,
    mano_dir: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    subjects: Sequence[str] | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Convert a data set in its published layout; sequences that are done are kept.

    Args:
        dataset: freihand, ho3d, dexycb or interhand.
        root: where it is unpacked.
        output_dir: gets a folder per subject; one data set per folder.
        mano_dir: folder of the MANO models.
        settings: keys of ConversionConfig that differ from its defaults (`views` is of ARCTIC and has no meaning here).
        subjects: None for all.
        workers: processes; None for one per core.
        progress: called with (finished sequences, all sequences).

    Returns:
        rows, valid_rows, sequences, converted_sequences, reused_sequences, left_out by reason, subjects, bytes.

    Raises:
        ConfigError: data set, folder, subject or setting is wrong, or another data set is in `output_dir`.
        DataError: something is damaged or disagrees, or the disk is full. Finished sequences stay and are reused.
    """
    root, output, mano = Path(root), Path(output_dir), Path(mano_dir)
    config = build(ConversionConfig, settings or {}, origin="prepare")
    find_mano(mano, "right")
    reader = open_reader(dataset, root, mano)
    units = _chosen(reader, subjects, config)
    _check_folder(output, dataset)
    shared = {**shared_key(config, hash_hand_models(mano)), "dataset": [dataset, EXTERNAL_VERSION]}
    tasks, done = [], {}
    for unit in units:
        task = _task(reader, root, mano, unit, output, config, shared)
        info, _ = find_done(task.output, task.key)
        if info is not None and shard_is_whole(task.output, info):
            done[unit] = info
        else:
            tasks.append(task)
    reused = len(done)
    errors: list[HaworError] = []
    for finished, (task, outcome) in enumerate(map_tasks(convert_unit, tasks, workers, _WORKER_MODULES), reused + 1):
        if isinstance(outcome, HaworError):
            errors.append(outcome)
        else:
            done[task.unit] = outcome[0]
        if progress:
            progress(finished, len(units))
    _write_manifests(reader, output, done, config)
    if errors:
        more = f" {len(errors) - 1} more sequences failed." if len(errors) > 1 else ""
        raise DataError(f"{errors[0]}{more} {len(done)} of {len(units)} sequences are finished and will be reused")
    return _totals(output, dataset, done, len(tasks))


def _chosen(reader: Reader, subjects: Sequence[str] | None, config: ConversionConfig) -> list[Unit]:
    units = list(reader.units())
    known = sorted({unit.subject for unit in units})
    for subject in subjects or ():
        if subject not in known:
            found = ", ".join(known)
            raise ConfigError(f"unknown subject {subject!r} of {reader.name}; found {found}.{nearest(subject, known)}")
    taken: dict[str, int] = {}
    chosen = []
    for unit in units:
        wanted = (not subjects or unit.subject in subjects) and (
            config.sequences is None or unit.sequence in config.sequences
        )
        taken[unit.subject] = taken.get(unit.subject, 0) + wanted
        if wanted and taken[unit.subject] <= (config.max_sequences_per_subject or len(units)):
            chosen.append(unit)
    if not chosen:
        raise ConfigError(f"no sequence of {reader.name} was chosen; it has {len(units)} of {len(known)} subjects")
    return chosen


def _check_folder(output: Path, dataset: str) -> None:
    for path in output.glob(f"*/{MANIFEST_FILE}"):
        found = (read_manifest(output, path.parent.name) or {}).get("source")
        if found not in (None, dataset):
            raise ConfigError(f"{output} holds {found} shards; {dataset} needs a folder of its own")


def _task(
    reader: Reader, root: Path, mano: Path, unit: Unit, output: Path, config: ConversionConfig, shared: dict[str, Any]
) -> UnitTask:
    """A task with the key of its sequence: settings, models, versions, and the state of its files."""
    labels = [[path.name, (found := path.stat()).st_size, found.st_mtime_ns] for path in reader.label_files(unit)]
    pictures = pictures_state(shot.picture for shot in reader.shots(unit))
    key = hash_json({**shared, "labels": labels, "pictures": pictures, "unit": [unit.subject, unit.sequence]})
    folder = output / unit.subject / unit.sequence
    return UnitTask(reader.name, root, mano, unit, folder, config, shared, key)


def _write_manifests(
    reader: Reader, output: Path, done: Mapping[Unit, dict[str, Any]], config: ConversionConfig
) -> None:
    """A manifest per subject; sequences of earlier calls under the same settings stay in it."""
    for subject in sorted({unit.subject for unit in done}):
        before = read_manifest(output, subject) or {}
        same = before.get("settings") == settings_that_matter(config)
        entries = {entry["sequence"]: entry for entry in before.get("sequences", ()) if same}
        mine = {unit.sequence: info for unit, info in done.items() if unit.subject == subject}
        entries.update({name: {"sequence": name, **info} for name, info in mine.items()})
        listed = [entries[name] for name in sorted(entries)]
        manifest = {
            "subject": subject,
            "source": reader.name,
            "status": "present",
            "reason": "",
            "converter_version": CONVERTER_VERSION,
            "settings": settings_that_matter(config),
            "data_version": hash_json([entry["data_version"] for entry in listed]),
            "rows": sum(entry["rows"] for entry in listed),
            "valid_rows": sum(entry["valid_rows"] for entry in listed),
            "sequences": listed,
            "left_out_sequences": [],
        }
        if manifest != before:
            atomic_write_json(output / subject / MANIFEST_FILE, manifest)
    if done:
        _record_splits(reader, output)


def _record_splits(reader: Reader, output: Path) -> None:
    """The published split beside the shards, so that training knows it."""
    subjects = reader.splits()
    stated = f"{reader.name}'s publication" if subjects["val"] else f"{reader.name} states none by subject"
    protocol = Protocol(reader.name, (), subjects, {split: [] for split in SPLITS}, stated)
    atomic_write_json(output / PROTOCOLS_FILE, {reader.name: protocol.to_dict()})


def _totals(output: Path, dataset: str, done: Mapping[Unit, dict[str, Any]], converted: int) -> dict[str, Any]:
    left_out: dict[str, int] = {}
    for info in done.values():
        for reason, samples in info["left_out"].items():
            left_out[reason] = left_out.get(reason, 0) + samples
    return {
        "output_dir": str(output),
        "source": dataset,
        "subjects": sorted({unit.subject for unit in done}),
        "rows": sum(info["rows"] for info in done.values()),
        "valid_rows": sum(info["valid_rows"] for info in done.values()),
        "sequences": len(done),
        "converted_sequences": converted,
        "reused_sequences": len(done) - converted,
        "bytes": sum(info["bytes"] for info in done.values()),
        "left_out": dict(sorted(left_out.items())),
    }
