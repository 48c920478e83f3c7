"""Files from elsewhere: what is data is read exactly, anything else is refused by name and never run."""

import copyreg
import io
import os
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch

from hawor_pipeline.errors import CheckpointError, ConfigError, DataError
from hawor_pipeline.untrusted.safe_load import load_checkpoint, load_npy, load_npz, load_pickle

RAW = {
    "right": {"rot": np.arange(6, dtype=np.float32).reshape(2, 3), "shape": np.ones(10)},
    "names": ["a", ("b", 3), None, True, 2.5],
    "count": np.float64(1.25),
    "words": np.array(["left", "right"]),
}


class Call:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def program(module: str, name: str, *arguments: str) -> bytes:
    """Protocol 0 pickle that calls `module.name(*arguments)`; writable for any name, existing or not."""
    return f"c{module}\n{name}\n(".encode() + b"".join(b"V" + a.encode() + b"\n" for a in arguments) + b"tR."


def object_npy(payload: bytes) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": ()})
    return stream.getvalue() + payload


def assert_same(left, right):
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, (list, tuple)):
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            assert_same(a, b)
    elif isinstance(left, np.ndarray) and left.dtype == object:
        assert left.shape == right.shape
        for a, b in zip(left.ravel(), right.ravel(), strict=True):
            assert_same(a, b)
    elif isinstance(left, np.ndarray):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)
    else:
        assert left == right


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_of_every_protocol_equals_the_standard_unpickler(tmp_path, protocol):
    extra = {
        **RAW,
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big_endian": np.arange(3, dtype=">i4"),
        "objects": np.array([np.arange(3), {"x": 1}, None], dtype=object),
        "empty": np.zeros((0, 3)),
        "bytes": b"\x00\xff",
        "set": {1, 2},
        "flags": np.array([True, False]),
        "complex": 1 + 2j,
    }
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(extra, protocol))
    oracle = pickle.loads(path.read_bytes(), encoding="latin1")  # noqa: S301 - its own bytes
    assert_same(load_pickle(path), oracle)


def test_npy_dictionary_list_and_plain_arrays(tmp_path):
    for number, value in enumerate([RAW, [1, np.ones(3)]]):
        holder = np.empty((), object)
        holder[()] = value
        np.save(tmp_path / f"{number}.npy", holder, allow_pickle=True)
        assert_same(load_npy(tmp_path / f"{number}.npy"), value)
    for number, array in enumerate(
        [np.arange(12.0).reshape(3, 4), np.asfortranarray(np.ones((2, 5), np.float32)), np.array(3)]
    ):
        np.save(tmp_path / f"p{number}.npy", array)
        assert_same(load_npy(tmp_path / f"p{number}.npy"), array)
        load_npy(tmp_path / f"p{number}.npy")[...] = 0  # writable
    ragged = np.array([np.ones(2), np.ones(3)], dtype=object)
    np.save(tmp_path / "ragged.npy", ragged, allow_pickle=True)
    assert_same(load_npy(tmp_path / "ragged.npy"), ragged)


def test_mano_pickle_with_chumpy_and_sparse_matrices_needs_neither(tmp_path, monkeypatch):
    """A file as the official one is made: `Ch` and `reordering.Select` by the names of a package that is not there."""
    chumpy, ch, reordering = (types.ModuleType(n) for n in ("chumpy", "chumpy.ch", "chumpy.reordering"))

    class Ch:
        def __init__(self, **state):
            self.__dict__.update(state)

    class Select(Ch):
        pass

    Ch.__module__, Select.__module__ = "chumpy.ch", "chumpy.reordering"
    Ch.__qualname__, Select.__qualname__ = "Ch", "Select"
    ch.Ch, reordering.Select = Ch, Select
    for module in (chumpy, ch, reordering):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    rng = np.random.default_rng(0)
    values, dense = rng.normal(size=(4, 3, 20)), (rng.random((16, 30)) > 0.8) * rng.random((16, 30))
    picks = np.arange(values.size).reshape(values.shape)[:, :, :10]
    contents = {
        "v_template": Ch(x=rng.normal(size=(5, 3)), _dirty_vars=set(), _itr=None),
        "shapedirs": Select(a=Ch(x=values), idxs=picks.ravel(), preferred_shape=(4, 3, 10)),
        "J_regressor": scipy.sparse.csc_matrix(dense),
        "rows": scipy.sparse.csr_matrix(dense),
        "list": scipy.sparse.coo_matrix(dense),
        "bs_style": "lbs",
        "kintree_table": np.array([[4294967295, 0], [0, 1]], np.uint32),
    }
    for protocol in (0, 2, 4):
        (tmp_path / "m.pkl").write_bytes(pickle.dumps(contents, protocol))
        with monkeypatch.context() as without:
            for name in ("chumpy", "chumpy.ch", "chumpy.reordering"):
                without.delitem(sys.modules, name)
            loaded = load_pickle(tmp_path / "m.pkl")
        np.testing.assert_array_equal(loaded["v_template"], contents["v_template"].x)
        np.testing.assert_array_equal(loaded["shapedirs"], values[:, :, :10])
        for name in ("J_regressor", "rows", "list"):
            np.testing.assert_array_equal(loaded[name], dense)
        np.testing.assert_array_equal(loaded["kintree_table"], contents["kintree_table"])
        assert loaded["bs_style"] == "lbs"
    old_name = (tmp_path / "m.pkl").read_bytes().replace(b"scipy.sparse._csc", b"scipy.sparse.csc\n", 1)
    assert b"scipy.sparse" in old_name


