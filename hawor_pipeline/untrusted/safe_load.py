"""Reading one untrusted file without running code stored in it.

`.npy` dictionaries, MANO `.pkl` files and checkpoints are pickles, and a pickle is a program. They are read through a
restricted unpickler, which refuses whatever asks for more than arrays and plain containers; the message names the file
and the request. The expected contents are the caller's business.
"""

import io
import math
import pickle
import re
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from hawor_pipeline.errors import CheckpointError, ConfigError, DataError
from hawor_pipeline.untrusted.restricted_pickle import RefusedError, unpickle_data


def _unpickle(data: bytes, path: Path) -> Any:
    try:
        return unpickle_data(data)
    except RefusedError as error:
        raise DataError(
            f"{path}: refused, its pickle asks for {error}; expected only arrays and plain containers. "
            "Nothing of it was run. Get the file again from its original source."
        ) from None
    except DataError:
        raise
    # Damaged instructions may raise any type, and each means the same to the user.
    except Exception as error:
        raise DataError(f"{path}: damaged pickle ({type(error).__name__}: {error}); get the file again.") from None


def _read(path: Path, kind: str) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; expected a {kind} file.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected a {kind} file.") from None
    if not data:
        raise DataError(f"{path}: empty file; expected a {kind} file. Get it again.")
    return data


def load_npy(path: str | Path) -> Any:
    """Read one `.npy` file.

    Returns:
        The array; for a file that wraps one dictionary or list (an object array of shape ()), that object.

    Raises:
        ConfigError: The file does not exist.
        DataError: It is empty, cut short, or asks for anything but arrays and plain containers.

    Source: the `.npy` format as documented in `numpy.lib.format`.
    """
    path = Path(path)
    stream = io.BytesIO(_read(path, ".npy"))
    try:
        version = np.lib.format.read_magic(stream)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = read_header[version](stream)
    except KeyError:
        raise DataError(f"{path}: .npy format {version}; expected 1.0 or 2.0. Save it again with numpy.save.") from None
    except Exception as error:  # literal_eval and dtype parsing raise many types
        raise DataError(f"{path}: not an .npy file or damaged ({error}); get it again.") from None
    rest = stream.read()
    if dtype.hasobject:  # numpy appends a pickle instead of raw bytes
        if dtype != np.dtype(object):
            raise DataError(f"{path}: refused, a structured array that holds objects; expected plain arrays.")
        loaded = _unpickle(rest, path)
        if not isinstance(loaded, np.ndarray) or loaded.shape != shape:
            found = loaded.shape if isinstance(loaded, np.ndarray) else type(loaded).__name__
            raise DataError(f"{path}: its header states shape {shape}, found {found}; get it again.")
        return loaded.item() if loaded.shape == () else loaded
    expected = math.prod(shape) * dtype.itemsize
    if len(rest) != expected:
        raise DataError(
            f"{path}: found {len(rest)} bytes of array data, expected {expected}; it is cut short or damaged."
        )
    return np.frombuffer(bytearray(rest), dtype).reshape(shape, order="F" if fortran else "C")


def load_pickle(path: str | Path) -> Any:
    """Read one pickle that holds data, such as MANO's `.pkl` files; chumpy and scipy need not be installed.

    Returns:
        Its contents: plain containers, with chumpy objects and sparse matrices as dense arrays.

    Raises:
        ConfigError: The file does not exist.
        DataError: It is empty, cut short, or asks for anything but arrays and plain containers.
    """
    path = Path(path)
    return _unpickle(_read(path, "pickle"), path)


def load_npz(path: str | Path, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Read one `.npz` archive of plain arrays.

    Args:
        path: The archive.
        names: Read only these arrays, as far as they are there; None for all.

    Returns:
        Arrays by name.

    Raises:
        ConfigError: The file does not exist.
        DataError: It is empty, cut short, or one of the arrays holds objects.
    """
    path = Path(path)
    data = _read(path, ".npz")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files if names is None or name in names}
    except (ValueError, OSError, EOFError, KeyError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not an archive of plain arrays or damaged ({error}); get it again.") from None


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read one torch checkpoint onto the CPU: tensors, numbers, text and plain containers only.

    Tensors are memory-mapped, so those that nobody uses (an optimiser's) are never read. The file may be replaced by a
    rename while they are in use, but not be overwritten in place.

    Returns:
        The dictionary that was saved.

    Raises:
        ConfigError: The file does not exist.
        CheckpointError: It is empty, cut short, holds no dictionary, or asks for anything else (named in the message).
    """
    import torch

    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: no such checkpoint; give the path of a .ckpt file.")
    try:
        # only zip archives, which torch writes since 1.6, can be mapped
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # zip, pickle and storage errors have no common base
        # torch has no attribute for the refused name, only these two wordings
        named = re.search(r"GLOBAL (\S+)", str(error)) or re.search(r"Can only build.*?`?([\w.]+)`?", str(error))
        if isinstance(error, pickle.UnpicklingError) and named:
            raise CheckpointError(
                f"{path}: refused, it asks for {named.group(1)}; expected only tensors and plain containers. "
                "Nothing of it was run."
            ) from None
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({reason}).") from None
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path}: holds a {type(loaded).__name__}; expected a dictionary with a state_dict.")
    return loaded
