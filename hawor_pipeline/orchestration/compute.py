"""The device of a step, chosen once from those present and free, and the step's use of it.

Nothing here changes a result: without an accelerator a step runs on the CPU and records that. An accelerator that torch
cannot use, or a precision that it lacks, is an error that names the remedy.
"""

import os
import platform
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import dagster as dg
import psutil
from pydantic import Field

from hawor_pipeline.errors import ConfigError

VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
_QUERY = "index,uuid,name,memory.total,memory.free,utilization.gpu,compute_cap"
_QUERY_TIMEOUT_S = 30.0
_SAMPLE_EVERY_S = 2.0
_BF16_CAPABILITY = 8.0  # NVIDIA: Ampere and later compute in bfloat16
_BUSY_SHARE = 0.1  # of the memory in use by others: mentioned in the reason
_BYTES_PER_MB = 1e6
_BYTES_PER_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Device:
    """One NVIDIA device as the driver reports it."""

    index: int
    uuid: str
    name: str
    memory_total_mb: float
    memory_free_mb: float
    utilisation: float  # 0..1
    capability: float  # such as 8.6


@dataclass(frozen=True, slots=True)
class Compute:
    """The device of a step and the reason for it; `devices` is empty on CPU."""

    accelerator: str
    device_name: str
    why: str
    devices: tuple[Device, ...] = ()

    def as_metadata(self) -> dict[str, str | float]:
        """Return the metadata of the step."""
        shown: dict[str, str | float] = {"device": self.device_name, "device_reason": self.why}
        if self.devices:
            shown["accelerator_memory_mb"] = self.devices[0].memory_total_mb
            shown["accelerator_memory_free_mb"] = self.devices[0].memory_free_mb
        return shown

    def environment(self) -> dict[str, str]:
        """Return variables that make a process see these devices and no others."""
        return {VISIBLE_VARIABLE: ",".join(device.uuid for device in self.devices)} if self.devices else {}

    def require(self, precision: str) -> None:
        """Refuse a precision, by Lightning's name, that the device lacks; another one would change the result.

        Raises:
            ConfigError: names the precisions that work.
        """
        for device in self.devices:
            if precision.startswith("bf16") and device.capability < _BF16_CAPABILITY:
                raise ConfigError(
                    f"precision {precision} is not available on {device.name} (compute capability "
                    f"{device.capability:g}, bfloat16 needs {_BF16_CAPABILITY:g}); set precision: 16 or 32"
                )


@dataclass(slots=True)
class Usage:
    """Usage of a step: peak memory of its processes and of the accelerator, mean utilisation of the device."""

    memory_peak_mb: float = 0.0
    accelerator_memory_peak_mb: float | None = None
    utilisation: float | None = None
    _shares: list[float] = field(default_factory=list)

    def as_metadata(self) -> dict[str, float]:
        """Return the metadata of the step, without values that were not measured."""
        digits = {"memory_peak_mb": 1, "accelerator_memory_peak_mb": 1, "utilisation": 3}
        measured = {name: getattr(self, name) for name in digits}
        return {name: round(value, digits[name]) for name, value in measured.items() if value is not None}


class ComputeResource(dg.ConfigurableResource):
    """Chooses the device of every step that can use an accelerator."""

    accelerator: str = Field(default="auto", description="auto, cpu or cuda.")
    devices: int = Field(default=1, ge=1, description="How many devices a step may take; those with most free memory.")
    precision: str = Field(
        default="", description="16, bf16 or 32 for training on this deployment; empty: that of the experiment."
    )

    def resolve(self, at_least: int = 1) -> Compute:
        """Choose at least this many devices, and claim them for this process and those it starts.

        Raises:
            ConfigError: torch cannot use the NVIDIA device that is present, or a requested device is missing.
        """
        if self.accelerator not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"accelerator {self.accelerator!r} is unknown; expected auto, cpu or cuda")
        if self.accelerator == "cpu":
            return Compute("cpu", _cpu_name(), "accelerator: cpu was requested")
        present = visible(nvidia_devices(), os.environ.get(VISIBLE_VARIABLE))
        if not present:
            if self.accelerator == "cuda":
                raise ConfigError("accelerator cuda was requested, but no NVIDIA device was found; use auto or cpu")
            return Compute("cpu", _cpu_name(), "no accelerator on this machine; the same step runs on CPU")
        chosen = freest(present, max(self.devices, at_least))
        compute = Compute("cuda", " and ".join(device.name for device in chosen), _reason(chosen, present), chosen)
        os.environ.update(compute.environment())  # before torch looks for devices: it looks once
        _require_torch(chosen[0])
        return compute

    @contextmanager
    def watch(self, compute: Compute) -> Iterator[Usage]:
        """Measure while the block runs: this process, its children, and the devices."""
        usage, stop = Usage(), threading.Event()
        thread = threading.Thread(target=_sample_until, args=(stop, usage, compute), daemon=True, name="usage")
        thread.start()
        try:
            yield usage
        finally:
            stop.set()
            thread.join()


