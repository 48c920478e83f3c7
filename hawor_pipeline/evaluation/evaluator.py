"""The samples, joints and summary tables, computed from predictions and annotations one recording at a time.

Predictions come first and everything else is computed from them, so a stored prediction can be evaluated again by other
rules. Memory holds one sequence and a few sums, however many samples there are.
"""

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from hawor_pipeline.core.skeleton import FINGER_JOINTS, JOINT_NAMES
from hawor_pipeline.errors import DataError, NumericalError
from hawor_pipeline.evaluation.declared_metrics import ALL_METRICS, CLEAR, HIDDEN, PCK_BOX_PERCENT
from hawor_pipeline.evaluation.hands import (
    HandTruth,
    PredictedHands,
    ground_truth_predictions,
    read_predictions,
    read_truth,
    with_own_joints,
)
from hawor_pipeline.evaluation.measure import Measurement, measure
from hawor_pipeline.evaluation.protocols import find_protocol
from hawor_pipeline.evaluation.recordings import (
    KEY_COLUMNS,
    annotations_of,
    converted_subjects,
    plan_recordings,
    sequences,
)
from hawor_pipeline.evaluation.setting import Setting
from hawor_pipeline.evaluation.summary import Summary
from hawor_pipeline.evaluation.tables import (
    RunIdentity,
    TableWriter,
    iterate_table,
    partition_dir,
    table_writer,
    to_numpy,
)
from hawor_pipeline.evaluation.tracks import Tracks
from hawor_pipeline.locate import open_hand_models
from hawor_pipeline.workers.pool import one_thread

# Upper ends of the bins that strata are named after; the last bin of each includes its end.
BINS: dict[str, tuple[float, ...]] = {
    "occlusion": (0.0, 0.1, 0.25, 0.5, 1.0),
    "truncation": (0.0, 0.01, 0.25, 1.0),
    "depth_m": (0.0, 0.4, 0.7, 1.0, 1.5, np.inf),
    "speed_m_s": (0.0, 0.1, 0.3, 1.0, np.inf),
}
OVERALL_STRATA = ("subject", "object", "action", "view", "side")


def tracks_of(annotations: pa.Table) -> Tracks:
    """Return the camera, hand and frame of each row."""
    return Tracks(*(to_numpy(annotations[name]) for name in ("view", "is_right", "frame")))


