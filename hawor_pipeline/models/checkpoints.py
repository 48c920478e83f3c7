"""Networks from files of weights, matched key by key.

There is no partial loading: every weight of the network must be in the file with its shape, and every name in the file
must be a weight or a known non-weight. Tensors of the licensed body model (`mano.*`) are never loaded.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hawor_pipeline.config import TrainingConfig
from hawor_pipeline.core.box_rule import RULES, BoxRule
from hawor_pipeline.errors import CheckpointError, ConfigError
from hawor_pipeline.models.backbone import SIZES
from hawor_pipeline.models.form import RECORD, NetworkConfig, Record
from hawor_pipeline.models.hawor import HaworModel
from hawor_pipeline.models.mano_head import HEAD_DIM
from hawor_pipeline.models.weight_files import BACKBONE_ONLY, WeightFile, read_weights
from hawor_pipeline.provenance import sha256_file

PARTS = ("backbone", "st_module", "motion_module", "mano_head")
TOKENS_PER_SQUARE = 1024 / 3  # image_size^2 per token: 16 px patches over a window with 3/4 of the crop's width


@dataclass(slots=True)
class KeyReport:
    """Match of the keys of a file with those of a network."""

    used: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    wrong_shape: list[str] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        """True if file and network have the same weights."""
        return not (self.missing or self.unexpected or self.wrong_shape)

    def has(self, part: str) -> bool:
        """Test if the file contains a part of the network."""
        return any(name.startswith(f"{part}.") for name in self.used)

    def explain(self) -> str:
        """Describe the match in one line: counts, and the first few names that do not fit."""
        parts = [f"{len(self.used)} used", f"{len(self.ignored)} ignored"]
        kinds = (("missing", self.missing), ("unexpected", self.unexpected), ("of wrong shape", self.wrong_shape))
        for kind, names in kinds:
            if names:
                more = ", ..." if len(names) > 3 else ""
                parts.append(f"{len(names)} {kind} ({', '.join(names[:3])}{more})")
        return "; ".join(parts)


def infer_network(state: Mapping[str, Any]) -> NetworkConfig:
    """Infer the sizes of a network from the shapes of its parameters (our names); missing parts get the defaults.

    Raises:
        CheckpointError: a parameter of every backbone is missing, or the number of heads is unknown.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in state:
            raise CheckpointError(f"not a HaWoR network: parameter {name!r} is missing from its state_dict")
        return tuple(state[name].shape)

    def count(prefix: str) -> int:
        return len({name.removeprefix(prefix).split(".")[0] for name in state if name.startswith(prefix)})

    _, rows, dim = shape("backbone.positions")
    known = {size.dim: size for size in SIZES.values()}
    if dim not in known:
        raise CheckpointError(
            f"a backbone of width {dim} without a record of its form: the number of heads is unknown; expected one of "
            f"the widths {', '.join(map(str, known))}"
        )
    sizes: dict[str, Any] = {
        "image_size": round(math.sqrt((rows - 1) * TOKENS_PER_SQUARE)),
        "dim": dim,
        "depth": count("backbone.blocks."),
        "heads": known[dim].heads,
        "drop_path": known[dim].drop_path,
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
    """Match the names and shapes of a file with those of a network; of some files, with its backbone only."""
    expected = {name: value for name, value in model.state_dict().items() if name != RECORD}
    if file.kind in BACKBONE_ONLY:
        expected = {name: value for name, value in expected.items() if name.startswith("backbone.")}
    report = KeyReport()
    for name, value in file.tensors.items():
        if file.is_ignored(name):
            report.ignored.append(name)
        elif name not in expected:
            report.unexpected.append(name)
        elif value.shape != expected[name].shape:
            report.wrong_shape.append(f"{name} {tuple(value.shape)} for {tuple(expected[name].shape)}")
        elif value.is_floating_point() < expected[name].is_floating_point() or value.layout != torch.strided:
            report.unexpected.append(f"{name} as {value.dtype}")
        else:
            report.used.append(name)
    report.missing = [name for name in expected if name not in file.tensors]
    return report


@dataclass(frozen=True, slots=True)
class OpenedCheckpoint:
    """A checkpoint whose file was opened once; a copy in another process opens it again.

    Attributes:
        path: the file.
        sha256: of its bytes.
        model: the network in eval mode. Its weights are memory-mapped until they are moved to an accelerator.
        box_rule: rule of the bounding boxes to give it: that of the weights, unless another one was asked for.
    """

    path: Path
    sha256: str
    model: HaworModel
    box_rule: BoxRule

    @property
    def clip_length(self) -> int:
        """Number of frames that the network saw together in training."""
        return self.model.network.clip_length

    @property
    def trained_on(self) -> tuple[str, ...]:
        """Subjects, or "subject/sequence" names, that it was trained on, where the file records them."""
        return self.model.trained_on

    def __reduce__(self) -> tuple[Any, ...]:
        return open_checkpoint, (self.path, self.sha256, self.box_rule)


def open_checkpoint(
    path: str | Path, sha256: str | None = None, box_rule: BoxRule | str | None = None
) -> OpenedCheckpoint:
    """Open a checkpoint for evaluation or prediction. Its optimiser is not read.

    Args:
        path: of this project, or of HaWoR or HaMeR as downloaded.
        sha256: of the file, where it is known; computed by default.
        box_rule: rule of the bounding boxes, or its text for `BoxRule.parse`; that of the weights by default.

    Raises:
        ConfigError: the file does not exist, or the text is no rule.
        CheckpointError: it cannot be read safely, or its weights do not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"checkpoint {path} does not exist; give the file that training wrote.")
    rule = BoxRule.parse(box_rule) if isinstance(box_rule, str) else box_rule
    model = load_hawor(path)
    return OpenedCheckpoint(path, sha256 or sha256_file(path), model, rule or model.network.box_rule)


def load_hawor(path: str | Path) -> HaworModel:
    """Load a network from a checkpoint of this project, or of HaWoR or HaMeR (with or without `mano.*`).

    Returns:
        The network in eval mode on the CPU.

    Raises:
        ConfigError: the file is missing.
        CheckpointError: it cannot be read safely, or its weights do not fit exactly.
    """
    file = read_weights(path)
    if file.kind in BACKBONE_ONLY:
        raise CheckpointError(
            f"{path}: a {file.kind} file, of which this network can use the backbone only; found no mano_head, "
            "expected a complete network. Train from it with pretrained_weights instead."
        )
    record = form_of(path, file)
    if record.network.clip_length < 1:
        raise CheckpointError(f"{path}: clip_length is {record.network.clip_length}, expected a number of frames.")
    with torch.device("meta"):
        model = HaworModel(record.network)
    report = match_keys(model, file)
    if not report.fits:
        raise CheckpointError(f"{path} does not fit the network: {report.explain()}")
    model.load_state_dict({name: _plain(file.tensors[name]) for name in report.used}, assign=True)
    model.trained_on = record.trained_on
    return model.eval()


def form_of(path: str | Path, file: WeightFile) -> Record:
    """Return the recorded form of the weights in a file, else that of the project that their names belong to.

    Raises:
        CheckpointError: it cannot be known.
    """
    if file.record is not None:
        return file.record
    network, released = infer_network(file.tensors), NetworkConfig()
    if (network.patch_embed, network.head_query) != (released.patch_embed, released.head_query):
        raise CheckpointError(
            f"{path}: variants that only this project trains (patch embedding {network.patch_embed}, head query "
            f"{network.head_query}), without the record of the form; export the checkpoint of the run again"
        )
    return Record(network.on_boxes(RULES["hamer"]) if file.kind == "hamer" else network)


def build_for_training(
    config: TrainingConfig, rule: BoxRule = RULES["pipeline"]
) -> tuple[HaworModel, KeyReport | None]:
    """Build a network to train on boxes of a rule, with the configured `pretrained_weights` if any.

    A part that is missing from the file as a whole keeps its initial weights: the temporal modules with HaMeR's files
    (they start as the identity), and all but the backbone with those of ViTPose and WiLoR. Everything else must fit.
    Parts from the file keep their form, so that a network that starts from HaWoR's can be exported for HaWoR's code.

    Raises:
        ConfigError: the file is missing.
        CheckpointError: it cannot be read safely, or does not fit the configured sizes.
    """
    network = NetworkConfig.of_training(config).on_boxes(rule)
    if config.pretrained_weights is None:
        return HaworModel(network), None
    file = read_weights(config.pretrained_weights)
    form = NetworkConfig() if file.record is None else file.record.network  # without a record: HaWoR's
    parts = {name.split(".")[0] for name in file.tensors}
    network = replace(
        network,
        motion_residual=form.motion_residual or "motion_module" not in parts,
        bounded_camera=form.bounded_camera or "mano_head" not in parts,
    )
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
