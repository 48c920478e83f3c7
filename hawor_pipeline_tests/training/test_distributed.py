"""Several processes on one machine train what one process trains."""

import json

import pyarrow.parquet as pq
import pytest
import torch

from hawor_pipeline.errors import ConfigError
from hawor_pipeline.training.launch import processes_of, train
from hawor_pipeline.untrusted.safe_load import load_checkpoint
from hawor_pipeline_tests.training.conftest import tiny_config

# Sums of float32 gradients in another order: the relative difference after a few steps.
TOLERANCE = 1e-3


def test_a_process_per_device(tiny):
    assert processes_of(tiny()) == 1
    assert processes_of(tiny(devices=2)) == 2
    assert processes_of(tiny(devices=[0, 3, 5])) == 3


def test_gpus_by_number_are_refused_on_a_cpu(tiny):
    with pytest.raises(ConfigError, match=r"found devices \[0\], expected a number of processes or auto"):
        train(tiny(devices=[0], accelerator="cpu"))


@pytest.mark.slow
@pytest.mark.parametrize("weighting", ["static", "ema"])
def test_two_processes_give_the_metrics_of_one(hand_data, tmp_path, weighting):
    """Two clips in each of two processes against four in one; without batch statistics, which stay per process."""
    results = {}
    for name, changes in (("one", {"batch_size": 4}), ("two", {"batch_size": 2, "devices": 2})):
        config = tiny_config(
            hand_data, max_steps=4, patch_embed="patch16", loss_weighting=weighting, ema_decay=0.5, num_threads=1,
            output_dir=str(tmp_path / name), val_check_interval=2, **changes,
        )  # fmt: skip
        result, code = train(config)
        assert code == 0
        results[name] = result.path
    tables = {name: pq.read_table(path / "training.parquet").to_pylist() for name, path in results.items()}
    curves = {
        name: {(row["step"], row["metric"]): row["value"] for row in rows if row["split"] == "val"}
        for name, rows in tables.items()
    }
    assert curves["one"].keys() == curves["two"].keys()
    assert {step for step, _ in curves["one"]} == {2, 4}
    for key, value in curves["one"].items():
        assert curves["two"][key] == pytest.approx(value, rel=TOLERANCE), key
    weights = {
        name: load_checkpoint(path / "checkpoints" / "last.ckpt")["state_dict"] for name, path in results.items()
    }
    for name, value in weights["one"].items():
        if value.is_floating_point():
            torch.testing.assert_close(weights["two"][name], value, atol=5e-4, rtol=TOLERANCE, msg=name)
    start = json.loads((results["two"] / "progress.jsonl").read_text().splitlines()[0])
    assert start["frames_per_step"] == 2 * 2 * 3
