"""One ARCTIC sequence to one shard: the independent unit that the pool maps over.

The shard appears by one rename when all of it is on the disk. Its bytes depend on the raw files, the settings and the
versions of the libraries, on nothing else.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion.blur import measure_blur
from hawor_pipeline.conversion.confidence import confidence, skip_reasons
from hawor_pipeline.conversion.crops import cut_crops, encode_crop
from hawor_pipeline.conversion.decode import thread_decoder
from hawor_pipeline.conversion.fingerprint import ImageHashes
from hawor_pipeline.conversion.hand_geometry import SeenHand, see_hand
from hawor_pipeline.conversion.image_frame import ImageFrame, find_image_frame
from hawor_pipeline.conversion.ledger import (
    NO_GROUND_TRUTH_AFTER,
    NO_GROUND_TRUTH_BEFORE,
    absent_views,
    counted_by_reason,
    invalid_by_reason,
    left_out_error,
    unmatched_share,
    unseen_samples,
    wanted_sides,
    without_image,
)
from hawor_pipeline.conversion.plan import sequence_key, sequence_version
from hawor_pipeline.conversion.scene import Scene, open_scene
from hawor_pipeline.errors import DataError
from hawor_pipeline.provenance import mark_done, sha256_file, staging_dir
from hawor_pipeline.shards.schema import (
    ANNOTATIONS_FILE,
    DISTANCES_FILE,
    DISTANCES_SCHEMA,
    IMAGES_FILE,
    LEDGER_FILE,
    LEDGER_SCHEMA,
    to_arrow,
)
from hawor_pipeline.shards.store import ImageWriter, write_parquet
from hawor_pipeline.sources.arctic import SIDES, ArcticRoot
from hawor_pipeline.sources.image_files import ImageFile


@dataclass(frozen=True, slots=True)
class SequenceTask:
    """Everything that a worker needs for one sequence."""

    root: Path
    mano_dir: Path
    subject: str
    sequence: str
    output: Path  # the shard's final folder
    settings: ConversionConfig
    shared: dict[str, Any]  # what the keys of all sequences have in common
    raw: dict[str, Any]  # hashes of the raw files without the pictures
    image_digests: dict[str, str] | None  # view -> digest of its pictures; None: find them while converting
    metadata: dict[str, str]  # goes into the tables
    recorded_views: tuple[int, ...] = ()  # that any sequence of the subject has


@dataclass(frozen=True, slots=True)
class Converted:
    """What a worker says of a finished shard."""

    info: dict[str, Any]
    data_version: str
    image_digests: dict[str, str]


def convert_sequence(task: SequenceTask) -> Converted:
    """Convert one sequence and publish its shard.

    Raises:
        DataError: a raw file or picture is damaged, too much is left out, or the disk is full. Nothing is published.
    """
    scene = open_scene(task.root, task.mano_dir, task.subject, task.sequence, task.settings.views)
    _check_zip(task)
    with staging_dir(task.output) as folder:
        with ImageWriter(folder / IMAGES_FILE) as writer:
            blocks, ledger, digests = convert_views(task, scene, writer)
        info = _summary(task, scene, blocks, ledger)
        error = left_out_error(f"{task.subject}/{task.sequence}", info, task.settings, task.recorded_views)
        if error is not None:
            raise error
        raw = {**task.raw, "images": digests}
        version = sequence_version(task.shared, raw)
        metadata = {**task.metadata, "data_version": version}
        arrays = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
        write_parquet(to_arrow(arrays, metadata), folder / ANNOTATIONS_FILE)
        _write_side_table(task, metadata, LEDGER_SCHEMA, sorted(ledger), folder / LEDGER_FILE)
        _write_side_table(task, metadata, DISTANCES_SCHEMA, scene.distances, folder / DISTANCES_FILE)
        names = [ANNOTATIONS_FILE, IMAGES_FILE, LEDGER_FILE, DISTANCES_FILE]
        info["sha256"] = {name: sha256_file(folder / name) for name in names}
        info["bytes"] = sum((folder / name).stat().st_size for name in names)
        mark_done(folder, sequence_key(task.shared, raw, task.subject, task.sequence), info, names)
    return Converted(info, version, digests)


def convert_views(
    task: SequenceTask, scene: Scene, writer: ImageWriter
) -> tuple[list[dict[str, np.ndarray]], list[tuple], dict[str, str]]:
    """Cut the hands out of every picture of a scene.

    Returns:
        Columns in blocks, in the order of the table; rows of the ledger; view to digest of its pictures.
    """
    blocks: list[dict[str, np.ndarray]] = []
    ledger: list[tuple] = []
    digests = {}
    for position, view in enumerate(scene.cameras):
        found, digest = _convert_view(task, scene, position, view, writer, ledger)
        blocks += found
        if scene.images[view]:
            digests[str(view)] = digest
    return blocks, ledger, task.image_digests or digests


def _check_zip(task: SequenceTask) -> None:
    """Compare the zip that the pictures are read from with ARCTIC's published checksum, where the user has it."""
    root = ArcticRoot(task.root)
    archive = root.image_zip(task.subject, task.sequence)
    if archive is None or not root.reads_zip(task.subject, task.sequence, task.settings.views):
        return
    stated = root.zip_checksum(archive)
    if stated is not None and sha256_file(archive) != stated:
        raise DataError(f"{archive}: differs from the published checksum (sha256); download it again.")


