"""Writing the built-in sample in ARCTIC's raw layout, marked as synthetic.

`ensure_sample` is the stage (reuses finished work, resumes, runs in parallel); `write_sample` does one run of the work.
A sequence is written to a staging directory and published by renames, so a killed run leaves finished sequences and
nothing else. Bytes depend on the specification alone, never on the number of workers.
"""

import fcntl
import io
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from hawor_pipeline.errors import ConfigError, HaworError
from hawor_pipeline.provenance import (
    StageResult,
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    explain_disk_errors,
    find_done,
    hash_json,
    mark_done,
    publish_dir,
    remove_leftovers,
    sha256_file,
)
from hawor_pipeline.sample.spec import SUBJECTS, SYNTHETIC_NOTE, SampleSpec, SequencePlan, plan_sequences
from hawor_pipeline.workers.pool import map_in_processes, one_thread, usable_cores

_WORKER_MODULES = ["hawor_pipeline.sample.render"]  # that each worker imports once
Progress = Callable[[int, int], None]


def ensure_sample(
    root: Path, spec: SampleSpec, *, workers: int | None = None, progress: Progress | None = None
) -> StageResult:
    """Write the sample below `root` unless it is already there.

    Args:
        root: receives `arctic/`, `body_models/mano/` and `body_models/smplx/`. An older sample there is replaced;
            anything else is refused.
        spec: specification of the sample.
        workers: processes; default one per usable core, 1 works in this process.
        progress: called with (finished sequences, all sequences).

    Returns:
        StageResult with info: source, subjects, sequences, frames, seconds, frames_per_second.

    Raises:
        ConfigError: the specification is impossible, or `root/arctic` holds files that are not a sample.
        DataError: the disk is full; finished sequences stay, partial ones are removed.
    """
    root = Path(root)
    spec.check()
    key = hash_json({"generator": _generator(), "spec": asdict(spec)})
    with _locked(root):
        info, why = find_done(root, key)
        if info is not None:
            return StageResult(root, True, why, key, info)
        info = write_sample(root, spec, key=key, workers=workers, progress=progress)
        mark_done(root, key, info, _outputs(spec))
    return StageResult(root, False, why, key, info)


def _generator() -> str:
    """Return the version of the generator: a hash of its source and data files."""
    sources = [path for path in Path(__file__).parent.iterdir() if path.suffix in (".py", ".npz", ".yaml")]
    return hash_json({source.name: sha256_file(source) for source in sources})


