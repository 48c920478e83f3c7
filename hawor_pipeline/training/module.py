"""The LightningModule: network, body model, losses, optimiser and data of one training run."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hawor_pipeline.config import DatasetShare
from hawor_pipeline.core.loss import EnhancedTrainingLoss
from hawor_pipeline.core.mano import ManoLayer
from hawor_pipeline.core.metrics import mpjpe, pa_mpjpe
from hawor_pipeline.core.types import ClipBatch, HandPrediction, take_clips
from hawor_pipeline.core.units import MM_PER_M
from hawor_pipeline.errors import CheckpointError, ConfigError, NumericalError
from hawor_pipeline.loading.datamodule import ClipSampler, HandData
from hawor_pipeline.loading.stored_crops import StoredBatch
from hawor_pipeline.locate import hand_models_of
from hawor_pipeline.models.checkpoints import build_for_training
from hawor_pipeline.models.form import NetworkConfig
from hawor_pipeline.models.hawor import with_mano
from hawor_pipeline.training.averaging import Checkpoint, split_weights
from hawor_pipeline.training.optimisation import Plateau, build_optimizer, learning_rate_factor
from hawor_pipeline.training.resolve import ConfigSource, as_config, with_recorded_split
from hawor_pipeline.untrusted.mano_files import load_mano

MAX_SKIPPED_IN_A_ROW = 10
# Terms that are off without the enhanced loss, which leaves those of HaMeR.
BASIC_LOSS_OFF = ("MESH_VERTICES", "MESH_FACES", "TEMPORAL_CONSISTENCY", "OCCLUSION_ROBUSTNESS")


class MetricSums:
    """Means over all samples of a validation, over all batches and processes.

    Sums and counts are kept by name: a mean of batch means would be wrong because batches differ in size.
    """

    def __init__(self) -> None:
        self._pairs: dict[str, Tensor] = {}  # (sum, count)

    def add_frames(self, values: Mapping[str, Tensor], use: Tensor, suffix: str = "") -> None:
        """Add the values of the frames selected by `use`; `suffix` is appended to their names."""
        for name, value in values.items():
            self._add(name + suffix, torch.stack((value[use].double().sum(), use.sum().double())))

    def add_means(self, means: Mapping[str, Tensor], count: Tensor) -> None:
        """Add means over `count` frames; NaN means are skipped."""
        for name, mean in means.items():
            seen = torch.where(mean.isnan(), 0, count).double()
            self._add(name, torch.stack((mean.nan_to_num().double() * seen, seen)))

    def _add(self, name: str, pair: Tensor) -> None:
        self._pairs[name] = self._pairs[name] + pair if name in self._pairs else pair

    def means(self) -> dict[str, Tensor]:
        """Return the mean of each name over all processes; NaN if it has no samples."""
        # One gather of named pairs, not a reduction: a process may lack a name (a member of a mixture).
        parts = [{name: pair.cpu() for name, pair in self._pairs.items()}]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            gathered: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(gathered, parts[0])
            parts = gathered
        totals = {
            name: torch.stack([part[name] for part in parts if name in part]).sum(0)
            for name in sorted({name for part in parts for name in part})
        }
        return {name: (total / count).float() for name, (total, count) in totals.items()}


class _Position(TypedDict):
    """The place in the epoch where a checkpoint was saved, in parts of batches."""

    epoch: int
    batch: int
    micro_batches: NotRequired[int]  # absent in checkpoints of earlier versions
    clips: NotRequired[int]  # per batch over all devices


class EnhancedHaWoRTrainer(pl.LightningModule):
    """LightningModule that trains a HaWoR network, under any Lightning Trainer with `use_distributed_sampler=False`.

    Arguments besides `config` override it, and the result is stored in `self.config` and in checkpoints: a module
    loaded from a checkpoint equals the one that saved it. The settings of the Lightning Trainer and its callbacks
    (epochs, precision, devices, early stopping, averaging, checkpoints, loggers) are applied by `TrainingPipeline`.

    Args:
        config: a TrainingConfig, a mapping of its values, or the path of a YAML file.
        training_data_dir: shards, or several {path, weight}; None: as configured.
        validation_data_dir: shards to validate on; None: as configured.
        use_enhanced_loss: use all nine loss terms, or (False) keypoints, rotations and shape only; None: as configured.
        use_adaptive_weights: adapt the weights of the terms to their levels; None: as configured.

    Raises:
        ConfigError: the configuration is not valid, or names something that does not exist.
    """

    def __init__(
        self,
        config: ConfigSource,
        training_data_dir: str | Path | Sequence[DatasetShare] | None = None,
        validation_data_dir: str | Path | None = None,
        use_enhanced_loss: bool | None = None,
        use_adaptive_weights: bool | None = None,
    ):
        super().__init__()
        given = {
            "training_data_dir": str(training_data_dir) if isinstance(training_data_dir, Path) else training_data_dir,
            "validation_data_dir": None if validation_data_dir is None else str(validation_data_dir),
            "use_enhanced_loss": use_enhanced_loss,
            "use_adaptive_weights": use_adaptive_weights,
        }
        changes = {key: value for key, value in given.items() if value is not None}
        config = as_config(config)
        config = with_recorded_split(config.changed(**changes) if changes else config)
        self.config = config
        self.save_hyperparameters({"config": config.model_dump(mode="json")})
        self.data = HandData(config)
        torch.manual_seed(config.seed)  # initial weights are a function of the seed
        self.model, self.pretrained = build_for_training(config, self.data.box_rule)
        self.model.trained_on = tuple(self.data.split.training)
        if self.pretrained is None or not self.pretrained.has("mano_head"):
            self.model.mano_head.set_mean(*self.data.mean_parameters())
        if config.frozen_backbone:
            self.model.backbone.requires_grad_(False).eval()
        if config.torch_compile:
            self.model.compile()
        self.mano = ManoLayer(load_mano(hand_models_of(self.data.folders, config.mano_model_path), "right"))
        self.loss = self._build_loss()
        self.epoch_position = (0, 0)  # epoch and batch at which training resumes
        self.step_values: dict[str, Tensor] = {}  # of the last batch, for the metrics table
        self.plateau = Plateau(config)  # its factor stays 1 under every other schedule
        self.skipped_in_a_row = 0
        self.skipped_batches = 0
        self._batch: ClipBatch
        self._sampler: ClipSampler
        self._sums = MetricSums()

    def _build_loss(self) -> EnhancedTrainingLoss:
        config = self.config
        assert not isinstance(config.loss_weights, str)  # the configuration has replaced a path by its content
        weights = dict(config.loss_weights or {})
        if not config.use_enhanced_loss:
            weights.update(dict.fromkeys(BASIC_LOSS_OFF, 0.0))
        loss = EnhancedTrainingLoss(
            weights,
            config.use_adaptive_weights,
            config.temporal_window,
            loss_weighting=config.loss_weighting,
            faces=self.mano.faces,
        )
        loss.accumulate_grad_batches = config.passes_per_step
        return loss

    def train(self, mode: bool = True) -> "EnhancedHaWoRTrainer":
        """Set the training mode; a frozen backbone stays in eval mode (no stochastic depth, no batch statistics)."""
        super().train(mode)
        if self.config.frozen_backbone:
            self.model.backbone.eval()
        return self

    # data

    def train_dataloader(self) -> DataLoader:
        """Return the training batches from the position of the run on."""
        epoch, batch = self.epoch_position
        loader = self.data.training_loader(epoch, batch, self.global_rank, self.trainer.world_size)
        assert isinstance(loader.sampler, ClipSampler)
        self._sampler = loader.sampler
        return loader

    def on_train_epoch_start(self) -> None:
        """Reorder the clips for a new epoch; a resumed epoch continues from its position."""
        self._sampler.go_to(self.current_epoch)

    def val_dataloader(self) -> DataLoader:
        """Return the validation batches."""
        return self.data.validation_loader(self.global_rank, self.trainer.world_size)

    def transfer_batch_to_device(
        self, batch: ClipBatch | StoredBatch, device: torch.device, dataloader_idx: int
    ) -> ClipBatch:
        """Move a batch to a device; stored crops are decoded and warped there."""
        if isinstance(batch, ClipBatch) and device.type == "cpu":
            return batch
        return batch.to(device)

    # steps

    def predict_batch(self, batch: ClipBatch) -> HandPrediction:
        """Predict the hands of a batch and apply the body model."""
        return with_mano(self.model, self.mano, batch)

    def forward(self, batch: ClipBatch | StoredBatch) -> HandPrediction:
        """Predict the hands of a batch on the device of this module, with or without gradients as the caller sets.

        Call `eval()` before for predictions without dropout.

        Args:
            batch: from `train_dataloader`, `val_dataloader` or `data`.

        Raises:
            ConfigError: the batch is neither a ClipBatch nor a StoredBatch.
        """
        if not isinstance(batch, (ClipBatch, StoredBatch)):
            raise ConfigError(
                f"found a batch of type {type(batch).__name__}, expected a ClipBatch, as `val_dataloader()` and "
                "`data.validation_loader()` of this module give."
            )
        return self.predict_batch(self.transfer_batch_to_device(batch, self.device, 0))

    def losses(self, prediction: HandPrediction, batch: ClipBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the total loss and its terms; outside training the weights are static."""
        with torch.no_grad():
            vertices = self.mano(batch.target.rotmats, batch.target.betas).vertices
            vertices = vertices + batch.target.translation_m[..., None, :]
        with torch.autocast(self.device.type, enabled=False):
            return self.loss(prediction, batch.target, vertices)

    def on_train_batch_start(self, batch: ClipBatch, batch_idx: int) -> None:
        """Seed the random numbers of the step (dropout).

        They are a function of seed, epoch and batch, so a resumed run has no generator state to restore.
        """
        state = np.random.SeedSequence((self.config.seed, self.current_epoch, batch_idx, self.global_rank))
        torch.manual_seed(int(state.generate_state(1)[0]))

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor | None:
        """Compute the loss of a batch; None if it is not finite and such batches are skipped."""
        self._batch = batch  # for the message if its gradient is not finite
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
        """Test if the loss is finite on all processes. They skip together: one alone would wait for the others."""
        finite = bool(torch.isfinite(total))
        return finite if self.trainer.world_size == 1 else self.trainer.strategy.reduce_boolean_decision(finite)

    @torch.no_grad()
    def _measure_datasets(self, prediction: HandPrediction, batch: ClipBatch) -> None:
        """Measure the error per member of a mixture; a mean over all members would hide the small ones."""
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

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, *_: Any, **__: Any) -> None:
        """Clip gradients by their total norm; the norm of each part of the network goes to the table."""
        norms: dict[str, Tensor] = {}
        for name, part in self.model.named_children():
            gradients = [p.grad for p in part.parameters() if p.grad is not None]
            if gradients:
                norms[name] = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        if not norms:
            return
        total = torch.linalg.vector_norm(torch.stack(list(norms.values())))
        if not bool(torch.isfinite(total)):
            if self.trainer.precision != "16-mixed":  # its gradient scaler skips the step itself
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
        """Close the last optimiser step: an epoch may end with fewer batches than it accumulates."""
        self.loss.finish_step()

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Add a batch to the validation metrics."""
        prediction = self.predict_batch(batch)
        total, terms = self.losses(prediction, batch)
        use = batch.target.valid & (batch.sample_index >= 0)
        with torch.autocast(self.device.type, enabled=False):  # the alignment multiplies matrices of metres
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
        """Reset the validation metrics."""
        self._sums = MetricSums()

    def on_validation_epoch_end(self) -> None:
        """Log the means over all samples and processes."""
        for name, mean in self._sums.means().items():
            self.log(f"val/{name}", mean, rank_zero_only=False, logger=False)
            if self.config.scheduler == "plateau" and self.config.monitor == f"val/{name}":
                self.plateau.observe(float(mean))

    # optimisation

    def steps_per_epoch(self) -> int:
        """Return the number of optimiser steps per epoch."""
        batches = len(self.data.training_loader(world=self.trainer.world_size))
        return max(math.ceil(batches / self.config.passes_per_step), 1)

    def total_steps(self) -> int:
        """Return the number of optimiser steps of the whole run."""
        planned = self.config.max_epochs * self.steps_per_epoch()
        return min(planned, self.config.max_steps) if self.config.max_steps > 0 else planned

    def configure_optimizers(self) -> Any:
        """Return the optimiser and its schedule, which advances with every optimiser step."""
        config = self.config
        optimizer = build_optimizer(config, self.model)
        total = self.total_steps()
        warmup = min(round(config.warmup_epochs * self.steps_per_epoch()), total // 2)
        lowest = config.min_lr / config.learning_rate if config.scheduler == "cosine" else 1.0
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: self.plateau.factor * learning_rate_factor(step, warmup, total, lowest)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # checkpoints

    def on_save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Add the network's configuration, the split, and the position in the epoch."""
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

    def on_load_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Check that the checkpoint fits this network, and restore its position.

        Raises:
            CheckpointError: it belongs to another network.
        """
        found, expected = NetworkConfig.of_record(checkpoint.get("network", {})).to_dict(), self.model.network.to_dict()
        if differing := sorted(name for name in expected if found[name] != expected[name]):
            raise CheckpointError(
                f"cannot resume: the checkpoint belongs to another network (differs in {', '.join(differing)}); "
                "use the configuration it was trained with, or another output directory"
            )
        split_weights(checkpoint)
        if "plateau" in checkpoint:
            self.plateau.load_state_dict(checkpoint["plateau"])
        self._restate_position(checkpoint)
        self.epoch_position = (checkpoint["position"]["epoch"], checkpoint["position"]["batch"])
        self.skipped_batches = checkpoint.get("skipped_batches", 0)

    def _clips_of_a_batch(self) -> int:
        # A checkpoint is also loaded without a trainer.
        return self.config.batch_size * (1 if self._trainer is None else self._trainer.world_size)

    def _restate_position(self, checkpoint: Checkpoint) -> None:
        """Convert a position to the current number of parts per batch, and of clips per batch over all devices.

        Positions count parts of batches. If the clips seen so far are no whole number of the current batches, those of
        the last, unfinished batch are repeated.
        """
        position: _Position = checkpoint["position"]
        parts, clips = self.config.micro_batches, self._clips_of_a_batch()
        before = position.get("micro_batches", 1), position.get("clips", clips)
        if before == (parts, clips):
            return

        def restated(count: int) -> int:
            return count // before[0] * before[1] // clips * parts

        position["batch"] = restated(position["batch"])
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            counts.update({name: restated(count) for name, count in counts.items()})
