"""Metric tables of the trained checkpoint and of the baselines."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from hawor_pipeline.locate import hand_models_of
from hawor_pipeline.orchestration.checks import checked
from hawor_pipeline.orchestration.compute import ComputeResource
from hawor_pipeline.orchestration.materialization import log_and_publish, stage_metadata, table_metadata_value
from hawor_pipeline.orchestration.resources import Handoff
from hawor_pipeline.orchestration.stage_asset import PASSES_VALUE, USES_ACCELERATOR, stage_asset
from hawor_pipeline.orchestration.table_checks import BASELINE_TABLES, RUN_TABLES, described_tables, table_checks
from hawor_pipeline.paths import DataPaths
from hawor_pipeline.provenance import StageResult
from hawor_pipeline.versions import EVALUATION_VERSION, GALLERY_VERSION

if TYPE_CHECKING:
    from hawor_pipeline.evaluation.setting import Setting

LEAST_METRICS = 20
HEADLINES = ("mpjpe_mm", "pa_mpjpe_mm", "mpvpe_mm", "pck_3d_15mm", "pck_auc", "mpjpe_crop_px", "translation_error_mm")


class EvaluationAssetConfig(dg.Config):
    """The samples to evaluate on."""

    protocol: str = Field("arctic-all-val", description="Evaluation protocol: the views that count.")
    subjects: list[str] = Field(default_factory=list, description="Empty: the validation subjects of the splits.")
    robustness_samples: int = Field(
        128,
        description="Number of samples, roughly, to evaluate on degraded bounding boxes and images, per degradation; "
        "0: none.",
    )


def _setting(config: EvaluationAssetConfig, dataset: Mapping[str, Any]) -> "Setting":
    from hawor_pipeline.evaluation.setting import Setting

    folders = (dataset["shards"], hand_models_of(dataset["shards"]), DataPaths.default().metrics)
    subjects = config.subjects or dataset["splits"]["val"]
    return Setting.of(*folders, dataset["dataset_version"], subjects, config.protocol)


@stage_asset(
    EVALUATION_VERSION,
    kinds={"parquet"},
    blocking={
        "floors_are_finite": "Every baseline has a finite joint error; without it, the error of a network has no scale."
    },
    tables=BASELINE_TABLES,
    **PASSES_VALUE,
)
def baseline_metrics(
    context: dg.AssetExecutionContext, config: EvaluationAssetConfig, dataset_metadata: Handoff
) -> dg.MaterializeResult:
    """Metric tables of the baselines: the mean pose, the mean rotations and the mean of each subject."""
    from hawor_pipeline.evaluation.evaluate import evaluate_baselines

    setting, version = _setting(config, dataset_metadata), dataset_metadata["dataset_version"]
    result = evaluate_baselines(setting, dataset_metadata["splits"]["train"])
    log_and_publish(context.log, "baseline_metrics", result)
    baselines, run_ids = result.info["metrics"], list(result.info["run_ids"].values())
    unmeasured = [kind for kind, values in baselines.items() if values.get("mpjpe_mm") is None]
    rows = [{"baseline": kind, **{n: values.get(n) for n in HEADLINES}} for kind, values in baselines.items()]
    shown = {"floors": table_metadata_value(rows), "metrics": None, **described_tables(run_ids)}
    finite = checked("floors_are_finite", not unmeasured, unmeasured=unmeasured, floors=list(baselines))
    return dg.MaterializeResult(
        value={"metrics": baselines, "dataset_version": version},
        data_version=dg.DataVersion(result.key),
        metadata=stage_metadata(result, **shown),
        check_results=[finite, *table_checks(run_ids, BASELINE_TABLES)],
    )


@stage_asset(
    EVALUATION_VERSION,
    GALLERY_VERSION,
    kinds={"parquet", "pytorch"},
    blocking={"metrics_are_finite": f"At least {LEAST_METRICS} metrics of the whole validation set are finite."},
    warning={
        "better_than_the_mean_pose": "MPJPE is below that of the constant mean pose.",
        "targets_are_met": "The quality targets that the report shows.",
    },
    tables=RUN_TABLES,
    **USES_ACCELERATOR,
    **PASSES_VALUE,
)
def evaluation_metrics(
    context: dg.AssetExecutionContext,
    config: EvaluationAssetConfig,
    trained_checkpoint: Handoff,
    dataset_metadata: Handoff,
    baseline_metrics: Handoff,
    compute: ComputeResource,
) -> dg.MaterializeResult:
    """Predictions, samples, joints and summary of exactly the checkpoint that `trained_checkpoint` produced."""
    device, setting = compute.resolve(), _setting(config, dataset_metadata)
    with compute.watch(device) as usage:
        result, rivals = _evaluate(trained_checkpoint, setting, config.robustness_samples, device.accelerator)
    log_and_publish(context.log, "evaluation_metrics", result)
    context.log.info(_compared_with(rivals))
    about = {name: result.info[name] for name in ("run_id", "source", "protocol", "metrics")}
    shown = {**about["metrics"], **device.as_metadata(), **usage.as_metadata(), **described_tables([about["run_id"]])}
    checks = _checks(about["metrics"], baseline_metrics["metrics"], about["source"])
    return dg.MaterializeResult(
        value={**about, "subjects": list(setting.subjects)},
        data_version=dg.DataVersion(result.key),
        metadata=stage_metadata(result, **shown, metrics=None),
        check_results=[*checks, *table_checks([about["run_id"]], RUN_TABLES)],
    )


def _evaluate(
    checkpoint: Mapping[str, Any], setting: "Setting", robustness_samples: int, device: str
) -> tuple[StageResult, StageResult]:
    """Evaluate the checkpoint, and then the predictions it is compared with."""
    from hawor_pipeline.evaluation.evaluate import evaluate_checkpoint
    from hawor_pipeline.evaluation.rivals import evaluate_rivals
    from hawor_pipeline.evaluation.setting import Devices
    from hawor_pipeline.inspection.gallery import ensure_gallery
    from hawor_pipeline.models.checkpoints import open_checkpoint

    registry = DataPaths.default().registry
    result = evaluate_checkpoint(
        open_checkpoint(checkpoint["path"]),
        setting,
        checkpoint["run_id"],
        devices=Devices(device),
        training_table=Path(checkpoint["path"]).parents[1] / "training.parquet",
        robustness_samples=robustness_samples,
        registry_dir=registry,
    )
    ensure_gallery(setting, checkpoint["run_id"])
    return result, evaluate_rivals(checkpoint["run_id"], setting, registry_dir=registry, devices=Devices(device))


def _compared_with(rivals: StageResult) -> str:
    from hawor_pipeline.reporting.names import short_run_name

    others = ", ".join(short_run_name(name) for name in rivals.info["compared_with"])
    return f"compared with {others} ({'reused' if rivals.reused else 'done'})"


def _checks(
    metrics: dict[str, float], baselines: dict[str, dict[str, float]], source: str
) -> list[dg.AssetCheckResult]:
    from hawor_pipeline.evaluation.targets import judge

    finite = {name for name, value in metrics.items() if value is not None}
    mean_pose = baselines["mean_pose"]["mpjpe_mm"]
    targets = judge(metrics, source)
    reached, missed = [t["label"] for t in targets if t["met"]], [t["label"] for t in targets if not t["met"]]
    return [
        checked("metrics_are_finite", len(finite) >= LEAST_METRICS, finite=len(finite), expected=LEAST_METRICS),
        checked(
            "better_than_the_mean_pose",
            metrics["mpjpe_mm"] < mean_pose,
            warn=True,
            mpjpe_mm=metrics["mpjpe_mm"],
            mean_pose_mpjpe_mm=mean_pose,
        ),
        checked("targets_are_met", not missed, warn=True, reached=reached, missed=missed, source=source),
    ]
