"""Clips as batches for the network: pixels and labels under one augmentation, assembled a whole batch at a time."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import pyarrow as pa
import simplejpeg
import torch
from torch import Tensor
from torch.utils.data import Dataset

from hawor_pipeline.config import AugmentationParams
from hawor_pipeline.core.camera import project_pinhole
from hawor_pipeline.core.types import ClipBatch, HandTarget
from hawor_pipeline.errors import DataError
from hawor_pipeline.loading.augmentation import (
    draw_changes,
    no_change,
    roll_matrix,
    rolled_pixels_matrix,
    rolled_translation,
)
from hawor_pipeline.loading.clips import Clips
from hawor_pipeline.loading.rows import HandRows
from hawor_pipeline.loading.stored_crops import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PADDING_RGB,
    StoredBatch,
    stack_padded,
)
from hawor_pipeline.shards.store import ShardSet


class JoinedShards:
    """Shards of several datasets as one."""

    def __init__(self, parts: Sequence[ShardSet]):
        self.parts = list(parts)
        self.table = pa.concat_tables([part.table for part in parts])
        self.starts = np.cumsum([0] + [part.table.num_rows for part in parts])

    def jpeg(self, index: int) -> bytes:
        """Return the crop of one row."""
        part = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.parts[part].jpeg(index - int(self.starts[part]))


@dataclass(eq=False)
class ClipDataset(Dataset):
    """Clips of shards; an item is a whole batch, indexed by the list of its clips.

    A clip is indexed by its number, or by (epoch, number) if it is augmented: a batch depends on the seed and these
    indices alone.

    Args:
        shards: The crops.
        rows: Their annotations.
        clips: The rows of each clip.
        image_size: Side of the network crop, px.
        augmentation: Ranges, or None for unchanged clips.
        seed: Seed of the augmentation.
        cache_bytes: Size of the cache of decoded crops.
        warps_later: Return a StoredBatch, whose images are warped on the device.
    """

    shards: ShardSet | JoinedShards
    rows: HandRows
    clips: Clips
    image_size: int
    augmentation: AugmentationParams | None = field(default=None, kw_only=True)
    seed: int = field(default=0, kw_only=True)
    cache_bytes: int = field(default=0, kw_only=True)
    warps_later: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        self._decoded: dict[int, tuple[np.ndarray, float]] = {}
        self._decoded_bytes = 0
        # pixels of the stored crop per pixel of the network crop, before augmentation
        stored_per_px = self.rows.stored_from_image[:, :, :2].double().det().abs().sqrt()
        self._stored_per_out = (stored_per_px * self.rows.box_size_px / self.image_size).tolist()

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, keys: Sequence[int | tuple[int, int]]) -> ClipBatch | StoredBatch:
        named = [key if isinstance(key, tuple) else (0, int(key)) for key in keys]
        numbers = np.array([clip for _, clip in named], dtype=np.int64)
        row_of = torch.from_numpy(self.clips.rows[numbers])  # (B, T)
        counted = torch.from_numpy(self.clips.counted[numbers])
        if self.augmentation is None:
            change = no_change(len(named))
        else:
            change = draw_changes(self.augmentation, self.seed, named)
        rows = self.rows.take(row_of)
        rotation = roll_matrix(change.roll)[:, None]  # (B, 1, 3, 3)
        pixels = rolled_pixels_matrix(rows.intrinsics, change.roll[:, None])  # (B, T, 3, 3)
        size = rows.box_size_px * change.scale[:, None]
        center = (pixels[..., :2, :2] @ rows.box_center_px[..., None])[..., 0] + pixels[..., :2, 2]
        center = center + change.shift[:, None] * rows.box_size_px[..., None]
        joints = rows.joints_m @ rotation.transpose(-1, -2)
        target = HandTarget(
            rotmats=torch.cat(((rotation @ rows.rotmats[:, :, 0])[:, :, None], rows.rotmats[:, :, 1:]), dim=2),
            betas=rows.betas,
            translation_m=rolled_translation(rows.translation_m, rows.joints_m[:, :, 0], rotation),
            joints_m=joints,
            joints_crop=(project_pinhole(joints, rows.intrinsics) - center[:, :, None]) / size[..., None, None],
            joint_visible=rows.joint_visible,
            joint_in_frame=rows.joint_in_frame,
            valid=rows.valid & counted,
            frame=rows.frame,
        )
        stored_from_out = rows.stored_from_image @ torch.linalg.inv(pixels) @ self._image_from_out(center, size)
        batch = ClipBatch(
            images=torch.empty(*row_of.shape, 3, 0, 0),
            box_center_px=center,
            box_size_px=size,
            focal_px=(rows.intrinsics[..., 0, 0] + rows.intrinsics[..., 1, 1]) / 2,
            principal_point_px=rows.intrinsics[..., :2, 2],
            intrinsics=rows.intrinsics,
            target=target,
            sample_index=torch.where(counted, row_of, -1),
            is_right=rows.is_right ^ change.flip[:, None],
        )
        if self.warps_later:
            crops, maps = zip(*self._crops(row_of, stored_from_out), strict=True)
            return StoredBatch(
                batch, stack_padded(list(crops)), torch.from_numpy(np.stack(maps)), change.gain, self.image_size
            )
        batch.images = self._images(row_of, stored_from_out, change.gain)
        return batch

    def _image_from_out(self, center: Tensor, size: Tensor) -> Tensor:
        """Map pixels of the network crop to those of the (rolled, mirrored, pinhole) image: (B, T, 3, 3)."""
        per_pixel = size / self.image_size
        matrix = torch.zeros(*size.shape, 3, 3)
        matrix[..., 0, 0] = matrix[..., 1, 1] = per_pixel
        matrix[..., :2, 2] = center + (0.5 / self.image_size - 0.5) * size[..., None]
        matrix[..., 2, 2] = 1
        return matrix

    def _crops(self, row_of: Tensor, stored_from_out: Tensor) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield each decoded crop and the map (2, 3) to its pixels from those of the network's image."""
        maps = stored_from_out.flatten(0, 1).double().numpy()  # (N, 2, 3)
        for position, row in enumerate(row_of.flatten().tolist()):
            image, reduction = self._decode(row)
            matrix = maps[position] / reduction
            matrix[:, 2] += 0.5 / reduction - 0.5  # pixel centres of the reduced image
            yield image, matrix

    def _images(self, row_of: Tensor, stored_from_out: Tensor, gain: Tensor) -> Tensor:
        """Return the normalised crops (B, T, 3, S, S)."""
        side = self.image_size
        out = np.empty((row_of.numel(), side, side, 3), dtype=np.uint8)
        for position, (image, matrix) in enumerate(self._crops(row_of, stored_from_out)):
            cv2.warpAffine(
                image,
                matrix,
                (side, side),
                dst=out[position],
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=PADDING_RGB,
            )
        scale = (gain / (255 * IMAGENET_STD)).repeat_interleave(row_of.shape[1], dim=0)[:, :, None, None]
        offset = (IMAGENET_MEAN / IMAGENET_STD)[:, None, None]
        images = torch.from_numpy(out).permute(0, 3, 1, 2) * scale - offset  # (N, 3, S, S)
        return images.unflatten(0, tuple(row_of.shape))

    def _decode(self, row: int) -> tuple[np.ndarray, float]:
        """Decode the stored crop at the least resolution that the network crop needs; return it and its reduction."""
        cached = self._decoded.get(row)
        if cached is not None:
            return cached
        data = self.shards.jpeg(row)
        try:
            height = simplejpeg.decode_jpeg_header(data)[0]
            least = max(1, math.floor(height / max(self._stored_per_out[row], 1.0)))
            image = simplejpeg.decode_jpeg(data, "RGB", min_height=least, min_width=least)
        except ValueError as error:
            name = self.shards.table.column("sample_id")[row].as_py()
            raise DataError(f"crop of {name} is damaged ({error}); convert its subject again") from error
        decoded = image, 8 / round(8 * image.shape[0] / height)  # the decoder scales by eighths, then rounds up
        if self._decoded_bytes + image.nbytes <= self.cache_bytes:
            self._decoded[row] = decoded
            self._decoded_bytes += image.nbytes
        return decoded


def keep_batch(batch: ClipBatch | StoredBatch) -> ClipBatch | StoredBatch:
    """Return a batch unchanged: the collate function of a `ClipDataset`, whose items are complete batches."""
    return batch
