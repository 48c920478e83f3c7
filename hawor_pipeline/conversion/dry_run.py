"""The cost of a conversion before it starts: crops, disk and hours, measured on some of the user's own images.

The measured images are converted like all others, into a temporary folder that is removed. Two samples of different
size separate the cost of a sequence from the cost of an image. Damage is reported as a problem of its sequence, and the
estimate is made from the rest.
"""

import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hawor_pipeline.conversion.convert import plan_job
from hawor_pipeline.conversion.convert_sequence import convert_takes
from hawor_pipeline.conversion.decode import END_WITHIN, decode_image, has_end, thread_decoder
from hawor_pipeline.conversion.ledger import (
    NO_JOINTS,
    LedgerRow,
    count_reasons,
    limit_error,
    unmatched_rows,
    with_hand_losses,
    with_view_losses,
)
from hawor_pipeline.conversion.planning import ConversionJob
from hawor_pipeline.conversion.sequence_task import SequenceTask
from hawor_pipeline.errors import DataError
from hawor_pipeline.provenance import free_bytes
from hawor_pipeline.shards.manifest import SequenceInfo
from hawor_pipeline.shards.store import ImageWriter
from hawor_pipeline.sources.hand_models import load_hand_models
from hawor_pipeline.sources.image_files import ImageFile
from hawor_pipeline.sources.reader import Take
from hawor_pipeline.workers.pool import one_thread, usable_cores

_SEQUENCES = 3  # measured, spread over all that are to be converted
_FEW, _MANY = 2, 12  # images per view
_SPARE = 1.05  # rows, ledgers and rounding
_ENDS = 20_000  # images whose ends are checked, spread over all; seconds on a local disk


@dataclass(frozen=True, slots=True)
class _Sample:
    """One timed conversion of part of a sequence."""

    images: int  # that have ground truth
    crops: int
    bytes: int  # of the finished shard, without what is written once per file
    seconds: float


def dry_run(job: ConversionJob, subjects: Sequence[str], *, workers: int | None = None) -> dict[str, Any]:
    """Estimate the conversion of a job; nothing is written to the output folder.

    Returns:
        sequences_to_convert, sequences_reused, pictures, crops, gigabytes, free_gigabytes, enough_disk, hours, workers,
        region_decoding, measured (how the estimate was made), problems ("subject/sequence: error": of ARCTIC every raw
        file, zip and mesh, of other datasets every missing file that sequences share; of images and labels, those
        of the measured sequences, and the ends of images in `pictures_looked_at`), subjects_without_samples.

    Raises:
        ConfigError: subject or sequence not found, or the output folder cannot be used.
        DataError: the hand models, or files that all sequences share, are damaged.
    """
    plans = plan_job(job, subjects)
    tasks = [task for plan in plans for task in plan.tasks]
    problems = [f"{plan.subject}/{name}: {error}" for plan in plans for name, error in plan.errors.items()]
    if not any(plan.tasks or plan.done or plan.errors or plan.keeps_manifest for plan in plans):
        problems += [f"{plan.subject}: {plan.reason}" for plan in plans]
    if tasks:
        load_hand_models(job.mano_dir, job.reader.convention)  # damage in them is no problem of a sequence
    counts, unreadable = _count(job, tasks)
    readable = [task for task in tasks if task.output in counts]
    checked, cut_short = _check_ends(job, readable)
    processes = max(1, min(workers or usable_cores(), len(counts) or 1))
    cost, damaged = _measure(job, readable)
    finished = [info for plan in plans for info in plan.done.values()]
    if (finished or cost.measured) and not (damaged or cost.crops_per_image or any(info.rows for info in finished)):
        damaged = ["no sample would be made: no hand of the measured images and of finished sequences gets a crop"]
    images = sum(counts.values())
    crops = round(cost.crops_per_image * images)
    size = crops * cost.bytes_per_crop * _SPARE
    free = free_bytes(job.output)
    seconds = (cost.seconds_per_sequence * len(counts) + cost.seconds_per_image * images) / processes
    return {
        "source": job.reader.source,
        "image_source": job.reader.image_source,
        "sequences_to_convert": len(tasks),
        "sequences_reused": len(finished),
        "pictures": images,
        "crops": crops,
        "gigabytes": round(size / 1e9, 3),
        "free_gigabytes": round(free / 1e9, 1),
        "enough_disk": size < free,
        "hours": round(seconds / 3600, 3),
        "workers": processes,
        "region_decoding": thread_decoder().decodes_regions,
        "measured": cost.measured,
        "pictures_looked_at": checked,
        "problems": [*problems, *unreadable, *dict.fromkeys(cut_short + damaged)],
        "subjects_without_samples": {plan.subject: plan.reason for plan in plans if plan.reason},
    }


