"""Images with bounding boxes but without ground truth: rows that the network reads, and its predictions for them.

Crops are cut, scaled and encoded exactly as in a conversion, so that the network receives what it was trained on.
Labels are NaN.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion.crops import crop_from_file, cut_crop, cut_crops, encode_crop, plan_cut
from hawor_pipeline.conversion.decode import Part, thread_decoder
from hawor_pipeline.errors import DataError
from hawor_pipeline.evaluation.hands import PredictedHands, predictions_on_true_side, read_truth
from hawor_pipeline.evaluation.predict import FRAMES_PER_BATCH, run_network
from hawor_pipeline.loading.clips import covering_clips
from hawor_pipeline.loading.dataset import ClipDataset, keep_batch
from hawor_pipeline.loading.rows import load_rows
from hawor_pipeline.models.hawor import HaworModel
from hawor_pipeline.prediction.boxes import HandBox
from hawor_pipeline.shards.schema import COLUMNS, to_arrow
from hawor_pipeline.sources.arctic import SIDES, split_sequence_name
from hawor_pipeline.sources.hand_models import HandModels
from hawor_pipeline.sources.sample_id import sample_id


@dataclass(frozen=True, slots=True)
class FrameCamera:
    """Camera of all frames of a view, full-frame pixels."""

    image_size: tuple[int, int]  # (height, width)
    intrinsics: np.ndarray  # (3, 3)
    distortion: np.ndarray  # (8,) OpenCV's rational order; zeros: no distortion


@dataclass(frozen=True, slots=True)
class BoxedFrames:
    """Rows of one view, sorted by side and frame, and their crops; read like shards."""

    table: pa.Table  # columns of `shards.schema`, labels NaN
    jpegs: Sequence[bytes]

    def jpeg(self, index: int) -> bytes:
        """Return the encoded crop of one row."""
        return self.jpegs[index]


def cut_frames(
    where: tuple[str, str, int],
    images: Mapping[int, Path],
    boxes: Mapping[int, Mapping[str, HandBox]],
    camera: FrameCamera,
    settings: ConversionConfig,
) -> BoxedFrames:
    """Cut the boxed hands out of the images of one view.

    Args:
        where: subject, sequence, view.
        images: frame number to file, full frames.
        boxes: frame number to side to box.
        camera: of the view.
        settings: of the conversion that the network was trained on (crop size, margin, box scale, quality).

    Raises:
        DataError: a boxed image is missing, damaged or of another size.
    """
    crop_px = round(settings.crop_margin * settings.target_resolution[0])
    rows: list[tuple[str, int, np.ndarray, float, np.ndarray, bytes]] = []
    for frame, hands in sorted(boxes.items()):
        if frame not in images:
            raise DataError(f"{'/'.join(map(str, where))}: a box for frame {frame}, but no such image.")
        squares = {side: box.square(settings.box_scale) for side, box in hands.items()}
        if not squares:
            continue
        cuts = [(center, size * settings.crop_margin) for center, size in squares.values()]
        path = images[frame]
        crops = cut_crops(path.read_bytes(), path, camera.image_size, cuts, crop_px, thread_decoder())
        for (side, (center, size)), crop in zip(squares.items(), crops, strict=True):
            jpeg = encode_crop(crop.pixels, settings.jpeg_quality)
            rows.append((side, frame, center, size, crop.crop_from_file, jpeg))
    return _sorted(where, rows, camera)


def cut_images(
    where: tuple[str, str, int],
    images: Iterable[tuple[int, np.ndarray]],
    boxes: Mapping[int, Mapping[str, HandBox]],
    camera: FrameCamera,
    settings: ConversionConfig,
) -> BoxedFrames:
    """Cut the boxed hands out of images that are decoded already; see `cut_frames`.

    Args:
        where: subject, sequence, view.
        images: frame number and (height, width, 3) uint8 RGB; those without a box are skipped.
        boxes: frame number to side to box.
        camera: of the view.
        settings: of the conversion that the network was trained on.
    """
    crop_px = round(settings.crop_margin * settings.target_resolution[0])
    rows: list[tuple[str, int, np.ndarray, float, np.ndarray, bytes]] = []
    for frame, image in images:
        for side, box in boxes.get(frame, {}).items():
            center, size = box.square(settings.box_scale)
            cut = plan_cut(center, size * settings.crop_margin, crop_px)
            jpeg = encode_crop(cut_crop(Part.whole(image), cut, crop_px), settings.jpeg_quality)
            rows.append((side, frame, center, size, crop_from_file(cut, crop_px), jpeg))
    return _sorted(where, rows, camera)


def _sorted(where: tuple[str, str, int], rows: list[tuple], camera: FrameCamera) -> BoxedFrames:
    rows.sort(key=lambda row: (SIDES.index(row[0]), row[1]))
    return BoxedFrames(_table(where, rows, camera), [row[-1] for row in rows])


def _table(where: tuple[str, str, int], rows: list[tuple], camera: FrameCamera) -> pa.Table:
    subject, sequence, view = where
    count = len(rows)
    sides = [row[0] for row in rows]
    frames = np.array([row[1] for row in rows], np.int64)
    object_name, action = split_sequence_name(sequence)
    known: dict[str, Any] = {
        "sample_id": [sample_id(*where, frame, side) for frame, side in zip(frames, sides, strict=True)],
        "subject": [subject] * count,
        "sequence": [sequence] * count,
        "object": [object_name] * count,
        "action": [action] * count,
        "side": sides,
        "skip_reason": [""] * count,
        "view": np.full(count, view),
        "frame": frames,
        "gt_index": np.full(count, -1),
        "image_height": np.full(count, camera.image_size[0]),
        "image_width": np.full(count, camera.image_size[1]),
        "is_right": np.array([side == "right" for side in sides], bool),
        "valid": np.ones(count, bool),
        "joint_in_frame": np.zeros((count, 21), bool),
        "joint_visible": np.zeros((count, 21), bool),
        "box_center_px": np.array([row[2] for row in rows]).reshape(count, 2),
        "box_size_px": np.array([row[3] for row in rows]),
        "crop_from_image": np.array([row[4] for row in rows]).reshape(count, 2, 3),
        "intrinsics": np.broadcast_to(camera.intrinsics, (count, 3, 3)),
        "distortion": np.broadcast_to(camera.distortion, (count, 8)),
    }
    unknown = {name: np.full((count, *column.shape), np.nan) for name, column in COLUMNS.items() if name not in known}
    return to_arrow({**known, **unknown}, {})


def predict_boxed(
    model: HaworModel,
    frames: BoxedFrames,
    models: HandModels,
    *,
    clip_length: int,
    device: torch.device,
) -> PredictedHands:
    """Predict every row of boxed frames.

    Args:
        model: network on `device`.
        frames: rows and crops of one view.
        models: the two MANO models.
        clip_length: frames that the network sees together, as it was trained.
        device: device of the network.

    Returns:
        One row per row of `frames`, in its order, on the true side.

    Raises:
        DataError: a crop is damaged.
        NumericalError: an output of the network is not finite.
    """
    clips = covering_clips(frames.table, clip_length)
    dataset = ClipDataset(frames, load_rows(frames.table), clips, model.network.image_size)  # type: ignore[arg-type]
    step = max(1, FRAMES_PER_BATCH // clip_length)
    batches = [list(range(first, min(first + step, len(dataset)))) for first in range(0, len(dataset), step)]
    loader = DataLoader(dataset, batch_size=None, sampler=batches, collate_fn=keep_batch)  # type: ignore[arg-type]
    rows, parts = [], []
    for row, *parameters in run_network(model, loader, device):
        rows.append(row)
        parts.append(parameters)
    order = np.argsort(np.concatenate(rows), kind="stable")
    rotmats, betas, translation = (torch.cat(part)[order] for part in zip(*parts, strict=True))
    truth = read_truth(frames.table.take(pa.array(np.concatenate(rows)[order])))  # side and camera; labels are NaN
    return predictions_on_true_side(models, truth, rotmats, betas, translation)
