"""Report of a training: curves, best values and latest means, from measured rows.

It serves `TrainingEvaluator` in any training loop, and each finished run of `TrainingPipeline`. `hawor-pipeline report`
writes another one, about the evaluation of a run.
"""

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hawor_pipeline.provenance import atomic_write_bytes, atomic_write_text

REPORT_FILE, CURVES_FILE, EVOLUTION_FILE = "training_report.md", "training_curves.png", "metrics_evolution.png"
SPLITS = {"train": "training", "val": "validation"}
_COLORS = {"train": "#3b6fb6", "val": "#e08214"}
# First words of the metrics that measure quality, by the direction of better values; others have no best value.
_HIGHER = ("pck_", "hand_detection_rate", "left_hand_detection_rate", "right_hand_detection_rate")
_LOWER = ("loss", "mpjpe_", "pa_mpjpe_", "mano_", "mesh_", "temporal_", "occlusion_robustness")
# First words of the metrics in `training_curves.png`; `metrics_evolution.png` has the other measures of quality.
_LEARNING = ("loss", "learning_rate", "grad")

GroupBy = Literal["epoch", "step"]


@dataclass(frozen=True, slots=True)
class Row:
    """Metrics measured at one time; `weight` is the number of samples they are means over."""

    step: int
    epoch: int
    split: str
    weight: float
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Point:
    """Mean of a metric over the rows of one epoch or step; `step` is the last one."""

    epoch: int
    step: int
    value: float


@dataclass(frozen=True, slots=True)
class Meaning:
    """Unit and formula of a metric."""

    unit: str
    formula: str


def group_rows(rows: Sequence[Row], split: str, by: GroupBy = "epoch") -> dict[str, list[Point]]:
    """Average the rows of a split per epoch or step, in rising order.

    Args:
        rows: in any order.
        split: "train" or "val".
        by: group rows of one epoch, or of one step.

    Returns:
        A point per group for every metric, weighted by the rows' weights; NaN where none of them has a finite value.
    """
    chosen = sorted((row for row in rows if row.split == split), key=lambda row: row.step)
    names = list(dict.fromkeys(name for row in chosen for name in row.values))
    if not names:
        return {}
    values = np.array([[row.values.get(name, math.nan) for name in names] for row in chosen], float)  # (rows, metrics)
    weights = np.array([[row.weight] for row in chosen], float)
    weights = np.where(np.isfinite(values), weights, 0.0)
    keys, group = np.unique([getattr(row, by) for row in chosen], return_inverse=True)
    sums, totals = np.zeros((2, len(keys), len(names)))
    np.add.at(sums, group, weights * np.nan_to_num(values, posinf=0.0, neginf=0.0))
    np.add.at(totals, group, weights)
    means = np.divide(sums, totals, out=np.full_like(sums, math.nan), where=totals > 0)
    last = dict(zip(group.tolist(), chosen, strict=True))  # rising steps: the last row of each group remains
    places = [(last[number].epoch, last[number].step) for number in range(len(keys))]
    return {
        name: [Point(*place, mean) for place, mean in zip(places, column, strict=True)]
        for name, column in zip(names, means.T.tolist(), strict=True)
    }


def best_point(name: str, points: Sequence[Point]) -> Point | None:
    """Return the best point of a metric, the earliest of equals; None if it has no finite value or no better side."""
    finite = [point for point in points if math.isfinite(point.value)]
    if not finite or not name.startswith((*_HIGHER, *_LOWER)):
        return None
    return (max if name.startswith(_HIGHER) else min)(finite, key=lambda point: point.value)


