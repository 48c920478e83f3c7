"""Raw ARCTIC to shards: what to convert, what is still valid, and the manifest of a subject.

Each sequence has a key (hash of its raw files, the settings that matter, the converter and the libraries). A shard with
that key is reused; anything else is made anew and replaces the old one by a rename. Killed at any moment, the next run
continues where it was.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion.output_folder import (
    check_output,
    keep_without_raw,
    refuse_mixed_settings,
    without_raw,
)
from hawor_pipeline.conversion.plan import (
    SubjectPlan,
    check_sequences,
    plan_subject,
    settings_that_matter,
    shared_key,
)
from hawor_pipeline.errors import DataError, HaworError
from hawor_pipeline.provenance import StageResult, remove_leftovers
from hawor_pipeline.shards.manifest import (
    Manifest,
    SequenceEntry,
    SequenceInfo,
    SkippedSequence,
    read_manifest,
    withdraw,
    write_manifest,
)
from hawor_pipeline.sources.arctic import ArcticRoot
from hawor_pipeline.versions import CONVERTER_VERSION
from hawor_pipeline.workers.engine import map_tasks

_WORKER_MODULES = ["hawor_pipeline.conversion.convert_sequence", "embreex.mesh_construction", "scipy.spatial"]

Progress = Callable[[int, int], None]


def convert_subject(
    arctic_root: str | Path | ArcticRoot,
    mano_dir: str | Path | None,
    subject: str,
    output_dir: str | Path,
    settings: ConversionConfig,
    *,
    sequences: Sequence[str] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> StageResult:
    """`convert_subjects` for one subject."""
    results = convert_subjects(
        arctic_root, mano_dir, [subject], output_dir, settings, sequences=sequences, workers=workers, progress=progress
    )
    return results[subject]


def convert_subjects(
    arctic_root: str | Path | ArcticRoot,
    mano_dir: str | Path | None,
    subjects: Iterable[str],
    output_dir: str | Path,
    settings: ConversionConfig,
    *,
    sequences: Sequence[str] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, StageResult]:
    """Convert subjects to shards, all sequences through one pool of processes.

    Args:
        arctic_root: any folder level of ARCTIC, or of the sample.
        mano_dir: folder of the MANO models; None searches `$MANO_DIR` and beside the data.
        subjects: s01..s10; those without ground truth get an empty manifest with the reason, or keep an earlier one.
        output_dir: gets a folder per subject.
        settings: a change of what matters reconverts what it touches.
        sequences: add or refresh only these names, and keep what else is there under the same settings.
        workers: processes; None for one per core, 0 for none.
        progress: called with (finished sequences, all sequences).

    Returns:
        Subject to result; `info` has rows, valid_rows, sequences, what was left out and why, and the speed.

    Raises:
        ConfigError: root, MANO, subject or sequence not found.
        DataError: something is damaged, disagrees, or the disk is full. Finished sequences stay and are reused.
    """
    plans, seconds = convert_plans(
        arctic_root, mano_dir, subjects, output_dir, settings, sequences=sequences, workers=workers, progress=progress
    )
    errors = [error for plan in plans for error in plan.errors.values()]
    if len(errors) == 1:
        raise errors[0]
    if errors:
        listed = "\n  ".join(dict.fromkeys(str(error) for error in errors))
        done = sum(len(plan.done) for plan in plans)
        raise DataError(f"{len(errors)} sequences failed; {done} are finished and will be reused:\n  {listed}")
    converted = sum(plan.done[task.sequence]["rows"] for plan in plans for task in plan.tasks)
    rate = round(converted / seconds, 1) if converted else None
    return {plan.subject: _result(plan, Path(output_dir), rate) for plan in plans}


def convert_plans(
    arctic_root: str | Path | ArcticRoot,
    mano_dir: str | Path | None,
    subjects: Iterable[str],
    output_dir: str | Path,
    settings: ConversionConfig,
    *,
    sequences: Sequence[str] | None,
    workers: int | None,
    progress: Progress | None,
    keep_good: bool = False,
) -> tuple[list[SubjectPlan], float]:
    root = ArcticRoot.locate(arctic_root)
    subjects = list(dict.fromkeys(subjects))
    for subject in subjects:
        root.check_subject(subject)
    names = sequences if sequences is not None else settings.sequences
    check_sequences(root, subjects, names)
    check_output(root, Path(output_dir))
    mano = root.mano_dir(mano_dir)
    from hawor_pipeline.conversion.convert_sequence import convert_sequence
    from hawor_pipeline.sources.hand_models import digest_hand_models, hash_hand_models

    shared = shared_key(settings, hash_hand_models(mano))
    for subject in subjects:
        _tidy(Path(output_dir) / subject)
    plans = [plan_subject(root, mano, subject, Path(output_dir), settings, shared, sequences) for subject in subjects]
    if any(plan.left_out for plan in plans) and not any(plan.tasks or plan.done or plan.errors for plan in plans):
        raise DataError(next(plan.reason for plan in plans if plan.left_out))
    refuse_mixed_settings(plans, Path(output_dir), settings, names if sequences is not None else None)
    keep_without_raw(plans, Path(output_dir))
    tasks = [task for plan in plans for task in plan.tasks]
    by_subject = {plan.subject: plan for plan in plans}
    for plan in plans:  # while shards are being replaced, no manifest may vouch for them
        if plan.tasks:
            withdraw(Path(output_dir), plan.subject, {task.sequence for task in plan.tasks})
    started, total = time.monotonic(), len(tasks) + sum(len(plan.done) for plan in plans)
    finished = total - len(tasks)
    if progress:
        progress(finished, total)
    for task, outcome in map_tasks(convert_sequence, tasks, workers, _WORKER_MODULES):
        plan = by_subject[task.subject]
        if isinstance(outcome, HaworError):
            plan.errors[task.sequence] = outcome
        else:
            plan.done[task.sequence] = outcome.info
            plan.data_versions[task.sequence] = outcome.data_version
            if plan.cache is not None:
                for view, digest in outcome.image_digests.items():
                    plan.cache.remember(f"{task.sequence}/{view}", plan.image_states[task.sequence][view], digest)
                plan.cache.save()
        finished += 1
        if progress:
            progress(finished, total)
    for plan in plans:
        if plan.cache is not None and plan.done:
            plan.cache.save()
        _check_left_out_again(plan, settings, sequences)
        if not plan.keeps_manifest and (keep_good or not plan.errors):
            _write_manifest(plan, root, Path(output_dir), settings, digest_hand_models(mano))
    _remove_empty(Path(output_dir))
    return plans, time.monotonic() - started


def _tidy(folder: Path) -> None:
    """Remove what killed processes left in a subject's folder, or put it back where it is the last whole copy."""
    for name in {leftover.name[1:].rsplit(".", 2)[0] for leftover in (*folder.glob(".*.tmp"), *folder.glob(".*.old"))}:
        remove_leftovers(folder / name)


