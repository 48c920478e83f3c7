"""One schema for every setting: the source of the YAML files, their JSON schema and the reference in the docs.

Keys are flat except the small groups `augmentation_params` and `data_filtering`. Unknown keys fail with the nearest
known name. What belongs to a machine (roots, devices present) is not configured here.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, Self, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from hawor_pipeline.config_problems import explain_problems
from hawor_pipeline.errors import ConfigError, nearest

LOSS_TERMS = (
    "KEYPOINTS_3D",
    "KEYPOINTS_2D",
    "GLOBAL_ORIENT",
    "HAND_POSE",
    "BETAS",
    "MESH_VERTICES",
    "MESH_FACES",
    "TEMPORAL_CONSISTENCY",
    "OCCLUSION_ROBUSTNESS",
)
DEFAULT_LOSS_WEIGHTS: dict[str, float] = {
    "KEYPOINTS_3D": 0.1,
    "KEYPOINTS_2D": 0.05,
    "GLOBAL_ORIENT": 0.01,
    "HAND_POSE": 0.01,
    "BETAS": 0.005,
    "MESH_VERTICES": 0.02,
    "MESH_FACES": 0.01,
    "TEMPORAL_CONSISTENCY": 0.005,
    "OCCLUSION_ROBUSTNESS": 0.01,
}
# What a run can be judged by; a mixture has the first three for each dataset too, as "val/mpjpe_mm/NAME".
PER_DATASET = ("val/mpjpe_mm", "val/pa_mpjpe_mm", "val/loss")
MONITORS = (*PER_DATASET, *(f"val/loss/{term}" for term in LOSS_TERMS))
STATIC_VIEWS = tuple(range(1, 9))
ALL_VIEWS = (0, *STATIC_VIEWS)

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0.0)]
Size = Annotated[int, Field(ge=32)]


class Settings(BaseModel):
    """Base of all settings: frozen, and strict about names."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def changed(self, **values: Any) -> Self:
        """A copy with some values replaced, validated again.

        Raises:
            ConfigError: they do not fit.
        """
        return build(type(self), {**self.model_dump(), **values}, origin="changed settings")


class AugmentationParams(Settings):
    """Random changes of a training clip; the same for all frames of the clip, labels follow exactly."""

    rotation_range: Annotated[float, Field(ge=0.0, le=180.0, description="In-plane roll, +- degrees.")] = 30.0
    translation_range: Annotated[float, Field(ge=0.0, le=0.5, description="Shift of the box, +- share of it.")] = 0.1
    scale_range: Annotated[float, Field(ge=0.0, lt=0.5, description="Scale of the box, +- share of it.")] = 0.2
    color_jitter: Annotated[float, Field(ge=0.0, le=1.0, description="Gain per colour channel, +- share.")] = 0.2
    flip_probability: Share = Field(
        0.0,
        description="Share of clips mirrored whole: picture, camera, labels and side. The network sees every hand as a "
        "right one, so a mirrored clip differs by its side alone.",
    )


class DataFiltering(Settings):
    """Which rows of the shards take part in training."""

    min_confidence: Share = Field(0.0, description="Rows below this confidence are left out.")
    max_occlusion_level: Share = Field(1.0, description="Rows with a larger share of hidden joints are left out.")
    min_keypoint_visibility: Share = Field(0.0, description="Least share of joints inside the picture.")
    max_truncation: Share = Field(1.0, description="Largest share of the hand's surface outside the picture.")
    max_blur: Share = Field(1.0, description="Largest blur, from 0 (sharp) to 1.")
    max_fitting_err: NonNegative | None = Field(
        None, description="Largest error of the fit that made the label, in the data set's own unit; null: any."
    )
    views: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None, description="Only pictures of these cameras train and validate (ARCTIC: 0 egocentric, 1..8 static)."
    )


class DatasetShare(Settings):
    """One member of a mixture of datasets."""

    path: str = Field(description="Folder or URL of its shards.")
    weight: Annotated[float, Field(gt=0.0, description="Its share of the clips, relative to the others'.")] = 1.0


