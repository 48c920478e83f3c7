"""A configuration key means the same for every way to start training."""

import lightning.pytorch as pl
import pytest
import torch
import yaml

from hawor_pipeline.config import TrainingConfig, dump_config
from hawor_pipeline.core.weighting import DEFAULT_WEIGHTS
from hawor_pipeline.errors import ConfigError
from hawor_pipeline.provenance import atomic_write_json
from hawor_pipeline.shards.splits import PROTOCOLS_FILE, SplitProtocol
from hawor_pipeline.training import fit, preflight
from hawor_pipeline.training.fit import TrainingPipeline
from hawor_pipeline.training.module import EnhancedHaWoRTrainer
from hawor_pipeline.training.stopping import between_steps, validation_follows
from hawor_pipeline.training.trial import Trial

# A value besides the default of every key; those of one legal value besides None are not here.
CHANGES = {
    "image_size": 128, "backbone_size": "small", "patch_embed": "patch16", "from_scratch": True,
    "frozen_backbone": True, "activation_checkpointing": True, "torch_compile": 1, "st_module": False,
    "motion_module": False, "st_hdim": 64, "motion_hdim": 64, "st_nlayer": 2, "motion_nlayer": 2, "clip_length": 2,
    "clip_stride": 1, "max_epochs": 3, "max_steps": 7, "max_hours": 1.0, "batch_size": 4, "micro_batches": 2,
    "learning_rate": 2e-3, "weight_decay": 0.1, "min_lr": 1e-6, "warmup_epochs": 2.0, "optimizer": "sgd",
    "scheduler": "plateau", "plateau_patience": 1, "plateau_factor": 0.1, "grad_clip_val": 0.5,
    "accumulate_grad_batches": 2, "ema_decay": 0.9, "early_stopping_patience": 2, "early_stopping_min_delta": 0.1,
    "nonfinite_policy": "skip", "seed": 7, "deterministic": False, "use_enhanced_loss": False,
    "use_adaptive_weights": False, "temporal_window": 2, "loss_weights": {"BETAS": 0.5}, "loss_weighting": "static",
    "val_subjects": ["s01"], "val_fraction": 0.3, "num_workers": 1, "pin_memory": False, "prefetch_factor": 3,
    "persistent_workers": False, "use_augmentation": False, "warp_on": "device",
    "augmentation_params": {"rotation_range": 5.0}, "data_filtering": {"min_confidence": 0.1}, "devices": 1,
    "precision": "64", "strategy": "ddp", "num_nodes": 2, "num_threads": 2, "use_tensorboard": True, "use_wandb": True,
    "wandb_project": "p", "wandb_entity": "e", "experiment_name": "n", "log_every_n_steps": 3,
    "log_images_every_n_steps": 3, "val_check_interval": 2, "limit_train_batches": 2, "limit_val_batches": 1,
    "output_dir": "o", "log_dir": "l", "save_top_k": 2, "save_every_n_epochs": 2, "save_every_n_steps": 2,
    "monitor": "val/loss", "accelerator": "auto",
}  # fmt: skip
FILES = {"pretrained_weights", "training_data_dir", "validation_data_dir", "mano_model_path"}  # set in every test here
ONE_VALUE = {"backbone_type", "mode"}
# A few keys at a time; keys that belong together have neighbouring names and come into different groups.
GROUPS = [sorted(CHANGES)[start::6] for start in range(6)]


class _Made(Exception):
    """Carries the module out of an entry point, in place of training it."""


def _of_pipeline(config, folder, monkeypatch):
    def made(self, module, **_):
        raise _Made(module)

    monkeypatch.setattr(pl.Trainer, "fit", made)
    monkeypatch.setattr(fit, "build_loggers", lambda *_: [])
    monkeypatch.setattr(fit, "build_trainer", lambda config, *_: pl.Trainer(accelerator="cpu", logger=False))
    with pytest.raises(_Made) as caught:
        TrainingPipeline(config, folder / "run").train(None)
    assert yaml.safe_load((folder / "run" / "config.yaml").read_text()) == caught.value.args[0].hparams["config"]
    return caught.value.args[0]


