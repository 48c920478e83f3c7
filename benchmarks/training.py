"""One training step of the network against a straightforward implementation of the same network.

The reference is the plain network of the tests: attention with an explicit matrix of weights, without recomputation or
fused operations; outputs and gradients are compared before the timing. On the CPU, in float32, the width is that of the
released network and the depth is reduced. CPU time is processor time of all threads, which other load on a shared
machine hardly affects; memory is everything that a process holds for a step: weights, gradients and activations. With a
CUDA device both networks have full size and bf16, and ours is compiled.
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: waiting threads must not count as work

import torch
from _measure import Row, from_rounds, run

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the twin is part of the tests, which are not installed

from hawor_pipeline.models.hawor import HaworModel, NetworkConfig
from hawor_pipeline.models.released_names import our_name, to_ours
from hawor_pipeline_tests.models.plain_hawor import PlainHawor, PlainSizes, randomise

FRAMES = 16
GOALS = {"train_cpu": 1.0, "train_cpu_memory": 0.6, "train_gpu": 1.5, "train_gpu_mfu": 0.45}
DROP_PATH = 0.55  # largest rate of stochastic depth in the released network


@dataclass(frozen=True)
class Case:
    """Size of the network and of a batch."""

    depth: int
    layers: int  # of each temporal module and of the head
    clips: int

    def plain(self) -> PlainHawor:
        """Create the straightforward network, with weights that all have an effect."""
        layers = self.layers
        torch.manual_seed(0)
        sizes = PlainSizes(depth=self.depth, head_depth=layers, st=(512, layers), motion=(384, layers))
        with torch.no_grad():
            return randomise(PlainHawor(sizes), spread=0.5)

    def ours(self, drop_path: float = 0.0) -> HaworModel:
        """Create our network of the same size."""
        layers = self.layers
        network = replace(
            NetworkConfig(), depth=self.depth, drop_path=drop_path, head_depth=layers, st_nlayer=layers,
            motion_nlayer=layers,
        )  # fmt: skip
        return HaworModel(network)

    def inputs(self, device: str = "cpu") -> dict[str, torch.Tensor]:
        """Create a batch of noise with boxes and cameras."""
        torch.manual_seed(1)
        shape = (self.clips, FRAMES)
        batch = {
            "images": torch.randn(*shape, 3, 256, 256),
            "box_center_px": torch.rand(*shape, 2) * 800,
            "box_size_px": 100 + 100 * torch.rand(shape),
            "focal_px": torch.full(shape, 900.0),
            "principal_point_px": torch.full((*shape, 2), 400.0),
        }
        return {name: value.to(device) for name, value in batch.items()}


TIME_CASE, QUICK_TIME_CASE = Case(depth=4, layers=1, clips=2), Case(depth=2, layers=1, clips=1)
MEMORY_CASE = Case(depth=4, layers=1, clips=4)
# Freed memory is returned at once, so that the measurement contains the needs of the step, not the allocator's cache.
MEMORY_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20), "MALLOC_TRIM_THRESHOLD_": str(1 << 20)}


def outputs(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Return the results of either network in one order."""
    result = model(**batch)
    if isinstance(result, tuple):
        return result
    return result.rotmats, result.betas, result.camera, result.translation_m


def step(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> None:
    """Run forward and backward."""
    model.zero_grad(set_to_none=True)
    rotmats, betas, camera, translation = outputs(model, batch)
    (rotmats[..., 0].sum() + betas.sum() + camera.sum() + 0.01 * translation.sum()).backward()


def check_equal(case: Case) -> None:
    """Check that both networks give the same results and gradients under the same weights.

    Raises:
        AssertionError: results or gradients differ.
    """
    small = replace(case, clips=1)
    plain, ours, batch = small.plain(), small.ours(), small.inputs()
    ours.load_state_dict({k: v for k, v in to_ours(plain.state_dict()).items() if k != "initialized"})
    ours.eval(), plain.eval()  # no dropout
    for left, right in zip(outputs(ours, batch), outputs(plain, batch), strict=True):
        torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-4)
    step(ours, batch), step(plain, batch)
    gradients = {name: p.grad for name, p in ours.named_parameters()}
    for name, parameter in plain.named_parameters():
        bound = 1e-3 * float(parameter.grad.abs().max()) + 1e-6
        torch.testing.assert_close(gradients[our_name(name)], parameter.grad, atol=bound, rtol=0, msg=name)


def peak_megabytes(which: str, case: Case) -> float:
    """Return the memory of one training step in a separate process."""
    command = [sys.executable, __file__, "--one", which, str(case.depth), str(case.layers), str(case.clips)]
    environment = {**os.environ, **MEMORY_ENVIRONMENT}
    return float(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)


def _one(which: str, case: Case) -> None:
    """Run the child process of `peak_megabytes`."""
    torch.ones(4, 4) @ torch.ones(4, 4)  # the first product allocates memory that does not belong to the network
    before = _peak_kilobytes()
    model = (case.plain() if which == "plain" else case.ours()).train()
    step(model, case.inputs())
    print((_peak_kilobytes() - before) / 1024)


