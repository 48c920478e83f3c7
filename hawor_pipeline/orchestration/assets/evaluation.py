"""Metric tables of the trained checkpoint and of the baselines."""

from typing import Any

import dagster as dg

from hawor_pipeline.orchestration.assets.training import ACCELERATOR_TAGS
from hawor_pipeline.orchestration.failures import user_errors
from hawor_pipeline.orchestration.metadata import describe
from hawor_pipeline.orchestration.resources import ComputeResource, RawData
from hawor_pipeline.paths import DataPaths

LEAST_METRICS = 20


@dg.asset(
    group_name="results",
    kinds={"parquet"},
    owners=["team:hand-mesh"],
    io_manager_key="json_io_manager",
    code_version="1",
)
def baseline_metrics(dataset_metadata: dict[str, Any], raw: RawData) -> dg.MaterializeResult:
    """The floors: metric tables of the mean pose, the mean rotations and the mean of each subject."""
    from hawor_pipeline.evaluation.evaluate import evaluate_baselines

    with user_errors():
        result = evaluate_baselines(
            dataset_metadata["shards"], raw.locate().mano_dir, DataPaths.default().metrics, dataset_metadata["path"]
        )
    return dg.MaterializeResult(
        value={"runs": result.info["runs"], "dataset_version": dataset_metadata["dataset_version"]},
        data_version=dg.DataVersion(result.key),
        metadata=describe(result),
    )


@dg.asset(
    group_name="results",
    kinds={"parquet", "pytorch"},
    owners=["team:hand-mesh"],
    pool="gpu",
    op_tags=ACCELERATOR_TAGS,
    io_manager_key="json_io_manager",
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
            "targets_are_met", asset="evaluation_metrics", description="The quality targets of the report."
        ),
    ],
)
def evaluation_metrics(
    trained_checkpoint: dict[str, Any],
    dataset_metadata: dict[str, Any],
    baseline_metrics: dict[str, Any],
    raw: RawData,
    compute: ComputeResource,
) -> dg.MaterializeResult:
    """Predictions, samples, joints and summary of exactly the checkpoint that `trained_checkpoint` produced."""
    raise RuntimeError("under construction")