def _of_preflight(config, monkeypatch):
    def made(module, device):
        raise _Made(module)

    monkeypatch.setattr(preflight, "Trial", made)
    with pytest.raises(_Made) as caught:
        preflight.preflight(config, torch.device("cpu"))
    return caught.value.args[0]


def _state(module: EnhancedHaWoRTrainer) -> dict:
    """Everything that the configuration decides of a module, as plain values."""
    (optimizer, *_) = [module.configure_optimizers()["optimizer"]] if module.trainer else [None]
    return {
        "config": module.config.model_dump(mode="json"),
        "hyper_parameters": dict(module.hparams),
        "weights": {name: value.double().sum().item() for name, value in module.state_dict().items()},
        "trained": [name for name, value in module.named_parameters() if value.requires_grad],
        "modes": [part.training for part in module.modules()],
        "compiled": module.model._compiled_call_impl is not None,
        "loss": (module.loss.weighting.mode, module.loss.weighting.static.tolist(), module.loss.temporal_window),
        "passes": module.loss.accumulate_grad_batches,
        "split": module.data.split.to_dict(),
        "clips": (len(module.data.training_clips), len(module.data.validation_clips)),
        "steps": (module.steps_per_epoch(), module.total_steps()),
        "optimizer": [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups],
    }


@pytest.fixture
def one_process(monkeypatch):
    """Lets a module without a trainer count its steps."""
    monkeypatch.setattr(EnhancedHaWoRTrainer, "trainer", pl.Trainer(accelerator="cpu", logger=False), raising=False)


def test_every_key_is_compared():
    assert set(CHANGES) | FILES | ONE_VALUE == set(TrainingConfig.model_fields)
    assert not set(CHANGES) & (FILES | ONE_VALUE)


@pytest.mark.parametrize("keys", GROUPS, ids="+".join)
def test_every_way_to_start_training_makes_the_same_module(keys, tiny, tmp_path, monkeypatch, one_process):
    config = tiny(**{key: CHANGES[key] for key in keys})
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    (tmp_path / "c.yaml").write_text(dump_config(config))
    module = EnhancedHaWoRTrainer(config)
    expected = _state(module)
    assert expected["config"] == config.model_dump(mode="json")
    others = {
        "mapping": EnhancedHaWoRTrainer(config.model_dump(mode="json")),
        "file": EnhancedHaWoRTrainer(tmp_path / "c.yaml"),
        "checkpoint": EnhancedHaWoRTrainer(**module.hparams),
        "pipeline": _of_pipeline(config, tmp_path, monkeypatch),
        "preflight": _of_preflight(config, monkeypatch),
    }
    for way, other in others.items():
        assert _state(other) == expected, way


@pytest.mark.parametrize("enhanced", [True, False])
@pytest.mark.parametrize("adaptive", [True, False])
def test_an_argument_overrides_the_configuration_and_a_checkpoint_keeps_it(tiny, enhanced, adaptive):
    config = tiny(use_enhanced_loss=not enhanced, use_adaptive_weights=not adaptive)
    module = EnhancedHaWoRTrainer(config, use_enhanced_loss=enhanced, use_adaptive_weights=adaptive)
    assert (module.loss.weights()["MESH_FACES"] > 0) == enhanced
    assert (module.loss.weighting.mode == "ema") == adaptive
    again = EnhancedHaWoRTrainer(**module.hparams)
    assert again.config == module.config
    assert again.loss.weights() == module.loss.weights() and again.loss.weighting.mode == module.loss.weighting.mode


def test_given_folders_are_kept_by_a_checkpoint(tiny, hand_data):
    shards = hand_data / "shards"
    module = EnhancedHaWoRTrainer(tiny(training_data_dir="nowhere"), shards, validation_data_dir=shards)
    again = EnhancedHaWoRTrainer(**module.hparams)
    assert (again.config.training_data_dir, again.config.validation_data_dir) == (str(shards), str(shards))
    assert again.data.split == module.data.split


