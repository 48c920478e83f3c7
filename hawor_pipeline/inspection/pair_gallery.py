"""Pictures of samples on which two runs differ most: one of them better, the other better, and where they agree.

Each picture has three panels: the true mesh, the run's mesh, the other's mesh, all with their wrists on the true one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hawor_pipeline.evaluation.tables import read_table
from hawor_pipeline.inspection.drawing import OTHER_RGB, PREDICTED_RGB, TRUE_RGB, jpeg, resized, side_by_side
from hawor_pipeline.inspection.gallery import first_of_each_track
from hawor_pipeline.inspection.hand_images import PANEL_PX, SampleHand, predictions_of, stored_samples
from hawor_pipeline.sources.hand_models import HandModels

RANKS = ("better", "worse")
_COLUMNS = ["sample_id", "subject", "sequence", "view", "side", "mpjpe_mm", "pa_mpjpe_mm", "occlusion"]


def pick_pairs(samples: pa.Table, other: pa.Table, per_rank: int) -> dict[str, np.ndarray]:
    """Row numbers of samples where a run is most better, and most worse, than another by mpjpe_mm.

    Args:
        samples: of the run.
        other: of the other run, the same rows.
        per_rank: at most this many each, no two from one hand in one view of one sequence.
    """
    difference = samples["mpjpe_mm"].to_numpy() - other["mpjpe_mm"].to_numpy()
    known = np.flatnonzero(np.isfinite(difference))
    order = known[np.argsort(difference[known], kind="stable")]
    orders = {"better": order[difference[order] < 0], "worse": order[::-1][difference[order[::-1]] > 0]}
    return {rank: first_of_each_track(rows, samples, per_rank) for rank, rows in orders.items()}


def pair_images(
    shards_dir: Path | str,
    mano_dir: Path | str,
    metrics_dir: Path | str,
    run_id: str,
    other_run_id: str,
    per_rank: int = 4,
) -> list[dict[str, Any]]:
    """Facts and JPEG of each picture, as a page lays them out: rank, errors of both runs, `jpeg`, size.

    Args:
        shards_dir: shards that both runs were evaluated on.
        mano_dir: folder of the MANO models.
        metrics_dir: their tables; the samples must be the same, as `compare_runs` insists.
        run_id: the run.
        other_run_id: what it is compared with; without a mesh (a constant floor) it has no panel.
        per_rank: how many pictures of each rank.

    Raises:
        ConfigError, DataError: shards or tables are missing or damaged.
    """
    samples = read_table(metrics_dir, "samples", run_id, _COLUMNS)
    other = read_table(metrics_dir, "samples", other_run_id, _COLUMNS)
    picks = pick_pairs(samples, other, per_rank)
    names = [samples["sample_id"][int(row)].as_py() for rows in picks.values() for row in rows]
    hands = [predictions_of(metrics_dir, run, names) for run in (run_id, other_run_id)]
    stored = stored_samples(shards_dir, names)
    models = HandModels.load(mano_dir)
    items = []
    for rank, rows in picks.items():
        for row in rows:
            facts = {name: samples[name][int(row)].as_py() for name in _COLUMNS}
            name = facts["sample_id"]
            annotation, crop = stored[name]
            pair = [SampleHand(models, annotation, predictions.get(name)) for predictions in hands]
            image = _image(crop, pair)
            facts |= {"rank": rank, "other_mpjpe_mm": other["mpjpe_mm"][int(row)].as_py(), "jpeg": jpeg(image)}
            items.append({**facts, "height": image.shape[0], "width": image.shape[1]})
    return items


def _image(crop: np.ndarray, pair: Sequence[SampleHand]) -> np.ndarray:
    scale = PANEL_PX / max(crop.shape[:2])
    panel, view = resized(crop, scale), pair[0].crop_view().scaled(scale)
    panels = [pair[0].mesh_panel(panel, view, pair[0].true_vertices, TRUE_RGB)]
    for hand, rgb in zip(pair, (PREDICTED_RGB, OTHER_RGB), strict=True):
        if hand.aligned_vertices is not None:
            panels.append(hand.mesh_panel(panel, view, hand.aligned_vertices, rgb))
    return side_by_side(panels)
