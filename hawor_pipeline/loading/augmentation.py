"""Random augmentation of training clips that keeps every label exact.

Moving or scaling the box only selects other pixels. A roll turns the camera about its optical axis: pixels move by
K Rz K^-1 and everything in the camera frame by Rz, so rotations, joints, translation and projection stay consistent.

A mirrored clip shows the other hand, and like every left hand it would be mirrored to a right one on input: the network
gets the same images, and only the side differs. All frames of a clip change alike. The draws depend on (seed, epoch,
clip) alone.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hawor_pipeline.config import AugmentationParams


@dataclass(slots=True)
class ClipChange:
    """Augmentation of each clip of a batch."""

    roll: Float[Tensor, " B"]  # radians, camera-frame points turn by it about z
    shift: Float[Tensor, "B 2"]  # of the box centre, in units of the box size
    scale: Float[Tensor, " B"]  # of the box size
    gain: Float[Tensor, "B 3"]  # of the colour channels
    flip: Bool[Tensor, " B"]  # whether the clip counts as its mirror image


def no_change(clips: int) -> ClipChange:
    """Return the augmentation that leaves every clip unchanged."""
    none = torch.zeros(clips, dtype=torch.bool)
    return ClipChange(torch.zeros(clips), torch.zeros(clips, 2), torch.ones(clips), torch.ones(clips, 3), none)


def draw_changes(params: AugmentationParams, seed: int, keys: list[tuple[int, int]]) -> ClipChange:
    """Draw the augmentation of each clip.

    Args:
        params: Ranges.
        seed: Seed of the run.
        keys: (epoch, clip) of each member of the batch.
    """
    unit = np.stack([np.random.default_rng((seed, epoch, clip)).uniform(-1, 1, 8) for epoch, clip in keys])
    draws = torch.from_numpy(unit).float()
    return ClipChange(
        roll=draws[:, 0] * math.radians(params.rotation_range),
        shift=draws[:, 1:3] * params.translation_range,
        scale=1 + draws[:, 3] * params.scale_range,
        gain=1 + draws[:, 4:7] * params.color_jitter,
        flip=draws[:, 7] < 2 * params.flip_probability - 1,
    )


def roll_matrix(roll: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 3 3"]:
    """Return rotations about the optical axis."""
    cos, sin, zero, one = roll.cos(), roll.sin(), torch.zeros_like(roll), torch.ones_like(roll)
    rows = (cos, -sin, zero, sin, cos, zero, zero, zero, one)
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def rolled_pixels_matrix(
    intrinsics: Float[Tensor, "*batch 3 3"], roll: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch 3 3"]:
    """Return the map of homogeneous pixels when camera-frame points turn about the optical axis: K Rz K^-1 (affine)."""
    return intrinsics @ roll_matrix(roll) @ torch.linalg.inv(intrinsics)


def rolled_translation(
    translation_m: Float[Tensor, "*batch 3"],
    root_m: Float[Tensor, "*batch 3"],
    rotation: Float[Tensor, "*batch 3 3"],
) -> Float[Tensor, "*batch 3"]:
    """Return the translation of the turned hand.

    A hand turns about its own root joint, which lies at `root_m - translation_m` in the body model's frame. That
    offset does not turn with it: t' = R root - (root - t).
    """
    return (rotation @ root_m[..., None])[..., 0] - (root_m - translation_m)
