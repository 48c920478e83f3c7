"""All results of one sample: crop, ground truth and prediction, errors, and the results of other runs.

Only plain values and JPEG bytes are returned, so that a page can be laid out without torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hawor_pipeline.core.skeleton import JOINT_NAMES
from hawor_pipeline.errors import ConfigError, nearest
from hawor_pipeline.evaluation.declared_metrics import SAMPLE_METRICS
from hawor_pipeline.evaluation.finished_runs import newest, rows_of
from hawor_pipeline.evaluation.tables import RunIdentity, list_runs, read_identity, read_table
from hawor_pipeline.inspection.drawing import PREDICTED_RGB, jpeg, resized
from hawor_pipeline.inspection.hand_images import (
    SampleHand,
    decode_crop,
    is_other_data,
    predictions_of,
    wrist_depths_m,
)
from hawor_pipeline.locate import open_hand_models
from hawor_pipeline.shards.schema import LEDGER_FILE
from hawor_pipeline.shards.store import ShardSet, open_shards

PANEL_PX = 384
_PANELS = (
    "crop",
    "skeletons, as placed",
    "true mesh",
    "predicted mesh, its wrist on the true one",
    "predicted mesh, as placed",
)

_FACTS = (
    "subject", "sequence", "object", "action", "view", "side", "frame", "gt_index", "image_width", "image_height",
    "box_size_px", "occlusion", "truncation", "confidence", "blur", "fitting_err", "betas_as_right_residual_mm",
    "valid", "skip_reason",
)  # fmt: skip


@dataclass(slots=True)
class RunOnSample:
    """Results of one run for the sample."""

    run_id: str
    identity: RunIdentity
    metrics: dict[str, float | None]  # of this sample
    worse_share: float | None  # of the run's own samples with a larger mpjpe_mm
    track: dict[int, float | None]  # frame to mpjpe_mm, same hand and view


@dataclass(slots=True)
class SampleView:
    """Results of one sample. `run` is the run that is drawn, None where no run predicted the sample."""

    sample_id: str
    source: str
    facts: dict[str, Any]
    depth_m: float
    panels: list[tuple[str, bytes]]  # title and JPEG
    panel_px: int
    joints: list[dict[str, Any]]
    meshes: dict[str, list]
    faces: list
    run: RunOnSample | None
    history: list[RunOnSample] = field(default_factory=list)


def look_at_sample(
    sample_id: str,
    shards_dir: Path | str,
    mano_dir: Path | str | None,
    metrics_dir: Path | str,
    run_id: str | None = None,
) -> SampleView:
    """Gather all results of a sample.

    Args:
        sample_id: "subject/sequence/view/frame/side", as in every table.
        shards_dir: shards that hold it.
        mano_dir: folder of the MANO models; None: found by `locate.hand_models_of`.
        metrics_dir: metric tables; every run there that measured the sample is in the history.
        run_id: run whose prediction is drawn; None: the run evaluated last, except baselines.

    Raises:
        ConfigError: there is no such sample, `run_id` did not measure it, or the hand models are of other shards.
        DataError: a shard or table is damaged.
    """
    shards, row = find_sample(shards_dir, sample_id)
    annotation = shards.table.slice(row, 1)
    history = [
        found for run in list_runs(metrics_dir, "samples") if (found := _run_on_sample(metrics_dir, run, annotation))
    ]
    run = _chosen(history, run_id, sample_id, metrics_dir)
    models = open_hand_models(shards_dir, mano_dir)
    predicted = predictions_of(metrics_dir, run.run_id, [sample_id]).get(sample_id) if run else None
    hand = SampleHand(models, annotation, predicted)
    stored = decode_crop(shards, row)
    crop = resized(stored, PANEL_PX / max(stored.shape[:2]))
    panels = [crop, *hand.panels(stored, PANEL_PX)]
    if hand.predicted_vertices is not None:
        view = hand.crop_view().scaled(PANEL_PX / max(stored.shape[:2]))
        panels.append(hand.mesh_panel(crop, view, hand.predicted_vertices, PREDICTED_RGB))
    return SampleView(
        sample_id=sample_id,
        source=shards.source,
        facts={name: annotation[name][0].as_py() for name in _FACTS},
        depth_m=float(hand.truth.joints_m[0, 0, 2]),
        panels=[(title, jpeg(panel, 90)) for title, panel in zip(_PANELS, panels, strict=False)],
        panel_px=PANEL_PX,
        joints=_joints(annotation, metrics_dir, run, sample_id),
        meshes=hand.meshes_mm(),
        faces=models.faces.tolist(),
        run=run,
        history=history,
    )


def find_sample(shards_dir: Path | str, sample_id: str) -> tuple[ShardSet, int]:
    """Open the shards of a sample's recording and find its row.

    Raises:
        ConfigError: the name has another form, or no sample has it; near names are suggested.
    """
    parts = sample_id.split("/")
    if len(parts) != 5:
        raise ConfigError(
            f"{sample_id!r} is not the name of a sample; expected subject/sequence/view/frame/side, such as "
            "s01/box_grab_01/0/00012/right (column sample_id of the tables)."
        )
    shards = open_shards(shards_dir, [parts[0]], None, [parts[1]])
    row = pc.index(shards.table["sample_id"], sample_id).as_py()
    if row < 0:
        known = shards if len(shards) else open_shards(shards_dir, [parts[0]], ["sample_id"])
        near = known.table["sample_id"].to_pylist()
        skipped = _skip_reason(shards, parts)
        raise ConfigError(f"no sample {sample_id!r} in {shards_dir}{skipped}.{nearest(sample_id, near)}")
    return shards, row


def _skip_reason(shards: ShardSet, parts: list[str]) -> str:
    """Return the ledger's reason for skipping a hand that is no sample; "" where the ledger does not list it."""
    view, frame, side = parts[2:]
    for folder in shards.directories:
        for entry in pq.read_table(folder / LEDGER_FILE, partitioning=None).to_pylist():
            frames = ("-0001", frame)  # the whole view, or this frame
            if (str(entry["view"]), entry["side"] or side) == (view, side) and f"{entry['frame']:05d}" in frames:
                return f": it was skipped ({entry['reason']})"
    return ""


