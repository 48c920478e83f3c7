"""Puts the definitions together; tests replace resources here."""

from typing import Any

import dagster as dg

from hawor_pipeline.orchestration.assets import ALL_ASSETS
from hawor_pipeline.orchestration.assets.external_shards import external_shards
from hawor_pipeline.orchestration.assets.trained_checkpoint import pipes_client
from hawor_pipeline.orchestration.automation import follow_new_data, with_automation
from hawor_pipeline.orchestration.companions import ReportServer
from hawor_pipeline.orchestration.compute import ComputeResource
from hawor_pipeline.orchestration.engines import executor_of
from hawor_pipeline.orchestration.io import JsonIOManager
from hawor_pipeline.orchestration.jobs import ALL_JOBS, external_data_job
from hawor_pipeline.orchestration.partitions import named_datasets
from hawor_pipeline.orchestration.resources import RawData
from hawor_pipeline.orchestration.schedules import ALL_SCHEDULES
from hawor_pipeline.orchestration.sensors import ALL_SENSORS
from hawor_pipeline.orchestration.tracking import TensorBoardResource, WandbResource


def build_defs(resource_overrides: dict[str, Any] | None = None) -> dg.Definitions:
    """All assets, jobs, schedules, sensors and resources of the code location.

    Args:
        resource_overrides: resource name to replacement, for tests and other deployments.
    """
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
