"""The engine that converts a dataset to shards: plan, convert in one pool, judge, and publish the manifests.

Each sequence has a key. A shard with that key is reused; any other is converted and replaces the old one by a rename. A
conversion that is killed at any moment is resumed by the next call.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hawor_pipeline.conversion.ledger import NO_IMAGES, NO_RAW_FILES, RAW_FILES_GONE, limit_error
from hawor_pipeline.conversion.planning import ConversionJob, SubjectPlan, plan_subject
from hawor_pipeline.errors import ConfigError, DataError, HaworError
from hawor_pipeline.provenance import StageResult, remove_leftovers
from hawor_pipeline.shards.manifest import (
    Manifest,
    SequenceEntry,
    SkippedSequence,
    read_manifest,
    read_manifests,
    withdraw,
    write_manifest,
)
from hawor_pipeline.versions import CONVERTER_VERSION
from hawor_pipeline.workers.engine import map_tasks

_WORKER_MODULES = ["hawor_pipeline.conversion.convert_sequence", "embreex.mesh_construction", "scipy.spatial"]
_PER_SEQUENCE = ("sequence", "ground_truth_frames", "rows", "valid_rows", "bytes")

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Conversion:
    """Outcome of one call of the engine."""

    job: ConversionJob
    plans: list[SubjectPlan]
    seconds: float

    def raise_errors(self) -> None:
        """Raise the errors of all sequences that failed, as one."""
        errors = [error for plan in self.plans for error in plan.errors.values()]
        if not errors:
            return
        done = sum(len(set(plan.done) - set(plan.errors)) for plan in self.plans)
        listed = "; ".join(dict.fromkeys(str(error) for error in errors))
        count = "" if len(errors) == 1 else f"{len(errors)} sequences failed: "
        kind = type(errors[0]) if len(errors) == 1 else DataError
        raise kind(f"{count}{listed} {done} of {done + len(errors)} sequences are finished and will be reused.")

    def results(self) -> dict[str, StageResult]:
        """Return subject to result; see `prepare.convert_subjects`."""
        converted = sum(
            info.rows for plan in self.plans for task in plan.tasks if (info := plan.done.get(task.ref.sequence))
        )
        rate = round(converted / self.seconds, 1) if converted else None
        return {plan.subject: _result(plan, self.job, rate) for plan in self.plans}


def plan_job(job: ConversionJob, subjects: Sequence[str]) -> list[SubjectPlan]:
    """Check a job, and plan all its subjects; nothing is written.

    Raises:
        ConfigError: a subject or sequence is unknown, the output folder cannot be used, or settings would be mixed.
    """
    job.check_names(subjects)
    check_output(job)
    plans = [plan_subject(job, subject) for subject in dict.fromkeys(subjects)]
    _refuse_mixed_settings(job, plans)
    _keep_without_raw(job, plans)
    return plans


def run_job(
    job: ConversionJob, subjects: Sequence[str], *, workers: int | None = None, progress: Progress | None = None
) -> Conversion:
    """Convert the subjects of a job, all sequences through one pool of processes, and write the manifests.

    Sequences that fail are in the errors of the plans; the others are listed and stay.

    Args:
        job: what to convert.
        subjects: which subjects.
        workers: processes; None for one per core, 0 for none.
        progress: called with (finished sequences, all sequences).

    Raises:
        ConfigError: see `plan_job`.
        DataError: no sequence of the subjects has images.
    """
    job.check_names(subjects)
    check_output(job)
    for subject in subjects:
        _tidy(job.output / subject)
    plans = plan_job(job, subjects)
    without = [plan for plan in plans if plan.without_images]
    if without and all(plan.is_empty for plan in plans):
        raise DataError(without[0].reason)
    for plan in plans:
        _add_labels(job, plan)
        if plan.tasks:  # while shards are being replaced, no manifest may vouch for them
            withdraw(job.output, plan.subject, {task.ref.sequence for task in plan.tasks})
    started = time.monotonic()
    _convert(plans, workers, progress)
    for plan in plans:
        _judge(job, plan)
        if not plan.keeps_manifest:
            _write_manifest(job, plan)
    _remove_empty(job.output)
    return Conversion(job, plans, time.monotonic() - started)


def check_output(job: ConversionJob) -> None:
    """Check the output folder: shards go into a folder of their own, and those of different sources never share one.

    Raises:
        ConfigError: the folder is a file, lies among raw files, or holds shards of another source.
    """
    output, reader = job.output, job.reader
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is a file; expected a folder for the shards, which need not exist yet.")
    inside = output.resolve()
    if any((reader.root / part).resolve() in (inside, *inside.parents) for part in reader.folders):
        raise ConfigError(f"{output} lies among the raw files of {reader.root}; choose a folder outside them.")
    for subject, manifest in read_manifests(output).items():
        if manifest.source != reader.source:
            raise ConfigError(
                f"{output} holds {manifest.source} shards ({subject}), and {reader.root} is {reader.source}: the two "
                "never mix, each needs a folder of its own. Choose another output folder."
            )


def _refuse_mixed_settings(job: ConversionJob, plans: Sequence[SubjectPlan]) -> None:
    """Raise ConfigError where single sequences are named under other settings than the subject's other ones have."""
    for plan in plans if job.names is not None else ():
        manifest = job.manifest(plan.subject)
        others = sorted(set(manifest.names) - set(job.names or ()))
        changed = {name: (old, new) for name, new in job.matters.items() if (old := manifest.settings.get(name)) != new}
        if others and changed:
            what = ", ".join(f"{name} {old} -> {new}" for name, (old, new) in changed.items())
            raise ConfigError(
                f"{plan.subject} has {len(others)} other finished sequences in {job.output} ({', '.join(others[:3])}"
                f"{' ...' if len(others) > 3 else ''}) under other settings ({what}); a subject has one. Convert all "
                "of it (without naming sequences), or choose another output folder."
            )


