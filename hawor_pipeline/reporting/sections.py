"""The values that the sections of a report show: headline, tiles, comparison, strata, and the provenance of all."""

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hawor_pipeline import __version__
from hawor_pipeline.evaluation.declared_metrics import ALL_METRICS
from hawor_pipeline.evaluation.tables import partition_file
from hawor_pipeline.provenance import sha256_file
from hawor_pipeline.reporting.comparison import PairedRow
from hawor_pipeline.reporting.names import COMPARED_IN_PAIRS, METRIC_TITLES, STRATA, short_run_name
from hawor_pipeline.reporting.results import Entry, RunResults, read_training_result

PACKAGES = ("torch", "lightning", "numpy", "opencv-python", "pyarrow", "plotly")
COMPARED = tuple(name for name in COMPARED_IN_PAIRS if name not in ("translation_error_mm", "pck_2d_10px"))
Results = Mapping[str, RunResults]  # baselines and rivals by kind


@dataclass(frozen=True, slots=True)
class Headline:
    """The joint errors beside those of the baselines; a gain is the share of the baseline's error that is gone."""

    value: float | None
    floor: float | None  # of the mean pose; a key of report.json, as are the other names
    gain: float | None
    aligned: float | None
    aligned_floor: float | None  # of the mean rotations
    aligned_gain: float | None
    subjects: list[str]
    aligned_verdict: str | None


def headline(run: RunResults, baselines: Results, paired: list[PairedRow]) -> Headline:
    """Compare the joint error with the mean pose, and the aligned one with the mean rotations."""
    value, aligned = run.value("mpjpe_mm"), run.value("pa_mpjpe_mm")
    floor = baselines["mean_pose"].value("mpjpe_mm") if "mean_pose" in baselines else None
    aligned_floor = baselines["mean_rotations"].value("pa_mpjpe_mm") if "mean_rotations" in baselines else None
    pair = (short_run_name("baseline-mean_rotations"), "pa_mpjpe_mm")
    verdict = next((row.verdict for row in paired if (row.other, row.item.metric) == pair), None)
    gains = _gain(value, floor), _gain(aligned, aligned_floor)
    return Headline(value, floor, gains[0], aligned, aligned_floor, gains[1], run.labels("subject"), verdict)


def _gain(value: float | None, baseline: float | None) -> float | None:
    return 1 - value / baseline if value is not None and baseline else None


@dataclass(frozen=True, slots=True)
class MetricRow:
    """One metric of the run beside the values of its baselines and rivals, by kind."""

    metric: str
    entry: Entry | None
    baselines: dict[str, float | None]

    @property
    def title(self) -> str:
        """Title of the metric."""
        return METRIC_TITLES[self.metric]

    @property
    def unit(self) -> str:
        """Unit of the metric."""
        return ALL_METRICS[self.metric].unit

    @property
    def value(self) -> float | None:
        """Value of the run."""
        return self.entry.value if self.entry else None

    @property
    def better(self) -> str:
        """Direction of better values: lower or higher."""
        return ALL_METRICS[self.metric].better

    @property
    def best(self) -> float:
        """Best value of all in the row."""
        known = [value for value in (self.value, *self.baselines.values()) if value is not None]
        return (min if self.better == "lower" else max)(known)


def metric_row(metric: str, run: RunResults, baselines: Results) -> MetricRow:
    """Collect one metric of the run and of all baselines and rivals."""
    values = {kind: results.value(metric) for kind, results in baselines.items()}
    return MetricRow(metric, run.get(metric), values)


def comparison_rows(run: RunResults, baselines: Results) -> list[MetricRow]:
    """Collect the compared metrics that the run has."""
    rows = [metric_row(metric, run, baselines) for metric in COMPARED]
    return [row for row in rows if row.entry is not None]


def values_of(rows: list[MetricRow], kinds: list[str]) -> dict[str, dict[str, float | None]]:
    """Select the values of these baselines or rivals by metric."""
    return {row.metric: {kind: row.baselines[kind] for kind in kinds} for row in rows}


