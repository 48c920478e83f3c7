"""Look of the charts: plain plotly descriptions (data and layout) that go into a page as JSON.

The run is orange, the ground truth is blue, another run is purple, baselines are greys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RUN, TRUE, OTHER, INK, MUTED, GRID = "#c8551b", "#2a6fa8", "#6b409e", "#22262b", "#69727d", "#e7eaee"
BASELINE_GREYS = ("#5d6670", "#8f98a3", "#b9c0c8")
BASELINE_DASHES = ("dash", "dot", "dashdot")
TERMS = ("#c8551b", "#2a6fa8", "#3a8a5f", "#8a5fa8", "#b08a1e", "#5d6670", "#c0507a", "#1f8f93", "#7a5a3a")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"
MARKED_POINTS = 12  # curves with fewer points show each of them
_NAME_PX = 6.6  # width of a letter in a legend, at 11 px
Plotly = dict[str, Any]  # a part of a plotly figure in plotly's own schema: trace, axis, layout
Figure = Plotly  # of the parts `data` and `layout`


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure with its title and caption."""

    title: str
    caption: str
    figure: Figure


def layout(x: str, y: str, **extra: Any) -> Plotly:
    """Return a quiet layout with titled axes; `extra` is merged into it, one level deep."""
    axis: Plotly = {
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": GRID,
        "ticks": "",
        "automargin": True,
        "tickfont": {"color": MUTED, "size": 12},
        "fixedrange": True,
    }
    title: Plotly = {"font": {"size": 12, "color": MUTED}, "standoff": 8}
    frame: Plotly = {
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
        frame[key] = {**frame.get(key, {}), **value} if isinstance(value, dict) else value
    return frame


def in_columns(names: Sequence[str]) -> Plotly:
    """Return a legend whose entries stand in columns as wide as the longest name."""
    return {"entrywidth": 4 + _NAME_PX * max(map(len, names), default=0), "font": {"size": 11}}


def rounded(values: Sequence[float | None] | np.ndarray, digits: int = 4) -> list[float | None]:
    """Round values to that many significant digits; None where not finite."""
    return [None if v is None or not np.isfinite(v) else float(f"{v:.{digits}g}") for v in values]


def vertical(x: float) -> Plotly:
    """Return a dotted line over the whole height."""
    line = {"color": MUTED, "width": 1, "dash": "dot"}
    return {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper", "line": line}


def line_trace(name: str, x: Any, y: Any, line: Plotly, hover: str, mode: str = "lines") -> Plotly:
    """Return a line; `hover` is the template of the text at a point."""
    return {"type": "scatter", "mode": mode, "name": name, "x": x, "y": y, "line": line, "hovertemplate": hover}


def bar_trace(name: str, x: Any, y: Any, color: str, hover: str) -> Plotly:
    """Return bars of one colour."""
    return {"type": "bar", "name": name, "x": x, "y": y, "marker": {"color": color}, "hovertemplate": hover}
