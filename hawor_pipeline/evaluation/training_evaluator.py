"""Metrics of training batches, for training loops other than this project's own.

The trainer of this project logs through Lightning; this class serves any other loop over `ClipBatch`: pass it
each batch with the prediction, and it measures, logs and finally summarises. Formulas are those of `core.metrics`;
every number is a mean over the valid frames of the batch, right-hand convention, camera frame. Unavailable numbers
are NaN, never 0.
"""

import math
import os
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import fields
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from hawor_pipeline.core import metrics
from hawor_pipeline.core.mano import ManoLayer
from hawor_pipeline.core.mesh import mesh_topology
from hawor_pipeline.core.rotations import geodesic_angle
from hawor_pipeline.core.skeleton import VERTEX_COUNT
from hawor_pipeline.core.types import ClipBatch, HandPrediction
from hawor_pipeline.core.units import ARCTIC_FPS, m_to_mm, mm_to_m, rad_to_deg
from hawor_pipeline.evaluation.declared_metrics import CROP_SIDE_PX
from hawor_pipeline.evaluation.predict import choose_device
from hawor_pipeline.evaluation.training_metrics import TrainingMetrics
from hawor_pipeline.evaluation.training_report import Meaning, Row, group_rows, write_training_report

HIDDEN_ABOVE, CLEAR_BELOW = 0.5, 0.1  # share of hidden joints, as in the summary table's occlusion_robustness


