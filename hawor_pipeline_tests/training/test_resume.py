"""Interrupted runs go on as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from hawor_pipeline.config import dump_config
from hawor_pipeline.core.safe_load import load_checkpoint
from hawor_pipeline.errors import CheckpointError
from hawor_pipeline.training.fit import TrainingPipeline

STEPS = 10  # in epochs of 4


def _train(config, folder, stop_after: int | None = None):
    """Train; with `stop_after` a SIGTERM arrives when that step is reported."""

    def interrupt(line):
        if line["kind"] == "step" and line["step"] == stop_after:
            os.kill(os.getpid(), signal.SIGTERM)

    pipeline = TrainingPipeline(config, folder, on_progress=interrupt)
    _, module = pipeline.train()
    return pipeline, {name: value.clone() for name, value in module.state_dict().items()}


def _curve(folder: Path, split: str, metric: str) -> dict[int, float]:
    rows = pq.read_table(folder / "training.parquet").to_pylist()
    found = [(row["step"], row["value"]) for row in rows if (row["split"], row["metric"]) == (split, metric)]
    assert len(found) == len({step for step, _ in found}), "a step is logged twice"
    return dict(found)


@pytest.mark.parametrize("stop_after", [4, 6])
def test_resumed_run_is_bit_identical(tiny, tmp_path, stop_after):
    """In the middle of an epoch, and at its very end."""
    config = tiny(max_steps=STEPS)
    _, whole = _train(config, tmp_path / "whole")
    first, halfway = _train(config, tmp_path / "parts", stop_after)
    assert first.stopped_by == signal.SIGTERM
    assert json.loads((tmp_path / "parts" / "result.json").read_text())["status"] == "interrupted"
    assert any(not torch.equal(whole[name], halfway[name]) for name in whole)
    second, resumed = _train(config, tmp_path / "parts")
    assert second.stopped_by is None
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    assert _curve(tmp_path / "whole", "train", "loss") == _curve(tmp_path / "parts", "train", "loss")
    assert set(_curve(tmp_path / "parts", "train", "loss")) == set(range(1, STEPS + 1))


def test_killed_process_goes_on_from_its_last_checkpoint(tiny, tmp_path):
    config = tiny(max_steps=16, save_every_n_steps=2)
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    run = tmp_path / "run"
    command = [sys.executable, "-m", "hawor_pipeline.training.fit", "--config", str(path), "--run-dir", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if json.loads(line).get("step", 0) >= 5:
            process.kill()
            break
    process.wait()
    process.stdout.close()
    saved = load_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"]
    assert saved >= 2
    steps = []
    pipeline = TrainingPipeline(config, run, on_progress=lambda line: steps.append(line["step"]))
    trainer, _ = pipeline.train()
    assert steps[0] == saved
    assert trainer.global_step == 16
    assert set(_curve(run, "train", "loss")) == set(range(1, 17))


def test_a_damaged_checkpoint_is_refused(tiny, tmp_path):
    config = tiny(max_steps=2)
    _train(config, tmp_path)
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        TrainingPipeline(config, tmp_path).train()


def test_a_checkpoint_of_another_network_is_refused(tiny, tmp_path):
    _train(tiny(max_steps=2), tmp_path)
    with pytest.raises(CheckpointError, match="st_hdim"):
        TrainingPipeline(tiny(max_steps=3, st_hdim=64), tmp_path).train()
