"""The decorator of every asset: what all of them share stands here once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import dagster as dg

from hawor_pipeline.orchestration.failures import RETRY_POLICY, clear_failures
from hawor_pipeline.orchestration.table_checks import schema_check_specs

# Requests an accelerator from Kubernetes and Ray; ignored on one machine.
ACCELERATOR_TAGS = {
    "dagster-k8s/config": {"container_config": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}},
    "dagster-ray/config": {"num_gpus": 1},
}
USES_ACCELERATOR: dict[str, Any] = {"pool": "gpu", "op_tags": ACCELERATOR_TAGS}
# An asset's value is a small mapping that the JSON IO manager stores; without this type Dagster would infer one.
PASSES_VALUE: dict[str, Any] = {"io_manager_key": "json_io_manager", "dagster_type": dg.Any}


def code_version(*versions: int | str) -> str:
    """Join the versions of the stages that an asset runs to Dagster's `code_version`.

    >>> code_version(6, "2")
    '6.2'
    """
    return ".".join(str(version) for version in versions)


def stage_asset(
    *versions: int | str,
    blocking: Mapping[str, str] | None = None,
    warning: Mapping[str, str] | None = None,
    tables: Iterable[str] = (),
    **settings: Any,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Make an asset of a function that loads its inputs, calls one stage and returns metadata.

    Args:
        versions: constants of `hawor_pipeline.versions`, one per stage that the asset runs.
        blocking: check name to description; a failed one blocks everything downstream.
        warning: check name to description of checks that only warn.
        tables: published tables, each with a blocking check against its schema.
        settings: further arguments of `dagster.asset`.
    """

    def decorate(stage: Callable[..., Any]) -> dg.AssetsDefinition:
        name = stage.__name__
        described = [(blocking or {}, True), (warning or {}, False)]
        checks: Sequence[dg.AssetCheckSpec] = [
            dg.AssetCheckSpec(check, asset=name, description=description, blocking=is_blocking)
            for group, is_blocking in described
            for check, description in group.items()
        ]
        return dg.asset(
            group_name="hand_mesh",  # one group: with several, the UI opens on closed boxes instead of the graph
            owners=["team:hand-mesh"],
            retry_policy=RETRY_POLICY,
            code_version=code_version(*versions),
            check_specs=[*checks, *schema_check_specs(name, tables)],
            **settings,
        )(clear_failures(stage))

    return decorate
