"""From challenger to champion: the gate that compares, and behind it the promotion.

A blocking check that fails ends a run and blocks what is downstream of its asset; so the gate sits on its own asset,
and only the promotion is behind it. Promotion happens in `promote_job` and `weekly_retraining_job`, which carry a tag
that allows it; materialised elsewhere, these two assets only say what they would decide.
"""

from typing import Any

import dagster as dg

from hawor_pipeline.orchestration.assets.trained_checkpoint import ACCELERATOR_TAGS
from hawor_pipeline.orchestration.checks import checked
from hawor_pipeline.orchestration.compute import ComputeResource
from hawor_pipeline.orchestration.failures import GATE_CHECK, RETRY_POLICY, clear_failures
from hawor_pipeline.orchestration.materialization import table
from hawor_pipeline.orchestration.partitions import PROMOTION_TAG
from hawor_pipeline.orchestration.resources import RawData
from hawor_pipeline.paths import DataPaths
from hawor_pipeline.provenance import hash_json


def _may_promote(context: dg.AssetExecutionContext) -> bool:
    return context.run.tags.get(PROMOTION_TAG) == "allowed"


@dg.asset(
    group_name="hand_mesh",
    kinds={"json", "parquet"},
    owners=["team:hand-mesh"],
    pool="gpu",
    op_tags=ACCELERATOR_TAGS,
    retry_policy=RETRY_POLICY,
    io_manager_key="json_io_manager",
    dagster_type=dg.Any,
    code_version="1",
    check_specs=[
        dg.AssetCheckSpec(
            GATE_CHECK,
            asset="challenger",
            blocking=True,
            description="No target metric is worse than the champion's beyond the interval of the paired difference.",
        )
    ],
)
@clear_failures
def challenger(
    context: dg.AssetExecutionContext,
    evaluation_metrics: dict[str, Any],
    dataset_metadata: dict[str, Any],
    raw: RawData,
    compute: ComputeResource,
) -> dg.MaterializeResult:
    """The run that was evaluated last, compared with the champion on the same samples of the same data version.

    A champion of an older data version is evaluated on this one first. Without a champion the challenger is the first.
    The report shows the same decision, from the same function.
    """
    from hawor_pipeline.evaluation.gate import decide
    from hawor_pipeline.evaluation.registry import Registry
    from hawor_pipeline.evaluation.rivals import evaluate_champion

    paths = DataPaths.default()
    registry = Registry(paths.registry)
    evaluate_champion(
        registry,
        dataset_metadata["shards"],
        raw.locate().mano_dir,
        paths.metrics,
        dataset_version=dataset_metadata["dataset_version"],
        subjects=evaluation_metrics["subjects"],
        protocol=evaluation_metrics["protocol"],
        device=compute.resolve().accelerator,
    )
    decision = decide(paths.metrics, registry, evaluation_metrics["run_id"])
    context.log.info(f"{decision.run_id}: {decision.reason}")
    differences = [difference.to_dict() for difference in decision.differences]
    shown = {"outcome": decision.outcome, "reason": decision.reason, "run": decision.run_id}
    if decision.champion_run_id:
        shown["champion"] = decision.champion_run_id
    return dg.MaterializeResult(
        value=decision.to_dict(),
        data_version=dg.DataVersion(hash_json(decision.to_dict())),
        metadata={**shown, **({"differences": table(differences)} if differences else {})},
        check_results=[
            checked(
                GATE_CHECK,
                decision.passed,
                warn=not _may_promote(context),
                reason=decision.reason,
                outcome=decision.outcome,
            )
        ],
    )


@dg.asset(
    group_name="hand_mesh",
    kinds={"pytorch", "json"},
    owners=["team:hand-mesh"],
    deps=["final_report"],
    retry_policy=RETRY_POLICY,
    io_manager_key="json_io_manager",
    dagster_type=dg.Any,
    code_version="1",
)
@clear_failures
def champion(context: dg.AssetExecutionContext, challenger: dict[str, Any]) -> dg.MaterializeResult:
    """The model in force, per protocol and data version, with its checkpoint kept and its predecessors remembered.

    The challenger takes its place here when it passed the gate, in a job that may promote.
    """
    from hawor_pipeline.evaluation.registry import Registry

    registry = Registry(DataPaths.default().registry)
    about = challenger["protocol"], challenger["dataset_version"]
    before = registry.champion(*about)
    if _may_promote(context) and challenger["passed"]:
        registry.promote(registry.run(challenger["run_id"], *about), challenger["reason"])
    now = registry.champion(*about)
    promoted = now is not None and (before is None or before.promoted_at != now.promoted_at)
    why = (
        challenger["reason"] if _may_promote(context) else "promotion happens in promote_job and the weekly retraining"
    )
    context.log.info(
        f"champion: {now.record.run_id if now else 'none'} ({'promoted' if promoted else 'as before'}; {why})"
    )
    value = {"run_id": now.record.run_id, "sha256": now.record.checkpoint_sha256} if now else {}
    metadata: dict[str, Any] = {"promoted": promoted, "why": why}
    if now is not None:
        metadata |= {**now.record.metrics, "run": now.record.run_id, "promoted_at": now.promoted_at}
        metadata["checkpoint"] = dg.MetadataValue.path(str(registry.checkpoint(now)))
    return dg.MaterializeResult(
        value=value, data_version=dg.DataVersion(value.get("sha256", "none")), metadata=metadata
    )
