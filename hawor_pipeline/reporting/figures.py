"""Charts of measured errors: of one run beside its baselines, and of two runs against each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np

from hawor_pipeline.core.skeleton import FINGERS, JOINT_NAMES
from hawor_pipeline.reporting.names import short_run_name
from hawor_pipeline.reporting.results import RunResults
from hawor_pipeline.reporting.style import (
    BASELINE_DASHES,
    BASELINE_GREYS,
    INK,
    MARKED_POINTS,
    MUTED,
    OTHER,
    RUN,
    TERMS,
    Figure,
    Plotly,
    bar_trace,
    in_columns,
    layout,
    line_trace,
    rounded,
    vertical,
)

PCK_LIMIT_MM = 50
_SCATTER_POINTS = 1500


@dataclass(frozen=True, slots=True)
class Series:
    """Line of one run in a chart."""

    name: str
    results: RunResults
    color: str
    width: float = 3.0
    dash: str = "solid"


def with_baselines(run: RunResults, baselines: Mapping[str, RunResults]) -> list[Series]:
    """Assign a line style to the run and to each of its baselines and rivals."""
    styles = zip(cycle(BASELINE_GREYS), (dash for dash in BASELINE_DASHES for _ in BASELINE_GREYS), strict=False)
    others = [
        Series(kind.replace("_", " "), results, grey, 1.8, dash)
        for (kind, results), (grey, dash) in zip(baselines.items(), styles, strict=False)
    ]
    return [Series("this run", run, RUN), *others]


def pck_curve(series: Sequence[Series], target_mm: float) -> Figure:
    """Draw the share of joints within a distance, a line per run."""
    limits = np.arange(0, PCK_LIMIT_MM + 1)
    traces = []
    for one in series:
        errors = np.sort(one.results.joint_errors_mm().reshape(-1))
        errors = errors[np.isfinite(errors)]
        shares = 100 * np.searchsorted(errors, limits, side="right") / max(len(errors), 1)
        line = {"color": one.color, "width": one.width, "dash": one.dash}
        traces.append(line_trace(one.name, limits.tolist(), rounded(shares), line, "%{y:.1f} %"))
    frame = layout("wrist-aligned distance, mm", "joints within, %", yaxis={"range": [0, 101]})
    frame["shapes"] = [vertical(target_mm)]
    frame["legend"] |= in_columns([one.name for one in series])
    return {"data": traces, "layout": frame}


def error_histogram(series: Sequence[Series]) -> Figure:
    """Draw the distribution of the samples' errors; that of the first run is filled."""
    errors = [one.results.sample_columns("mpjpe_mm")["mpjpe_mm"].astype(float) for one in series]
    errors = [values[np.isfinite(values)] for values in errors]
    top = max((float(np.percentile(values, 99.5)) for values in errors if len(values)), default=1.0)
    edges = np.linspace(0, max(top, 1e-3), 41)
    middles = rounded((edges[1:] + edges[:-1]) / 2)
    traces = []
    for one, values in zip(series, errors, strict=True):
        counts = 100 * np.histogram(values, edges)[0] / max(len(values), 1)
        line = {"color": one.color, "width": one.width * 0.8, "shape": "hvh", "dash": one.dash}
        traces.append(line_trace(one.name, middles, rounded(counts, 3), line, "%{y:.1f} %"))
    traces[0] |= {"fill": "tozeroy", "fillcolor": "rgba(200,85,27,0.12)"}
    frame = layout("mean joint error of a sample, mm", "samples, %")
    frame["legend"] |= in_columns([one.name for one in series])
    return {"data": traces, "layout": frame}


def joint_bars(run: RunResults) -> Figure:
    """Draw the error of each joint, grouped by finger."""
    values = {name: run.value("mpjpe_mm", f"joint={name}", "joint") for name in JOINT_NAMES[1:]}
    traces = []
    for finger, color in zip(FINGERS, (TERMS[4], TERMS[0], TERMS[2], TERMS[1], TERMS[3]), strict=True):
        names = [name for name in values if name.startswith(finger)]
        labels, errors = [name.replace("_", " ") for name in names], rounded([values[name] for name in names])
        traces.append(bar_trace(finger, labels, errors, color, "%{x}: %{y:.1f} mm<extra></extra>"))
    frame = layout("", "mean error, mm", hovermode="closest", xaxis={"tickangle": -60}, bargap=0.25, margin={"b": 90})
    return {"data": traces, "layout": frame}


