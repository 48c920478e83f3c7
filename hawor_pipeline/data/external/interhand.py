"""InterHand2.6M (v1.0): `images/{split}/Capture*/{sequence}/cam*/image*.jpg` and `annotations/{split}/*.json`.

MANO parameters are in the world frame, axis-angle relative to the mean pose; cameras are a rotation and a centre in
millimetres; joints are in millimetres, finger by finger from tip to root, right hand first. Left hands were fitted with
the corrected sign of the left model's shape directions.

Source: InterHand2.6M's published files and its notes on the MANO fits (NeuralAnnot).
"""

import json
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hawor_pipeline.core.mano import Side
from hawor_pipeline.core.units import mm_to_m
from hawor_pipeline.data.external.labels import HandLabel, PoseKind, Shot, Unit
from hawor_pipeline.data.pictures import PictureFile
from hawor_pipeline.errors import ConfigError, DataError

SPLITS = ("train", "val", "test")
NO_MANO_FIT = "no_mano_fit"
_LABELS = ("data", "camera", "joint_3d", "MANO_NeuralAnnot")
_SIDES: tuple[Side, Side] = ("right", "left")
# OpenPose order out of the data set's: thumb, index, middle, ring, pinky, each from tip to root, then the wrist.
_OPENPOSE_FROM_INTERHAND = (20, *(4 * finger + joint for finger in range(5) for joint in (3, 2, 1, 0)))


class InterHand:
    """InterHand2.6M, all splits that are there.

    Raises:
        ConfigError: the layout is not there.
    """

    name = "interhand"
    pose_kind: PoseKind = "relative"
    tips = "smplx"
    fix_left_shapedirs = True

    def __init__(self, root: Path, mano_dir: Path) -> None:
        self.root, self.mano_dir = root, mano_dir
        self.present = [split for split in SPLITS if all(path.is_file() for path in self._files(split))]
        if not self.present:
            raise ConfigError(f"{self._files('train')[0]} not found; expected InterHand2.6M unpacked in {root}")

    def _files(self, split: str) -> list[Path]:
        folder = self.root / "annotations" / split
        return [folder / f"InterHand2.6M_{split}_{name}.json" for name in _LABELS]

    @cached_property
    def _labels(self) -> dict[str, dict[str, Any]]:
        return {
            split: {name: _read_json(path) for name, path in zip(_LABELS, self._files(split), strict=True)}
            for split in self.present
        }

    @cached_property
    def _pictures(self) -> dict[tuple[str, str], list[tuple[str, dict[str, Any]]]]:
        """(subject, sequence) to (split, entry of the list of pictures) of each, sorted by camera and frame."""
        found: dict[tuple[str, str], list[tuple[str, dict[str, Any]]]] = {}
        for split, labels in self._labels.items():
            for entry in labels["data"]["images"]:
                key = (f"{split}_Capture{entry['capture']}", entry["seq_name"])
                found.setdefault(key, []).append((split, entry))
        for entries in found.values():
            entries.sort(key=lambda item: (int(item[1]["camera"]), int(item[1]["frame_idx"])))
        return dict(sorted(found.items()))

    def units(self) -> Sequence[Unit]:
        """A unit per capture and sequence, all cameras together."""
        return [Unit(subject, sequence, "", _action(sequence)) for subject, sequence in self._pictures]

    def label_files(self, unit: Unit) -> Sequence[Path]:
        """The files of its split."""
        return self._files(unit.subject.split("_", 1)[0])

    def splits(self) -> dict[str, list[str]]:
        """The published split."""
        subjects = sorted({subject for subject, _ in self._pictures})
        return {split: [name for name in subjects if name.startswith(f"{split}_")] for split in SPLITS}

    def shots(self, unit: Unit) -> Iterator[Shot]:
        """Pictures of one sequence; the view is the camera's number."""
        for split, entry in self._pictures[unit.subject, unit.sequence]:
            capture, frame, camera = str(entry["capture"]), str(entry["frame_idx"]), str(entry["camera"])
            picture = PictureFile(self.root / "images" / split / entry["file_name"])
            size = (int(entry["height"]), int(entry["width"]))
            intrinsics, cam_from_world = self._camera(split, capture, camera)
            fits = self._labels[split]["MANO_NeuralAnnot"].get(capture, {}).get(frame, {})
            stated = self._labels[split]["joint_3d"].get(capture, {}).get(frame)
            hands, lost = [], []
            for order, side in enumerate(_SIDES):
                if fits.get(side) is not None:
                    hands.append(self._hand(fits[side], side, _joints(stated, order), (capture, frame)))
                elif stated is None or stated["hand_type"] in (side, "interacting"):
                    lost.append((side, NO_MANO_FIT))
            yield Shot(
                int(camera), int(frame), picture, size, intrinsics, tuple(hands), cam_from_world, left_out=tuple(lost)
            )

    def _hand(self, fit: dict[str, Any], side: Side, joints: np.ndarray | None, where: tuple[str, str]) -> HandLabel:
        try:
            pose, betas, shift = (
                np.asarray(fit[name], np.float64).reshape(count)
                for name, count in (("pose", 48), ("shape", 10), ("trans", 3))
            )
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(
                f"MANO_NeuralAnnot of capture {where[0]}, frame {where[1]}, {side}: expected pose 48, shape 10 and "
                f"trans 3 ({error}); get the file again."
            ) from None
        return HandLabel(side, pose[:3], pose[3:], betas, shift, joints)

    def _camera(self, split: str, capture: str, camera: str) -> tuple[np.ndarray, np.ndarray]:
        """Intrinsics (3, 3), pixels, and pose (4, 4), metres."""
        try:
            found = self._labels[split]["camera"][capture]
            focal, point = found["focal"][camera], found["princpt"][camera]
            rotation = np.asarray(found["camrot"][camera], np.float64).reshape(3, 3)
            centre = mm_to_m(np.asarray(found["campos"][camera], np.float64).reshape(3))
        except (KeyError, ValueError) as error:
            raise DataError(f"camera {camera} of capture {capture} ({split}) is not calibrated ({error})") from None
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation, -rotation @ centre
        return np.array([[focal[0], 0, point[0]], [0, focal[1], point[1]], [0, 0, 1]], np.float64), pose


def _joints(stated: dict[str, Any] | None, order: int) -> np.ndarray | None:
    """(21, 3) metres, world frame, OpenPose order, NaN where a joint is not valid; None where none is stated."""
    if stated is None:
        return None
    mine = slice(21 * order, 21 * order + 21)
    valid = np.asarray(stated["joint_valid"], bool).reshape(-1)[mine]
    points = np.asarray(stated["world_coord"], np.float64).reshape(-1, 3)[mine]
    return mm_to_m(np.where(valid[:, None], points, np.nan)[list(_OPENPOSE_FROM_INTERHAND)])


def _action(sequence: str) -> str:
    """ "0390_dh_touchROM" is the range of motion of touching hands."""
    return re.sub(r"^\d+_", "", sequence)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: damaged ({error}); get the file again.") from None
