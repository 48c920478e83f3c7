"""Selection and measurement of devices, and rejected settings; a script replaces the driver's tool."""

import os
import stat
import time
from pathlib import Path

import numpy as np
import pytest

from hawor_pipeline.errors import ConfigError
from hawor_pipeline.orchestration.compute import (
    VISIBLE_VARIABLE,
    Compute,
    ComputeResource,
    Device,
    freest,
    nvidia_devices,
    parse_devices,
    visible,
)

TABLE = """0, GPU-aaaa1111, NVIDIA A100-SXM4-80GB, 81920, 2048, 97, 8.0
1, GPU-bbbb2222, NVIDIA A100-SXM4-80GB, 81920, 80000, 0, 8.0
2, GPU-cccc3333, Tesla V100-SXM2-32GB, 32768, 32000, [N/A], 7.0
"""


def _device(index: int, free: float, busy: float = 0.0, capability: float = 9.0) -> Device:
    return Device(index, f"GPU-{index:08d}", f"device {index}", 80_000.0, free, busy, capability)


def test_the_drivers_table_is_read():
    devices = parse_devices(TABLE)
    assert [device.name for device in devices] == ["NVIDIA A100-SXM4-80GB"] * 2 + ["Tesla V100-SXM2-32GB"]
    assert devices[0].memory_total_mb == pytest.approx(81920 * 2**20 / 1e6)
    assert [device.utilisation for device in devices] == [0.97, 0.0, 0.0]
    assert [device.capability for device in devices] == [8.0, 8.0, 7.0]


def test_the_device_with_most_free_memory_is_taken_and_of_equals_the_idle_one():
    assert [d.index for d in freest([_device(0, 10), _device(1, 70), _device(2, 40)], 2)] == [1, 2]
    assert freest([_device(0, 70, busy=0.9), _device(1, 70)], 1)[0].index == 1
    with pytest.raises(ConfigError, match="4 devices were requested, 1 found"):
        freest([_device(0, 10)], 4)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [(None, [0, 1, 2]), ("1", [1]), ("2,0", [2, 0]), ("GPU-bbbb", [1]), ("", []), ("0,9,1", [0])],
)
def test_hidden_devices_are_not_chosen(setting, expected):
    assert [device.index for device in visible(parse_devices(TABLE), setting)] == expected


def test_a_precision_that_the_device_lacks_is_refused_not_replaced():
    old, new = Compute("cuda", "old", "", (_device(0, 1, capability=7.0),)), Compute("cuda", "n", "", (_device(0, 1),))
    new.require("bf16-mixed")
    old.require("16-mixed")
    Compute("cpu", "CPU", "").require("bf16-mixed")
    with pytest.raises(ConfigError, match="set precision: 16 or 32"):
        old.require("bf16-mixed")


def _driver(folder: Path, monkeypatch, text: str) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_a_device_that_torch_cannot_use_is_an_error_with_the_way_out(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a device that torch can use")
    monkeypatch.setenv(VISIBLE_VARIABLE, "0,1,2")
    _driver(tmp_path, monkeypatch, TABLE)
    assert len(nvidia_devices()) == 3
    with pytest.raises(ConfigError, match=r"torch .* cannot use it .* accelerator: cpu"):
        ComputeResource().resolve()
    assert os.environ[VISIBLE_VARIABLE] == "GPU-bbbb2222"  # the freest one was claimed before torch looked
    assert ComputeResource(accelerator="cpu").resolve().devices == ()


def test_without_a_device_a_step_runs_on_the_cpu_and_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    compute = ComputeResource().resolve()
    assert compute.accelerator == "cpu"
    assert "no accelerator" in compute.as_metadata()["device_reason"]
    assert compute.environment() == {}
    with pytest.raises(ConfigError, match="no NVIDIA device"):
        ComputeResource(accelerator="cuda").resolve()
    with pytest.raises(ConfigError, match="unknown"):
        ComputeResource(accelerator="tpu").resolve()


def test_usage_is_measured():
    compute = Compute("cpu", "CPU", "")
    with ComputeResource().watch(compute) as usage:
        block = np.ones(40_000_000)  # 320 MB
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            block += 1.0
    shown = usage.as_metadata()
    assert shown["memory_peak_mb"] > 320
    assert 0 < shown["utilisation"] <= 1
    assert "accelerator_memory_peak_mb" not in shown
