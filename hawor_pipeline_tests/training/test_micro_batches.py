"""A batch computed in parts is the same optimiser step, and a run may change the number of parts when it goes on."""

import os
import signal
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from hawor_pipeline.errors import ConfigError
from hawor_pipeline.loading.datamodule import ClipSampler
from hawor_pipeline.training.fit import TrainingPipeline
from hawor_pipeline.training.memory import is_memory_shortage
from hawor_pipeline.training.module import EnhancedHaWoRTrainer
from hawor_pipeline.training.runs import run_key


def test_parts_of_a_batch_are_its_clips():
    groups = [np.arange(50)]
    whole, parts = ClipSampler(groups, None, 8, seed=3), ClipSampler(groups, None, 8, seed=3, parts=4)
    assert (len(whole), len(parts)) == (6, 24)
    pieces = list(parts)
    for number, batch in enumerate(whole):
        assert [clip for piece in pieces[4 * number : 4 * number + 4] for clip in piece] == batch
    parts.first_batch = 20
    assert list(parts) == pieces[20:]


def test_parts_must_be_equal_and_not_more_than_clips(tiny):
    with pytest.raises(ConfigError, match="micro_batches 3 must divide batch_size 8"):
        tiny().changed(batch_size=8, micro_batches=3)
    with pytest.raises(ConfigError, match="lower micro_batches"):
        ClipSampler([np.arange(2)], None, 8, seed=0, parts=4)


def test_the_number_of_parts_is_a_matter_of_the_machine(tiny):
    assert run_key(tiny(batch_size=4), "v") == run_key(tiny(batch_size=4, micro_batches=2), "v")


def _train(config, folder, stop_after=None):
    def interrupt(line):
        if line["kind"] == "step" and line["step"] == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)

    _, module = TrainingPipeline(config, folder, on_progress=interrupt).train()
    return {name: value.clone() for name, value in module.model.state_dict().items()}


def _steps(folder):
    rows = pq.read_table(folder / "training.parquet").to_pylist()
    return sorted(row["step"] for row in rows if (row["split"], row["metric"]) == ("train", "loss"))


def test_a_run_whose_parts_change_ends_where_the_whole_one_ends(tiny, tmp_path):
    """Gradient descent on terms that weigh all frames alike, without augmentation: only rounding may differ."""
    same = {
        "max_steps": 6,
        "optimizer": "sgd",
        "learning_rate": 0.05,
        "use_adaptive_weights": False,
        "use_augmentation": False,
        "patch_embed": "patch16",  # the convolutional stem normalises over the batch, which parts make smaller
        "loss_weights": dict.fromkeys(("KEYPOINTS_2D", "TEMPORAL_CONSISTENCY", "OCCLUSION_ROBUSTNESS"), 0.0),
        "val_check_interval": 2,
    }
    whole = _train(tiny(**same), tmp_path / "whole")
    parts = _train(tiny(**same, micro_batches=2), tmp_path / "parts")
    _train(tiny(**same), tmp_path / "changed", stop_after=3)
    changed = _train(tiny(**same, micro_batches=2), tmp_path / "changed")
    for name, value in whole.items():
        assert torch.allclose(value, parts[name], rtol=1e-3, atol=2e-5), name
        assert torch.allclose(value, changed[name], rtol=1e-3, atol=2e-5), name
    assert _steps(tmp_path / "changed") == _steps(tmp_path / "whole") == list(range(1, 7))


@pytest.mark.parametrize(
    ("world_before", "parts_before", "world", "parts", "expected"),
    [(1, 1, 4, 1, 10), (4, 1, 1, 1, 160), (1, 2, 1, 1, 20), (2, 2, 3, 4, 52), (2, 1, 2, 1, 40), (1, 1, 3, 1, 13)],
)
def test_a_run_goes_on_with_other_devices_where_its_clips_stand(
    tiny, monkeypatch, world_before, parts_before, world, parts, expected
):
    """Batches of 8 clips per device: after 40 positions as many clips of the epoch are behind as before."""
    module = EnhancedHaWoRTrainer(tiny(batch_size=8, micro_batches=parts))
    monkeypatch.setattr(module, "_trainer", SimpleNamespace(world_size=world))
    counts = {"ready": 40, "completed": 40}
    loops = {"fit_loop": {"epoch_loop.batch_progress": {"total": dict(counts), "current": dict(counts)}}}
    position = {"epoch": 2, "batch": 40, "micro_batches": parts_before, "clips": 8 * world_before}
    module._restate_position({"position": position, "loops": loops})
    assert position["batch"] == expected
    assert set(loops["fit_loop"]["epoch_loop.batch_progress"]["current"].values()) == {expected}
    seen = 40 / parts_before * 8 * world_before
    assert 0 <= seen - expected / parts * 8 * world < 8 * world


def test_lack_of_memory_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as shortage:
        torch.empty(2**55)
    assert is_memory_shortage(shortage.value)
    assert is_memory_shortage(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_memory_shortage(RuntimeError("shape mismatch"))
