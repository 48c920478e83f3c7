"""Charts of the training curves."""

from collections.abc import Sequence
from dataclasses import dataclass

from hawor_pipeline.reporting.results import Curve
from hawor_pipeline.reporting.style import (
    MARKED_POINTS,
    OTHER,
    RUN,
    TERMS,
    TRUE,
    Chart,
    Figure,
    Plotly,
    in_columns,
    layout,
    line_trace,
    rounded,
)

_SPLITS = {"train": "training", "val": "validation"}


@dataclass(frozen=True, slots=True)
class Group:
    """Curves of one chart."""

    prefix: str
    title: str
    unit: str
    log: bool
    caption: str

    def chosen(self, curves: Sequence[Curve]) -> list[Curve]:
        """Select the curves of this chart that have a value."""
        own = [
            c for c in curves if _belongs(c.metric, self.prefix) and not (self.prefix == "loss/" and c.split == "val")
        ]
        return [c for c in own if any(value is not None for value in c.values)]


GROUPS = (
    Group("mpjpe_mm", "Error while training", "mm", False, "wrist-aligned joint error"),
    Group("pa_mpjpe_mm", "Error after alignment", "mm", False, "Procrustes-aligned joint error"),
    Group("loss", "Loss", "", True, "weighted sum of the terms, logarithmic"),
    Group("loss/", "Loss terms", "", True, "each before its weight, training, logarithmic"),
    Group("weight/", "Weights", "", True, "weight of each term, logarithmic"),
    Group("share/", "Shares", "", False, "share of each term in the weighted sum"),
    Group("grad_norm", "Gradient norms", "", True, "by part of the network, before clipping, logarithmic"),
    Group("learning_rate", "Learning rate", "", False, "as the optimiser used it"),
    Group("samples_per_second", "Throughput", "1/s", False, "samples per second"),
    Group("data_wait_share", "Waiting for data", "", False, "share of the time without a batch"),
    Group("memory", "Memory", "MB", False, "of the training process"),
)


def training_charts(curves: Sequence[Curve]) -> list[Chart]:
    """Draw the training curves, a chart per group of metrics that were logged."""
    return [
        Chart(group.title, group.caption, _curves_figure(chosen, group.unit, group.log))
        for group in GROUPS
        if (chosen := group.chosen(curves))
    ]


def training_pairs(curves: Sequence[Sequence[Curve]], names: Sequence[str]) -> list[Chart]:
    """Draw the curves of two runs, of those groups that are one quantity."""
    charts = []
    for group in GROUPS:
        if group.prefix.endswith("/") or group.prefix == "grad_norm":
            continue
        own = [group.chosen(one) for one in curves]
        traces = [
            _trace(
                curve,
                f"{name}, {_SPLITS.get(curve.split, curve.split)}",
                color,
                "solid" if curve.split == "val" else "dot",
            )
            for name, color, one in zip(names, (RUN, OTHER), own, strict=True)
            for curve in one
        ]
        if traces:
            frame = layout("optimiser step", group.unit, yaxis=_scale(group.log))
            charts.append(Chart(group.title, group.caption, {"data": traces, "layout": frame}))
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
        traces.append(_trace(curve, _curve_name(curve, several), color))
    frame = layout("optimiser step", unit, yaxis=_scale(log))
    frame["showlegend"] = len(traces) > 1
    if several:
        frame["legend"] |= in_columns([trace["name"] for trace in traces])
    return {"data": traces, "layout": frame}


def _scale(log: bool) -> Plotly:
    """Label ticks of a logarithmic axis with whole numbers, and small values with powers of ten."""
    return {"type": "log", "tickformat": "~g"} if log else {"rangemode": "tozero", "exponentformat": "power"}


def _trace(curve: Curve, name: str, color: str, dash: str = "solid") -> Plotly:
    line = {"color": color, "width": 2 if curve.split == "val" else 1.5, "dash": dash}
    mode = "lines+markers" if len(curve.steps) < MARKED_POINTS else "lines"
    return line_trace(name, curve.steps, rounded(curve.values), line, "%{y:.4~g}", mode)


def _curve_name(curve: Curve, several: bool) -> str:
    if not several:
        return _SPLITS.get(curve.split, curve.split)
    name = curve.metric.rsplit("/", 1)[-1]
    short = {"TEMPORAL_CONSISTENCY": "temporal", "OCCLUSION_ROBUSTNESS": "occlusion", "grad_norm": "all"}
    return short.get(name, name.lower().replace("_", " "))
