"""Results of evaluation, read back for the report. Computes nothing that the tables already hold."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hawor_pipeline.core.skeleton import JOINT_COUNT, JOINT_NAMES
from hawor_pipeline.evaluation.finished_runs import baselines_of
from hawor_pipeline.evaluation.tables import list_runs, partition_dir, read_identity, read_table

TRAINING_FILE = "training.parquet"
RESULT_FILE = "result.json"
BASELINE_KINDS = ("mean_pose", "mean_rotations", "subject_mean")  # predictions that ignore the image
KIND_ORDER = (*BASELINE_KINDS, "smoothed", "champion")
Json = dict[str, Any]  # content of a JSON file
CURVE_POINTS = 400  # more than a screen can show


@dataclass(frozen=True, slots=True)
class Entry:
    """One number of the summary with its interval (None below 5 sequences)."""

    value: float | None
    low: float | None
    high: float | None
    n: int
    sequences: int
    unit: str


class RunResults:
    """The summary of one run."""

    def __init__(self, metrics_dir: Path, run_id: str):
        table = read_table(metrics_dir, "summary", run_id)
        self.run_id = run_id
        self.metrics_dir = metrics_dir
        self.identity = read_identity(metrics_dir, "summary", run_id)
        names = ("stratum", "level", "metric", "value", "ci_low", "ci_high", "n", "sequences", "unit")
        rows = zip(*(table[name].to_pylist() for name in names), strict=True)
        self._entries = {row[:3]: Entry(*row[3:]) for row in rows}

    def get(self, metric: str, stratum: str = "all", level: str = "sample") -> Entry | None:
        """Return the entry, or None where it was not measured."""
        entry = self._entries.get((stratum, level, metric))
        return entry if entry is not None and entry.value is not None else None

    def value(self, metric: str, stratum: str = "all", level: str = "sample") -> float | None:
        """Return the value of the entry, or None."""
        entry = self.get(metric, stratum, level)
        return entry.value if entry else None

    def overall(self) -> dict[str, Entry]:
        """Map each measured metric to its entry over all samples."""
        return {
            metric: entry
            for (stratum, level, metric), entry in self._entries.items()
            if stratum == "all" and level == "sample" and entry.value is not None
        }

    def labels(self, column: str) -> list[str]:
        """Return the sorted strata of a column, as text."""
        prefix = f"{column}="
        found = {stratum.removeprefix(prefix) for stratum, _, _ in self._entries if stratum.startswith(prefix)}
        return sorted(found)

    def sample_columns(self, *names: str) -> dict[str, np.ndarray]:
        """Read columns of the samples table."""
        table = read_table(self.metrics_dir, "samples", self.run_id, names)
        return {name: table[name].to_numpy() for name in names}

    def joint_means_mm(self) -> list[float | None]:
        """Return the mean wrist-aligned error of each joint, OpenPose order."""
        return [self.value("mpjpe_mm", f"joint={name}", "joint") for name in JOINT_NAMES]

    def joint_errors_mm(self) -> np.ndarray:
        """Read the wrist-aligned distances, of shape (samples, 21)."""
        table = read_table(self.metrics_dir, "joints", self.run_id, ["error_mm"])
        return table["error_mm"].to_numpy().reshape(-1, JOINT_COUNT)


def read_comparison(run: RunResults) -> list[Json]:
    """Read the run's comparison with others; empty if there is none, or it is one of an earlier evaluation."""
    if run.run_id not in list_runs(run.metrics_dir, "comparison"):
        return []
    if read_identity(run.metrics_dir, "comparison", run.run_id) != run.identity:
        return []
    return read_table(run.metrics_dir, "comparison", run.run_id).to_pylist()


def find_baselines(metrics_dir: Path, run: RunResults) -> dict[str, RunResults]:
    """Find baselines and rivals on the run's samples by its protocol: kind to results, baselines first.

    Of several of one kind, those that the run was compared with come first.
    """
    compared, baselines = {row["other_run_id"] for row in read_comparison(run)}, {}
    for kind, names in baselines_of(metrics_dir, run.identity).items():
        baselines[kind] = RunResults(metrics_dir, min(names, key=lambda name: (name not in compared, name)))
    order = {kind: number for number, kind in enumerate(KIND_ORDER)}
    return dict(sorted(baselines.items(), key=lambda item: (order.get(item[0], len(order)), item[0])))


@dataclass(slots=True)
class Curve:
    """One metric over the steps of training."""

    metric: str
    split: str
    steps: list[int]
    values: list[float | None]

    @property
    def last(self) -> float | None:
        """Return the last value that is defined."""
        return next((value for value in reversed(self.values) if value is not None), None)


def read_training(metrics_dir: Path, run_id: str, run_dir: Path | None) -> list[Curve]:
    """Read training curves from the metrics directory, or from the run's own folder where they were not published."""
    path = partition_dir(metrics_dir, "training", run_id)
    if path.is_dir():
        table = read_table(metrics_dir, "training", run_id)
    elif run_dir is not None and (run_dir / TRAINING_FILE).is_file():
        table = pq.read_table(run_dir / TRAINING_FILE, partitioning=None)
    else:
        return []
    return _curves(table)


def read_training_result(run_dir: Path) -> Json | None:
    """Read the result of training: split, steps, best step, device, time; None for runs without one."""
    path = run_dir / RESULT_FILE
    if not path.is_file():
        return None
    result = json.loads(path.read_text())
    known = {name: result.get(name) for name in ("step", "best_step", "monitor", "parameters", "device", "seconds")}
    split = result.get("split") or {}
    parts = {name: list(split.get(name) or ()) for name in ("training", "validation")}
    return {**known, "split": {**parts, "rule": split.get("rule", "")}}


def _curves(table: pa.Table) -> list[Curve]:
    columns = (table[name].to_pylist() for name in ("metric", "split", "step", "value"))
    curves: dict[tuple[str, str], Curve] = {}
    for metric, split, step, value in zip(*columns, strict=True):
        curve = curves.setdefault((metric, split), Curve(metric, split, [], []))
        curve.steps.append(step)
        curve.values.append(value if value is not None and np.isfinite(value) else None)
    return [_thinned(curve) for curve in curves.values()]


def _thinned(curve: Curve) -> Curve:
    if len(curve.steps) <= CURVE_POINTS:
        return curve
    keep = np.unique(np.linspace(0, len(curve.steps) - 1, CURVE_POINTS).round().astype(int))
    return Curve(curve.metric, curve.split, [curve.steps[i] for i in keep], [curve.values[i] for i in keep])


def read_gallery(metrics_dir: Path, run_id: str) -> tuple[Path, Json]:
    """Return the folder of the images and their descriptions; empty where no gallery was made."""
    folder = partition_dir(metrics_dir, "gallery", run_id)
    path = folder / "gallery.json"
    if not path.is_file():
        return folder, {"items": [], "meshes": [], "faces": []}
    return folder, json.loads(path.read_text())
