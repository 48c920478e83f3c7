"""Charts of the report as plain plotly descriptions (data and layout), and the drawings that are SVG.

Everything is a dictionary that goes into the page as JSON; the page draws it with the plotly.js it carries. The run is
orange, the truth is blue, floors are greys.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hawor_pipeline.core.skeleton import BONES, FINGERS, JOINT_NAMES
from hawor_pipeline.reporting.names import short_run_name
from hawor_pipeline.reporting.results import Curve, RunResults

RUN, TRUE, INK, MUTED, GRID = "#c8551b", "#2a6fa8", "#22262b", "#69727d", "#e7eaee"
FLOOR_GREYS = ("#5d6670", "#8f98a3", "#b9c0c8")
TERMS = ("#c8551b", "#2a6fa8", "#3a8a5f", "#8a5fa8", "#b08a1e", "#5d6670", "#c0507a", "#1f8f93", "#7a5a3a")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"
PCK_LIMIT_MM = 50
_SCATTER_POINTS = 1500
Figure = dict[str, Any]


def _layout(x: str, y: str, **extra: Any) -> dict[str, Any]:
    axis: dict[str, Any] = {
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": GRID,
        "ticks": "",
        "automargin": True,
        "tickfont": {"color": MUTED, "size": 12},
        "fixedrange": True,
    }
    title: dict[str, Any] = {"font": {"size": 12, "color": MUTED}, "standoff": 8}
    layout: dict[str, Any] = {
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 48, "r": 12, "t": 12, "b": 44},
        "hovermode": "x unified",
        "hoverlabel": {"bgcolor": "#ffffff", "bordercolor": GRID, "font": {"size": 12, "color": INK}},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
        "showlegend": True,
        "xaxis": {**axis, "title": {"text": x, **title}},
        "yaxis": {**axis, "title": {"text": y, **title}},
    }
    for key, value in extra.items():
        layout[key] = {**layout.get(key, {}), **value} if isinstance(value, dict) else value
    return layout


def _rounded(values: Sequence[float | None] | np.ndarray, digits: int = 4) -> list[float | None]:
    return [None if v is None or not np.isfinite(v) else float(f"{v:.{digits}g}") for v in values]


def pck_curve(run: RunResults, floors: Mapping[str, RunResults], target_mm: float) -> Figure:
    """Share of joints within a distance, for the run and its floors."""
    limits = np.arange(0, PCK_LIMIT_MM + 1)
    traces = []
    for name, results, color, width, dash in _with_floors(run, floors):
        errors = np.sort(results.joint_errors_mm().reshape(-1))
        errors = errors[np.isfinite(errors)]
        shares = 100 * np.searchsorted(errors, limits, side="right") / max(len(errors), 1)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": name,
                "x": limits.tolist(),
                "y": _rounded(shares),
                "line": {"color": color, "width": width, "dash": dash},
                "hovertemplate": "%{y:.1f} %",
            }
        )
    layout = _layout("wrist-aligned distance, mm", "joints within, %", yaxis={"range": [0, 101]})
    layout["shapes"] = [_vertical(target_mm)]
    return {"data": traces, "layout": layout}


def _vertical(x: float) -> dict[str, Any]:
    line = {"color": MUTED, "width": 1, "dash": "dot"}
    return {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": line}


def _with_floors(run: RunResults, floors: Mapping[str, RunResults]) -> list[tuple[str, RunResults, str, float, str]]:
    rows = [("this run", run, RUN, 3.0, "solid")]
    for (kind, results), grey in zip(floors.items(), FLOOR_GREYS, strict=False):
        rows.append((kind.replace("_", " "), results, grey, 1.8, "dash"))
    return rows


def error_histogram(run: RunResults, floors: Mapping[str, RunResults]) -> Figure:
    """Distribution of the samples' errors."""
    errors = {name: r.sample_columns("mpjpe_mm")["mpjpe_mm"].astype(float) for name, r, *_ in _with_floors(run, floors)}
    errors = {name: values[np.isfinite(values)] for name, values in errors.items()}
    top = max((float(np.percentile(values, 99.5)) for values in errors.values() if len(values)), default=1.0)
    edges = np.linspace(0, max(top, 1e-3), 41)
    centres = (edges[1:] + edges[:-1]) / 2
    traces = []
    for (name, values), (_, _, color, width, _) in zip(errors.items(), _with_floors(run, floors), strict=True):
        counts = 100 * np.histogram(values, edges)[0] / max(len(values), 1)
        trace = {
            "type": "scatter",
            "mode": "lines",
            "name": name,
            "x": _rounded(centres),
            "y": _rounded(counts, 3),
            "line": {"color": color, "width": width * 0.8, "shape": "hvh"},
            "hovertemplate": "%{y:.1f} %",
        }
        if name == "this run":
            trace |= {"fill": "tozeroy", "fillcolor": "rgba(200,85,27,0.12)"}
        traces.append(trace)
    return {"data": traces, "layout": _layout("mean joint error of a sample, mm", "samples, %")}


