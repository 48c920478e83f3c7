"""The trained checkpoint: one training run in its own process, found again when it was interrupted."""

import os
import sys
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterPipesExecutionError
from pydantic import Field

from hawor_pipeline.config import TrainingConfig, load_config
from hawor_pipeline.errors import ConfigError
from hawor_pipeline.orchestration.checks import checked, checkpoint_problem
from hawor_pipeline.orchestration.failures import user_errors
from hawor_pipeline.orchestration.live_progress import LiveProgressReader
from hawor_pipeline.orchestration.metadata import announce, describe, picture
from hawor_pipeline.orchestration.resources import Compute, ComputeResource, RawData
from hawor_pipeline.paths import DataPaths, config_dir, experiment_file
from hawor_pipeline.training.runs import BEST_CHECKPOINT, RunPlan, finish_run, plan_run, prepare_run

# What Kubernetes and Ray need to know of a step that can use an accelerator; inert on one machine.
ACCELERATOR_TAGS = {
    "dagster-k8s/config": {"container_config": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}},
    "dagster-ray/config": {"num_gpus": 1},
}
_CHECKPOINT_GRACE_S = 120.0


class TrainingAssetConfig(dg.Config):
    """Which experiment to train."""

    experiment: str = Field(
        "", description="Name in configs/experiments or path of a YAML; empty: `demo` for the sample."
    )
    overrides: dict[str, Any] = Field(
        default_factory=dict, description="Keys of the experiment to change, e.g. max_steps."
    )
    when_unchanged: str = Field("reuse", description="reuse a finished run with the same key, or retrain.")


@dg.asset(
    group_name="hand_mesh",
    kinds={"pytorch", "lightning"},
    owners=["team:hand-mesh"],
    pool="gpu",
    op_tags=ACCELERATOR_TAGS,
    io_manager_key="json_io_manager",
    dagster_type=dg.Any,
    code_version="1",
    check_specs=[
        dg.AssetCheckSpec(
            "checkpoint_is_what_training_wrote",
            asset="trained_checkpoint",
            blocking=True,
            description="The checkpoint opens safely, holds finite weights and has the recorded hash.",
        )
    ],
)
def trained_checkpoint(
    context: dg.AssetExecutionContext,
    config: TrainingAssetConfig,
    dataset_metadata: dict[str, Any],
    raw: RawData,
    compute: ComputeResource,
    pipes: dg.PipesSubprocessClient,
) -> dg.MaterializeResult:
    """One training run of the HaWoR network on the converted shards: best and last checkpoint, configuration, curves.

    Trains in its own process. A finished run with the same settings and data is reused; an interrupted one continues
    where it stopped. Epochs appear as observations of this asset while it trains.
    """
    with user_errors():
        device = compute.resolve()
        settings = _settings(config, dataset_metadata, raw, device)
        plan = plan_run(settings, dataset_metadata["dataset_version"], DataPaths.default().runs, _policy(config))
        context.log.info(f"Run {plan.run_id} is {plan.state}: {plan.why}")
        if plan.state != "finished":
            _train(context, pipes, plan, settings)
        result = finish_run(plan)
    announce(context.log, "trained_checkpoint", result)
    return _result(result, plan, device)


def _policy(config: TrainingAssetConfig) -> Any:
    if config.when_unchanged not in ("reuse", "retrain"):
        raise ConfigError(f"when_unchanged is {config.when_unchanged!r}, expected reuse or retrain")
    return config.when_unchanged


def _settings(config: TrainingAssetConfig, dataset: dict[str, Any], raw: RawData, device: Compute) -> TrainingConfig:
    experiment = config.experiment
    if not experiment:
        if dataset["source"] != "synthetic":
            known = ", ".join(sorted(file.stem for file in (config_dir() / "experiments").glob("*.yaml")))
            raise ConfigError(
                f"name the experiment to train on {dataset['source']} data (config key `experiment`): {known}"
            )
        experiment = "demo"
    machine = {
        "training_data_dir": dataset["shards"],
        "mano_model_path": str(raw.locate().mano_dir),
        "accelerator": device.accelerator,
    }
    path = experiment_file(experiment)
    settings = load_config(path, {**config.overrides, **machine})
    if settings.val_subjects or settings.val_fraction or settings.validation_data_dir:
        return settings
    return load_config(path, {**config.overrides, **machine, "val_subjects": dataset["splits"]["val"]})


def _train(
    context: dg.AssetExecutionContext, pipes: dg.PipesSubprocessClient, plan: RunPlan, settings: TrainingConfig
) -> None:
    config_path = prepare_run(plan, settings)
    try:
        pipes.run(
            command=[sys.executable, "-m", "hawor_pipeline.orchestration.training_child"],
            context=context,
            env={"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")},
            extras={"config_path": str(config_path), "run_dir": str(plan.run_dir)},
        ).get_results()
    except DagsterPipesExecutionError:
        message = pipes.message_reader.error if isinstance(pipes.message_reader, LiveProgressReader) else None
        if message is None:
            raise
        raise dg.Failure(message, allow_retries=False) from None


def _result(result: Any, plan: RunPlan, device: Compute) -> dg.MaterializeResult:
    checkpoint = result.path / BEST_CHECKPOINT
    problem = checkpoint_problem(checkpoint, result.info["checkpoint_sha256"])
    more = {"training_curves": picture(curves)} if (curves := result.path / "curves.png").is_file() else {}
    return dg.MaterializeResult(
        value={"path": str(checkpoint), "sha256": result.info["checkpoint_sha256"], "run_id": plan.run_id},
        data_version=dg.DataVersion(result.info["checkpoint_sha256"]),
        metadata=describe(result, resumed=plan.state == "unfinished", **device.as_metadata(), **more),
        check_results=[
            checked("checkpoint_is_what_training_wrote", problem is None, problem=problem or "none"),
        ],
    )


def pipes_client() -> dg.PipesSubprocessClient:
    """The client that starts training, shows its progress live, and gives it time to checkpoint when cancelled."""
    return dg.PipesSubprocessClient(
        message_reader=LiveProgressReader(), termination_timeout_seconds=_CHECKPOINT_GRACE_S
    )
