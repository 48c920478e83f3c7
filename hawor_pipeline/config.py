"""One schema for every setting: the source of the YAML files, their JSON schema and the reference documentation.

Keys are flat except for the small groups `augmentation_params` and `data_filtering`. An unknown key is an error that
names the nearest known one. Facts about a machine (roots, devices present) are not configured here.
"""

import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, Self, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from hawor_pipeline.config_problems import explain_problems
from hawor_pipeline.errors import ConfigError, nearest

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
LOSS_TERMS = tuple(DEFAULT_LOSS_WEIGHTS)
# Precisions by their names here and by Lightning's.
PRECISIONS = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}
# Validation metrics that `monitor` accepts; a mixture also has the first three per dataset, as "val/mpjpe_mm/NAME".
PER_DATASET = ("val/mpjpe_mm", "val/pa_mpjpe_mm", "val/loss")
MONITORS = (*PER_DATASET, *(f"val/loss/{term}" for term in LOSS_TERMS))
STATIC_VIEWS = tuple(range(1, 9))
ALL_VIEWS = (0, *STATIC_VIEWS)

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0.0)]
Size = Annotated[int, Field(ge=32)]
Count = Annotated[int, Field(ge=0)]
Limit = Annotated[int | float, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]


def _without_tilde(value: str) -> str:
    return str(Path(value).expanduser()) if value.startswith("~") else value


ExpandedPath = Annotated[str, AfterValidator(_without_tilde)]  # "~" is the home folder, as in a shell