def _write_side_table(
    task: SequenceTask, metadata: dict[str, str], schema: pa.Schema, rows: list[tuple], path: Path
) -> None:
    """A small table whose first columns are subject and sequence."""
    records = [dict(zip(schema.names, (task.subject, task.sequence, *row), strict=True)) for row in rows]
    write_parquet(pa.Table.from_pylist(records, schema).replace_schema_metadata(metadata), path)


def _convert_view(
    task: SequenceTask, scene: Scene, position: int, view: int, writer: ImageWriter, ledger: list[tuple]
) -> tuple[list[dict[str, np.ndarray]], str]:
    """Rows of one view, a block per side in the order of the table, and the digest of its pictures.

    Appends its crops to the writer, and what is left out to the ledger.
    """
    camera, images, frames = scene.cameras[view], scene.images[view], len(scene.raw)
    file_frame = find_image_frame(ArcticRoot(task.root).image_source, camera, scene.object_vertices)
    seen = {side: see_hand(scene.hands[side], camera, task.settings.box_scale, file_frame.shows) for side in SIDES}
    squares = {side: _squares(seen[side], file_frame, task.settings.crop_margin) for side in SIDES}
    crops: dict[str, list[_StoredCrop]] = {side: [] for side in SIDES}
    ledger += without_image(view, images, scene.offset, frames)
    hashes = ImageHashes()
    for frame, image in images.items():
        wanted, lost = wanted_sides(seen, frame - scene.offset, frames)
        ledger += [(view, frame, *reason) for reason in lost]
        if not wanted and task.image_digests is not None:
            continue
        data = image.read()
        if task.image_digests is None:
            hashes.add(image, data)
        if wanted:
            boxes = {side: squares[side][frame - scene.offset] for side in wanted}
            _cut_frame(task.settings, (image, data, file_frame.size), (frame, frame - scene.offset), boxes, crops)
    blocks = []
    for side in SIDES:
        for crop in crops[side]:
            writer.append(crop.jpeg)
        blocks.append(_rows(task, scene, (position, view, side), seen[side], file_frame, crops[side]))
    return blocks, hashes.digest