def joint_bars(run: RunResults) -> Figure:
    """Error of each joint, grouped by finger."""
    values = {name: run.value("mpjpe_mm", f"joint={name}", "joint") for name in JOINT_NAMES[1:]}
    traces = []
    for finger, color in zip(FINGERS, (TERMS[4], TERMS[0], TERMS[2], TERMS[1], TERMS[3]), strict=True):
        names = [name for name in values if name.startswith(finger)]
        traces.append(
            {
                "type": "bar",
                "name": finger,
                "x": [name.replace("_", " ") for name in names],
                "y": _rounded([values[name] for name in names]),
                "marker": {"color": color},
                "hovertemplate": "%{x}: %{y:.1f} mm<extra></extra>",
            }
        )
    layout = _layout("", "mean error, mm", hovermode="closest", xaxis={"tickangle": -60}, bargap=0.25, margin={"b": 90})
    return {"data": traces, "layout": layout}


def occlusion_scatter(run: RunResults) -> Figure:
    """Samples by how much of the hand is hidden, with the mean of each bin."""
    columns = run.sample_columns("occlusion", "mpjpe_mm", "sample_id")
    x, y = columns["occlusion"].astype(float), columns["mpjpe_mm"].astype(float)
    known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    shown = known[np.linspace(0, len(known) - 1, min(len(known), _SCATTER_POINTS)).astype(int)] if len(known) else known
    edges = np.linspace(0, 1, 11)
    bins = np.clip(np.digitize(x[known], edges) - 1, 0, 9)
    means = [float(y[known][bins == b].mean()) if (bins == b).any() else None for b in range(10)]
    dots = {
        "type": "scatter",
        "mode": "markers",
        "name": "sample",
        "x": _rounded(x[shown], 3),
        "y": _rounded(y[shown], 3),
        "text": columns["sample_id"][shown].tolist(),
        "marker": {"color": "rgba(200,85,27,0.22)", "size": 5},
        "hovertemplate": "%{text}<br>%{y:.1f} mm, hidden %{x:.0%}<extra></extra>",
    }
    line = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "mean of each tenth",
        "x": _rounded((edges[1:] + edges[:-1]) / 2),
        "y": _rounded(means),
        "line": {"color": INK, "width": 2},
        "hovertemplate": "mean %{y:.1f} mm<extra></extra>",
        "connectgaps": True,
    }
    layout = _layout("share of joints that are hidden", "error of the sample, mm", hovermode="closest")
    layout["xaxis"] |= {"tickformat": ".0%", "range": [-0.02, 1.02]}
    return {"data": [dots, line], "layout": layout}