class Settings(BaseModel):
    """Base class of all settings: frozen, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def changed(self, **values: Any) -> Self:
        """Return a copy with some values replaced, validated again.

        Raises:
            ConfigError: the new values are not valid.
        """
        return build(type(self), {**self.model_dump(), **values}, origin="changed settings")


class AugmentationParams(Settings):
    """Random augmentation of a training clip: equal for all its frames, and applied to the labels too."""

    rotation_range: Annotated[float, Field(ge=0.0, le=180.0, description="In-plane rotation, +- degrees.")] = 30.0
    translation_range: Annotated[float, Field(ge=0.0, le=0.5, description="Shift of the box, +- share of side.")] = 0.1
    scale_range: Annotated[float, Field(ge=0.0, lt=0.5, description="Scale of the box, +- share of its side.")] = 0.2
    color_jitter: Annotated[float, Field(ge=0.0, le=1.0, description="Gain per colour channel, +- share.")] = 0.2
    flip_probability: Share = Field(
        0.0,
        description="Share of clips that are mirrored: images, camera, labels and side. The network receives every "
        "hand as a right hand, so a mirrored clip differs from the original by its side only.",
    )


class DataFiltering(Settings):
    """Filters on the rows of the shards, for training and validation."""

    min_confidence: Share = Field(0.0, description="Smallest confidence of a row.")
    max_occlusion_level: Share = Field(1.0, description="Largest share of occluded joints.")
    min_keypoint_visibility: Share = Field(0.0, description="Smallest share of joints inside the image.")
    max_truncation: Share = Field(1.0, description="Largest share of the hand's surface outside the image.")
    max_blur: Share = Field(1.0, description="Largest blur, from 0 (sharp) to 1.")
    max_fitting_err: NonNegative | None = Field(
        None, description="Largest fitting error of the label, in the unit of the dataset; null: no limit."
    )
    views: tuple[Count, ...] | None = Field(
        None, description="Cameras to train and validate on (ARCTIC: 0 egocentric, 1..8 static); null: all."
    )


class DatasetShare(Settings):
    """One member of a mixture of datasets."""

    path: ExpandedPath = Field(description="Folder or URL of its shards.")
    weight: Annotated[float, Field(gt=0.0, description="Its share of the clips, relative to the other members.")] = 1.0


class TrainingConfig(Settings):
    """Everything that defines one training run."""

    # image and network
    image_size: Annotated[int, Field(multiple_of=64, ge=64)] = Field(
        256, description="Side of the square crop, px; the network receives the middle 3/4 of its width."
    )
    backbone_type: Literal["vit"] = Field("vit", description="Backbone architecture.")
    backbone_size: Literal["tiny", "small", "base", "large", "huge"] = Field(
        "base", description="Depth and width of the ViT, from tiny (1.6 M weights) to huge (631 M, as released)."
    )
    patch_embed: Literal["auto", "conv_stem", "patch16"] = Field(
        "auto", description="Patch embedding; auto: conv_stem for tiny and small, patch16 for larger backbones."
    )
    pretrained_weights: ExpandedPath | None = Field(
        None, description="Initial weights: a checkpoint of this project, HaWoR, HaMeR, WiLoR or ViTPose; null: random."
    )
    from_scratch: bool = Field(False, description="Allow a huge backbone with random weights.")
    frozen_backbone: bool = Field(False, description="Train only the layers after the backbone; saves memory and time.")
    activation_checkpointing: bool = Field(
        False, description="Recompute the backbone's activations in the backward pass: less memory, slower."
    )
    torch_compile: int = Field(0, ge=0, le=1, description="1: compile the network with `torch.compile`.")
    st_module: bool = Field(True, description="Use temporal attention on image features.")
    motion_module: bool = Field(True, description="Use temporal attention on poses.")
    st_hdim: PositiveInt = Field(512, description="Width of the temporal image attention.")
    motion_hdim: PositiveInt = Field(384, description="Width of the temporal pose attention.")
    st_nlayer: PositiveInt = Field(6, description="Layers of the temporal image attention.")
    motion_nlayer: PositiveInt = Field(6, description="Layers of the temporal pose attention.")
    clip_length: PositiveInt = Field(16, description="Frames per clip.")
    clip_stride: PositiveInt = Field(8, description="Frames between the starts of training clips.")
    # optimisation
    max_epochs: PositiveInt = Field(
        100, description="Epochs of as many clips as the dataset has; a mixture draws them by weight."
    )
    max_steps: int = Field(-1, ge=-1, description="Largest number of optimiser steps; -1: no limit besides max_epochs.")
    max_hours: float | None = Field(
        None, gt=0.0, description="Largest training time, resumed parts included; null: no limit."
    )
    batch_size: PositiveInt = Field(8, description="Clips per step and device.")
    micro_batches: PositiveInt = Field(
        1, description="Parts that a batch is split into to save memory; the clips per optimiser step stay the same."
    )
    learning_rate: Annotated[float, Field(gt=0.0)] = Field(1e-5, description="Peak learning rate, after the warm-up.")
    weight_decay: NonNegative = Field(1e-4, description="Weight decay of the optimiser; norms and biases are excluded.")
    min_lr: NonNegative = Field(1e-7, description="Smallest learning rate of cosine and plateau.")
    warmup_epochs: NonNegative = Field(1.0, description="Epochs of linear warm-up; may be a fraction.")
    optimizer: Literal["adamw", "adam", "sgd"] = Field("adamw", description="Optimiser.")
    scheduler: Literal["cosine", "plateau", "constant"] = Field("cosine", description="Schedule after the warm-up.")
    plateau_patience: Count = Field(
        3, description="Scheduler plateau: validations without improvement of `monitor` before the rate is reduced."
    )
    plateau_factor: Fraction = Field(
        0.5, description="Scheduler plateau: factor by which the rate is reduced, down to min_lr."
    )
    grad_clip_val: NonNegative = Field(
        1.0, description="Largest gradient norm over all weights; larger gradients are clipped. 0: no clipping."
    )
    accumulate_grad_batches: PositiveInt = Field(1, description="Batches per optimiser step (gradient average).")
    ema_decay: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0, description="Decay of the weight average that validation and checkpoints use; 0: no average."
    )
    early_stopping_patience: Count = Field(10, description="Validations without improvement until the stop; 0: never.")
    early_stopping_min_delta: NonNegative = Field(
        0.0, description="Smallest change of `monitor` that counts as improvement, in its unit."
    )
    nonfinite_policy: Literal["stop", "skip"] = Field(
        "stop", description="On a non-finite loss: stop, or skip the batch (and stop after 10 in a row)."
    )
    seed: Count = Field(42, description="Seed of weights, order, augmentation and dropout.")
    deterministic: bool = Field(True, description="Use deterministic operations; on a GPU, warn where there is none.")
    # losses
    use_enhanced_loss: bool = Field(True, description="Use all nine terms; false: keypoints, rotations and shape.")
    use_adaptive_weights: bool = Field(
        True, description="Adapt the weights to the levels of the losses by `loss_weighting`; false: static weights."
    )
    temporal_window: PositiveInt = Field(
        5, description="The temporal term compares motion over 1 to temporal_window - 1 frames; 1: no temporal term."
    )
    loss_weights: dict[str, Weight] | str | None = Field(
        None, description="Weight by term, or the path of a YAML file of them; other terms keep their default."
    )
    loss_weighting: Literal["static", "ema", "gradnorm_head"] | None = Field(
        None, description="Weighting of the loss terms; null: ema with `use_adaptive_weights`, static without."
    )
    # data
    training_data_dir: ExpandedPath | list[DatasetShare] = Field(
        "data/shards/synthetic",
        description="Shards to train on: a folder or URL, or a mixture as list of `{path, weight}`.",
    )
    validation_data_dir: ExpandedPath | None = Field(
        None, description="Shards to validate on; null: a part of the training shards by val_subjects or val_fraction."
    )
    val_subjects: list[str] | None = Field(None, description="Subjects to validate on; null: those of the protocol.")
    val_fraction: Fraction | None = Field(
        None, description="Share of whole sequences to validate on, instead of subjects."
    )
    num_workers: Count = Field(4, description="Loader processes; 0: load in the training process.")
    pin_memory: bool = Field(True, description="Use page-locked memory, which is copied to a GPU faster.")
    prefetch_factor: PositiveInt = Field(2, description="Batches that each loader process loads in advance.")
    persistent_workers: bool = Field(True, description="Keep loader processes between epochs.")
    use_augmentation: bool = Field(True, description="Augment training crops by `augmentation_params`.")
    warp_on: Literal["loader", "device"] = Field(
        "loader", description="Where training crops are augmented: loader processes, or the device."
    )
    augmentation_params: AugmentationParams = Field(AugmentationParams(), description="Ranges of the augmentation.")
    data_filtering: DataFiltering = Field(DataFiltering(), description="Filters on the samples.")
    mano_model_path: ExpandedPath | None = Field(None, description="Folder or file of the MANO models.")
    # machine
    devices: PositiveInt | list[Count] | Literal["auto"] = Field(
        "auto", description="Number of devices, or list of GPUs."
    )
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = Field(
        "auto", description="Kind of device; auto: a GPU if available."
    )
    precision: str = Field("32", description="16, bf16, 32, or a precision by Lightning's name.")
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false"] = Field(
        "auto", description="Lightning's strategy for several devices."
    )
    num_nodes: PositiveInt = Field(1, description="Number of machines.")
    num_threads: Count = Field(0, description="CPU threads of torch; 0: torch's default.")
    # logging
    use_tensorboard: bool = Field(True, description="Log to TensorBoard files in the folder of the run.")
    use_wandb: bool = Field(False, description="Log to Weights & Biases; offline without an API key.")
    wandb_project: str = Field("hawor-pipeline", description="Project on Weights & Biases.")
    wandb_entity: str | None = Field(None, description="Team or user on Weights & Biases; null: its default.")
    experiment_name: str = Field("hawor", description="Prefix of the name of the run.")
    log_every_n_steps: PositiveInt = Field(50, description="Optimiser steps between logged values.")
    log_images_every_n_steps: Count = Field(
        0, description="Optimiser steps between images of predictions on a few validation hands; 0: no images."
    )
    # validation and checkpoints
    val_check_interval: int | float = Field(
        1.0, gt=0, description="Epochs (float; at most 1.0, or a whole number) or steps (int) between validations."
    )
    limit_train_batches: Limit = Field(1.0, description="Share (float) or number (int) of the batches.")
    limit_val_batches: Limit = Field(1.0, description="Share (float) or number (int) of the batches.")
    output_dir: ExpandedPath = Field(
        "data/runs", description="Folder of the runs, one folder per run; under Dagster always the project's own."
    )
    log_dir: str = Field("logs", description="Folder of the logger files, below the folder of the run.")
    save_top_k: Count = Field(1, description="Number of best checkpoints by `monitor` to keep; at least one is kept.")
    save_every_n_epochs: PositiveInt = Field(1, description="Epochs between saves of `last.ckpt`.")
    save_every_n_steps: Count = Field(0, description="Steps between further saves of `last.ckpt`; 0: none.")
    monitor: str = Field(
        "val/mpjpe_mm", description="Validation metric of the best checkpoint, early stopping and the plateau schedule."
    )
    mode: Literal["min", "max"] = Field("min", description="min: a smaller `monitor` is better.")

    @field_validator("precision", mode="before")
    @classmethod
    def _known_precision(cls, value: Any) -> str:
        lightning = {*PRECISIONS.values(), "16-true", "bf16-true"}
        text = str(value)
        if text not in PRECISIONS and text not in lightning:
            raise ValueError(f"found {value!r}, expected one of 16, bf16, 32, {', '.join(sorted(lightning))}")
        return text

    @field_validator("val_check_interval")
    @classmethod
    def _whole_epochs(cls, value: int | float) -> int | float:
        if isinstance(value, float) and value > 1 and not value.is_integer():
            raise ValueError(f"found {value!r}, expected epochs as a share up to 1.0 or a whole number such as 2.0")
        return value

    @field_validator("limit_train_batches", "limit_val_batches")
    @classmethod
    def _share_or_number(cls, value: int | float) -> int | float:
        if isinstance(value, float) and value > 1:
            raise ValueError(f"found {value!r}, expected a share up to 1.0, or a number of batches without a point")
        return value

    @field_validator("experiment_name", "log_dir")
    @classmethod
    def _stays_inside(cls, value: str) -> str:
        if not value.strip() or Path(value).is_absolute() or ".." in Path(value).parts:
            raise ValueError(f"found {value!r}, expected a name below the folder that it belongs to, without '..'")
        return value

    @field_validator("loss_weights")
    @classmethod
    def _known_terms(cls, value: dict[str, float] | str | None) -> dict[str, float] | None:
        # A path is replaced by its content at once, so that no way to construct the settings can ignore the file.
        if isinstance(value, str):
            return load_loss_weights(value)
        for term in value or {}:
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
        if isinstance(self.devices, list) and (not self.devices or len(set(self.devices)) < len(self.devices)):
            raise ValueError(f"found devices {self.devices}, expected different numbers of GPUs, at least one")
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
        """Names of the members of a mixture for logging; empty without a mixture."""
        if isinstance(self.training_data_dir, str) or len(self.training_data_dir) < 2:
            return []
        paths = [Path(member.path) for member in self.training_data_dir]
        names = [path.name for path in paths]
        return names if len(set(names)) == len(names) else [str(path).replace("/", "_") for path in paths]

    @property
    def passes_per_step(self) -> int:
        """Forward and backward passes per optimiser step."""
        return self.accumulate_grad_batches * self.micro_batches

    @property
    def lightning_precision(self) -> str:
        """Precision by Lightning's name."""
        return PRECISIONS.get(self.precision, self.precision)


