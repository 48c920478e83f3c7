"""DexYCB: `{subject}/{sequence}/{serial}/{color,labels}_{number}.{jpg,npz}`, with `meta.yml` and `calibration/`.

`pose_m` is 3 values of global orientation, 45 coefficients of MANO's pose components about its mean pose, and 3 of
translation, in the frame of each camera; all zero where the hand is absent. Left hands were fitted with MANO's left
model as published (without the sign fix of its shape directions). Joints are manopth's, whose left middle fingertip is
vertex 445 where manotorch and the right side take 444.

Source: DexYCB's toolkit (layout, splits, manopth as hand layer) and its issue 28 (left hands).
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hawor_pipeline.core.mano import Side
from hawor_pipeline.core.mano_convention import ManoConvention
from hawor_pipeline.errors import DataError
from hawor_pipeline.sources.image_files import ImageFile
from hawor_pipeline.sources.reader import NO_HAND, HandLabels, Reader, SequenceRef, Take, checked_array
from hawor_pipeline.untrusted.mano_files import load_pose_components
from hawor_pipeline.untrusted.safe_load import load_npz

IMAGE_SIZE = (480, 640)
# Setup s1 of the toolkit (unseen subjects), by position in the sorted list of the ten subjects.
_VAL_SUBJECTS, _TEST_SUBJECTS = (6,), (7, 8)
_SUBJECT_COUNT = 10


class DexYcb(Reader):
    """DexYCB, all subjects that are there.

    Raises:
        ConfigError: the layout is not there.
    """

    name = "dexycb"
    convention = ManoConvention(tips="manopth")
    folders = layout = ("calibration",)
    title = "DexYCB"

    def subjects(self) -> list[str]:
        """Return the subjects that are there."""
        return sorted({path.parent.parent.name for path in self.root.glob("*/*/meta.yml")})

    def refs(self) -> list[SequenceRef]:
        """Return a sequence per recording, all cameras together."""
        found = []
        for path in sorted(self.root.glob("*/*/meta.yml")):
            meta = _read_yaml(path)
            grasped = f"ycb_{meta['ycb_ids'][meta['ycb_grasp_ind']]:03d}"
            found.append(SequenceRef(path.parent.parent.name, path.parent.name, grasped, "grasp"))
        return found

    def label_files(self, ref: SequenceRef) -> Sequence[Path]:
        """Return metadata, calibrations, and a file per image."""
        folder = self.root / ref.subject / ref.sequence
        meta = _read_yaml(folder / "meta.yml")
        intrinsics = [self._intrinsics_file(serial) for serial in meta["serials"]]
        hands = [self._hand_file(name) for name in meta["mano_calib"]]
        return [folder / "meta.yml", *intrinsics, *hands, *sorted(folder.glob("*/labels_*.npz"))]

    def splits(self) -> dict[str, list[str]]:
        """Return setup s1, where all ten subjects are there."""
        subjects = self.subjects()
        if len(subjects) != _SUBJECT_COUNT:
            return {"train": subjects, "val": [], "test": []}
        val, test = ([subjects[index] for index in chosen] for chosen in (_VAL_SUBJECTS, _TEST_SUBJECTS))
        return {"train": [name for name in subjects if name not in (*val, *test)], "val": val, "test": test}

    def _intrinsics_file(self, serial: str) -> Path:
        height, width = IMAGE_SIZE
        return self.root / "calibration" / "intrinsics" / f"{serial}_{width}x{height}.yml"

    def _hand_file(self, calibration: str) -> Path:
        return self.root / "calibration" / f"mano_{calibration}" / "mano.yml"

    def images(self, ref: SequenceRef, views: Sequence[int]) -> dict[int, dict[int, ImageFile]]:
        """Return as many images of each camera as the recording's metadata states."""
        folder = self.root / ref.subject / ref.sequence
        meta = _read_yaml(folder / "meta.yml")
        return {
            view: {frame: _image(folder, serial, frame) for frame in range(meta["num_frames"])}
            for view, serial in enumerate(meta["serials"])
        }

    def takes(self, ref: SequenceRef, labels: None, views: Sequence[int]) -> Iterator[Take]:
        """Yield the images of one recording; the view is the camera's position in the list of serial numbers."""
        folder = self.root / ref.subject / ref.sequence
        meta = _read_yaml(folder / "meta.yml")
        side: Side = meta["mano_sides"][0]
        betas = np.asarray(_read_yaml(self._hand_file(meta["mano_calib"][0]))["betas"], np.float64)
        for view, serial in enumerate(meta["serials"]):
            intrinsics = self._intrinsics(serial)
            for frame in range(meta["num_frames"]):
                hand = self._hand(folder / serial / f"labels_{frame:06d}.npz", side, betas)
                image = _image(folder, serial, frame)
                hands: dict[str, HandLabels] = {side: hand} if hand else {}
                unlabelled = () if hand else ((side, NO_HAND),)
                yield Take.of_image(view, frame, image, IMAGE_SIZE, intrinsics, hands, unlabelled=unlabelled)

    def _intrinsics(self, serial: str) -> np.ndarray:
        color = _read_yaml(self._intrinsics_file(serial))["color"]
        return np.array([[color["fx"], 0, color["ppx"]], [0, color["fy"], color["ppy"]], [0, 0, 1]], np.float64)

    def _hand(self, path: Path, side: Side, betas: np.ndarray) -> HandLabels | None:
        arrays = load_npz(path)
        pose = checked_array(arrays.get("pose_m"), (51,), f"{path}: pose_m")
        joints = checked_array(arrays.get("joint_3d"), (21, 3), f"{path}: joint_3d")
        if not pose.any():
            return None
        fingers = pose[3:48] @ _components(self.mano_dir, side)
        return HandLabels.of_moment(pose[:3], fingers, pose[48:], betas, joints)


def _image(folder: Path, serial: str, frame: int) -> ImageFile:
    return ImageFile(folder / serial / f"color_{frame:06d}.jpg")


@lru_cache(maxsize=2)
def _components(mano_dir: Path, side: Side) -> np.ndarray:
    return load_pose_components(mano_dir, side)


@lru_cache(maxsize=64)
def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot be read ({error}); get the file again.") from None
