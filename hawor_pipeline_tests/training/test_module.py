"""The LightningModule and its run: it learns, it is reproducible, and it says so when something is wrong."""

import json
import math
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import pyarrow.parquet as pq
import pytest
import torch

from hawor_pipeline.config import AugmentationParams
from hawor_pipeline.core.camera import camera_from_translation, full_translation
from hawor_pipeline.core.metrics import mpjpe
from hawor_pipeline.core.rotations import axis_angle_to_rotmat
from hawor_pipeline.errors import ConfigError, NumericalError
from hawor_pipeline.models.checkpoints import load_hawor
from hawor_pipeline.models.hawor import HaworOutput, with_mano
from hawor_pipeline.training.fit import TrainingPipeline, main
from hawor_pipeline.training.loggers import TrainingTable
from hawor_pipeline.training.module import EnhancedHaWoRTrainer
from hawor_pipeline.training.optimisation import learning_rate_factor
from hawor_pipeline.untrusted.safe_load import load_checkpoint


def test_overfits_one_batch(tiny):
    """Root-aligned error of four clips falls below a tenth of where it starts."""
    module = EnhancedHaWoRTrainer(tiny(use_augmentation=False, batch_size=4))
    batch = next(iter(module.data.training_loader()))
    optimizer = torch.optim.AdamW(module.model.parameters(), lr=1e-3, fused=True)

    def error() -> float:
        return float(mpjpe(module.predict_batch(batch).joints_m, batch.target.joints_m).mean())

    module.train()
    before = error()
    for _ in range(100):
        total, _ = module.losses(module.predict_batch(batch), batch)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert error() < 0.1 * before


def test_a_wrongly_turned_hand_does_not_pull_at_the_camera(tiny):
    """The true camera with a pose turned by 120 degrees: the term in the crop is left with nothing to shrink."""
    module = EnhancedHaWoRTrainer(tiny(use_augmentation=False, batch_size=4))
    batch = next(iter(module.data.training_loader()))
    target = batch.target
    boxes = (batch.box_center_px, batch.box_size_px, batch.focal_px, batch.principal_point_px)
    camera = camera_from_translation(target.translation_m, *boxes).requires_grad_()
    turned = axis_angle_to_rotmat(torch.tensor([0.0, 2.1, 0.0])) @ target.rotmats[..., 0, :, :]
    rotmats = torch.cat((turned[..., None, :, :], target.rotmats[..., 1:, :, :]), -3)
    hand = HaworOutput(rotmats, target.betas, camera, full_translation(camera, *boxes))
    prediction = with_mano(lambda *_: hand, module.mano, batch)
    apart, together = prediction, replace(prediction, joints_crop_apart=None)
    pulls = []
    for one in (apart, together):
        _, terms = module.losses(one, batch)
        in_crop = module.loss._terms(one, target, None)[0]["KEYPOINTS_2D"]
        pulls.append(torch.autograd.grad(in_crop, camera, retain_graph=True)[0][..., 0].mean())
        assert terms["KEYPOINTS_2D"] > 1
    assert pulls[1] > 0, "one projection of both would lower the scale"
    assert abs(pulls[0]) < 0.01 * pulls[1]


def test_after_training_the_model_predicts_batches_and_a_report_is_there(tiny, tmp_path):
    run_dir = tmp_path / "run"
    trainer, model = TrainingPipeline(tiny(max_steps=8), run_dir).train()
    batch = next(iter(model.val_dataloader()))
    model.eval()
    with torch.no_grad():
        prediction = model(batch)
        again = with_mano(load_hawor(run_dir / "checkpoints" / "last.ckpt"), model.mano, batch)
    assert prediction.vertices_m.shape == (*batch.target.valid.shape, 778, 3)
    torch.testing.assert_close(prediction.joints_m, again.joints_m)
    assert trainer.global_step == 8
    with pytest.raises(ConfigError, match=r"dict.*ClipBatch"):
        model({"img": batch.images})

    report = (run_dir / "reports" / "training_report.md").read_text()
    rows = pq.read_table(run_dir / "training.parquet").to_pylist()
    measured = {r["step"]: r["value"] for r in rows if (r["metric"], r["split"]) == ("mpjpe_mm", "val")}
    best = min(measured, key=lambda step: measured[step])
    (line,) = [line.split(" | ") for line in report.splitlines() if line.startswith("| mpjpe_mm |")]
    assert line[3] == f"{measured[8]:.4g}"
    assert line[5] == f"{measured[best]:.4g} (step {best})"
    assert (run_dir / "reports" / "training_curves.png").is_file()
    assert (run_dir / "reports" / "metrics_evolution.png").is_file()


