"""Rivals of a run besides the baselines: its own predictions smoothed over time, and the champion.

- `smoothed`: the run's predictions under a constant-velocity smoother; a network over clips should not be worse.
- `champion`: the champion's checkpoint on this version of the data, for the gate.

Their tables lie beside those of the baselines and name their parent: `baseline-smoothed-<dataset version>-<run>`, and
`baseline-champion-<dataset version>-<checkpoint>-<setting>`, with the beginnings of the checkpoint's hash and of a hash
of protocol and subjects. So no other run's rows replace them, and `other_run_id` of a comparison names its very rows.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from hawor_pipeline.errors import DataError, HaworError
from hawor_pipeline.evaluation.compare import write_comparison
from hawor_pipeline.evaluation.declared_metrics import SAMPLE_METRICS
from hawor_pipeline.evaluation.evaluate import (
    MEASURED_TABLES,
    outputs_of,
    predict_and_measure,
    stage_dir,
)
from hawor_pipeline.evaluation.evaluator import PredictionReader, measure_run, tracks_of
from hawor_pipeline.evaluation.finished_runs import baselines_of, sequence_counts
from hawor_pipeline.evaluation.gate import find_champion, find_champion_tables
from hawor_pipeline.evaluation.hands import read_truth
from hawor_pipeline.evaluation.predict import Prediction
from hawor_pipeline.evaluation.recordings import annotations_of, plan_recordings
from hawor_pipeline.evaluation.registry import Champion, Registry
from hawor_pipeline.evaluation.setting import Devices, Setting
from hawor_pipeline.evaluation.smoothing import smooth
from hawor_pipeline.evaluation.tables import (
    RunIdentity,
    baseline_run_id,
    list_runs,
    partition_file,
    read_identity,
    table_writer,
)
from hawor_pipeline.locate import open_hand_models
from hawor_pipeline.models.checkpoints import open_checkpoint
from hawor_pipeline.provenance import StageResult, find_done, hash_json, mark_done, sha256_file
from hawor_pipeline.versions import EVALUATION_VERSION

KINDS = ("smoothed", "champion")


def evaluate_rivals(
    run_id: str,
    setting: Setting,
    *,
    registry_dir: Path | str | None = None,
    devices: Devices = Devices(),  # noqa: B008 - frozen
) -> StageResult:
    """Measure the rivals of an evaluated run, and publish the comparison of the run with them and with the baselines.

    Args:
        run_id: evaluated on exactly this setting.
        setting: shards, hand models, tables, subjects and protocol.
        registry_dir: where the champion is looked up; None: there is none.
        devices: devices that predict, where the champion has no tables on this data yet.

    Returns:
        `path` is `metrics_dir`; `info` has `run_ids` (by kind), `compared_with` (run_ids) and `champion_left_out`: why
        the champion, if there is one, could not be evaluated here, else "".

    Raises:
        DataError: the run was not evaluated, or on other samples.
    """
    identity = read_identity(setting.metrics_dir, "samples", run_id)
    champion = _other_champion(registry_dir, identity)
    beside = baselines_of(setting.metrics_dir, identity)
    baselines = [name for kind, names in beside.items() if kind not in KINDS for name in names]
    key = hash_json(
        {
            "run": [run_id, identity.columns()],
            "predictions": sha256_file(partition_file(setting.metrics_dir, "predictions", run_id)),
            "champion": champion.record.checkpoint_sha256 if champion else None,
            "floors": {name: sha256_file(partition_file(setting.metrics_dir, "samples", name)) for name in baselines},
            "inputs": setting.hashes(),
            "evaluated": list(setting.subjects),
            "version": EVALUATION_VERSION,
        }
    )
    stage = stage_dir(setting.metrics_dir, f"rivals-{run_id}")
    info, why = find_done(stage, key)
    complete = info is not None and not info["champion_left_out"]
    if info is not None and complete and _still_of(setting.metrics_dir, info["run_ids"], identity, champion):
        return StageResult(setting.metrics_dir, True, why, key, info)
    run_ids = {"smoothed": evaluate_smoothed(run_id, setting)}
    left_out = ""
    if champion is not None and registry_dir is not None:
        try:
            found = evaluate_champion(Registry(registry_dir), setting, devices)
            if found and sequence_counts(setting.metrics_dir, found) != sequence_counts(setting.metrics_dir, run_id):
                raise DataError(f"{found} and {run_id} have other samples, because one was trained on some of them.")
            run_ids |= {"champion": found} if found else {}
        except HaworError as error:  # a champion that cannot be run is no reason to lose the evaluation of this run
            left_out = str(error)
    others = [*baselines, *run_ids.values()]
    write_comparison(setting.metrics_dir, run_id, others)
    info = {"run_ids": run_ids, "compared_with": others, "champion_left_out": left_out}
    outputs = outputs_of(stage, setting.metrics_dir, run_id, ["comparison"])
    for name in run_ids.values():
        outputs += outputs_of(stage, setting.metrics_dir, name, MEASURED_TABLES)
    mark_done(stage, key, info, outputs)
    return StageResult(setting.metrics_dir, False, why, key, info)


def evaluate_smoothed(run_id: str, setting: Setting) -> str:
    """Smooth a run's predictions and measure them; return the run_id of the tables."""
    identity = read_identity(setting.metrics_dir, "predictions", run_id)
    rival = replace(identity, run_id=baseline_run_id("smoothed", setting.dataset_version, run_id))
    models = open_hand_models(setting.shards_dir, setting.mano_dir)
    predictions = PredictionReader(setting.metrics_dir, run_id)
    setting = replace(setting, excluded=_excluded(setting, run_id))
    recordings = plan_recordings(setting.shards_dir, setting.subjects, setting.views, excluded=setting.excluded)
    with table_writer(setting.metrics_dir, "predictions", rival) as writer:
        for annotations in annotations_of(setting.shards_dir, recordings, setting.views):
            predicted = predictions.take(annotations["sample_id"])
            hands = smooth(models, read_truth(annotations), predicted, tracks_of(annotations))
            writer.write(hands.columns(annotations["sample_id"].to_pylist()))
        predictions.expect_end()
    measure_run(setting, rival)
    return rival.run_id