def _count(job: ConversionJob, tasks: Sequence[SequenceTask]) -> tuple[dict[Path, int], list[str]]:
    """Return output folder to images that have ground truth, and the problems of what cannot be read."""
    counts, problems = {}, []
    for task in tasks:
        if not job.reader.records_views:  # every image is labelled or in the ledger; no label is opened
            counts[task.output] = sum(map(len, job.reader.images(task.ref, task.settings.views).values()))
            continue
        try:
            (take,) = job.reader.takes(task.ref, None, task.settings.views)
        except DataError as error:
            problems.append(f"{task.ref}: {error}")
            continue
        counts[task.output] = _matched(take)
        lacking = _lacking(task, take)
        if lacking is not None:
            problems.append(str(lacking))
    return counts, problems


def _matched(take: Take) -> int:
    """Count the images of a take that have ground truth."""
    known = range(take.first_frame, take.first_frame + len(take))
    return sum(frame in known for images in take.images.values() for frame in images)


def _lacking(task: SequenceTask, take: Take) -> DataError | None:
    """Return the error that a conversion would end with for missing images or ground truth; the rest is not known."""
    ledger = [
        row for view, images in take.images.items() for row in unmatched_rows(view, images, take.first_frame, len(take))
    ]
    count = sum(map(len, take.images.values()))
    info = SequenceInfo(rows=count, ground_truth_frames=len(take), left_out=count_reasons(ledger))
    return limit_error(str(task.ref), with_view_losses(info, ledger), task.settings, task.recorded_views)


def _lost_labels(job: ConversionJob, task: SequenceTask) -> list[str]:
    """Return the error that a conversion would end with for hands without image or joints; no image is opened."""
    rows, ledger = 0, []
    for take in job.reader.takes(task.ref, task.labels, task.settings.views):
        view = next(iter(take.cameras))
        ledger += [LedgerRow(view, take.first_frame, side, reason, 1) for side, reason in take.unlabelled]
        checked = [labels.can_be_checked for labels in take.hands.values()]
        ledger += [LedgerRow(view, take.first_frame, "", NO_JOINTS, 1)] * checked.count(False)
        rows += checked.count(True)
    info = with_hand_losses(SequenceInfo(rows=rows, left_out=count_reasons(ledger)), ledger, ())
    error = limit_error(str(task.ref), info, task.settings, ())
    return [] if error is None else [str(error)]


