"""Metric tables of the trained checkpoint and of the baselines."""

from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from hawor_pipeline.orchestration.assets.trained_checkpoint import ACCELERATOR_TAGS
from hawor_pipeline.orchestration.checks import checked
from hawor_pipeline.orchestration.compute import ComputeResource
from hawor_pipeline.orchestration.failures import RETRY_POLICY, clear_failures
from hawor_pipeline.orchestration.materialization import announce, describe, table
from hawor_pipeline.orchestration.metric_tables import BASELINE_TABLES, RUN_TABLES, described_tables, table_checks
from hawor_pipeline.orchestration.resources import RawData
from hawor_pipeline.orchestration.table_checks import schema_check_specs
from hawor_pipeline.paths import DataPaths

LEAST_METRICS = 20
HEADLINES = ("mpjpe_mm", "pa_mpjpe_mm", "mpvpe_mm", "pck_3d_15mm", "pck_auc", "mpjpe_crop_px", "translation_error_mm")


class EvaluationAssetConfig(dg.Config):
    """What to evaluate on."""

    protocol: str = Field("arctic-all-val", description="Evaluation protocol: which views count.")
    subjects: list[str] = Field(default_factory=list, description="Empty: the validation subjects of the splits.")
    robustness_samples: int = Field(
        128, description="About how many samples to evaluate on degraded boxes and pictures, per degradation; 0: none."
    )


def _evaluated_subjects(config: EvaluationAssetConfig, dataset: dict[str, Any]) -> list[str]:
    return config.subjects or dataset["splits"]["val"]


@dg.asset(
    group_name="hand_mesh",
    kinds={"parquet"},
    owners=["team:hand-mesh"],
    retry_policy=RETRY_POLICY,
    io_manager_key="json_io_manager",
    dagster_type=dg.Any,
    code_version="1",
    check_specs=[
        dg.AssetCheckSpec(
            "floors_are_finite",
            asset="baseline_metrics",
            blocking=True,
            description="Every floor has a finite joint error: without it nothing says what a network is worth.",
        ),
        *schema_check_specs("baseline_metrics", BASELINE_TABLES),
    ],
)
@clear_failures
def baseline_metrics(
    context: dg.AssetExecutionContext, config: EvaluationAssetConfig, dataset_metadata: dict[str, Any], raw: RawData
) -> dg.MaterializeResult:
    """The floors: metric tables of the mean pose, the mean rotations and the mean of each subject."""
    from hawor_pipeline.evaluation.evaluate import evaluate_baselines

    result = evaluate_baselines(
        dataset_metadata["shards"],
        raw.locate().mano_dir,
        DataPaths.default().metrics,
        dataset_version=dataset_metadata["dataset_version"],
        training_subjects=dataset_metadata["splits"]["train"],
        subjects=_evaluated_subjects(config, dataset_metadata),
        protocol=config.protocol,
    )
    announce(context.log, "baseline_metrics", result)
    floors, run_ids = result.info["metrics"], list(result.info["run_ids"].values())
    unmeasured = [kind for kind, values in floors.items() if values.get("mpjpe_mm") is None]
    rows = [{"baseline": kind, **{name: values.get(name) for name in HEADLINES}} for kind, values in floors.items()]
    return dg.MaterializeResult(
        value={"metrics": floors, "dataset_version": dataset_metadata["dataset_version"]},
        data_version=dg.DataVersion(result.key),
        metadata=describe(result, floors=table(rows), metrics=None, **described_tables(run_ids)),
        check_results=[
            checked("floors_are_finite", not unmeasured, unmeasured=unmeasured, floors=list(floors)),
            *table_checks(run_ids, BASELINE_TABLES),
        ],
    )


