"""Import of weights of other projects, and export of networks for HaWoR's own code."""

from dataclasses import dataclass
from pathlib import Path

import torch

from hawor_pipeline.errors import CheckpointError
from hawor_pipeline.models.checkpoints import KeyReport, infer_network, load_hawor, match_keys
from hawor_pipeline.models.hawor import HaworModel, NetworkConfig
from hawor_pipeline.models.weight_files import Kind, read_weights, write_released
from hawor_pipeline.provenance import StageResult, find_done, hash_json, mark_done, sha256_file, staging_dir
from hawor_pipeline.versions import EXPORT_VERSION


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
    network = file.network or infer_network(file.tensors)
    with torch.device("meta"):
        model = HaworModel(network)
    report = match_keys(model, file)
    if not (report.fits or partial):
        raise CheckpointError(
            f"{source}: a {file.kind} file that does not fit: {report.explain()}; download the file again, or import "
            "the matching entries with --partial"
        )
    write_released(Path(output), {name: file.tensors[name] for name in report.used}, file.network)
    return ImportedWeights(file.kind, network, report, Path(output))


def export_checkpoint(checkpoint: Path | str, output: Path | str) -> list[str]:
    """Write a network in HaWoR's naming, as safetensors or a Lightning checkpoint by the suffix of `output`.

    Returns:
        Differences from HaWoR's own code; empty: that code loads the file and computes the same.

    Raises:
        ConfigError: there is no such checkpoint.
        CheckpointError: it cannot be read safely, or is not a complete network.
    """
    model = load_hawor(checkpoint)
    write_released(Path(output), model.state_dict(), model.network)
    return differences_from_hawor(model.network)


def differences_from_hawor(network: NetworkConfig) -> list[str]:
    """List the variants of a network that HaWoR's own code lacks, one line per difference."""
    released = NetworkConfig()
    differences = []
    if network.patch_embed != released.patch_embed:
        differences.append("convolutional stem instead of 16 px patches: its names are unknown there")
    if network.head_query != released.head_query:
        differences.append("decoder query made from the image tokens instead of zero: another shape there")
    if network.motion_hdim and network.motion_residual:
        differences.append("pose attention that adds to the pose: there it replaces it")
    fixed = ("image_size", "dim", "depth", "heads", "temporal_feedforward")
    differences += [
        f"{name} is {getattr(network, name)}: fixed to {getattr(released, name)} there"
        for name in fixed
        if getattr(network, name) != getattr(released, name)
    ]
    return differences


def export_run(checkpoint: Path | str, sha256: str, output: Path) -> StageResult:
    """Write both formats of a checkpoint into a folder, once per checkpoint.

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
    state, files = model.state_dict(), ("hawor.ckpt", "model.safetensors")
    with staging_dir(output) as staged:
        for name in files:
            write_released(staged / name, state, model.network)
        info = {
            "weights": sum(value.numel() for value in state.values()),
            "differences_from_hawor": "; ".join(differences_from_hawor(model.network)) or "none",
            **{f"sha256_{name.replace('.', '_')}": sha256_file(staged / name) for name in files},
        }
        mark_done(staged, key, info, list(files))
    return StageResult(output, False, why, key, info)
