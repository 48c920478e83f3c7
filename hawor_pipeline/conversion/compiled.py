"""Compiling loops that no library has. Importing it fails (ImportError, OSError) where numba cannot be loaded.

What is kept on disk is compiled anew when the function's own file changes, and only then: whatever is compiled into a
function belongs into its file, and a change of the options here asks for a change there.
"""

from collections.abc import Callable
from typing import Any

from numba import njit

# Sums may be taken in any order, so that several values are added at once; they are whole numbers here.
_ANY_ORDER = {"reassoc", "nsz", "contract"}


def compiled(function: Callable) -> Callable:
    """Compiled at the first call and kept on disk; for this process only where no folder for it can be written to."""
    return _kept(function, {})


def compiled_any_order(function: Callable) -> Callable:
    """`compiled`, for sums of floats that are exact in any order."""
    return _kept(function, {"fastmath": _ANY_ORDER})


def inlined(function: Callable) -> Callable:
    """Compiled as part of what calls it."""
    return njit(inline="always")(function)


def _kept(function: Callable, options: dict[str, Any]) -> Callable:
    try:
        return njit(cache=True, nogil=True, **options)(function)
    except RuntimeError:
        return njit(nogil=True, **options)(function)
