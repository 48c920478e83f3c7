"""The trained checkpoint: one training run in its own process, resumed where it was interrupted."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from hawor_pipeline.locate import hand_models_of
from hawor_pipeline.orchestration.checks import checked, checkpoint_problem
from hawor_pipeline.orchestration.compute import ComputeResource
from hawor_pipeline.orchestration.materialization import image_metadata, log_and_publish, stage_metadata
from hawor_pipeline.orchestration.resources import Handoff
from hawor_pipeline.orchestration.stage_asset import PASSES_VALUE, USES_ACCELERATOR, stage_asset
from hawor_pipeline.orchestration.tracking import TensorBoardResource, WandbResource
from hawor_pipeline.orchestration.training_config import TrainingAssetConfig, on_device, training_settings
from hawor_pipeline.orchestration.training_process import train_in_process
from hawor_pipeline.paths import DataPaths
from hawor_pipeline.provenance import StageResult
from hawor_pipeline.training.runs import BEST_CHECKPOINT, finish_run, plan_run
from hawor_pipeline.versions import TRAINING_VERSION


@stage_asset(
    TRAINING_VERSION,
    kinds={"pytorch", "lightning"},
    blocking={
        "checkpoint_is_what_training_wrote": "The checkpoint opens safely, holds finite weights and has the recorded "
        "hash."
    },
    **USES_ACCELERATOR,
    **PASSES_VALUE,
)
def trained_checkpoint(
    context: dg.AssetExecutionContext,
    config: TrainingAssetConfig,
    dataset_metadata: Handoff,
    compute: ComputeResource,
    pipes: dg.PipesSubprocessClient,
    tensorboard: TensorBoardResource,
    wandb: WandbResource,
) -> dg.MaterializeResult:
    """One training run of the HaWoR network on the converted shards: best and last checkpoint, configuration, curves.

    Trains in its own process. A finished run with the same settings and data is reused; an interrupted one resumes from
    its last checkpoint. Validations appear as observations of this asset while it trains. On a shortage of memory, the
    same batches are computed in smaller parts.
    """
    machine, runs = {**tensorboard.settings(), **wandb.settings()}, DataPaths.default().runs
    settings = training_settings(config, dataset_metadata, hand_models_of(dataset_metadata["shards"]), machine)
    device, settings = on_device(compute, settings)
    plan = plan_run(settings, dataset_metadata["dataset_version"], runs, config.when_unchanged.value)
    context.log.info(f"Run {plan.run_id} is {plan.state}: {plan.why}")
    links, usage, parts = tensorboard.link(plan.run_dir), None, settings.micro_batches
    if plan.state != "finished":
        context.log_event(dg.AssetObservation(context.asset_key, metadata={"run": plan.run_id, **links}))
        with compute.watch(device) as usage:
            parts = train_in_process(context, pipes, plan, settings, device)
    result = finish_run(plan)
    log_and_publish(context.log, "trained_checkpoint", result)
    used = {**device.as_metadata(), **(usage.as_metadata() if usage else {}), "micro_batches": parts}
    more = {"resumed": plan.state == "unfinished", **used, **links, **wandb.link(plan.run_dir)}
    return _materialized(result, plan.run_id, more)


def _materialized(result: StageResult, run_id: str, more: Mapping[str, Any]) -> dg.MaterializeResult:
    checkpoint, sha256 = result.path / BEST_CHECKPOINT, result.info["checkpoint_sha256"]
    problem = checkpoint_problem(checkpoint, sha256)
    curves = result.path / "curves.png"
    images = {"training_curves": image_metadata(curves)} if curves.is_file() else {}
    return dg.MaterializeResult(
        value={"path": str(checkpoint), "sha256": sha256, "run_id": run_id},
        data_version=dg.DataVersion(sha256),
        metadata=stage_metadata(result, **more, **images),
        check_results=[checked("checkpoint_is_what_training_wrote", problem is None, problem=problem or "none")],
    )
