"""From the run configuration of `trained_checkpoint` to the training configuration of one run on this machine."""

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from hawor_pipeline.config import TrainingConfig, load_config
from hawor_pipeline.errors import ConfigError
from hawor_pipeline.orchestration.compute import Compute, ComputeResource
from hawor_pipeline.orchestration.resources import Handoff
from hawor_pipeline.paths import DataPaths, config_dir, experiment_file


class WhenUnchanged(Enum):
    """Treatment of a finished run with the same settings and data."""

    reuse = "reuse"
    retrain = "retrain"


class StartFrom(Enum):
    """The weights that training begins with."""

    experiment = "experiment"
    scratch = "scratch"
    pretrained = "pretrained"
    champion = "champion"


class TrainingAssetConfig(dg.Config):
    """The experiment to train."""

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
        description="First weights: those of the experiment, scratch (random), pretrained (the experiment's "
        "pretrained_weights, which must be set), or those of the champion.",
    )


def training_settings(
    config: TrainingAssetConfig, dataset: Handoff, mano_dir: Path, machine: Mapping[str, Any]
) -> TrainingConfig:
    """Build the configuration of the requested run on the data, models and settings (such as loggers) of this machine.

    Raises:
        ConfigError: no experiment is named for real data, or the first weights do not exist.
    """
    path = experiment_file(config.experiment or default_experiment(dataset["source"]))
    data = {"training_data_dir": dataset["shards"], "mano_model_path": str(mano_dir)}
    fixed = {**config.overrides, **machine, **data}
    settings: TrainingConfig = load_config(path, fixed)
    if not (settings.val_subjects or settings.val_fraction or settings.validation_data_dir):
        fixed["val_subjects"] = dataset["splits"]["val"]
    fixed |= _first_weights(config.start_from, settings, dataset["source"])
    return load_config(path, fixed)


def default_experiment(source: str) -> str:
    """Return the experiment of the sample; real data need a named one."""
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


def on_device(compute: ComputeResource, settings: TrainingConfig) -> tuple[Compute, TrainingConfig]:
    """Resolve the device, and set it in the settings; the deployment's precision replaces the experiment's.

    Raises:
        ConfigError: there are fewer devices than the settings need, or they lack the precision.
    """
    wanted = settings.devices if isinstance(settings.devices, int) else 1
    device = compute.resolve(at_least=wanted)
    changes = {"accelerator": device.accelerator, **({"precision": compute.precision} if compute.precision else {})}
    settings = settings.changed(**changes)
    device.require(settings.lightning_precision)
    return device, settings
