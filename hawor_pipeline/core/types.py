"""Typed structs of tensors that the rooms exchange.

Convention: every hand is mirrored to a RIGHT hand before; `is_right` keeps its true side. Leading
dimensions are (B, T): clips and frames. Lengths are metres, camera frame: x right, y down, z forward; pixels are
(x, y) with the centre of the first pixel at 0. S is the side of the network crop in pixels.
"""

from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Struct = TypeVar("Struct", bound="Movable")


def promote(x: Tensor) -> Tensor:
    """Convert half precision to float32: a difference of metres taken in bfloat16 is wrong by a millimetre."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def take_clips(struct, clips: Int[Tensor, " chosen"]):
    """Select clips of a batch struct, and of the structs inside it."""
    changes = {}
    for field in fields(struct):
        value = getattr(struct, field.name)
        if value is not None:
            changes[field.name] = value[clips] if isinstance(value, Tensor) else take_clips(value, clips)
    return replace(struct, **changes)


@dataclass(slots=True)
class Movable:
    """Struct of tensors and of further such structs."""

    def to(self: Struct, device: torch.device | str, non_blocking: bool = True) -> Struct:
        """Move every tensor to a device (Lightning calls this)."""
        changes = {}
        for field in fields(self):
            value = getattr(self, field.name)
            changes[field.name] = value.to(device, non_blocking=non_blocking) if hasattr(value, "to") else value
        return replace(self, **changes)


@dataclass(slots=True)
class HandTarget(Movable):
    """Ground truth of a batch of clips (right-hand convention, camera frame).

    `rotmats` are absolute (mean pose included), in MANO's joint order; `joints_*` are in OpenPose order.
    `joints_crop` is the pinhole projection in crop units, (uv - box_center) / box_size: [-0.5, 0.5] inside.
    """

    rotmats: Float[Tensor, "B T 16 3 3"]
    betas: Float[Tensor, "B T 10"]
    translation_m: Float[Tensor, "B T 3"]
    joints_m: Float[Tensor, "B T 21 3"]
    joints_crop: Float[Tensor, "B T 21 2"]
    joint_visible: Bool[Tensor, "B T 21"]
    joint_in_frame: Bool[Tensor, "B T 21"]
    valid: Bool[Tensor, "B T"]
    frame: Int[Tensor, "B T"]


@dataclass(slots=True)
class HandPrediction(Movable):
    """Prediction for a batch of clips, with MANO applied (right-hand convention, camera frame)."""

    rotmats: Float[Tensor, "B T 16 3 3"]
    betas: Float[Tensor, "B T 10"]
    camera: Float[Tensor, "B T 3"]  # weak perspective (s, tx, ty) in the crop
    translation_m: Float[Tensor, "B T 3"]
    joints_m: Float[Tensor, "B T 21 3"]
    vertices_m: Float[Tensor, "B T 778 3"]
    joints_crop: Float[Tensor, "B T 21 2"]
    # compared in the crop while training, from `core.reprojection.pose_and_place_in_crop`
    joints_crop_apart: Float[Tensor, "B T 42 2"] | None = None


@dataclass(slots=True)
class ClipBatch(Movable):
    """Batch of clips for the network and the loss. It holds only tensors; names stay in the table."""

    images: Float[Tensor, "B T 3 S S"]  # ImageNet-normalised RGB
    box_center_px: Float[Tensor, "B T 2"]  # full frame, undistorted
    box_size_px: Float[Tensor, "B T"]
    focal_px: Float[Tensor, "B T"]  # mean of fx and fy
    principal_point_px: Float[Tensor, "B T 2"]
    intrinsics: Float[Tensor, "B T 3 3"]
    target: HandTarget
    sample_index: Int[Tensor, "B T"]  # row in the reader's table; -1 marks padding
    is_right: Bool[Tensor, "B T"]  # side before mirroring

    def __len__(self) -> int:
        return self.images.shape[0]
