"""Migration of configurations of the original training and evaluation system; keys are kept, renamed or dropped.

The original reads some settings at the top level and others from sections (`training`, `hardware`, ...), in YAML or
JSON; its shipped files use both forms. Both are understood. Every key appears once in the report, with
the reason, and the result is validated by the schema.

Source: FBB0/HaWoR, `ENHANCED_TRAINING_EVALUATION_README.md` and the files of its `configs/` (names of keys only).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hawor_pipeline.config import (
    LOSS_TERMS,
    AugmentationParams,
    DataFiltering,
    TrainingConfig,
    build,
    commented_yaml,
    read_yaml,
)
from hawor_pipeline.errors import ConfigError, nearest

Fate = Literal["kept", "renamed", "dropped"]
_MAIN_SECTIONS = ("data", "model", "training", "loss", "evaluation", "logging", "hardware", "output", "paths")
_SIDE_SECTIONS = ("arctic", "arctic_settings", "experimental", "advanced_losses", "data_loading")
SECTIONS = frozenset((*_MAIN_SECTIONS, *_SIDE_SECTIONS, "optimizer_params", "scheduler_params"))
GROUPS: dict[str, tuple[str, ...]] = {
    "augmentation_params": tuple(AugmentationParams.model_fields),
    "data_filtering": tuple(DataFiltering.model_fields),
    "loss_weights": LOSS_TERMS,
}
RENAMED = {
    "weights": "loss_weights",
    "img_size": "image_size",
    "sequence_length": "clip_length",
    "lr_scheduler": "scheduler",
    "patience": "early_stopping_patience",
    "augmentation": "use_augmentation",
    "eta_min": "min_lr",
    "save_dir": "output_dir",
    "random_seed": "seed",
}
_KEYS_BY_REASON = {
    "one key names the body model: mano_model_path": "mano_data_dir",
    "MANO has one model per side, none per gender": "mano_gender",
    "the mean pose comes from the training shards": "mano_mean_params",
    "MANO's 15 joints are fixed": "num_hand_joints",
    "the 21 joints are fixed": "num_joints",
    "belongs to the body model, not to hands": "create_body_pose",
    "given to `prepare --arctic-root` or $ARCTIC_ROOT; training reads shards": "arctic_data_root data_root",
    "shards name their source": "dataset",
    "decided when shards are made: `prepare --subjects --max-sequences-per-subject`": (
        "subjects max_sequences max_sequences_per_subject images_per_camera"
    ),
    "all subjects of the shards that are not validated on; choose with `prepare --subjects`": "train_subjects",
    "decided when shards are made: `prepare --views`": "use_multiple_cameras",
    "sequences shorter than a clip are padded and masked": "min_sequence_length",
    "clips are cut from whole sequences": "max_sequence_length",
    "follows from backbone_size": "patch_size",
    "there is one network": "name",
    "part of the network's definition": "dropout activation",
    "pretrained_weights names the file, or is null": "pretrained use_pretrained load_weights",
    "`train --resume PATH` continues a run; pretrained_weights starts from weights": "checkpoint_path",
    "cosine runs to the last planned step; plateau has its own factor and patience": (
        "cosine_restarts lr_decay_factor lr_decay_patience T_max"
    ),
    "the optimiser's defaults, which are the original's values": "betas eps",
    "not offered": "amsgrad use_swa use_gradient_centralization use_lookahead",
    "losses are means over what is valid": "loss_reduction",
    "the keypoint terms mix MSE, L1 and Huber": "use_huber_loss",
    "Huber's scale belongs to the term": "huber_delta",
    "MESH_VERTICES uses MANO's vertex correspondence": "use_chamfer_loss chamfer_weight",
    "BETAS is the only prior": "regularization_weight",
    "val_check_interval decides when to validate": "eval_every_n_epochs",
    "every metric is always written; select by name in the tables": "eval_metrics",
    "validation uses batch_size": "val_batch_size",
    "log_dir holds TensorBoard's files": "tensorboard_log_dir",
    "one key: log_every_n_steps": "log_metrics_every_n_steps log_steps",
    "log_images_every_n_steps decides when predictions are drawn": "render_log render_frequency num_render_samples",
    "no parameter is unused": "find_unused_parameters",
    "the network has no batch normalisation": "sync_batchnorm",
    "one key decides it: precision": "use_amp amp_level",
    "has a fixed place inside output_dir": "checkpoint_dir",
    "reports lie beside the runs, under data/reports": "report_dir",
    "the last checkpoint is always kept": "save_last",
    "use `preflight`": "fast_dev_run",
    "use `preflight`, which overfits one clip": "overfit_batches",
    "evaluation always covers its whole protocol": "limit_test_batches",
    "memory is always logged": "monitor_gpu_memory",
    "throughput and data_wait_share are always logged": "monitor_cpu_usage",
    "a full disk is an error that loses nothing": "monitor_disk_usage",
    "Dagster's run-failure sensor notifies": "enable_alerts",
    "nonfinite_policy and the asset checks watch training": "alert_conditions",
    "not a loss of hand meshes": "use_focal_loss use_dice_loss use_contrastive_loss",
    "one key: pin_memory": "use_pin_memory",
    "shards are memory-mapped": "use_shared_memory",
}
DROPPED = {key: reason for reason, keys in _KEYS_BY_REASON.items() for key in keys.split()}
_FOREIGN_TERM = "a term of another definition; see KEYPOINTS_3D and the other eight terms"


@dataclass(frozen=True, slots=True)
class KeyFate:
    """Fate of one key: its dotted name in the old file, the fate, and the new key or the reason."""

    key: str
    fate: Fate
    note: str = ""
    sets: Mapping[str, Any] = field(default_factory=dict, compare=False)  # settings of the new configuration


@dataclass(slots=True)
class Migration:
    """A translated configuration and the fate of every key of the old one."""

    config: TrainingConfig
    fates: list[KeyFate] = field(default_factory=list)

    def of(self, fate: Fate) -> list[KeyFate]:
        """Return the keys with a fate."""
        return [each for each in self.fates if each.fate == fate]

    def report(self) -> str:
        """Describe each key in a line, by fate."""
        lines = []
        for fate in ("kept", "renamed", "dropped"):
            keys = self.of(fate)  # type: ignore[arg-type]
            lines.append(f"{fate}: {len(keys)}")
            lines += [f"  {each.key}{': ' if each.note else ''}{each.note}" for each in keys]
        return "\n".join(lines)

    def to_yaml(self) -> str:
        """Return the new configuration with every key explained, after a list of renamed and dropped keys."""
        moved = [f"# {each.key}: {each.fate}, {each.note}" for each in self.fates if each.fate != "kept"]
        return "\n".join(["# Migrated configuration.", *moved]) + "\n" + commented_yaml(self.config)


def migrate_file(path: Path | str) -> Migration:
    """Translate a configuration file of the original system.

    Args:
        path: YAML or JSON file.

    Raises:
        ConfigError: the file is missing or unreadable, or kept values contradict each other.
    """
    path = Path(path)
    if path.suffix == ".json" and path.is_file():
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{path} holds {type(values).__name__}, expected a mapping of settings")
    else:
        values = read_yaml(path, refuse_duplicates=False)  # as the original reads them
    return migrate(values, origin=str(path))


def migrate(values: Mapping[str, Any], *, origin: str) -> Migration:
    """Translate the settings of the original system.

    Raises:
        ConfigError: kept values contradict each other.
    """
    new: dict[str, Any] = {}
    fates: list[KeyFate] = []
    for dotted, name, value in _settings(values):
        fate = _fate(dotted, name, value)
        for key, item in fate.sets.items():
            if key in new and isinstance(item, dict) and isinstance(new[key], dict):
                item = {**new[key], **item}
            elif key in new and new[key] != item:
                raise ConfigError(f"{origin}: {dotted} sets {key}: {item!r}, another key sets {new[key]!r}; keep one")
            new[key] = item
        fates.append(fate)
    return Migration(build(TrainingConfig, new, origin=origin), fates)


def _settings(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yield (dotted name, name, value) of every setting, with sections and groups flattened."""
    for name, value in values.items():
        group = RENAMED.get(name, name)
        if isinstance(value, Mapping) and (name in SECTIONS or group in GROUPS):
            if group in GROUPS:
                for inner, item in value.items():
                    yield f"{prefix}{name}.{inner}", f"{group}.{inner}", item
            else:
                yield from _settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", name, value


