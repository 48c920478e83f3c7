"""The raw arrays of one ARCTIC sequence, read safely and checked: shapes, equal lengths, units, finite values."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hawor_pipeline.core.body import BODY_POSE_PARTS
from hawor_pipeline.core.units import mm_to_m
from hawor_pipeline.errors import DataError
from hawor_pipeline.sources.arctic import (
    BODY_PART,
    SIDES,
    ArcticRoot,
    are_rotations,
    is_camera_matrix,
    split_sequence_name,
)
from hawor_pipeline.sources.own_body import BodyPose
from hawor_pipeline.sources.reader import HandLabels
from hawor_pipeline.untrusted.safe_load import load_npy

_FARTHEST_M = 20.0  # a studio is smaller; more means another unit
_LARGEST_ANGLE = 4 * np.pi  # of a rotation vector; a fit may wind once too often, not more
_LARGEST_BETA = 20.0  # standard deviations of body shape


@dataclass(frozen=True, slots=True)
class RawSequence:
    """One sequence. T is the number of ground-truth frames, the same for every array."""

    hands: dict[str, HandLabels]
    object_articulation: np.ndarray  # (T,) radians
    object_rotation: np.ndarray  # (T, 3) axis-angle
    object_translation_m: np.ndarray  # (T, 3)
    ego_from_world: np.ndarray  # (T, 4, 4)
    ego_intrinsics: np.ndarray  # (3, 3)
    ego_distortion: np.ndarray  # (8,) rational model, OpenCV's order

    def __len__(self) -> int:
        return len(self.object_articulation)


def load_sequence(root: ArcticRoot, subject: str, sequence: str) -> RawSequence:
    """Read the raw arrays of one sequence.

    Raises:
        DataError: a file is missing, damaged or refused, has the wrong shape, values that are not finite or not
            metres, or the files disagree about the number of frames. The message names the file.
    """
    split_sequence_name(sequence)  # refuses a name without object or action
    hands = _load_hands(_existing(root, subject, sequence, "mano"))
    object_file = _existing(root, subject, sequence, "object")
    pose = _numbers(load_npy(object_file), (None, 7), object_file, "object poses")
    ego_file = _existing(root, subject, sequence, "egocam.dist")
    ego = load_npy(ego_file)
    if not isinstance(ego, dict):
        raise DataError(f"{ego_file}: holds {type(ego).__name__}, expected a dictionary of camera arrays.")
    transforms = _ego_transforms(ego, ego_file)
    lengths = {"mano (right)": len(hands["right"].pose), "object": len(pose), "egocam": len(transforms)}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {count}" for name, count in lengths.items())
        raise DataError(
            f"{subject}/{sequence}: the raw files disagree about the number of frames ({found}); "
            f"expected the same in all. Get {object_file.parent}/{sequence}.*.npy again."
        )
    translation = _bounded(mm_to_m(pose[:, 4:7]), _FARTHEST_M, object_file, "the object's place", "millimetres")
    _bounded(pose[:, :4], _LARGEST_ANGLE, object_file, "the object's articulation and rotation", "radians")
    intrinsics = _numbers(_entry(ego, "intrinsics", ego_file), (3, 3), ego_file, "intrinsics")
    if not is_camera_matrix(intrinsics):
        raise DataError(f"{ego_file}: intrinsics are no camera matrix ({intrinsics.tolist()}); get the file again.")
    return RawSequence(
        hands=hands,
        object_articulation=pose[:, 0],
        object_rotation=pose[:, 1:4],
        object_translation_m=translation,
        ego_from_world=transforms,
        ego_intrinsics=intrinsics,
        ego_distortion=_numbers(np.ravel(_entry(ego, "dist8", ego_file)), (8,), ego_file, "dist8"),
    )


def load_body_pose(root: ArcticRoot, subject: str, sequence: str, frames: int) -> BodyPose:
    """Read the body's pose in one sequence, of as many frames as the other raw files have.

    Raises:
        DataError: as of `load_sequence`.
    """
    file = _existing(root, subject, sequence, BODY_PART)
    raw = load_npy(file)
    if not isinstance(raw, dict):
        raise DataError(f"{file}: holds {type(raw).__name__}, expected a dictionary of arrays.")
    parts = [
        _numbers(_entry(raw, name, file), (frames, 3 * bones), file, name) for name, bones in BODY_POSE_PARTS.items()
    ]
    rotations = _bounded(np.concatenate(parts, axis=1), _LARGEST_ANGLE, file, "a rotation", "radians")
    translation = _numbers(_entry(raw, "transl", file), (frames, 3), file, "transl")
    return BodyPose(rotations.reshape(frames, -1, 3), _bounded(translation, _FARTHEST_M, file, "transl", "metres"))


def _existing(root: ArcticRoot, subject: str, sequence: str, part: str) -> Path:
    file = root.raw_file(subject, sequence, part)
    if not file.is_file():
        raise DataError(f"{file}: missing; expected beside the other raw files of {subject}/{sequence}.")
    root.check_raw_file(file)
    return file


def _load_hands(file: Path) -> dict[str, HandLabels]:
    raw = load_npy(file)
    if not isinstance(raw, dict) or not set(SIDES) <= set(raw):
        raise DataError(f"{file}: expected a dictionary with right and left.")
    hands = {}
    for side in SIDES:
        values = raw[side]
        if not isinstance(values, dict):
            raise DataError(f"{file}: entry {side} holds {type(values).__name__}, expected a dictionary of arrays.")
        rotation = _numbers(_entry(values, "rot", file), (None, 3), file, f"{side}.rot")
        frames = len(rotation)
        shape = np.asarray(_entry(values, "shape", file))
        if shape.ndim == 1:  # one shape per sequence in the files, one per frame in ARCTIC's documentation
            shape = np.broadcast_to(shape, (frames, *shape.shape))
        errors = np.ravel(np.asarray(_entry(values, "fitting_err", file)))
        hands[side] = HandLabels(
            global_orient=rotation,
            pose=_numbers(_entry(values, "pose", file), (frames, 45), file, f"{side}.pose"),
            translation_m=_numbers(_entry(values, "trans", file), (frames, 3), file, f"{side}.trans"),
            betas=_numbers(shape, (frames, 10), file, f"{side}.shape"),
            fitting_err=_numbers(errors, (frames,), file, f"{side}.fitting_err"),
        )
        _bounded(hands[side].translation_m, _FARTHEST_M, file, f"{side}.trans", "metres")
        _bounded(hands[side].global_orient, _LARGEST_ANGLE, file, f"{side}.rot", "radians")
        _bounded(hands[side].pose, _LARGEST_ANGLE, file, f"{side}.pose", "radians")
        _bounded(hands[side].betas, _LARGEST_BETA, file, f"{side}.shape", "standard deviations")
    counts = {side: len(hand.pose) for side, hand in hands.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"{file}: the hands disagree about the number of frames ({counts}); get the file again.")
    return hands


def _ego_transforms(ego: dict, file: Path) -> np.ndarray:
    rotation = _numbers(_entry(ego, "R_k_cam_np", file), (None, 3, 3), file, "R_k_cam_np")
    frames = len(rotation)
    shift = np.asarray(_entry(ego, "T_k_cam_np", file))
    shift = shift[..., None] if shift.ndim == 2 else shift
    transforms = np.tile(np.eye(4), (frames, 1, 1))
    transforms[:, :3, :3] = rotation
    transforms[:, :3, 3:] = _numbers(shift, (frames, 3, 1), file, "T_k_cam_np")
    _bounded(transforms[:, :3, 3], _FARTHEST_M, file, "T_k_cam_np", "metres")
    wrong = ~are_rotations(transforms[:, :3, :3])
    if wrong.any():
        raise DataError(f"{file}: R_k_cam_np of frame {int(wrong.argmax())} is not a rotation; get the file again.")
    return transforms


def _entry(values: dict, name: str, file: Path) -> Any:
    if name not in values:
        raise DataError(f"{file}: found no array {name!r} (has {', '.join(map(str, sorted(values, key=str)))}).")
    return values[name]


def _bounded(values: np.ndarray, limit: float, file: Path, name: str, unit: str) -> np.ndarray:
    """The values, if none is larger than anything that can be meant."""
    largest = float(np.abs(values).max(initial=0))
    if largest > limit:
        raise DataError(f"{file}: {name} reaches {largest:.4g}, more than can be; expected {unit}. Get the file again.")
    return values


def _numbers(array: Any, shape: tuple[int | None, ...], file: Path, name: str) -> np.ndarray:
    """The array in float64 if it has the expected shape (None: any length but zero) and only finite values."""
    found = np.asarray(array)
    wrong = found.dtype.kind not in "fiu" or found.ndim != len(shape)
    if wrong or any(want not in (None, have) for want, have in zip(shape, found.shape, strict=True)):
        expected = tuple("T" if size is None else size for size in shape)
        raise DataError(
            f"{file}: {name} has shape {found.shape} of {found.dtype}, expected numbers of shape {expected}."
        )
    if not found.size:
        raise DataError(f"{file}: {name} has shape {found.shape}: no frame at all; get the file again.")
    finite = np.isfinite(found)
    if not finite.all():
        where = int(np.argwhere(~finite)[0][0])
        raise DataError(f"{file}: {name} holds a value that is not finite (index {where}); get the file again.")
    return found.astype(np.float64)
