"""Weights from files: checkpoints of this project's runs, and files in HaWoR's or HaMeR's naming.

Files are opened by `core.safe_load` only. Tensors of the licensed body model (`mano.*`) are never taken over.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hawor_pipeline.config import TrainingConfig
from hawor_pipeline.core.safe_load import load_checkpoint
from hawor_pipeline.errors import CheckpointError
from hawor_pipeline.models.backbone import SIZES
from hawor_pipeline.models.hawor import HaworModel, NetworkConfig

# Parts of released files that are no weights of the network: the body model, the discriminator of HaMeR's training,
# and a flag of Lightning.
IGNORED_PREFIXES = ("mano.", "discriminator.", "initialized")
OPTIONAL_MODULES = ("st_module.", "motion_module.")  # absent from HaMeR's files
OWN_PREFIX = "model."  # of parameters in this project's Lightning checkpoints
TOKENS_PER_SQUARE = 1024 / 3  # image_size^2 per token: 16 px patches over a window that is 3/4 as wide as high


@dataclass(slots=True)
class KeyReport:
    """What became of every key of a file."""

    used: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    wrong_shape: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        """Whether every weight has its place and every place its weight."""
        return not (self.missing or self.unexpected or self.wrong_shape)

    def explain(self) -> str:
        """One line: how many of each kind, with the first few names of what does not fit."""
        parts = [f"{len(self.used)} used", f"{len(self.ignored)} ignored"]
        kinds = (("missing", self.missing), ("unexpected", self.unexpected), ("of wrong shape", self.wrong_shape))
        for kind, names in kinds:
            if names:
                more = ", ..." if len(names) > 3 else ""
                parts.append(f"{len(names)} {kind} ({', '.join(names[:3])}{more})")
        return "; ".join(parts)


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], NetworkConfig | None]:
    """Read the tensors of a checkpoint by the network's own names.

    Returns:
        (name to tensor, the network's configuration if the file is of this project, else None).

    Raises:
        ConfigError: there is no such file.
        CheckpointError: it cannot be read safely, or holds no tensors.
    """
    loaded = load_checkpoint(path)
    state = loaded.get("state_dict", loaded)
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: its state_dict is a {type(state).__name__}, expected a mapping of tensors")
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensors; expected a state_dict of a HaWoR network")
    network = loaded.get("network")
    if network is None:
        return tensors, None
    own = {name.removeprefix(OWN_PREFIX): value for name, value in tensors.items() if name.startswith(OWN_PREFIX)}
    try:
        return own, NetworkConfig(**network)
    except TypeError as error:
        raise CheckpointError(f"{path}: was written by another version of this project ({error})") from error


def infer_network(state: Mapping[str, Any]) -> NetworkConfig:
    """The sizes of a network in HaWoR's naming, read off the shapes of its parameters.

    Raises:
        CheckpointError: a parameter that every such network has is absent.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in state:
            raise CheckpointError(f"not a HaWoR network: parameter {name!r} is missing from its state_dict")
        return tuple(state[name].shape)

    def count(prefix: str) -> int:
        return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})

    _, rows, dim = shape("backbone.pos_embed")
    known = {size.dim: size for size in SIZES.values()}
    decoder = "mano_head.transformer.transformer.layers."
    has_st, has_motion = "st_module.l1.weight" in state, "motion_module.l1.weight" in state
    temporal = next((name for name in OPTIONAL_MODULES if f"{name}trans.layers.0.linear1.weight" in state), None)
    patches = "backbone.patch_embed.proj.weight" in state
    return NetworkConfig(
        image_size=round(math.sqrt((rows - 1) * TOKENS_PER_SQUARE)),
        dim=dim,
        depth=count("backbone.blocks."),
        heads=known[dim].heads if dim in known else max(dim // 64, 1),
        drop_path=known[dim].drop_path if dim in known else 0.0,
        patch_embed="patch16" if patches else "conv_stem",
        head_dim=shape("mano_head.transformer.pos_embedding")[-1],
        head_depth=count(decoder),
        head_feedforward=shape(f"{decoder}0.2.fn.net.0.weight")[0],
        head_query="zero" if shape("mano_head.transformer.to_token_embedding.weight")[1] == 1 else "grid",
        st_hdim=shape("st_module.l1.weight")[0] if has_st else 0,
        st_nlayer=count("st_module.trans.layers."),
        motion_hdim=shape("motion_module.l1.weight")[0] if has_motion else 0,
        motion_nlayer=count("motion_module.trans.layers."),
        motion_residual=False,
        temporal_feedforward=shape(f"{temporal}trans.layers.0.linear1.weight")[0] if temporal else 1024,
    )


def match_keys(model: HaworModel, state: Mapping[str, Any]) -> KeyReport:
    """Compare the names and shapes of a file with those of a network."""
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    report = KeyReport()
    for name, value in state.items():
        if name.startswith(IGNORED_PREFIXES):
            report.ignored.append(name)
        elif name not in expected:
            report.unexpected.append(name)
        elif tuple(value.shape) != expected[name]:
            report.wrong_shape.append(f"{name} {tuple(value.shape)} for {expected[name]}")
        else:
            report.used.append(name)
    report.missing = [name for name in expected if name not in state]
    return report


def load_hawor(path: str | Path) -> HaworModel:
    """Load a network: a checkpoint of this project, or one in HaWoR's naming (with or without `mano.*`).

    Returns:
        The network in eval mode on the CPU.

    Raises:
        ConfigError: there is no such file.
        CheckpointError: it cannot be read safely, or its weights do not fit exactly.
    """
    state, network = read_weights(path)
    with torch.device("meta"):
        model = HaworModel(network or infer_network(state))
    report = match_keys(model, state)
    if not report.fits:
        raise CheckpointError(f"{path} does not fit the network: {report.explain()}")
    model.load_state_dict({name: _plain(state[name]) for name in report.used}, assign=True)
    return model.eval()


def build_for_training(config: TrainingConfig) -> tuple[HaworModel, KeyReport | None]:
    """A network to train, with `pretrained_weights` in it if the configuration names a file.

    A module over time that the file lacks altogether (HaMeR's files) keeps its initial weights, which change nothing at
    first; everything else must fit.

    Raises:
        ConfigError: there is no such file.
        CheckpointError: it cannot be read safely, or does not fit the configured sizes.
    """
    network = NetworkConfig.of_training(config)
    if config.pretrained_weights is None:
        return HaworModel(network), None
    state, own = read_weights(config.pretrained_weights)
    if own is not None:
        network = replace(network, motion_residual=own.motion_residual)
    elif any(name.startswith("motion_module.") for name in state):
        network = replace(network, motion_residual=False)  # as the released network was trained
    model = HaworModel(network)
    report = match_keys(model, state)
    for prefix in OPTIONAL_MODULES:
        if not any(name.startswith(prefix) for name in report.used):
            report.missing = [name for name in report.missing if not name.startswith(prefix)]
    if not report.fits:
        raise CheckpointError(
            f"{config.pretrained_weights} does not fit the configured network: {report.explain()}; "
            "set backbone_size, image_size, st_* and motion_* as in the file"
        )
    model.load_state_dict({name: _plain(state[name]) for name in report.used}, strict=False)
    return model, report


def _plain(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