MALICIOUS = {
    "os.system": lambda flag: pickle.dumps(Call(os.system, f"touch {flag}")),
    "posix.system": lambda flag: program("posix", "system", f"touch {flag}"),
    "builtins.eval": lambda flag: pickle.dumps(Call(eval, f"open({str(flag)!r},'w')")),
    "builtins.exec": lambda flag: pickle.dumps(Call(exec, f"open({str(flag)!r},'w')")),
    "builtins.getattr": lambda flag: program("builtins", "getattr", "x", "upper"),
    "__builtin__.open": lambda flag: program("__builtin__", "open", str(flag), "w"),
    "subprocess.Popen": lambda flag: program("subprocess", "Popen", f"touch {flag}"),
    "numpy.core._multiarray_tests.npy_char_deprecation": lambda flag: program(
        "numpy.core._multiarray_tests", "npy_char_deprecation"
    ),
    "numpy.testing._private.utils.runstring": lambda flag: program(
        "numpy.testing._private.utils", "runstring", f"open({str(flag)!r},'w')"
    ),
    "numpy.load": lambda flag: program("numpy", "load", str(flag)),
    "scipy.sparse.load_npz": lambda flag: program("scipy.sparse", "load_npz", str(flag)),
    "torch.load": lambda flag: program("torch", "load", str(flag)),
    "importlib.import_module": lambda flag: program("importlib", "import_module", "antigravity"),
    "shutil.rmtree": lambda flag: program("shutil", "rmtree", str(flag)),
    "collections.OrderedDict.__class__": lambda flag: b"\x80\x04\x8c\x0bcollections\x8c\x15OrderedDict.__class__\x93.",
}


@pytest.mark.parametrize("name", MALICIOUS)
@pytest.mark.parametrize("wrap", ["bare", "nested", "object array", "npy"])
def test_malicious_pickles_are_refused_by_name_and_nothing_runs(tmp_path, name, wrap):
    flag = tmp_path / "ran"
    payload = MALICIOUS[name](flag)
    path = tmp_path / ("evil.npy" if wrap == "npy" else "evil.pkl")
    if wrap == "npy":
        payload = object_npy(payload)
    elif wrap == "nested":  # the call as a dictionary's value, after honest data
        payload = b"}V" + b"good\nI1\nsV" + b"bad\n" + payload.removesuffix(b".").removeprefix(b"\x80\x04") + b"s."
        if b"\x95" in payload:
            payload = pickle.dumps({"good": 1, "bad": Call(os.system, f"touch {flag}")})
            name = f"{os.system.__module__}.system"
    elif wrap == "object array":
        holder = np.empty(2, object)
        holder[:] = [np.ones(2), Call(os.system, f"touch {flag}")]
        payload, name = pickle.dumps(holder), f"{os.system.__module__}.system"
    path.write_bytes(payload)
    expected = name.replace("os.system", f"{os.system.__module__}.system") if name == "os.system" else name
    with pytest.raises(DataError) as caught:
        (load_npy if wrap == "npy" else load_pickle)(path)
    assert str(path) in str(caught.value) and expected in str(caught.value) and "refused" in str(caught.value)
    assert not flag.exists()


