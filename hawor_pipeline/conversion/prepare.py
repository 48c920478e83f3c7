"""Conversion of datasets as commands and assets call it: by subjects, as a whole with totals, and as an estimate."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

from hawor_pipeline.config import ConversionConfig, build
from hawor_pipeline.conversion.convert import Conversion, Progress, run_job
from hawor_pipeline.conversion.planning import ConversionJob
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.locate import find_body_models, find_hand_models
from hawor_pipeline.provenance import StageResult
from hawor_pipeline.shards.manifest import add_counts, converted_names
from hawor_pipeline.shards.splits import SPLITS, SplitProtocol, read_protocols, record_protocols
from hawor_pipeline.sources.arctic import ArcticRoot
from hawor_pipeline.sources.registry import ARCTIC, open_reader

_COUNTS = ("converted_sequences", "reused_sequences", "left_out_sequences")
_NAMED = 5  # subjects, in a message
_TOTALS = ("rows", "valid_rows", "sequences", *_COUNTS, "bytes")


class Source(TypedDict, total=False):
    """A dataset and its models, as `open_job` takes them."""

    dataset: str
    mano_dir: str | Path | None
    smplx_dir: str | Path | None


def open_job(
    root: str | Path | ArcticRoot,
    output_dir: str | Path,
    settings: ConversionConfig,
    *,
    dataset: str = ARCTIC,
    mano_dir: str | Path | None = None,
    smplx_dir: str | Path | None = None,
    sequences: Sequence[str] | None = None,
) -> ConversionJob:
    """Open a dataset for conversion.

    Args:
        root: the folder that the dataset is unpacked in; of ARCTIC, any folder level of its download.
        output_dir: gets a folder per subject; one dataset per folder.
        settings: settings of the conversion.
        dataset: name in `sources.registry.READERS`.
        mano_dir: folder of the MANO models; None searches, see `locate.find_hand_models`.
        smplx_dir: folder of the SMPL-X models, for datasets with poses of the body, all of whose sequences must have
            them then; None searches (see `locate.find_body_models`) and counts the bodies that are there, "none" counts
            none.
        sequences: add or refresh only these names, and keep what else is there under the same settings.

    Raises:
        ConfigError: the dataset, its root or the hand models are not found.
    """
    where = root.path if isinstance(root, ArcticRoot) else Path(root)
    reader = open_reader(dataset, where, Path(mano_dir or ""))
    reader.mano_dir = find_hand_models(reader.source, mano_dir, reader.root)
    if reader.has_bodies:
        reader.smplx_dir = find_body_models(reader.source, smplx_dir, reader.root)
        reader.needs_bodies = smplx_dir is not None
    elif smplx_dir is not None:
        raise ConfigError(f"{dataset} has no poses of the body; leave out the folder of SMPL-X (--smplx-dir).")
    names = None if sequences is None else tuple(sequences)
    return ConversionJob(reader, reader.mano_dir, Path(output_dir), settings, names)


def all_subjects(job: ConversionJob) -> list[str]:
    """Return the subjects of a job where none are named: all, or those that have one of the sequences named.

    Raises:
        DataError: the dataset has no sequence at all.
    """
    known = job.reader.subjects()
    if not known:
        raise DataError(
            f"{job.reader.root}: no sequence of {job.reader.name} found; its labels or folders are empty. Unpack it "
            "again."
        )
    names = set(job.names or ())
    named = [subject for subject in known if names & {ref.sequence for ref in job.reader.sequences(subject)}]
    return named or sorted({*known, *converted_names(job.output)})


def convert_subjects(
    root: str | Path | ArcticRoot,
    mano_dir: str | Path | None,
    subjects: Iterable[str],
    output_dir: str | Path,
    settings: ConversionConfig,
    *,
    sequences: Sequence[str] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, StageResult]:
    """Convert subjects of ARCTIC to shards, all sequences through one pool of processes.

    Args:
        root, mano_dir, output_dir, sequences: see `open_job`.
        subjects: s01..s10; those without ground truth get an empty manifest with the reason, or keep an earlier one.
        settings: a change of what matters reconverts what it touches.
        workers, progress: see `run_job`.

    Returns:
        Subject to result; `info` has rows, valid_rows, sequences, skipped samples by reason, and the speed.

    Raises:
        ConfigError: root, MANO, subject or sequence not found.
        DataError: something is damaged, disagrees, or the disk is full. Finished sequences stay and are reused.
    """
    job = open_job(root, output_dir, settings, mano_dir=mano_dir, sequences=sequences)
    done = run_job(job, list(subjects), workers=workers, progress=progress)
    done.raise_errors()
    return done.results()


def prepare(
    root: str | Path,
    output_dir: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    subjects: Sequence[str] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    **source: Unpack[Source],
) -> dict[str, Any]:
    """Convert a dataset to shards, and record its published splits beside them.

    Args:
        root, output_dir: see `open_job`.
        settings: keys of ConversionConfig that differ from its defaults. `sequences` adds or refreshes only those;
            `views` is of ARCTIC and has no meaning for other datasets.
        subjects: None for all of the dataset.
        workers, progress: see `run_job`.
        source: dataset, mano_dir, smplx_dir of `open_job`.

    Returns:
        Totals over the subjects (rows, valid_rows, sequences, converted and reused, left_out by reason), whether the
        person's body counts as an occluder in all of them, the subjects
        without samples with the reason, those whose raw files are gone, why others were converted, and the folder.

    Raises:
        ConfigError: a path, dataset, subject, sequence or setting is wrong.
        DataError: something is damaged, disagrees, or the disk is full, or none of the subjects has a sample. Finished
            sequences stay and are reused.
    """
    config = build(ConversionConfig, settings or {}, origin="settings")
    job = open_job(root, output_dir, config, sequences=config.sequences, **source)
    chosen = all_subjects(job) if subjects is None else list(subjects)
    done = run_job(job, chosen, workers=workers, progress=progress)
    if any(plan.done for plan in done.plans):
        _record_splits(job)
    done.raise_errors()
    return _totals(done)


def _record_splits(job: ConversionJob) -> None:
    """Write the published splits beside the shards, so that training knows them without the raw data."""
    reader = job.reader
    if reader.records_views:
        record_protocols(job.output, read_protocols(ArcticRoot(reader.root)))
        return
    subjects = reader.splits()
    stated = (
        f"{reader.name}'s publication"
        if subjects["val"] or subjects["test"]
        else f"{reader.name} states none by subject"
    )
    protocol = SplitProtocol(reader.name, (), subjects, {split: [] for split in SPLITS}, stated)
    record_protocols(job.output, {reader.name: protocol})


def _totals(done: Conversion) -> dict[str, Any]:
    results = done.results()
    infos = [result.info for result in results.values()]
    if not any(info["rows"] for info in infos):
        whys = list(dict.fromkeys(_why_empty(subject, result) for subject, result in results.items()))
        more = f"; and {len(whys) - _NAMED} more subjects" if len(whys) > _NAMED else ""
        ledgers = f". The ledgers in {done.job.output} list every image; get the missing images or labels."
        skipped = any(info["left_out"] for info in infos)
        raise DataError(f"no sample was made: {'; '.join(whys[:_NAMED])}{more}{ledgers if skipped else ''}")
    return {
        "output_dir": str(done.job.output),
        "source": done.job.reader.source,
        "body_occluder": all(info["body_occluder"] for info in infos if info["rows"]),
        "subjects": [subject for subject, result in results.items() if result.info["rows"]],
        "subjects_without_samples": {s: _why_empty(s, r) for s, r in results.items() if not r.info["rows"]},
        "kept_without_raw_files": {s: r.why for s, r in results.items() if r.info["kept_without_raw_files"]},
        "why_converted": {s: result.why for s, result in results.items() if result.info["converted_sequences"]},
        **{name: sum(info[name] for info in infos) for name in _TOTALS},
        "left_out": add_counts(info["left_out"] for info in infos),
    }


def _why_empty(subject: str, result: StageResult) -> str:
    """Return why a subject has no sample: the reasons in its ledgers, or that nothing was converted."""
    left_out = result.info["left_out"]
    return f"{subject}: every hand is skipped ({left_out})" if left_out else result.why


def estimate(
    root: str | Path,
    output_dir: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    subjects: Sequence[str] | None = None,
    workers: int | None = None,
    **source: Unpack[Source],
) -> dict[str, Any]:
    """Estimate crops, disk and hours of `prepare` with the same arguments; see `dry_run`.

    Raises:
        ConfigError: a path, dataset, subject, sequence or setting is wrong.
        DataError: the hand models, or files that all sequences share, are damaged; other damage is in the result.
    """
    from hawor_pipeline.conversion.dry_run import dry_run

    config = build(ConversionConfig, settings or {}, origin="settings")
    job = open_job(root, output_dir, config, sequences=config.sequences, **source)
    return dry_run(job, all_subjects(job) if subjects is None else subjects, workers=workers)


class ArcticDataConverter:
    """Conversion of ARCTIC as an object, for use from Python.

    Args:
        arctic_root: any folder level of ARCTIC's download.
        output_dir: folder of the shards.
        target_resolution: (height, width) of a crop without its margin.
        num_workers: processes; 0 for none. With any, a script of your own must call this under
            `if __name__ == "__main__":`, because every worker imports it.
        mano_dir: folder of the MANO models; None searches, see `locate.find_hand_models`.
        smplx_dir: folder of the SMPL-X models; see `open_job`.
    """

    def __init__(
        self,
        arctic_root: str | Path,
        output_dir: str | Path,
        target_resolution: tuple[int, int] = (256, 256),
        num_workers: int = 4,
        *,
        mano_dir: str | Path | None = None,
        smplx_dir: str | Path | None = None,
    ) -> None:
        self.root = ArcticRoot.locate(arctic_root)
        self.output_dir = Path(output_dir)
        self.settings = build(ConversionConfig, {"target_resolution": target_resolution}, origin="ArcticDataConverter")
        self.num_workers = num_workers
        self.mano_dir, self.smplx_dir = mano_dir, smplx_dir

    def convert_dataset(
        self,
        subjects: Sequence[str] | None = None,
        sequences: Sequence[str] | None = None,
        max_sequences_per_subject: int | None = None,
    ) -> dict[str, Any]:
        """Convert and return statistics; sequences that fail are listed, the others are kept.

        Returns:
            total_subjects, total_sequences, total_frames (ground-truth frames), total_samples, valid_samples,
            successful_conversions, failed_conversions, reused_conversions, conversion_errors (sequence to message),
            left_out (reason to samples), seconds.

        Raises:
            ConfigError: root, MANO, subject or sequence not found.
        """
        settings = self.settings.model_copy(update={"max_sequences_per_subject": max_sequences_per_subject})
        where = self.root, self.output_dir
        job = open_job(*where, settings, mano_dir=self.mano_dir, smplx_dir=self.smplx_dir, sequences=sequences)
        done = run_job(job, self.root.subjects() if subjects is None else subjects, workers=self.num_workers)
        plans = done.plans
        good = [plan.done[name] for plan in plans for name in plan.done if name not in plan.errors]
        errors = {f"{plan.subject}/{name}": str(error) for plan in plans for name, error in plan.errors.items()}
        return {
            "total_subjects": len(plans),
            "total_sequences": len(good) + len(errors),
            "total_frames": sum(info.ground_truth_frames for info in good),
            "total_samples": sum(info.rows for info in good),
            "valid_samples": sum(info.valid_rows for info in good),
            "successful_conversions": len(good),
            "failed_conversions": len(errors),
            "reused_conversions": sum(plan.reused for plan in plans),
            "conversion_errors": errors,
            "left_out": add_counts(info.left_out for info in good),
            "seconds": done.seconds,
        }