def write_sample(
    root: Path, spec: SampleSpec, *, key: str, workers: int | None = None, progress: Progress | None = None
) -> dict:
    """Write the missing files and return the info of `ensure_sample`."""
    begin = time.perf_counter()
    with explain_disk_errors(root):
        _clear_other(root, key)
        _write_shared(root, spec, key)
    plans = plan_sequences(spec)
    ledger = root / ".finished"
    todo = [p for p in plans if not _is_finished(root, spec, ledger, p)]
    for done, plan in enumerate(_run(root, spec, todo, workers or usable_cores()), len(plans) - len(todo) + 1):
        atomic_write_json(ledger / f"{plan.subject}.{plan.name}.json", {"images": plan.image_count})
        if progress is not None:
            progress(done, len(plans))
    shutil.rmtree(root / ".staging", ignore_errors=True)
    seconds = time.perf_counter() - begin
    made = sum(p.image_count for p in todo) * len(spec.views)
    return {
        "source": "synthetic",
        "subjects": len(spec.subjects),
        "sequences": len(plans),
        "frames": sum(p.image_count for p in plans) * len(spec.views),
        "seconds": round(seconds, 2),
        "frames_per_second": round(made / seconds, 1),
    }


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold the lock of one writer; others wait and then reuse its work."""
    with explain_disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        handle = os.open(root / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _clear_other(root: Path, key: str) -> None:
    """Remove an older sample and leftovers of killed runs; refuse a directory that is not a sample."""
    arctic, marker = root / "arctic", root / "arctic" / "SYNTHETIC"
    if arctic.exists() and any(arctic.iterdir()) and not marker.exists():
        raise ConfigError(
            f"{arctic} exists but has no file SYNTHETIC, so it is not a sample written by this program. "
            "Expected an empty directory or an older sample; choose another --root."
        )
    trash = root / ".staging"
    shutil.rmtree(trash, ignore_errors=True)
    if marker.exists() and f"key {key}" not in marker.read_text():
        trash.mkdir()
        for name in ("_stage.json", ".finished", "body_models", "arctic"):  # arctic holds the marker: last
            if (root / name).exists():
                os.rename(root / name, trash / name)
        shutil.rmtree(trash, ignore_errors=True)


def _write_shared(root: Path, spec: SampleSpec, key: str) -> None:
    """Write everything but the sequences: marker, hand and body models, meta, splits."""
    from hawor_pipeline.sample.hand import write_mano_models
    from hawor_pipeline.sample.meta import write_meta
    from hawor_pipeline.sample.person_body import subject_template, write_body_models, write_subject_templates
    from hawor_pipeline.sample.sequence import make_rigs
    from hawor_pipeline.sample.studio import make_look

    atomic_write_text(root / "arctic" / "SYNTHETIC", f"{SYNTHETIC_NOTE}\n\nkey {key}\n")
    mano = root / "body_models" / "mano"
    if not all((mano / f"MANO_{side}.pkl").exists() for side in ("RIGHT", "LEFT")):
        write_mano_models(mano)
    people = {subject: (make_look(subject, spec.seed), make_rigs(mano, subject, spec.seed)) for subject in SUBJECTS}
    bodies = root / "body_models" / "smplx"
    if not (bodies / "SMPLX_MALE.npz").exists():
        write_body_models(bodies, *people[SUBJECTS[0]])
        templates = {subject: subject_template(*person) for subject, person in people.items()}
        write_subject_templates(root / "arctic" / "meta" / "subject_vtemplates", templates)
    write_meta(root / "arctic", spec)


def _outputs(spec: SampleSpec) -> list[str]:
    names = ["arctic/SYNTHETIC", "arctic/meta/misc.json", "arctic/meta/subject_vtemplates/s01.obj"]
    names += ["body_models/mano/MANO_RIGHT.npz", "body_models/smplx/SMPLX_NEUTRAL.npz"]
    for plan in plan_sequences(spec):
        names += [f"arctic/{spec.image_source}/{plan.subject}/{plan.name}"]
        names += [f"arctic/raw_seqs/{plan.subject}/{plan.name}.mano.npy"] if plan.has_ground_truth else []
    return names


def _is_finished(root: Path, spec: SampleSpec, ledger: Path, plan: SequencePlan) -> bool:
    images = root / "arctic" / spec.image_source / plan.subject / plan.name
    raw = root / "arctic" / "raw_seqs" / plan.subject / f"{plan.name}.mano.npy"
    written = raw.exists() or not plan.has_ground_truth
    return (ledger / f"{plan.subject}.{plan.name}.json").exists() and images.is_dir() and written


def _run(root: Path, spec: SampleSpec, plans: list[SequencePlan], workers: int) -> Iterator[SequencePlan]:
    """Write sequences and yield each as it is published."""
    workers = min(workers, len(plans))
    # Sequences of one subject share backdrops, so they run in one process if that leaves no process idle.
    subjects = list(dict.fromkeys(p.subject for p in plans))
    groups = [[p] for p in plans]
    if workers > 1 and len(subjects) >= 2 * workers:
        groups = [[p for p in plans if p.subject == subject] for subject in subjects]
    make = partial(_make_sequences, root, spec)
    for group, outcome in map_in_processes(make, groups, workers if workers > 1 else 0, _WORKER_MODULES):
        if isinstance(outcome, HaworError):
            raise outcome
        yield from group


def _make_sequences(root: Path, spec: SampleSpec, plans: list[SequencePlan]) -> None:
    for plan in plans:
        make_sequence(root, spec, plan)


def make_sequence(root: Path, spec: SampleSpec, plan: SequencePlan) -> None:
    """Write one sequence to a staging directory and publish it: images first, then ground truth."""
    from hawor_pipeline.sample.sequence import write_sequence

    staged = root / ".staging" / f"{plan.subject}.{plan.name}.{os.getpid()}"
    arctic = root / "arctic"
    with explain_disk_errors(staged), one_thread():
        try:
            (staged / "images").mkdir(parents=True)
            ground_truth = write_sequence(staged / "images", root / "body_models" / "mano", spec, plan)
            images = arctic / spec.image_source / plan.subject / plan.name
            remove_leftovers(images)
            publish_dir(staged / "images", images)
            for suffix, value in ground_truth.items():
                buffer = io.BytesIO()
                np.save(buffer, np.asarray(value), allow_pickle=True)
                atomic_write_bytes(arctic / "raw_seqs" / plan.subject / f"{plan.name}.{suffix}.npy", buffer.getvalue())
        finally:
            shutil.rmtree(staged, ignore_errors=True)
