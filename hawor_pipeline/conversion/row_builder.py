"""Rows of annotations: the columns of one view and side, from posed hands and the crops cut out of images."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion.confidence import confidence, skip_reasons
from hawor_pipeline.conversion.hand_geometry import SeenHand
from hawor_pipeline.conversion.posed_scene import PosedTake
from hawor_pipeline.shards.schema import COLUMNS
from hawor_pipeline.sources.image_frame import ImageFrame
from hawor_pipeline.sources.reader import SequenceRef
from hawor_pipeline.sources.sample_id import sample_id

_SEEN = (
    *("global_orient", "translation_m", "joints_cam_m", "joints_px", "joint_in_frame"),
    *("box_center_px", "box_size_px", "truncation"),
)
_WORLD = ("hand_pose", "betas", "betas_as_right", "betas_as_right_residual_mm", "fitting_err")


@dataclass(frozen=True, slots=True)
class StoredCrop:
    """One crop as it is stored."""

    index: int  # moment of the take
    frame: int
    jpeg: bytes
    crop_from_file: np.ndarray  # (2, 3)
    blur: float
    black: bool


@dataclass(slots=True)
class ViewedHand:
    """One hand of a take in one view, and the crops of it."""

    posed: PosedTake
    view: int
    side: str
    seen: SeenHand
    file_frame: ImageFrame
    crops: list[StoredCrop] = field(default_factory=list)


def build_rows(ref: SequenceRef, hands: Sequence[ViewedHand], settings: ConversionConfig) -> dict[str, np.ndarray]:
    """Build the columns of one view and side.

    Args:
        ref: the sequence.
        hands: at least one, each with crops, all of one view and side.
        settings: settings of the conversion.
    """
    view, side = hands[0].view, hands[0].side
    parts = [_columns(hand) for hand in hands]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    crops = [crop for hand in hands for crop in hand.crops]
    count, visible, in_frame = len(crops), columns["joint_visible"], columns["joint_in_frame"]
    blur = np.array([crop.blur for crop in crops], np.float64)
    skip = skip_reasons(np.array([crop.black for crop in crops]), in_frame, columns["box_size_px"], settings)
    # the typical fit is that of all labelled moments, with and without an image
    typical = float(np.median(np.concatenate([hand.posed.hands[side].fitting_err for hand in hands])))
    text = {"subject": ref.subject, "sequence": ref.sequence, "object": ref.object, "action": ref.action, "side": side}
    names = [sample_id(ref.subject, ref.sequence, view, crop.frame, side) for crop in crops]
    return {
        **columns,
        "sample_id": np.array(names, object),
        **{name: np.full(count, value, object) for name, value in text.items()},
        "view": np.full(count, view),
        "is_right": np.full(count, side == "right"),
        "occlusion": 1.0 - visible.mean(1),
        "confidence": confidence(in_frame, visible, blur, columns["fitting_err"], typical),
        "blur": blur,
        "valid": skip == "",
        "skip_reason": skip,
    }


def _columns(hand: ViewedHand) -> dict[str, np.ndarray]:
    """Return the columns that follow from the take alone."""
    take, world = hand.posed.take, hand.posed.hands[hand.side]
    camera, position = take.cameras[hand.view], list(take.cameras).index(hand.view)
    index = np.array([crop.index for crop in hand.crops], np.int64)
    count = len(index)
    return {
        "frame": index + take.first_frame,
        "gt_index": index + take.first_index,
        "image_height": np.full(count, camera.image_size[0]),
        "image_width": np.full(count, camera.image_size[1]),
        "crop_from_image": _from_image([crop.crop_from_file for crop in hand.crops], hand.file_frame, index),
        "intrinsics": np.broadcast_to(camera.intrinsics, (count, 3, 3)),
        "cam_from_world": camera.cam_from_world[index],
        "distortion": np.broadcast_to(camera.distortion, (count, 8)),
        **{name: getattr(hand.seen, name)[index] for name in _SEEN},
        **{name: getattr(world, name)[index] for name in _WORLD},
        "joints_world_m": world.joints_m[index],
        "joint_visible": hand.posed.visible[hand.side][position][index],
    }


def _from_image(from_file: list[np.ndarray], file_frame: ImageFrame, index: np.ndarray) -> np.ndarray:
    """Return the (N, 2, 3) maps from full frames to crops, of those from files to crops at moments (N,)."""
    affine = np.array(from_file).reshape(len(index), 2, 3)
    # A (s x + t) + b = (A s) x + (A t + b)
    affine[:, :, 2] += np.einsum("nij,nj->ni", affine[:, :, :2], file_frame.shift[index])
    affine[:, :, :2] *= file_frame.scale[index, None, None]
    return affine


def join_rows(blocks: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Join blocks of columns; no block gives columns without rows."""
    if blocks:
        return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    return {name: np.zeros((0, *column.shape), column.kind.to_pandas_dtype()) for name, column in COLUMNS.items()}