def _peak_kilobytes() -> int:
    """Return the peak memory of this process (`getrusage` would start with the value of the parent)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


def seconds(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> float:
    """Return the time of one step."""
    if not batch["images"].is_cuda:
        began = time.process_time()
        step(model, batch)
        return time.process_time() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    step(model, batch)
    torch.cuda.synchronize()
    return time.perf_counter() - began


def measure_cpu(quick: bool) -> list[Row]:
    """Measure time interleaved in one process, and memory in separate processes."""
    case, rounds = (QUICK_TIME_CASE, 3) if quick else (TIME_CASE, 5)
    memory = [
        peak_megabytes("ours", MEMORY_CASE) / peak_megabytes("plain", MEMORY_CASE) for _ in range(1 if quick else 2)
    ]
    check_equal(case)
    plain, ours, batch = case.plain().train(), case.ours().train(), case.inputs()
    dropping = case.ours(DROP_PATH).train()
    speed, depth = [], []
    seconds(plain, batch), seconds(ours, batch)
    for _ in range(rounds):
        slow, fast = seconds(plain, batch), seconds(ours, batch)
        speed.append(slow / fast)
        depth.append(fast / seconds(dropping, batch))
    print(f"CPU, float32, width 1280; time: {case}, memory: {MEMORY_CASE}, clips of {FRAMES} frames")
    print("(the released network has depth 32 and 6 layers in each other part)")
    return [
        from_rounds("train_cpu", speed, "plain / ours, time", GOALS["train_cpu"], "higher"),
        from_rounds("train_cpu_memory", memory, "ours / plain, peak", GOALS["train_cpu_memory"], "lower"),
        from_rounds("train_cpu_stochastic_depth", depth, "without / with, time", 1.1, "higher"),
    ]


def step_flops(model: HaworModel, frames: int) -> float:
    """Count the operations of one step's matrix products: three passes over each weight per token."""
    tokens = model.backbone.grid[0] * model.backbone.grid[1]
    dim = model.backbone.dim
    per_frame = sum(p.numel() for p in model.backbone.blocks.parameters() if p.ndim > 1) * tokens
    per_frame += model.network.depth * 2 * tokens * tokens * dim  # scores and their sum over values
    per_frame += model.backbone.patch_embed.projection.weight.numel() * tokens  # type: ignore[union-attr]
    if model.st_module is not None:
        per_frame += sum(p.numel() for p in model.st_module.parameters() if p.ndim > 1) * tokens
    return 6.0 * per_frame * frames


def product_rate(device: str) -> float:
    """Measure the operations per second of a large bf16 matrix product."""
    left, right = (torch.randn(8192, 8192, device=device, dtype=torch.bfloat16) for _ in range(2))
    rates = []
    for _ in range(20):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(10):
            left @ right
        torch.cuda.synchronize()
        rates.append(10 * 2 * 8192.0**3 / (time.perf_counter() - began))
    return sorted(rates)[len(rates) // 2]


def measure_gpu(quick: bool) -> list[Row]:
    """Measure full size in bf16, ours compiled, and its share of the measured matrix-product rate."""
    case = Case(depth=32, layers=6, clips=2 if quick else 4)
    batch, rounds = case.inputs("cuda"), 5 if quick else 15
    plain, ours = case.plain().cuda().train(), case.ours().cuda().train()
    fast = torch.compile(ours)
    rate, flops = product_rate("cuda"), step_flops(ours, case.clips * FRAMES)
    peaks, times = {}, {}
    with torch.autocast("cuda", torch.bfloat16):
        for name, model in (("plain", plain), ("ours", fast)):
            for _ in range(3):
                seconds(model, batch)
            torch.cuda.reset_peak_memory_stats()
            idle = torch.cuda.memory_allocated()
            seconds(model, batch)
            peaks[name], times[name] = torch.cuda.max_memory_allocated() - idle, []
            model.zero_grad(set_to_none=True)
        for _ in range(rounds):
            for name, model in (("plain", plain), ("ours", fast)):
                times[name].append(seconds(model, batch))
    speed = [slow / ours for slow, ours in zip(times["plain"], times["ours"], strict=True)]
    share = [flops / value / rate for value in times["ours"]]
    print(f"GPU: {torch.cuda.get_device_name()}, {case}, bf16; matrix products at {rate / 1e12:.0f} TFLOP/s")
    return [
        from_rounds("train_gpu", speed, "plain / ours, time", GOALS["train_gpu"], "higher"),
        from_rounds("train_gpu_memory", [peaks["ours"] / peaks["plain"]], "ours / plain, peak", 1.0, "lower"),
        from_rounds("train_gpu_mfu", share, "of the measured product rate", GOALS["train_gpu_mfu"], "higher"),
    ]


def measure(quick: bool) -> list[Row]:
    """Measure the rows of the CPU, and those of the GPU if there is one."""
    rows = measure_cpu(quick)
    if torch.cuda.is_available():
        return rows + measure_gpu(quick)
    print("no CUDA device: train_gpu, train_gpu_memory and train_gpu_mfu were not measured")
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        _one(sys.argv[2], Case(*map(int, sys.argv[3:6])))
    else:
        run(measure, "One training step against a straightforward implementation")
