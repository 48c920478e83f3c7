"""A restricted unpickler that runs a pickle's instructions without handing it a real class or function.

A pickle is a program for a stack machine. All of its opcodes are allowed, because they only move values, build plain
containers, and call what is on the stack (REDUCE, NEWOBJ, OBJ, INST, BUILD). A callable gets onto the stack only by its
name (GLOBAL, STACK_GLOBAL, INST, the extension codes), and every name goes through `_Restricted.find_class`. So the
list of known names is the whole policy: arrays, plain containers, and what old pickles need to write them. Each name
gets an inert recorder that only keeps its arguments; after the last instruction the recorders become arrays and plain
containers. Any other name is refused. Persistent ids (PERSID) are refused by the base class.
"""

import io
import math
import pickle
import pickletools
import re
from collections import OrderedDict
from typing import Any

import numpy as np

_PLAIN_DTYPE = re.compile(r"[<>|=]?(?:[?biufcSU]\d*|O8?|bool)")
_LARGEST_DENSE = 1 << 27  # elements, 1 GB; no body model has a sparse matrix that is larger when dense
_SPARSE_KINDS = ("csc", "csr", "coo")


class RefusedError(Exception):
    """Raised for a pickle that asks for something that is not data."""


class _FrozenType(type):
    """Metaclass of the recorders, without which BUILD could set attributes on the class and so affect the next load."""

    def __setattr__(cls, name: str, *_value: object) -> None:
        raise RefusedError(f"an attribute of {cls.__name__}")

    __delattr__ = __setattr__


