"""Decorators that compile loops with numba. Importing this module raises ImportError or OSError without numba.

The cache on disk is invalid when the function's own file changes, and only then. So everything that is compiled into a
function belongs in its file, and a change of the options here needs a change there.
"""

from collections.abc import Callable
from typing import Any

from numba import njit

# Lets LLVM reorder sums into vector instructions. Exact here, because all summands are whole numbers.
_ANY_ORDER = {"reassoc", "nsz", "contract"}


def compiled(function: Callable) -> Callable:
    """Compile at the first call and cache on disk, or for this process only if no cache folder is writable."""
    return _kept(function, {})


def compiled_any_order(function: Callable) -> Callable:
    """Compile like `compiled`, for sums of floats that are exact in any order."""
    return _kept(function, {"fastmath": _ANY_ORDER})


def inlined(function: Callable) -> Callable:
    """Compile as part of the calling function."""
    return njit(inline="always")(function)


def _kept(function: Callable, options: dict[str, Any]) -> Callable:
    try:
        return njit(cache=True, nogil=True, **options)(function)
    except RuntimeError:
        return njit(nogil=True, **options)(function)