def freest(devices: Sequence[Device], count: int) -> tuple[Device, ...]:
    """Return the devices with most free memory; of equals the least busy one, then the first.

    Raises:
        ConfigError: there are fewer.
    """
    if count > len(devices):
        raise ConfigError(f"{count} devices were requested, {len(devices)} found; lower `devices` of `compute`")
    ranked = sorted(devices, key=lambda device: (-device.memory_free_mb, device.utilisation, device.index))
    return tuple(ranked[:count])


def _reason(chosen: Sequence[Device], present: Sequence[Device]) -> str:
    reason = f"most free memory of {len(present)} devices" if len(present) > 1 else "the NVIDIA device of this machine"
    used = [1 - device.memory_free_mb / device.memory_total_mb for device in chosen]
    if max(used) > _BUSY_SHARE:
        reason += f"; {max(used):.0%} of its memory is in use by other processes"
    return reason


def visible(devices: Sequence[Device], setting: str | None) -> list[Device]:
    """Select devices as `CUDA_VISIBLE_DEVICES` does: indices or prefixes of uuids, in that order."""
    if setting is None:
        return list(devices)
    found = []
    for name in filter(None, (part.strip() for part in setting.split(","))):
        match = [d for d in devices if name == str(d.index) or (len(name) > 4 and d.uuid.startswith(name))]
        if not match:
            break  # as CUDA does: what follows an unknown name is not visible
        found.append(match[0])
    return found


def nvidia_devices() -> list[Device]:
    """List devices with the driver's own tool, without loading torch; none where it is missing or finds none."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    command = [tool, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=_QUERY_TIMEOUT_S, check=False)
    return parse_devices(listed.stdout) if listed.returncode == 0 else []


def parse_devices(text: str) -> list[Device]:
    """Parse the tool's table: a line per device; memory is given in MiB."""
    devices = []
    for line in filter(str.strip, text.splitlines()):
        index, uuid, name, *memory, busy, capability = (part.strip() for part in line.split(","))
        total, free = (float(mib) * _BYTES_PER_MIB / _BYTES_PER_MB for mib in memory)
        share = float(busy) / 100 if busy.replace(".", "", 1).isdigit() else 0.0  # "[N/A]" on some devices
        devices.append(Device(int(index), uuid, name, total, free, share, float(capability)))
    return devices


def _require_torch(device: Device) -> None:
    import torch

    if torch.cuda.is_available():
        return
    build = torch.version.cuda or "none: a CPU build"
    raise ConfigError(
        f"found {device.name}, but torch {torch.__version__} cannot use it (CUDA of this build: {build}). "
        "Install a build for your driver (make setup TORCH_INDEX_URL=https://download.pytorch.org/whl/cu126), "
        "or set accelerator: cpu on the compute resource"
    )


def _cpu_name() -> str:
    return f"CPU ({platform.machine()}, {os.cpu_count()} cores)"


def _sample_until(stop: threading.Event, usage: Usage, compute: Compute) -> None:
    began, cpu_before = time.monotonic(), _processor_seconds(psutil.Process())
    used_before = {d.uuid: d.memory_total_mb - d.memory_free_mb for d in compute.devices}
    seconds, ended = cpu_before, False
    while not ended:
        ended = stop.wait(_SAMPLE_EVERY_S)
        seconds = max(seconds, _processor_seconds(psutil.Process()))
        usage.memory_peak_mb = max(usage.memory_peak_mb, _memory_mb(psutil.Process()))
        if compute.devices:
            _sample_devices(usage, used_before)
    if not compute.devices:
        elapsed = time.monotonic() - began
        usage.utilisation = min((seconds - cpu_before) / elapsed / (os.cpu_count() or 1), 1.0)
    elif usage._shares:
        usage.utilisation = sum(usage._shares) / len(usage._shares)


def _sample_devices(usage: Usage, used_before: dict[str, float]) -> None:
    mine = [device for device in nvidia_devices() if device.uuid in used_before]
    if not mine:
        return
    usage._shares.append(sum(device.utilisation for device in mine) / len(mine))
    grown = max(d.memory_total_mb - d.memory_free_mb - used_before[d.uuid] for d in mine)
    usage.accelerator_memory_peak_mb = max(usage.accelerator_memory_peak_mb or 0.0, grown)


def _family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def _memory_mb(process: psutil.Process) -> float:
    """Return the memory of a process and all it started, MB; on Linux, shared pages count once."""
    total = 0
    for member in _family(process):
        try:
            total += member.memory_full_info().pss if psutil.LINUX else member.memory_info().rss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total / _BYTES_PER_MB


def _processor_seconds(process: psutil.Process) -> float:
    """Return the processor time of a process and all it started, ended children included."""
    total = 0.0
    for member in _family(process):
        try:
            times = member.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system + getattr(times, "children_user", 0) + getattr(times, "children_system", 0)
    return total
