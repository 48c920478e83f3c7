"""One sequence of another data set to one shard, by the same geometry, crops and rules as ARCTIC's."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion.blur import measure_blur
from hawor_pipeline.conversion.confidence import confidence, skip_reasons
from hawor_pipeline.conversion.crops import cut_crops, encode_crop
from hawor_pipeline.conversion.decode import thread_decoder
from hawor_pipeline.conversion.fingerprint import ImageHashes, file_states, hash_files
from hawor_pipeline.conversion.hand_geometry import SeenHand, ViewCamera, WorldHand, pose_hand, see_hand
from hawor_pipeline.conversion.image_frame import full_frame
from hawor_pipeline.conversion.ledger import BEHIND_CAMERA, OUTSIDE_IMAGE, counted_by_reason, invalid_by_reason
from hawor_pipeline.conversion.visibility import SkinFaces, joint_visibility
from hawor_pipeline.core.mano import TIP_SETS
from hawor_pipeline.core.units import m_to_mm
from hawor_pipeline.errors import DataError
from hawor_pipeline.provenance import hash_json, mark_done, sha256_file, staging_dir
from hawor_pipeline.shards.schema import (
    ANNOTATIONS_FILE,
    COLUMNS,
    DISTANCES_FILE,
    DISTANCES_SCHEMA,
    IMAGES_FILE,
    LEDGER_FILE,
    LEDGER_SCHEMA,
    to_arrow,
)
from hawor_pipeline.shards.store import ImageWriter, write_parquet
from hawor_pipeline.sources.arctic import SIDES
from hawor_pipeline.sources.hand_models import HandModels, load_hand_models
from hawor_pipeline.sources.raw_sequence import RawHand
from hawor_pipeline.sources.reader import WITHOUT_GROUND_TRUTH, HandLabel, Reader, Shot, Unit
from hawor_pipeline.sources.registry import open_reader

NO_JOINTS = "no_joints_to_check_the_fit"
LARGEST_FIT_MM = 40.0  # a wrong convention (flat hand for mean pose, another frame) is further off than any fit
_SEEN = (
    *("global_orient", "translation_m", "joints_cam_m", "joints_px", "joint_in_frame"),
    *("box_center_px", "box_size_px", "truncation"),
)
_OF_WORLD = ("hand_pose", "betas", "betas_as_right", "betas_as_right_residual_mm")
_TIPS = [4, 8, 12, 16, 20]  # OpenPose order


@dataclass(frozen=True, slots=True)
class UnitTask:
    """Everything that a worker needs for one sequence."""

    dataset: str
    root: Path
    mano_dir: Path
    unit: Unit
    output: Path  # the shard's final folder
    settings: ConversionConfig
    shared: dict[str, Any]  # what the keys of all sequences have in common
    key: str
    labels: Any = None  # what the reader's `labels_of` says


@dataclass(frozen=True, slots=True)
class _Hand:
    """One hand of one picture, posed, seen and cut."""

    shot: Shot
    label: HandLabel
    world: WorldHand  # T = 1
    seen: SeenHand  # T = 1
    visible: np.ndarray  # (21,)
    fitting_err: float
    jpeg: bytes
    crop_from_image: np.ndarray
    blur: float
    black: bool


def convert_unit(task: UnitTask) -> tuple[dict[str, Any], str]:
    """Convert one sequence and publish its shard.

    Returns:
        Numbers about it, and its data version.

    Raises:
        DataError: a file or picture is damaged, too many labelled hands are left out, or the disk is full. Nothing is
            published.
    """
    reader = open_reader(task.dataset, task.root, task.mano_dir)
    models = load_hand_models(task.mano_dir, reader.fix_left_shapedirs)
    ledger: list[tuple] = []
    blocks: list[dict[str, np.ndarray]] = []
    digests: dict[str, str] = {}
    images = expected = 0
    with staging_dir(task.output) as folder:
        with ImageWriter(folder / IMAGES_FILE) as writer:
            for view, of_view in groupby(reader.shots(task.unit, task.labels), key=lambda shot: shot.view):
                hands: dict[str, list[_Hand]] = {side: [] for side in SIDES}
                hashes = ImageHashes()
                for shot in of_view:
                    images, expected = images + 1, expected + len(shot.hands) + len(shot.left_out)
                    for hand in _hands(task, reader, models, shot, hashes, ledger):
                        hands[hand.label.side].append(hand)
                for side in SIDES:
                    for hand in hands[side]:
                        writer.append(hand.jpeg)
                    if hands[side]:
                        blocks.append(_rows(task, hands[side]))
                digests[str(view)] = hashes.digest
        info = _info(blocks, ledger, images, expected)
        error = lost_hands_error(task.unit, info, task.settings)
        if error is not None:
            raise error
        version = hash_json(
            {
                "raw": {"labels": _label_hashes(tuple(reader.label_files(task.unit)), task.root), "pictures": digests},
                **{name: task.shared[name] for name in ("mano", "settings", "converter", "dataset")},
            }
        )
        metadata = {
            "source": task.dataset,
            "converter_version": str(task.shared["converter"]),
            "data_version": version,
        }
        arrays = _joined(blocks)
        check_joints_agree(f"{task.unit.subject}/{task.unit.sequence}", arrays["fitting_err"], LARGEST_FIT_MM)
        write_parquet(to_arrow(arrays, metadata), folder / ANNOTATIONS_FILE)
        _side_table(task.unit, metadata, LEDGER_SCHEMA, sorted(ledger), folder / LEDGER_FILE)
        _side_table(task.unit, metadata, DISTANCES_SCHEMA, [], folder / DISTANCES_FILE)
        names = [ANNOTATIONS_FILE, IMAGES_FILE, LEDGER_FILE, DISTANCES_FILE]
        info["sha256"] = {name: sha256_file(folder / name) for name in names}
        info["bytes"] = sum((folder / name).stat().st_size for name in names)
        info["data_version"] = version
        info["made_under"] = hash_json(task.shared)
        mark_done(folder, task.key, info, names)
    return info, version


def _label_hashes(files: tuple[Path, ...], root: Path) -> dict[str, str]:
    return _hashes_of_state(files, tuple(file_states(files)), root)


@lru_cache(maxsize=2)
def _hashes_of_state(files: tuple[Path, ...], _states: tuple[tuple[str, int, int], ...], root: Path) -> dict[str, str]:
    """Sequences that share their label files follow one another: gigabytes are hashed once, not for each of them."""
    return hash_files(files, root)


def _hands(
    task: UnitTask, reader: Reader, models: HandModels, shot: Shot, hashes: ImageHashes, ledger: list[tuple]
) -> Iterator[_Hand]:
    """The hands of one picture; what is left out goes to the ledger."""
    ledger += [(shot.view, shot.frame, side, reason, 1) for side, reason in shot.left_out]
    if not shot.hands:
        return
    data = shot.image.read()
    hashes.add(shot.image, data)
    camera = ViewCamera(shot.view, shot.image_size, shot.cam_from_world[None], shot.intrinsics, np.zeros(8))
    frame = full_frame(shot.image_size, 1)
    posed = {label.side: (label, _posed(models, reader, label)) for label in shot.hands}
    visible = _visible({side: world for side, (_, world) in posed.items()}, camera, models)
    kept = []
    for side, (label, world) in posed.items():
        seen = see_hand(world, camera, task.settings.box_scale, frame.shows)
        reason = _lost(label, seen)
        if reason:
            ledger.append((shot.view, shot.frame, side, reason, 1))
        else:
            kept.append((label, world, seen, visible[side]))
    crop_px = round(task.settings.crop_margin * task.settings.target_resolution[0])
    boxes = [(seen.box_center_px[0], float(seen.box_size_px[0]) * task.settings.crop_margin) for _, _, seen, _ in kept]
    if not kept:
        return
    crops = cut_crops(data, str(shot.image), shot.image_size, boxes, crop_px, thread_decoder())
    for (label, world, seen, shown), crop in zip(kept, crops, strict=True):
        yield _Hand(
            shot,
            label,
            world,
            seen,
            shown,
            _fitting_error_mm(world, label, reader.tips),
            encode_crop(crop.pixels, task.settings.jpeg_quality),
            crop.crop_from_file,
            measure_blur(crop.pixels, task.settings.crop_margin),
            crop.black,
        )


def _posed(models: HandModels, reader: Reader, label: HandLabel) -> WorldHand:
    pose = label.hand_pose
    if reader.pose_kind == "absolute":
        pose = pose - models.arrays[label.side].hands_mean
    orient, pose, shift, betas = (
        np.asarray(value, np.float64)[None] for value in (label.global_orient, pose, label.translation_m, label.betas)
    )
    return pose_hand(models, label.side, RawHand(orient, pose, shift, betas, np.zeros(1)))


def _visible(hands: dict[str, WorldHand], camera: ViewCamera, models: HandModels) -> dict[str, np.ndarray]:
    """Side to (21,) bool; the other hand and the hand itself may hide a joint, objects are not known."""
    skin = SkinFaces.from_models(
        {side: models.arrays[side].faces for side in hands}, {side: models.arrays[side].skin_weights for side in hands}
    )
    vertices = {side: hand.vertices_m[0] for side, hand in hands.items()}
    joints = {side: hand.joints_m[0] for side, hand in hands.items()}
    return {side: seen[0] for side, seen in joint_visibility(vertices, joints, camera.centres_m, skin).items()}


def _lost(label: HandLabel, seen: SeenHand) -> str:
    if label.joints_m is None or not np.isfinite(label.joints_m).any():
        return NO_JOINTS
    if np.isnan(seen.box_size_px[0]):
        return BEHIND_CAMERA
    return "" if seen.overlaps[0] else OUTSIDE_IMAGE


def _fitting_error_mm(world: WorldHand, label: HandLabel, tips: str) -> float:
    """Mean distance of the posed model's joints to the data set's own, by its own fingertips."""
    assert label.joints_m is not None
    joints = world.joints_m[0].copy()
    joints[_TIPS] = world.vertices_m[0, list(TIP_SETS[tips])]
    return float(m_to_mm(np.nanmean(np.linalg.norm(joints - label.joints_m, axis=-1))))


def _rows(task: UnitTask, hands: list[_Hand]) -> dict[str, np.ndarray]:
    """Columns of one view and side."""
    unit, count, side = task.unit, len(hands), hands[0].label.side
    frames = np.array([hand.shot.frame for hand in hands], np.int64)
    view = hands[0].shot.view
    blur = np.array([hand.blur for hand in hands], np.float64)
    error = np.array([hand.fitting_err for hand in hands], np.float64)
    visible = np.array([hand.visible for hand in hands])
    black = np.array([hand.black for hand in hands], bool)
    seen = {name: np.concatenate([getattr(hand.seen, name) for hand in hands]) for name in _SEEN}
    world = {name: np.concatenate([getattr(hand.world, name) for hand in hands]) for name in _OF_WORLD}
    skip = skip_reasons(black, seen["joint_in_frame"], seen["box_size_px"], task.settings)
    names = [f"{unit.subject}/{unit.sequence}/{view}/{frame:05d}/{side}" for frame in frames]
    text = {"subject": unit.subject, "sequence": unit.sequence, "object": unit.object, "action": unit.action}
    return {
        "sample_id": np.array(names, object),
        **{name: np.full(count, value, object) for name, value in {**text, "side": side}.items()},
        "view": np.full(count, view),
        "frame": frames,
        "gt_index": frames,
        "is_right": np.full(count, side == "right"),
        "image_height": np.array([hand.shot.image_size[0] for hand in hands]),
        "image_width": np.array([hand.shot.image_size[1] for hand in hands]),
        "crop_from_image": np.array([hand.crop_from_image for hand in hands]),
        "intrinsics": np.array([hand.shot.intrinsics for hand in hands]),
        "cam_from_world": np.array([hand.shot.cam_from_world for hand in hands]),
        "distortion": np.zeros((count, 8)),
        **seen,
        **world,
        "joints_world_m": np.concatenate([hand.world.joints_m for hand in hands]),
        "joint_visible": visible,
        "occlusion": 1.0 - visible.mean(1),
        "confidence": confidence(seen["joint_in_frame"], visible, blur, error, float(np.median(error))),
        "blur": blur,
        "fitting_err": error,
        "valid": skip == "",
        "skip_reason": skip,
    }


def _joined(blocks: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    if blocks:
        return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    return {name: np.zeros((0, *column.shape), column.kind.to_pandas_dtype()) for name, column in COLUMNS.items()}


def _info(blocks: list[dict], ledger: list[tuple], images: int, expected: int) -> dict[str, Any]:
    rows = sum(len(block["frame"]) for block in blocks)
    left_out = counted_by_reason(ledger)
    invalid = invalid_by_reason(blocks)
    lost = sum(count for reason, count in left_out.items() if reason not in WITHOUT_GROUND_TRUTH)
    return {
        "rows": rows,
        "valid_rows": rows - sum(invalid.values()),
        "ground_truth_frames": images,
        "left_out": left_out,
        "left_out_share": lost / max(rows + lost, 1),
        "invalid": invalid,
        "unaccounted": expected - rows - sum(left_out.values()),
    }


def lost_hands_error(unit: Unit, info: dict[str, Any], settings: ConversionConfig) -> DataError | None:
    """The error of a sequence of which more than the allowed share of labelled hands is left out, else None."""
    share = info["left_out_share"]
    if share <= settings.max_left_out_share:
        return None
    reasons = {reason: count for reason, count in info["left_out"].items() if reason not in WITHOUT_GROUND_TRUTH}
    return DataError(
        f"{unit.subject}/{unit.sequence}: {share:.0%} of the {info['rows'] + sum(reasons.values())} labelled hands are "
        f"left out ({reasons}), at most {settings.max_left_out_share:.0%} may. Get the missing or damaged labels "
        "again, or raise max_left_out_share."
    )


def _side_table(unit: Unit, metadata: dict[str, str], schema: pa.Schema, rows: list[tuple], path: Path) -> None:
    records = [dict(zip(schema.names, (unit.subject, unit.sequence, *row), strict=True)) for row in rows]
    write_parquet(pa.Table.from_pylist(records, schema).replace_schema_metadata(metadata), path)


def check_joints_agree(name: str, fitting_err_mm: np.ndarray, limit_mm: float) -> None:
    """Refuse a sequence whose labels and joints disagree throughout: another convention, or mixed-up files.

    Raises:
        DataError: half of the hands are further off than `limit_mm`.
    """
    if len(fitting_err_mm) and float(np.median(fitting_err_mm)) > limit_mm:
        raise DataError(
            f"{name}: MANO's joints are {np.median(fitting_err_mm):.0f} mm (median) from the data set's own, at most "
            f"{limit_mm:.0f} expected; labels and pictures are not of one release, or the hand model is another"
        )
