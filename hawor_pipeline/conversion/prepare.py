"""What `hawor-pipeline prepare` does: convert the subjects asked for, and sum up."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hawor_pipeline.config import ConversionConfig, build
from hawor_pipeline.conversion.convert import convert_subjects
from hawor_pipeline.errors import DataError
from hawor_pipeline.shards.splits import record_protocols
from hawor_pipeline.sources.arctic import ArcticRoot


def prepare(
    arctic_root: str | Path,
    output_dir: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    subjects: Sequence[str] | None = None,
    mano_dir: str | Path | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Convert raw sequences to shards.

    Args:
        arctic_root: any folder level of ARCTIC's download, or of the sample.
        output_dir: gets a folder per subject.
        settings: keys of ConversionConfig that differ from its defaults. `sequences` adds or refreshes only those.
        subjects: None for all of the data set.
        mano_dir: folder of the MANO models; None searches `$MANO_DIR` and beside the data.
        workers: processes; None for one per core.
        progress: called with (finished sequences, all sequences).

    Returns:
        Totals over the subjects (rows, valid_rows, sequences, converted and reused, left_out by reason), the subjects
        without samples with the reason, those whose raw files are gone, why others were converted, and where the shards
        are.

    Raises:
        ConfigError: a path, subject, sequence or setting is wrong.
        DataError: something is damaged, disagrees, or the disk is full, or none of the subjects has a sample. Finished
            sequences stay and are reused.
    """
    root = ArcticRoot.locate(arctic_root)
    config = build(ConversionConfig, settings or {}, origin="settings")
    results = convert_subjects(
        root,
        mano_dir,
        root.subjects() if subjects is None else subjects,
        output_dir,
        config,
        sequences=config.sequences,
        workers=workers,
        progress=progress,
    )
    if not any(result.info["rows"] for result in results.values()):
        raise DataError("no sample was made: " + "; ".join(result.why for result in results.values()))
    record_protocols(output_dir, root)
    infos = [result.info for result in results.values()]
    left_out: dict[str, int] = {}
    for info in infos:
        for reason, samples in info["left_out"].items():
            left_out[reason] = left_out.get(reason, 0) + samples
    totals = (
        "rows",
        "valid_rows",
        "sequences",
        "converted_sequences",
        "reused_sequences",
        "left_out_sequences",
        "bytes",
    )
    return {
        "output_dir": str(output_dir),
        "source": root.source,
        "subjects": [subject for subject, result in results.items() if result.info["rows"]],
        "subjects_without_samples": {s: result.why for s, result in results.items() if not result.info["rows"]},
        "kept_without_raw_files": {s: r.why for s, r in results.items() if r.info["kept_without_raw_files"]},
        "why_converted": {s: result.why for s, result in results.items() if result.info["converted_sequences"]},
        **{name: sum(info[name] for info in infos) for name in totals},
        "left_out": dict(sorted(left_out.items())),
    }


def estimate(
    arctic_root: str | Path,
    output_dir: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    subjects: Sequence[str] | None = None,
    mano_dir: str | Path | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """What `prepare` with these arguments would make and cost; see `dry_run`.

    Raises:
        ConfigError: a path, subject, sequence or setting is wrong.
        DataError: the hand models or meta/misc.json are damaged; other damage is listed in the result.
    """
    from hawor_pipeline.conversion.dry_run import dry_run

    config = build(ConversionConfig, settings or {}, origin="settings")
    return dry_run(arctic_root, output_dir, config, subjects=subjects, mano_dir=mano_dir, workers=workers)
