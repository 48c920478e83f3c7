"""The stages of evaluation: a checkpoint, and the floors, each from shards to published tables.

Finished work is found again by a key over everything that decides its numbers: checkpoint, shards, hand models,
protocol, subjects and the version of this code.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hawor_pipeline.core.mano import find_mano
from hawor_pipeline.core.safe_load import load_checkpoint
from hawor_pipeline.data.shard_schema import MANIFEST_FILE
from hawor_pipeline.data.shards import read_manifest
from hawor_pipeline.errors import CheckpointError, ConfigError, DataError
from hawor_pipeline.evaluation.baselines import KINDS, baseline_run_id, training_means, write_baseline
from hawor_pipeline.evaluation.evaluator import converted_subjects, evaluate_predictions
from hawor_pipeline.evaluation.gallery import GALLERY_FILE, write_gallery
from hawor_pipeline.evaluation.predict import choose_device, predict_checkpoint
from hawor_pipeline.evaluation.protocols import DEFAULT_PROTOCOL, find_protocol
from hawor_pipeline.evaluation.tables import PART_NAME, RunIdentity, partition_dir, table_writer
from hawor_pipeline.provenance import StageResult, find_done, hash_json, mark_done, sha256_file

EVALUATION_VERSION = "1"  # raise it when evaluation code changes numbers: finished evaluations are then not reused
DEFAULT_CLIP_LENGTH = 16
_TRAINING_COLUMNS = ("step", "epoch", "split", "metric", "value")


def evaluate_checkpoint(
    checkpoint_path: Path | str,
    shards_dir: Path | str,
    mano_dir: Path | str,
    metrics_dir: Path | str,
    *,
    run_id: str,
    dataset_version: str,
    subjects: Sequence[str],
    protocol: str = DEFAULT_PROTOCOL,
    device: str = "auto",
    num_workers: int = 0,
    training_table: Path | str | None = None,
) -> StageResult:
    """Predict and measure: publishes predictions, samples, joints, summary, gallery and the training curves of a run.

    Args:
        checkpoint_path: exactly this file is evaluated.
        shards_dir: converted shards.
        mano_dir: folder of the MANO models.
        metrics_dir: where the tables go.
        run_id: names the partition of every table; begins with a letter.
        dataset_version: from the manifest of the shards.
        subjects: those evaluated.
        protocol: name in `protocols.PROTOCOLS`.
        device: "auto", "cpu", "cuda", ...; changes no number that matters and is not part of the key.
        num_workers: processes that decode crops.
        training_table: `training.parquet` of the run; published beside the other tables.

    Returns:
        `path` is `metrics_dir`; `info` has `run_id`, `checkpoint_sha256`, `samples`, `sequences`, `source`, `protocol`
        and `metrics` (overall metric name to value).

    Raises:
        ConfigError: something named does not exist; nothing was done.
        CheckpointError: the file cannot be read safely or does not fit.
        DataError: no valid row, or damaged shards.
        NumericalError: the network's output is not finite.
    """
    choose_device(device)
    views = find_protocol(protocol).views
    digest = _checkpoint_digest(checkpoint_path)
    _check_unseen(checkpoint_path, subjects)
    source = _source(shards_dir, subjects)
    identity = RunIdentity(run_id, protocol, dataset_version, source, digest)
    curves = Path(training_table) if training_table is not None else None
    key = hash_json(
        {
            "checkpoint": digest,
            "identity": identity.columns(),
            "inputs": _inputs(shards_dir, mano_dir, subjects),
            "training": sha256_file(curves) if curves else None,
            "version": EVALUATION_VERSION,
        }
    )
    stage = _stage_dir(metrics_dir, run_id)
    info, why = find_done(stage, key)
    if info is not None:
        return StageResult(Path(metrics_dir), True, why, key, info)
    predict_checkpoint(
        checkpoint_path,
        shards_dir,
        mano_dir,
        metrics_dir,
        identity,
        subjects=subjects,
        views=views,
        clip_length=clip_length_of(checkpoint_path),
        device=device,
        num_workers=num_workers,
    )
    measured = evaluate_predictions(shards_dir, mano_dir, metrics_dir, identity, subjects, views)
    write_gallery(shards_dir, mano_dir, metrics_dir, identity, subjects)
    if curves is not None:
        publish_training(curves, metrics_dir, identity)
    info = {"run_id": run_id, "checkpoint_sha256": digest, "source": source, "protocol": protocol, **measured}
    tables = ["predictions", "samples", "joints", "summary", *(["training"] if curves else [])]
    pictures = os.path.relpath(partition_dir(metrics_dir, "gallery", run_id) / GALLERY_FILE, stage)
    mark_done(stage, key, info, [*_outputs(stage, metrics_dir, run_id, tables), pictures])
    return StageResult(Path(metrics_dir), False, why, key, info)


def evaluate_baselines(
    shards_dir: Path | str,
    mano_dir: Path | str,
    metrics_dir: Path | str,
    *,
    dataset_version: str,
    training_subjects: Sequence[str],
    subjects: Sequence[str],
    protocol: str = DEFAULT_PROTOCOL,
    kinds: Sequence[str] = KINDS,
) -> StageResult:
    """Measure the floors on the same samples and by the same code as a checkpoint.

    Args:
        shards_dir, mano_dir, metrics_dir, dataset_version, subjects, protocol: as in `evaluate_checkpoint`.
        training_subjects: whose valid rows the means are taken over; subjects without rows add none.
        kinds: some of `baselines.KINDS`.

    Returns:
        `path` is `metrics_dir`; `info` has `run_ids` and `metrics`, each by kind.

    Raises:
        ConfigError: something named does not exist, or an unknown kind.
        DataError: no valid row to average or to evaluate.
    """
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise ConfigError(f"unknown baselines {unknown}; there are {', '.join(KINDS)}.")
    views = find_protocol(protocol).views
    source = _source(shards_dir, subjects)
    key = hash_json(
        {
            "inputs": _inputs(shards_dir, mano_dir, [*training_subjects, *subjects]),
            "training": sorted(training_subjects),
            "evaluated": list(subjects),
            "identity": [protocol, dataset_version, source],
            "kinds": list(kinds),
            "version": EVALUATION_VERSION,
        }
    )
    stage = _stage_dir(metrics_dir, f"baselines-{dataset_version}")
    info, why = find_done(stage, key)
    if info is not None:
        return StageResult(Path(metrics_dir), True, why, key, info)
    means = training_means(shards_dir, training_subjects)
    info = {"training_samples": means.samples, "run_ids": {}, "metrics": {}}
    outputs = []
    for kind in kinds:
        identity = RunIdentity(baseline_run_id(kind, dataset_version), protocol, dataset_version, source)
        write_baseline(kind, shards_dir, mano_dir, metrics_dir, identity, subjects, means, views)
        measured = evaluate_predictions(shards_dir, mano_dir, metrics_dir, identity, subjects, views)
        info["run_ids"][kind] = identity.run_id
        info["metrics"][kind] = measured["metrics"]
        outputs += _outputs(stage, metrics_dir, identity.run_id, ["predictions", "samples", "joints", "summary"])
    mark_done(stage, key, info, outputs)
    return StageResult(Path(metrics_dir), False, why, key, info)


def publish_training(training_table: Path | str, metrics_dir: Path | str, identity: RunIdentity) -> int:
    """Copy a run's training curves into the metric tables; returns the number of rows.

    Raises:
        DataError: the file is not such a table.
    """
    try:
        table = pq.read_table(training_table, columns=list(_TRAINING_COLUMNS), partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{training_table} is not a table of training curves ({error}); train again.") from error
    columns: dict[str, Any] = {name: table[name].to_pylist() for name in _TRAINING_COLUMNS}
    columns["value"] = [value if value is not None and np.isfinite(value) else None for value in columns["value"]]
    with table_writer(metrics_dir, "training", identity) as writer:
        writer.write(columns)
        return writer.rows


def clip_length_of(checkpoint_path: Path | str) -> int:
    """How many frames a checkpoint's network saw together in training; 16 for files that do not say."""
    parameters = load_checkpoint(checkpoint_path).get("hyper_parameters")
    config = parameters.get("config") if isinstance(parameters, dict) else None
    length = config.get("clip_length", DEFAULT_CLIP_LENGTH) if isinstance(config, dict) else DEFAULT_CLIP_LENGTH
    if not isinstance(length, int) or length < 1:
        raise CheckpointError(f"{checkpoint_path}: clip_length is {length!r}, expected a positive number of frames.")
    return length


