"""What a conversion would cost, before it is begun: crops, disk and hours, measured on some of the user's own pictures.

The pictures measured are converted like all others, into a temporary folder that is removed. Two samples of different
size tell the cost of a sequence from the cost of a picture. What is damaged becomes a problem of its sequence, and the
estimate is made of the rest.
"""

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion.ledger import (
    NO_GROUND_TRUTH_AFTER,
    absent_views,
    counted_by_reason,
    left_out_error,
    unmatched_share,
    without_image,
)
from hawor_pipeline.conversion.output_folder import check_output, keep_without_raw, refuse_mixed_settings
from hawor_pipeline.conversion.plan import SubjectPlan, check_sequences, plan_subject, shared_key
from hawor_pipeline.errors import DataError
from hawor_pipeline.sources.arctic import ArcticRoot
from hawor_pipeline.sources.image_files import ImageFile
from hawor_pipeline.workers.pool import one_thread, usable_cores

if TYPE_CHECKING:
    from hawor_pipeline.conversion.convert_sequence import SequenceTask
    from hawor_pipeline.conversion.scene import Scene

_SEQUENCES = 3  # measured, spread over all that are to be converted
_FEW, _MANY = 2, 12  # pictures per view
_SPARE = 1.05  # rows, ledgers and rounding
_ENDS = 20_000  # pictures whose ends are looked at, spread over all; seconds on a local disk


@dataclass(frozen=True, slots=True)
class _Sample:
    """One timed conversion of part of a sequence."""

    images: int  # that have ground truth
    crops: int
    bytes: int  # of the finished shard, without what is written once per file
    seconds: float