def test_same_seed_same_loss(tiny, tmp_path):
    curves = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        pipeline = TrainingPipeline(tiny(max_steps=3, seed=seed), tmp_path / name)
        pipeline.train()
        rows = pq.read_table(tmp_path / name / "training.parquet").to_pylist()
        curves.append([row["value"] for row in rows if row["metric"] == "loss" and row["split"] == "train"])
    assert len(curves[0]) == 3
    assert curves[0] == curves[1]
    assert curves[0] != curves[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, hand_data):
    """A short finished run by the entry point of the training process."""
    from hawor_pipeline.config import TrainingConfig, dump_config

    run = tmp_path_factory.mktemp("run")
    config = TrainingConfig(
        image_size=64, backbone_size="tiny", st_hdim=32, motion_hdim=32, st_nlayer=1, motion_nlayer=1, clip_length=3,
        clip_stride=3, batch_size=2, max_steps=8, learning_rate=1e-3, warmup_epochs=0.5, num_workers=0, num_threads=1,
        early_stopping_patience=0, log_every_n_steps=2, accelerator="cpu", save_top_k=2, accumulate_grad_batches=2,
        training_data_dir=str(hand_data / "shards"), mano_model_path=str(hand_data / "mano"),
    )  # fmt: skip
    (run / "given.yaml").write_text(dump_config(config))
    code = main(["--config", str(run / "given.yaml"), "--run-dir", str(run / "out"), "--quiet"])
    assert code == 0
    return run / "out"


def test_checkpoint_holds_plain_values_and_no_body_model(finished):
    checkpoint = load_checkpoint(finished / "checkpoints" / "last.ckpt")  # weights only
    names = list(checkpoint["state_dict"])
    assert not [name for name in names if name.startswith("mano.") or ".mano." in name]
    assert all(name.startswith(("model.", "loss.weighting.")) for name in names)
    shapes = {tuple(value.shape) for value in checkpoint["state_dict"].values()}
    assert (778, 3) not in shapes and (16, 778) not in shapes
    assert type(checkpoint["hyper_parameters"]) is dict
    assert checkpoint["hyper_parameters"]["config"]["batch_size"] == 2
    assert checkpoint["split"]["validation"] == ["s05"]


def test_run_directory(finished):
    """Table, progress and result agree; every term, weight and gradient norm is there."""
    rows = pq.read_table(finished / "training.parquet").to_pylist()
    train = {row["metric"] for row in rows if row["split"] == "train"}
    expected = {"loss", "loss/KEYPOINTS_3D", "weight/HAND_POSE", "share/BETAS", "grad_norm", "grad_norm/backbone",
                "grad_norm/mano_head", "grad_norm/motion_module", "grad_norm/st_module", "learning_rate",
                "samples_per_second", "data_wait_share", "memory_mb", "loss/TEMPORAL_CONSISTENCY"}  # fmt: skip
    assert expected <= train
    steps = [row["step"] for row in rows if row["metric"] == "loss" and row["split"] == "train"]
    assert steps == [2, 4, 6, 8]
    validation = {row["step"]: row["value"] for row in rows if row["metric"] == "mpjpe_mm" and row["split"] == "val"}
    assert sorted(validation) == [2, 4, 6, 8]  # four batches in an epoch are two accumulated steps
    lines = [json.loads(line) for line in (finished / "progress.jsonl").read_text().splitlines()]
    assert lines[0]["kind"] == "start" and lines[-1]["kind"] == "end"
    assert lines[0]["frames_per_step"] == 2 * 3 * 2
    result = json.loads((finished / "result.json").read_text())
    assert result["status"] == "completed" and result["step"] == 8
    assert result["best_value"] == pytest.approx(min(validation.values()), rel=1e-5)
    assert list((finished / "logs").rglob("events.out.tfevents*"))
    kept = sorted(path.name for path in (finished / "checkpoints").iterdir())
    best_two = sorted(validation, key=validation.__getitem__)[:2]
    assert kept == sorted(["best.ckpt", "last.ckpt", *(f"step-{step:08d}.ckpt" for step in best_two)])


