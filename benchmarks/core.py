"""Metrics and the hand layer against common implementations; memory of Chamfer and cost of weighting.

Everything runs on one thread, interleaved, and each round gives one ratio (common over ours, higher is better).
Baselines are in `_usual.py`, or smplx itself. Results are compared before anything is timed.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from _measure import Row, from_rounds, interleaved, run
from _usual import (
    acceleration_error_plain,
    f_score_by_trees,
    freihand_one_by_one,
    motion_deviation_by_loops,
    pa_mpjpe_by_svd,
    pa_mpjpe_with_temporaries,
)
from _weighting_cost import weighting_cost
from torch import Tensor

from hawor_pipeline.core import metrics
from hawor_pipeline.core.alignment import aligned_difference
from hawor_pipeline.core.mano import ManoLayer
from hawor_pipeline.core.rotations import axis_angle_to_rotmat
from hawor_pipeline.core.units import ARCTIC_FPS
from hawor_pipeline.sample.hand import write_mano_models
from hawor_pipeline.untrusted.mano_files import load_mano

FRAMES = 50_000
LIMITS = (0.005, 0.015)  # m, of the F-score
POSE_NOISE = 0.14  # rad
CHAMFER = """
import torch
torch.set_num_threads(1)
from hawor_pipeline.core.losses import chamfer_loss
from hawor_pipeline.core.metrics import chamfer_distance
def kilobytes(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name))
def once(batch):
    pred = (torch.randn(batch, 778, 3) * 0.05).requires_grad_()
    chamfer_loss(pred, torch.randn(batch, 778, 3) * 0.05).backward()
    chamfer_distance(pred.detach(), torch.randn(batch, 778, 3) * 0.05)
once(1)
with open("/proc/self/clear_refs", "w") as peak:
    peak.write("5")  # forget the peak so far
