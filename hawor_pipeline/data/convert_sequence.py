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
from hawor_pipeline.data.arctic import SIDES, ArcticRoot
from hawor_pipeline.data.confidence import confidence, skip_reasons
from hawor_pipeline.data.crops import (
    crop_from_file,
    cut_crop,
    decode_image,
    encode_crop,
    is_black,
    measure_blur,
    plan_cut,
)
from hawor_pipeline.data.hand_geometry import SeenHand, see_hand
from hawor_pipeline.data.picture_frame import PictureFrame, picture_frame
from hawor_pipeline.data.scene import Scene, open_scene
from hawor_pipeline.data.shard_schema import (
    ANNOTATIONS_FILE,
    DISTANCES_FILE,
    DISTANCES_SCHEMA,
    IMAGES_FILE,
    LEDGER_FILE,
    LEDGER_SCHEMA,
    to_arrow,
)
from hawor_pipeline.data.shards import ImageWriter, write_parquet
from hawor_pipeline.errors import DataError
from hawor_pipeline.provenance import mark_done, sha256_file, staging_dir

# Reasons in the ledger.
NO_IMAGE = "no_image"  # ground truth without a picture
NO_GROUND_TRUTH_BEFORE = "no_ground_truth_before_start"  # a picture earlier than ground truth 0, as ioi_offset says
NO_GROUND_TRUTH_AFTER = "no_ground_truth_after_end"
OUTSIDE_PICTURE = "outside_picture"
BEHIND_CAMERA = "behind_camera"
VIEW_ABSENT = "view_absent"
# Cameras and motion capture stop a few frames apart; in a short sequence that would be a large share.
EDGE_FRAMES = 3


@dataclass(frozen=True, slots=True)
class SequenceTask:
    """Everything that a worker needs for one sequence."""

    root: Path
    mano_dir: Path
    subject: str
    sequence: str
    output: Path  # the shard's final folder
    settings: ConversionConfig
    key: str
    metadata: dict[str, str]  # goes into the tables


def convert_sequence(task: SequenceTask) -> dict[str, Any]:
    """Convert one sequence and publish its shard.

    Returns:
        Numbers about it (rows, valid rows, what was left out and why, sha256 of the files).

    Raises:
        DataError: a raw file or picture is damaged, too much is left out, or the disk is full. Nothing is published.
    """
    scene = open_scene(task.root, task.mano_dir, task.subject, task.sequence, task.settings.views)
    ledger: list[tuple] = []
    with staging_dir(task.output) as folder:
        blocks = []
        with ImageWriter(folder / IMAGES_FILE) as writer:
            for position, view in enumerate(scene.cameras):
                blocks += _convert_view(task, scene, position, view, writer, ledger)
        info = _summary(task, scene, blocks, ledger)
        error = left_out_error(f"{task.subject}/{task.sequence}", info, task.settings)
        if error is not None:
            raise error
        arrays = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
        write_parquet(to_arrow(arrays, task.metadata), folder / ANNOTATIONS_FILE)
        _write_side_table(task, LEDGER_SCHEMA, sorted(ledger), folder / LEDGER_FILE)
        _write_side_table(task, DISTANCES_SCHEMA, scene.distances, folder / DISTANCES_FILE)
        names = [ANNOTATIONS_FILE, IMAGES_FILE, LEDGER_FILE, DISTANCES_FILE]
        info["sha256"] = {name: sha256_file(folder / name) for name in names}
        info["bytes"] = sum((folder / name).stat().st_size for name in names)
        mark_done(folder, task.key, info, names)
    return info


def _write_side_table(task: SequenceTask, schema: pa.Schema, rows: list[tuple], path: Path) -> None:
    """A small table whose first columns are subject and sequence."""
    records = [dict(zip(schema.names, (task.subject, task.sequence, *row), strict=True)) for row in rows]
    write_parquet(pa.Table.from_pylist(records, schema).replace_schema_metadata(task.metadata), path)


def _convert_view(
    task: SequenceTask, scene: Scene, position: int, view: int, writer: ImageWriter, ledger: list[tuple]
) -> list[dict[str, np.ndarray]]:
    """Rows of one view, a block per side in the order of the table; appends its crops and what is left out."""
    camera, images, frames = scene.cameras[view], scene.images[view], len(scene.raw)
    pictures = picture_frame(ArcticRoot(task.root).image_source, camera, scene.object_vertices)
    seen = {side: see_hand(scene.hands[side], camera, task.settings.box_scale, pictures.shows) for side in SIDES}
    crops: dict[str, list[_Crop]] = {side: [] for side in SIDES}
    if not images:
        ledger.append((view, -1, "", VIEW_ABSENT, 2 * frames))
    else:
        missing = [index for index in range(frames) if index + scene.offset not in images]
        ledger += [(view, index + scene.offset, "", NO_IMAGE, 2) for index in missing]
    for frame, path in images.items():
        index = frame - scene.offset
        if not 0 <= index < frames:
            reason = NO_GROUND_TRUTH_BEFORE if index < 0 else NO_GROUND_TRUTH_AFTER
            ledger.append((view, frame, "", reason, 2))
            continue
        wanted = []
        for side in SIDES:
            if np.isnan(seen[side].box_size_px[index]):
                ledger.append((view, frame, side, BEHIND_CAMERA, 1))
            elif not seen[side].overlaps[index]:
                ledger.append((view, frame, side, OUTSIDE_PICTURE, 1))
            else:
                wanted.append(side)
        if wanted:
            _cut_frame(task, path, (frame, index), {side: seen[side] for side in wanted}, pictures, crops)
    blocks = []
    for side in SIDES:
        for crop in crops[side]:
            writer.append(crop.jpeg)
        blocks.append(_rows(task, scene, (position, view, side), seen[side], crops[side]))
    return blocks