class ConversionConfig(Settings):
    """Settings of the conversion from raw data to shards. Any change causes a new conversion."""

    target_resolution: tuple[Size, Size] = Field(
        (256, 256), description="(height, width) of a crop without margin, px."
    )
    views: tuple[int, ...] = Field(ALL_VIEWS, description="Views to convert: 0 is egocentric, 1..8 are static.")
    box_scale: Annotated[float, Field(ge=1.0)] = Field(
        1.2, description="Side of the bounding box, relative to max(h, 4w/3) of the hand."
    )
    crop_margin: Annotated[float, Field(ge=1.0)] = Field(
        1.5, description="Side of the stored crop over that of the box."
    )
    jpeg_quality: Annotated[int, Field(ge=50, le=100)] = Field(95, description="JPEG quality of the stored crops.")
    sequences: tuple[str, ...] | None = Field(None, description="Names of the sequences to convert; null: all.")
    max_sequences_per_subject: PositiveInt | None = Field(None, description="Sequences per subject at most; null: all.")
    max_left_out_share: Share = Field(
        0.2, description="Largest share of skipped hands, or of skipped frames of a view; beyond it a sequence fails."
    )
    min_box_px: NonNegative = Field(20.0, description="Hands with a smaller bounding box are marked invalid.")
    min_joints_in_frame: Annotated[int, Field(ge=0, le=21)] = Field(
        3, description="Hands with fewer joints in the image are marked invalid."
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
            raise ValueError(f"found {value}, expected a square: bounding boxes are square")
        return value


_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_MOST_NODES = 20_000  # of a file, aliases expanded


class _NumberLoader(yaml.SafeLoader):
    """PyYAML's safe loader that reads 1e-5 as a number, as YAML 1.2 does, and rejects duplicate keys."""


# Without YAML 1.1's numbers of base 60 (1:30 is 90) and of base 8 (010 is 8): they would change values silently.
_NumberLoader.yaml_implicit_resolvers = {
    letter: [
        (tag, re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$") if tag == _INT else pattern)
        for tag, pattern in resolvers
        if tag != _FLOAT
    ]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_NumberLoader.add_implicit_resolver(
    _FLOAT,
    re.compile(
        r"^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+0123456789."),
)


def _mapping_without_duplicates(loader: yaml.Loader, node: yaml.MappingNode) -> dict:
    own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]  # merged keys may be replaced
    keys = [loader.construct_object(key, deep=True) for key in own]  # type: ignore[no-untyped-call]
    for key in keys:
        if isinstance(key, (dict, list)):
            raise ConfigError(f"{node.start_mark.name}: found key {key!r}, expected the name of a setting")
    _refuse_duplicates(keys, node.start_mark.name)
    loader.flatten_mapping(node)  # type: ignore[attr-defined]
    return dict(loader.construct_pairs(node, deep=True))  # type: ignore[attr-defined]


_NumberLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


class _LastWinsLoader(_NumberLoader):
    """Loader like PyYAML's own: of duplicate keys the last one wins."""


_LastWinsLoader.yaml_constructors = yaml.SafeLoader.yaml_constructors


def read_yaml(path: Path | str, *, refuse_duplicates: bool = True) -> dict[str, Any]:
    """Read a YAML file, or a .json file, that holds a mapping.

    Args:
        path: YAML or JSON file.
        refuse_duplicates: raise an error for a duplicate key; otherwise the last one wins.

    Raises:
        ConfigError: the file is missing, is neither YAML nor JSON, or does not hold a mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"configuration file {path} not found; `hawor-pipeline create-config {path}` writes one")
    as_json = _is_json(path)
    try:
        text = path.read_text(encoding="utf-8")
        if as_json:
            value = json.loads(text, object_pairs_hook=partial(_object, path) if refuse_duplicates else None)
        else:
            if _expanded_nodes(yaml.compose(text, Loader=_NumberLoader), {}) > _MOST_NODES:
                raise ConfigError(f"{path}: its aliases expand to more than {_MOST_NODES} values; write settings out")
            loader = (_NumberLoader if refuse_duplicates else _LastWinsLoader)(text)
            loader.name = str(path)
            value = loader.get_single_data()  # type: ignore[no-untyped-call]
    except (yaml.YAMLError, json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid {'JSON' if as_json else 'YAML'}: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds {type(value).__name__}, expected a mapping of settings")
    return value


def _expanded_nodes(node: yaml.Node | None, known: dict[int, int]) -> int:
    """Count the values below a node as if aliases were copies; `known` keeps the counts of nodes.

    Raises:
        RecursionError: an alias refers to a value that contains it.
    """
    if id(node) not in known:
        known[id(node)] = 0
        inside = [] if node is None or isinstance(node, yaml.ScalarNode) else node.value
        children = [child for part in inside for child in (part if isinstance(part, tuple) else (part,))]
        known[id(node)] = 1 + sum(_expanded_nodes(child, known) for child in children)
    if known[id(node)] == 0:
        raise RecursionError("an alias refers to a value that contains it")
    return known[id(node)]


def _is_json(path: Path) -> bool:
    return path.suffix.lower() == ".json"


def _object(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    _refuse_duplicates(keys, str(path))
    return dict(pairs)


def _refuse_duplicates(keys: list[Any], origin: str) -> None:
    for key in keys:
        if keys.count(key) > 1:
            raise ConfigError(f"{origin}: key {key!r} appears twice; keep one of them")


def parse_value(text: str) -> Any:
    """Parse one value by the rules of the YAML files ("1e-5" is a number, "null" is None)."""
    try:
        return yaml.load(text, Loader=_NumberLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"{text!r} is not a YAML value: {error}") from error


def build(schema: type[Settings], values: Mapping[str, Any], *, origin: str) -> Any:
    """Validate values against a schema.

    Args:
        schema: TrainingConfig, ConversionConfig, ...
        values: settings by key.
        origin: name of the source for messages (a path, "command line").

    Raises:
        ConfigError: values are not valid; the message explains each problem and names the nearest known key.
    """
    try:
        return schema.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(f"{origin}: " + "; ".join(explain_problems(schema, error.errors()))) from error


def load_config(path: Path | str, overrides: Mapping[str, Any] | None = None) -> TrainingConfig:
    """Read a training configuration; `overrides` (dotted keys allowed) replace values of the file.

    Raises:
        ConfigError: the file is missing, a key is unknown, or a value is not valid.
    """
    return resolve_config(read_yaml(path), overrides, origin=str(path))


def resolve_config(
    values: Mapping[str, Any], overrides: Mapping[str, Any] | None = None, *, origin: str
) -> TrainingConfig:
    """Validate settings with `overrides` (dotted keys allowed) applied."""
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
    return build(TrainingConfig, merged, origin=origin)


def load_loss_weights(path: Path | str) -> dict[str, float]:
    """Read the weights of loss terms from a YAML file.

    Raises:
        ConfigError: the file is missing, a term is unknown, or a weight is not a number of at least 0.
    """
    values = read_yaml(path)
    for term, weight in values.items():
        if term not in LOSS_TERMS:
            raise ConfigError(f"{path}: unknown loss term {term!r}.{nearest(str(term), LOSS_TERMS)}")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not weight >= 0:
            raise ConfigError(f"{path}: weight of {term} is {weight!r}, expected a number that is not negative")
    return {term: float(weight) for term, weight in values.items()}


def dump_config(config: Settings) -> str:
    """Return settings as YAML, keys in the order of the schema."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def config_text(config: Settings, path: Path, heading: str = "") -> str:
    """Return settings in the format that a file name asks for.

    Args:
        config: the settings.
        path: .yaml or .yml, where a comment explains each key, or .json, which has no comments.
        heading: comment lines at the top of a YAML file.

    Raises:
        ConfigError: another suffix, or a directory.
    """
    if path.is_dir():
        raise ConfigError(f"found the directory {path}, expected the name of a file")
    if _is_json(path):
        return json.dumps(config.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise ConfigError(f"found {path.name!r}, expected a file name that ends in .yaml, .yml or .json")
    return heading + commented_yaml(config)


def commented_yaml(config: Settings) -> str:
    """Return settings as YAML with every key and a comment that explains it."""
    lines = []
    for name, info in type(config).model_fields.items():
        value = getattr(config, name)
        choices = _choices(info.annotation)
        meaning = " ".join(
            filter(None, (info.description, f"One of {', '.join(choices)}." if len(choices) > 1 else ""))
        )
        comment = f"  # {meaning}" if meaning else ""
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
    """Return the values of a setting that accepts a fixed set of words; empty for other settings."""
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    members = [member for member in get_args(annotation) if member is not NoneType]
    return _choices(members[0]) if len(members) == 1 else []


def _scalar(value: Any) -> str:
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).strip()
    return text.removesuffix("\n...").removesuffix("...").strip()
