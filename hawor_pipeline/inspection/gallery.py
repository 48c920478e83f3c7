"""Images of chosen samples: the best, median and worst of one run, and those on which two runs differ most.

An image has three panels. For one run: the crop with both skeletons as they are placed, with the true mesh, and with
the predicted mesh. For two: the true mesh, the run's mesh, the other's mesh. Meshes are drawn with their wrist at the
true one, as in the error that the samples are chosen by.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hawor_pipeline.evaluation.evaluate import stage_dir
from hawor_pipeline.evaluation.setting import Setting
from hawor_pipeline.evaluation.tables import partition_dir, partition_file, read_table
from hawor_pipeline.inspection.drawing import OTHER_RGB, PREDICTED_RGB, TRUE_RGB, jpeg, resized, side_by_side
from hawor_pipeline.inspection.hand_images import (
    PANEL_PX,
    SampleHand,
    predictions_of,
    require_same_data,
    stored_samples,
)
from hawor_pipeline.locate import open_hand_models
from hawor_pipeline.provenance import StageResult, find_done, hash_json, mark_done, sha256_file, staging_dir
from hawor_pipeline.versions import GALLERY_VERSION

GALLERY_FILE = "gallery.json"
RANKS = ("best", "median", "worst")
_COLUMNS = ["sample_id", "subject", "sequence", "view", "side", "mpjpe_mm", "pa_mpjpe_mm", "occlusion", "truncation"]
_PAIR_COLUMNS = _COLUMNS[:-1]


def pick_samples(samples: pa.Table, per_rank: int) -> dict[str, np.ndarray]:
    """Choose the rows of the best, median and worst samples by mpjpe_mm, at most one of a hand, view and sequence."""
    order = np.argsort(samples["mpjpe_mm"].to_numpy(), kind="stable")
    middle = len(order) // 2
    nearest_middle = order[np.argsort(np.abs(np.arange(len(order)) - middle), kind="stable")]
    orders = zip(RANKS, (order, nearest_middle, order[::-1]), strict=True)
    return {rank: _first_of_each_track(rows, samples, per_rank) for rank, rows in orders}


def pick_pairs(samples: pa.Table, other: pa.Table, per_rank: int) -> dict[str, np.ndarray]:
    """Choose the rows where a run is better, and worse, than another by the largest margin of mpjpe_mm.

    Both tables have the same rows. At most `per_rank` each are chosen, at most one of a hand, view and sequence.
    """
    difference = samples["mpjpe_mm"].to_numpy() - other["mpjpe_mm"].to_numpy()
    known = np.flatnonzero(np.isfinite(difference))
    order = known[np.argsort(difference[known], kind="stable")]
    orders = {"better": order[difference[order] < 0], "worse": order[::-1][difference[order[::-1]] > 0]}
    return {rank: _first_of_each_track(rows, samples, per_rank) for rank, rows in orders.items()}


def _first_of_each_track(rows: np.ndarray, samples: pa.Table, count: int) -> np.ndarray:
    """Return the first `count` of these rows, no two of one hand in one view of one sequence."""
    columns = [samples[name].to_pylist() for name in ("subject", "sequence", "view", "side")]
    track = list(zip(*columns, strict=True))
    chosen: dict[Any, int] = {}
    for row in rows:
        chosen.setdefault(track[row], int(row))
        if len(chosen) == count:
            break
    return np.array(list(chosen.values()), np.int64)


def ensure_gallery(setting: Setting, run_id: str) -> StageResult:
    """Publish the gallery of an evaluated run under `gallery/run_id=...`, or reuse it where it is complete.

    Returns:
        `path` is the folder; `info` has the sha256 of each file. A gallery with changed or missing files is made again.

    Raises:
        DataError: the run was not evaluated.
    """
    tables = ("samples", "predictions")
    rows = {table: partition_file(setting.metrics_dir, table, run_id) for table in tables}
    hashes = {table: sha256_file(file) for table, file in rows.items() if file.is_file()}
    key = hash_json({"tables": hashes, "inputs": setting.hashes(), "version": GALLERY_VERSION})
    stage = stage_dir(setting.metrics_dir, f"gallery-{run_id}")
    folder = partition_dir(setting.metrics_dir, "gallery", run_id)
    info, why = find_done(stage, key)
    if info is not None and info["files"] == _file_hashes(folder):
        return StageResult(folder, True, why, key, info)
    if info is not None:
        why = "the earlier gallery was changed or is incomplete"
    _write_gallery(setting, run_id, folder)
    info = {"files": _file_hashes(folder)}
    mark_done(stage, key, info)
    return StageResult(folder, False, why, key, info)


def _file_hashes(folder: Path) -> dict[str, str]:
    return {file.name: sha256_file(file) for file in sorted(folder.glob("*")) if file.is_file()}


def _write_gallery(setting: Setting, run_id: str, folder: Path, per_rank: int = 4) -> None:
    samples = read_table(setting.metrics_dir, "samples", run_id, _COLUMNS)
    samples = samples.filter(pc.is_valid(samples["mpjpe_mm"]))
    picks = pick_samples(samples, per_rank)
    names = _names(samples, picks)
    stored = stored_samples(setting.shards_dir, names)
    predictions = predictions_of(setting.metrics_dir, run_id, names)
    require_same_data(setting.metrics_dir, run_id, pa.concat_tables([row for row, _ in stored.values()]))
    models = open_hand_models(setting.shards_dir, setting.mano_dir)
    items, meshes = [], []
    with staging_dir(folder) as staged:
        for rank, rows in picks.items():
            for number, row in enumerate(rows, 1):
                facts = {name: samples[name][int(row)].as_py() for name in _COLUMNS}
                annotation, crop = stored[facts["sample_id"]]
                hand = SampleHand(models, annotation, predictions[facts["sample_id"]])
                image = side_by_side(hand.panels(crop))
                name = f"{rank}-{number}.jpg"
                (staged / name).write_bytes(jpeg(image))
                size = {"height": image.shape[0], "width": image.shape[1]}
                items.append({"rank": rank, "picture": name, **size, **facts})
                if number == 1:
                    about = {"rank": rank, "sample_id": facts["sample_id"], "mpjpe_mm": facts["mpjpe_mm"]}
                    meshes.append({**about, **hand.meshes_mm()})
        content = {"items": items, "meshes": meshes, "faces": models.faces.tolist()}
        (staged / GALLERY_FILE).write_text(json.dumps(content, separators=(",", ":")))


def pair_images(
    shards_dir: Path | str,
    mano_dir: Path | str | None,
    metrics_dir: Path | str,
    run_id: str,
    other_run_id: str,
    per_rank: int = 4,
) -> list[dict[str, Any]]:
    """Draw the samples on which two runs differ most.

    Args:
        shards_dir: shards that both runs were evaluated on.
        mano_dir: folder of the MANO models; None: found by `locate.hand_models_of`.
        metrics_dir: their tables; the samples must be the same, as `compare_runs` requires.
        run_id: the run.
        other_run_id: the run that it is compared with; without a mesh (a constant baseline) it has no panel.
        per_rank: number of images of each rank.

    Returns:
        For each image the facts of the sample, rank, errors of both runs, `jpeg`, height and width.

    Raises:
        ConfigError, DataError: shards, tables or hand models are missing or damaged.
    """
    samples = read_table(metrics_dir, "samples", run_id, _PAIR_COLUMNS)
    other = read_table(metrics_dir, "samples", other_run_id, _PAIR_COLUMNS)
    picks = pick_pairs(samples, other, per_rank)
    names = _names(samples, picks)
    hands = [predictions_of(metrics_dir, run, names) for run in (run_id, other_run_id)]
    stored = stored_samples(shards_dir, names)
    if stored:
        require_same_data(metrics_dir, run_id, pa.concat_tables([annotation for annotation, _ in stored.values()]))
    models = open_hand_models(shards_dir, mano_dir)
    items = []
    for rank, rows in picks.items():
        for row in rows:
            facts = {name: samples[name][int(row)].as_py() for name in _PAIR_COLUMNS}
            name = facts["sample_id"]
            annotation, crop = stored[name]
            pair = [SampleHand(models, annotation, predictions.get(name)) for predictions in hands]
            image = _pair_image(crop, pair)
            facts |= {"rank": rank, "other_mpjpe_mm": other["mpjpe_mm"][int(row)].as_py(), "jpeg": jpeg(image)}
            items.append({**facts, "height": image.shape[0], "width": image.shape[1]})
    return items


def _names(samples: pa.Table, picks: dict[str, np.ndarray]) -> list[str]:
    return [samples["sample_id"][int(row)].as_py() for rows in picks.values() for row in rows]


def _pair_image(crop: np.ndarray, pair: Sequence[SampleHand]) -> np.ndarray:
    scale = PANEL_PX / max(crop.shape[:2])
    panel, view = resized(crop, scale), pair[0].crop_view().scaled(scale)
    panels = [pair[0].mesh_panel(panel, view, pair[0].true_vertices, TRUE_RGB)]
    for hand, rgb in zip(pair, (PREDICTED_RGB, OTHER_RGB), strict=True):
        if hand.aligned_vertices is not None:
            panels.append(hand.mesh_panel(panel, view, hand.aligned_vertices, rgb))
    return side_by_side(panels)
