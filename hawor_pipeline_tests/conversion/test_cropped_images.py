"""ARCTIC's cropped pictures: the same samples as from full frames, in pixels of the full frame."""

import json
import shutil

import cv2
import numpy as np
import pytest
import simplejpeg
from scipy.spatial.transform import Rotation

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion.prepare import convert_subjects
from hawor_pipeline.shards.store import open_shards

SETTINGS = ConversionConfig(target_resolution=(64, 64), views=(0, 1, 4))


def object_pixels(arctic, subject, sequence, view, index):
    """Projected object vertices of one moment, from the raw files alone."""
    pose = np.load(arctic / f"raw_seqs/{subject}/{sequence}.object.npy").astype(float)[index]
    folder = arctic / "meta/object_vtemplates" / sequence.split("_")[0]
    parts = []
    for part, turn in (("top", Rotation.from_rotvec([0, 0, -pose[0]])), ("bottom", Rotation.identity())):
        lines = (folder / f"{part}.obj").read_text().splitlines()
        parts.append(turn.apply(np.array([line.split()[1:4] for line in lines if line.startswith("v ")], float) / 1000))
    world = Rotation.from_rotvec(pose[1:4]).apply(np.concatenate(parts)) + pose[4:7] / 1000
    misc = json.loads((arctic / "meta/misc.json").read_text())[subject]
    matrix, intrinsics = np.array(misc["world2cam"][view - 1]), np.array(misc["intris_mat"][view - 1])
    image = (world @ matrix[:3, :3].T + matrix[:3, 3]) @ intrinsics.T
    return image[:, :2] / image[:, 2:]


@pytest.fixture
def cropped_copy(raw_copy, tmp_path):
    """The same raw data with pictures as ARCTIC crops them: 1.5 x the object's box (at least 600 px) at 1000 px."""
    arctic = tmp_path / "cropped" / "arctic"
    shutil.copytree(raw_copy, arctic, ignore=shutil.ignore_patterns("images"))
    shutil.copytree(raw_copy.parent / "body_models", tmp_path / "cropped" / "body_models")
    offset = json.loads((arctic / "meta/misc.json").read_text())["s05"]["ioi_offset"]
    frames = len(np.load(next((arctic / "raw_seqs/s05").glob("*.object.npy"))))
    for path in sorted((raw_copy / "images").rglob("*.jpg")):
        sequence, view, number = path.parts[-3], int(path.parts[-2]), int(path.stem)
        image = simplejpeg.decode_jpeg(path.read_bytes())
        if view == 0:
            size = (round(image.shape[1] * 0.3), round(image.shape[0] * 0.3))
            affine = np.array([[0.3, 0, 0], [0, 0.3, 0]])
        else:
            pixels = object_pixels(arctic, "s05", sequence, view, min(max(number - offset, 0), frames - 1))
            low, high = pixels.min(0), pixels.max(0)
            side = max(1.7 * (high - low).max(), 600.0)
            scale, size = 1000 / (1.5 * side), (1000, 1000)
            corner = (low + high) / 2 - 0.75 * side
            affine = np.array([[scale, 0, -corner[0] * scale], [0, scale, -corner[1] * scale]])
        target = arctic / "cropped_images" / path.relative_to(raw_copy / "images")
        target.parent.mkdir(parents=True, exist_ok=True)
        cut = cv2.warpAffine(image, affine, size, flags=cv2.INTER_AREA if view == 0 else cv2.INTER_LINEAR)
        target.write_bytes(simplejpeg.encode_jpeg(cut, quality=97, colorspace="RGB", colorsubsampling="444"))
    return arctic


def test_labels_are_those_of_the_full_frame_and_images_show_the_same(raw_copy, cropped_copy, tmp_path):
    convert_subjects(raw_copy, None, ["s05"], tmp_path / "a", SETTINGS, workers=0)
    convert_subjects(cropped_copy, None, ["s05"], tmp_path / "b", SETTINGS, workers=0)
    full, cropped = open_shards(tmp_path / "a"), open_shards(tmp_path / "b")
    assert full.column("sample_id").tolist() == cropped.column("sample_id").tolist()
    for name in ("joints_px", "box_center_px", "box_size_px", "intrinsics", "image_width", "joint_in_frame"):
        np.testing.assert_array_equal(full.column(name), cropped.column(name))
    static = np.flatnonzero(full.column("view") != 0)
    for row in static[::3]:
        first, second = (simplejpeg.decode_jpeg(shards.jpeg(row)) for shards in (full, cropped))
        from_image = [np.vstack([s.column("crop_from_image")[row], [0, 0, 1]]) for s in (full, cropped)]
        moved = cv2.warpAffine(first, (from_image[1] @ np.linalg.inv(from_image[0]))[:2], (96, 96))
        inner = (slice(16, -16),) * 2
        here = np.abs(second[inner].astype(int) - moved[inner]).mean()
        shifted = np.abs(second[inner].astype(int) - np.roll(moved, 2, 1)[inner]).mean()
        assert here < 4 and here < 0.6 * shifted
