"""The trained checkpoint: one training run in its own process, found again when it was interrupted."""

import json
import os
import sys
from enum import Enum
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.errors import DagsterPipesExecutionError
from pydantic import Field

from hawor_pipeline.config import TrainingConfig, load_config
from hawor_pipeline.errors import ConfigError, MemoryShortage, WorkerLost
from hawor_pipeline.orchestration.checks import checked, checkpoint_problem
from hawor_pipeline.orchestration.compute import Compute, ComputeResource, Usage
from hawor_pipeline.orchestration.failures import RETRY_POLICY, clear_failures
from hawor_pipeline.orchestration.live_progress import LiveProgressReader
from hawor_pipeline.orchestration.materialization import announce, describe, image
from hawor_pipeline.orchestration.memory_fit import train_within_memory
from hawor_pipeline.orchestration.resources import RawData
from hawor_pipeline.orchestration.tracking import TensorBoardResource, WandbResource
from hawor_pipeline.orchestration.training_child import PROBLEM_FILE
from hawor_pipeline.paths import DataPaths, config_dir, experiment_file
from hawor_pipeline.training.runs import BEST_CHECKPOINT, RunPlan, finish_run, plan_run, prepare_run

# What Kubernetes and Ray need to know of a step that can use an accelerator; inert on one machine.
ACCELERATOR_TAGS = {
    "dagster-k8s/config": {"container_config": {"resources": {"limits": {"nvidia.com/gpu": "1"}}}},
    "dagster-ray/config": {"num_gpus": 1},
}
TRAINING_MODULE = "hawor_pipeline.orchestration.training_child"
_CHECKPOINT_GRACE_S = 120.0


class WhenUnchanged(Enum):
    """What to do where a finished run has the same settings and data."""

    reuse = "reuse"
    retrain = "retrain"


class StartFrom(Enum):
    """The weights that training begins with."""

    experiment = "experiment"
    scratch = "scratch"
    pretrained = "pretrained"
    champion = "champion"


class TrainingAssetConfig(dg.Config):
    """Which experiment to train."""

    experiment: str = Field(
        "", description="Name in configs/experiments or path of a YAML; empty: `demo` for the sample."
    )
    overrides: dict[str, Any] = Field(
        default_factory=dict, description="Keys of the experiment to change, e.g. max_steps."
    )
    when_unchanged: WhenUnchanged = Field(
        WhenUnchanged.reuse, description="reuse a finished run with the same key, or retrain."
    )
    start_from: StartFrom = Field(
        StartFrom.experiment,
        description="First weights: as the experiment says, scratch (random), pretrained (the experiment's "
        "pretrained_weights, which must be set), or those of the champion.",
    )


