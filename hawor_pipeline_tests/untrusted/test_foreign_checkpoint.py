"""Checkpoints as others wrote them: the tensors come out, nothing in the file is run."""

import argparse
import collections
import os
import pathlib
import sys
import types

import numpy as np
import pytest
import torch

from hawor_pipeline.errors import CheckpointError, ConfigError
from hawor_pipeline.untrusted.foreign_checkpoint import load_foreign_checkpoint

WEIGHTS = {"layer.weight": torch.arange(6.0).view(2, 3), "count": torch.tensor(3)}


@pytest.fixture
def configuration(monkeypatch):
    """An object of a configuration library that is gone again when the file is read."""
    module = types.ModuleType("yacs.config")

    class CfgNode(dict):
        pass

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    module.CfgNode = CfgNode
    monkeypatch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
    monkeypatch.setitem(sys.modules, "yacs.config", module)
    node = CfgNode(MODEL=CfgNode(IMAGE_SIZE=256))
    node.frozen = True
    yield node
    assert CfgNode.__name__ == "CfgNode"


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_beside_other_objects(configuration, tmp_path, monkeypatch, zipped):
    beside = {
        "hyper_parameters": {"cfg": configuration},
        "callbacks": {"best": np.float64(1.5), "dirpath": pathlib.PurePosixPath("/x"), "names": {"a", "b"}},
        "args": argparse.Namespace(lr=1.0),
        "counts": collections.Counter("aab"),
        "array": np.arange(3),
        "epoch": 7,
    }
    state = collections.OrderedDict(WEIGHTS, trained=torch.nn.Parameter(torch.ones(2)))
    path = tmp_path / "released.ckpt"
    torch.save({"state_dict": state, **beside}, path, _use_new_zipfile_serialization=zipped)
    monkeypatch.delitem(sys.modules, "yacs.config")
    loaded = load_foreign_checkpoint(path)
    assert "yacs.config" not in sys.modules
    assert loaded["epoch"] == 7
    assert list(loaded["state_dict"]) == [*WEIGHTS, "trained"]
    for name, value in state.items():
        assert torch.equal(loaded["state_dict"][name], value)
        assert type(loaded["state_dict"][name]) is torch.Tensor or name == "trained"
    assert loaded["hyper_parameters"]["cfg"] == {}


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.system, eval, getattr, torch.load, torch.hub.load])
def test_a_program_is_refused_by_name_and_not_run(tmp_path, function, configuration):
    path = tmp_path / "evil.ckpt"
    victim = tmp_path / "touched"
    torch.save({"state_dict": WEIGHTS, "cfg": configuration, "x": Call(function, f"touch {victim}")}, path)
    with pytest.raises(CheckpointError, match=rf"refused, it asks for \S*{function.__name__}"):
        load_foreign_checkpoint(path)
    assert not victim.exists()


def test_a_script_module_is_not_loaded(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "script.pt")
    with pytest.raises(CheckpointError):
        load_foreign_checkpoint(tmp_path / "script.pt")


def test_damaged_and_absent(tmp_path, configuration):
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": WEIGHTS, "cfg": configuration}, path)
    data = path.read_bytes()
    for cut in (0, 20, len(data) // 2, len(data) - 30):
        path.write_bytes(data[:cut])
        with pytest.raises(CheckpointError):
            load_foreign_checkpoint(path)
    with pytest.raises(ConfigError):
        load_foreign_checkpoint(tmp_path / "absent.ckpt")
    torch.save([configuration], path)
    with pytest.raises(CheckpointError, match="holds no dictionary"):
        load_foreign_checkpoint(path)
