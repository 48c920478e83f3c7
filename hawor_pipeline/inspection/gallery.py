"""Pictures of the best, the median and the worst samples, and a few meshes that one can turn.

Each picture has three panels: the crop with both skeletons as they are placed, with the true mesh, and with the
predicted mesh whose wrist is put on the true one, as in the error that they are chosen by.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hawor_pipeline.evaluation.tables import RunIdentity, partition_dir, read_table
from hawor_pipeline.inspection.drawing import jpeg, side_by_side
from hawor_pipeline.inspection.hand_images import SampleHand, predictions_of, stored_samples
from hawor_pipeline.provenance import staging_dir
from hawor_pipeline.sources.hand_models import HandModels

GALLERY_FILE = "gallery.json"
RANKS = ("best", "median", "worst")
_COLUMNS = ["sample_id", "subject", "sequence", "view", "side", "mpjpe_mm", "pa_mpjpe_mm", "occlusion", "truncation"]


def pick_samples(samples: pa.Table, per_rank: int) -> dict[str, np.ndarray]:
    """Row numbers of the best, median and worst samples by mpjpe_mm, no two of them from one view of one sequence."""
    order = np.argsort(samples["mpjpe_mm"].to_numpy(), kind="stable")
    middle = len(order) // 2
    nearest_middle = order[np.argsort(np.abs(np.arange(len(order)) - middle), kind="stable")]
    orders = zip(RANKS, (order, nearest_middle, order[::-1]), strict=True)
    return {rank: first_of_each_track(rows, samples, per_rank) for rank, rows in orders}


def first_of_each_track(rows: np.ndarray, samples: pa.Table, count: int) -> np.ndarray:
    """The first `count` of these rows, no two of them from one hand in one view of one sequence."""
    columns = [samples[name].to_pylist() for name in ("subject", "sequence", "view", "side")]
    track = list(zip(*columns, strict=True))
    chosen: dict[Any, int] = {}
    for row in rows:
        chosen.setdefault(track[row], int(row))
        if len(chosen) == count:
            break
    return np.array(list(chosen.values()), np.int64)


def write_gallery(
    shards_dir: Path | str,
    mano_dir: Path | str,
    metrics_dir: Path | str,
    identity: RunIdentity,
    per_rank: int = 4,
) -> Path:
    """Publish pictures and `gallery.json` of a run under `gallery/run_id=...`; returns that folder."""
    samples = read_table(metrics_dir, "samples", identity.run_id, _COLUMNS)
    samples = samples.filter(pc.is_valid(samples["mpjpe_mm"]))
    picks = pick_samples(samples, per_rank)
    names = [samples["sample_id"][int(row)].as_py() for rows in picks.values() for row in rows]
    stored = stored_samples(shards_dir, names)
    predictions = predictions_of(metrics_dir, identity.run_id, names)
    models = HandModels.load(mano_dir)
    items, meshes = [], []
    folder = partition_dir(metrics_dir, "gallery", identity.run_id)
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
    return folder