def _keep_without_raw(job: ConversionJob, plans: Sequence[SubjectPlan]) -> None:
    """Keep the manifest of a subject that was converted and whose raw files or images are gone."""
    for plan in plans:
        finished = job.manifest(plan.subject).names
        nothing = plan.status != "present" or (plan.without_images and plan.is_empty)
        if nothing and finished:
            plan.keeps_manifest = True
            plan.why = (
                f"{plan.reason}: {len(finished)} finished sequences of an earlier conversion are kept as they are"
            )


def _add_labels(job: ConversionJob, plan: SubjectPlan) -> None:
    """Read what the tasks need of label files that sequences share; a task whose labels are damaged fails."""
    tasks, plan.tasks = plan.tasks, []
    for task in tasks:
        try:
            plan.tasks.append(replace(task, labels=job.reader.labels_of(task.ref)))
        except DataError as error:
            plan.errors[task.ref.sequence] = error


def _convert(plans: Sequence[SubjectPlan], workers: int | None, progress: Progress | None) -> None:
    """Run all tasks and enter their outcomes into the plans."""
    from hawor_pipeline.conversion.convert_sequence import convert_sequence

    by_subject = {plan.subject: plan for plan in plans}
    tasks = [task for plan in plans for task in plan.tasks]
    reused = sum(len(plan.done) for plan in plans)
    total = len(tasks) + reused
    if progress:
        progress(reused, total)
    outcomes = map_tasks(convert_sequence, tasks, workers, _WORKER_MODULES)
    for finished, (task, outcome) in enumerate(outcomes, reused + 1):
        plan, sequence = by_subject[task.ref.subject], task.ref.sequence
        if isinstance(outcome, HaworError):
            plan.errors[sequence] = outcome
        else:
            plan.done[sequence] = replace(outcome.info, data_version=outcome.data_version)
            if plan.cache is not None and task.raw is not None:
                for view, digest in outcome.image_digests.items():
                    plan.cache.remember(f"{sequence}/{view}", plan.image_states[sequence][view], digest)
                plan.cache.save()
        if progress:
            progress(finished, total)
    for plan in plans:
        if plan.cache is not None and plan.done:
            plan.cache.save()


def _tidy(folder: Path) -> None:
    """Remove leftovers of killed processes from a subject's folder; one that is the last whole copy is put back."""
    for name in {leftover.name[1:].rsplit(".", 2)[0] for leftover in (*folder.glob(".*.tmp"), *folder.glob(".*.old"))}:
        remove_leftovers(folder / name)