class TrainingEvaluator(AbstractContextManager):
    """Measures batches, logs them, and writes a summary at the end.

    Args:
        model: the network in training; its child modules name the gradient norms, and its `mano` (a `ManoLayer`), where
            it has one, gives the true meshes.
        device: where the measuring is done; "auto" takes an accelerator if there is one.
        use_wandb: log to Weights & Biases; without a key the run stays offline on disk.
        use_tensorboard: log to TensorBoard under `log_dir`.
        log_dir: where logs go.

    Attributes:
        optimizer: set it to have learning rates logged.
        history: (step, epoch, split, metrics) of every batch so far.

    Call `close` when training is over: it flushes the logs and takes its two hooks off the model. The evaluator is also
    a context manager that does so.
    """

    def __init__(
        self,
        model: nn.Module,
        device: str = "auto",
        use_wandb: bool = False,
        use_tensorboard: bool = True,
        log_dir: str | Path = "./training_logs",
    ):
        self.model = model
        self.device = choose_device(device)
        mano = getattr(model, "mano", None)
        self.mano = mano if isinstance(mano, ManoLayer) else None
        if self.mano is not None:
            self._edges = mesh_topology(self.mano.faces, VERTEX_COUNT).edges.to(self.device)
        self.log_dir = Path(log_dir)
        self.optimizer: torch.optim.Optimizer | None = None
        self.history: list[tuple[int, int, str, TrainingMetrics]] = []
        self._tensorboard = _tensorboard(self.log_dir) if use_tensorboard else None
        self._wandb = _wandb(self.log_dir) if use_wandb else None
        self._stopwatch = _Stopwatch(self.device)
        self._hooks = [
            model.register_forward_pre_hook(lambda *_: self._stopwatch.start()),
            model.register_forward_hook(lambda *_: self._stopwatch.stop()),
        ]

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the hooks off the model and end the logs; measuring still works, without times."""
        for hook in self._hooks:
            hook.remove()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()
        self._tensorboard = self._wandb = None

    @torch.no_grad()
    def evaluate_batch(
        self,
        batch: ClipBatch,
        output: HandPrediction,
        loss: Tensor | float,
        loss_components: Mapping[str, Tensor | float],
        step: int,
        epoch: int,
        is_training: bool,
    ) -> TrainingMetrics:
        """Measure one batch and log it under "train" or "val".

        `output` has MANO applied; `loss` is the weighted sum of the terms in `loss_components`.

        Returns:
            Means over the valid frames; NaN where nothing could be measured.
        """
        values = {"loss": float(loss), "inference_time": self._stopwatch.seconds(), "memory_usage": self._memory()}
        result = TrainingMetrics(
            **values,
            **{name: _mean(value) for name, value in self._measured(batch, output).items()},
            samples=int(_used(batch).sum()),
            loss_components={name: float(value) for name, value in loss_components.items()},
            gradient_norms=self._gradient_norms(),
            learning_rates=self._learning_rates(),
        )
        split = "train" if is_training else "val"
        self.history.append((step, epoch, split, result))
        self._log(step, split, result.flat())
        return result

    def _measured(self, batch: ClipBatch, output: HandPrediction) -> dict[str, Tensor]:
        """Per-frame or per-joint values whose means are the metrics."""
        used = _used(batch).to(self.device)
        if not used.any():
            return {}
        target, right = batch.target, batch.is_right.to(self.device)[used]

        def of(tensor: Tensor) -> Tensor:
            return tensor.detach().to(self.device).float()[used]

        ours, theirs = of(output.joints_m), of(target.joints_m)
        rotmats, true_rotmats = of(output.rotmats), of(target.rotmats)
        pixels, true_pixels = CROP_SIDE_PX * of(output.joints_crop), CROP_SIDE_PX * of(target.joints_crop)
        distances = metrics.point_errors(ours, theirs, root=0)
        inside = target.joint_in_frame.to(self.device)[used]
        in_crop = metrics.point_errors(pixels, true_pixels).masked_fill(~inside, torch.nan)
        known = torch.isfinite(in_crop)
        error = m_to_mm(metrics.mpjpe(ours, theirs))
        found = metrics.detected(pixels, true_pixels).float()
        hidden = 1 - target.joint_visible.to(self.device)[used].float().mean(-1)
        values = {
            "mpjpe_3d": error,
            "mpjpe_3d_pa": m_to_mm(metrics.pa_mpjpe(ours, theirs)),
            "mpjpe_2d": torch.nanmean(in_crop, -1),
            "mano_pose_error": rad_to_deg(metrics.pose_angle_error(rotmats, true_rotmats)),
            "mano_global_orient_error": rad_to_deg(metrics.global_orient_error(rotmats, true_rotmats)),
            "mano_shape_error": metrics.betas_error(of(output.betas), of(target.betas)),
            "mano_trans_error": m_to_mm(metrics.translation_error(of(output.translation_m), of(target.translation_m))),
            "hand_detection_rate": found,
            "left_hand_detection_rate": found[~right],
            "right_hand_detection_rate": found[right],
            "occlusion_robustness": error[hidden > HIDDEN_ABOVE].mean() / error[hidden < CLEAR_BELOW].mean(),
        }
        for limit in (5, 10, 15, 20):
            values[f"pck_3d_{limit}mm"] = metrics.share_within(distances, mm_to_m(limit))
        for limit in (5, 10, 15):
            values[f"pck_2d_{limit}px"] = metrics.share_within(in_crop, float(limit), mask=known)
        return values | self._mesh(batch, output, used) | _temporal(batch, output, self.device)

    def _mesh(self, batch: ClipBatch, output: HandPrediction, used: Tensor) -> dict[str, Tensor]:
        mano = self.mano
        if mano is None:
            return {}
        target = batch.target
        rotmats, betas = (t.to(mano.faces.device)[used.to(mano.faces.device)] for t in (target.rotmats, target.betas))
        mesh = mano(rotmats, betas)
        theirs = (mesh.vertices - mesh.joints[:, :1]).float().to(self.device)
        ours = (output.vertices_m - output.joints_m[..., :1, :]).detach().float().to(self.device)[used]
        return {
            "mesh_vertices_error": m_to_mm(metrics.point_errors(ours, theirs)),
            "mesh_faces_error": m_to_mm(metrics.edge_length_error(ours, theirs, self._edges)),
            "mesh_surface_error": m_to_mm(metrics.chamfer_distance(ours, theirs)),
        }

    def _gradient_norms(self) -> dict[str, float]:
        norms = {}
        for name, child in self.model.named_children():
            gradients = [p.grad for p in child.parameters() if p.grad is not None]
            if gradients:
                norms[name] = float(torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients])))
        return norms

    def _learning_rates(self) -> dict[str, float]:
        groups = self.optimizer.param_groups if self.optimizer is not None else []
        return {str(number): float(group["lr"]) for number, group in enumerate(groups)}

    def _memory(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e6
        return psutil.Process().memory_info().rss / 1e6

    def _log(self, step: int, split: str, values: Mapping[str, float]) -> None:
        finite = {f"{split}/{name}": value for name, value in values.items() if math.isfinite(value)}
        if self._tensorboard is not None:
            for name, value in finite.items():
                self._tensorboard.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(finite, step=step)

    def generate_training_report(self, output_dir: str | Path = "./training_reports") -> Path:
        """Write the report of `hawor_pipeline.evaluation.training_report`: curves, best values and latest means.

        Means are over the samples of an epoch: each batch counts by its valid frames. The best value is that of the
        best epoch. Other files in `output_dir` are kept.

        Returns:
            The path of `training_report.md`.
        """
        if self._tensorboard is not None:
            self._tensorboard.flush()
        about = {f.name: Meaning(f.metadata["unit"], f.metadata["formula"]) for f in fields(TrainingMetrics)}
        return write_training_report(self._rows(), output_dir, about)

    def means(self, split: str) -> dict[str, float]:
        """Average each metric over all samples of a split in its latest epoch; NaN where never measured."""
        return {name: points[-1].value for name, points in group_rows(self._rows(), split).items()}

    def _rows(self) -> list[Row]:
        return [Row(step, epoch, split, m.samples, m.flat()) for step, epoch, split, m in self.history]


class _Stopwatch:
    """Time of a forward pass. Work on a CUDA device goes on after the call returns, so there its own events count."""

    def __init__(self, device: torch.device):
        is_cuda = device.type == "cuda"
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if is_cuda else None
        self._began, self._took = 0.0, math.nan

    def start(self) -> None:
        """Start timing."""
        if self._events is not None:
            self._events[0].record()
        self._began = time.perf_counter()

    def stop(self) -> None:
        """Stop timing; on an accelerator the pass may still be running."""
        if self._events is not None:
            self._events[1].record()
        self._took = time.perf_counter() - self._began

    def seconds(self) -> float:
        """Return the time of the last pass; NaN before the first. Waits for the device."""
        if self._events is None or math.isnan(self._took):
            return self._took
        self._events[1].synchronize()
        return self._events[0].elapsed_time(self._events[1]) / 1000


def _used(batch: ClipBatch) -> Tensor:
    return batch.target.valid & (batch.sample_index >= 0)


def _mean(values: Tensor) -> float:
    return float(torch.nanmean(values)) if values.numel() else math.nan


def _temporal(batch: ClipBatch, output: HandPrediction, device: torch.device) -> dict[str, Tensor]:
    """Compute errors of changes over time, where the frames are neighbours and valid."""
    target = batch.target
    used, frame = _used(batch).to(device), target.frame.to(device)
    pair = used[:, 1:] & used[:, :-1] & (frame[:, 1:] - frame[:, :-1] == 1)  # (B, T-1)
    if not pair.any():
        return {}
    joints, true_joints = (t.detach().to(device).float() for t in (output.joints_m, target.joints_m))
    turns, true_turns = (_turns(t.detach().to(device).float()) for t in (output.rotmats, target.rotmats))
    values = {"temporal_consistency_mano": rad_to_deg((turns - true_turns).abs().mean(-1))[pair]}
    triple = pair[:, 1:] & pair[:, :-1]  # (B, T-2)
    if triple.any():
        accelerations = metrics.acceleration_error(joints, true_joints, fps=ARCTIC_FPS)[:, 1:-1]
        values["temporal_consistency_3d"] = accelerations[triple]
        drift = CROP_SIDE_PX * (output.joints_crop - target.joints_crop).detach().to(device).float()
        values["temporal_consistency_2d"] = drift.diff(n=2, dim=1).norm(dim=-1).mean(-1)[triple]
    return values


def _turns(rotmats: Tensor) -> Tensor:
    """Compute the angle of each joint's rotation from one frame to the next, (B, T-1, 16)."""
    return geodesic_angle(rotmats[:, 1:], rotmats[:, :-1])


def _tensorboard(folder: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder))


def _wandb(folder: Path) -> Any:
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    known = bool(os.environ.get("WANDB_API_KEY"))
    if not known:
        print(f"no WANDB_API_KEY: the run stays offline; `wandb sync {folder}/wandb/offline-run-*` uploads it later")
    return wandb.init(project="hawor-pipeline", dir=str(folder), mode="online" if known else "offline")