def write_training_report(
    rows: Sequence[Row], output_dir: str | Path, about: Mapping[str, Meaning], *, by: GroupBy = "epoch"
) -> Path:
    """Write the report into a folder, whose other files are kept.

    Files: `training_report.md`, `training_curves.png` (losses, learning rates, gradient norms),
    `metrics_evolution.png` (errors and rates), `metrics.parquet` (a row per value) and `summary.json` (the latest
    means). A figure without a curve is not written.

    Args:
        rows: all measurements of the training.
        output_dir: the folder.
        about: unit and formula by the first part of a metric's name.
        by: the latest and best values are means of an epoch, or of a step.

    Returns:
        The path of the report.
    """
    folder = Path(output_dir)
    points = {split: group_rows(rows, split, by) for split in SPLITS}
    means = {split: {name: found[-1].value for name, found in points[split].items()} for split in SPLITS}
    finite = {split: {k: v for k, v in m.items() if math.isfinite(v)} for split, m in means.items()}
    buffer = io.BytesIO()
    pq.write_table(_table(rows), buffer)
    atomic_write_bytes(folder / "metrics.parquet", buffer.getvalue())
    atomic_write_text(folder / "summary.json", json.dumps(finite, indent=2, sort_keys=True) + "\n")
    figures = _write_figures(folder, {split: group_rows(rows, split, "step") for split in SPLITS}, about)
    atomic_write_text(folder / REPORT_FILE, _markdown(points, about, by, figures))
    return folder / REPORT_FILE


def _table(rows: Sequence[Row]) -> pa.Table:
    values = [(r.step, r.epoch, r.split, name, value) for r in rows for name, value in r.values.items()]
    columns = list(zip(*values, strict=True)) or [()] * 5
    types = (pa.int64(), pa.int64(), pa.string(), pa.string(), pa.float64())
    arrays = [pa.array(c, t, from_pandas=True) for c, t in zip(columns, types, strict=True)]
    return pa.table(dict(zip(("step", "epoch", "split", "metric", "value"), arrays, strict=True)))


def _markdown(
    points: Mapping[str, Mapping[str, list[Point]]], about: Mapping[str, Meaning], by: GroupBy, figures: Sequence[str]
) -> str:
    lines = ["# Training report", "", *(f"![{Path(name).stem.replace('_', ' ')}]({name})\n" for name in figures)]
    lines += [f"Means over the samples of the latest {by}, and of the best one.", ""]
    lines += ["| metric | unit | training | validation | best training | best validation | formula |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name in dict.fromkeys(name for split in SPLITS for name in points[split]):
        meaning = about.get(name.split("/")[0], Meaning("", ""))
        found = [points[split].get(name, []) for split in SPLITS]
        cells = [_shown(each[-1].value) if each else "–" for each in found]
        for each in found:
            best = best_point(name, each)
            cells.append("–" if best is None else f"{_shown(best.value)} ({by} {getattr(best, by)})")
        lines.append(f"| {name} | {meaning.unit} | {' | '.join(cells)} | {meaning.formula} |")
    return "\n".join(lines) + "\n"


def _shown(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4g}"


def _write_figures(
    folder: Path, points: Mapping[str, Mapping[str, list[Point]]], about: Mapping[str, Meaning]
) -> list[str]:
    """Draw a panel per metric that has a finite value, and return the names of the files."""
    drawn = [
        name
        for name in dict.fromkeys(name for split in SPLITS for name in points[split])
        if any(math.isfinite(point.value) for split in SPLITS for point in points[split].get(name, ()))
    ]
    learning = [name for name in drawn if name.startswith(_LEARNING)]
    quality = [name for name in drawn if name.startswith((*_HIGHER, *_LOWER)) and name not in learning]
    written = []
    for file, names in ((CURVES_FILE, learning), (EVOLUTION_FILE, quality)):
        if names:
            atomic_write_bytes(folder / file, _figure(names, points, about))
            written.append(file)
    return written


def _figure(
    names: Sequence[str], points: Mapping[str, Mapping[str, list[Point]]], about: Mapping[str, Meaning]
) -> bytes:
    from matplotlib.figure import Figure

    columns = min(len(names), 4)
    rows = math.ceil(len(names) / columns)
    figure = Figure(figsize=(3.4 * columns, 2.5 * rows), layout="constrained")
    axes: list[Any] = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
    for axis, name in zip(axes, names, strict=False):
        unit = about.get(name.split("/")[0], Meaning("", "")).unit
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("step", fontsize=8)
        axis.set_ylabel("" if unit == "1" else unit, fontsize=8)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
        for split, label in SPLITS.items():
            curve = [point for point in points[split].get(name, ()) if math.isfinite(point.value)]
            steps, values = [point.step for point in curve], [point.value for point in curve]
            if curve:
                axis.plot(steps, values, color=_COLORS[split], label=label, marker="." if len(curve) < 20 else None)
        axis.legend(fontsize=7, frameon=False)
    for axis in axes[len(names) :]:
        axis.remove()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
