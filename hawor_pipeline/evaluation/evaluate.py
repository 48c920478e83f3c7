"""The stages of evaluation: a checkpoint, and the floors, each from shards to published tables.

Finished work is found again by a key over everything that decides its numbers: checkpoint, shards, hand models,
protocol, subjects and the version of this code. Whatever can be wrong is looked for before any work is done.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hawor_pipeline.errors import CheckpointError, ConfigError, DataError
from hawor_pipeline.evaluation.baselines import KINDS, training_means, write_baseline
from hawor_pipeline.evaluation.evaluator import evaluate_predictions
from hawor_pipeline.evaluation.predict import Prediction, choose_devices, predict_checkpoint
from hawor_pipeline.evaluation.protocols import DEFAULT_PROTOCOL, Protocol, check_fits, find_protocol
from hawor_pipeline.evaluation.recordings import plan_recordings
from hawor_pipeline.evaluation.registry import Registry, RunRecord
from hawor_pipeline.evaluation.robustness import write_robustness
from hawor_pipeline.evaluation.tables import PART_NAME, RunIdentity, baseline_run_id, partition_dir, table_writer
from hawor_pipeline.inspection.gallery import GALLERY_FILE, write_gallery
from hawor_pipeline.locate import check_hand_models
from hawor_pipeline.provenance import StageResult, find_done, hash_json, mark_done, sha256_file
from hawor_pipeline.shards.schema import MANIFEST_FILE
from hawor_pipeline.untrusted.mano_files import find_mano
from hawor_pipeline.untrusted.safe_load import load_checkpoint
from hawor_pipeline.versions import EVALUATION_VERSION

DEFAULT_CLIP_LENGTH = 16
MEASURED_TABLES = ("predictions", "samples", "joints", "summary")
_TRAINING_COLUMNS = ("step", "epoch", "split", "metric", "value")


@dataclass(frozen=True, slots=True)
class Setting:
    """Where an evaluation reads and writes, and on what.

    Attributes:
        shards_dir: converted shards.
        mano_dir: folder of the MANO models.
        metrics_dir: where the tables go.
        dataset_version: from the manifest of the shards.
        subjects: those evaluated, in any order.
        protocol: name in `protocols.PROTOCOLS`.
        leave_out: sequences of these subjects that do not count, as "subject/sequence".
    """

    shards_dir: Path
    mano_dir: Path
    metrics_dir: Path
    dataset_version: str
    subjects: tuple[str, ...]
    protocol: str = DEFAULT_PROTOCOL
    leave_out: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        shards_dir: Path | str,
        mano_dir: Path | str,
        metrics_dir: Path | str,
        dataset_version: str,
        subjects: Sequence[str],
        protocol: str = DEFAULT_PROTOCOL,
    ) -> "Setting":
        """From paths of any kind; the order of subjects does not matter."""
        folders = (Path(shards_dir), Path(mano_dir), Path(metrics_dir))
        return cls(*folders, dataset_version, tuple(sorted(set(subjects))), protocol)

    def check(self) -> tuple[Protocol, str]:
        """The protocol and the source of the shards, once it is sure that there is something to evaluate.

        Raises:
            ConfigError: something named does not exist, the protocol is one of other data, or the hand models are not
                those of the shards.
            DataError: a shard is damaged, or no row counts.
        """
        check_hand_models(self.shards_dir, self.mano_dir)
        protocol = find_protocol(self.protocol)
        source = check_fits(protocol, self.shards_dir, self.subjects)
        plan_recordings(
            self.shards_dir, self.subjects, protocol.views, protocol.consecutive_frames, leave_out=self.leave_out
        )
        return protocol, source

    def hashes(self, other_subjects: Sequence[str] = ()) -> dict[str, str]:
        """Hashes of shards (through their manifests, which list the hashes of all files) and of hand models."""
        subjects = {*self.subjects, *other_subjects}
        manifests = {subject: self.shards_dir / subject / MANIFEST_FILE for subject in sorted(subjects)}
        hashes = {subject: sha256_file(path) for subject, path in manifests.items() if path.is_file()}
        return hashes | {f"mano {side}": sha256_file(find_mano(self.mano_dir, side)) for side in ("right", "left")}


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
    devices: int = 1,
    num_workers: int = 0,
    training_table: Path | str | None = None,
    robustness_samples: int = 0,
    registry_dir: Path | str | None = None,
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
        devices: how many devices (on the CPU: processes) predict; not part of the key either.
        num_workers: processes per device that decode crops.
        training_table: `training.parquet` of the run; published beside the other tables.
        robustness_samples: publish the robustness table too, from about this many samples per degradation; 0: none.
        registry_dir: write the run down in this registry.

    Returns:
        `path` is `metrics_dir`; `info` has `run_id`, `checkpoint_sha256`, `samples`, `sequences`, `source`, `protocol`,
        `metrics` (overall metric name to value) and `left_out_sequences`: those that the checkpoint was trained on.

    Raises:
        ConfigError: something named does not exist, or the protocol does not fit; nothing was done.
        CheckpointError: the file cannot be read safely or does not fit.
        DataError: no valid row, or damaged shards.
        NumericalError: the network's output is not finite.
    """
    choose_devices(device, devices)
    setting = Setting.of(shards_dir, mano_dir, metrics_dir, dataset_version, subjects, protocol)
    partition_dir(metrics_dir, "samples", run_id)
    digest = _checkpoint_digest(checkpoint_path)
    setting = replace(setting, leave_out=trained_sequences(checkpoint_path, setting.subjects))
    rules, source = setting.check()
    identity = RunIdentity(run_id, protocol, dataset_version, source, digest)
    curves = Path(training_table) if training_table is not None else None
    key = hash_json(
        {
            "checkpoint": digest,
            "identity": identity.columns(),
            "inputs": setting.hashes(),
            "training": sha256_file(curves) if curves else None,
            "robustness": robustness_samples,
            "version": EVALUATION_VERSION,
        }
    )
    stage = stage_dir(metrics_dir, run_id)
    info, why = find_done(stage, key)
    reused = info is not None
    if info is None:
        task = Prediction(
            Path(checkpoint_path),
            setting.shards_dir,
            setting.mano_dir,
            clip_length=clip_length_of(checkpoint_path),
            views=rules.views,
            num_workers=num_workers,
            leave_out=setting.leave_out,
        )
        measured = _measure_checkpoint(task, setting, identity, device, devices, robustness_samples)
        if curves is not None:
            publish_training(curves, metrics_dir, identity)
        info = {"run_id": run_id, "checkpoint_sha256": digest, "source": source, "protocol": protocol, **measured}
        info["left_out_sequences"] = list(setting.leave_out)
        extra = [*(["training"] if curves else []), *(["robustness"] if robustness_samples else [])]
        images = os.path.relpath(partition_dir(metrics_dir, "gallery", run_id) / GALLERY_FILE, stage)
        mark_done(stage, key, info, [*outputs_of(stage, metrics_dir, run_id, (*MEASURED_TABLES, *extra)), images])
    if registry_dir is not None:
        about = (run_id, protocol, dataset_version, source, digest)
        Registry(registry_dir).add(RunRecord(*about, str(Path(checkpoint_path).resolve()), info["metrics"]))
    return StageResult(Path(metrics_dir), reused, why, key, info)


