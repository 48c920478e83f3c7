"""One sequence to one shard: the independent unit that the pool maps over.

The shard appears by one rename when all of it is on the disk. Its bytes depend on the raw files, the settings and the
versions of the libraries, on nothing else.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion.blur import measure_blur
from hawor_pipeline.conversion.crops import cut_crops, encode_crop
from hawor_pipeline.conversion.decode import thread_decoder
from hawor_pipeline.conversion.hand_geometry import SeenHand, see_hand
from hawor_pipeline.conversion.ledger import (
    BEHIND_CAMERA,
    CORRUPT_IMAGE,
    NO_GROUND_TRUTH_AFTER,
    NO_GROUND_TRUTH_BEFORE,
    NO_JOINTS,
    OUTSIDE_IMAGE,
    LedgerRow,
    count_reasons,
    fit_error,
    limit_error,
    unmatched_rows,
    with_hand_losses,
    with_view_losses,
)
from hawor_pipeline.conversion.posed_scene import PosedTake, pose_take
from hawor_pipeline.conversion.row_builder import StoredCrop, ViewedHand, build_rows, join_rows
from hawor_pipeline.conversion.sequence_task import SequenceTask, content_key, data_version
from hawor_pipeline.errors import CorruptImage, DataError
from hawor_pipeline.provenance import hash_json, mark_done, staging_dir
from hawor_pipeline.shards.manifest import SequenceInfo, add_counts
from hawor_pipeline.shards.schema import DISTANCES_FILE, IMAGES_FILE, LEDGER_FILE
from hawor_pipeline.shards.store import SHARD_FILES, ImageWriter, write_tables
from hawor_pipeline.sources.arctic import SIDES
from hawor_pipeline.sources.fingerprint import ImageHashes, file_states, hash_files
from hawor_pipeline.sources.hand_models import load_hand_models
from hawor_pipeline.sources.image_files import ImageFile
from hawor_pipeline.sources.image_frame import ImageFrame
from hawor_pipeline.sources.reader import Reader, Take
from hawor_pipeline.sources.registry import open_reader

LARGEST_FIT_MM = 40.0  # a wrong convention (flat hand for mean pose, another frame) is further off than any fit


@dataclass(frozen=True, slots=True)
class Converted:
    """A finished shard."""

    info: SequenceInfo
    data_version: str
    image_digests: dict[str, str]  # view -> digest of its images


@dataclass(slots=True)
class SequenceRows:
    """Contents of a shard while it is made."""

    blocks: list[dict[str, np.ndarray]] = field(default_factory=list)  # columns, in the order of the table
    ledger: list[LedgerRow] = field(default_factory=list)
    distances: list[tuple[int, str, float]] = field(default_factory=list)
    image_digests: dict[str, str] = field(default_factory=dict)
    moments: int = 0  # of ground truth, over all takes
    expected: int = 0  # hands, over all views
    corrupt: CorruptImage | None = None  # the first one

    @property
    def rows(self) -> int:
        """Rows of all blocks."""
        return sum(len(block["frame"]) for block in self.blocks)


def convert_sequence(task: SequenceTask) -> Converted:
    """Convert one sequence and publish its shard.

    Raises:
        DataError: a raw file is damaged, an image has another size, too much is missing or corrupt, or the disk is
            full. Nothing is published.
    """
    reader = open_reader(task.dataset, task.root, task.mano_dir, task.smplx_dir, needs_bodies=task.needs_bodies)
    reader.verify(task.ref, task.settings.views)
    with staging_dir(task.output) as folder:
        takes = reader.takes(task.ref, task.labels, task.settings.views)
        with ImageWriter(folder / IMAGES_FILE) as writer:
            found = convert_takes(task, reader, takes, writer)
        info = _info(task, reader, found)
        arrays = join_rows(found.blocks)
        error = limit_error(str(task.ref), info, task.settings, task.recorded_views)
        if error is None and not reader.records_views:
            error = fit_error(str(task.ref), arrays["fitting_err"], LARGEST_FIT_MM)
        if error is not None:
            raise error if found.corrupt is None else DataError(f"{error} The first corrupt image is {found.corrupt}")
        digests = task.image_digests or found.image_digests
        raw = _raw_hashes(task, reader, digests)
        version = data_version(task.shared, raw)
        converter = str(task.shared["converter"])
        metadata = {"source": task.source, "converter_version": converter, "data_version": version}
        metadata["body_occluder"] = str(reader.counts_body(task.ref)).lower()
        side_tables: dict[str, Iterable[tuple]] = {LEDGER_FILE: sorted(found.ledger), DISTANCES_FILE: found.distances}
        name = task.ref.subject, task.ref.sequence
        sha256, size = write_tables(folder, name, arrays, side_tables, metadata, writer.checksums)
        info = replace(info, sha256=sha256, bytes=size)
        if task.key:  # of a sequence that is keyed by contents, the version follows from them
            info = replace(info, data_version=version, made_under=hash_json(task.shared))
        mark_done(folder, task.key or content_key(task.shared, raw, task.ref), info.to_dict(), list(SHARD_FILES))
    return Converted(info, version, digests)


def convert_takes(task: SequenceTask, reader: Reader, takes: Iterable[Take], writer: ImageWriter) -> SequenceRows:
    """Cut the hands out of the images of takes.

    Args:
        task: the sequence.
        reader: its dataset, open.
        takes: sorted by view and frame.
        writer: gets the crops.
    """
    found = SequenceRows()
    for view, parts in groupby(_views(task, reader, takes, found), key=lambda part: part[0]):
        hashes, has_images = ImageHashes(), False
        hands: dict[str, list[ViewedHand]] = {side: [] for side in SIDES}
        for _, posed in parts:
            has_images |= bool(posed.take.images[view])
            for hand in _cut_view(task, posed, view, hashes, found):
                hands[hand.side].append(hand)
        for side in SIDES:
            for hand in hands[side]:
                for crop in hand.crops:
                    writer.append(crop.jpeg)
            if hands[side]:
                found.blocks.append(build_rows(task.ref, hands[side], task.settings))
        if has_images:
            found.image_digests[str(view)] = hashes.digest
    return found


def _views(
    task: SequenceTask, reader: Reader, takes: Iterable[Take], found: SequenceRows
) -> Iterator[tuple[int, PosedTake]]:
    """Yield each view of each take, posed; one take is in memory at a time."""
    models = load_hand_models(task.mano_dir, reader.convention)
    for take in takes:
        posed = pose_take(take, models)
        found.moments += len(take)
        found.distances += posed.distances
        for view in take.cameras:
            yield view, posed


def _cut_view(
    task: SequenceTask, posed: PosedTake, view: int, hashes: ImageHashes, found: SequenceRows
) -> list[ViewedHand]:
    """Cut the hands out of one view of a take; skipped ones go to the ledger, images are hashed on the way."""
    take, images = posed.take, posed.take.images[view]
    found.expected += len(take) * len(posed.hands) + len(take.unlabelled)
    found.ledger += [LedgerRow(view, take.first_frame, side, reason, 1) for side, reason in take.unlabelled]
    if not posed.hands:
        return []
    found.ledger += unmatched_rows(view, images, take.first_frame, len(take))
    file_frame = take.file_frame(view)
    seen = {
        side: see_hand(hand, take.cameras[view], task.settings.box_scale, file_frame.shows)
        for side, hand in posed.hands.items()
    }
    hands = {side: ViewedHand(posed, view, side, seen[side], file_frame) for side in seen}
    squares = {side: _squares(seen[side], file_frame, task.settings.crop_margin) for side in seen}
    for frame, image in images.items():
        index = frame - take.first_frame
        sides = list(seen) if 0 <= index < len(take) else []
        reasons = {side: _skip_reason(posed, seen[side], side, index) for side in sides}
        found.ledger += [LedgerRow(view, frame, side, reason, 1) for side, reason in reasons.items() if reason]
        wanted = [side for side, reason in reasons.items() if not reason]
        if not wanted and task.image_digests is not None:
            continue
        data = image.read()
        if task.image_digests is None:
            hashes.add(image, data)
        if wanted:
            boxes = {side: squares[side][index] for side in wanted}
            try:
                for side, crop in _cut_image(task.settings, (image, data, file_frame.size), (index, frame), boxes):
                    hands[side].crops.append(crop)
            except CorruptImage as error:
                found.corrupt = found.corrupt or error
                missing = "" if len(wanted) > 1 else wanted[0]
                found.ledger.append(LedgerRow(view, frame, missing, CORRUPT_IMAGE, len(wanted)))
    return [hand for hand in hands.values() if hand.crops]


def _skip_reason(posed: PosedTake, seen: SeenHand, side: str, index: int) -> str:
    """Return why a hand has no row at one moment; "" where it has one."""
    if math.isnan(posed.hands[side].fitting_err[index]):
        return NO_JOINTS
    if math.isnan(seen.box_size_px[index]):
        return BEHIND_CAMERA
    return "" if seen.overlaps[index] else OUTSIDE_IMAGE


def _squares(hand: SeenHand, file_frame: ImageFrame, margin: float) -> list[tuple[list[float], float]]:
    """Return centre and side of the square to cut at each moment, in pixels of the files."""
    centers = hand.box_center_px * file_frame.scale[:, None] + file_frame.shift
    return list(zip(centers.tolist(), (hand.box_size_px * margin * file_frame.scale).tolist(), strict=True))


def _cut_image(
    settings: ConversionConfig,
    source: tuple[ImageFile, bytes, tuple[int, int]],
    number: tuple[int, int],
    boxes: dict[str, tuple[list[float], float]],
) -> Iterator[tuple[str, StoredCrop]]:
    """Decode one image once and yield the crops of its hands, with their sides.

    Args:
        settings: settings of the conversion.
        source: the image, its bytes, and the expected size (height, width).
        number: moment and frame.
        boxes: side to centre and side of the square to cut, pixels of the file.

    Raises:
        CorruptImage: the image is damaged; no crop was yielded.
        DataError: the image is of another size.
    """
    crop_px = round(settings.crop_margin * settings.target_resolution[0])
    name, data, size = source
    found = cut_crops(data, name, size, list(boxes.values()), crop_px, thread_decoder())
    for side, crop in zip(boxes, found, strict=True):
        blur = measure_blur(crop.pixels, settings.crop_margin)
        jpeg = encode_crop(crop.pixels, settings.jpeg_quality)
        yield side, StoredCrop(*number, jpeg, crop.crop_from_file, blur, crop.black)


def _info(task: SequenceTask, reader: Reader, found: SequenceRows) -> SequenceInfo:
    """Count rows, skipped samples and losses."""
    rows, left_out = found.rows, count_reasons(found.ledger)
    invalid = add_counts({reason: 1} for block in found.blocks for reason in block["skip_reason"] if reason)
    # images without ground truth are in the ledger, but no hand was expected of them
    without = sum(left_out.get(reason, 0) for reason in (NO_GROUND_TRUTH_BEFORE, NO_GROUND_TRUTH_AFTER))
    info = SequenceInfo(
        rows=rows,
        valid_rows=rows - sum(invalid.values()),
        ground_truth_frames=found.moments,
        left_out=left_out,
        invalid=invalid,
        body_occluder=reader.counts_body(task.ref),
        unaccounted=found.expected - rows - (sum(left_out.values()) - without),
    )
    if reader.records_views:
        return with_view_losses(info, found.ledger)
    seen = {pair for block in found.blocks for pair in zip(block["frame"].tolist(), block["side"], strict=True)}
    return with_hand_losses(info, found.ledger, seen)


def _raw_hashes(task: SequenceTask, reader: Reader, digests: dict[str, str]) -> dict[str, Any]:
    """Return the hashes of all raw files, under the names that data versions are derived from."""
    if task.raw is not None:
        return {**task.raw, "images": digests}
    return {"labels": _label_hashes(tuple(reader.label_files(task.ref)), task.root), "pictures": digests}


def _label_hashes(files: tuple[Path, ...], root: Path) -> dict[str, str]:
    return _hashes_of_state(files, tuple(file_states(files)), root)


@lru_cache(maxsize=2)
def _hashes_of_state(files: tuple[Path, ...], _states: tuple[tuple[str, int, int], ...], root: Path) -> dict[str, str]:
    """Hash label files once for consecutive sequences that share them: they may have gigabytes."""
    return hash_files(files, root)
