"""Import of weights of other projects, and export of networks for HaWoR's own code."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hawor_pipeline.core.camera import MIN_CAMERA_SCALE
from hawor_pipeline.errors import CheckpointError
from hawor_pipeline.models.checkpoints import KeyReport, form_of, infer_network, load_hawor, match_keys
from hawor_pipeline.models.form import RECORD, NetworkConfig, Record
from hawor_pipeline.models.hawor import HaworModel
from hawor_pipeline.models.weight_files import BACKBONE_ONLY, SAFETENSORS, Kind, read_weights, write_released
from hawor_pipeline.provenance import StageResult, find_done, hash_json, mark_done, sha256_file, staging_dir
from hawor_pipeline.versions import EXPORT_VERSION

_WIDTHS = ("image_size", "dim", "head_dim", "head_feedforward", "temporal_feedforward", "st_hdim", "motion_hdim")
_COUNTS = ("depth", "heads", "head_depth", "head_heads", "st_hdim", "st_nlayer", "motion_hdim", "motion_nlayer")


@dataclass(slots=True)
class ImportedWeights:
    """Result of an import."""

    kind: Kind
    network: NetworkConfig  # of the parts in the file
    report: KeyReport
    path: Path


def import_checkpoint(source: Path | str, output: Path | str, *, partial: bool = False) -> ImportedWeights:
    """Check a downloaded checkpoint key by key and write its weights for `pretrained_weights` and `load_hawor`.

    Args:
        source: a file of HaWoR, HaMeR, WiLoR or ViTPose, or of this project.
        output: file of the weights, safetensors or a checkpoint by its suffix; `mano.*` is excluded.
        partial: accept missing, unexpected or misshaped entries, and take the others.

    Raises:
        ConfigError: there is no such file.
        CheckpointError: it cannot be read safely, or does not fit and `partial` is false.
    """
    file = read_weights(source)
    backbone_only = file.kind in BACKBONE_ONLY
    record = Record(infer_network(file.tensors)) if backbone_only else form_of(source, file)
    with torch.device("meta"):
        model = HaworModel(record.network)
    report = match_keys(model, file)
    if not (report.fits or partial):
        raise CheckpointError(
            f"{source}: a {file.kind} file that does not fit: {report.explain()}; download the file again, or import "
            "the matching entries with --partial"
        )
    state = {name: file.tensors[name] for name in report.used}
    if file.kind == "own":
        state[RECORD] = record.to_tensor()
    write_released(Path(output), state, None if backbone_only or not report.fits else record, file.kind)
    return ImportedWeights(file.kind, record.network, report, Path(output))


def export_checkpoint(
    checkpoint: Path | str, output: Path | str, *, allow_differences: bool = False
) -> tuple[NetworkConfig, list[str]]:
    """Write a network in HaWoR's naming, as safetensors or a Lightning checkpoint by the suffix of `output`.

    Args:
        checkpoint: of this project, or of HaWoR or HaMeR.
        output: file to write. Safetensors are for this project, and carry the record of the network's form.
        allow_differences: write a Lightning checkpoint, which is for HaWoR's code, even of a network that this code
            would compute differently. The file then carries the record, too.

    Returns:
        The network, and its differences from HaWoR's own code; none: that code loads the file and computes the same.

    Raises:
        ConfigError: there is no such checkpoint.
        CheckpointError: it cannot be read safely, is not a complete network, or would be computed differently.
    """
    model, output = load_hawor(checkpoint), Path(output)
    changed = computed_differently(model.network)
    if changed and not allow_differences and output.suffix != SAFETENSORS:
        raise CheckpointError(
            f"{checkpoint}: HaWoR's own code would compute something else with these weights: {'; '.join(changed)}. "
            "Train from HaWoR's weights, export as safetensors for this project, or export with --allow-differences"
        )
    _write(model, output)
    return model.network, differences_from_hawor(model.network)


def _write(model: HaworModel, output: Path) -> None:
    state = model.state_dict()
    if output.suffix != SAFETENSORS and not computed_differently(model.network):
        del state[RECORD]  # the form is that of HaWoR's code, which loads no further entry
    write_released(output, state, Record(model.network, model.trained_on))


def computed_differently(network: NetworkConfig) -> list[str]:
    """List the variants of a network with which HaWoR's own code computes something else, one line per variant."""
    released = NetworkConfig()
    differences = []
    if network.patch_embed != released.patch_embed:
        differences.append("convolutional stem instead of 16 px patches: its names are unknown there")
    if network.head_query != released.head_query:
        differences.append("decoder query made from the image tokens instead of zero: another shape there")
    if network.motion_hdim and network.motion_residual:
        differences.append("pose attention that adds to the pose: there it replaces it")
    if network.bounded_camera:
        differences.append(f"camera scale of at least {MIN_CAMERA_SCALE}/m: there it is not bounded")
    widths = [getattr(network, name) in (0, getattr(released, name)) for name in _WIDTHS]
    if all(widths):  # any other width does not load there; these do, and what the file lacks stays random
        differences += _fixed(network, _COUNTS)
    return differences


def differences_from_hawor(network: NetworkConfig) -> list[str]:
    """List the variants and sizes of a network that HaWoR's own code lacks, one line per difference."""
    changed = computed_differently(network)
    sizes = _fixed(network, ("image_size", "dim", "depth", "heads", "temporal_feedforward"))
    return changed + [size for size in sizes if size not in changed]


def _fixed(network: NetworkConfig, names: Sequence[str]) -> list[str]:
    released = NetworkConfig()
    pairs = {name: (getattr(network, name), getattr(released, name)) for name in names}
    return [f"{name} is {found}: fixed to {there} there" for name, (found, there) in pairs.items() if found != there]


def export_run(checkpoint: Path | str, sha256: str, output: Path) -> StageResult:
    """Write a checkpoint into a folder as safetensors and, if HaWoR's code computes the same, for that code; once.

    Args:
        checkpoint: of a training run.
        sha256: hash recorded by training.
        output: folder, replaced as a whole.

    Returns:
        The result; its info holds the number of weights, the hashes of the files, and the differences from HaWoR.

    Raises:
        CheckpointError: the checkpoint is not the recorded one, or cannot be read.
    """
    key = hash_json({"checkpoint": sha256, "export": EXPORT_VERSION})
    info, why = find_done(output, key)
    if info is not None:
        return StageResult(output, True, why, key, info)
    if (found := sha256_file(checkpoint)) != sha256:
        raise CheckpointError(f"{checkpoint}: its sha256 is {found}, expected {sha256}; train or evaluate it again")
    model = load_hawor(checkpoint)
    files = ["model.safetensors"] if computed_differently(model.network) else ["hawor.ckpt", "model.safetensors"]
    with staging_dir(output) as staged:
        for name in files:
            _write(model, staged / name)
        info = {
            "weights": sum(value.numel() for name, value in model.state_dict().items() if name != RECORD),
            "differences_from_hawor": "; ".join(differences_from_hawor(model.network)) or "none",
            "box_rule": str(model.network.box_rule),
            **{f"sha256_{name.replace('.', '_')}": sha256_file(staged / name) for name in files},
        }
        mark_done(staged, key, info, files)
    return StageResult(output, False, why, key, info)
