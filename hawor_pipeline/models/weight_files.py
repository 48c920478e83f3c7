"""Files of weights: reading them under our names, and writing them atomically.

Supported are checkpoints of this project's runs, files that it exported or imported, and checkpoints of HaWoR, HaMeR,
WiLoR and ViTPose as downloaded; the kind is recognised by the names in a file. Files are opened by
`hawor_pipeline.untrusted` only.

Belongs here: one file and its names. Does not: the match of weights and network (`checkpoints`).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hawor_pipeline.errors import CheckpointError, ConfigError
from hawor_pipeline.models.hawor import NetworkConfig
from hawor_pipeline.models.released_names import to_ours, to_released
from hawor_pipeline.provenance import replaced_file
from hawor_pipeline.untrusted.foreign_checkpoint import load_foreign_checkpoint

Kind = Literal["own", "hawor", "hamer", "wilor", "vitpose"]
BACKBONE_ONLY: tuple[Kind, ...] = ("wilor", "vitpose")  # files of which only the backbone fits this network
OWN_PREFIX = "model."  # of parameters in this project's Lightning checkpoints
CARD = "hawor_pipeline"  # key of the metadata in files that this project wrote
SAFETENSORS = ".safetensors"
_BARE_BACKBONE = ("blocks.", "patch_embed.", "pos_embed", "last_norm.")
# Entries of released files that are no weights of this network: the licensed body model, the discriminator of HaMeR's
# training, a flag of Lightning; WiLoR's tokens and refinement; ViTPose's keypoint heads.
_IGNORED = ("mano.", "discriminator.", "initialized")
_IGNORED_OF: dict[Kind, tuple[str, ...]] = {
    "wilor": (
        "refine_net.", "backbone.init_", "backbone.pose_emb", "backbone.shape_emb", "backbone.cam_emb",
        "backbone.decpose.", "backbone.decshape.", "backbone.deccam.",
    ),
    "vitpose": ("keypoint_head.", "associate_keypoint_heads."),
}  # fmt: skip


@dataclass(slots=True)
class WeightFile:
    """Tensors of a file by our names.

    Args:
        kind: project of the file.
        tensors: all its tensors; those that are no part of our network keep their names.
        network: sizes recorded in a file of this project; None: to be inferred from the shapes.
        training: what a training run of this project recorded about itself (`hyper_parameters`, `split`).
    """

    kind: Kind
    tensors: dict[str, Tensor]
    network: NetworkConfig | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    def is_ignored(self, name: str) -> bool:
        """Test if a name is a known entry without a weight of this network."""
        return name.startswith(_IGNORED + _IGNORED_OF.get(self.kind, ()))


def read_weights(path: str | Path) -> WeightFile:
    """Read a file of weights.

    Raises:
        ConfigError: the file is missing.
        CheckpointError: it cannot be read safely, or its kind is unknown.
    """
    path = Path(path)
    if path.suffix == SAFETENSORS:
        state, card = _read_safetensors(path)
    else:
        loaded = load_foreign_checkpoint(path)
        state, card = loaded.get("state_dict", loaded), loaded.get(CARD)
        if not isinstance(state, Mapping):
            raise CheckpointError(f"{path}: its state_dict is a {type(state).__name__}, expected a mapping of tensors")
        if isinstance(loaded.get("network"), Mapping):  # of a training run of this project
            return _own_run(path, state, loaded)
    tensors = to_ours({_plain_name(name): value for name, value in state.items() if isinstance(value, Tensor)})
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensors; expected a state_dict of a HaWoR network")
    network = json.loads(card)["network"] if isinstance(card, str) else None
    if network is not None:
        return WeightFile("own", tensors, _network(path, network))
    return WeightFile(_recognise(path, tensors), tensors)


def _own_run(path: Path, state: Mapping[str, Any], loaded: Mapping[str, Any]) -> WeightFile:
    own = {name.removeprefix(OWN_PREFIX): value for name, value in state.items() if name.startswith(OWN_PREFIX)}
    training = {name: loaded[name] for name in ("hyper_parameters", "split") if name in loaded}
    return WeightFile("own", own, _network(path, loaded["network"]), training)


def _network(path: Path, values: Mapping[str, Any]) -> NetworkConfig:
    try:
        return NetworkConfig(**values)
    except TypeError as error:
        raise CheckpointError(f"{path}: written by another version of this project ({error})") from error


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], str | None]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give the path of a {SAFETENSORS} or checkpoint file.")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, (file.metadata() or {}).get(CARD)  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path}: corrupt or not a {SAFETENSORS} file ({error}).") from None


def _plain_name(name: str) -> str:
    """Remove the prefixes of wrappers (parallel training, compilation), and add the prefix that bare backbones lack."""
    name = name.removeprefix("module.").replace("_orig_mod.", "")
    return f"backbone.{name}" if name.startswith(_BARE_BACKBONE) else name


def _recognise(path: Path, names: Iterable[str]) -> Kind:
    def has(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in names)

    if has("refine_net.", "backbone.pose_emb"):
        return "wilor"
    if has("mano_head."):
        return "hawor" if has("st_module.", "motion_module.") else "hamer"
    if has("backbone.blocks."):
        return "vitpose"
    raise CheckpointError(
        f"{path}: not a HaWoR network, nor HaMeR's, WiLoR's or ViTPose's: found {', '.join(list(names)[:3])}, ...; "
        "expected names that begin with backbone. and mano_head."
    )


def write_released(path: Path, state: Mapping[str, Tensor], network: NetworkConfig | None) -> None:
    """Write tensors in HaWoR's naming, as safetensors or (any other suffix) as a Lightning checkpoint.

    Args:
        path: replaced once the new file is complete.
        state: tensors by our names, without `mano.*`.
        network: sizes to record in the file; None: the shapes determine them.

    Raises:
        DataError: the disk is full.
    """
    named = {name: value.detach().contiguous().cpu() for name, value in to_released(state).items()}
    card = json.dumps({"network": None if network is None else network.to_dict()}, sort_keys=True)
    with replaced_file(path) as temporary:
        if path.suffix == SAFETENSORS:
            from safetensors.torch import save_file

            temporary.touch()  # its mode follows the umask; safetensors would write a file for its owner only
            mode = temporary.stat().st_mode
            save_file(named, temporary, metadata={"format": "pt", CARD: card})
            temporary.chmod(mode)
        else:
            torch.save(_as_lightning(named, card), temporary)


def _as_lightning(state: dict[str, Tensor], card: str) -> dict[str, Any]:
    """Build the minimal checkpoint for `LightningModule.load_from_checkpoint`, which HaWoR's code calls."""
    return {
        "state_dict": state, CARD: card, "epoch": 0, "global_step": 0, "pytorch-lightning_version": "2.2.4",
        "loops": {}, "callbacks": {}, "optimizer_states": [], "lr_schedulers": [],
    }  # fmt: skip