def test_a_file_of_loss_weights_is_read_however_the_settings_are_given(tiny, tmp_path):
    (tmp_path / "w.yaml").write_text("BETAS: 0.5\n")
    config = tiny(loss_weights=str(tmp_path / "w.yaml"))
    values = config.model_dump(mode="json") | {"loss_weights": str(tmp_path / "w.yaml")}
    for given in (config, values, tiny().changed(loss_weights=str(tmp_path / "w.yaml"))):
        weights = EnhancedHaWoRTrainer(given, use_adaptive_weights=False).loss.weights()
        expected = {**DEFAULT_WEIGHTS, "BETAS": 0.5}
        assert {name: value.item() for name, value in weights.items()} == pytest.approx(expected)
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        tiny(loss_weights=str(tmp_path / "none.yaml"))


def test_recorded_protocols_decide_the_split_of_every_way(tiny, hand_data, tmp_path, monkeypatch, one_process):
    """Members of a mixture share a subject that one of them states for validation: it is held out of both."""
    members = []
    for name, val in (("one", ["s05"]), ("two", ["s01"])):
        shards = tmp_path / name
        shards.mkdir()
        for entry in (hand_data / "shards").iterdir():
            (shards / entry.name).symlink_to(entry)
        subjects = {"train": ["s07"], "val": val, "test": []}
        protocol = SplitProtocol("p1", (1,), subjects, {"train": [], "val": [], "test": []}, "published")
        atomic_write_json(shards / PROTOCOLS_FILE, {"p1": protocol.to_dict()})
        members.append({"path": str(shards)})
    single = tiny(training_data_dir=members[1:])
    assert EnhancedHaWoRTrainer(single).data.split.validation == ["s01"]
    assert _of_pipeline(single, tmp_path, monkeypatch).config.val_subjects == ["s01"]
    with pytest.raises(ConfigError, match="nothing to train on"):
        EnhancedHaWoRTrainer(tiny(training_data_dir=members))


@pytest.mark.parametrize(("precision", "dtype"), [("64", torch.float64), ("bf16-true", torch.bfloat16)])
def test_trial_steps_have_the_configured_precision(tiny, precision, dtype):
    module = EnhancedHaWoRTrainer(tiny(precision=precision))
    trial = Trial(module, torch.device("cpu"))
    assert trial.step(next(iter(module.data.training_loader()))) > 0
    assert {parameter.dtype for parameter in module.model.parameters()} == {dtype}


def test_validation_aligns_in_full_precision_under_bf16(tiny, tmp_path):
    """Autocast would run the matrix products of the alignment in bfloat16, which NumPy has no type for."""
    trainer, _ = TrainingPipeline(tiny(precision="bf16", max_steps=1, val_check_interval=1), tmp_path).train()
    assert 0 < float(trainer.callback_metrics["val/pa_mpjpe_mm"]) < float(trainer.callback_metrics["val/mpjpe_mm"])


def test_preflight_sets_threads_and_determinism(tiny, monkeypatch):
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    was = torch.are_deterministic_algorithms_enabled()
    try:
        for deterministic in (False, True):
            _of_preflight(tiny(num_threads=3, deterministic=deterministic), monkeypatch)
            assert torch.are_deterministic_algorithms_enabled() == deterministic
    finally:
        torch.use_deterministic_algorithms(was)
    assert threads == [3, 3]


class _Forecast(pl.Callback):
    """Compares what `stopping` expects after every batch with what Lightning then does."""

    def __init__(self):
        self.expected, self.happened, self.steps = [], [], []
        self._step = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.expected.append(validation_follows(trainer))
        self.happened.append(False)
        self.steps.append((between_steps(trainer), trainer.global_step == self._step))
        self._step = trainer.global_step

    def on_validation_start(self, trainer, pl_module):
        self.happened[-1] = True


@pytest.mark.parametrize("interval", [1.0, 0.5, 2.0, 3, 5])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_validations_and_steps_are_foreseen(tiny, tmp_path, monkeypatch, interval, accumulate):
    """Four batches are an epoch."""
    forecast, build = _Forecast(), fit.build_trainer
    monkeypatch.setattr(fit, "build_trainer", lambda c, d, callbacks: build(c, d, [forecast, *callbacks]))
    config = tiny(max_steps=-1, max_epochs=3, val_check_interval=interval, accumulate_grad_batches=accumulate)
    TrainingPipeline(config, tmp_path).train()
    assert len(forecast.expected) == 12 and any(forecast.happened)
    assert forecast.expected == forecast.happened
    assert all(foreseen == found for foreseen, found in forecast.steps)
