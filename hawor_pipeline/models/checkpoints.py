"""Weights into networks: whether a file fits, key by key, and the networks that come out.

Nothing is taken over by half: every weight of the network must be in the file with its shape, and every name of the
file must be a weight or known to be none. Tensors of the licensed body model (`mano.*`) are never taken over.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hawor_pipeline.config import TrainingConfig
from hawor_pipeline.errors import CheckpointError
from hawor_pipeline.models.backbone import SIZES
from hawor_pipeline.models.hawor import HaworModel, NetworkConfig
from hawor_pipeline.models.mano_head import HEAD_DIM
from hawor_pipeline.models.weight_files import BACKBONE_ONLY, WeightFile, read_weights

PARTS = ("backbone", "st_module", "motion_module", "mano_head")
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

    def has(self, part: str) -> bool:
        """Whether the file holds that part of the network."""
        return any(name.startswith(f"{part}.") for name in self.used)

    def explain(self) -> str:
        """One line: how many of each kind, with the first few names of what does not fit."""
        parts = [f"{len(self.used)} used", f"{len(self.ignored)} ignored"]
        kinds = (("missing", self.missing), ("unexpected", self.unexpected), ("of wrong shape", self.wrong_shape))
        for kind, names in kinds:
            if names:
                more = ", ..." if len(names) > 3 else ""
                parts.append(f"{len(names)} {kind} ({', '.join(names[:3])}{more})")
        return "; ".join(parts)


def infer_network(state: Mapping[str, Any]) -> NetworkConfig:
    """The sizes of a network, read off the shapes of its parameters (our names); parts that are absent stay default.

    Raises:
        CheckpointError: a parameter that every backbone has is absent.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in state:
            raise CheckpointError(f"not a HaWoR network: parameter {name!r} is missing from its state_dict")
        return tuple(state[name].shape)

    def count(prefix: str) -> int:
        return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})

    _, rows, dim = shape("backbone.positions")
    known = {size.dim: size for size in SIZES.values()}
    sizes: dict[str, Any] = {
        "image_size": round(math.sqrt((rows - 1) * TOKENS_PER_SQUARE)),
        "dim": dim,
        "depth": count("backbone.blocks."),
        "heads": known[dim].heads if dim in known else max(dim // 64, 1),
        "drop_path": known[dim].drop_path if dim in known else 0.0,
        "patch_embed": "patch16" if "backbone.patch_embed.projection.weight" in state else "conv_stem",
        "motion_residual": False,  # as every network in HaWoR's naming was trained
    }
    for part, name in (("st_module", "st"), ("motion_module", "motion")):
        present = f"{part}.input.weight" in state
        sizes[f"{name}_hdim"] = shape(f"{part}.input.weight")[0] if present else 0
        sizes[f"{name}_nlayer"] = count(f"{part}.layers.")
        if f"{part}.layers.0.feedforward.expand.weight" in state:
            sizes["temporal_feedforward"] = shape(f"{part}.layers.0.feedforward.expand.weight")[0]
    if any(name.startswith("mano_head.") for name in state):
        sizes["head_dim"] = shape("mano_head.query_position")[-1]
        sizes["head_depth"] = count("mano_head.layers.")
        sizes["head_heads"] = shape("mano_head.layers.0.self_attention.output.weight")[1] // HEAD_DIM
        sizes["head_feedforward"] = shape("mano_head.layers.0.feedforward.expand.weight")[0]
        sizes["head_query"] = "zero" if shape("mano_head.query_embedding.weight")[1] == 1 else "grid"
    return NetworkConfig(**sizes)


def match_keys(model: HaworModel, file: WeightFile) -> KeyReport:
    """Compare the names and shapes of a file with those of a network; of some files only the backbone is wanted."""
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if file.kind in BACKBONE_ONLY:
        expected = {name: shape for name, shape in expected.items() if name.startswith("backbone.")}
    report = KeyReport()
    for name, value in file.tensors.items():
        if file.is_ignored(name):
            report.ignored.append(name)
        elif name not in expected:
            report.unexpected.append(name)
        elif tuple(value.shape) != expected[name]:
            report.wrong_shape.append(f"{name} {tuple(value.shape)} for {expected[name]}")
        else:
            report.used.append(name)
    report.missing = [name for name in expected if name not in file.tensors]
    return report


def load_hawor(path: str | Path) -> HaworModel:
    """Load a network: a checkpoint of this project, or one in HaWoR's naming (with or without `mano.*`).

    Returns:
        The network in eval mode on the CPU.

    Raises:
        ConfigError: there is no such file.
        CheckpointError: it cannot be read safely, or its weights do not fit exactly.
    """
    file = read_weights(path)
    if file.kind in BACKBONE_ONLY:
        raise CheckpointError(
            f"{path}: a {file.kind} file, of which this network can use the backbone only; found no mano_head, "
            "expected a whole network. Train from it with pretrained_weights instead."
        )
    with torch.device("meta"):
        model = HaworModel(file.network or infer_network(file.tensors))
    report = match_keys(model, file)
    if not report.fits:
        raise CheckpointError(f"{path} does not fit the network: {report.explain()}")
    model.load_state_dict({name: _plain(file.tensors[name]) for name in report.used}, assign=True)
    return model.eval()


def build_for_training(config: TrainingConfig) -> tuple[HaworModel, KeyReport | None]:
    """A network to train, with `pretrained_weights` in it if the configuration names a file.

    A part that the file lacks altogether keeps its initial weights: the modules over time of HaMeR's files (which
    change nothing at first), and all but the backbone of ViTPose's and WiLoR's. Everything else must fit.

    Raises:
        ConfigError: there is no such file.
        CheckpointError: it cannot be read safely, or does not fit the configured sizes.
    """
    network = NetworkConfig.of_training(config)
    if config.pretrained_weights is None:
        return HaworModel(network), None
    file = read_weights(config.pretrained_weights)
    if file.network is not None:
        network = replace(network, motion_residual=file.network.motion_residual)
    elif any(name.startswith("motion_module.") for name in file.tensors):
        network = replace(network, motion_residual=False)  # as the released network was trained
    model = HaworModel(network)
    report = match_keys(model, file)
    for part in PARTS[1:]:
        if not report.has(part):
            report.missing = [name for name in report.missing if not name.startswith(f"{part}.")]
    if not report.fits:
        raise CheckpointError(
            f"{config.pretrained_weights} does not fit the configured network: {report.explain()}; "
            "set backbone_size, image_size, st_* and motion_* as in the file"
        )
    model.load_state_dict({name: _plain(file.tensors[name]) for name in report.used}, strict=False)
    return model, report


def _plain(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
