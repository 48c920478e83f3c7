"""Reading tensors from checkpoints of other projects without running code stored in them.

Released checkpoints of HaMeR, HaWoR and WiLoR hold more than weights: a configuration object of a library that may not
be installed, callbacks, numbers of numpy. torch's own safe loader refuses such files as a whole. Here every such object
becomes an inert stand-in that discards its contents, and only the tensors are kept. Names from outside the list of
harmless libraries are still refused.
"""

import pickle
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

from hawor_pipeline.errors import CheckpointError
from hawor_pipeline.untrusted.safe_load import load_checkpoint

# Libraries whose objects occur beside the weights in training checkpoints. None of them is imported.
_BESIDE_WEIGHTS = (
    "yacs", "omegaconf", "pytorch_lightning", "lightning", "lightning_fabric", "torchmetrics", "mmcv", "mmengine",
    "easydict", "addict", "numpy", "argparse", "pathlib", "collections", "typing", "enum", "datetime", "copyreg",
    "copy_reg", "_codecs",
)  # fmt: skip
_PLAIN_BUILTINS = (
    "set", "frozenset", "slice", "range", "complex", "bytearray", "object", "dict", "list", "tuple", "int", "float",
    "str", "bool",
)  # fmt: skip


class _StandIn(dict):
    """Replacement of any object that is not a tensor; discards its contents.

    It derives from dict and has the methods that the opcodes SETITEMS, APPENDS, ADDITEMS and BUILD call.
    """

    def __init__(self, *_args: object, **_kwargs: object) -> None:
        super().__init__()

    def __setstate__(self, _state: object) -> None:
        pass

    def __setitem__(self, _key: object, _value: object) -> None:
        pass

    def append(self, _value: object) -> None:
        """Discard."""

    extend = add = append

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


class _RefusedError(Exception):
    """Raised for a name from outside the list."""


def _tensor(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_rest: object) -> Any:
    import torch

    return torch._utils._rebuild_tensor(storage, offset, size, stride)  # type: ignore[attr-defined]


def _parameter(data: Any, *_rest: object) -> Any:
    return data


class _TensorsOnly(pickle.Unpickler):
    """Unpickler of tensors and plain containers; anything else becomes a stand-in or is refused."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        import torch

        found = {
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_tensor"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
            ("torch", "Size"): tuple,
            ("collections", "OrderedDict"): OrderedDict,
        }.get((module_name, global_name))
        if found is not None:
            return found
        if module_name == "torch" and isinstance(kind := getattr(torch, global_name, None), torch.dtype):
            return kind
        plain = module_name in ("builtins", "__builtin__") and global_name in _PLAIN_BUILTINS
        if plain or module_name.split(".")[0] in _BESIDE_WEIGHTS:
            return type(global_name, (_StandIn,), {})
        raise _RefusedError(f"{module_name}.{global_name}")


def load_foreign_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read the tensors of a checkpoint as downloaded; other objects in it become empty mappings.

    Returns:
        The dictionary that was saved, tensors on the CPU.

    Raises:
        ConfigError: The file does not exist.
        CheckpointError: It is damaged, holds no dictionary, or asks for a name that does not belong beside weights.
    """
    import torch

    path = Path(path)
    try:
        return load_checkpoint(path)
    except CheckpointError as error:
        if not isinstance(error.__cause__ or error.__context__, pickle.UnpicklingError):
            raise  # damaged, or a program (TorchScript)
    reader = types.SimpleNamespace(
        __name__="tensors_only",
        Unpickler=_TensorsOnly,
        load=lambda file, **options: _TensorsOnly(file, **options).load(),
    )
    try:
        loaded = torch.load(path, map_location="cpu", pickle_module=reader, weights_only=False)
    except _RefusedError as error:
        raise CheckpointError(
            f"{path}: refused, it asks for {error}; expected weights and the usual objects beside them. "
            "Nothing of it was run. Get the file again from its original source."
        ) from None
    except Exception as error:  # damaged instructions may raise any type
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({type(error).__name__}: {error}).") from None
    if not isinstance(loaded, dict) or isinstance(loaded, _StandIn):
        raise CheckpointError(f"{path}: holds no dictionary; expected one with a state_dict.")
    return loaded
