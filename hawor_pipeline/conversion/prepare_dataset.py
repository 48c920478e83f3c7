"""Other data sets to shards: what is still valid, what is to be done, and the manifests."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hawor_pipeline.config import ConversionConfig, build
from hawor_pipeline.conversion.convert_unit import UnitTask, convert_unit, lost_hands_error
from hawor_pipeline.conversion.fingerprint import file_states
from hawor_pipeline.conversion.plan import (
    settings_that_matter,
    shared_key,
)
from hawor_pipeline.errors import ConfigError, DataError, HaworError, nearest
from hawor_pipeline.provenance import STAGE_FILE, atomic_write_json, hash_json
from hawor_pipeline.shards.manifest import (
    Manifest,
    SequenceEntry,
    SequenceInfo,
    SkippedSequence,
    find_shard,
    read_manifest,
    read_manifests,
    withdraw,
    write_manifest,
)
from hawor_pipeline.shards.splits import PROTOCOLS_FILE, SPLITS, SplitProtocol
from hawor_pipeline.sources.hand_models import digest_hand_models, hash_hand_models
from hawor_pipeline.sources.image_files import images_state
from hawor_pipeline.sources.reader import Reader, Unit
from hawor_pipeline.sources.registry import open_reader
from hawor_pipeline.untrusted.mano_files import find_mano
from hawor_pipeline.versions import CONVERTER_VERSION, EXTERNAL_VERSION
from hawor_pipeline.workers.engine import map_tasks

_WORKER_MODULES = ["hawor_pipeline.conversion.convert_unit", "embreex.mesh_construction"]


@dataclass(slots=True)
class _Plan:
    """Work on the chosen sequences, and what came of it."""

    chosen: list[Unit]
    tasks: list[UnitTask] = field(default_factory=list)
    done: dict[Unit, dict[str, Any]] = field(default_factory=dict)  # chosen and finished, to info
    earlier: dict[Unit, dict[str, Any]] = field(default_factory=dict)  # not chosen, but still in force
    errors: dict[Unit, HaworError] = field(default_factory=dict)


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
    config = build(ConversionConfig, settings or {}, origin="settings")
    find_mano(mano, "right")
    reader = open_reader(dataset, root, mano)
    units = list(reader.units())
    if not units:
        raise DataError(f"{root}: no sequence of {dataset} found; its labels or folders are empty. Unpack it again.")
    plan = _Plan(_chosen(reader.name, units, subjects, config))
    _check_folder(output, dataset)
    shared = {**shared_key(config, hash_hand_models(mano)), "dataset": [dataset, EXTERNAL_VERSION]}
    for unit in plan.chosen:
        try:
            _enter(plan, reader, _task(reader, root, mano, unit, output, config, shared))
        except DataError as error:
            plan.errors[unit] = error
    plan.earlier = _still_in_force(output, set(units) - set(plan.chosen), plan.chosen, hash_json(shared))
    for subject in {task.unit.subject for task in plan.tasks}:  # no manifest may vouch for what is being replaced
        withdraw(output, subject, {task.unit.sequence for task in plan.tasks if task.unit.subject == subject})
    outcomes = map_tasks(convert_unit, plan.tasks, workers, _WORKER_MODULES)
    for finished, (task, outcome) in enumerate(outcomes, len(plan.chosen) - len(plan.tasks) + 1):
        if isinstance(outcome, HaworError):
            plan.errors[task.unit] = outcome
        else:
            plan.done[task.unit] = outcome[0]
        if progress:
            progress(finished, len(plan.chosen))
    _check_left_out_again(plan, config)
    _write_manifests(reader, root, output, plan, config, digest_hand_models(mano))
    _raise_errors(plan)
    return _totals(output, dataset, plan.done, len(plan.tasks))


def _check_left_out_again(plan: _Plan, config: ConversionConfig) -> None:
    """A shard made under a more lenient limit must not pass a stricter one."""
    for finished in (plan.done, plan.earlier):
        for unit in list(finished):
            error = lost_hands_error(unit, finished[unit], config)
            if error is not None:
                plan.errors[unit] = error
                del finished[unit]


def _raise_errors(plan: _Plan) -> None:
    if plan.errors:
        more = f" {len(plan.errors) - 1} more sequences failed." if len(plan.errors) > 1 else ""
        finished = f"{len(plan.done)} of {len(plan.chosen)} sequences are finished and will be reused"
        raise DataError(f"{next(iter(plan.errors.values()))}{more} {finished}")


def _chosen(name: str, units: list[Unit], subjects: Sequence[str] | None, config: ConversionConfig) -> list[Unit]:
    known = sorted({unit.subject for unit in units})
    for subject in subjects or ():
        if subject not in known:
            found = ", ".join(known)
            raise ConfigError(f"unknown subject {subject!r} of {name}; found {found}.{nearest(subject, known)}")
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
        raise ConfigError(f"no sequence of {name} was chosen; it has {len(units)} of {len(known)} subjects")
    return chosen


def _check_folder(output: Path, dataset: str) -> None:
    for manifest in read_manifests(output).values():
        if manifest.source != dataset:
            raise ConfigError(f"{output} holds {manifest.source} shards; {dataset} needs a folder of its own")


def _task(
    reader: Reader, root: Path, mano: Path, unit: Unit, output: Path, config: ConversionConfig, shared: dict[str, Any]
) -> UnitTask:
    """A task with the key of its sequence: settings, models, versions, and the state of its files."""
    labels = file_states(reader.label_files(unit))
    images = images_state(reader.images(unit))
    key = hash_json({**shared, "labels": labels, "pictures": images, "unit": [unit.subject, unit.sequence]})
    folder = output / unit.subject / unit.sequence
    return UnitTask(reader.name, root, mano, unit, folder, config, shared, key)


def _enter(plan: _Plan, reader: Reader, task: UnitTask) -> None:
    """A sequence is finished, or there is a task to do, with its labels."""
    info, _ = find_shard(task.output, task.key)
    if info is not None:
        plan.done[task.unit] = info.to_dict()
    else:
        plan.tasks.append(replace(task, labels=reader.labels_of(task.unit)))


def _still_in_force(
    output: Path, others: set[Unit], chosen: Sequence[Unit], made_under: str
) -> dict[Unit, dict[str, Any]]:
    """Sequences that are not chosen, but that the manifests of the chosen subjects may go on to list.

    A manifest listed them, or took them out to replace them when it was killed; they are in the raw data still; and
    their shards were made under the present settings, models and versions.
    """
    found = {}
    for subject in {unit.subject for unit in chosen}:
        before = read_manifest(output, subject) or Manifest()
        names = {*before.names, *before.withdrawn}
        for unit in others:
            if unit.subject == subject and unit.sequence in names:
                info = _finished_under(output / subject / unit.sequence, made_under)
                if info is not None:
                    found[unit] = info
    return found


def _finished_under(folder: Path, made_under: str) -> dict[str, Any] | None:
    """Info of a whole shard that was made under these settings, models and versions, whatever its raw files are now."""
    try:
        key = json.loads((folder / STAGE_FILE).read_text())["key"]
    except (OSError, ValueError, KeyError):
        return None
    info, _ = find_shard(folder, key)
    return info.to_dict() if info is not None and info.made_under == made_under else None


def _write_manifests(
    reader: Reader, root: Path, output: Path, plan: _Plan, config: ConversionConfig, hand_models: dict[str, str]
) -> None:
    """A manifest per chosen subject: its finished sequences, also those of earlier calls, and why others are not."""
    finished = {**plan.earlier, **plan.done}
    for subject in sorted({unit.subject for unit in plan.chosen}):
        listed = [
            SequenceEntry.of(unit.sequence, SequenceInfo.from_dict(finished[unit]))
            for unit in sorted(finished, key=lambda unit: unit.sequence)
            if unit.subject == subject
        ]
        if not listed and read_manifest(output, subject) is None:
            continue
        manifest = Manifest(
            subject=subject,
            source=reader.name,
            converter_version=CONVERTER_VERSION,
            settings=settings_that_matter(config),
            left_out_sequences=tuple(
                SkippedSequence(unit.sequence, str(error).replace(f"{root}/", ""))
                for unit, error in sorted(plan.errors.items(), key=lambda item: item[0].sequence)
                if unit.subject == subject
            ),
            hand_models=hand_models,
        )
        write_manifest(output, manifest.listing(listed))
    if finished:
        _record_splits(reader, output)


def _record_splits(reader: Reader, output: Path) -> None:
    """The published split beside the shards, so that training knows it."""
    subjects = reader.splits()
    stated = f"{reader.name}'s publication" if subjects["val"] else f"{reader.name} states none by subject"
    protocol = SplitProtocol(reader.name, (), subjects, {split: [] for split in SPLITS}, stated)
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
