"""Files of weights: reading them under our names, and writing them atomically.

Supported are checkpoints of this project's runs, files that it exported or imported, and checkpoints of HaWoR, HaMeR,
WiLoR and ViTPose as downloaded; the kind is recognised by the names in a file. Files are opened by
`hawor_pipeline.untrusted` only.

Belongs here: one file and its names. Does not: the match of weights and network (`checkpoints`).
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hawor_pipeline.errors import CheckpointError, ConfigError
from hawor_pipeline.models.form import RECORD, NetworkConfig, Record
from hawor_pipeline.models.released_names import released_name, to_ours, to_released
from hawor_pipeline.provenance import replaced_file
from hawor_pipeline.untrusted.foreign_checkpoint import load_foreign_checkpoint

Kind = Literal["own", "hawor", "hamer", "wilor", "vitpose"]
BACKBONE_ONLY: tuple[Kind, ...] = ("wilor", "vitpose")  # files of which only the backbone fits this network
CARD = "hawor_pipeline"  # key of the metadata in files that this project wrote
SAFETENSORS = ".safetensors"
RELEASED_RECORD = released_name(RECORD)
OUR_POSITIONS, THEIR_POSITIONS, _BARE_POSITIONS = "backbone.positions", "backbone.pos_embed", "pos_embed"
_WRAPPERS = ("module", "_orig_mod")  # DataParallel and averages, torch.compile
_BARE_BACKBONE = ("blocks.", "patch_embed.", "pos_embed", "last_norm.")
# Entries of released files that are no weights of this network: the licensed body model, the discriminator of HaMeR's
# training, a flag of Lightning, the count of averaged steps; WiLoR's tokens and refinement; ViTPose's keypoint heads.
_IGNORED = ("mano.", "discriminator.", "initialized", "n_averaged")
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
        record: form and training data of the network, as recorded in the file; None: to be inferred from the shapes.
    """

    kind: Kind
    tensors: dict[str, Tensor]
    record: Record | None = None

    def is_ignored(self, name: str) -> bool:
        """Test if a name is a known entry without a weight of this network."""
        return name.startswith(_IGNORED + _IGNORED_OF.get(self.kind, ()))