def dry_run(
    arctic_root: str | Path | ArcticRoot,
    output_dir: str | Path,
    settings: ConversionConfig,
    *,
    subjects: Sequence[str] | None = None,
    mano_dir: str | Path | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Say what `prepare` with the same arguments would do; nothing is written to the output folder.

    Returns:
        sequences_to_convert, sequences_reused, pictures, crops, gigabytes, free_gigabytes, enough_disk, hours, workers,
        region_decoding, measured (how the estimate was made), problems ("subject/sequence: what would fail": every raw
        file, zip and mesh, and of the pictures those measured and those looked at), pictures_looked_at,
        subjects_without_samples.

    Raises:
        ConfigError: root, MANO, subject or sequence not found.
        DataError: the hand models, or `meta/misc.json`, are damaged.
    """
    from hawor_pipeline.conversion.decode import thread_decoder
    from hawor_pipeline.sources.hand_models import hash_hand_models, load_hand_models

    root, output = ArcticRoot.locate(arctic_root), Path(output_dir)
    chosen = list(root.subjects() if subjects is None else subjects)
    for subject in chosen:
        root.check_subject(subject)
    check_sequences(root, chosen, settings.sequences)
    check_output(root, output)
    mano = root.mano_dir(mano_dir)
    shared = shared_key(settings, hash_hand_models(mano))
    plans = [plan_subject(root, mano, s, output, settings, shared, settings.sequences) for s in chosen]
    tasks = [task for plan in plans for task in plan.tasks]
    refuse_mixed_settings(plans, output, settings, settings.sequences)
    problems = [f"{plan.subject}/{name}: {error}" for plan in plans for name, error in plan.errors.items()]
    keep_without_raw(plans, output)
    if not any(plan.tasks or plan.done or plan.errors or plan.keeps_manifest for plan in plans):
        problems += [f"{plan.subject}: {plan.reason}" for plan in plans]
    if tasks:
        load_hand_models(mano)  # damage in them is no problem of a sequence
    counts, unreadable = _count(root, tasks)
    looked_at, cut_short = _look_at_ends(root, [task for task in tasks if task.output in counts])
    processes = max(1, min(workers or usable_cores(), len(counts) or 1))
    cost, damaged = _measure([task for task in tasks if task.output in counts])
    problems += unreadable + list(dict.fromkeys(cut_short + damaged))
    images = sum(counts.values())
    crops = round(cost.crops_per_image * images)
    size = crops * cost.bytes_per_crop * _SPARE
    free = shutil.disk_usage(_existing(output)).free
    seconds = (cost.seconds_per_sequence * len(counts) + cost.seconds_per_image * images) / processes
    return {
        "source": root.source,
        "image_source": root.image_source,
        "sequences_to_convert": len(tasks),
        "sequences_reused": sum(len(plan.done) for plan in plans),
        "pictures": images,
        "crops": crops,
        "gigabytes": round(size / 1e9, 3),
        "free_gigabytes": round(free / 1e9, 1),
        "enough_disk": size < free,
        "hours": round(seconds / 3600, 3),
        "workers": processes,
        "region_decoding": thread_decoder().decodes_regions,
        "measured": cost.measured,
        "pictures_looked_at": looked_at,
        "problems": problems,
        "subjects_without_samples": _empty(plans),
    }


def _count(root: ArcticRoot, tasks: "list[SequenceTask]") -> tuple[dict[Path, int], list[str]]:
    """Output folder to pictures that have ground truth, and what cannot be read."""
    from hawor_pipeline.sources.object_mesh import load_object
    from hawor_pipeline.sources.raw_sequence import load_sequence

    counts, problems = {}, []
    for task in tasks:
        try:
            raw = load_sequence(root, task.subject, task.sequence)
            load_object(root, raw.object)
            offset = root.cameras(task.subject).ioi_offset
            images = {view: root.images(task.subject, task.sequence, view) for view in task.settings.views}
        except DataError as error:
            problems.append(_problem(task, error))
            continue
        counts[task.output] = sum(offset <= n < offset + len(raw) for found in images.values() for n in found)
        lacking = _without_images_error(task, images, offset, len(raw))
        if lacking is not None:
            problems.append(str(lacking))
    return counts, problems


def _without_images_error(
    task: "SequenceTask", images: dict[int, dict[int, ImageFile]], offset: int, frames: int
) -> DataError | None:
    """The error that a conversion would end with because pictures or ground truth are missing; the rest is not known.

    Args:
        task: the sequence.
        images: view to pictures by number.
        offset: number of the picture that shows ground truth 0.
        frames: of ground truth.
    """
    ledger = [row for view, found in images.items() for row in without_image(view, found, offset, frames)]
    ledger += [
        (view, n, "", NO_GROUND_TRUTH_AFTER, 2) for view, found in images.items() for n in found if n >= offset + frames
    ]
    info = {
        "rows": sum(map(len, images.values())),
        "ground_truth_frames": frames,
        "left_out": counted_by_reason(ledger),
        "unmatched_share": unmatched_share(ledger, frames),
        "unseen": 0,
        "absent_views": absent_views(ledger),
    }
    return left_out_error(f"{task.subject}/{task.sequence}", info, task.settings, task.recorded_views)


def _problem(task: "SequenceTask", what: object) -> str:
    return f"{task.subject}/{task.sequence}: {what}"


def _look_at_ends(root: ArcticRoot, tasks: "list[SequenceTask]") -> tuple[int, list[str]]:
    """How many unpacked pictures were looked at, and which of them are cut short.

    Those in zips are not: a zip that is cut short has lost its index, which is found without reading pictures.
    """
    files = [
        (task, image)
        for task in tasks
        for view in task.settings.views
        for image in root.images(task.subject, task.sequence, view).values()
        if not image.member
    ]
    chosen = files[:: max(1, -(-len(files) // _ENDS))]
    suspects = [(task, image) for task, image in chosen if not _has_end(image)]
    return len(chosen), [_problem(task, error) for task, image in suspects for error in _damage(image, None)]


def _has_end(image: ImageFile) -> bool:
    from hawor_pipeline.conversion.decode import END_WITHIN, has_end

    try:
        with image.path.open("rb") as file:
            file.seek(max(0, image.path.stat().st_size - END_WITHIN))
            return has_end(file.read())
    except OSError:
        return False


def _damage(image: ImageFile, size: tuple[int, int] | None) -> list[DataError]:
    """Why a picture cannot be converted; empty where it can."""
    from hawor_pipeline.conversion.decode import decode_image

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


def _measure(tasks: "list[SequenceTask]") -> tuple[_Cost, list[str]]:
    """Convert parts of some sequences in this process, with one thread as every worker has.

    Returns:
        The cost, and the problems of pictures that were damaged; the cost is that of the others.
    """
    problems: list[str] = []
    if not tasks:
        return _Cost(0.0, 0.0, 0.0, 0.0, {}), problems
    picked = [tasks[i] for i in np.unique(np.linspace(0, len(tasks) - 1, _SEQUENCES).round().astype(int))]
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        _convert_part(picked[0], _FEW, 1, Path(folder), problems)  # libraries are loaded and models read now
        few = [_convert_part(task, _FEW, 2, Path(folder), problems) for task in picked]
        many = [_convert_part(task, _MANY, 3, Path(folder), problems) for task in picked]
    images = sum(s.images for s in many) - sum(s.images for s in few)
    seconds = sum(s.seconds for s in many) - sum(s.seconds for s in few)
    crops = sum(s.crops for s in many)
    per_image = max(seconds, 0.0) / max(images, 1)
    fixed = sum(s.seconds - per_image * s.images for s in few) / len(few)
    cost = _Cost(
        max(fixed, 0.0),
        per_image,
        crops / max(sum(s.images for s in many), 1),
        sum(s.bytes for s in many) / max(crops, 1),
        {
            "sequences": [f"{task.subject}/{task.sequence}" for task in picked],
            "pictures": sum(s.images for s in many),
            "milliseconds_per_picture": round(1e3 * per_image, 2),
            "seconds_per_sequence": round(max(fixed, 0.0), 2),
            "kilobytes_per_crop": round(sum(s.bytes for s in many) / max(crops, 1) / 1e3, 1),
        },
    )
    return cost, problems


def _convert_part(task: "SequenceTask", images: int, start: int, folder: Path, problems: list[str]) -> _Sample:
    """Convert some pictures of each view, spread over the sequence; different starts take different ones.

    Damaged pictures are added to the problems, and the others are converted and timed again.
    """
    from hawor_pipeline.conversion.scene import open_scene

    began = time.perf_counter()
    root = ArcticRoot(task.root)
    longest = max(len(root.images(task.subject, task.sequence, view)) for view in task.settings.views)
    step = max(1, (longest - start) // images)
    part = slice(min(start, longest - 1), None, step)
    scene = open_scene(task.root, task.mano_dir, task.subject, task.sequence, task.settings.views, only=part)
    opened = time.perf_counter() - began
    try:
        return _convert_scene(task, scene, folder, opened)
    except DataError:
        problems += [_problem(task, error) for error in _drop_damaged(task, scene)]
    return _convert_scene(task, scene, folder, opened)


def _convert_scene(task: "SequenceTask", scene: "Scene", folder: Path, opened: float) -> _Sample:
    """Convert the pictures of a scene that took `opened` seconds to open.

    Raises:
        DataError: a picture is damaged.
    """
    from hawor_pipeline.conversion.convert_sequence import convert_views
    from hawor_pipeline.shards.store import ImageWriter

    began = time.perf_counter()
    path = folder / "images.arrow"
    with ImageWriter(path) as writer:
        blocks, _, _ = convert_views(task, scene, writer)
    known = range(scene.offset, scene.offset + len(scene.raw))  # others are left out, and cost next to nothing
    taken = sum(frame in known for images in scene.images.values() for frame in images)
    crops = sum(len(block["frame"]) for block in blocks)
    row_bytes = sum(values.nbytes for block in blocks for values in block.values()) / 2  # doubles become singles
    size = path.stat().st_size + round(row_bytes)
    return _Sample(taken, crops, size, opened + time.perf_counter() - began)


def _drop_damaged(task: "SequenceTask", scene: "Scene") -> list[DataError]:
    """Take the pictures that cannot be decoded, or have the wrong size, out of a scene; returns why."""
    from hawor_pipeline.conversion.image_frame import find_image_frame

    errors = []
    for view, images in scene.images.items():
        size = find_image_frame(ArcticRoot(task.root).image_source, scene.cameras[view], scene.object_vertices).size
        damage = {frame: _damage(image, size) for frame, image in images.items()}
        errors += [error for found in damage.values() for error in found]
        scene.images[view] = {frame: image for frame, image in images.items() if not damage[frame]}
    return errors


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _empty(plans: list[SubjectPlan]) -> dict[str, str]:
    return {plan.subject: plan.reason for plan in plans if plan.reason}
