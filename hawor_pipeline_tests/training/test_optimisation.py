"""The learning rate: warm-up, and a plateau that is torch's own."""

import json

import pyarrow.parquet as pq
import pytest
import torch

from hawor_pipeline.training.fit import TrainingPipeline
from hawor_pipeline.training.optimisation import Plateau


def test_the_plateau_is_that_of_torch_and_survives_a_checkpoint(tiny):
    config = tiny(scheduler="plateau", plateau_patience=1, plateau_factor=0.3, min_lr=5e-5, learning_rate=1e-3)
    values = [5.0, 4.0, 4.5, 4.6, 4.7, float("nan"), 3.0, 3.5, 3.6, 3.7, 3.8, 3.9, 3.9, 3.9]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1e-3)
    truth = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1, factor=0.3, min_lr=5e-5)
    plateau = Plateau(config)
    for value in values:
        resumed = Plateau(config)
        resumed.load_state_dict(plateau.state_dict())
        plateau = resumed
        plateau.observe(value)
        if value == value:
            truth.step(value)
        assert 1e-3 * plateau.factor == pytest.approx(optimizer.param_groups[0]["lr"])
    assert plateau.factor == pytest.approx(0.05)


def test_the_rate_warms_up_and_falls_on_a_plateau(tiny, tmp_path, monkeypatch):
    """A validation that never gets better; every validation after the first is one too many."""
    monkeypatch.setattr(Plateau, "observe", lambda self, value, keep=Plateau.observe: keep(self, 7.0))
    config = tiny(max_steps=10, scheduler="plateau", plateau_patience=0, plateau_factor=0.5, warmup_epochs=0.5)
    TrainingPipeline(config, tmp_path).train()
    rows = pq.read_table(tmp_path / "training.parquet").to_pylist()
    rates = {row["step"]: row["value"] for row in rows if row["metric"] == "learning_rate"}
    used = [rates[step] / 1e-3 for step in range(1, 11)]  # logged after the step, so of the step that follows
    assert used[0] == pytest.approx(2 / 3) and used[1:4] == [1.0] * 3
    assert used[4:8] == [1.0] * 4 and used[8:] == [0.5] * 2  # epochs of four: the second validation is no better


def test_early_stopping_counts_validations_without_improvement(tiny, tmp_path):
    """No improvement is large enough: the first validation sets the mark, the second and third miss it."""
    config = tiny(max_steps=40, val_check_interval=2, early_stopping_patience=2, early_stopping_min_delta=1e9)
    TrainingPipeline(config, tmp_path).train()
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["status"], result["ended_by"], result["step"]) == ("completed", "early_stopping", 6)
    rows = pq.read_table(tmp_path / "training.parquet").to_pylist()
    assert {row["step"] for row in rows if row["split"] == "val"} == {2, 4, 6}