def read_weights(path: str | Path) -> WeightFile:
    """Read a file of weights.

    Raises:
        ConfigError: the file is missing.
        CheckpointError: it cannot be read safely, its kind is unknown, or its weights need a record that it lacks.
    """
    path = Path(path)
    if path.suffix == SAFETENSORS:
        loaded: Mapping[str, Any]
        loaded, card = _read_safetensors(path)
    else:
        loaded = load_foreign_checkpoint(path)
        card = loaded.get(CARD)
    tensors = _bare_names(path, _state_of(path, loaded))
    if not tensors:
        raise CheckpointError(f"{path}: holds no tensors; expected a state_dict of a HaWoR network")
    are_ours = OUR_POSITIONS in tensors
    tensors = to_ours(tensors)
    stored = tensors.pop(RECORD, None)
    kind: Kind = "own"
    try:
        record = None if stored is None else Record.from_tensor(stored)
        beside = None
        if are_ours and isinstance(loaded.get("network"), Mapping):  # of a training run of this project
            beside = _record_of_run(path, loaded)
        elif isinstance(card, str) and (values := json.loads(card)).get("network") is not None:
            kind, beside = values.get("kind", kind), Record.from_json(card)
    except (CheckpointError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: {error}; it may be of another version of this project") from error
    if record and beside and (differing := record.network.differing(beside.network)):
        raise CheckpointError(f"{path}: two forms of the network are recorded, which differ in {', '.join(differing)}")
    if record or beside:
        return WeightFile(kind, tensors, beside or record)
    if are_ours:
        raise CheckpointError(
            f"{path}: weights of this project without the record of their form ({RECORD}), so that equal shapes may "
            "mean another network; expected the checkpoint of the run, an export of it, or an unchanged state_dict"
        )
    return WeightFile(_recognise(path, tensors), tensors)


def _record_of_run(path: Path, loaded: Mapping[str, Any]) -> Record:
    """Return the record of a checkpoint that training wrote."""
    parameters, split = loaded.get("hyper_parameters"), loaded.get("split")
    config = parameters.get("config") if isinstance(parameters, Mapping) else None
    values = dict(loaded["network"])
    if isinstance(config, Mapping) and "clip_length" in config:  # earlier versions recorded it there only
        values["clip_length"] = config["clip_length"]
    trained_on = split.get("training", ()) if isinstance(split, Mapping) else split or ()
    if not isinstance(trained_on, (list, tuple)) or not all(isinstance(name, str) for name in trained_on):
        raise CheckpointError(f"{path}: its split is {split!r}, expected the lists of its sequences; it is damaged")
    return Record(NetworkConfig.of_record(values), tuple(map(str, trained_on)))


def _state_of(path: Path, loaded: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of the one network in a file, wherever it is wrapped."""
    state = loaded.get("state_dict", loaded)
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: its state_dict is a {type(state).__name__}, expected a mapping of tensors")
    found = list(_networks_in("", state))
    if len(found) > 1:
        names = ", ".join(where for where, _ in found)
        raise CheckpointError(f"{path}: weights under {names}; expected one network, keep one of them")
    return found[0][1] if found else _tensors_of(state)


def _networks_in(where: str, state: Mapping[Any, Any], depth: int = 3) -> Iterator[tuple[str, dict[str, Tensor]]]:
    tensors = _tensors_of(state)
    if _prefixes(map(_unwrapped, tensors)):
        yield where, tensors
    elif depth:
        for key, value in state.items():
            if isinstance(value, Mapping):
                yield from _networks_in(f"{where}/{key}", value, depth - 1)


def _tensors_of(state: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}


def _unwrapped(name: str) -> str:
    """Remove the parts of a name that wrappers add: parallel training, averages, compilation."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _prefixes(names: Iterable[str]) -> list[str]:
    """List the prefixes under which there is a backbone, found by the name of its table of positions."""
    names = list(names)
    for anchor in (OUR_POSITIONS, THEIR_POSITIONS, _BARE_POSITIONS):
        found = [name.removesuffix(anchor) for name in names if f".{name}".endswith(f".{anchor}")]
        if found:
            return found
    return []


def _bare_names(path: Path, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes of wrappers and of the module that the network is part of; add the one bare backbones lack.

    Entries beside the network, such as the losses of a training module, are dropped.
    """
    names = {name: _unwrapped(name) for name in state}
    prefixes = _prefixes(names.values()) or [""]
    if len(prefixes) > 1 or len(set(names.values())) < len(names):
        raise CheckpointError(f"{path}: holds several networks ({', '.join(prefixes)}); expected one, keep one of them")
    bare = {name[len(prefixes[0]) :]: state[old] for old, name in names.items() if name.startswith(prefixes[0])}
    return {f"backbone.{name}" if name.startswith(_BARE_BACKBONE) else name: value for name, value in bare.items()}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], str | None]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ConfigError(f"{path}: no such file; give the path of a {SAFETENSORS} or checkpoint file.")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, (file.metadata() or {}).get(CARD)  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path}: corrupt or not a {SAFETENSORS} file ({error}).") from None


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


def write_released(path: Path, state: Mapping[str, Tensor], record: Record | None, kind: Kind = "own") -> None:
    """Write tensors in HaWoR's naming, as safetensors or (any other suffix) as a Lightning checkpoint.

    Args:
        path: replaced once the new file is complete.
        state: tensors by our names, without `mano.*`; the record may be one of them.
        record: stored in the metadata; None: the shapes determine the network.
        kind: project of the weights.

    Raises:
        DataError: the disk is full.
    """
    tensors = to_released(state) | ({RELEASED_RECORD: state[RECORD]} if RECORD in state else {})
    named = {name: value.detach().contiguous().cpu() for name, value in tensors.items()}
    card = json.dumps({"network": None} if record is None else {**json.loads(record.to_json()), "kind": kind})
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