def evaluate_predictions(
    shards_dir: Path | str,
    mano_dir: Path | str,
    metrics_dir: Path | str,
    identity: RunIdentity,
    subjects: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Measure a run's stored predictions; see `measure_run`.

    Args:
        shards_dir: shards that the predictions were made for.
        mano_dir: folder of the MANO models.
        metrics_dir: folder of `predictions/run_id=...` and of the other tables.
        identity: the run, and the protocol.
        subjects: whose rows; None takes all.
    """
    names = converted_subjects(shards_dir) if subjects is None else subjects
    about = (identity.dataset_version, names, identity.protocol)
    return measure_run(Setting.of(shards_dir, mano_dir, metrics_dir, *about), identity)


def measure_run(setting: Setting, identity: RunIdentity) -> dict[str, Any]:
    """Compute samples, joints and summary from a run's predictions table by the protocol, and publish them.

    Returns:
        `samples`, `sequences` and `metrics` (overall metric name to value).

    Raises:
        DataError: the predictions are not those of exactly these rows, in their order.
    """
    protocol = find_protocol(setting.protocol)
    views, metrics_dir = protocol.views, setting.metrics_dir
    recordings = plan_recordings(
        setting.shards_dir, setting.subjects, views, protocol.consecutive_frames, setting.excluded
    )
    models = open_hand_models(setting.shards_dir, setting.mano_dir)
    predictions = PredictionReader(metrics_dir, identity.run_id)
    summary = Summary()
    with ExitStack() as stack:
        # surfaces are compared on a thread per core; numerical libraries would put threads of their own beside each
        stack.enter_context(one_thread())
        stack.enter_context(threadpool_limits(1, "blas"))
        samples = stack.enter_context(table_writer(metrics_dir, "samples", identity))
        joints = stack.enter_context(table_writer(metrics_dir, "joints", identity))
        for annotations in annotations_of(setting.shards_dir, recordings, views):
            truth = read_truth(annotations)
            predicted = predictions.take(annotations["sample_id"])
            truth, predicted = with_own_joints(models, truth, predicted)
            measured = measure(truth, predicted, models, tracks_of(annotations), mirror_allowed=protocol.mirror_allowed)
            _write_sequence(samples, joints, annotations, truth, measured)
            _summarise(summary, annotations, truth, measured)
        predictions.expect_end()
        rows = summary.rows()
        if absent := sorted(set(ALL_METRICS) - set(rows["metric"])):
            raise NumericalError(f"metrics {absent} are declared, but no row of the summary has them.")
        with table_writer(metrics_dir, "summary", identity) as writer:
            writer.write(rows)
        # of an earlier evaluation, whose samples are replaced now; kept while measuring could still fail
        for table in ("comparison", "robustness"):
            shutil.rmtree(partition_dir(metrics_dir, table, identity.run_id), ignore_errors=True)
        return {"samples": samples.rows, "sequences": len(summary), "metrics": overall(rows)}


def overall(rows: dict[str, list]) -> dict[str, float]:
    """Map each metric to its value over all samples, from the columns of a summary."""
    columns = zip(rows["stratum"], rows["level"], rows["metric"], rows["value"], strict=True)
    return {m: v for stratum, level, m, v in columns if stratum == "all" and level == "sample" and v is not None}


class PredictionReader:
    """A run's predictions in the order of the shards; those of other samples are refused."""

    def __init__(self, metrics_dir: Path | str, run_id: str):
        self._run_id = run_id
        self._batches = iterate_table(metrics_dir, "predictions", run_id)
        self._rest: pa.Table | None = None

    def take(self, sample_ids: pa.ChunkedArray) -> PredictedHands:
        """Return the next rows, which must be these samples."""
        wanted = len(sample_ids)
        while (self._rest is None or self._rest.num_rows < wanted) and (batch := next(self._batches, None)) is not None:
            table = pa.Table.from_batches([batch])
            self._rest = table if self._rest is None else pa.concat_tables([self._rest, table])
        rows = self._rest.slice(0, wanted) if self._rest is not None else None
        if rows is None or not rows["sample_id"].equals(sample_ids):
            raise DataError(
                f"predictions of run {self._run_id!r} are not those of the shards around {sample_ids[0]}: they were "
                "made for other shards, another set of subjects, or are incomplete. Predict again."
            )
        self._rest = self._rest.slice(wanted)  # type: ignore[union-attr]
        return read_predictions(rows.combine_chunks())

    def expect_end(self) -> None:
        """Raise a DataError if rows are left over."""
        if (self._rest is not None and self._rest.num_rows) or next(self._batches, None) is not None:
            raise DataError(f"run {self._run_id!r} has predictions for more samples than the shards. Predict again.")


def _write_sequence(
    samples: TableWriter, joints: TableWriter, annotations: pa.Table, truth: HandTruth, measured: Measurement
) -> None:
    keys = {name: annotations[name].to_numpy() for name in KEY_COLUMNS if name != "valid"}
    geometry = {
        "depth_m": truth.joints_m[:, 0, 2].numpy(),
        "speed_m_s": measured.speed_m_s,
        "box_size_px": truth.box_size_px.numpy(),
    }
    samples.write(keys | geometry | measured.metrics)
    joints.write(
        {
            "sample_id": np.repeat(keys["sample_id"], len(JOINT_NAMES)),
            "joint": np.tile(np.array(JOINT_NAMES), len(truth)),
            "error_mm": measured.joint_error_mm.reshape(-1),
            "error_px": measured.joint_error_px.reshape(-1),
            "visible": truth.joint_visible.numpy().reshape(-1),
        }
    )


def _summarise(summary: Summary, annotations: pa.Table, truth: HandTruth, measured: Measurement) -> None:
    numbers = {
        "occlusion": to_numpy(annotations["occlusion"]),
        "truncation": to_numpy(annotations["truncation"]),
        "depth_m": truth.joints_m[:, 0, 2].numpy(),
        "speed_m_s": measured.speed_m_s,
    }
    strata: dict[str, np.ndarray] = {name: annotations[name].to_numpy().astype(str) for name in OVERALL_STRATA}
    strata |= {name: bin_labels(name, values) for name, values in numbers.items()}
    strata[HIDDEN] = numbers["occlusion"] > 0.5
    strata[CLEAR] = numbers["occlusion"] < 0.1
    sequence = summary.add_sequence(measured.metrics, strata)
    for name, values in measured.of_sequence.items():
        summary.add(sequence, "all", "sample", name, values)
    visible = truth.joint_visible.numpy()
    groups = {f"joint={name}": np.eye(len(JOINT_NAMES), dtype=bool)[j][None] for j, name in enumerate(JOINT_NAMES)}
    groups |= {f"finger={name}": np.isin(np.arange(21), ids)[None] for name, ids in FINGER_JOINTS.items()}
    groups |= {"visible=true": visible, "visible=false": ~visible}
    for stratum, mask in groups.items():
        mask = np.broadcast_to(mask, visible.shape)
        summary.add(sequence, stratum, "joint", "mpjpe_mm", measured.joint_error_mm[mask])
        summary.add(sequence, stratum, "joint", "mpjpe_px", measured.joint_error_px[mask])
    for j, name in enumerate(JOINT_NAMES):
        share = measured.joint_error_box[:, j]
        for percent in PCK_BOX_PERCENT:
            hits = np.where(np.isfinite(share), share <= percent / 100, np.nan)
            summary.add(sequence, f"joint={name}", "joint", f"pck_box_{percent}pct", hits)


def bin_labels(name: str, values: np.ndarray) -> np.ndarray:
    """Name the bin of each value ("0.10-0.25", "1.50+"); "" where it is NaN."""
    edges = BINS[name]
    names = [f"{low:.2f}-{high:.2f}" if np.isfinite(high) else f"{low:.2f}+" for low, high in pairwise(edges)]
    values = np.asarray(values, np.float64)
    index = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(names) - 1)
    return np.where(np.isnan(values), "", np.array(names)[index])


def write_ground_truth(
    shards_dir: Path | str,
    mano_dir: Path | str,
    metrics_dir: Path | str,
    identity: RunIdentity,
    subjects: Sequence[str] | None = None,
) -> int:
    """Publish ground truth, sent through the network's parametrisation, as a predictions table; return its rows."""
    models = open_hand_models(shards_dir, mano_dir)
    views = find_protocol(identity.protocol).views
    with table_writer(metrics_dir, "predictions", identity) as writer:
        for annotations in sequences(shards_dir, subjects, views):
            hands = ground_truth_predictions(models, annotations)
            writer.write(hands.columns(annotations["sample_id"].to_pylist()))
        return writer.rows
