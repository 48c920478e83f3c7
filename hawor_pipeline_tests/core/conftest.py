"""A random hand model in MANO's file format: no anatomy, but every array, so that arithmetic can be compared."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hawor_pipeline.core.mano import ManoLayer
from hawor_pipeline.core.skeleton import MANO_PARENTS
from hawor_pipeline.untrusted.mano_files import load_mano

torch.set_num_threads(1)  # small tensors: a second thread only waits


def random_mano(seed: int) -> dict[str, Any]:
    """Return arrays under MANO's own names."""
    rng = np.random.default_rng(seed)
    regressor = rng.random((16, 778)) * (rng.random((16, 778)) < 0.02)
    weights = rng.random((778, 16)) ** 8
    parents = np.array([2**32 - 1, *MANO_PARENTS[1:]], np.uint32)
    return {
        "v_template": rng.normal(0, 0.05, (778, 3)),
        "f": np.array([(i, i + k, i + k + 1) for k in (1, 2) for i in range(769)], np.uint32),  # a strip, twice folded
        "shapedirs": rng.normal(0, 0.003, (778, 3, 10)),
        "posedirs": rng.normal(0, 0.001, (778, 3, 135)),
        "J_regressor": regressor / regressor.sum(1, keepdims=True),
        "weights": weights / weights.sum(1, keepdims=True),
        "kintree_table": np.stack([parents, np.arange(16, dtype=np.uint32)]),
        "hands_mean": rng.normal(0, 0.3, 45),
        "hands_components": np.eye(45),
        "hands_coeffs": np.zeros((2, 45)),
    }


@pytest.fixture(scope="session")
def mano_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with MANO_RIGHT.npz and MANO_LEFT.npz of random hands."""
    folder = tmp_path_factory.mktemp("random_hand") / "mano"
    folder.mkdir()
    for seed, side in enumerate(("RIGHT", "LEFT")):
        np.savez(folder / f"MANO_{side}.npz", **random_mano(seed))
    return folder


@pytest.fixture(scope="session")
def mano_layer(mano_dir: Path) -> ManoLayer:
    """Return the right random hand as a layer."""
    return ManoLayer(load_mano(mano_dir, "right"))


@pytest.fixture
def unhooked(request: pytest.FixtureRequest) -> None:
    """Skip a test that passes wrong types on purpose where the hook would refuse them first."""
    if request.config.getoption("--jaxtyping-packages", None):
        pytest.skip("the shape hook refuses these arguments before the function sees them")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
