"""The definitions of the code location, put together; tests replace resources here.

An option among them: results that follow their inputs. The sensor `follow_new_data` is off until it is started in the
UI. With it on, whatever is cheap is made again as soon as its inputs change; training costs hours and is left to the
weekly retraining.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import dagster as dg

from hawor_pipeline.orchestration.assets import ALL_ASSETS
from hawor_pipeline.orchestration.assets.external_shards import external_shards
from hawor_pipeline.orchestration.companions import ReportServer
from hawor_pipeline.orchestration.compute import ComputeResource
from hawor_pipeline.orchestration.engines import executor_of
from hawor_pipeline.orchestration.jobs import ALL_JOBS, external_data_job
from hawor_pipeline.orchestration.partitions import named_datasets
from hawor_pipeline.orchestration.resources import JsonIOManager, RawData
from hawor_pipeline.orchestration.schedules import ALL_SCHEDULES
from hawor_pipeline.orchestration.sensors import ALL_SENSORS
from hawor_pipeline.orchestration.tracking import TensorBoardResource, WandbResource
from hawor_pipeline.orchestration.training_process import pipes_client

FOLLOWING = ("dataset_metadata", "quality_stats", "baseline_metrics", "evaluation_metrics", "final_report")
FOLLOWS_INPUTS = dg.AutomationCondition.eager() & ~dg.AutomationCondition.any_deps_missing()
# A weekly schedule keeps these fresh; a day and a half of grace for a long training.
FRESH_WEEKLY = dg.FreshnessPolicy.time_window(fail_window=timedelta(days=15), warn_window=timedelta(days=8, hours=12))
EXPECTED_WEEKLY = ("champion",)

follow_new_data = dg.AutomationConditionSensorDefinition(
    "follow_new_data",
    target=dg.AssetSelection.assets(*FOLLOWING),
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Option: makes metadata, quality, evaluation and report again when their inputs change.",
)


def with_automation(assets: Sequence[dg.AssetsDefinition]) -> list[dg.AssetsDefinition]:
    """Add automation conditions and freshness policies to the assets."""

    def automated(spec: dg.AssetSpec) -> dg.AssetSpec:
        name = spec.key.to_user_string()
        if name in FOLLOWING:
            spec = spec.replace_attributes(automation_condition=FOLLOWS_INPUTS)
        if name in EXPECTED_WEEKLY:
            spec = spec.replace_attributes(freshness_policy=FRESH_WEEKLY)
        return spec

    return list(dg.map_asset_specs(automated, assets))


def build_defs(resource_overrides: dict[str, Any] | None = None) -> dg.Definitions:
    """Build all assets, jobs, schedules, sensors and resources; overrides replace resources by name."""
    resources = {
        "raw": RawData(),
        "compute": ComputeResource(),
        "tensorboard": TensorBoardResource(),
        "wandb": WandbResource(),
        "reports": ReportServer(),
        "json_io_manager": JsonIOManager(),
        "pipes": pipes_client(),
        **(resource_overrides or {}),
    }
    external = bool(named_datasets())
    return dg.Definitions(
        assets=with_automation([*ALL_ASSETS, *([external_shards] if external else [])]),
        jobs=[*ALL_JOBS, *([external_data_job] if external else [])],
        schedules=ALL_SCHEDULES,
        sensors=[*ALL_SENSORS, follow_new_data],
        resources=resources,
        executor=executor_of(),
    )