def _sample_dots(
    x: np.ndarray, y: np.ndarray, sample_id: np.ndarray, color: str, hover: str
) -> tuple[np.ndarray, Plotly]:
    """Return indices of points with both values, and dots of an evenly spaced part of them that a page can carry."""
    known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    shown = known[np.linspace(0, len(known) - 1, min(len(known), _SCATTER_POINTS)).astype(int)]
    dots: Plotly = {
        "type": "scatter",
        "mode": "markers",
        "name": "sample",
        "x": rounded(x[shown], 3),
        "y": rounded(y[shown], 3),
        "text": sample_id[shown].tolist(),
        "marker": {"color": color, "size": 5},
        "hovertemplate": hover,
    }
    return known, dots


def occlusion_scatter(run: RunResults) -> Figure:
    """Draw errors of samples over the hidden share of the hand, with the mean of each bin."""
    columns = run.sample_columns("occlusion", "mpjpe_mm", "sample_id")
    x, y = columns["occlusion"].astype(float), columns["mpjpe_mm"].astype(float)
    hover = "%{text}<br>%{y:.1f} mm, hidden %{x:.0%}<extra></extra>"
    known, dots = _sample_dots(x, y, columns["sample_id"], "rgba(200,85,27,0.22)", hover)
    edges = np.linspace(0, 1, 11)
    bins = np.clip(np.digitize(x[known], edges) - 1, 0, 9)
    means = [float(y[known][bins == b].mean()) if (bins == b).any() else None for b in range(10)]
    middles, hover = rounded((edges[1:] + edges[:-1]) / 2), "mean %{y:.1f} mm<extra></extra>"
    line = line_trace("mean of each tenth", middles, rounded(means), {"color": INK, "width": 2}, hover, "lines+markers")
    line["connectgaps"] = True
    frame = layout("share of joints that are hidden", "error of the sample, mm", hovermode="closest")
    frame["xaxis"] |= {"tickformat": ".0%", "range": [-0.02, 1.02]}
    return {"data": [dots, line], "layout": frame}


def track_curves(runs: Sequence[Any], shown_frame: int, drawn: Any) -> Figure:
    """Draw errors (mm) of one hand over the frames of its recording, a line per run; that of `drawn` is orange.

    Each of `runs` has `run_id` and `track` (frame to error); `shown_frame` is marked.
    """
    greys = iter(BASELINE_GREYS * len(runs))
    traces = []
    for run in runs:
        frames = sorted(run.track)
        line = {"color": RUN, "width": 3} if run is drawn else {"color": next(greys), "width": 1.6}
        errors = rounded([run.track[number] for number in frames])
        mode = "lines+markers" if len(frames) < MARKED_POINTS else "lines"
        traces.append(line_trace(short_run_name(run.run_id), frames, errors, line, "%{y:.1f} mm", mode))
    frame = layout("frame", "joint error, mm", yaxis={"rangemode": "tozero"})
    frame["shapes"] = [vertical(shown_frame)]
    return {"data": traces, "layout": frame}


def paired_scatter(run: RunResults, other: RunResults, names: Mapping[str, str]) -> Figure:
    """Draw each sample's error by both runs; below the diagonal the run is better."""
    ours, theirs = (one.sample_columns("mpjpe_mm", "sample_id") for one in (run, other))
    y, x = ours["mpjpe_mm"].astype(float), theirs["mpjpe_mm"].astype(float)
    hover = "%{text}<br>%{y:.1f} against %{x:.1f} mm<extra></extra>"
    known, dots = _sample_dots(x, y, ours["sample_id"], "rgba(34,38,43,0.28)", hover)
    top = float(max(x[known].max(), y[known].max())) if len(known) else 1.0
    even = {
        "type": "scatter",
        "mode": "lines",
        "name": "even",
        "x": [0, round(top, 1)],
        "y": [0, round(top, 1)],
        "line": {"color": MUTED, "width": 1, "dash": "dot"},
        "hoverinfo": "skip",
    }
    frame = layout(f"{names['other']}, mm", f"{names['run']}, mm", hovermode="closest", showlegend=False)
    return {"data": [dots, even], "layout": frame}


def joint_pairs(run: RunResults, other: RunResults, names: Mapping[str, str]) -> Figure:
    """Draw the error of each joint by both runs, the run in orange and the other in purple."""
    labels = [name.replace("_", " ") for name in JOINT_NAMES[1:]]
    bars = [
        bar_trace(names[key], labels, rounded(one.joint_means_mm()[1:]), color, "%{y:.1f} mm")
        for key, one, color in (("run", run, RUN), ("other", other, OTHER))
    ]
    frame = layout("", "mean error, mm", xaxis={"tickangle": -60}, bargap=0.25, margin={"b": 90})
    return {"data": bars, "layout": frame}