def _measure_checkpoint(
    task: Prediction, setting: Setting, identity: RunIdentity, device: str, devices: int, robustness_samples: int
) -> dict[str, Any]:
    subjects = setting.subjects
    predict_checkpoint(task, setting.metrics_dir, identity, subjects=subjects, device=device, devices=devices)
    folders = (setting.shards_dir, setting.mano_dir, setting.metrics_dir)
    measured = evaluate_predictions(*folders, identity, subjects, setting.leave_out)
    if robustness_samples:
        write_robustness(task, setting.metrics_dir, identity, subjects, device, robustness_samples)
    write_gallery(*folders, identity)
    return measured


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
    setting = Setting.of(shards_dir, mano_dir, metrics_dir, dataset_version, subjects, protocol)
    rules, source = setting.check()
    key = hash_json(
        {
            "inputs": setting.hashes(training_subjects),
            "training": sorted(training_subjects),
            "evaluated": list(setting.subjects),
            "identity": [protocol, dataset_version, source],
            "kinds": list(kinds),
            "version": EVALUATION_VERSION,
        }
    )
    stage = stage_dir(metrics_dir, f"baselines-{dataset_version}")
    info, why = find_done(stage, key)
    if info is not None:
        return StageResult(Path(metrics_dir), True, why, key, info)
    means = training_means(shards_dir, training_subjects)
    info = {"training_samples": means.samples, "run_ids": {}, "metrics": {}}
    outputs = []
    for kind in kinds:
        identity = RunIdentity(baseline_run_id(kind, dataset_version), protocol, dataset_version, source)
        write_baseline(kind, shards_dir, mano_dir, metrics_dir, identity, setting.subjects, means, rules.views)
        measured = evaluate_predictions(shards_dir, mano_dir, metrics_dir, identity, setting.subjects)
        info["run_ids"][kind] = identity.run_id
        info["metrics"][kind] = measured["metrics"]
        outputs += outputs_of(stage, metrics_dir, identity.run_id, MEASURED_TABLES)
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


def trained_sequences(checkpoint_path: Path | str, subjects: Sequence[str]) -> tuple[str, ...]:
    """Sequences of these subjects that a checkpoint was trained on, as "subject/sequence": they may not count.

    Raises:
        ConfigError: it was trained on all of a subject, so that an evaluation would be a look at the training data.
    """
    split = load_checkpoint(checkpoint_path).get("split")
    trained = [str(name) for name in (split.get("training", ()) if isinstance(split, dict) else ())]
    if overlap := sorted(set(trained) & set(subjects)):
        raise ConfigError(
            f"{checkpoint_path} was trained on {', '.join(overlap)}; evaluate subjects that it never saw (--subjects)."
        )
    return tuple(sorted(name for name in trained if "/" in name and name.split("/")[0] in subjects))


def _checkpoint_digest(path: Path | str) -> str:
    if not Path(path).is_file():
        raise ConfigError(f"checkpoint {path} does not exist; give the file that training wrote.")
    return sha256_file(path)


def stage_dir(metrics_dir: Path | str, name: str) -> Path:
    """Where the marker of a finished stage lies."""
    return Path(metrics_dir) / "_stages" / name


def outputs_of(stage: Path, metrics_dir: Path | str, run_id: str, tables: Sequence[str]) -> list[str]:
    """Files of a run's tables, relative to the folder of a stage's marker."""
    files = [partition_dir(metrics_dir, table, run_id) / PART_NAME for table in tables]
    return [os.path.relpath(file, stage) for file in files]
