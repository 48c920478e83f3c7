"""Charts with two runs in them. The run is orange, the other purple."""

from collections.abc import Mapping

import numpy as np

from hawor_pipeline.core.skeleton import JOINT_NAMES
from hawor_pipeline.reporting.results import RunResults
from hawor_pipeline.reporting.style import MUTED, OTHER, RUN, Figure, layout, rounded

_SCATTER_POINTS = 1500


def paired_scatter(run: RunResults, other: RunResults, names: Mapping[str, str]) -> Figure:
    """Each sample's error by both runs; below the diagonal the run is better."""
    ours, theirs = (one.sample_columns("mpjpe_mm", "sample_id") for one in (run, other))
    y, x = ours["mpjpe_mm"].astype(float), theirs["mpjpe_mm"].astype(float)
    known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    shown = known[np.linspace(0, len(known) - 1, min(len(known), _SCATTER_POINTS)).astype(int)] if len(known) else known
    top = float(max(x[known].max(), y[known].max())) if len(known) else 1.0
    dots = {
        "type": "scatter",
        "mode": "markers",
        "name": "sample",
        "x": rounded(x[shown], 3),
        "y": rounded(y[shown], 3),
        "text": ours["sample_id"][shown].tolist(),
        "marker": {"color": "rgba(34,38,43,0.28)", "size": 5},
        "hovertemplate": "%{text}<br>%{y:.1f} against %{x:.1f} mm<extra></extra>",
    }
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
    """Error of each joint by both runs."""
    labels = [name.replace("_", " ") for name in JOINT_NAMES[1:]]
    bars = [
        {
            "type": "bar",
            "name": names[key],
            "x": labels,
            "y": rounded(one.joint_means_mm()[1:]),
            "marker": {"color": color},
            "hovertemplate": "%{y:.1f} mm",
        }
        for key, one, color in (("run", run, RUN), ("other", other, OTHER))
    ]
    frame = layout("", "mean error, mm", xaxis={"tickangle": -60}, bargap=0.25, margin={"b": 90})
    return {"data": bars, "layout": frame}