def _fate(dotted: str, name: str, value: Any) -> KeyFate:
    """Decide the fate of one setting."""
    group, _, inner = name.partition(".")
    if inner:
        return _group_fate(dotted, group, inner, value)
    special = _special(dotted, name, value)
    if special is not None:
        return special
    new = RENAMED.get(name, name)
    if new in TrainingConfig.model_fields:
        changed, note = _value(new, value)
        try:
            build(TrainingConfig, {new: changed}, origin=dotted)
        except ConfigError as error:
            default = TrainingConfig.model_fields[new].default
            return KeyFate(dotted, "dropped", f"not valid here, {new} is {default!r}: {_short(error, dotted)}")
        if new != name:
            note = f"now {new}" + (f"; {note}" if note else "")
        return KeyFate(dotted, "kept" if new == name else "renamed", note, {new: changed})
    if name in DROPPED:
        return KeyFate(dotted, "dropped", DROPPED[name])
    if name.endswith("_loss_weight"):
        return KeyFate(dotted, "dropped", _FOREIGN_TERM)
    guess = nearest(name, list(TrainingConfig.model_fields))
    return KeyFate(dotted, "dropped", f"known to neither system.{guess}")


def _group_fate(dotted: str, group: str, inner: str, value: Any) -> KeyFate:
    if inner in GROUPS[group]:
        moved = not dotted.endswith(f"{group}.{inner}")
        try:
            build(TrainingConfig, {group: {inner: value}}, origin=dotted)
        except ConfigError as error:
            return KeyFate(dotted, "dropped", f"not valid here, the default is used: {_short(error, dotted)}")
        fate: Fate = "renamed" if moved else "kept"
        return KeyFate(dotted, fate, f"now {group}.{inner}" if moved else "", {group: {inner: value}})
    reason = _FOREIGN_TERM if group == "loss_weights" else f"known to neither system.{nearest(inner, GROUPS[group])}"
    return KeyFate(dotted, "dropped", reason)


def _special(dotted: str, name: str, value: Any) -> KeyFate | None:
    """Decide the fate of keys that have another form here."""
    if name == "backbone_type" and str(value).startswith("vit_"):
        size = str(value).removeprefix("vit_")
        sets = {"backbone_type": "vit", "backbone_size": size}
        return KeyFate(dotted, "renamed", f"now backbone_type vit and backbone_size {size}", sets)
    if name == "device":
        return KeyFate(dotted, "renamed", "now accelerator", {"accelerator": value})
    if name == "use_ema":
        return KeyFate(dotted, "renamed", "now ema_decay (0 is off)", {"ema_decay": 0.999 if value else 0.0})
    return None


def _value(key: str, value: Any) -> tuple[Any, str]:
    """Convert a value to the new schema; return it with a note if it changed."""
    if key == "torch_compile":
        return int(value), ""
    if key == "image_size" and isinstance(value, int) and value % 64:
        size = max(64, 64 * round(value / 64))
        return size, f"{value} became {size}: the network's window needs a multiple of 64"
    if key == "monitor" and value == "val_loss":
        return "val/loss", "val_loss is written val/loss"
    return value, ""


def _short(error: ConfigError, origin: str) -> str:
    return str(error).removeprefix(f"{origin}: ")