def _remove_empty(output: Path) -> None:
    """Remove folders in which nothing succeeded."""
    for folder in (*output.glob("*/"), output):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _judge(job: ConversionJob, plan: SubjectPlan) -> None:
    """Apply the limits to every finished shard: one that was made under a more lenient limit must not pass.

    Sequences that were not named are judged without the views that only other sequences have, so that an image which
    was added for one sequence does not stop the conversion of another.
    """
    for sequence, info in plan.done.items():
        named = job.names is None or sequence in job.names
        recorded = set(plan.recorded_views) - (set() if named else set(info.absent_views or ()))
        error = limit_error(f"{plan.subject}/{sequence}", info, job.settings, recorded)
        if error is not None:
            plan.errors[sequence] = error


def _write_manifest(job: ConversionJob, plan: SubjectPlan) -> None:
    """Write the manifest of a subject: finished sequences, and why others are missing."""
    from hawor_pipeline.sources.hand_models import digest_hand_models

    before = read_manifest(job.output, plan.subject)
    entries = [SequenceEntry.of(name, plan.done[name]) for name in sorted(plan.done) if name not in plan.errors]
    if before is None and not entries and plan.errors:
        return
    known = before or Manifest()
    gone = _gone(job, plan.subject, known)
    imaged = job.reader.unlabelled_sequences(plan.subject) if plan.status == "present" else []
    skipped = [
        *(SkippedSequence(name, NO_IMAGES) for name in plan.without_images),
        *(SkippedSequence(name, RAW_FILES_GONE) for name in gone),
        *(SkippedSequence(name, NO_RAW_FILES) for name in imaged if name not in gone),
        *(
            SkippedSequence(name, str(error).replace(f"{job.reader.root}/", ""))
            for name, error in sorted(plan.errors.items())
        ),
    ]
    manifest = Manifest(
        subject=plan.subject,
        source=job.reader.source,
        status=plan.status,
        reason=plan.reason,
        converter_version=CONVERTER_VERSION,
        settings=job.matters,
        left_out_sequences=tuple(skipped),
        # a sequence that failed to be replaced is not given up
        withdrawn=tuple(sorted({*known.names, *known.withdrawn} & set(plan.errors))),
        hand_models=digest_hand_models(job.mano_dir),
        convention=job.reader.convention,
    )
    write_manifest(job.output, manifest.listing(entries))


def _gone(job: ConversionJob, subject: str, before: Manifest) -> list[str]:
    """Return sequences that were converted and are no more in the raw data; their folders stay."""
    known = {each.sequence for each in before.left_out_sequences if each.reason == RAW_FILES_GONE}
    present = {ref.sequence for ref in job.reader.sequences(subject)}
    gone = sorted({*known, *before.names, *before.withdrawn} - present)
    return [name for name in gone if (job.output / subject / name).is_dir()]


def _result(plan: SubjectPlan, job: ConversionJob, rate: float | None) -> StageResult:
    manifest = job.manifest(plan.subject)
    info = {
        "status": plan.status,
        "kept_without_raw_files": plan.keeps_manifest,
        "source": manifest.source,
        "data_version": manifest.data_version,
        "body_occluder": manifest.body_occluder,
        "rows": manifest.rows,
        "valid_rows": manifest.valid_rows,
        "sequences": len(manifest.sequences),
        "converted_sequences": len(plan.tasks),
        "reused_sequences": len(manifest.sequences) - len(plan.tasks),
        "left_out_sequences": len(manifest.left_out_sequences),
        "left_out": manifest.left_out,
        "unaccounted_frames": manifest.unaccounted,
        "bytes": manifest.bytes,
        "per_sequence": [{name: getattr(entry, name) for name in _PER_SEQUENCE} for entry in manifest.sequences],
        "hands_per_second": rate,  # of the whole call, all subjects together
    }
    why = plan.why or "raw files, settings and code version are those of the earlier result"
    return StageResult(job.output / plan.subject, not plan.tasks, why, manifest.data_version, info)