class TrainingConfig(Settings):
    """Everything that defines one training run."""

    # picture and network
    image_size: Annotated[int, Field(multiple_of=64, ge=64)] = Field(
        256, description="Side of the square crop, px; the network sees the middle 3/4 of its width."
    )
    backbone_type: Literal["vit"] = Field("vit", description="Kind of backbone; there is one.")
    backbone_size: Literal["tiny", "small", "base", "large", "huge"] = Field(
        "base", description="Depth and width of the ViT, from tiny (1.6 M weights) to huge (631 M, as released)."
    )
    patch_embed: Literal["auto", "conv_stem", "patch16"] = Field(
        "auto", description="How pixels become tokens; auto: conv_stem for tiny and small, patch16 above."
    )
    pretrained_weights: str | None = Field(
        None,
        description="Checkpoint to start from, ours or of HaWoR, HaMeR, WiLoR or ViTPose; null: random weights.",
    )
    from_scratch: bool = Field(False, description="Allow a huge backbone without pretrained weights.")
    frozen_backbone: bool = Field(False, description="Train only what is behind the backbone; saves memory and time.")
    activation_checkpointing: bool = Field(
        False,
        description="Compute the backbone's layers again in the backward pass instead of keeping them: less memory.",
    )
    torch_compile: int = Field(0, ge=0, le=1, description="1 compiles the network.")
    st_module: bool = Field(True, description="Image attention over time.")
    motion_module: bool = Field(True, description="Pose attention over time.")
    st_hdim: PositiveInt = Field(512, description="Width of the image attention over time.")
    motion_hdim: PositiveInt = Field(384, description="Width of the pose attention over time.")
    st_nlayer: PositiveInt = Field(6, description="Layers of the image attention over time.")
    motion_nlayer: PositiveInt = Field(6, description="Layers of the pose attention over time.")
    clip_length: PositiveInt = Field(16, description="Frames per clip.")
    clip_stride: PositiveInt = Field(8, description="Frames between the starts of training clips.")
    # optimisation
    max_epochs: PositiveInt = Field(
        100, description="Passes over as many clips as there are; a mixture draws them by weight."
    )
    max_steps: int = Field(-1, ge=-1, description="Optimiser steps; -1: no limit besides max_epochs.")
    max_hours: float | None = Field(
        None,
        gt=0.0,
        description="Training stops after this long, over all pieces of an interrupted run; null: no limit.",
    )
    batch_size: PositiveInt = Field(8, description="Clips per step and device.")
    micro_batches: PositiveInt = Field(
        1, description="Parts that a batch is computed in, to save memory: same clips per optimiser step."
    )
    learning_rate: Annotated[float, Field(gt=0.0)] = Field(
        1e-5, description="Highest learning rate, after the warm-up."
    )
    weight_decay: NonNegative = Field(1e-4, description="Of the optimiser; norms and biases have none.")
    min_lr: NonNegative = Field(1e-7, description="Least learning rate: where cosine ends, what plateau stops at.")
    warmup_epochs: NonNegative = Field(1.0, description="May be a fraction of an epoch.")
    optimizer: Literal["adamw", "adam", "sgd"] = Field("adamw", description="The optimiser.")
    scheduler: Literal["cosine", "plateau", "constant"] = Field(
        "cosine", description="Course of the learning rate after the warm-up."
    )
    plateau_patience: Annotated[int, Field(ge=0)] = Field(
        3, description="Scheduler plateau: validations without a better `monitor` before the rate falls."
    )
    plateau_factor: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        0.5, description="Scheduler plateau: what the rate is multiplied by, down to min_lr."
    )
    grad_clip_val: NonNegative = Field(
        1.0, description="Longest gradient (norm over all weights); longer ones are shortened. 0: never."
    )
    accumulate_grad_batches: PositiveInt = Field(1, description="Batches whose gradients one optimiser step averages.")
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="Average the weights with this decay; validation and checkpoints use the average. 0: off."
    )
    early_stopping_patience: Annotated[int, Field(ge=0)] = Field(10, description="Validations; 0 switches it off.")
    early_stopping_min_delta: NonNegative = Field(
        0.0, description="By how much `monitor` must be better to count, in its unit."
    )
    nonfinite_policy: Literal["stop", "skip"] = Field(
        "stop",
        description="A loss that is not finite: stop and name it, or skip the batch (and stop after 10 in a row).",
    )
    seed: Annotated[int, Field(ge=0)] = Field(42, description="Of weights, order, augmentation and dropout.")
    deterministic: bool = Field(
        True,
        description="Prefer operations whose result does not vary from run to run; on a GPU those without one warn.",
    )
    # losses
    use_enhanced_loss: bool = Field(
        True, description="All nine loss terms; false: keypoints, rotations and shape only."
    )
    use_adaptive_weights: bool = Field(
        True, description="Whether weights follow the levels of the losses; `loss_weighting` says how."
    )
    temporal_window: PositiveInt = Field(
        5, description="The temporal term takes velocities and accelerations over 1 to this many less one frames."
    )
    loss_weights: dict[str, Weight] | str | None = Field(
        None, description="Term to weight (a partial mapping changes only what it names), or the path of a YAML file."
    )
    loss_weighting: Literal["static", "ema", "gradnorm_head"] | None = Field(
        None, description="null: ema with adaptive weights, static without."
    )
    # data
    training_data_dir: str | list[DatasetShare] = Field(
        "data/shards/synthetic",
        description="Shards to train on: a folder or URL, or a list of `{path, weight}` to mix.",
    )
    validation_data_dir: str | None = Field(
        None, description="Shards to validate on; null: part of those of training, see val_subjects and val_fraction."
    )
    val_subjects: list[str] | None = Field(None, description="null: the validation subjects of the protocol.")
    val_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] | None = Field(
        None, description="Validate on this share of whole sequences instead of on subjects."
    )
    num_workers: Annotated[int, Field(ge=0)] = Field(
        4, description="Loader processes; 0 reads in the training process."
    )
    pin_memory: bool = Field(True, description="Page-locked batches, which reach a GPU faster.")
    prefetch_factor: PositiveInt = Field(2, description="Batches that each loader process keeps ready.")
    persistent_workers: bool = Field(True, description="Keep loader processes between epochs.")
    use_augmentation: bool = Field(
        True, description="Whether training crops are changed at random, as `augmentation_params` says."
    )
    warp_on: Literal["loader", "device"] = Field(
        "loader", description="Where training crops are warped and coloured: loader processes, or the device."
    )
    augmentation_params: AugmentationParams = Field(
        AugmentationParams(), description="How far training crops are changed."
    )
    data_filtering: DataFiltering = Field(DataFiltering(), description="Which samples train and validate.")
    mano_model_path: str | None = Field(None, description="Folder or file of the MANO models.")
    # machine
    devices: int | list[int] | Literal["auto"] = Field(
        "auto", description="How many, which (a list of numbers), or auto."
    )
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = Field(
        "auto", description="Kind of device; auto takes a GPU where there is one."
    )
    precision: str = Field("32", description="16, bf16, 32, or one of Lightning's names.")
    strategy: str = Field("auto", description="Lightning's strategy for several devices, e.g. ddp; auto chooses.")
    num_nodes: PositiveInt = Field(1, description="Machines that train together.")
    num_threads: Annotated[int, Field(ge=0)] = Field(0, description="CPU threads of torch; 0 leaves it to torch.")
    # logging
    use_tensorboard: bool = Field(True, description="Write TensorBoard's files into the run's folder.")
    use_wandb: bool = Field(False, description="Log to Weights & Biases; without a key it stays on this machine.")
    wandb_project: str = Field("hawor-pipeline", description="Project at Weights & Biases.")
    wandb_entity: str | None = Field(None, description="Team or user at Weights & Biases; null: your default.")
    experiment_name: str = Field("hawor", description="Beginning of the run's name.")
    log_every_n_steps: PositiveInt = Field(50, description="Optimiser steps between logged values.")
    log_images_every_n_steps: Annotated[int, Field(ge=0)] = Field(
        0, description="Draw predictions for a few validation hands this often (optimiser steps); 0: never."
    )
    # validation and checkpoints
    val_check_interval: int | float = Field(1.0, gt=0, description="Epochs (float) or steps (int) between validations.")
    limit_train_batches: int | float = Field(
        1.0, gt=0, description="Share (float) or number (int) of an epoch's batches."
    )
    limit_val_batches: int | float = Field(1.0, gt=0, description="Share (float) or number (int) of the batches.")
    output_dir: str = Field("data/runs", description="Where runs are written, a folder each.")
    log_dir: str = Field("logs", description="Folder of the loggers' files, inside the run's.")
    save_top_k: Annotated[int, Field(ge=0)] = Field(
        1, description="How many of the best checkpoints are kept, by `monitor`; at least one is."
    )
    save_every_n_epochs: PositiveInt = Field(1, description="Epochs between saves of `last` at the end of an epoch.")
    save_every_n_steps: Annotated[int, Field(ge=0)] = Field(0, description="Also save `last` this often; 0: by epochs.")
    monitor: str = Field(
        "val/mpjpe_mm", description="Validation metric that chooses the best checkpoint and stops early."
    )
    mode: Literal["min", "max"] = Field(
        "min", description="Whether a smaller (min) or a larger (max) `monitor` is better."
    )

    @field_validator("precision", mode="before")
    @classmethod
    def _known_precision(cls, value: Any) -> str:
        names = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}
        lightning = {"16-mixed", "bf16-mixed", "32-true", "64-true", "16-true", "bf16-true"}
        text = str(value)
        if text not in names and text not in lightning:
            raise ValueError(f"found {value!r}, expected one of 16, bf16, 32, {', '.join(sorted(lightning))}")
        return text

    @field_validator("experiment_name", "log_dir")
    @classmethod
    def _stays_inside(cls, value: str) -> str:
        if not value.strip() or Path(value).is_absolute() or ".." in Path(value).parts:
            raise ValueError(f"found {value!r}, expected a name below the folder that it belongs to, without '..'")
        return value

    @field_validator("loss_weights")
    @classmethod
    def _known_terms(cls, value: dict[str, float] | str | None) -> dict[str, float] | str | None:
        if isinstance(value, dict):
            for term in value:
                if term not in LOSS_TERMS:
                    raise ValueError(f"unknown loss term {term!r}.{nearest(term, LOSS_TERMS)}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> "TrainingConfig":
        if self.precision in ("16", "16-mixed", "16-true") and self.accelerator == "cpu":
            raise ValueError("precision 16 is not available on CPU; use bf16 or 32")
        if self.backbone_size == "huge" and self.pretrained_weights is None and not self.from_scratch:
            raise ValueError(
                "backbone_size huge without pretrained_weights: set pretrained_weights, "
                "or from_scratch: true (--from-scratch) to train 632 M parameters from random weights"
            )
        if self.batch_size % self.micro_batches:
            raise ValueError(f"micro_batches {self.micro_batches} must divide batch_size {self.batch_size}")
        if self.val_subjects is not None and self.val_fraction is not None:
            raise ValueError("val_subjects and val_fraction exclude each other; set one of them")
        if self.min_lr > self.learning_rate:
            raise ValueError(f"min_lr {self.min_lr:g} is above learning_rate {self.learning_rate:g}; lower it")
        if self.mode == "max":
            raise ValueError("mode max would keep the worst checkpoint: every monitor is an error or a loss; use min")
        metric, _, dataset = self.monitor.rpartition("/")
        per_dataset = metric in PER_DATASET and dataset in self.dataset_names
        if self.monitor not in MONITORS and not per_dataset:
            hint = nearest(self.monitor, MONITORS)
            raise ValueError(f"unknown monitor {self.monitor!r}.{hint} Known: {', '.join(MONITORS)}")
        return self

    @property
    def dataset_names(self) -> list[str]:
        """Names of the members of a mixture, for logging; empty without one."""
        if isinstance(self.training_data_dir, str) or len(self.training_data_dir) < 2:
            return []
        paths = [Path(member.path) for member in self.training_data_dir]
        names = [path.name for path in paths]
        return names if len(set(names)) == len(names) else [str(path).replace("/", "_") for path in paths]

    @property
    def passes_per_step(self) -> int:
        """Forward and backward passes of one optimiser step."""
        return self.accumulate_grad_batches * self.micro_batches

    @property
    def lightning_precision(self) -> str:
        """The precision by Lightning's name."""
        return {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}.get(
            self.precision, self.precision
        )


class ConversionConfig(Settings):
    """What a conversion from raw sequences to shards does. A change of any of these reconverts."""

    target_resolution: tuple[Size, Size] = Field((256, 256), description="(height, width) of a crop without margin.")
    views: tuple[int, ...] = Field(ALL_VIEWS, description="0 is the egocentric view, 1..8 are static.")
    box_scale: Annotated[float, Field(ge=1.0)] = Field(
        1.2, description="Side of the box over max(h, 4w/3) of the hand."
    )
    crop_margin: Annotated[float, Field(ge=1.0)] = Field(1.5, description="Side of the stored crop over the box.")
    jpeg_quality: Annotated[int, Field(ge=50, le=100)] = Field(95, description="Of the stored crops.")
    sequences: tuple[str, ...] | None = Field(None, description="Only these sequence names; null: all.")
    max_sequences_per_subject: PositiveInt | None = Field(
        None, description="At most so many sequences of each subject; null: all."
    )
    max_left_out_share: Share = Field(
        0.2,
        description="A sequence fails when a larger share of its hands, or of a view's frames, is left out.",
    )
    min_box_px: NonNegative = Field(20.0, description="Hands whose box is smaller are kept but marked invalid.")
    min_joints_in_frame: Annotated[int, Field(ge=0, le=21)] = Field(
        3, description="Hands with fewer joints in the picture are kept but marked invalid."
    )

    @field_validator("views")
    @classmethod
    def _known_views(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        unknown = [view for view in value if view not in ALL_VIEWS]
        if unknown or not value:
            raise ValueError(f"views {unknown or value} not among 0 (ego) and 1..8 (static)")
        return tuple(sorted(set(value)))

    @field_validator("target_resolution")
    @classmethod
    def _square(cls, value: tuple[int, int]) -> tuple[int, int]:
        if value[0] != value[1]:
            raise ValueError(f"found {value}, expected a square: hand boxes are square")
        return value


class _NumberLoader(yaml.SafeLoader):
    """PyYAML's safe loader that reads 1e-5 as a number, as YAML 1.2 does, and refuses duplicate keys."""


_NumberLoader.yaml_implicit_resolvers = {
    letter: list(resolvers) for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_NumberLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


def _mapping_without_duplicates(loader: yaml.Loader, node: yaml.MappingNode) -> dict:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]  # type: ignore[no-untyped-call]
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigError(f"{node.start_mark.name}: key {key!r} stands there twice; keep one of them")
    loader.flatten_mapping(node)  # type: ignore[attr-defined]
    return dict(loader.construct_pairs(node, deep=True))  # type: ignore[attr-defined]


_NumberLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


class _LastWinsLoader(_NumberLoader):
    """As PyYAML itself: of two equal keys the later one counts."""


_LastWinsLoader.yaml_constructors = yaml.SafeLoader.yaml_constructors


def read_yaml(path: Path | str, *, refuse_duplicates: bool = True) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Args:
        path: the file.
        refuse_duplicates: a key that stands twice is an error; else the later one counts.

    Raises:
        ConfigError: the file is missing, is not YAML, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"configuration file {path} not found; `hawor-pipeline create-config {path}` writes one")
    try:
        with open(path, encoding="utf-8") as file:
            loader = _NumberLoader if refuse_duplicates else _LastWinsLoader
            value = yaml.load(file, Loader=loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds {type(value).__name__}, expected a mapping of settings")
    return value


def parse_value(text: str) -> Any:
    """Read one value as the YAML files do ("1e-5" is a number, "null" is None)."""
    try:
        return yaml.load(text, Loader=_NumberLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"{text!r} is not a YAML value: {error}") from error


def build(schema: type[Settings], values: Mapping[str, Any], *, origin: str) -> Any:
    """Validate values against a schema.

    Args:
        schema: TrainingConfig, ConversionConfig, ...
        values: key to value.
        origin: what to call the source in a message (a path, "command line").

    Raises:
        ConfigError: one line per problem, unknown keys with the nearest known name.
    """
    try:
        return schema.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(f"{origin}: " + "; ".join(explain_problems(schema, error.errors()))) from error


def load_config(path: Path | str, overrides: Mapping[str, Any] | None = None) -> TrainingConfig:
    """Read a training configuration; `overrides` (dotted keys allowed) win over the file.

    Raises:
        ConfigError: missing file, unknown key, wrong value.
    """
    return resolve_config(read_yaml(path), overrides, origin=str(path))


def resolve_config(
    values: Mapping[str, Any], overrides: Mapping[str, Any] | None = None, *, origin: str
) -> TrainingConfig:
    """Validate settings with `overrides` (dotted keys allowed) laid over them; loss weights come from their file."""
    merged: dict[str, Any] = {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()
    }
    for key, value in (overrides or {}).items():
        target = merged
        *parents, last = key.split(".")
        for parent in parents:
            existing = target.get(parent)
            target[parent] = dict(existing) if isinstance(existing, Mapping) else {}
            target = target[parent]
        target[last] = value
    weights = merged.get("loss_weights")
    if isinstance(weights, str):
        merged["loss_weights"] = load_loss_weights(weights)
    return build(TrainingConfig, merged, origin=origin)


def load_loss_weights(path: Path | str) -> dict[str, float]:
    """Read a mapping of loss term to weight from YAML.

    Raises:
        ConfigError: missing file, unknown term, weight that is not a number.
    """
    values = read_yaml(path)
    for term, weight in values.items():
        if term not in LOSS_TERMS:
            raise ConfigError(f"{path}: unknown loss term {term!r}.{nearest(str(term), LOSS_TERMS)}")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not weight >= 0:
            raise ConfigError(f"{path}: weight of {term} is {weight!r}, expected a number that is not negative")
    return {term: float(weight) for term, weight in values.items()}


def dump_config(config: Settings) -> str:
    """The YAML of a configuration, keys in the order of the schema."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def commented_yaml(config: Settings) -> str:
    """A configuration as YAML with the meaning of each key beside it; every key stands there."""
    lines = []
    for name, info in type(config).model_fields.items():
        value = getattr(config, name)
        choices = _choices(info.annotation)
        said = " ".join(filter(None, (info.description, f"One of {', '.join(choices)}." if len(choices) > 1 else "")))
        comment = f"  # {said}" if said else ""
        if isinstance(value, Settings):
            lines.append(f"{name}:{comment}")
            lines += [f"  {line}" if line else line for line in commented_yaml(value).splitlines()]
        elif isinstance(value, dict):
            lines.append(f"{name}:{comment}")
            lines += [f"  {key}: {_scalar(item)}" for key, item in value.items()]
        else:
            lines.append(f"{name}: {_scalar(value)}{comment}")
    return "\n".join(lines) + "\n"


def _choices(annotation: Any) -> list[str]:
    """The words that a setting may be, of those that may be words only."""
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    members = [member for member in get_args(annotation) if member is not NoneType]
    return _choices(members[0]) if len(members) == 1 else []


def _scalar(value: Any) -> str:
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).strip()
    return text.removesuffix("\n...").removesuffix("...").strip()
