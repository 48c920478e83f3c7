"""What a conversion would cost, before it is begun: crops, disk and hours, measured on some of the user's own pictures.

The pictures measured are converted like all others, into a temporary folder that is removed. Two samples of different
size tell the cost of a sequence from the cost of a picture.
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
from hawor_pipeline.data.arctic import ArcticRoot
from hawor_pipeline.data.conversion_plan import SubjectPlan, check_sequences, plan_subject, shared_key
from hawor_pipeline.data.pool import one_thread, usable_cores
from hawor_pipeline.errors import DataError

if TYPE_CHECKING:
    from hawor_pipeline.data.convert_sequence import SequenceTask

_SEQUENCES = 3  # measured, spread over all that are to be converted
_FEW, _MANY = 2, 12  # pictures per view
_SPARE = 1.05  # rows, ledgers and rounding


@dataclass(frozen=True, slots=True)
class _Sample:
    """One timed conversion of part of a sequence."""

    pictures: int  # that have ground truth
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
        region_decoding, measured (how the estimate was made), problems (what would fail), subjects_without_samples.

    Raises:
        ConfigError: root, MANO, subject or sequence not found.
        DataError: a picture that was measured is damaged.
    """
    from hawor_pipeline.data.decode import thread_decoder
    from hawor_pipeline.data.hand_geometry import hash_hand_models

    root, output = ArcticRoot.locate(arctic_root), Path(output_dir)
    chosen = list(root.subjects() if subjects is None else subjects)
    for subject in chosen:
        root.check_subject(subject)
    check_sequences(root, chosen, settings.sequences)
    mano = root.mano_dir(mano_dir)
    shared = shared_key(settings, hash_hand_models(mano))
    plans = [plan_subject(root, mano, s, output, settings, shared, settings.sequences) for s in chosen]
    tasks = [task for plan in plans for task in plan.tasks]
    problems = [str(error) for plan in plans for error in plan.errors.values()]
    counts, unreadable = _count(root, tasks)
    problems += unreadable
    processes = max(1, min(workers or usable_cores(), len(counts) or 1))
    cost = _measure([task for task in tasks if task.output in counts]) if counts else _Cost(0.0, 0.0, 0.0, 0.0, {})
    pictures = sum(counts.values())
    crops = round(cost.crops_per_picture * pictures)
    size = crops * cost.bytes_per_crop * _SPARE
    free = shutil.disk_usage(_existing(output)).free
    seconds = (cost.seconds_per_sequence * len(counts) + cost.seconds_per_picture * pictures) / processes
    return {
        "source": root.source,
        "image_source": root.image_source,
        "sequences_to_convert": len(tasks),
        "sequences_reused": sum(len(plan.done) for plan in plans),
        "pictures": pictures,
        "crops": crops,
        "gigabytes": round(size / 1e9, 3),
        "free_gigabytes": round(free / 1e9, 1),
        "enough_disk": size < free,
        "hours": round(seconds / 3600, 3),
        "workers": processes,
        "region_decoding": bool(thread_decoder().ways),
        "measured": cost.measured,
        "problems": problems,
        "subjects_without_samples": _empty(plans),
    }


def _count(root: ArcticRoot, tasks: "list[SequenceTask]") -> tuple[dict[Path, int], list[str]]:
    """Output folder to pictures that have ground truth, and what cannot be read."""
    from hawor_pipeline.data.raw_sequence import load_sequence

    counts, problems = {}, []
    for task in tasks:
        try:
            frames = len(load_sequence(root, task.subject, task.sequence))
            offset = root.cameras(task.subject).ioi_offset
            numbers = [n for v in task.settings.views for n in root.pictures(task.subject, task.sequence, v)]
        except DataError as error:
            problems.append(str(error))
            continue
        counts[task.output] = sum(offset <= number < offset + frames for number in numbers)
    return counts, problems


@dataclass(frozen=True, slots=True)
class _Cost:
    seconds_per_sequence: float
    seconds_per_picture: float
    crops_per_picture: float
    bytes_per_crop: float
    measured: dict[str, Any]


def _measure(tasks: "list[SequenceTask]") -> _Cost:
    """Convert parts of some sequences in this process, with one thread as every worker has."""
    picked = [tasks[i] for i in np.unique(np.linspace(0, len(tasks) - 1, _SEQUENCES).round().astype(int))]
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        _convert_part(picked[0], _FEW, 1, Path(folder))  # libraries are loaded and models read now
        few = [_convert_part(task, _FEW, 2, Path(folder)) for task in picked]
        many = [_convert_part(task, _MANY, 3, Path(folder)) for task in picked]
    pictures = sum(s.pictures for s in many) - sum(s.pictures for s in few)
    seconds = sum(s.seconds for s in many) - sum(s.seconds for s in few)
    crops = sum(s.crops for s in many)
    per_picture = max(seconds, 0.0) / max(pictures, 1)
    fixed = sum(s.seconds - per_picture * s.pictures for s in few) / len(few)
    return _Cost(
        max(fixed, 0.0),
        per_picture,
        crops / max(sum(s.pictures for s in many), 1),
        sum(s.bytes for s in many) / max(crops, 1),
        {
            "sequences": [f"{task.subject}/{task.sequence}" for task in picked],
            "pictures": sum(s.pictures for s in many),
            "milliseconds_per_picture": round(1e3 * per_picture, 2),
            "seconds_per_sequence": round(max(fixed, 0.0), 2),
            "kilobytes_per_crop": round(sum(s.bytes for s in many) / max(crops, 1) / 1e3, 1),
        },
    )


def _convert_part(task: "SequenceTask", pictures: int, start: int, folder: Path) -> _Sample:
    """Convert some pictures of each view, spread over the sequence; different starts take different ones."""
    from hawor_pipeline.data.convert_sequence import convert_views
    from hawor_pipeline.data.scene import open_scene
    from hawor_pipeline.data.shards import ImageWriter

    began = time.perf_counter()
    root = ArcticRoot(task.root)
    longest = max(len(root.pictures(task.subject, task.sequence, view)) for view in task.settings.views)
    step = max(1, (longest - start) // pictures)
    part = slice(min(start, longest - 1), None, step)
    scene = open_scene(task.root, task.mano_dir, task.subject, task.sequence, task.settings.views, only=part)
    path = folder / "images.arrow"
    with ImageWriter(path) as writer:
        blocks, _, _ = convert_views(task, scene, writer)
    known = range(scene.offset, scene.offset + len(scene.raw))  # others are left out, and cost next to nothing
    taken = sum(frame in known for images in scene.images.values() for frame in images)
    crops = sum(len(block["frame"]) for block in blocks)
    row_bytes = sum(values.nbytes for block in blocks for values in block.values()) / 2  # doubles become singles
    return _Sample(taken, crops, path.stat().st_size + round(row_bytes), time.perf_counter() - began)


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _empty(plans: list[SubjectPlan]) -> dict[str, str]:
    return {plan.subject: plan.reason for plan in plans if plan.reason}
