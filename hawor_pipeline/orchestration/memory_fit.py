"""Training within the available memory: on a shortage the same batch is computed in more, smaller parts.

The clips of an optimiser step and its learning rate stay the same; only rounding differs. The number of parts is stored
beside the run, so that a resumed run starts with it.
"""

import json
from collections.abc import Callable
from pathlib import Path

from hawor_pipeline.errors import MemoryShortage
from hawor_pipeline.provenance import atomic_write_json

MEMORY_FILE = "memory.json"


def next_parts(parts: int, batch_size: int) -> int | None:
    """Return the next number of equal parts, at least twice as many; None where a part is one clip already.

    >>> [next_parts(1, 12), next_parts(2, 12), next_parts(4, 12), next_parts(12, 12)]
    [2, 4, 12, None]
    """
    return next((n for n in range(2 * parts, batch_size + 1) if batch_size % n == 0), None)


def known_parts(run_dir: Path, device_name: str) -> int:
    """Read the number of parts of an earlier attempt of this run on this kind of device; 1 if there was none."""
    try:
        known = json.loads((run_dir / MEMORY_FILE).read_text())
    except (OSError, json.JSONDecodeError):
        return 1
    return known["micro_batches"] if known.get("device") == device_name else 1


def train_within_memory(
    attempt: Callable[[int], None], run_dir: Path, device_name: str, batch_size: int, warn: Callable[[str], None]
) -> int:
    """Call `attempt(parts)` with more parts as long as it raises a MemoryShortage.

    Args:
        attempt: trains, resuming an earlier attempt.
        run_dir: of the run.
        device_name: the kind of device.
        batch_size: clips per step and device, all parts together.
        warn: called with a message on each shortage.

    Returns:
        The number of parts that sufficed.

    Raises:
        MemoryShortage: one clip at a time is still too much; the message names the settings that help.
    """
    parts = known_parts(run_dir, device_name)
    while True:
        try:
            attempt(parts)
            return parts
        except MemoryShortage as shortage:
            more = next_parts(parts, batch_size)
            if more is None:
                raise MemoryShortage(
                    f"{shortage} One clip at a time is still too much for {device_name}: set "
                    "activation_checkpointing: true, precision: bf16, a shorter clip_length or a smaller image_size "
                    "or backbone_size"
                ) from None
            warn(
                f"Out of memory on {device_name} with {batch_size // parts} clips at once. Continuing with "
                f"{batch_size // more} at once and {more} passes per batch: same clips per optimiser step."
            )
            parts = more
            atomic_write_json(run_dir / MEMORY_FILE, {"device": device_name, "micro_batches": parts})
