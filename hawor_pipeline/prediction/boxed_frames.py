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

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion.crops import crop_from_file, cut_crop, cut_crops, encode_crop, plan_cut
from hawor_pipeline.conversion.decode import Part, thread_decoder
from hawor_pipeline.core.box_rule import WINDOW_ASPECT, BoxRule
from hawor_pipeline.evaluation.hands import PredictedHands, predictions_on_true_side, read_truth
from hawor_pipeline.evaluation.predict import load_clips, run_network
from hawor_pipeline.loading.clips import covering_clips
from hawor_pipeline.loading.dataset import ClipDataset
from hawor_pipeline.loading.rows import load_rows
from hawor_pipeline.models.checkpoints import OpenedCheckpoint
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


def crop_settings(checkpoint: OpenedCheckpoint) -> ConversionConfig:
    """Return the settings of a conversion whose crops hold the boxes of a network.

    They are those of the data that it was trained on: with crops cut alike, predictions equal those on shards. Under
    another rule than that of the weights they are the default ones, where its boxes lie inside their crops.
    """
    side, rule = checkpoint.model.network.image_size, checkpoint.box_rule
    default = ConversionConfig(target_resolution=(side, side))
    is_own = rule == checkpoint.model.network.box_rule
    if not is_own and rule.largest_ratio(BoxRule(default.box_scale)) <= default.crop_margin:
        return default
    scale = max(1.0, rule.scale * max(1.0, rule.aspect / WINDOW_ASPECT))
    return default.model_copy(update={"box_scale": scale})


def cut_frames(
    where: tuple[str, str, int],
    images: Iterable[tuple[int, Path | np.ndarray]],
    boxes: Mapping[int, Mapping[str, HandBox]],
    camera: FrameCamera,
    settings: ConversionConfig,
    rule: BoxRule,
) -> BoxedFrames:
    """Cut the boxed hands out of the images of one view.

    Args:
        where: subject, sequence, view.
        images: frame number, and file or decoded image (height, width, 3) uint8 RGB; those without a box are skipped.
        boxes: frame number to side to box.
        camera: of the view.
        settings: of a conversion whose crops hold the boxes of `rule` (`crop_settings`).
        rule: of the network's boxes.

    Raises:
        DataError: a boxed file is damaged or of another size.
    """
    crop_px = round(settings.crop_margin * settings.target_resolution[0])
    rows: list[tuple[str, int, np.ndarray, float, np.ndarray, bytes]] = []
    for frame, image in images:
        hands = boxes.get(frame, {})
        if not hands:
            continue
        squares = [box.square(settings.box_scale) for box in hands.values()]
        cuts = [(center, size * settings.crop_margin) for center, size in squares]
        crops = _crops(image, camera, cuts, crop_px)
        for (side, box), (center, _), (pixels, affine) in zip(hands.items(), squares, crops, strict=True):
            jpeg = encode_crop(pixels, settings.jpeg_quality)
            rows.append((side, frame, center, box.side_px(rule), affine, jpeg))
    rows.sort(key=lambda row: (SIDES.index(row[0]), row[1]))
    return BoxedFrames(_table(where, rows, camera), [row[-1] for row in rows])


def _crops(
    image: Path | np.ndarray, camera: FrameCamera, boxes: Sequence[tuple[np.ndarray, float]], crop_px: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cut squares, given by centre and side, out of an image: pixels of each, and its map from the image's."""
    if isinstance(image, Path):
        crops = cut_crops(image.read_bytes(), image, camera.image_size, boxes, crop_px, thread_decoder())
        return [(crop.pixels, crop.crop_from_file) for crop in crops]
    cuts = [plan_cut(center, size, crop_px) for center, size in boxes]
    return [(cut_crop(Part.whole(image), cut, crop_px), crop_from_file(cut, crop_px)) for cut in cuts]


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
    checkpoint: OpenedCheckpoint, frames: BoxedFrames, models: HandModels, device: torch.device
) -> PredictedHands:
    """Predict every row of boxed frames on a device.

    Returns:
        One row per row of `frames`, in its order, on the true side.

    Raises:
        DataError: a crop is damaged.
        NumericalError: an output of the network is not finite.
    """
    model, clips = checkpoint.model.to(device), covering_clips(frames.table, checkpoint.clip_length)
    dataset = ClipDataset(frames, load_rows(frames.table), clips, model.network.image_size)  # type: ignore[arg-type]
    rows, parts = [], []
    for row, *parameters in run_network(model, load_clips(dataset, checkpoint.clip_length), device):
        rows.append(row)
        parts.append(parameters)
    order = np.argsort(np.concatenate(rows), kind="stable")
    rotmats, betas, translation = (torch.cat(part)[order] for part in zip(*parts, strict=True))
    truth = read_truth(frames.table.take(pa.array(np.concatenate(rows)[order])))  # side and camera; labels are NaN
    return predictions_on_true_side(models, truth, rotmats, betas, translation)
