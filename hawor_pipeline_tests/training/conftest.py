"""Made-up shards and a tiny configuration for quick training runs."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from hawor_pipeline.config import TrainingConfig
from hawor_pipeline_tests.training.hand_shards import write_mano, write_shards


@pytest.fixture(scope="session")
def hand_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `mano` and `shards` (s01 trains, s05 validates)."""
    root = tmp_path_factory.mktemp("hand_data")
    write_shards(root / "shards", write_mano(root / "mano"))
    return root


def tiny_config(hand_data: Path, **changes: Any) -> TrainingConfig:
    """A tiny network on made-up shards; four steps are an epoch."""
    values: dict[str, Any] = {
        "image_size": 64,
        "backbone_size": "tiny",
        "st_hdim": 32,
        "motion_hdim": 32,
        "st_nlayer": 1,
        "motion_nlayer": 1,
        "clip_length": 3,
        "clip_stride": 3,
        "batch_size": 2,
        "max_steps": 10,
        "learning_rate": 1e-3,
        "warmup_epochs": 0.5,
        "num_workers": 0,
        "num_threads": 1,
        "use_tensorboard": False,
        "early_stopping_patience": 0,
        "log_every_n_steps": 1,
        "accelerator": "cpu",
        "training_data_dir": str(hand_data / "shards"),
        "mano_model_path": str(hand_data / "mano"),
    }
    return TrainingConfig(**{**values, **changes})


@pytest.fixture
def tiny(hand_data: Path) -> Callable[..., TrainingConfig]:
    """Makes such configurations."""
    return functools.partial(tiny_config, hand_data)
