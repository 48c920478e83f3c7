"""The stages of evaluation: from shards to published tables, of a checkpoint and of the baselines.

Finished work is found again by a key over everything that decides its numbers: checkpoint, shards, hand models,
protocol, subjects and the version of this code. All inputs are checked before any work is done.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.evaluation.baselines import KINDS, training_means, write_baseline
from hawor_pipeline.evaluation.evaluator import measure_run
from hawor_pipeline.evaluation.finished_runs import sequence_counts
from hawor_pipeline.evaluation.predict import Prediction, choose_devices, predict_checkpoint
from hawor_pipeline.evaluation.registry import Registry, RunRecord
from hawor_pipeline.evaluation.robustness import write_robustness
from hawor_pipeline.evaluation.setting import Devices, Setting
from hawor_pipeline.evaluation.tables import (
    RunIdentity,
    baseline_run_id,
    list_runs,
    partition_dir,
    partition_file,
    read_identity,
    table_writer,
)
from hawor_pipeline.models.checkpoints import OpenedCheckpoint
from hawor_pipeline.provenance import StageResult, find_done, finished_info, hash_json, mark_done, sha256_file
from hawor_pipeline.versions import EVALUATION_VERSION

MEASURED_TABLES = ("predictions", "samples", "joints", "summary")
_TRAINING_COLUMNS = ("step", "epoch", "split", "metric", "value")


def evaluate_checkpoint(
    checkpoint: OpenedCheckpoint,
    setting: Setting,
    run_id: str,
    *,
    devices: Devices = Devices(),  # noqa: B008 - frozen
    training_table: Path | str | None = None,
    robustness_samples: int = 0,
    registry_dir: Path | str | None = None,
) -> StageResult:
    """Predict and measure: publish predictions, samples, joints, summary and the training curves of a run.

    Args:
        checkpoint: exactly this one is evaluated.
        setting: data, tables and protocol; sequences that the checkpoint was trained on are excluded.
        run_id: names the partition of every table; begins with a letter.
        devices: devices that predict.
        training_table: `training.parquet` of the run; published beside the other tables.
        robustness_samples: publish the robustness table too, from about this many samples per degradation; 0: none.
        registry_dir: registry that the run is added to.

    Returns:
        `path` is the folder of the tables; `info` has `run_id`, `checkpoint_sha256`, `box_rule`, `samples`,
        `sequences`, `source`, `protocol`, `metrics` (overall metric name to value) and `left_out_sequences`, those
        excluded.

    Raises:
        ConfigError: something named does not exist, or the protocol does not fit; nothing was done.
        DataError: no valid row, or damaged shards.
        NumericalError: the network's output is not finite.
    """
    choose_devices(devices.device, devices.count)
    partition_dir(setting.metrics_dir, "samples", run_id)
    setting = setting.unseen_by(checkpoint)
    _, source = setting.check()
    identity = RunIdentity(run_id, setting.protocol, setting.dataset_version, source, checkpoint.sha256)
    curves = Path(training_table) if training_table is not None else None
    key = hash_json(
        {
            "checkpoint": checkpoint.sha256,
            "box_rule": str(checkpoint.box_rule),
            "identity": identity.columns(),
            "inputs": setting.hashes(),
            "training": sha256_file(curves) if curves else None,
            "robustness": robustness_samples,
            "version": EVALUATION_VERSION,
        }
    )
    stage = stage_dir(setting.metrics_dir, run_id)
    info, why = find_done(stage, key)
    reused = info is not None
    if info is None:
        info = _publish(Prediction(checkpoint, setting, devices), identity, curves, robustness_samples)
        extra = [*(["training"] if curves else []), *(["robustness"] if robustness_samples else [])]
        mark_done(stage, key, info, outputs_of(stage, setting.metrics_dir, run_id, (*MEASURED_TABLES, *extra)))
    if registry_dir is not None:
        about = (run_id, setting.protocol, setting.dataset_version, source, checkpoint.sha256)
        Registry(registry_dir).add(RunRecord(*about, str(checkpoint.path.resolve()), info["metrics"]))
    return StageResult(setting.metrics_dir, reused, why, key, info)


def _publish(task: Prediction, identity: RunIdentity, curves: Path | None, robustness_samples: int) -> dict[str, Any]:
    measured = predict_and_measure(task, identity)
    if robustness_samples:
        write_robustness(task, identity, robustness_samples)
    if curves is not None:
        publish_training(curves, task.setting.metrics_dir, identity)
    info = {
        "run_id": identity.run_id,
        "checkpoint_sha256": identity.checkpoint_sha256,
        "box_rule": str(task.checkpoint.box_rule),
        "source": identity.source,
    }
    return info | measured | {"protocol": identity.protocol, "left_out_sequences": list(task.setting.excluded)}


def predict_and_measure(task: Prediction, identity: RunIdentity) -> dict[str, Any]:
    """Publish predictions, samples, joints and summary of a checkpoint; see `measure_run` for the result."""
    predict_checkpoint(task, identity)
    return measure_run(task.setting, identity)


def evaluate_baselines(
    setting: Setting, training_subjects: Sequence[str], *, kinds: Sequence[str] = KINDS
) -> StageResult:
    """Measure baselines, some of `KINDS`, on the same samples and by the same code as a checkpoint.

    The valid rows of the training subjects are averaged; subjects without rows add none.

    Returns:
        `path` is the folder of the tables; `info` has `run_ids` and `metrics`, each by kind.

    Raises:
        ConfigError: something named does not exist, or an unknown kind.
        DataError: no valid row to average or to evaluate.
    """
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise ConfigError(f"unknown baselines {unknown}; there are {', '.join(KINDS)}.")
    if setting.excluded:
        raise ConfigError(
            f"baselines are measured on all sequences of their subjects; expected none excluded, found "
            f"{', '.join(setting.excluded)}."
        )
    _, source = setting.check()
    about = (setting.protocol, setting.dataset_version, source)
    digest = setting.digest(training=sorted(training_subjects))
    parent = _baselines_parent(setting, about, digest)
    key = hash_json(
        {
            "inputs": setting.hashes(training_subjects),
            "training": sorted(training_subjects),
            "evaluated": list(setting.subjects),
            "identity": list(about),
            "kinds": list(kinds),
            "version": EVALUATION_VERSION,
        }
    )
    stage = stage_dir(setting.metrics_dir, "-".join(filter(None, ("baselines", setting.dataset_version, parent))))
    info, why = find_done(stage, key)
    if info is not None:
        return StageResult(setting.metrics_dir, True, why, key, info)
    means = training_means(setting.shards_dir, training_subjects)
    info = {"training_samples": means.samples, "run_ids": {}, "metrics": {}, "setting": digest}
    outputs = []
    for kind in kinds:
        identity = RunIdentity(baseline_run_id(kind, setting.dataset_version, parent), *about)
        write_baseline(kind, setting, identity, means)
        info["run_ids"][kind] = identity.run_id
        info["metrics"][kind] = measure_run(setting, identity)["metrics"]
        outputs += outputs_of(stage, setting.metrics_dir, identity.run_id, MEASURED_TABLES)
    mark_done(stage, key, info, outputs)
    return StageResult(setting.metrics_dir, False, why, key, info)


def _baselines_parent(setting: Setting, about: tuple[str, str, str], digest: str) -> str:
    """Return "" if the plain names of baselines are free or of this very setting; else the setting's digest.

    So the first setting of a dataset version has the plain names, and its rows are never replaced by those of another.
    """
    owner = finished_info(stage_dir(setting.metrics_dir, f"baselines-{setting.dataset_version}")).get("setting")
    if owner is not None:
        return "" if owner == digest else digest
    names = {baseline_run_id(kind, setting.dataset_version) for kind in KINDS}
    for name in sorted(names.intersection(list_runs(setting.metrics_dir, "samples"))):  # of version 3, or unfinished
        try:
            is_same = read_identity(setting.metrics_dir, "samples", name) == RunIdentity(name, *about)
            if not is_same or sequence_counts(setting.metrics_dir, name) != setting.planned_counts():
                return digest
        except DataError:  # damaged: made again
            continue
    return ""


def publish_training(training_table: Path | str, metrics_dir: Path | str, identity: RunIdentity) -> int:
    """Copy a run's training curves into the metric tables; return the number of rows.

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


def stage_dir(metrics_dir: Path | str, name: str) -> Path:
    """Return the folder of a finished stage's marker."""
    return Path(metrics_dir) / "_stages" / name


def outputs_of(stage: Path, metrics_dir: Path | str, run_id: str, tables: Sequence[str]) -> list[str]:
    """List the files of a run's tables, relative to the folder of a stage's marker."""
    files = [partition_file(metrics_dir, table, run_id) for table in tables]
    return [os.path.relpath(file, stage) for file in files]
