"""Metric tables of the trained checkpoint and of the baselines."""

from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from hawor_pipeline.orchestration.assets.training import ACCELERATOR_TAGS
from hawor_pipeline.orchestration.checks import checked
from hawor_pipeline.orchestration.failures import user_errors
from hawor_pipeline.orchestration.metadata import announce, describe, table
from hawor_pipeline.orchestration.resources import ComputeResource, RawData
from hawor_pipeline.paths import DataPaths

LEAST_METRICS = 20
HEADLINES = ("mpjpe_mm", "pa_mpjpe_mm", "mpvpe_mm", "pck_3d_15mm", "pck_auc", "mpjpe_crop_px", "translation_error_mm")


class EvaluationAssetConfig(dg.Config):
    """What to evaluate on."""

    protocol: str = Field("arctic-all-val", description="Evaluation protocol: which views count.")
    subjects: list[str] = Field(default_factory=list, description="Empty: the validation subjects of the splits.")


def _evaluated_subjects(config: EvaluationAssetConfig, dataset: dict[str, Any]) -> list[str]:
    return config.subjects or dataset["splits"]["val"]


@dg.asset(
    group_name="hand_mesh",
    kinds={"parquet"},
    owners=["team:hand-mesh"],
    io_manager_key="json_io_manager",
    dagster_type=dg.Any,
    code_version="1",
)
def baseline_metrics(
    context: dg.AssetExecutionContext, config: EvaluationAssetConfig, dataset_metadata: dict[str, Any], raw: RawData
) -> dg.MaterializeResult:
    """The floors: metric tables of the mean pose, the mean rotations and the mean of each subject."""
    from hawor_pipeline.evaluation.evaluate import evaluate_baselines

    with user_errors():
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
    floors = result.info["metrics"]
    rows = [{"baseline": kind, **{name: values.get(name) for name in HEADLINES}} for kind, values in floors.items()]
    return dg.MaterializeResult(
        value={"metrics": floors, "dataset_version": dataset_metadata["dataset_version"]},
        data_version=dg.DataVersion(result.key),
        metadata=describe(result, floors=table(rows), metrics=None),
    )


@dg.asset(
    group_name="hand_mesh",
    kinds={"parquet", "pytorch"},
    owners=["team:hand-mesh"],
    pool="gpu",
    op_tags=ACCELERATOR_TAGS,
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
    ],
)
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
    from hawor_pipeline.evaluation.evaluate import evaluate_checkpoint

    with user_errors():
        device = compute.resolve()
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
        )
    announce(context.log, "evaluation_metrics", result)
    metrics = result.info["metrics"]
    return dg.MaterializeResult(
        value={"run_id": result.info["run_id"], "source": result.info["source"], "metrics": metrics},
        data_version=dg.DataVersion(result.key),
        metadata=describe(result, **metrics, **device.as_metadata(), metrics=None),
        check_results=_checks(metrics, baseline_metrics["metrics"], result.info["source"]),
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