def _remove_empty(output: Path) -> None:
    """Folders in which nothing succeeded leave nothing behind."""
    for folder in (*output.glob("*/"), output):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _check_left_out_again(plan: SubjectPlan, settings: ConversionConfig, names: Sequence[str] | None) -> None:
    """A shard made under a more lenient limit must not pass a stricter one; others than those named are let be."""
    from hawor_pipeline.conversion.ledger import left_out_error

    for sequence, info in plan.done.items():
        if names is not None and sequence not in names:
            continue
        error = left_out_error(f"{plan.subject}/{sequence}", info, settings, plan.recorded_views)
        if error is not None:
            plan.errors[sequence] = error


def _write_manifest(
    plan: SubjectPlan, root: ArcticRoot, output: Path, settings: ConversionConfig, hand_models: dict[str, str]
) -> None:
    skipped = [
        *(SkippedSequence(**each) for each in plan.left_out + without_raw(root, output, plan.subject)),
        *(
            SkippedSequence(name, str(error).replace(f"{root.path}/", ""))
            for name, error in sorted(plan.errors.items())
        ),
    ]
    manifest = Manifest(
        subject=plan.subject,
        source=root.source,
        status=plan.status,
        reason=plan.reason,
        converter_version=CONVERTER_VERSION,
        settings=settings_that_matter(settings),
        left_out_sequences=tuple(skipped),
        hand_models=hand_models,
    )
    entries = [
        SequenceEntry.of(sequence, SequenceInfo.from_dict(plan.done[sequence]), plan.data_versions[sequence])
        for sequence in sorted(plan.done)
        if sequence not in plan.errors
    ]
    write_manifest(output, manifest.listing(entries))


def _result(plan: SubjectPlan, output: Path, rate: float | None) -> StageResult:
    manifest = read_manifest(output, plan.subject) or Manifest()
    info = {
        "status": plan.status,
        "kept_without_raw_files": plan.keeps_manifest,
        "source": manifest.source,
        "data_version": manifest.data_version,
        "rows": manifest.rows,
        "valid_rows": manifest.valid_rows,
        "sequences": len(manifest.sequences),
        "converted_sequences": len(plan.tasks),
        "reused_sequences": len(manifest.sequences) - len(plan.tasks),
        "left_out_sequences": len(manifest.left_out_sequences),
        "left_out": manifest.left_out,
        "unaccounted_frames": manifest.unaccounted,
        "bytes": manifest.bytes,
        "per_sequence": [
            {name: getattr(entry, name) for name in ("sequence", "ground_truth_frames", "rows", "valid_rows", "bytes")}
            for entry in manifest.sequences
        ],
        "hands_per_second": rate,  # of the whole call, all subjects together
    }
    reused = not plan.tasks
    why = plan.why or "raw files, settings and code version are those of the earlier result"
    return StageResult(output / plan.subject, reused, why, manifest.data_version, info)
