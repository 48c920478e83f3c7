"""What a run is measured against: paired differences to floors and rivals, the champion, and harder pictures."""

from pathlib import Path
from typing import Any

from hawor_pipeline.errors import DataError
from hawor_pipeline.evaluation.compare import Difference
from hawor_pipeline.evaluation.gate import decide, find_champion, find_champion_tables
from hawor_pipeline.evaluation.registry import Registry
from hawor_pipeline.evaluation.schemas import ALL_METRICS
from hawor_pipeline.evaluation.tables import list_runs, read_table
from hawor_pipeline.reporting.names import short_run_name, title_of
from hawor_pipeline.reporting.results import RunResults
from hawor_pipeline.reporting.style import TERMS, Figure, layout, rounded

PAIRED = ("mpjpe_mm", "pa_mpjpe_mm")
OUTCOMES = {
    "first": "May become the first champion",
    "better_or_equal": "Passes the gate",
    "rejected": "Does not take the champion's place",
    "is_champion": "Is the champion",
}
HARM_TITLES = {
    "box_shift": "box moved",
    "box_scale": "box of another size",
    "blur": "blur",
    "erase": "part erased",
    "resolution": "lower resolution",
}


def decision(run: RunResults, registry_dir: Path | None) -> dict[str, Any] | None:
    """The gate's word on a run: title, reason, outcome; None where there is no registry to ask.

    The same pure function decides in the pipeline; here nothing is promoted.
    """
    if registry_dir is None or run.checkpoint_sha256 is None:
        return None
    try:
        found = decide(run.metrics_dir, Registry(registry_dir), run.run_id)
    except DataError as error:
        return {"title": "Cannot be compared with the champion", "reason": str(error), "outcome": "unknown"}
    return {
        "title": OUTCOMES[found.outcome],
        "reason": found.reason[:1].upper() + found.reason[1:],
        "outcome": found.outcome,
    }


def with_champion(floors: dict[str, RunResults], run: RunResults, registry_dir: Path | None) -> dict[str, RunResults]:
    """Floors and rivals with the champion of the registry among them; for the champion itself, the one before it."""
    champion = None
    if registry_dir is not None:
        about = (run.protocol, run.dataset_version)
        champion = find_champion(Registry(registry_dir), *about, run.source)
    if champion is None:
        return floors
    others = {kind: results for kind, results in floors.items() if kind != "champion"}
    if champion.record.checkpoint_sha256 == run.checkpoint_sha256:
        before = {"previous_champion": floors["champion"]} if "champion" in floors else {}
        return others | before
    run_id = find_champion_tables(run.metrics_dir, champion, *about)
    return others | ({"champion": RunResults(run.metrics_dir, run_id)} if run_id is not None else {})


def paired_differences(run: RunResults) -> list[dict[str, Any]]:
    """Differences of the run to each floor and rival, sample by sample, with their verdicts; empty if not measured."""
    if run.run_id not in list_runs(run.metrics_dir, "comparison"):
        return []
    rows = []
    for row in read_table(run.metrics_dir, "comparison", run.run_id).to_pylist():
        if row["metric"] not in PAIRED or row["difference"] is None:
            continue
        metric = ALL_METRICS[row["metric"]]
        item = Difference(
            metric=row["metric"],
            unit=row["unit"],
            better=metric.better,
            value=row["value"],
            other=row["other_value"],
            difference=row["difference"],
            ci_low=row["ci_low"],
            ci_high=row["ci_high"],
            n=row["n"],
            sequences=row["sequences"],
            note=row["note"],
        )
        rows.append(
            {
                "other": short_run_name(row["other_run_id"]),
                "title": title_of(row["metric"]),
                "item": item,
                "verdict": verdict(item),
            }
        )
    return rows


def verdict(item: Difference) -> str:
    """In a word: `better` or `worse` beyond the interval, `even` within it, `no interval` from too few sequences."""
    if item.ci_low is None or item.ci_high is None:
        return "no interval"
    if item.worse:
        return "worse"
    towards_better = -1.0 if item.better == "lower" else 1.0
    return "better" if min(towards_better * end for end in (item.ci_low, item.ci_high)) > 0 else "even"


def robustness_figures(run: RunResults) -> list[dict[str, Any]]:
    """Charts of how errors grow with harm done to boxes and pictures; empty where it was not measured."""
    if run.run_id not in list_runs(run.metrics_dir, "robustness"):
        return []
    rows = [row for row in read_table(run.metrics_dir, "robustness", run.run_id).to_pylist() if row["side"] == "all"]
    charts = []
    for metric, title in (("mpjpe_mm", "Joint error"), ("detected", "Hands found")):
        own = [row for row in rows if row["metric"] == metric and row["value"] is not None]
        if any(row["kind"] != "none" for row in own):
            unit = ALL_METRICS[metric].unit
            caption = "From left to right ever more harm; hover for how much."
            charts.append(
                {"title": title, "caption": caption, "figure": _harm_figure(own, "" if unit == "1" else unit)}
            )
    return charts


def _harm_figure(rows: list[dict[str, Any]], unit: str) -> Figure:
    reference = next((row["value"] for row in rows if row["kind"] == "none"), None)
    kinds = list(dict.fromkeys(row["kind"] for row in rows if row["kind"] != "none"))
    traces = []
    for number, kind in enumerate(kinds):
        steps = [row for row in rows if row["kind"] == kind]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": HARM_TITLES.get(kind, kind.replace("_", " ")),
                "x": list(range(len(steps) + 1)),
                "y": rounded([reference, *(row["value"] for row in steps)]),
                "text": ["as it is", *(f"{row['level']:g} {row['level_unit']}" for row in steps)],
                "line": {"color": TERMS[number % len(TERMS)], "width": 2},
                "hovertemplate": "%{text}: %{y:.3~g}",
            }
        )
    frame = layout("harm", unit, yaxis={"rangemode": "tozero"})
    frame["xaxis"] |= {"tickvals": [0, 1, 2, 3], "ticktext": ["none", "little", "more", "much"]}
    return {"data": traces, "layout": frame}