@dataclass(frozen=True, slots=True)
class _Crop:
    frame: int
    index: int
    jpeg: bytes
    crop_from_image: np.ndarray  # (2, 3)
    blur: float
    black: bool


def _cut_frame(
    task: SequenceTask,
    path: Path,
    number: tuple[int, int],
    seen: dict[str, SeenHand],
    pictures: PictureFrame,
    crops: dict[str, list[_Crop]],
) -> None:
    """Decode one picture once and cut the hands out of it."""
    frame, index = number
    settings = task.settings
    crop_px = round(settings.crop_margin * settings.target_resolution[0])
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); get the file again.") from None
    image = decode_image(data, path, pictures.size)
    black = is_black(image)
    scale, shift = pictures.scale[index], pictures.shift[index]
    for side, hand in seen.items():
        size = float(hand.box_size_px[index]) * settings.crop_margin * scale
        cut = plan_cut(hand.box_center_px[index] * scale + shift, size, crop_px)
        crop = cut_crop(image, cut, crop_px)
        affine = crop_from_file(cut, crop_px)
        affine[:, 2] += affine[:, :2] @ shift
        affine[:, :2] *= scale
        crops[side].append(
            _Crop(
                frame,
                index,
                encode_crop(crop, settings.jpeg_quality),
                affine,
                measure_blur(crop, settings.crop_margin),
                black,
            )
        )


def _rows(
    task: SequenceTask, scene: Scene, where: tuple[int, int, str], seen: SeenHand, crops: list[_Crop]
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
        "crop_from_image": np.array([crop.crop_from_image for crop in crops]).reshape(count, 2, 3),
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


def _summary(task: SequenceTask, scene: Scene, blocks: list[dict], ledger: list[tuple]) -> dict[str, Any]:
    rows = sum(len(block["frame"]) for block in blocks)
    left_out: dict[str, int] = {}
    for *_, reason, samples in sorted(ledger):
        left_out[reason] = left_out.get(reason, 0) + samples
    possible = 2 * len(scene.raw) * len(scene.cameras)  # hands with ground truth, over all views
    without = sum(left_out.get(reason, 0) for reason in (NO_GROUND_TRUTH_BEFORE, NO_GROUND_TRUTH_AFTER))
    invalid: dict[str, int] = {}
    for block in blocks:
        for reason in block["skip_reason"]:
            if reason:
                invalid[reason] = invalid.get(reason, 0) + 1
    return {
        "rows": rows,
        "valid_rows": rows - sum(invalid.values()),
        "ground_truth_frames": len(scene.raw),
        "left_out": dict(sorted(left_out.items())),
        "invalid": dict(sorted(invalid.items())),
        "unaccounted": possible - rows - (sum(left_out.values()) - without),
        "unmatched_share": unmatched_share(ledger, len(scene.raw)),
    }


def unmatched_share(ledger: list[tuple], frames: int) -> float:
    """Share of the moments of the views present that have only a picture or only ground truth.

    Pictures before ground truth 0 are not counted: the offset says that they are there. Nor are the few moments
    per view by which cameras and motion capture stop apart.
    """
    unmatched: dict[int, int] = {}
    absent = {view for view, _, _, reason, _ in ledger if reason == VIEW_ABSENT}
    views = {view for view, *_ in ledger} - absent
    for view, _, _, reason, _ in ledger:
        if reason in (NO_IMAGE, NO_GROUND_TRUTH_AFTER):
            unmatched[view] = unmatched.get(view, 0) + 1
    worst = max((max(0, unmatched.get(view, 0) - EDGE_FRAMES) for view in views), default=0)
    return worst / max(frames, 1)


def left_out_error(name: str, info: dict[str, Any], settings: ConversionConfig) -> DataError | None:
    """The error of a sequence of which more than the allowed share is left out, else None."""
    share = info["unmatched_share"]
    if share <= settings.max_left_out_share:
        return None
    return DataError(
        f"{name}: the counts of pictures and ground truth disagree: {share:.0%} of the {info['ground_truth_frames']} "
        f"frames lack one or the other in the worst view ({info['left_out']}), at most "
        f"{settings.max_left_out_share:.0%} may. Get the missing pictures or raw files, or raise max_left_out_share."
    )