def training_figures(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """Charts of the training curves, one per group of metrics that are there: title, caption, figure."""
    groups: list[tuple[str, str, str, bool, str]] = [
        ("mpjpe_mm", "Error while training", "mm", False, "wrist-aligned joint error"),
        ("pa_mpjpe_mm", "Error after alignment", "mm", False, "Procrustes-aligned joint error"),
        ("loss", "Loss", "", True, "weighted sum of the terms, logarithmic"),
        ("loss/", "Loss terms", "", True, "each before its weight, training, logarithmic"),
        ("weight/", "Weights", "", True, "weight of each term, logarithmic"),
        ("share/", "Shares", "", False, "share of each term in the weighted sum"),
        ("grad_norm", "Gradient norms", "", True, "by part of the network, before clipping, logarithmic"),
        ("learning_rate", "Learning rate", "", False, "as the optimiser used it"),
        ("samples_per_second", "Throughput", "1/s", False, "samples per second"),
        ("data_wait_share", "Waiting for data", "", False, "share of the time without a batch"),
        ("memory", "Memory", "MB", False, "of the training process"),
    ]
    charts = []
    for prefix, title, unit, log, caption in groups:
        chosen = [c for c in curves if _belongs(c.metric, prefix) and not (prefix == "loss/" and c.split == "val")]
        chosen = [c for c in chosen if any(value is not None for value in c.values)]
        if chosen:
            charts.append({"title": title, "caption": caption, "figure": _curves_figure(chosen, unit, log)})
    return charts


def _belongs(metric: str, prefix: str) -> bool:
    name = metric.split("/", 1)[1] if metric.startswith(("train/", "val/")) else metric
    if prefix.endswith("/"):
        return name.startswith(prefix) and not name.endswith("/total")
    if prefix in ("grad_norm", "memory"):
        return name.startswith(prefix)
    return name in (prefix, f"{prefix}/total")


def _curves_figure(curves: Sequence[Curve], unit: str, log: bool) -> Figure:
    several = len({c.metric for c in curves}) > 1
    traces = []
    for number, curve in enumerate(curves):
        color = TERMS[number % len(TERMS)] if several else (RUN if curve.split == "val" else TRUE)
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if len(curve.steps) < 12 else "lines",
                "name": _curve_name(curve, several),
                "x": curve.steps,
                "y": _rounded(curve.values),
                "line": {"color": color, "width": 2 if curve.split == "val" or several else 1.5},
                "hovertemplate": "%{y:.4~g}",
            }
        )
    layout = _layout("optimiser step", unit, yaxis={"type": "log"} if log else {"rangemode": "tozero"})
    layout["showlegend"] = len(traces) > 1
    if several:
        layout["legend"] |= {"entrywidth": 74, "font": {"size": 11}}
    return {"data": traces, "layout": layout}


def _curve_name(curve: Curve, several: bool) -> str:
    if not several:
        return {"train": "training", "val": "validation"}.get(curve.split, curve.split)
    name = curve.metric.rsplit("/", 1)[-1]
    short = {"TEMPORAL_CONSISTENCY": "temporal", "OCCLUSION_ROBUSTNESS": "occlusion", "grad_norm": "all"}
    return short.get(name, name.lower().replace("_", " "))


def track_curves(runs: Sequence[Any], frame: int, drawn: Any) -> Figure:
    """Errors of one hand over the frames of its recording, a line per run; `frame` is marked.

    Args:
        runs: with `run_id` and `track` (frame to error, mm).
        frame: the frame that the page shows.
        drawn: the run that the page is about.
    """
    greys = iter(FLOOR_GREYS * len(runs))
    traces = []
    for run in runs:
        frames = sorted(run.track)
        line = {"color": RUN, "width": 3} if run is drawn else {"color": next(greys), "width": 1.6}
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers" if len(frames) < 12 else "lines",
                "name": short_run_name(run.run_id),
                "x": frames,
                "y": _rounded([run.track[number] for number in frames]),
                "line": line,
                "hovertemplate": "%{y:.1f} mm",
            }
        )
    layout = _layout("frame", "joint error, mm", yaxis={"rangemode": "tozero"})
    layout["shapes"] = [_vertical(frame)]
    return {"data": traces, "layout": layout}


