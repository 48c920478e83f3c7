"""Mixtures of datasets and choices of cameras: what trains is what was asked for, and each member has its numbers."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from hawor_pipeline.config import DatasetShare
from hawor_pipeline.core.metrics import mpjpe
from hawor_pipeline.errors import ConfigError
from hawor_pipeline.training.fit import TrainingPipeline
from hawor_pipeline.training.module import EnhancedHaWoRTrainer
from hawor_pipeline_tests.training.hand_shards import write_shards


@pytest.fixture(scope="module")
def mixture(hand_data, tmp_path_factory) -> list[DatasetShare]:
    """The session's shards and others of another seed, at three to one."""
    other = tmp_path_factory.mktemp("other") / "extra"
    write_shards(other, hand_data / "mano", frames=5, views=(1,), seed=9)
    return [DatasetShare(path=str(hand_data / "shards"), weight=3.0), DatasetShare(path=str(other), weight=1.0)]


def test_each_member_of_a_mixture_has_its_own_numbers(tiny, mixture, tmp_path):
    """The error of each, recomputed from the network that was validated last."""
    config = tiny(
        training_data_dir=mixture, batch_size=4, max_steps=4, val_check_interval=2, monitor="val/mpjpe_mm/extra"
    )
    _, module = TrainingPipeline(config, tmp_path).train()
    rows = pq.read_table(tmp_path / "training.parquet").to_pylist()
    last = max(row["step"] for row in rows if row["split"] == "val")
    assert last == 4
    logged = {row["metric"]: row["value"] for row in rows if row["split"] == "val" and row["step"] == last}
    trained = {row["metric"] for row in rows if row["split"] == "train"}
    assert {"mpjpe_mm/shards", "mpjpe_mm/extra", "clips/shards", "clips/extra"} <= trained
    assert {"loss/shards", "loss/extra", "pa_mpjpe_mm/extra"} <= set(logged)
    errors: dict[str, list[float]] = {"shards": [], "extra": []}
    module.eval()
    for batch in module.data.validation_loader():
        with torch.no_grad():
            error = 1000 * mpjpe(module.predict_batch(batch).joints_m, batch.target.joints_m)
        use = batch.target.valid & (batch.sample_index >= 0)
        own = batch.sample_index.amax(1) < module.data.shards.starts[1]
        for name, clips in (("shards", own), ("extra", ~own)):
            errors[name] += error[clips][use[clips]].tolist()
    for name, values in errors.items():
        assert logged[f"mpjpe_mm/{name}"] == pytest.approx(np.mean(values), rel=1e-4)
    everything = errors["shards"] + errors["extra"]
    assert logged["mpjpe_mm"] == pytest.approx(np.mean(everything), rel=1e-4)


def test_weights_are_shares_of_an_epoch(tiny, mixture):
    data = EnhancedHaWoRTrainer(tiny(training_data_dir=mixture, batch_size=1)).data
    drawn = [int(clip) for batch in data.training_loader().sampler for _, clip in batch]
    first = data.training_clips.rows[drawn, 0] < data.shards.starts[1]
    assert abs(first.mean() - 0.75) < 0.05


def test_one_dataset_has_no_numbers_besides(tiny):
    module = EnhancedHaWoRTrainer(tiny())
    assert module.data.clips_by_dataset(module.data.some_training_clips(2)) == {}


def test_only_the_chosen_cameras_train_and_validate(tiny):
    data = EnhancedHaWoRTrainer(tiny(data_filtering={"views": [0]})).data
    views = data.shards.table.column("view").to_numpy()
    every = EnhancedHaWoRTrainer(tiny()).data
    pairs = ((data.training_clips, every.training_clips), (data.validation_clips, every.validation_clips))
    for clips, all_clips in pairs:
        assert set(views[clips.rows[:, 0]]) == {0}
        assert len(clips) == (views[all_clips.rows[:, 0]] == 0).sum() > 0
    with pytest.raises(ConfigError, match=r"nothing to train on .*views \[7\]"):
        EnhancedHaWoRTrainer(tiny(data_filtering={"views": [7]}))