def _check_unseen(checkpoint_path: Path | str, subjects: Sequence[str]) -> None:
    """Refuse to call an evaluation what would be a look at the training data."""
    split = load_checkpoint(checkpoint_path).get("split")
    trained = split.get("training", ()) if isinstance(split, dict) else ()
    seen = {str(name).split("/")[0] for name in trained}
    if overlap := sorted(seen & set(subjects)):
        raise ConfigError(
            f"{checkpoint_path} was trained on {', '.join(overlap)}; evaluate subjects that it never saw (--subjects)."
        )


def _checkpoint_digest(path: Path | str) -> str:
    if not Path(path).is_file():
        raise ConfigError(f"checkpoint {path} does not exist; give the file that training wrote.")
    return sha256_file(path)


def _source(shards_dir: Path | str, subjects: Sequence[str]) -> str:
    """Source of the shards, and the proof that all subjects are there."""
    present = converted_subjects(shards_dir)
    manifests = [read_manifest(Path(shards_dir), subject) for subject in subjects]
    missing = [subject for subject, manifest in zip(subjects, manifests, strict=True) if manifest is None]
    if missing:
        raise ConfigError(f"no shards of {', '.join(missing)} in {shards_dir} (has {', '.join(present) or 'none'}).")
    sources = {manifest["source"] for manifest in manifests if manifest is not None}
    if len(sources) != 1:
        raise DataError(f"evaluated subjects come from {sorted(sources)}, expected one source; keep them apart.")
    return sources.pop()


def _inputs(shards_dir: Path | str, mano_dir: Path | str, subjects: Sequence[str]) -> dict[str, str]:
    """Hashes of shards (through their manifests, which list the hashes of all files) and hand models."""
    manifests = {subject: Path(shards_dir) / subject / MANIFEST_FILE for subject in subjects}
    hashes = {subject: sha256_file(path) for subject, path in manifests.items() if path.is_file()}
    return hashes | {f"mano {side}": sha256_file(find_mano(mano_dir, side)) for side in ("right", "left")}


def _stage_dir(metrics_dir: Path | str, run_id: str) -> Path:
    return Path(metrics_dir) / "_stages" / run_id


def _outputs(stage: Path, metrics_dir: Path | str, run_id: str, tables: Sequence[str]) -> list[str]:
    files = [partition_dir(metrics_dir, table, run_id) / PART_NAME for table in tables]
    return [os.path.relpath(file, stage) for file in files]
