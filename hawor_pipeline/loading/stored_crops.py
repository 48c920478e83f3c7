"""Warping and colouring crops on the training device instead of in the loader's processes.

The loader then only decodes and sends fewer bytes (8 bits per colour), and the warp is one batched sampling. Images
equal those of the loader up to its rounding to 8 bits and OpenCV's 1/32 px.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from hawor_pipeline.core.types import ClipBatch

IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406])
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225])
PADDING_RGB = tuple(float(255 * value) for value in IMAGENET_MEAN)  # becomes 0 after normalisation


@dataclass(slots=True)
class StoredBatch:
    """Batch whose images are not warped yet; `to` warps them on the device."""

    batch: ClipBatch  # without images
    crops: Tensor  # (B * T, H, W, 3) uint8, smaller ones padded with PADDING_RGB on the right and below
    crop_from_out: Tensor  # (B * T, 2, 3) pixels of the crop from pixels of the network's image
    gain: Tensor  # (B, 3) of the colour channels
    image_size: int

    def __len__(self) -> int:
        return len(self.gain)

    def to(self, device: torch.device | str, non_blocking: bool = True) -> ClipBatch:
        """Return the batch with its images on a device."""
        crops, maps, gain = (
            t.to(device, non_blocking=non_blocking) for t in (self.crops, self.crop_from_out, self.gain)
        )
        images = warp_crops(crops, maps, gain, self.image_size)
        return replace(self.batch.to(device, non_blocking), images=images)


def stack_padded(images: list[np.ndarray]) -> Tensor:
    """Stack crops of different sizes into one tensor (N, H, W, 3), padded on the right and below."""
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    stacked = np.empty((len(images), height, width, 3), np.uint8)
    stacked[:] = np.round(PADDING_RGB)
    for place, image in zip(stacked, images, strict=True):
        place[: image.shape[0], : image.shape[1]] = image
    return torch.from_numpy(stacked)


def warp_crops(crops: Tensor, crop_from_out: Tensor, gain: Tensor, image_size: int) -> Tensor:
    """Warp stored crops to normalised images (B, T, 3, S, S), bilinear, with the padding colour past the crop.

    Args:
        crops: (B * T, H, W, 3) uint8.
        crop_from_out: (B * T, 2, 3).
        gain: (B, 3).
        image_size: S.
    """
    padding = torch.tensor(PADDING_RGB, device=crops.device).round()
    values = (crops.float() - padding).permute(
        0, 3, 1, 2
    )  # (N, 3, H, W): grid_sample pads with 0, which is the padding colour here
    steps = torch.arange(image_size, device=crops.device, dtype=torch.float32)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    out = torch.stack((x, y, torch.ones_like(x)), -1)  # (S, S, 3)
    pixels = torch.einsum("nij,hwj->nhwi", crop_from_out.float(), out)
    size = torch.tensor([crops.shape[2] - 1, crops.shape[1] - 1], device=crops.device)
    sampled = F.grid_sample(values, 2 * pixels / size - 1, mode="bilinear", padding_mode="zeros", align_corners=True)
    frames = len(crops) // len(gain)
    scale = (gain / (255 * IMAGENET_STD.to(gain.device))).repeat_interleave(frames, dim=0)[:, :, None, None]
    offset = (IMAGENET_MEAN / IMAGENET_STD).to(gain.device)[:, None, None]
    return ((sampled + padding[:, None, None]) * scale - offset).unflatten(0, (len(gain), frames))
