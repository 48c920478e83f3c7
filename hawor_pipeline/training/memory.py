"""Detection of memory shortage, and advice on the settings to change."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hawor_pipeline.config import TrainingConfig
from hawor_pipeline.errors import MemoryShortage
from hawor_pipeline.models.backbone import SIZES
from hawor_pipeline.models.hawor import HaworModel, NetworkConfig

# Per trained weight, besides the weight: its gradient and Adam's two moments, in float32.
BYTES_PER_TRAINED_WEIGHT = 12
_CPU_MESSAGES = ("can't allocate memory", "not enough memory", "DefaultCPUAllocator")


def is_memory_shortage(error: BaseException) -> bool:
    """Test if an exception means that memory ran out.

    Torch has no common type for this: devices raise OutOfMemoryError, the CPU's allocator a plain RuntimeError.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError, MemoryShortage)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _CPU_MESSAGES)


@contextmanager
def explain_out_of_memory(config: TrainingConfig) -> Iterator[None]:
    """Turn memory shortage into an error that names the settings to change.

    Raises:
        MemoryShortage: memory ran out in this block.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_memory_shortage(error):
            raise
        found = str(error).split("\n")[0]
        raise MemoryShortage(
            f"out of memory ({found}). Settings to change, in this order: {'; '.join(memory_advice(config))}. "
            "The last checkpoint is kept: with another micro_batches the same command resumes from it."
        ) from error


def memory_advice(config: TrainingConfig) -> list[str]:
    """Return the settings to change and by how much; changes that keep the result come first."""
    advice = []
    parts = [n for n in range(config.micro_batches + 1, config.batch_size + 1) if config.batch_size % n == 0]
    if parts:
        share = config.micro_batches / parts[0]
        advice.append(
            f"micro_batches {config.micro_batches} -> {parts[0]} ({share:.0%} of the activations; the same clips per "
            "optimiser step)"
        )
    if not config.activation_checkpointing:
        depth = SIZES[config.backbone_size].depth
        advice.append(
            f"activation_checkpointing: true (keeps the activations of 1 of the backbone's {depth} blocks at a time; "
            "a step takes about a third longer)"
        )
    if config.lightning_precision.startswith(("32", "64")):
        advice.append("precision: bf16 (about half the activations)")
    if not config.frozen_backbone:
        saved = BYTES_PER_TRAINED_WEIGHT * _backbone_weights(config) / 1e9
        advice.append(f"frozen_backbone: true ({saved:.1f} GB less for gradients and optimiser, and no backward pass)")
    if config.clip_length > 1:
        advice.append(f"clip_length {config.clip_length} -> {config.clip_length // 2} (half the activations)")
    return advice or ["a smaller backbone_size, or a device with more memory"]


def _backbone_weights(config: TrainingConfig) -> int:
    with torch.device("meta"):
        network = HaworModel(NetworkConfig.of_training(config))
    return sum(parameter.numel() for parameter in network.backbone.parameters())