def evaluate_champion(registry: Registry, setting: Setting, devices: Devices = Devices()) -> str | None:  # noqa: B008
    """Make sure that the champion has tables on these samples; return their run_id, or None without a champion.

    Where it has none on this data yet, these devices predict.

    Raises:
        ConfigError: the champion was trained on a subject that is evaluated.
        DataError: its checkpoint is missing from the registry.
    """
    _, source = setting.check()
    champion = find_champion(registry, setting.protocol, setting.dataset_version, source)
    if champion is None:
        return None
    about = (setting.protocol, setting.dataset_version)

    def find(counted: Setting) -> str | None:
        counts = counted.planned_counts()
        return find_champion_tables(setting.metrics_dir, champion, *about, counts, SAMPLE_METRICS)

    if (found := find(setting)) is not None:
        return found
    digest = champion.record.checkpoint_sha256  # of the file, which the registry has just compared with it
    checkpoint = open_checkpoint(registry.checkpoint(champion), digest)
    setting = setting.unseen_by(checkpoint)
    if setting.excluded and (found := find(setting)) is not None:
        return found
    run_id = baseline_run_id("champion", setting.dataset_version, f"{digest[:12]}-{setting.digest()}")
    predict_and_measure(Prediction(checkpoint, setting, devices), RunIdentity(run_id, *about, source, digest))
    return run_id


def _other_champion(registry_dir: Path | str | None, identity: RunIdentity) -> Champion | None:
    """Find the champion to compare with; None where there is none, or it is the run itself."""
    if registry_dir is None:
        return None
    champion = find_champion(Registry(registry_dir), identity.protocol, identity.dataset_version, identity.source)
    is_same = champion is not None and champion.record.checkpoint_sha256 == identity.checkpoint_sha256
    return None if is_same else champion


def _excluded(setting: Setting, run_id: str) -> tuple[str, ...]:
    """List the sequences that the run was not evaluated on, because it had been trained on them."""
    measured = sequence_counts(setting.metrics_dir, run_id)
    planned = plan_recordings(setting.shards_dir, setting.subjects, setting.views)
    return tuple(name for r in planned if (name := f"{r.subject}/{r.sequence}") not in measured)


def _still_of(metrics_dir: Path, run_ids: dict[str, str], identity: RunIdentity, champion: Champion | None) -> bool:
    """Test if the rivals' tables are there and of this run's checkpoint and protocol."""
    expected: dict[str, Any] = {"smoothed": identity.checkpoint_sha256}
    if champion is not None:
        expected["champion"] = champion.record.checkpoint_sha256
    present = set(list_runs(metrics_dir, "samples"))
    for kind, digest in expected.items():
        name = run_ids.get(kind)
        if name not in present:
            return False
        found = read_identity(metrics_dir, "samples", name)
        if (found.checkpoint_sha256, found.protocol) != (digest, identity.protocol):
            return False
    return True