def test_validation_metric_is_the_mean_over_samples(finished, hand_data):
    """Recomputed sample by sample from the saved checkpoint."""
    checkpoint = load_checkpoint(finished / "checkpoints" / "last.ckpt")
    module = EnhancedHaWoRTrainer(checkpoint["hyper_parameters"]["config"])
    model = load_hawor(finished / "checkpoints" / "last.ckpt")
    errors = []
    for batch in module.data.validation_loader():
        with torch.no_grad():
            prediction = with_mano(model, module.mano, batch)
        root = prediction.joints_m[..., :1, :] - batch.target.joints_m[..., :1, :]
        distance = (prediction.joints_m - root - batch.target.joints_m).norm(dim=-1).mean(-1)
        errors += distance[batch.sample_index >= 0].tolist()
    assert len(errors) == 24
    rows = pq.read_table(finished / "training.parquet").to_pylist()
    logged = [row["value"] for row in rows if row["metric"] == "mpjpe_mm" and row["step"] == 8]
    assert logged == pytest.approx([1000 * sum(errors) / 24], rel=1e-4)


def test_a_loss_that_is_not_finite_stops_the_run(tiny, tmp_path, monkeypatch):
    """The message names the step, the terms and the samples; skipping gives up after ten in a row."""
    original = EnhancedHaWoRTrainer.losses

    def broken(self, prediction, batch):
        total, terms = original(self, prediction, batch)
        if not self.training or self.global_step < 2:
            return total, terms
        return total * math.nan, {**terms, "KEYPOINTS_2D": terms["KEYPOINTS_2D"] * math.inf}

    monkeypatch.setattr(EnhancedHaWoRTrainer, "losses", broken)
    with pytest.raises(NumericalError, match=r"step 2: KEYPOINTS_2D not finite, in a batch with s01/box_grab_01"):
        TrainingPipeline(tiny(), tmp_path / "stop").train()
    with pytest.raises(NumericalError, match="10 batches in a row"):
        TrainingPipeline(tiny(max_steps=40, nonfinite_policy="skip"), tmp_path / "skip").train()


def test_a_gradient_that_is_not_finite_is_skipped(tiny, tmp_path):
    pipeline = TrainingPipeline(tiny(max_steps=4, nonfinite_policy="skip"), tmp_path)
    original = EnhancedHaWoRTrainer.training_step

    def poisoned(self, batch, batch_idx):
        total = original(self, batch, batch_idx)
        if self.global_step == 1 and self.current_epoch == 0 and self.skipped_batches == 0:
            weight = self.model.mano_head.pose_output.weight
            weight.register_hook(lambda gradient: gradient * math.nan if self.skipped_batches == 0 else gradient)
        return total

    EnhancedHaWoRTrainer.training_step = poisoned
    try:
        _, module = pipeline.train()
    finally:
        EnhancedHaWoRTrainer.training_step = original
    assert module.skipped_batches == 1
    assert all(bool(torch.isfinite(p).all()) for p in module.model.parameters())


def test_frozen_backbone_stays_as_it_is(tiny, tmp_path):
    config = tiny(max_steps=3, frozen_backbone=True)
    before = EnhancedHaWoRTrainer(config).model.backbone.state_dict()
    _, module = TrainingPipeline(config, tmp_path).train()
    module.train()
    assert not module.model.backbone.training and module.model.mano_head.training
    for name, value in module.model.backbone.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_basic_loss_has_no_mesh_and_temporal_terms(tiny):
    module = EnhancedHaWoRTrainer(tiny(), use_enhanced_loss=False, use_adaptive_weights=False)
    batch = next(iter(module.data.training_loader()))
    _, terms = module.losses(module.predict_batch(batch), batch)
    assert set(terms) == {"KEYPOINTS_3D", "KEYPOINTS_2D", "GLOBAL_ORIENT", "HAND_POSE", "BETAS"}