def _check_ends(job: ConversionJob, tasks: Sequence[SequenceTask]) -> tuple[int, list[str]]:
    """Return how many unpacked images were checked, and the problems of those that are cut short.

    Those in zips are not checked: a zip that is cut short has lost its index, which is found without reading images.
    """
    files = [
        (task, image)
        for task in tasks
        for images in job.reader.images(task.ref, task.settings.views).values()
        for image in images.values()
        if not image.member
    ]
    chosen = files[:: max(1, -(-len(files) // _ENDS))]
    suspects = [(task, image) for task, image in chosen if not _has_end(image)]
    return len(chosen), [f"{task.ref}: {error}" for task, image in suspects for error in _damage(image, None)]


def _has_end(image: ImageFile) -> bool:
    try:
        with image.path.open("rb") as file:
            file.seek(max(0, image.path.stat().st_size - END_WITHIN))
            return has_end(file.read())
    except OSError:
        return False


def _damage(image: ImageFile, size: tuple[int, int] | None) -> list[DataError]:
    """Return why an image cannot be converted; empty where it can."""
    try:
        decode_image(image.read(), image, size)
    except DataError as error:
        return [error]
    return []


@dataclass(frozen=True, slots=True)
class _Cost:
    seconds_per_sequence: float
    seconds_per_image: float
    crops_per_image: float
    bytes_per_crop: float
    measured: dict[str, Any]


def _measure(job: ConversionJob, tasks: Sequence[SequenceTask]) -> tuple[_Cost, list[str]]:
    """Convert parts of some sequences in this process, with one thread as every worker has.

    Returns:
        The cost, and the problems of damaged images; the cost is that of the others.
    """
    problems: list[str] = []
    spread: Sequence[int] = np.linspace(0, len(tasks) - 1, _SEQUENCES).round().astype(int).tolist() if tasks else []
    picked = [tasks[index] for index in dict.fromkeys(spread)]
    few, many = [], []
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        for number, task in enumerate(picked):
            try:
                labelled = replace(task, labels=job.reader.labels_of(task.ref))
                if not number:
                    _convert_part(job, labelled, (_FEW, 1), Path(folder), problems)  # libraries and models load now
                less = _convert_part(job, labelled, (_FEW, 2), Path(folder), problems)
                many.append(_convert_part(job, labelled, (_MANY, 3), Path(folder), problems))
                few.append(less)
                problems += [] if job.reader.records_views else _lost_labels(job, labelled)
            except DataError as error:
                problems.append(f"{task.ref}: {error}")
    if not few:
        return _Cost(0.0, 0.0, 0.0, 0.0, {}), problems
    images = sum(s.images for s in many)
    more = images - sum(s.images for s in few)
    seconds = sum(s.seconds for s in many) - sum(s.seconds for s in few)
    crops = sum(s.crops for s in many)
    per_image = max(seconds, 0.0) / max(more, 1)
    fixed = max(sum(s.seconds - per_image * s.images for s in few) / len(few), 0.0)
    per_crop = sum(s.bytes for s in many) / max(crops, 1)
    measured = {
        "sequences": [str(task.ref) for task in picked],
        "pictures": images,
        "milliseconds_per_picture": round(1e3 * per_image, 2),
        "seconds_per_sequence": round(fixed, 2),
        "kilobytes_per_crop": round(per_crop / 1e3, 1),
    }
    return _Cost(fixed, per_image, crops / max(images, 1), per_crop, measured), problems


def _convert_part(
    job: ConversionJob, task: SequenceTask, part: tuple[int, int], folder: Path, problems: list[str]
) -> _Sample:
    """Convert some images of each view, spread over the sequence; different starts take different ones.

    Damaged images are added to the problems, and the others are converted and timed again.

    Args:
        job: the conversion.
        task: the sequence, with its labels.
        part: images per view, and the first of them.
        folder: gets the crops.
        problems: gets the problems of damaged images.
    """
    views = job.reader.images(task.ref, task.settings.views)
    longest = max(map(len, views.values()))
    first = part[1] if longest >= sum(part) else 0  # a short view is taken whole
    chosen = slice(first, None, max(1, (longest - first) // part[0]))
    wanted = {view: set(list(images)[chosen]) for view, images in views.items()}
    try:
        return _convert_takes(job, task, wanted, folder)
    except DataError:
        damage = _drop_damaged(job, task, wanted)
        if not damage:
            raise
        problems += [f"{task.ref}: {error}" for error in damage]
    return _convert_takes(job, task, wanted, folder)


def _parts(takes: Iterable[Take], wanted: dict[int, set[int]]) -> Iterator[Take]:
    """Yield takes reduced to the wanted frames of each view; those without any are dropped."""
    for take in takes:
        images = {
            view: {frame: image for frame, image in found.items() if frame in wanted.get(view, ())}
            for view, found in take.images.items()
        }
        if any(images.values()):
            yield replace(take, images=images)


def _convert_takes(job: ConversionJob, task: SequenceTask, wanted: dict[int, set[int]], folder: Path) -> _Sample:
    """Convert the wanted frames of each view.

    Raises:
        DataError: an image or label is damaged.
    """
    began, taken = time.perf_counter(), 0

    def counted() -> Iterator[Take]:
        nonlocal taken
        for take in _parts(job.reader.takes(task.ref, task.labels, task.settings.views), wanted):
            taken += _matched(take)  # other images are skipped, and cost next to nothing
            yield take

    path = folder / "images.arrow"
    with ImageWriter(path) as writer:
        found = convert_takes(task, job.reader, counted(), writer)
    row_bytes = sum(values.nbytes for block in found.blocks for values in block.values()) / 2  # doubles become singles
    size = path.stat().st_size + round(row_bytes)
    return _Sample(taken, found.rows, size, time.perf_counter() - began)


def _drop_damaged(job: ConversionJob, task: SequenceTask, wanted: dict[int, set[int]]) -> list[DataError]:
    """Take the images that cannot be decoded, or have the wrong size, out of the wanted ones; return their errors."""
    errors = []
    for take in _parts(job.reader.takes(task.ref, task.labels, task.settings.views), wanted):
        for view, images in take.images.items():
            size = take.file_frame(view).size if take.hands else None
            for frame, image in images.items():
                if damage := _damage(image, size):
                    errors += damage
                    wanted[view].discard(frame)
    return errors