@dg.asset(
    group_name="hand_mesh",
    kinds={"pytorch", "lightning"},
    owners=["team:hand-mesh"],
    pool="gpu",
    op_tags=ACCELERATOR_TAGS,
    retry_policy=RETRY_POLICY,
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
@clear_failures
def trained_checkpoint(
    context: dg.AssetExecutionContext,
    config: TrainingAssetConfig,
    dataset_metadata: dict[str, Any],
    raw: RawData,
    compute: ComputeResource,
    pipes: dg.PipesSubprocessClient,
    tensorboard: TensorBoardResource,
    wandb: WandbResource,
) -> dg.MaterializeResult:
    """One training run of the HaWoR network on the converted shards: best and last checkpoint, configuration, curves.

    Trains in its own process. A finished run with the same settings and data is reused; an interrupted one continues
    where it stopped. Validations appear as observations of this asset while it trains. Where memory does not suffice,
    the same batches are computed in smaller parts.
    """
    settings = training_settings(config, dataset_metadata, raw, {**tensorboard.settings(), **wandb.settings()})
    device, settings = _on_device(compute, settings)
    runs, again = DataPaths.default().runs, config.when_unchanged == WhenUnchanged.retrain
    plan = plan_run(settings, dataset_metadata["dataset_version"], runs, "retrain" if again else "reuse")
    context.log.info(f"Run {plan.run_id} is {plan.state}: {plan.why}")
    links = tensorboard.link(plan.run_dir)
    usage, parts = Usage(), settings.micro_batches
    if plan.state != "finished":
        context.log_event(dg.AssetObservation(context.asset_key, metadata={"run": plan.run_id, **links}))
        with compute.watch(device) as usage:
            parts = _train(context, pipes, plan, settings, device)
    result = finish_run(plan)
    announce(context.log, "trained_checkpoint", result)
    used = {**device.as_metadata(), **(usage.as_metadata() if plan.state != "finished" else {}), "micro_batches": parts}
    return _result(result, plan, {**used, **links, **wandb.link(plan.run_dir)})


def training_settings(
    config: TrainingAssetConfig, dataset: dict[str, Any], raw: RawData, machine: dict[str, Any]
) -> TrainingConfig:
    """The configuration of the run that is asked for, on the data and models of this machine.

    Raises:
        ConfigError: no experiment is named for real data, or there is nothing to start from.
    """
    path = experiment_file(config.experiment or _default_experiment(dataset["source"]))
    fixed = {
        **config.overrides,
        **machine,
        "training_data_dir": dataset["shards"],
        "mano_model_path": str(raw.locate().mano_dir),
    }
    settings: TrainingConfig = load_config(path, fixed)
    if not (settings.val_subjects or settings.val_fraction or settings.validation_data_dir):
        fixed["val_subjects"] = dataset["splits"]["val"]
    fixed |= _first_weights(config.start_from, settings, dataset["source"])
    return load_config(path, fixed)


def _default_experiment(source: str) -> str:
    if source == "synthetic":
        return "demo"
    known = ", ".join(sorted(file.stem for file in (config_dir() / "experiments").glob("*.yaml")))
    raise ConfigError(f"name the experiment to train on {source} data (config key `experiment`): {known}")


def _first_weights(start_from: StartFrom, settings: TrainingConfig, source: str) -> dict[str, Any]:
    if start_from == StartFrom.scratch:
        return {"pretrained_weights": None, "from_scratch": True}
    if start_from == StartFrom.pretrained and settings.pretrained_weights is None:
        raise ConfigError(
            f"start_from: pretrained, but the experiment {settings.experiment_name} names no pretrained_weights; "
            "set them, or choose scratch or champion"
        )
    if start_from == StartFrom.champion:
        return {"pretrained_weights": str(_champions_checkpoint(source))}
    return {}


def _champions_checkpoint(source: str) -> Path:
    from hawor_pipeline.evaluation.protocols import DEFAULT_PROTOCOL
    from hawor_pipeline.evaluation.registry import Registry

    registry = Registry(DataPaths.default().registry)
    champion = registry.latest_champion(DEFAULT_PROTOCOL, source)
    if champion is None:
        raise ConfigError("start_from: champion, but there is none yet; run promote_job first, or choose scratch")
    return registry.checkpoint(champion)


def _on_device(compute: ComputeResource, settings: TrainingConfig) -> tuple[Compute, TrainingConfig]:
    """The device, and the settings with it; a precision asked for by the deployment replaces the experiment's."""
    wanted = settings.devices if isinstance(settings.devices, int) else 1
    device = compute.resolve(at_least=wanted)
    changes: dict[str, Any] = {"accelerator": device.accelerator}
    if compute.precision:
        changes["precision"] = compute.precision
    settings = settings.changed(**changes)
    device.require(settings.lightning_precision)
    return device, settings


def _train(
    context: dg.AssetExecutionContext,
    pipes: dg.PipesSubprocessClient,
    plan: RunPlan,
    settings: TrainingConfig,
    device: Compute,
) -> int:
    """Train to the end; returns the parts that batches were computed in."""

    from hawor_pipeline.training.launch import processes_of

    command = child_command(processes_of(settings))

    def attempt(parts: int) -> None:
        config_path = prepare_run(plan, settings.changed(micro_batches=parts))
        _run_child([*command, "--config", str(config_path), "--run-dir", str(plan.run_dir)], context, pipes, device)

    return train_within_memory(attempt, plan.run_dir, device.device_name, settings.batch_size, context.log.warning)


def child_command(processes: int) -> list[str]:
    """What starts training: one process, or torchrun with one per device."""
    if processes == 1:
        return [sys.executable, "-m", TRAINING_MODULE]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*torchrun, "-m", TRAINING_MODULE]


def _run_child(
    command: list[str], context: dg.AssetExecutionContext, pipes: dg.PipesSubprocessClient, device: Compute
) -> None:
    """Run the training process; what it said of a failure becomes the error."""
    problem_file = Path(command[-1]) / PROBLEM_FILE
    problem_file.unlink(missing_ok=True)
    environment = {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"), **device.environment()}
    try:
        pipes.run(command=command, context=context, env=environment).get_results()
    except DagsterPipesExecutionError:
        if not problem_file.is_file():
            raise WorkerLost(
                "the training process ended without a word (killed?); its last checkpoint is kept"
            ) from None
        problem = json.loads(problem_file.read_text())
        if problem["kind"] == "memory":
            raise MemoryShortage(problem["message"]) from None
        raise dg.Failure(problem["message"], allow_retries=False) from None


def _result(result: Any, plan: RunPlan, more: dict[str, Any]) -> dg.MaterializeResult:
    checkpoint = result.path / BEST_CHECKPOINT
    problem = checkpoint_problem(checkpoint, result.info["checkpoint_sha256"])
    curves = result.path / "curves.png"
    images = {"training_curves": image(curves)} if curves.is_file() else {}
    return dg.MaterializeResult(
        value={"path": str(checkpoint), "sha256": result.info["checkpoint_sha256"], "run_id": plan.run_id},
        data_version=dg.DataVersion(result.info["checkpoint_sha256"]),
        metadata=describe(result, resumed=plan.state == "unfinished", **more, **images),
        check_results=[
            checked("checkpoint_is_what_training_wrote", problem is None, problem=problem or "none"),
        ],
    )


def pipes_client() -> dg.PipesSubprocessClient:
    """The client that starts training, shows its progress live, and gives it time to checkpoint when cancelled."""
    return dg.PipesSubprocessClient(
        message_reader=LiveProgressReader(), termination_timeout_seconds=_CHECKPOINT_GRACE_S
    )