def _squares(hand: SeenHand, file_frame: ImageFrame, margin: float) -> list[tuple[list[float], float]]:
    """Centre and side of what to cut out, for each frame, in pixels of the files."""
    centers = hand.box_center_px * file_frame.scale[:, None] + file_frame.shift
    return list(zip(centers.tolist(), (hand.box_size_px * margin * file_frame.scale).tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class _StoredCrop:
    frame: int
    index: int
    jpeg: bytes
    crop_from_file: np.ndarray  # (2, 3)
    blur: float
    black: bool


def _cut_frame(
    settings: ConversionConfig,
    source: tuple[ImageFile, bytes, tuple[int, int]],
    number: tuple[int, int],
    boxes: dict[str, tuple[list[float], float]],
    crops: dict[str, list[_StoredCrop]],
) -> None:
    """Decode one picture once and cut the hands out of it.

    Args:
        settings: of the conversion.
        source: the picture, its bytes, and the size (height, width) that it must have.
        number: of the picture and of its ground truth.
        boxes: side to centre and side of the square to cut, pixels of the file.
        crops: gets what was cut.
    """
    crop_px = round(settings.crop_margin * settings.target_resolution[0])
    name, data, size = source
    found = cut_crops(data, name, size, list(boxes.values()), crop_px, thread_decoder())
    for side, crop in zip(boxes, found, strict=True):
        blur = measure_blur(crop.pixels, settings.crop_margin)
        jpeg = encode_crop(crop.pixels, settings.jpeg_quality)
        crops[side].append(_StoredCrop(*number, jpeg, crop.crop_from_file, blur, crop.black))


def _rows(
    task: SequenceTask,
    scene: Scene,
    where: tuple[int, int, str],
    seen: SeenHand,
    file_frame: ImageFrame,
    crops: list[_StoredCrop],
) -> dict[str, np.ndarray]:
    """Columns of one view and side."""
    position, view, side = where
    hand, camera, raw = scene.hands[side], scene.cameras[view], scene.raw
    index = np.array([crop.index for crop in crops], np.int64)
    frames = np.array([crop.frame for crop in crops], np.int64)
    count = len(crops)
    blur = np.array([crop.blur for crop in crops], np.float64)
    in_frame, visible = seen.joint_in_frame[index], scene.visible[side][position][index]
    black = np.array([crop.black for crop in crops], bool)
    skip = skip_reasons(black, in_frame, seen.box_size_px[index], task.settings)
    names = [f"{raw.subject}/{raw.sequence}/{view}/{frame:05d}/{side}" for frame in frames]
    constant = {
        "subject": raw.subject,
        "sequence": raw.sequence,
        "object": raw.object,
        "action": raw.action,
        "side": side,
        "view": view,
        "is_right": side == "right",
        "image_height": camera.image_size[0],
        "image_width": camera.image_size[1],
    }
    typical = float(np.median(hand.fitting_err))
    return {
        "sample_id": np.array(names, object),
        **{name: np.full(count, value, object if isinstance(value, str) else None) for name, value in constant.items()},
        "frame": frames,
        "gt_index": index,
        "box_center_px": seen.box_center_px[index],
        "box_size_px": seen.box_size_px[index],
        "crop_from_image": _from_image([crop.crop_from_file for crop in crops], file_frame, index),
        "intrinsics": np.broadcast_to(camera.intrinsics, (count, 3, 3)),
        "cam_from_world": camera.cam_from_world[index],
        "distortion": np.broadcast_to(camera.distortion, (count, 8)),
        "global_orient": seen.global_orient[index],
        "hand_pose": hand.hand_pose[index],
        "betas": hand.betas[index],
        "betas_as_right": hand.betas_as_right[index],
        "betas_as_right_residual_mm": hand.betas_as_right_residual_mm[index],
        "translation_m": seen.translation_m[index],
        "joints_cam_m": seen.joints_cam_m[index],
        "joints_px": seen.joints_px[index],
        "joints_world_m": hand.joints_m[index],
        "joint_in_frame": in_frame,
        "joint_visible": visible,
        "occlusion": 1.0 - visible.mean(1) if count else blur,
        "truncation": seen.truncation[index],
        "confidence": confidence(in_frame, visible, blur, hand.fitting_err[index], typical) if count else blur,
        "blur": blur,
        "fitting_err": hand.fitting_err[index],
        "valid": skip == "",
        "skip_reason": skip,
    }


def _from_image(from_file: list[np.ndarray], file_frame: ImageFrame, index: np.ndarray) -> np.ndarray:
    """(N, 2, 3) maps from full frames to crops, of those from files to crops at moments (N,)."""
    affine = np.array(from_file).reshape(len(index), 2, 3)
    affine[:, :, 2] += np.einsum("nij,nj->ni", affine[:, :, :2], file_frame.shift[index])
    affine[:, :, :2] *= file_frame.scale[index, None, None]
    return affine


def _summary(task: SequenceTask, scene: Scene, blocks: list[dict], ledger: list[tuple]) -> dict[str, Any]:
    rows = sum(len(block["frame"]) for block in blocks)
    left_out = counted_by_reason(ledger)
    possible = 2 * len(scene.raw) * len(scene.cameras)  # hands with ground truth, over all views
    without = sum(left_out.get(reason, 0) for reason in (NO_GROUND_TRUTH_BEFORE, NO_GROUND_TRUTH_AFTER))
    invalid = invalid_by_reason(blocks)
    return {
        "rows": rows,
        "valid_rows": rows - sum(invalid.values()),
        "ground_truth_frames": len(scene.raw),
        "left_out": left_out,
        "invalid": invalid,
        "unaccounted": possible - rows - (sum(left_out.values()) - without),
        "unmatched_share": unmatched_share(ledger, len(scene.raw)),
        "unseen": unseen_samples(ledger),
        "absent_views": absent_views(ledger),
    }
