"""From challenger to champion: the gate that compares, and behind it the promotion.

A blocking check that fails ends a run and blocks everything downstream of its asset. The gate therefore has an asset of
its own, and only the promotion is behind it. Promotion happens in `promote_job` and `weekly_retraining_job`, which
carry a tag that allows it; materialised elsewhere, these two assets only report what they would decide.
"""

from typing import TYPE_CHECKING, Any

import dagster as dg

from hawor_pipeline.locate import hand_models_of
from hawor_pipeline.orchestration.checks import checked
from hawor_pipeline.orchestration.compute import ComputeResource
from hawor_pipeline.orchestration.failures import GATE_CHECK
from hawor_pipeline.orchestration.materialization import Metadata, table_metadata_value
from hawor_pipeline.orchestration.partitions import PROMOTION_TAG
from hawor_pipeline.orchestration.resources import Handoff
from hawor_pipeline.orchestration.stage_asset import PASSES_VALUE, USES_ACCELERATOR, stage_asset
from hawor_pipeline.paths import DataPaths
from hawor_pipeline.provenance import hash_json
from hawor_pipeline.versions import EVALUATION_VERSION, GATE_VERSION, REGISTRY_VERSION

if TYPE_CHECKING:
    from hawor_pipeline.evaluation.gate import Decision
    from hawor_pipeline.evaluation.registry import Champion


def _may_promote(context: dg.AssetExecutionContext) -> bool:
    return context.run.tags.get(PROMOTION_TAG) == "allowed"


@stage_asset(
    GATE_VERSION,
    EVALUATION_VERSION,
    kinds={"json", "parquet"},
    blocking={
        GATE_CHECK: "No target metric is worse than the champion's beyond the interval of the paired difference."
    },
    **USES_ACCELERATOR,
    **PASSES_VALUE,
)
def challenger(
    context: dg.AssetExecutionContext,
    evaluation_metrics: Handoff,
    dataset_metadata: Handoff,
    compute: ComputeResource,
) -> dg.MaterializeResult:
    """The run evaluated last, compared with the champion on the same samples of the same data version.

    A champion of an older data version is evaluated on this one first. Without a champion the challenger is the first.
    The report shows the same decision, from the same function.
    """
    decision = _judge(evaluation_metrics, dataset_metadata, compute.resolve().accelerator)
    context.log.info(f"{decision.run_id}: {decision.reason}")
    warn, found = not _may_promote(context), {"reason": decision.reason, "outcome": decision.outcome}
    return dg.MaterializeResult(
        value=decision.to_dict(),
        data_version=dg.DataVersion(hash_json(decision.to_dict())),
        metadata=_decision_metadata(decision),
        check_results=[checked(GATE_CHECK, decision.passed, warn=warn, **found)],
    )


def _judge(evaluated: Handoff, dataset: Handoff, device: str) -> "Decision":
    """Evaluate the champion on the samples of the challenger where that was not done yet, and compare the two."""
    from hawor_pipeline.evaluation.gate import decide
    from hawor_pipeline.evaluation.registry import Registry
    from hawor_pipeline.evaluation.rivals import evaluate_champion
    from hawor_pipeline.evaluation.setting import Devices, Setting

    paths = DataPaths.default()
    registry = Registry(paths.registry)
    about = (dataset["dataset_version"], evaluated["subjects"], evaluated["protocol"])
    setting = Setting.of(dataset["shards"], hand_models_of(dataset["shards"]), paths.metrics, *about)
    evaluate_champion(registry, setting, Devices(device))
    return decide(paths.metrics, registry, evaluated["run_id"])


def _decision_metadata(decision: "Decision") -> Metadata:
    shown: Metadata = {"outcome": decision.outcome, "reason": decision.reason, "run": decision.run_id}
    if decision.champion_run_id:
        shown["champion"] = decision.champion_run_id
    if decision.differences:
        shown["differences"] = table_metadata_value([difference.to_dict() for difference in decision.differences])
    return shown


@stage_asset(REGISTRY_VERSION, kinds={"pytorch", "json"}, deps=["final_report"], **PASSES_VALUE)
def champion(context: dg.AssetExecutionContext, challenger: Handoff) -> dg.MaterializeResult:
    """The model in force, per protocol and data version, with its checkpoint and the history of its predecessors.

    A challenger that passed the gate takes its place here, in a job that may promote.
    """
    from hawor_pipeline.evaluation.registry import Registry

    registry = Registry(DataPaths.default().registry)
    about = challenger["protocol"], challenger["dataset_version"]
    before, may_promote = registry.champion(*about), _may_promote(context)
    if may_promote and challenger["passed"]:
        registry.promote(registry.run(challenger["run_id"], *about), challenger["reason"])
    now = registry.champion(*about)
    promoted = now is not None and (before is None or before.promoted_at != now.promoted_at)
    why = challenger["reason"] if may_promote else "promotion happens in promote_job and the weekly retraining"
    name, sha256 = (now.record.run_id, now.record.checkpoint_sha256) if now else ("none", "none")
    context.log.info(f"champion: {name} ({'promoted' if promoted else 'unchanged'}; {why})")
    value, checkpoint = ({"run_id": name, "sha256": sha256}, registry.checkpoint(now)) if now else ({}, None)
    metadata = {"promoted": promoted, "why": why, **_champion_metadata(now, checkpoint)}
    return dg.MaterializeResult(value=value, data_version=dg.DataVersion(sha256), metadata=metadata)


def _champion_metadata(champion: "Champion | None", checkpoint: Any) -> Metadata:
    if champion is None:
        return {}
    shown = {"run": champion.record.run_id, "promoted_at": champion.promoted_at}
    return {**champion.record.metrics, **shown, "checkpoint": dg.MetadataValue.path(str(checkpoint))}