def test_reduce_chain_through_allowed_names_finds_no_way_out(tmp_path):
    """Reaching for attributes of what is admitted: classes, dtypes with hidden pointers, memo bombs, class patching."""
    path = tmp_path / "a.pkl"
    structured = np.zeros(1, [("a", "f8")])
    attempts = [
        pickle.dumps(structured),
        pickle.dumps(np.dtype("V8")),
        pickle.dumps(np.arange(3).view(np.recarray)),
        b"cnumpy\nndarray\n(VO\ntR(dVx\nI1\nsb.",
        b"cnumpy\nndarray\n(N(dVbuild\nVx\nstb.",  # BUILD on the class itself, slot state
        b"cnumpy.core.multiarray\n_reconstruct\n(cbuiltins\nlist\n(I0\ntVb\ntR.",
        b"cbuiltins\nbytearray\n(L9999999999999L\ntR.",
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # memo slot two thousand million
        b"\x80\x02\x8e\xff\xff\xff\xff\xff\x00\x00\x00.",  # 1 TB of bytes announced
        b"ccopyreg\n_reconstructor\n(cbuiltins\nlist\ncbuiltins\nobject\nNtR.",
        b"cbuiltins\nobject\n.",
        b"cnumpy\nndarray\n.",
        pickle.dumps({frozenset([1]): 2}),
    ]
    for payload in attempts:
        path.write_bytes(payload)
        with pytest.raises(DataError, match=r"a\.pkl"):
            load_pickle(path)
    path.write_bytes(pickle.dumps(RAW))
    assert_same(load_pickle(path), RAW)  # no attempt lingers


def test_extension_registry_is_no_way_in(tmp_path):
    copyreg.add_extension(os.system.__module__, "system", 200)
    try:
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(Call(os.system, "true"), protocol=2))
        with pytest.raises(DataError, match=f"{os.system.__module__}.system"):
            load_pickle(tmp_path / "a.pkl")
    finally:
        copyreg.remove_extension(os.system.__module__, "system", 200)


def test_arrays_that_lie_about_their_size(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((10, 3)))
    data = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(data.replace(b"(10, 3)", b"(9999999999999, 3)"))
    with pytest.raises(DataError, match=r"a\.npy"):
        load_npy(tmp_path / "a.npy")
    pickled = pickle.dumps(np.zeros((10, 3)), protocol=4)
    at = pickled.index(b"K\nK\x03\x86")
    (tmp_path / "a.pkl").write_bytes(pickled[:at] + b"K\xffK\x03\x86" + pickled[at + 5 :])
    with pytest.raises(DataError, match=r"a\.pkl.*240 bytes"):
        load_pickle(tmp_path / "a.pkl")


@pytest.mark.parametrize("kind", ["npy", "plain npy", "pkl", "npz"])
def test_files_cut_short_anywhere_name_themselves(tmp_path, kind):
    path = tmp_path / f"x.{kind.split()[-1]}"
    load = {"npy": load_npy, "plain npy": load_npy, "pkl": load_pickle, "npz": load_npz}[kind]
    if kind == "npy":
        np.save(path, np.array(RAW, dtype=object), allow_pickle=True)
    elif kind == "plain npy":
        np.save(path, np.arange(30.0))
    elif kind == "pkl":
        path.write_bytes(pickle.dumps(RAW))
    else:
        np.savez(path, a=np.arange(30.0), b=np.ones(3))
    whole = path.read_bytes()
    load(path)
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"x\.(npy|pkl|npz)"):
            load(path)


def test_npz_reads_arrays_and_refuses_objects(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.arange(3), b=np.ones((2, 2)))
    loaded = load_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(loaded["b"], np.ones((2, 2)))
    np.savez(tmp_path / "b.npz", a=np.array([{}], dtype=object))
    with pytest.raises(DataError, match=r"b\.npz"):
        load_npz(tmp_path / "b.npz")


def test_checkpoints(tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": {"w": torch.arange(3.0)}, "epoch": 3}, path)
    assert load_checkpoint(path)["state_dict"]["w"].tolist() == [0, 1, 2]
    whole = path.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match=r"a\.ckpt"):
            load_checkpoint(path)
    for legacy in (False, True):
        flag = tmp_path / "ran"
        torch.save({"x": Call(os.system, f"touch {flag}")}, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(CheckpointError, match=rf"a\.ckpt: refused.*{os.system.__module__}\.system"):
            load_checkpoint(path)
        assert not flag.exists()
    torch.save(torch.ones(2), path)
    with pytest.raises(CheckpointError, match="dictionary"):
        load_checkpoint(path)


@pytest.mark.parametrize("load", [load_npy, load_pickle, load_npz, load_checkpoint])
def test_missing_file_is_a_usage_error(tmp_path: Path, load):
    with pytest.raises(ConfigError, match="nothing_here"):
        load(tmp_path / "nothing_here")