def turnable_mesh(gallery: Mapping[str, Any]) -> Figure:
    """True and predicted mesh of a few samples; the page shows one pair at a time."""
    faces = np.array(gallery["faces"]).T
    traces = []
    for number, mesh in enumerate(gallery["meshes"]):
        for name, key, color, opacity in (("truth", "true_mm", TRUE, 0.55), ("prediction", "predicted_mm", RUN, 1.0)):
            if key not in mesh:
                continue
            x, y, z = np.array(mesh[key]).T
            traces.append(
                {
                    "type": "mesh3d",
                    "name": name,
                    "x": x.tolist(),
                    "y": y.tolist(),
                    "z": z.tolist(),
                    "i": faces[0].tolist(),
                    "j": faces[1].tolist(),
                    "k": faces[2].tolist(),
                    "color": color,
                    "opacity": opacity,
                    "flatshading": False,
                    "lighting": {"ambient": 0.45, "diffuse": 0.8, "specular": 0.15, "roughness": 0.6},
                    "lightposition": {"x": -200, "y": 500, "z": 900},
                    "visible": number == 0,
                    "hoverinfo": "name",
                    "showlegend": number == 0,
                }
            )
    hidden = {"visible": False}
    layout = {
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
        "legend": {"orientation": "h", "x": 0, "y": 1},
        "scene": {
            "aspectmode": "data",
            "xaxis": hidden,
            "yaxis": hidden,
            "zaxis": hidden,
            "camera": {
                "up": {"x": 0, "y": 1, "z": 0},
                "eye": {"x": 0.2, "y": 0.3, "z": 1.9},
                "projection": {"type": "perspective"},
            },
            "dragmode": "orbit",
        },
    }
    return {"data": traces, "layout": layout}


# A right hand, palm down, in a drawing of 100 by 120: where each joint of the OpenPose order lies.
_HAND_SPOTS = (
    (52, 110),
    (36, 98), (24, 84), (15, 71), (7, 60),
    (36, 62), (32, 43), (29, 30), (27, 18),
    (50, 58), (49, 36), (48, 22), (48, 9),
    (63, 61), (66, 41), (68, 28), (69, 16),
    (75, 68), (82, 53), (86, 43), (90, 33),
)  # fmt: skip


def hand_drawing(values: Sequence[float | None]) -> list[dict[str, Any]] | None:
    """What the drawing of joint errors needs: bones, and spots with radius, colour and text; None without data.

    Args:
        values: error of each joint in OpenPose order, mm.
    """
    known = [value for value in values if value is not None]
    if len(known) < len(JOINT_NAMES) or not max(known):
        return None
    top = max(known)
    spots = [
        {
            "kind": "spot",
            "x": x,
            "y": y,
            "r": round(1.2 + 4.2 * (value or 0) / top, 2),
            "color": _heat((value or 0) / top),
            "text": f"{name.replace('_', ' ')}: {value:.1f} mm",
            "label": f"{value:.0f}" if name.endswith("tip") else "",
        }
        for (x, y), name, value in zip(_HAND_SPOTS, JOINT_NAMES, values, strict=True)
    ]
    bones = [
        {
            "kind": "bone",
            "x1": _HAND_SPOTS[a][0],
            "y1": _HAND_SPOTS[a][1],
            "x2": _HAND_SPOTS[b][0],
            "y2": _HAND_SPOTS[b][1],
        }
        for a, b in BONES
    ]
    return bones + spots


def _heat(share: float) -> str:
    low, high = np.array([222, 214, 205]), np.array([176, 58, 12])
    red, green, blue = (low + (high - low) * share).round().astype(int)
    return f"rgb({red},{green},{blue})"
