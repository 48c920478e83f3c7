"""Truth of the smallest sample, its hand models, and a checkpoint with random weights."""

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from hawor_pipeline.config import TrainingConfig
from hawor_pipeline.evaluation.evaluator import tracks_of
from hawor_pipeline.evaluation.hands import HandModels, HandTruth, read_truth
from hawor_pipeline.evaluation.recordings import sequences
from hawor_pipeline.evaluation.tracks import Tracks
from hawor_pipeline.models.hawor import build_model
from hawor_pipeline_tests.evaluation.analyst import Analysed, analyse


@pytest.fixture(scope="session")
def mano_dir(sample_root: Path) -> Path:
    return sample_root / "body_models" / "mano"


@pytest.fixture(scope="session")
def models(mano_dir: Path) -> HandModels:
    return HandModels.load(mano_dir)


@pytest.fixture(scope="session")
def annotations(sample_shards: Path) -> pa.Table:
    """One recording of s05: both hands, the ego view and two static ones."""
    return next(sequences(sample_shards, ["s05"]))


@pytest.fixture(scope="session")
def truth(annotations: pa.Table) -> HandTruth:
    return read_truth(annotations)


@pytest.fixture(scope="session")
def tracks(annotations: pa.Table) -> Tracks:
    return tracks_of(annotations)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    sizes = {"st_hdim": 32, "st_nlayer": 1, "motion_hdim": 32, "motion_nlayer": 1}
    model = build_model(TrainingConfig(backbone_size="tiny", image_size=64, **sizes))
    path = tmp_path_factory.mktemp("checkpoint") / "random.ckpt"
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    parameters = {"config": {"clip_length": 3}}
    torch.save({"state_dict": state, "network": model.network.to_dict(), "hyper_parameters": parameters}, path)
    return path


@pytest.fixture(scope="session")
def analysed(
    checkpoint: Path, sample_shards: Path, mano_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Analysed:
    """A checkpoint with random weights, evaluated in all ways. Do not change its folder."""
    return analyse(tmp_path_factory.mktemp("analysed"), checkpoint, sample_shards, mano_dir)