def test_wandb_without_a_key_runs_offline_and_never_prompts(tiny, tmp_path, monkeypatch, caplog):
    """Its file holds the numbers, its folder the pictures, and one line says how to send them."""

    def prompt(*_):
        raise AssertionError("asked for something")

    monkeypatch.setattr("builtins.input", prompt)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    config = tiny(max_steps=2, val_check_interval=2, use_wandb=True, log_images_every_n_steps=2)
    TrainingPipeline(config, tmp_path / "run").train()
    (folder,) = (tmp_path / "run" / "logs").rglob("offline-run-*")
    assert "wandb sync" in caplog.text
    assert list((folder / "files" / "media" / "images").glob("predictions_*.png"))
    (file,) = folder.glob("*.wandb")
    content = file.read_bytes()
    for name in (b"train/loss/KEYPOINTS_3D", b"train/learning_rate", b"val/mpjpe_mm"):
        assert name in content, name


def test_crops_warped_on_the_device_train_alike(tiny, tmp_path):
    """The first losses differ by the loader's rounding only."""
    losses = []
    for place in ("loader", "device"):
        TrainingPipeline(tiny(max_steps=2, warp_on=place), tmp_path / place).train()
        rows = pq.read_table(tmp_path / place / "training.parquet").to_pylist()
        losses.append([row["value"] for row in rows if (row["split"], row["metric"]) == ("train", "loss")])
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_the_module_trains_under_any_lightning_trainer(tiny, hand_data, tmp_path):
    """As a library: a mapping for a configuration, directories as arguments, a plain Trainer."""
    config = tiny().model_dump(mode="json")
    config["training_data_dir"] = "nowhere"
    shards = hand_data / "shards"
    module = EnhancedHaWoRTrainer(config, shards, validation_data_dir=shards, use_adaptive_weights=False)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=2, val_check_interval=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, default_root_dir=tmp_path, use_distributed_sampler=False,
    )  # fmt: skip
    before = module.model.mano_head.pose_output.weight.detach().clone()
    trainer.fit(module)
    assert trainer.global_step == 2
    assert not torch.equal(module.model.mano_head.pose_output.weight, before)
    assert trainer.callback_metrics["val/mpjpe_mm"] > 0


def test_learning_rate_warms_up_and_falls():
    factors = [learning_rate_factor(step, 10, 100, 0.01) for step in range(101)]
    assert factors[0] == pytest.approx(1 / 11) and factors[10] == 1.0
    assert factors[55] == pytest.approx(0.505) and factors[100] == pytest.approx(0.01)
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_table_drops_what_a_killed_run_logged_past_its_checkpoint(tmp_path: Path):
    table = TrainingTable(tmp_path / "training.parquet")
    for step in (1, 2, 3):
        table.add(step, 0, "train", {"loss": step})
    table.flush()
    again = TrainingTable(tmp_path / "training.parquet")
    again.resume(2)
    again.add(3, 0, "train", {"loss": 30.0})
    again.flush()
    assert [(row["step"], row["value"]) for row in pq.read_table(table.path).to_pylist()] == [(1, 1), (2, 2), (3, 30)]


def test_missing_body_model_is_a_configuration_error(tiny, monkeypatch, tmp_path):
    monkeypatch.delenv("MANO_DIR", raising=False)
    monkeypatch.chdir(tmp_path)  # a project without a sample, whose hand would be found
    with pytest.raises(ConfigError, match="mano_model_path"):
        EnhancedHaWoRTrainer(tiny(mano_model_path=None))


def test_augmented_batches_differ_between_epochs_only(tiny):
    module = EnhancedHaWoRTrainer(tiny(augmentation_params=AugmentationParams(rotation_range=40)))
    first = next(iter(module.data.training_loader(epoch=1, first_batch=2)))
    again = list(module.data.training_loader(epoch=1))[2]
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.target.rotmats, again.target.rotmats)
    other = list(module.data.training_loader(epoch=2))[2]
    assert not torch.equal(first.images, other.images)
