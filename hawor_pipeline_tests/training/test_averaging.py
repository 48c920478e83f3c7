"""The average of the weights: what it is and who uses it (`test_resume` shows that interruptions change nothing)."""

import lightning.pytorch as pl
import pytest
import torch

from hawor_pipeline.models.checkpoints import load_hawor
from hawor_pipeline.models.hawor import with_mano
from hawor_pipeline.training import fit
from hawor_pipeline.training.averaging import AVERAGE_KEY, RAW_KEY, split_weights
from hawor_pipeline.training.fit import TrainingPipeline
from hawor_pipeline.training.module import EnhancedHaWoRTrainer
from hawor_pipeline.untrusted.safe_load import load_checkpoint

DECAY = 0.6
NAME = "mano_head.pose_output.weight"


@pytest.fixture
def raw_weights(monkeypatch) -> list[torch.Tensor]:
    """One weight after each optimiser step of the runs that follow."""
    seen: list[torch.Tensor] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append(pl_module.model.get_parameter(NAME).detach().double().clone())

    build = fit.build_trainer
    monkeypatch.setattr(fit, "build_trainer", lambda config, folder, calls: build(config, folder, [Watch(), *calls]))
    return seen


def test_a_checkpoint_holds_the_average_of_all_steps(tiny, tmp_path, raw_weights):
    """Recomputed in double from the weights after each step; the first steps weigh less, as documented."""
    TrainingPipeline(tiny(max_steps=6, ema_decay=DECAY), tmp_path).train()
    expected = raw_weights[0]
    for count, raw in enumerate(raw_weights[1:], 1):
        decay = min(DECAY, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * raw
    saved = load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    torch.testing.assert_close(saved["state_dict"][f"model.{NAME}"].double(), expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(saved[RAW_KEY][f"model.{NAME}"].double(), raw_weights[-1], atol=0, rtol=0)
    assert not torch.allclose(expected, raw_weights[-1], atol=1e-5)


def test_validation_and_whoever_loads_the_checkpoint_use_the_average(tiny, tmp_path):
    _, module = TrainingPipeline(tiny(max_steps=8, ema_decay=DECAY), tmp_path).train()
    saved = load_checkpoint(tmp_path / "checkpoints" / "best.ckpt")
    model = load_hawor(tmp_path / "checkpoints" / "best.ckpt")
    errors = []
    for batch in module.data.validation_loader():
        with torch.no_grad():
            prediction = with_mano(model, module.mano, batch)
        root = prediction.joints_m[..., :1, :] - batch.target.joints_m[..., :1, :]
        errors += (
            (prediction.joints_m - root - batch.target.joints_m).norm(dim=-1).mean(-1)[batch.sample_index >= 0].tolist()
        )
    keeper = saved["callbacks"]["CheckpointKeeper"]
    assert keeper["best"][0][0] == pytest.approx(1000 * sum(errors) / len(errors), rel=1e-4)
    last = load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    for name, value in module.model.state_dict().items():  # and so does whoever trained it
        assert torch.equal(value, last["state_dict"][f"model.{name}"]), name


def test_without_an_average_a_checkpoint_is_taken_as_it_is():
    checkpoint = {"state_dict": {"model.a": torch.ones(1)}}
    split_weights(checkpoint)
    assert AVERAGE_KEY not in checkpoint
    assert torch.equal(checkpoint["state_dict"]["model.a"], torch.ones(1))


def test_going_on_without_averaging_takes_up_the_raw_weights(tiny, tmp_path):
    TrainingPipeline(tiny(max_steps=4, ema_decay=DECAY), tmp_path).train()
    saved = load_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    module = EnhancedHaWoRTrainer(tiny())
    module.on_load_checkpoint(saved)
    module.load_state_dict(saved["state_dict"], strict=False)
    assert torch.equal(module.model.get_parameter(NAME), saved[RAW_KEY][f"model.{NAME}"])