class _Recorder(metaclass=_FrozenType):
    """Placeholder of one object of the pickle until everything is read.

    BUILD calls `__setstate__` where there is one, so it never writes into an instance dictionary.
    """

    __slots__ = ("state",)

    def __init__(self, *_args: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Array(_Recorder):
    """`numpy.ndarray`."""


class _Dtype(_Recorder):
    """`numpy.dtype` of the plain numeric, string and object kinds."""

    __slots__ = ("spec",)

    def __init__(self, spec: object = None, *_args: object) -> None:
        super().__init__()
        if not isinstance(spec, str) or not _PLAIN_DTYPE.fullmatch(spec):
            raise RefusedError(f"the array type {spec!r}")
        self.spec = spec

    def build(self) -> np.dtype:
        dtype = np.dtype("O") if self.spec.lstrip("<>|=").startswith("O") else np.dtype(self.spec)
        if self.state is None:
            return dtype
        if (
            not isinstance(self.state, tuple)
            or len(self.state) < 5
            or any(part is not None for part in self.state[2:5])
        ):
            raise RefusedError("a structured array type")
        return dtype.newbyteorder(self.state[1]) if self.state[1] in ("<", ">") else dtype


class _Sparse(_Recorder):
    """`scipy.sparse` matrix."""


class _Chumpy(_Recorder):
    """`chumpy.Ch` and its subclasses."""


class _Object(_Recorder):
    """`object`, the base class named by old pickles."""


class _Restricted(pickle.Unpickler):
    """Unpickler that resolves names to the recorders above and to plain containers only."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, encoding="latin1")  # array contents in text of Python 2, byte for byte
        self._known = _known_names()

    def find_class(self, module_name: str, global_name: str) -> Any:
        found = self._known.get((module_name, global_name))
        if found is not None:
            return found
        if module_name == "chumpy" or module_name.startswith("chumpy."):
            return _FrozenType(global_name, (_Chumpy,), {"__slots__": ()})
        for kind in _SPARSE_KINDS:
            modules = ("scipy.sparse", f"scipy.sparse.{kind}", f"scipy.sparse._{kind}")
            if global_name in (f"{kind}_matrix", f"{kind}_array") and module_name in modules:
                return _FrozenType(kind, (_Sparse,), {"__slots__": ()})
        raise RefusedError(f"{module_name}.{global_name}")


def _known_names() -> dict[tuple[str, str], Any]:
    """Return the object for every name that a pickle may ask for; new functions for each load, which share no state."""

    def reconstruct(kind: type, *_args: object) -> _Array:
        if kind is not _Array:
            raise RefusedError("an array subclass")
        return _Array()

    def scalar(dtype: _Dtype, data: object = b"") -> Any:
        kind = dtype.build()
        raw = data.encode("latin1") if isinstance(data, str) else data
        if kind.hasobject or not isinstance(raw, bytes) or len(raw) != kind.itemsize:
            raise RefusedError("a scalar that is not a number")
        return np.frombuffer(raw, kind)[0]

    def from_buffer(data: object, dtype: _Dtype, shape: object, order: str, axes: object = None) -> _Array:
        array = _Array()
        array.state = ("buffer", data, dtype, shape, order, axes)
        return array

    def encode(text: object, encoding: object = "latin1") -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8", "utf8", "ascii"):
            raise RefusedError("_codecs.encode of something that is not text")
        return text.encode(encoding)

    def reconstructor(kind: type, _base: object, _state: object) -> Any:
        if not (isinstance(kind, type) and issubclass(kind, _Recorder)):
            raise RefusedError("copyreg._reconstructor")
        return kind()

    def byte_array(content: object = b"") -> bytearray:
        if not isinstance(content, (bytes, bytearray, str)):
            raise RefusedError("a bytearray made from something that is not bytes")
        return bytearray(content.encode("latin1") if isinstance(content, str) else content)

    def no_bytes() -> bytes:
        return b""  # protocols below 3 write an empty value as a call without arguments

    names: dict[tuple[str, str], Any] = {("numpy", "ndarray"): _Array, ("numpy", "dtype"): _Dtype}
    for core in ("numpy.core", "numpy._core"):
        names[f"{core}.multiarray", "_reconstruct"] = reconstruct
        names[f"{core}.multiarray", "scalar"] = scalar
        names[f"{core}.numeric", "_frombuffer"] = from_buffer
    for builtins in ("builtins", "__builtin__"):
        names |= {(builtins, kind.__name__): kind for kind in (list, dict, tuple, set, frozenset, complex)}
        names[builtins, "object"] = _Object
        names |= {(builtins, "bytearray"): byte_array, (builtins, "bytes"): no_bytes}
    for registry in ("copyreg", "copy_reg"):
        names[registry, "_reconstructor"] = reconstructor
    names["collections", "OrderedDict"] = OrderedDict
    names["_codecs", "encode"] = encode
    return names


def _build_array(state: Any, resolve: Any) -> np.ndarray:
    if isinstance(state, tuple) and len(state) == 6 and state[0] == "buffer":
        _, data, dtype, shape, order, axes = state
        if order == "K" and axes is not None:
            return _from_bytes(data, dtype.build(), shape, "C").transpose(axes)
        return _from_bytes(data, dtype.build(), shape, order)
    if not isinstance(state, tuple) or len(state) not in (4, 5):
        raise RefusedError("an array without its contents")
    shape, dtype, fortran, data = state[-4:]
    kind = dtype.build()
    if not kind.hasobject:
        array = _from_bytes(data, kind, shape, "F" if fortran else "C")
        return array.astype(kind.newbyteorder("="), copy=False)
    if not isinstance(data, list) or math.prod(shape) != len(data):
        raise ValueError("an object array whose length differs from its shape")
    array = np.empty(len(data), object)
    for index, item in enumerate(data):
        array[index] = resolve(item)
    return array.reshape(shape, order="F" if fortran else "C")


def _from_bytes(data: Any, dtype: np.dtype, shape: Any, order: Any) -> np.ndarray:
    raw = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(raw, (bytes, bytearray)) or dtype.hasobject:
        raise RefusedError("an array whose contents are not bytes")
    if len(raw) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"an array of shape {tuple(shape)} with {len(raw)} bytes of contents")
    return np.frombuffer(bytearray(raw), dtype).reshape(shape, order=order)


def _build_sparse(kind: str, state: Any) -> np.ndarray:
    """Return the dense array of a `scipy.sparse` state."""
    shape = tuple(int(size) for size in state.get("_shape", state.get("shape", ())))
    if len(shape) != 2 or min(shape) < 0 or math.prod(shape) > _LARGEST_DENSE:
        raise ValueError(f"a sparse matrix of shape {shape}")
    data = np.asarray(state["data"])
    if kind == "coo":
        rows, columns = state["coords"] if "coords" in state else (state["row"], state["col"])
    else:
        major = np.repeat(np.arange(len(state["indptr"]) - 1), np.diff(state["indptr"]))
        rows, columns = (state["indices"], major) if kind == "csc" else (major, state["indices"])
    rows, columns = np.asarray(rows), np.asarray(columns)
    # numpy itself refuses indices past the end, but counts negative ones from there
    if min(rows.min(initial=0), columns.min(initial=0)) < 0:
        raise ValueError("a sparse matrix with negative indices")
    dense = np.zeros(shape, data.dtype)
    np.add.at(dense, (rows, columns), data)
    return dense


def _build_chumpy(name: str, state: Any) -> np.ndarray:
    """Return the value of a chumpy object: `Ch` holds it as `x`, `reordering.Select` selects entries of another one."""
    if isinstance(state, dict) and isinstance(state.get("x"), np.ndarray):
        return state["x"]
    if isinstance(state, dict) and {"a", "idxs"} <= set(state):
        selected = np.asarray(state["a"]).ravel()[np.asarray(state["idxs"], np.int64)]
        shape = state.get("preferred_shape")
        return selected if shape is None else selected.reshape(shape)
    raise ValueError(f"a chumpy {name} without a value")


class _Resolver:
    """Conversion of recorders into arrays and plain containers; shared objects stay shared."""

    def __init__(self) -> None:
        self._done: dict[int, Any] = {}
        self._keep: list[Any] = []  # ids are only unique while the objects live

    def __call__(self, item: Any) -> Any:
        if item is None or isinstance(item, (str, bytes, bytearray, int, float, complex, np.generic)):
            return item
        if id(item) in self._done:
            return self._done[id(item)]
        self._keep.append(item)
        self._done[id(item)] = None  # ends the recursion of an object that contains itself
        result = self._convert(item)
        self._done[id(item)] = result
        return result

    def _convert(self, item: Any) -> Any:
        if isinstance(item, dict):
            return {self._key(key): self(value) for key, value in item.items()}
        if isinstance(item, (list, tuple)):
            return type(item)(self(value) for value in item)
        if isinstance(item, (set, frozenset)):
            return type(item)(self._key(value) for value in item)
        if isinstance(item, _Array):
            return _build_array(item.state, self)
        if isinstance(item, _Dtype):
            return item.build()
        if isinstance(item, _Sparse):
            return _build_sparse(type(item).__name__, self(item.state))
        if isinstance(item, _Chumpy):
            return _build_chumpy(type(item).__name__, self(item.state))
        raise RefusedError(f"an object of type {getattr(item, '__name__', type(item).__name__)}")

    def _key(self, key: Any) -> Any:
        if isinstance(key, tuple):
            return tuple(self._key(part) for part in key)
        if key is None or isinstance(key, (str, bytes, int, float, complex, np.generic)):
            return key
        raise RefusedError(f"a {type(key).__name__} used as a key")


def _check_program(data: bytes) -> None:
    """Check a pickle's instructions without running them.

    They must be complete, and no memo slot may lie beyond the file's length: the unpickler allocates its memo up to
    the highest slot, so one PUT of a few bytes could ask for all memory.
    """
    for opcode, argument, _ in pickletools.genops(data):
        if "PUT" in opcode.name and isinstance(argument, int) and argument > len(data):
            raise ValueError("a memo slot far beyond the size of the file")


def unpickle_data(data: bytes) -> Any:
    """Read arrays and plain containers from a pickle.

    Raises:
        RefusedError: It asks for anything else; the message names it.
        Exception: Of any type, if the instructions are damaged.
    """
    _check_program(data)
    return _Resolver()(_Restricted(io.BytesIO(data)).load())
