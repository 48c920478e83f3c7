"""Inventory of one subject's raw files: what is there, what is missing or broken and why, with hashes and counts.

A row per sequence and view. Nothing is converted; images are read once for their hash, and their ends are checked
(a JPEG cut short lacks its end marker).
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hawor_pipeline.errors import DataError
from hawor_pipeline.locate import find_hand_models
from hawor_pipeline.provenance import StageResult, find_done, hash_json, mark_done, sha256_file, staging_dir
from hawor_pipeline.sources.arctic import RAW_PARTS, VIEW_COUNT, ArcticRoot, missing_reason, split_sequence_name
from hawor_pipeline.sources.image_files import ImageFile, images_state
from hawor_pipeline.versions import INVENTORY_VERSION

INVENTORY_FILE = "inventory.parquet"
_THREADS = 2
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"

INVENTORY_SCHEMA = pa.schema(
    [
        pa.field(name, kind, nullable)
        for name, kind, nullable in (
            ("source", pa.string(), False),
            ("subject", pa.string(), False),
            ("sequence", pa.string(), False),
            ("object", pa.string(), False),
            ("action", pa.string(), False),
            ("view", pa.int32(), False),
            ("status", pa.string(), False),  # ok, incomplete (some frames lack a counterpart), missing, broken
            ("reason", pa.string(), False),
            ("image_source", pa.string(), False),
            ("ground_truth_frames", pa.int32(), True),
            ("images", pa.int32(), False),
            ("first_image", pa.int32(), True),
            ("last_image", pa.int32(), True),
            ("images_without_ground_truth", pa.int32(), True),
            ("ground_truth_without_image", pa.int32(), True),
            ("ioi_offset", pa.int32(), False),
            ("image_height", pa.int32(), False),
            ("image_width", pa.int32(), False),
            ("image_bytes", pa.int64(), False),
            ("images_sha256", pa.string(), False),  # of the list of file names and hashes
            *((f"{part.replace('.', '_')}_sha256", pa.string(), True) for part in RAW_PARTS),
        )
    ]
)
# Columns that a person sees at a glance.
_SHOWN = ("sequence", "view", "status", "images", "ground_truth_frames", "reason")
Progress = Callable[[int, int], None]


def inventory_subject(
    arctic_root: str | Path | ArcticRoot,
    subject: str,
    output_dir: str | Path,
    *,
    mano_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> StageResult:
    """Take the inventory of one subject and draw its proof sheet.

    Args:
        arctic_root: any folder level of ARCTIC, or of the sample.
        subject: s01..s10.
        output_dir: gets inventory.parquet and, where there is ground truth with images, proof.jpg.
        mano_dir: folder of the MANO models; None searches `$MANO_DIR` and beside the data.
        progress: called with (finished sequences, all sequences).

    Returns:
        StageResult; info has source, status (present, withheld, absent), reason, sequences, rows, images, image_bytes,
        ground_truth_frames, problems (status to count), damaged (the first few, with reasons),
        unreadable (sequences with corrupt ground truth), proof (panel names), and per_view (a row per view).

    Raises:
        ConfigError: root, MANO or subject not found.
    """
    root, output = ArcticRoot.locate(arctic_root), Path(output_dir)
    status = root.status(subject)
    key = hash_json({"version": INVENTORY_VERSION, "state": _state(root, subject, mano_dir), "source": root.source})
    info, why = find_done(output, key)
    if info is not None:
        return StageResult(output, True, why, key, info)
    sequences = root.sequences(subject) if status == "present" else []
    rows: list[dict[str, Any]] = []
    for done, sequence in enumerate(sequences, 1):
        rows += _inventory_sequence(root, subject, sequence)
        if progress:
            progress(done, len(sequences))
    reason = "" if status == "present" else missing_reason(subject, status)
    info = _info(root, subject, status, reason, rows)
    with staging_dir(output) as folder:
        table = pa.Table.from_pylist(rows, INVENTORY_SCHEMA).replace_schema_metadata({"source": root.source})
        pq.write_table(table, folder / INVENTORY_FILE, compression="zstd")
        outputs = [INVENTORY_FILE]
        if any(row["status"] in ("ok", "incomplete") for row in rows):
            info["proof"], info["proof_error"] = _proof(root, mano_dir, subject, folder)
            outputs += [path.name for path in folder.glob("proof.*")]
        # an inventory whose proof sheet could not be drawn is tried again
        mark_done(folder, key if not info["proof_error"] else f"{key} without proof sheet", info, outputs)
    return StageResult(output, False, why, key, info)


def _proof(root: ArcticRoot, mano_dir: str | Path | None, subject: str, folder: Path) -> tuple[list[str], str]:
    """Draw the proof sheet; return the names of its panels, and the reason where there is none."""
    from hawor_pipeline.conversion.proof_sheet import PROOF_FILE, write_proof_sheet
    from hawor_pipeline.sources.arctic_reader import ArcticReader

    try:
        return write_proof_sheet(
            ArcticReader(root, find_hand_models(root.source, mano_dir, root.path)), subject, folder / PROOF_FILE
        ), ""
    except DataError as error:
        return [], f"no proof sheet: {error}"  # the table already names what is broken


def _state(root: ArcticRoot, subject: str, mano_dir: str | Path | None) -> list[Any]:
    """Everything that the inventory and its proof sheet are made from: names, sizes and times, and the hand models."""
    from hawor_pipeline.sources.hand_models import hash_hand_models

    sequences = root.sequences(subject)
    files = [root.path / "meta" / "misc.json", *(root.path / "splits_json").glob("protocol_*.json")]
    for name in {split_sequence_name(sequence)[0] for sequence in sequences}:
        files += [root.object_folder(name) / part for part in ("top.obj", "bottom.obj")]
    for sequence in sequences:
        files += [root.raw_file(subject, sequence, part) for part in RAW_PARTS]
    stats = [(str(file.relative_to(root.path)), file.stat()) for file in files if file.is_file()]
    state: list[Any] = [
        [name, stat.st_size, stat.st_mtime_ns] for name, stat in sorted(stats, key=lambda item: item[0])
    ]
    for sequence in sequences:
        state += [images_state(_images(root, subject, sequence, view)[0].values()) for view in range(VIEW_COUNT)]
    return [*state, hash_hand_models(find_hand_models(root.source, mano_dir, root.path)) if sequences else {}]


def _images(root: ArcticRoot, subject: str, sequence: str, view: int) -> tuple[dict[int, ImageFile], str]:
    """The images of a view, and what is wrong with the zip that should hold them."""
    try:
        return root.images(subject, sequence, view), ""
    except DataError as error:
        return {}, str(error)


def _inventory_sequence(root: ArcticRoot, subject: str, sequence: str) -> list[dict[str, Any]]:
    from hawor_pipeline.sources.raw_sequence import load_sequence

    object_name, action = split_sequence_name(sequence)
    cameras = root.cameras(subject)
    frames, problem = None, ""
    try:
        frames = len(load_sequence(root, subject, sequence))
    except DataError as error:
        problem = str(error)
    files = {f"{part.replace('.', '_')}_sha256": root.raw_file(subject, sequence, part) for part in RAW_PARTS}
    hashes = {name: sha256_file(file) if file.is_file() else None for name, file in files.items()}
    rows = []
    for view in range(VIEW_COUNT):
        images, damage = _images(root, subject, sequence, view)
        row = {
            "source": root.source,
            "subject": subject,
            "sequence": sequence,
            "object": object_name,
            "action": action,
            "view": view,
            "image_source": root.image_source,
            "ground_truth_frames": frames,
            "ioi_offset": cameras.ioi_offset,
            "image_height": cameras.image_sizes[view][0],
            "image_width": cameras.image_sizes[view][1],
            **hashes,
            **_count(images, frames, cameras.ioi_offset),
        }
        damaged = _hash_images(images, row)
        row["status"], row["reason"] = _judge(row, problem or damage, damaged)
        rows.append(row)
    return rows


def _count(images: dict[int, ImageFile], frames: int | None, offset: int) -> dict[str, Any]:
    numbers = np.array(list(images), np.int64)
    matched = None if frames is None else int(((numbers >= offset) & (numbers < offset + frames)).sum())
    return {
        "images": len(images),
        "first_image": int(numbers.min()) if len(images) else None,
        "last_image": int(numbers.max()) if len(images) else None,
        "images_without_ground_truth": None if matched is None else len(images) - matched,
        "ground_truth_without_image": None if matched is None or frames is None else frames - matched,
    }


def _hash_images(images: dict[int, ImageFile], row: dict[str, Any]) -> list[str]:
    """Fill in size and hash; returns the names of files that are not complete JPEGs."""
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(_examine, images.values(), chunksize=16))
    row["image_bytes"] = sum(size for _, size, _ in found)
    files = [image.name for image in images.values()]
    row["images_sha256"] = hash_json([[name, digest] for name, (digest, _, _) in zip(files, found, strict=True)])
    return [name for name, (_, _, whole) in zip(files, found, strict=True) if not whole]


def _examine(image: ImageFile) -> tuple[str, int, bool]:
    try:
        data = image.read()
    except DataError:
        return "", 0, False
    return hashlib.sha256(data).hexdigest(), len(data), data.startswith(_JPEG_START) and data.endswith(_JPEG_END)


def _judge(row: dict[str, Any], problem: str, damaged: list[str]) -> tuple[str, str]:
    if problem:
        return "broken", problem
    if damaged:
        return "broken", f"{len(damaged)} pictures are cut short, damaged or not JPEG: {', '.join(damaged[:3])}"
    if not row["images"]:
        return "missing", "no pictures of this view"
    extra, lacking = row["images_without_ground_truth"], row["ground_truth_without_image"]
    if extra or lacking:
        return "incomplete", f"{extra} pictures without ground truth, {lacking} frames of ground truth without picture"
    return "ok", ""


def _info(root: ArcticRoot, subject: str, status: str, reason: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    frames = {row["sequence"]: row["ground_truth_frames"] or 0 for row in rows}
    broken = [f"{row['sequence']} view {row['view']}: {row['reason']}" for row in rows if row["status"] == "broken"]
    return {
        "source": root.source,
        "subject": subject,
        "status": status,
        "reason": reason,
        "sequences": len(frames),
        "rows": len(rows),
        "images": sum(row["images"] for row in rows),
        "image_bytes": sum(row["image_bytes"] for row in rows),
        "ground_truth_frames": sum(frames.values()),
        "problems": dict(sorted(Counter(row["status"] for row in rows).items())),
        "damaged": broken[:5],
        # ground truth alone: corrupt images are left to the ledger and the limit of a conversion
        "unreadable": sorted(
            {row["sequence"] for row in rows if row["status"] == "broken" and row["ground_truth_frames"] is None}
        ),
        "imaged_sequences_without_ground_truth": len(
            set(root.imaged_sequences(subject)) - set(root.sequences(subject))
        ),
        "proof": [],
        "proof_error": "",
        "per_view": [{name: row[name] for name in _SHOWN} for row in rows],
    }
