"""The run against others: paired differences, the champion, degraded inputs, and numbers that others published."""

from dataclasses import dataclass, fields
from pathlib import Path

from hawor_pipeline.config import read_yaml
from hawor_pipeline.errors import DataError
from hawor_pipeline.evaluation.compare import Difference
from hawor_pipeline.evaluation.declared_metrics import ALL_METRICS
from hawor_pipeline.evaluation.finished_runs import sequence_counts
from hawor_pipeline.evaluation.gate import decide, find_champion, find_champion_tables
from hawor_pipeline.evaluation.registry import Registry
from hawor_pipeline.evaluation.tables import list_runs, read_table
from hawor_pipeline.reporting.names import short_run_name, title_of
from hawor_pipeline.reporting.results import Json, RunResults, read_comparison
from hawor_pipeline.reporting.style import TERMS, Chart, Figure, layout, rounded


@dataclass(frozen=True, slots=True)
class PublishedNumber:
    """A number that others published, for orientation only.

    Second-hand (read in papers' tables or notes, not measured again), on other data, bounding boxes, splits and joint
    sets. The same method differs by a factor of two between tables, so published numbers never share a table with
    measured ones, and each has its caveat.
    """

    method: str
    dataset: str
    metric: str
    value: float
    unit: str
    seen_in: str
    caveat: str


PUBLISHED = tuple(PublishedNumber(**row) for row in read_yaml(Path(__file__).with_name("published.yaml"))["numbers"])
PAIRED = ("mpjpe_mm", "pa_mpjpe_mm")
OUTCOMES = {
    "first": "May become the first champion",
    "better_or_equal": "Passes the gate",
    "rejected": "Does not take the champion's place",
    "is_champion": "Is the champion",
}
DEGRADATION_TITLES = {
    "box_shift": "bounding box moved",
    "box_scale": "bounding box scaled",
    "blur": "blur",
    "erase": "part erased",
    "resolution": "lower resolution",
}


@dataclass(frozen=True, slots=True)
class GateDecision:
    """Decision of the gate on a run, in words and as a word."""

    title: str
    reason: str
    outcome: str


@dataclass(frozen=True, slots=True)
class PairedRow:
    """A paired difference of the run to a baseline or rival."""

    other: str
    title: str
    item: Difference
    verdict: str


def decision(run: RunResults, registry_dir: Path | None) -> GateDecision | None:
    """Return the decision of the gate on a run; None without a registry.

    The same pure function decides in the pipeline; here nothing is promoted.
    """
    if registry_dir is None or run.identity.checkpoint_sha256 is None:
        return None
    try:
        found = decide(run.metrics_dir, Registry(registry_dir), run.run_id)
    except DataError as error:
        return GateDecision("Cannot be compared with the champion", str(error), "unknown")
    reason = found.reason[:1].upper() + found.reason[1:]
    return GateDecision(OUTCOMES[found.outcome], reason, found.outcome)


def with_champion(
    baselines: dict[str, RunResults], run: RunResults, registry_dir: Path | None
) -> dict[str, RunResults]:
    """Add the champion of the registry to baselines and rivals; for the champion itself, the one before it."""
    champion = None
    if registry_dir is not None:
        about = (run.identity.protocol, run.identity.dataset_version)
        champion = find_champion(Registry(registry_dir), *about, run.identity.source)
    if champion is None:
        return baselines
    others = {kind: results for kind, results in baselines.items() if kind != "champion"}
    if champion.record.checkpoint_sha256 == run.identity.checkpoint_sha256:
        before = {"previous_champion": baselines["champion"]} if "champion" in baselines else {}
        return others | before
    run_id = find_champion_tables(run.metrics_dir, champion, *about, sequence_counts(run.metrics_dir, run.run_id))
    return others | ({"champion": RunResults(run.metrics_dir, run_id)} if run_id is not None else {})


def paired_differences(run: RunResults) -> list[PairedRow]:
    """Read the paired differences of the run to each baseline and rival; empty if not measured."""
    rows = []
    for row in read_comparison(run):
        if row["metric"] not in PAIRED or row["difference"] is None:
            continue
        own = {"better": ALL_METRICS[row["metric"]].better, "other": row["other_value"]}
        item = Difference(
            **{field.name: row[field.name] for field in fields(Difference) if field.name not in own}, **own
        )
        rows.append(PairedRow(short_run_name(row["other_run_id"]), title_of(item.metric), item, verdict(item)))
    return rows


def verdict(item: Difference) -> str:
    """Return `better` or `worse` beyond the interval, `even` within it, `no interval` from too few sequences."""
    if item.ci_low is None or item.ci_high is None:
        return "no interval"
    return "worse" if item.worse else "better" if item.improved else "even"


def robustness_charts(run: RunResults) -> list[Chart]:
    """Draw how errors grow with degraded bounding boxes and images; empty where it was not measured."""
    if run.run_id not in list_runs(run.metrics_dir, "robustness"):
        return []
    rows = [row for row in read_table(run.metrics_dir, "robustness", run.run_id).to_pylist() if row["side"] == "all"]
    charts = []
    for metric, title in (("mpjpe_mm", "Joint error"), ("detected", "Hands found")):
        own = [row for row in rows if row["metric"] == metric and row["value"] is not None]
        if any(row["kind"] != "none" for row in own):
            unit = ALL_METRICS[metric].unit
            caption = "Degradation grows from left to right; hover for its level."
            charts.append(Chart(title, caption, _degradation_figure(own, "" if unit == "1" else unit)))
    return charts


def _degradation_figure(rows: list[Json], unit: str) -> Figure:
    reference = next((row["value"] for row in rows if row["kind"] == "none"), None)
    kinds = list(dict.fromkeys(row["kind"] for row in rows if row["kind"] != "none"))
    traces = []
    for number, kind in enumerate(kinds):
        steps = [row for row in rows if row["kind"] == kind]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": DEGRADATION_TITLES.get(kind, kind.replace("_", " ")),
                "x": list(range(len(steps) + 1)),
                "y": rounded([reference, *(row["value"] for row in steps)]),
                "text": ["undegraded", *(f"{row['level']:g} {row['level_unit']}" for row in steps)],
                "line": {"color": TERMS[number % len(TERMS)], "width": 2},
                "hovertemplate": "%{text}: %{y:.3~g}",
            }
        )
    frame = layout("degradation", unit, yaxis={"rangemode": "tozero"})
    frame["xaxis"] |= {"tickvals": [0, 1, 2, 3], "ticktext": ["none", "little", "more", "much"]}
    return {"data": traces, "layout": frame}
