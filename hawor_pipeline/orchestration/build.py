"""Puts the definitions together; tests replace resources here."""

from typing import Any

import dagster as dg

from hawor_pipeline.orchestration.assets import ALL_ASSETS
from hawor_pipeline.orchestration.assets.training import pipes_client
from hawor_pipeline.orchestration.executor import reaping_executor
from hawor_pipeline.orchestration.io import JsonIOManager
from hawor_pipeline.orchestration.jobs import ALL_JOBS
from hawor_pipeline.orchestration.resources import ComputeResource, RawData


def build_defs(resource_overrides: dict[str, Any] | None = None) -> dg.Definitions:
    """All assets, jobs and resources of the code location.

    Args:
        resource_overrides: resource name to replacement, for tests and other deployments.
    """
    resources = {
        "raw": RawData(),
        "compute": ComputeResource(),
        "json_io_manager": JsonIOManager(),
        "pipes": pipes_client(),
        **(resource_overrides or {}),
    }
    return dg.Definitions(assets=ALL_ASSETS, jobs=ALL_JOBS, resources=resources, executor=reaping_executor)
