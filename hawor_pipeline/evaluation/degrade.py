"""Degradations of the input: inaccurate bounding boxes, and degraded images.

Every change depends on the recording and the row alone, so it is the same in every batch, run and process. Boxes move
in the network's image (right hands, pinhole); crops are normalised, so 0 is the mean colour.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hawor_pipeline.evaluation.declared_metrics import CROP_SIDE_PX
from hawor_pipeline.loading.rows import HandRows

_SEED = 71
WINDOW_WIDTH = 0.75  # of the crop: the window of the network


@dataclass(frozen=True, slots=True)
class Degradation:
    """One kind of degradation at one level."""

    kind: str
    level: float

    @property
    def unit(self) -> str:
        """Unit of the level."""
        return KINDS[self.kind].unit if self.kind != NONE.kind else ""


@dataclass(frozen=True, slots=True)
class Kind:
    """Levels in the order of severity, their unit and meaning."""

    levels: tuple[float, ...]
    unit: str
    meaning: str


KINDS = {
    "box_shift": Kind((0.05, 0.1, 0.2), "box", "box moved by this share of its side, in a random direction"),
    "box_scale": Kind((1.1, 1.25, 1.5), "factor", "box enlarged or reduced by this factor, at random"),
    "blur": Kind((1.0, 2.0, 4.0), "px", "Gaussian blur of this standard deviation in the 256 px crop"),
    "erase": Kind((0.1, 0.25, 0.5), "share", "a random rectangle of this share of the network's window, mean colour"),
    "resolution": Kind((0.5, 0.25, 0.125), "factor", "crop reduced to this share of its side and enlarged again"),
}
NONE = Degradation("none", 0.0)


def all_degradations() -> list[Degradation]:
    """Return no degradation, then every kind at every level."""
    return [NONE, *(Degradation(name, level) for name, kind in KINDS.items() for level in kind.levels)]


def row_change(degradation: Degradation, recording: str) -> Callable[[HandRows], HandRows] | None:
    """Return the change of boxes that a degradation makes, or None."""
    if degradation.kind == "box_shift":
        return lambda rows: _shifted(rows, degradation.level, _generator(degradation, recording))
    if degradation.kind == "box_scale":
        return lambda rows: _scaled(rows, degradation.level, _generator(degradation, recording))
    return None


def image_change(degradation: Degradation, recording: str) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return the change of crops (B, T, 3, S, S), with a row number per clip (B,), or None."""
    if degradation.kind == "blur":
        return lambda images, _: blurred(images, degradation.level * images.shape[-1] / CROP_SIDE_PX)
    if degradation.kind == "resolution":
        return lambda images, _: reduced(images, degradation.level)
    if degradation.kind == "erase":
        return lambda images, rows: _erased(images, rows, degradation, recording)
    return None


def _generator(degradation: Degradation, recording: str, row: int = 0) -> np.random.Generator:
    return np.random.default_rng((_SEED, zlib.crc32(f"{recording} {degradation.kind}".encode()), row))


def _shifted(rows: HandRows, share: float, generator: np.random.Generator) -> HandRows:
    angle = generator.uniform(0, 2 * np.pi, len(rows))
    direction = torch.from_numpy(np.stack((np.cos(angle), np.sin(angle)), 1)).float()
    return replace(rows, box_center_px=rows.box_center_px + share * rows.box_size_px[:, None] * direction)


def _scaled(rows: HandRows, factor: float, generator: np.random.Generator) -> HandRows:
    larger = torch.from_numpy(generator.random(len(rows)) < 0.5)
    return replace(rows, box_size_px=rows.box_size_px * torch.where(larger, factor, 1 / factor).float())


def blurred(images: Tensor, sigma_px: float) -> Tensor:
    """Blur (*batch, channels, S, S) by a Gaussian; the edge is continued."""
    radius = max(1, int(np.ceil(3 * sigma_px)))
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sigma_px) ** 2)
    kernel = kernel / kernel.sum()
    flat = images.reshape(-1, 1, *images.shape[-2:])
    flat = functional.pad(flat, (radius,) * 4, mode="replicate")
    flat = functional.conv2d(flat, kernel.view(1, 1, 1, -1))
    return functional.conv2d(flat, kernel.view(1, 1, -1, 1)).reshape(images.shape)


def reduced(images: Tensor, factor: float) -> Tensor:
    """(*batch, channels, S, S) at a share of the resolution, back at its old size."""
    side = images.shape[-1]
    flat = images.reshape(-1, *images.shape[-3:])
    small = functional.interpolate(flat, size=max(1, round(side * factor)), mode="area")
    return functional.interpolate(small, size=side, mode="bilinear", align_corners=False).reshape(images.shape)


def _erased(images: Tensor, rows: Tensor, degradation: Degradation, recording: str) -> Tensor:
    images = images.clone()
    for clip, row in zip(images, rows.tolist(), strict=True):
        top, left, height, width = rectangle(_generator(degradation, recording, row), degradation.level, clip.shape[-1])
        clip[..., top : top + height, left : left + width] = 0
    return images


def rectangle(generator: np.random.Generator, share: float, side: int) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random rectangle of this share of the network's window in a crop of this side."""
    window = WINDOW_WIDTH * side
    low, high = max(0.5, share * side / window), min(2.0, side / (share * window))  # height over width that fits
    ratio = np.exp(generator.uniform(np.log(low), np.log(high)))
    height = min(side, round(float(np.sqrt(share * side * window * ratio))))
    width = min(round(window), round(share * side * window / height))
    top = int(generator.integers(0, side - height + 1))
    left = round((side - window) / 2) + int(generator.integers(0, round(window) - width + 1))
    return top, left, height, width
