"""The LightningModule: network, body model, losses, optimiser and data of one training run."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hawor_pipeline.config import DatasetShare, TrainingConfig, build, load_config
from hawor_pipeline.core.loss import EnhancedTrainingLoss
from hawor_pipeline.core.mano import ManoLayer
from hawor_pipeline.core.metrics import mpjpe, pa_mpjpe
from hawor_pipeline.core.reprojection import joints_in_crop, pose_and_place_in_crop
from hawor_pipeline.core.types import ClipBatch, HandPrediction, take_clips
from hawor_pipeline.core.units import MM_PER_M
from hawor_pipeline.errors import CheckpointError, NumericalError
from hawor_pipeline.loading.datamodule import ClipSampler, HandData
from hawor_pipeline.loading.stored_crops import StoredBatch
from hawor_pipeline.locate import hand_models_of
from hawor_pipeline.models.checkpoints import build_for_training
from hawor_pipeline.models.hawor import HaworModel
from hawor_pipeline.training.averaging import split_weights
from hawor_pipeline.training.optimisation import Plateau, build_optimizer, learning_rate_factor
from hawor_pipeline.training.sums import MetricSums
from hawor_pipeline.untrusted.mano_files import load_mano

MAX_SKIPPED_IN_A_ROW = 10
# Without the enhanced loss: HaMeR's terms only, weighted as configured.
BASIC_LOSS_OFF = ("MESH_VERTICES", "MESH_FACES", "TEMPORAL_CONSISTENCY", "OCCLUSION_ROBUSTNESS")


def with_mano(model: HaworModel, mano: ManoLayer, batch: ClipBatch) -> HandPrediction:
    """Run the network on a batch and pose the body model by what it says."""
    output = model(batch.images, batch.box_center_px, batch.box_size_px, batch.focal_px, batch.principal_point_px)
    hand = mano(output.rotmats, output.betas)
    joints = hand.joints + output.translation_m[..., None, :]
    target, boxes = batch.target, (batch.intrinsics, batch.box_center_px, batch.box_size_px)
    return HandPrediction(
        rotmats=output.rotmats,
        betas=output.betas,
        camera=output.camera,
        translation_m=output.translation_m,
        joints_m=joints,
        vertices_m=hand.vertices + output.translation_m[..., None, :],
        joints_crop=joints_in_crop(joints, *boxes),
        joints_crop_apart=pose_and_place_in_crop(joints, target.joints_m, target.valid, *boxes),
    )


class EnhancedHaWoRTrainer(pl.LightningModule):
    """Trains a HaWoR network; usable with any Lightning Trainer (`use_distributed_sampler=False`).

    Args:
        config: a TrainingConfig, its values as a mapping, or the path of a YAML.
        training_data_dir: shards, or several {path, weight}.
        validation_data_dir: shards to validate on; None: the validation subjects of the training shards.
        use_enhanced_loss: all nine terms; False: keypoints, rotations and shape only.
        use_adaptive_weights: let the weights of the terms follow their levels, unless `loss_weighting` says otherwise.

    Raises:
        ConfigError: something named in the configuration does not exist.
    """

    def __init__(
        self,
        config: TrainingConfig | Mapping[str, Any] | str | Path,
        training_data_dir: str | Path | Sequence[DatasetShare] | None = None,
        validation_data_dir: str | Path | None = None,
        use_enhanced_loss: bool = True,
        use_adaptive_weights: bool = True,
    ):
        super().__init__()
        config = _validated(config)
        self.config = config
        self.save_hyperparameters({"config": config.model_dump(mode="json")})
        self.data = HandData(config, training_data_dir, validation_data_dir)
        torch.manual_seed(config.seed)  # initial weights are a function of the seed
        self.model, self.pretrained = build_for_training(config)
        if self.pretrained is None or not self.pretrained.has("mano_head"):
            self.model.mano_head.set_mean(*self.data.mean_parameters())
        if config.frozen_backbone:
            self.model.backbone.requires_grad_(False).eval()
        self.mano = ManoLayer(load_mano(hand_models_of(self.data.folders, config.mano_model_path), "right"))
        self.loss = self._build_loss(use_enhanced_loss, use_adaptive_weights)
        self.epoch_position = (0, 0)  # epoch and batch that training goes on with
        self.step_values: dict[str, Tensor] = {}  # of the last batch, for the metrics table
        self.plateau = Plateau(config)  # stays at 1 under every other schedule
        self.skipped_in_a_row = 0
        self.skipped_batches = 0
        self._batch: ClipBatch
        self._sampler: ClipSampler
        self._sums = MetricSums()

    def _build_loss(self, enhanced: bool, adaptive: bool) -> EnhancedTrainingLoss:
        config = self.config
        weights = dict(config.loss_weights) if isinstance(config.loss_weights, dict) else {}
        if not enhanced:
            weights.update(dict.fromkeys(BASIC_LOSS_OFF, 0.0))
        loss = EnhancedTrainingLoss(
            weights, adaptive, config.temporal_window, loss_weighting=config.loss_weighting, faces=self.mano.faces
        )
        loss.accumulate_grad_batches = config.passes_per_step
        return loss

    def train(self, mode: bool = True) -> "EnhancedHaWoRTrainer":
        """A frozen backbone stays in eval: no stochastic depth, no batch statistics."""
        super().train(mode)
        if self.config.frozen_backbone:
            self.model.backbone.eval()
        return self

    # data

    def train_dataloader(self) -> DataLoader:
        """Training batches from where the run stands."""
        epoch, batch = self.epoch_position
        loader = self.data.training_loader(epoch, batch, self.global_rank, self.trainer.world_size)
        assert isinstance(loader.sampler, ClipSampler)
        self._sampler = loader.sampler
        return loader

    def on_train_epoch_start(self) -> None:
        """Each epoch has its own order; the one that the loader was made for goes on where it stands."""
        self._sampler.go_to(self.current_epoch)

    def val_dataloader(self) -> DataLoader:
        """Validation batches."""
        return self.data.validation_loader(self.global_rank, self.trainer.world_size)

    def transfer_batch_to_device(
        self, batch: ClipBatch | StoredBatch, device: torch.device, dataloader_idx: int
    ) -> ClipBatch:
        """Move a batch, and make its pictures where that was left to the device."""
        if isinstance(batch, ClipBatch) and device.type == "cpu":
            return batch  # it is already where it belongs
        return batch.to(device)

    # steps

    def predict_batch(self, batch: ClipBatch) -> HandPrediction:
        """The network's hands in a batch, with the body model applied."""
        return with_mano(self.model, self.mano, batch)

    def losses(self, prediction: HandPrediction, batch: ClipBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss and its terms; outside training the weights are static."""
        with torch.no_grad():
            vertices = self.mano(batch.target.rotmats, batch.target.betas).vertices
            vertices = vertices + batch.target.translation_m[..., None, :]
        with torch.autocast(self.device.type, enabled=False):
            return self.loss(prediction, batch.target, vertices)

    def on_train_batch_start(self, batch: ClipBatch, batch_idx: int) -> None:
        """Random numbers inside a step (dropout) are a function of seed, epoch and batch: nothing to restore."""
        state = np.random.SeedSequence((self.config.seed, self.current_epoch, batch_idx, self.global_rank))
        torch.manual_seed(int(state.generate_state(1)[0]))

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor | None:
        """Loss of one batch; None where it is not finite and such batches are skipped."""
        self._batch = batch  # named in the message if its gradient is not finite
        prediction = self.predict_batch(batch)
        total, terms = self.losses(prediction, batch)
        if not self._finite_everywhere(total):
            self._not_finite(batch, terms)
            return None
        self.skipped_in_a_row = 0
        self.step_values = {"loss": total.detach(), **{f"loss/{name}": v.detach() for name, v in terms.items()}}
        self._measure_datasets(prediction, batch)
        return total

    def _finite_everywhere(self, total: Tensor) -> bool:
        """Whether the loss is finite on all processes: they skip together, or one would wait for the others."""
        finite = bool(torch.isfinite(total))
        return finite if self.trainer.world_size == 1 else self.trainer.strategy.reduce_boolean_decision(finite)

    @torch.no_grad()
    def _measure_datasets(self, prediction: HandPrediction, batch: ClipBatch) -> None:
        """Error of each member of a mixture in this batch; a mean over all of them would hide the small ones."""
        use = batch.target.valid & (batch.sample_index >= 0)
        for dataset, clips in self.data.clips_by_dataset(batch).items():
            error = MM_PER_M * mpjpe(prediction.joints_m[clips], batch.target.joints_m[clips])[use[clips]]
            self.step_values[f"mpjpe_mm/{dataset}"] = error.mean()
            self.step_values[f"clips/{dataset}"] = torch.tensor(float(len(clips)))

    def _not_finite(self, batch: ClipBatch, terms: Mapping[str, Tensor]) -> None:
        broken = [name for name, value in terms.items() if not bool(torch.isfinite(value))] or ["gradient"]
        rows = batch.sample_index[batch.sample_index >= 0].flatten().tolist()
        names = self.data.shards.table.column("sample_id").take(rows[:3]).to_pylist()
        found = f"step {self.global_step}: {', '.join(broken)} not finite, in a batch with {', '.join(names)}, ..."
        if self.config.nonfinite_policy == "stop":
            raise NumericalError(
                f"{found} Lower learning_rate or grad_clip_val, look at these samples with `hawor-pipeline show`, or "
                "set nonfinite_policy: skip. The last checkpoint is kept."
            )
        self.skipped_in_a_row += 1
        self.skipped_batches += 1
        self.print(f"skipped: {found}")
        if self.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise NumericalError(f"{found} {self.skipped_in_a_row} batches in a row were skipped; giving up.")

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by the total norm; norms of each part of the network are kept for the table."""
        norms: dict[str, Tensor] = {}
        for name, part in self.model.named_children():
            gradients = [p.grad for p in part.parameters() if p.grad is not None]
            if gradients:
                norms[name] = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        if not norms:
            return
        total = torch.linalg.vector_norm(torch.stack(list(norms.values())))
        if not bool(torch.isfinite(total)):
            if self.trainer.precision != "16-mixed":  # there the scaler skips the step itself
                self._not_finite(self._batch, norms)
                optimizer.zero_grad(set_to_none=True)
            return
        limit = self.config.grad_clip_val
        if limit > 0:
            scale = (limit / (total + 1e-6)).clamp(max=1.0)
            torch._foreach_mul_([p.grad for p in self.model.parameters() if p.grad is not None], scale)
        self.step_values["grad_norm"] = total
        self.step_values.update({f"grad_norm/{name}": norm for name, norm in norms.items()})

    def on_train_epoch_end(self) -> None:
        """An epoch may end before the last gradients were accumulated."""
        self.loss.finish_step()

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Add a batch to the sums behind the validation metrics."""
        prediction = self.predict_batch(batch)
        total, terms = self.losses(prediction, batch)
        use = batch.target.valid & (batch.sample_index >= 0)
        errors = {
            "mpjpe_mm": MM_PER_M * mpjpe(prediction.joints_m, batch.target.joints_m),
            "pa_mpjpe_mm": MM_PER_M * pa_mpjpe(prediction.joints_m, batch.target.joints_m),
        }
        self._sums.add_frames(errors, use)
        self._sums.add_means({"loss": total, **{f"loss/{name}": value for name, value in terms.items()}}, use.sum())
        for dataset, clips in self.data.clips_by_dataset(batch, validation=True).items():
            part, _ = self.losses(take_clips(prediction, clips), take_clips(batch, clips))
            values = {name: value[clips] for name, value in errors.items()}
            values["loss"] = part.expand(values["mpjpe_mm"].shape)
            self._sums.add_frames(values, use[clips], f"/{dataset}")

    def on_validation_epoch_start(self) -> None:
        """Forget the sums of the validation before."""
        self._sums = MetricSums()

    def on_validation_epoch_end(self) -> None:
        """Turn sums over all samples and processes into means."""
        for name, mean in self._sums.means().items():
            self.log(f"val/{name}", mean, rank_zero_only=False, logger=False)
            if self.config.scheduler == "plateau" and self.config.monitor == f"val/{name}":
                self.plateau.observe(float(mean))

    # optimisation

    def steps_per_epoch(self) -> int:
        """Optimiser steps in one epoch."""
        batches = len(self.data.training_loader(world=self.trainer.world_size))
        return max(math.ceil(batches / self.config.passes_per_step), 1)

    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        planned = self.config.max_epochs * self.steps_per_epoch()
        return min(planned, self.config.max_steps) if self.config.max_steps > 0 else planned

    def configure_optimizers(self) -> Any:
        """Optimiser, and a schedule that moves with every optimiser step."""
        config = self.config
        optimizer = build_optimizer(config, self.model)
        total = self.total_steps()
        warmup = min(round(config.warmup_epochs * self.steps_per_epoch()), total // 2)
        floor = config.min_lr / config.learning_rate if config.scheduler == "cosine" else 1.0
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.plateau.factor * learning_rate_factor(step, warmup, total, floor)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what names the network, and where in the epoch the run stands."""
        checkpoint["network"] = self.model.network.to_dict()
        checkpoint["split"] = self.data.split.to_dict()
        checkpoint["skipped_batches"] = self.skipped_batches
        checkpoint["plateau"] = self.plateau.state_dict()
        batch = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready
        batches = self.trainer.num_training_batches
        finished = batch >= batches
        checkpoint["position"] = {
            "epoch": self.current_epoch + int(finished),
            "batch": 0 if finished else batch,
            "micro_batches": self.config.micro_batches,
            "clips": self._clips_of_a_batch(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint is of this network, and take up its position.

        Raises:
            CheckpointError: it is of another network.
        """
        found, expected = checkpoint.get("network"), self.model.network.to_dict()
        if found != expected:
            differing = sorted(k for k in expected if not isinstance(found, dict) or found.get(k) != expected[k])
            raise CheckpointError(
                f"cannot resume: the checkpoint is of another network (differs in {', '.join(differing)}); "
                "use the configuration it was trained with, or another output directory"
            )
        split_weights(checkpoint)
        if "plateau" in checkpoint:
            self.plateau.load_state_dict(checkpoint["plateau"])
        self._in_parts_of_now(checkpoint)
        self.epoch_position = (checkpoint["position"]["epoch"], checkpoint["position"]["batch"])
        self.skipped_batches = checkpoint.get("skipped_batches", 0)

    def _clips_of_a_batch(self) -> int:
        """Over all devices; without a trainer there is one."""
        return self.config.batch_size * (self._trainer.world_size if self._trainer is not None else 1)

    def _in_parts_of_now(self, checkpoint: dict[str, Any]) -> None:
        """Positions count parts of batches; restate them where batches have other parts or, over all devices, clips.

        Where the clips seen are no whole number of the batches of now, those of the last, unfinished one come again.
        """
        position, parts = checkpoint["position"], self.config.micro_batches
        clips = self._clips_of_a_batch()
        before = position.get("micro_batches", 1), position.get("clips", clips)
        if before == (parts, clips):
            return

        def restated(count: int) -> int:
            return count // before[0] * before[1] // clips * parts

        position["batch"] = restated(position["batch"])
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            counts.update({name: restated(count) for name, count in counts.items()})


def _validated(config: TrainingConfig | Mapping[str, Any] | str | Path) -> TrainingConfig:
    if isinstance(config, TrainingConfig):
        return config
    if isinstance(config, (str, Path)):
        return load_config(config)
    return build(TrainingConfig, config, origin="EnhancedHaWoRTrainer")
