"""The form of a network: sizes, variants and expected input; and its record, which travels with the weights.

Weights alone do not determine the form: an additive pose module, for example, has the shapes of a replacing one.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from hawor_pipeline.config import TrainingConfig
from hawor_pipeline.core.box_rule import RULES, BoxRule
from hawor_pipeline.errors import CheckpointError
from hawor_pipeline.models.backbone import SIZES

RECORD = "_extra_state"  # torch's name of a module's own entry in a state_dict
# Values of a form that change no result under the same weights and the same crops.
_WITHOUT_EFFECT = (
    "drop_path",
    "temporal_dropout",
    "activation_checkpointing",
    "box_scale",
    "box_aspect",
    "clip_length",
)


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Sizes and variants of a network, and the input that it expects: its form. Stored with its weights.

    The defaults are those of HaWoR's released network.
    """

    image_size: int = 256
    dim: int = 1280
    depth: int = 32
    heads: int = 16
    drop_path: float = 0.55
    patch_embed: str = "patch16"
    head_dim: int = 1024
    head_depth: int = 6
    head_heads: int = 8
    head_feedforward: int = 1024
    head_query: str = "zero"
    st_hdim: int = 512  # 0: no image attention
    st_nlayer: int = 6
    motion_hdim: int = 384  # 0: no pose attention
    motion_nlayer: int = 6
    motion_residual: bool = False
    temporal_feedforward: int = 1024
    temporal_dropout: float = 0.1
    bounded_camera: bool = False  # clamp the camera's scale to 0.1/m, so that early training stays finite
    activation_checkpointing: bool = False
    box_scale: float = RULES["hawor"].scale
    box_aspect: float = RULES["hawor"].aspect
    clip_length: int = 16  # frames that it saw together in training

    @property
    def box_rule(self) -> BoxRule:
        """Rule of the bounding boxes that it was trained on."""
        return BoxRule(self.box_scale, self.box_aspect)

    def on_boxes(self, rule: BoxRule) -> "NetworkConfig":
        """Return the same network with another rule of the bounding box."""
        return replace(self, box_scale=rule.scale, box_aspect=rule.aspect)

    @property
    def window(self) -> tuple[int, int]:
        """(height, width) of the network's input: the middle 3/4 of the square crop."""
        return self.image_size, self.image_size * 3 // 4

    def to_dict(self) -> dict[str, int | float | str | bool]:
        """Return plain values for a checkpoint."""
        return asdict(self)

    @classmethod
    def of_record(cls, values: Mapping[str, Any]) -> "NetworkConfig":
        """Build from `to_dict`; earlier versions recorded neither box nor clip, and their box was the default.

        Raises:
            CheckpointError: a key is missing or unknown, or a value has another type.
        """
        rule = RULES["pipeline"]
        values = {"box_scale": rule.scale, "box_aspect": rule.aspect, "clip_length": cls().clip_length, **values}
        expected = {each.name: type(each.default) for each in fields(cls)}
        wrong = [name for name, value in values.items() if not _is_a(value, expected.get(name))]
        if wrong or (missing := sorted(set(expected) - set(values))):
            found = f"{wrong[0]} is {values[wrong[0]]!r}" if wrong else f"{', '.join(missing)} missing"
            raise CheckpointError(f"the recorded form of the network is not of this version: {found}")
        return cls(**values)

    def differing(self, other: "NetworkConfig") -> list[str]:
        """List the values under which two networks with the same weights compute something else."""
        names = [each.name for each in fields(self) if each.name not in _WITHOUT_EFFECT]
        return [name for name in names if getattr(self, name) != getattr(other, name)]

    @classmethod
    def of_training(cls, config: TrainingConfig) -> "NetworkConfig":
        """Return the network of a training configuration.

        Tiny and small networks have a smaller head and smaller temporal modules, a query that starts from the grid, and
        no temporal dropout. From `base` on, everything but the configured sizes equals the released network. Random
        weights learn with a pose module that adds and a bounded camera; with `pretrained_weights` the form is that of
        HaWoR's, and `build_for_training` takes that of the file.
        """
        size = SIZES[config.backbone_size]
        patch_embed = config.patch_embed
        compact = config.backbone_size in ("tiny", "small")
        own_form = compact or config.pretrained_weights is None
        if patch_embed == "auto":
            patch_embed = "conv_stem" if compact else "patch16"
        head = {"tiny": (256, 1, 512), "small": (512, 2, 1024)}.get(config.backbone_size, (1024, 6, 1024))
        return cls(
            image_size=config.image_size,
            dim=size.dim,
            depth=size.depth,
            heads=size.heads,
            drop_path=size.drop_path,
            patch_embed=patch_embed,
            head_dim=head[0],
            head_depth=head[1],
            head_feedforward=head[2],
            head_query="grid" if compact else "zero",
            st_hdim=config.st_hdim if config.st_module else 0,
            st_nlayer=config.st_nlayer,
            motion_hdim=config.motion_hdim if config.motion_module else 0,
            motion_nlayer=config.motion_nlayer,
            motion_residual=own_form,
            temporal_feedforward=min(1024, 4 * config.st_hdim) if compact else 1024,
            temporal_dropout=0.0 if compact else 0.1,
            bounded_camera=own_form,
            activation_checkpointing=config.activation_checkpointing,
            clip_length=config.clip_length,
        ).on_boxes(RULES["pipeline"])


def _is_a(value: Any, kind: type | None) -> bool:
    return type(value) is kind or (kind is float and type(value) is int)


@dataclass(frozen=True, slots=True)
class Record:
    """The form of a network and the data that it was trained on; travels with its weights."""

    network: NetworkConfig
    trained_on: tuple[str, ...] = ()  # subjects, or "subject/sequence" names; empty: not recorded

    def to_json(self) -> str:
        """Return the record as ASCII text."""
        return json.dumps({"network": self.network.to_dict(), "trained_on": self.trained_on}, sort_keys=True)

    def to_tensor(self) -> Tensor:
        """Return the record as an entry of a state_dict: the bytes of its text, uint8."""
        return torch.tensor(list(self.to_json().encode()), dtype=torch.uint8)

    @classmethod
    def from_json(cls, text: str) -> "Record":
        """Read `to_json`.

        Raises:
            CheckpointError: it is not such a text.
        """
        try:
            values = json.loads(text)
            return cls(NetworkConfig.of_record(values["network"]), tuple(map(str, values.get("trained_on", ()))))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"the record of the network's form is damaged ({error})") from None

    @classmethod
    def from_tensor(cls, stored: Tensor) -> "Record":
        """Read `to_tensor`; the tensor may have been cast to a floating-point type with the weights."""
        codes = [int(code) for code in stored.detach().double().flatten().round().tolist() if math.isfinite(code)]
        return cls.from_json("".join(chr(code) for code in codes if 0 <= code < 128))