@dg.asset(
    group_name="hand_mesh",
    kinds={"parquet", "pytorch"},
    owners=["team:hand-mesh"],
    pool="gpu",
    op_tags=ACCELERATOR_TAGS,
    retry_policy=RETRY_POLICY,
    io_manager_key="json_io_manager",
    dagster_type=dg.Any,
    code_version="1",
    check_specs=[
        dg.AssetCheckSpec(
            "metrics_are_finite",
            asset="evaluation_metrics",
            blocking=True,
            description=f"At least {LEAST_METRICS} metrics of the whole validation set are finite.",
        ),
        dg.AssetCheckSpec(
            "better_than_the_mean_pose",
            asset="evaluation_metrics",
            description="MPJPE is below that of the constant mean pose.",
        ),
        dg.AssetCheckSpec(
            "targets_are_met", asset="evaluation_metrics", description="The quality targets that the report shows."
        ),
        *schema_check_specs("evaluation_metrics", RUN_TABLES),
    ],
)
@clear_failures
def evaluation_metrics(
    context: dg.AssetExecutionContext,
    config: EvaluationAssetConfig,
    trained_checkpoint: dict[str, Any],
    dataset_metadata: dict[str, Any],
    baseline_metrics: dict[str, Any],
    raw: RawData,
    compute: ComputeResource,
) -> dg.MaterializeResult:
    """Predictions, samples, joints and summary of exactly the checkpoint that `trained_checkpoint` produced."""
    from hawor_pipeline.evaluation.evaluate import Setting, evaluate_checkpoint
    from hawor_pipeline.evaluation.rivals import evaluate_rivals
    from hawor_pipeline.reporting.names import short_run_name

    device = compute.resolve()
    with compute.watch(device) as usage:
        result = evaluate_checkpoint(
            trained_checkpoint["path"],
            dataset_metadata["shards"],
            raw.locate().mano_dir,
            DataPaths.default().metrics,
            run_id=trained_checkpoint["run_id"],
            dataset_version=dataset_metadata["dataset_version"],
            subjects=_evaluated_subjects(config, dataset_metadata),
            protocol=config.protocol,
            device=device.accelerator,
            training_table=Path(trained_checkpoint["path"]).parents[1] / "training.parquet",
            robustness_samples=config.robustness_samples,
            registry_dir=DataPaths.default().registry,
        )
        about = (dataset_metadata["dataset_version"], _evaluated_subjects(config, dataset_metadata), config.protocol)
        setting = Setting.of(dataset_metadata["shards"], raw.locate().mano_dir, DataPaths.default().metrics, *about)
        registry = DataPaths.default().registry
        rivals = evaluate_rivals(result.info["run_id"], setting, registry_dir=registry, device=device.accelerator)
    announce(context.log, "evaluation_metrics", result)
    others = ", ".join(short_run_name(name) for name in rivals.info["compared_with"])
    context.log.info(f"compared with {others} ({'reused' if rivals.reused else 'done'})")
    metrics, run_id = result.info["metrics"], result.info["run_id"]
    value = {
        "run_id": run_id,
        "source": result.info["source"],
        "protocol": result.info["protocol"],
        "subjects": _evaluated_subjects(config, dataset_metadata),
        "metrics": metrics,
    }
    measured = {**metrics, **device.as_metadata(), **usage.as_metadata(), **described_tables([run_id])}
    return dg.MaterializeResult(
        value=value,
        data_version=dg.DataVersion(result.key),
        metadata=describe(result, **measured, metrics=None),
        check_results=[
            *_checks(metrics, baseline_metrics["metrics"], result.info["source"]),
            *table_checks([run_id], RUN_TABLES),
        ],
    )


def _checks(metrics: dict[str, float], floors: dict[str, dict[str, float]], source: str) -> list[dg.AssetCheckResult]:
    from hawor_pipeline.evaluation.targets import judge

    finite = {name for name, value in metrics.items() if value is not None}
    floor = floors["mean_pose"]["mpjpe_mm"]
    targets = judge(metrics, source)
    reached, missed = [t["label"] for t in targets if t["met"]], [t["label"] for t in targets if not t["met"]]
    return [
        checked("metrics_are_finite", len(finite) >= LEAST_METRICS, finite=len(finite), expected=LEAST_METRICS),
        checked(
            "better_than_the_mean_pose",
            metrics["mpjpe_mm"] < floor,
            warn=True,
            mpjpe_mm=metrics["mpjpe_mm"],
            mean_pose_mpjpe_mm=floor,
        ),
        checked("targets_are_met", not missed, warn=True, reached=reached, missed=missed, source=source),
    ]
