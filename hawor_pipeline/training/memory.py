"""Telling lack of memory from other errors. Torch has no common type for it: devices raise one, the CPU another."""

import torch

_CPU_MESSAGE = "can't allocate memory"  # of torch's allocator on the CPU, which raises a plain RuntimeError


def is_memory_shortage(error: BaseException) -> bool:
    """Whether an exception says that memory did not suffice."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and _CPU_MESSAGE in str(error)