@dataclass(frozen=True, slots=True)
class StratumRow:
    """Errors of one stratum; `bar` holds the joint error and its interval in per cent of the longest bar."""

    label: str
    entry: Entry
    aligned: float | None
    pck: float | None
    bar: dict[str, float]


@dataclass(frozen=True, slots=True)
class StratumTable:
    """Errors by the strata of one column."""

    column: str
    title: str
    rows: list[StratumRow]


def strata(run: RunResults) -> list[StratumTable]:
    """Tabulate the errors by column; columns with a single stratum are dropped, except for subjects."""
    entries = {
        (column, label): entry
        for column, _ in STRATA
        for label in run.labels(column)
        if (entry := run.get("mpjpe_mm", f"{column}={label}")) is not None
    }
    several = {column for column, _ in STRATA if column == "subject" or sum(c == column for c, _ in entries) > 1}
    shown = {place: entry for place, entry in entries.items() if place[0] in several}
    top = max((entry.high or entry.value or 0.0 for entry in shown.values()), default=0.0) or 1.0
    rows = {place: _row(run, *place, entry, top) for place, entry in shown.items()}
    tables = [StratumTable(c, title, [row for (own, _), row in rows.items() if own == c]) for c, title in STRATA]
    return [table for table in tables if table.rows]


def _row(run: RunResults, column: str, label: str, entry: Entry, top: float) -> StratumRow:
    stratum = f"{column}={label}"
    ends = {"value": entry.value, "low": entry.low, "high": entry.high}
    bar = {name: round(100 * (value or 0.0) / top, 2) for name, value in ends.items()}
    return StratumRow(label, entry, run.value("pa_mpjpe_mm", stratum), run.value("pck_3d_15mm", stratum), bar)


def visibility(run: RunResults) -> list[tuple[str, Entry]]:
    """Return the errors of single joints, visible and hidden."""
    entries = {
        "visible": run.get("mpjpe_mm", "visible=true", "joint"),
        "hidden": run.get("mpjpe_mm", "visible=false", "joint"),
    }
    return [(label, entry) for label, entry in entries.items() if entry is not None]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Number of evaluated samples and sequences, and the labels of their strata."""

    samples: int
    sequences: int
    subject: list[str]
    view: list[str]
    side: list[str]
    object: list[str]
    action: list[str]


def evaluated(run: RunResults) -> Evaluated:
    """Describe the evaluated samples."""
    entry = run.get("mpjpe_mm")
    labels = [run.labels(name) for name in ("subject", "view", "side", "object", "action")]
    return Evaluated(entry.n if entry else 0, entry.sequences if entry else 0, *labels)


def also_chosen_on(run: RunResults, run_dir: Path) -> list[str]:
    """Return the evaluated subjects by whose error the checkpoint was chosen."""
    result = read_training_result(run_dir)
    chosen_on = {name.split("/")[0] for name in result["split"]["validation"]} if result else set()
    return sorted(chosen_on & set(run.labels("subject")))


def provenance(run: RunResults, config: Path) -> list[tuple[str, str]]:
    """List the names, hashes and versions that the numbers come from."""
    rows = [
        ("Run", run.run_id),
        ("Protocol", run.identity.protocol),
        ("Source of the data", run.identity.source),
        ("Dataset version", run.identity.dataset_version),
        ("Checkpoint, sha256", run.identity.checkpoint_sha256 or "none"),
        ("Summary table, sha256", sha256_file(partition_file(run.metrics_dir, "summary", run.run_id))),
        ("Configuration, sha256", sha256_file(config) if config.is_file() else "no configuration in the run's folder"),
        ("hawor_pipeline", __version__),
        ("Python", platform.python_version()),
    ]
    return [*rows, *((package, _version(package)) for package in PACKAGES)]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed where this report was made"