before = kilobytes("VmRSS")
once(64)
print((kilobytes("VmHWM") - before) / 1024)
"""


def _close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    difference = float((found - expected).abs().max())
    if not difference <= tolerance:
        raise SystemExit(f"the two sides differ by {difference}, expected at most {tolerance}")


def _joints(frames: int) -> tuple[Tensor, Tensor]:
    """Generate predicted and true joints of hands 0.7 m away, 15 mm apart before alignment."""
    target = torch.randn(frames, 21, 3) * 0.05 + torch.tensor([0.1, -0.2, 0.7])
    return target + torch.randn(frames, 21, 3) * 0.01, target


def _procrustes(quick: bool) -> list[Row]:
    pred, target = _joints(FRAMES)
    for usual in (pa_mpjpe_with_temporaries, pa_mpjpe_by_svd):
        _close(metrics.pa_mpjpe(pred, target), usual(pred, target), 1e-6)
    few, few_target = pred[:64].clone(), target[:64].clone()
    rounds = 5 if quick else 15

    def ratio(usual: Callable, p: Tensor, t: Tensor, calls: int) -> list[float]:
        return interleaved(lambda: usual(p, t), lambda: metrics.pa_mpjpe(p, t), rounds, calls)

    return [
        from_rounds("pa_mpjpe_bulk", ratio(pa_mpjpe_with_temporaries, pred, target, 1), "ratio", 1.8, "higher"),
        from_rounds("pa_mpjpe_bulk_svd", ratio(pa_mpjpe_by_svd, pred, target, 1), "ratio", 1.3, "higher"),
        from_rounds("pa_mpjpe_b64", ratio(pa_mpjpe_with_temporaries, few, few_target, 50), "ratio", 1.0, "higher"),
        from_rounds("pa_mpjpe_b64_svd", ratio(pa_mpjpe_by_svd, few, few_target, 50), "ratio", 1.0, "higher"),
    ]


def _freihand(quick: bool) -> list[Row]:
    frames = FRAMES // 10 if quick else FRAMES
    pred, target = _joints(frames)

    def ours() -> tuple[float, float]:
        errors = metrics.pa_errors(pred, target, allow_reflection=True)
        return errors.double().mean().item(), metrics.auc_within(errors).double().mean().item()

    arrays = pred.numpy(), target.numpy()
    _close(torch.tensor(ours()), torch.tensor(freihand_one_by_one(*arrays)), 1e-5)
    values = interleaved(lambda: freihand_one_by_one(*arrays), ours, 3, 1)
    return [from_rounds("freihand_eval", values, "ratio", 25.0, "higher")]


def _surfaces(layer: ManoLayer, quick: bool) -> list[Row]:
    """Generate aligned pairs of posed hands, 7 to 8 mm apart, as the predictions of good models."""
    frames = 30 if quick else 100
    pose, betas = torch.randn(frames, 16, 3) * 0.4, torch.randn(frames, 10)
    target = layer(axis_angle_to_rotmat(pose), betas).vertices.contiguous()
    off = layer(axis_angle_to_rotmat(pose + torch.randn_like(pose) * POSE_NOISE), betas + torch.randn_like(betas))
    pred = target + aligned_difference(off.vertices, target)
    arrays = pred.numpy(), target.numpy()
    expected = torch.from_numpy(f_score_by_trees(*arrays, LIMITS)).float()
    _close(metrics.f_score(pred, target, LIMITS), expected, 1e-6)
    values = interleaved(lambda: f_score_by_trees(*arrays, LIMITS), lambda: metrics.f_score(pred, target, LIMITS), 5, 1)
    print(f"f_score: surfaces {1000 * metrics.mpvpe(pred, target).mean():.1f} mm apart after alignment")
    return [from_rounds("f_score", values, "ratio", 2.0, "higher")]


def _motion(quick: bool) -> list[Row]:
    frames = 1_000 if quick else 5_000
    target = torch.randn(frames, 778, 3) * 0.05
    pred = target + torch.randn(frames, 778, 3) * 0.01
    _close(
        metrics.acceleration_error(pred, target)[1:-1], acceleration_error_plain(pred, target, ARCTIC_FPS), 1e-2
    )  # of some 40 m/s^2
    acceleration = interleaved(
        lambda: acceleration_error_plain(pred, target, ARCTIC_FPS),
        lambda: metrics.acceleration_error(pred, target),
        5,
        1,
    )
    hand, thing = pred[:600], target[:600]
    contact = _contact(600, 778)
    arguments = (hand, thing, contact)
    expected = motion_deviation_by_loops(*arguments, 15)
    _close(metrics.motion_deviation(*arguments), torch.tensor(expected), 1e-6)
    deviation = interleaved(
        lambda: motion_deviation_by_loops(*arguments, 15), lambda: metrics.motion_deviation(*arguments), 5, 1
    )
    plain = (hand, thing, contact.numpy())
    by_array = interleaved(
        lambda: motion_deviation_by_loops(*plain, 15), lambda: metrics.motion_deviation(*arguments), 3, 1
    )
    print(f"mdev: loops over tensors, as given; over a numpy array the ratio is {statistics.median(by_array):.1f}")
    return [
        from_rounds("accel", acceleration, "ratio", 4.0, "higher"),
        from_rounds("mdev", deviation, "ratio", 50.0, "higher"),
    ]


def _contact(frames: int, pairs: int) -> Tensor:
    """Generate contact flags (frames, pairs) in stretches of 40 frames on average."""
    changes = torch.rand(frames, pairs) < 1 / 40
    return (changes.cumsum(0) + torch.randint(0, 2, (1, pairs))) % 2 == 0


def _mano(folder: Path, layer: ManoLayer, quick: bool) -> list[Row]:
    import smplx

    reference = smplx.MANOLayer(str(folder / "MANO_RIGHT.npz"), is_rhand=True, ext="npz")
    rounds = 5 if quick else 15
    rows = []
    for batch, goal, calls in ((1, 2.0, 200), (64, 2.0, 20), (1024, 3.0, 4)):
        rotmats, betas = axis_angle_to_rotmat(torch.randn(batch, 16, 3) * 0.4), torch.randn(batch, 10)
        arguments = {"betas": betas, "global_orient": rotmats[:, :1], "hand_pose": rotmats[:, 1:]}
        with torch.no_grad():
            _close(layer(rotmats, betas).vertices, reference(**arguments).vertices, 1e-6)
            values = interleaved(lambda a=arguments: reference(**a), lambda: layer(rotmats, betas), rounds, calls)  # noqa: B023
        rows.append(from_rounds(f"mano_b{batch}", values, "ratio", goal, "higher"))
    rotmats = axis_angle_to_rotmat(torch.randn(64, 16, 3) * 0.4).requires_grad_()
    betas = torch.randn(64, 10, requires_grad=True)

    def theirs() -> None:
        out = reference(betas=betas, global_orient=rotmats[:, :1], hand_pose=rotmats[:, 1:])
        (out.vertices.square().mean() + out.joints.square().mean()).backward()

    def ours() -> None:
        out = layer(rotmats, betas)
        (out.vertices.square().mean() + out.joints.square().mean()).backward()

    rows.append(from_rounds("mano_backward", interleaved(theirs, ours, rounds, 10), "ratio", 1.5, "higher"))
    return rows


def _chamfer_memory() -> list[Row]:
    """Return the peak memory of loss and metric on 64 pairs of 778 points above that on one pair, each in a process."""
    grown = [
        float(subprocess.run([sys.executable, "-c", CHAMFER], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    ]
    return [from_rounds("chamfer_memory_mb", grown, "MB", 200.0, "lower")]


def measure(quick: bool) -> list[Row]:
    """Measure all rows."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        write_mano_models(folder)
        layer = ManoLayer(load_mano(folder, "right"))
        return [
            *_procrustes(quick),
            *_freihand(quick),
            *_surfaces(layer, quick),
            *_motion(quick),
            *_mano(folder, layer, quick),
            *_chamfer_memory(),
            *weighting_cost(quick),
        ]


if __name__ == "__main__":
    run(measure, "Core: metrics, the hand layer and the loss, one thread")