def _run_on_sample(metrics_dir: Path | str, run_id: str, annotation: pa.Table) -> RunOnSample | None:
    """Return the results of a run for the sample of `annotation`, None where it did not measure it."""
    keys = ["sample_id", "subject", "sequence", "view", "side", "frame", "mpjpe_mm"]
    table = read_table(metrics_dir, "samples", run_id, keys)
    row = pc.index(table["sample_id"], annotation["sample_id"][0]).as_py()
    if row < 0:
        return None
    same = pc.equal(table["frame"], table["frame"])  # all true
    for name in ("subject", "sequence", "view", "side"):
        same = pc.and_(same, pc.equal(table[name], annotation[name][0].as_py()))
    track = table.filter(same)
    whole = rows_of(metrics_dir, "samples", run_id, [annotation["sample_id"][0].as_py()]).to_pylist()[0]
    if is_other_data(whole["depth_m"], wrist_depths_m(annotation)[0]):
        return None
    errors = table["mpjpe_mm"].to_numpy()
    own, known = errors[row], errors[np.isfinite(errors)]
    return RunOnSample(
        run_id=run_id,
        identity=read_identity(metrics_dir, "samples", run_id),
        metrics={name: whole.get(name) for name in SAMPLE_METRICS},  # tables of an older version lack newer ones
        worse_share=float((known > own).mean()) if np.isfinite(own) else None,
        track=dict(zip(track["frame"].to_pylist(), track["mpjpe_mm"].to_pylist(), strict=True)),
    )


def _chosen(
    history: Sequence[RunOnSample], run_id: str | None, sample_id: str, metrics_dir: Path | str
) -> RunOnSample | None:
    by_id = {run.run_id: run for run in history}
    if run_id is not None:
        if run_id not in by_id:
            known = ", ".join(by_id) or "none"
            raise ConfigError(
                f"run {run_id!r} has no row for {sample_id}.{nearest(run_id, by_id)} Runs with one: {known}. "
                "Evaluate the run on this subject and view first."
            )
        return by_id[run_id]
    last = newest(metrics_dir, "samples", by_id)
    return by_id[last] if last is not None else None


def _joints(
    annotation: pa.Table, metrics_dir: Path | str, run: RunOnSample | None, sample_id: str
) -> list[dict[str, Any]]:
    """Return the visibility of each joint, with the errors of the run where there is one."""
    rows = [
        {"joint": name, "visible": visible, "in_frame": inside, "error_mm": None, "error_px": None}
        for name, visible, inside in zip(
            JOINT_NAMES, annotation["joint_visible"][0].as_py(), annotation["joint_in_frame"][0].as_py(), strict=True
        )
    ]
    if run is not None:
        columns = ["sample_id", "joint", "error_mm", "error_px"]
        own = rows_of(metrics_dir, "joints", run.run_id, [sample_id], columns).to_pylist()
        errors = {row["joint"]: row for row in own}
        for row in rows:
            row |= {name: errors[row["joint"]][name] for name in ("error_mm", "error_px") if row["joint"] in errors}
    return rows
