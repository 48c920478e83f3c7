"""Two runs on one page: paired differences by metric and stratum, and the settings that differ."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from hawor_pipeline.errors import ConfigError
from hawor_pipeline.evaluation.compare import Difference, compare_runs
from hawor_pipeline.evaluation.targets import target_distance_mm
from hawor_pipeline.provenance import StageResult
from hawor_pipeline.reporting import figures
from hawor_pipeline.reporting.build_report import write_pages
from hawor_pipeline.reporting.comparison import PairedRow, verdict
from hawor_pipeline.reporting.names import COMPARED_IN_PAIRS, STRATA, short_run_name, title_of
from hawor_pipeline.reporting.pages import Context, data_uri, render_comparison
from hawor_pipeline.reporting.results import Json, RunResults, read_training
from hawor_pipeline.reporting.style import OTHER, RUN
from hawor_pipeline.reporting.training_curves import training_pairs
from hawor_pipeline.sources.arctic import SYNTHETIC

_HEADLINE = "mpjpe_mm"


def comparison_name(run_id: str, other_run_id: str) -> str:
    """Return the folder of the page among the reports."""
    return f"{run_id}-against-{other_run_id}"


def build_comparison(
    run_id: str,
    other_run_id: str,
    metrics_dir: Path | str,
    reports_dir: Path | str,
    *,
    runs_dir: Path | str | None = None,
    images: Sequence[Mapping[str, Any]] = (),
) -> StageResult:
    """Lay out the page that compares a run with another one, on the samples that both measured.

    Args:
        run_id: the run.
        other_run_id: the run to compare with: an older one, the champion, or a baseline.
        metrics_dir: their metric tables.
        reports_dir: parent of the page's folder `<run_id>-against-<other_run_id>`.
        runs_dir: training runs, for configurations and curves; without it, or without a run, they are omitted.
        images: of `inspection.gallery.pair_images`.

    Returns:
        `path` is the HTML page; `info` has the differences by metric.

    Raises:
        ConfigError: both are the same run.
        DataError: a run was not evaluated, or on other samples, data or by another protocol.
    """
    if run_id == other_run_id:
        raise ConfigError(f"{run_id} cannot be compared with itself; name another run with --against.")
    metrics_dir = Path(metrics_dir)
    differences = compare_runs(metrics_dir, run_id, other_run_id, COMPARED_IN_PAIRS)
    pair = (RunResults(metrics_dir, run_id), RunResults(metrics_dir, other_run_id))
    folders = [Path(runs_dir) / run.run_id if runs_dir else None for run in pair]
    context = _context(pair, differences, folders, images)
    info = {"run_id": run_id, "other_run_id": other_run_id, "differences": [item.to_dict() for item in differences]}
    return write_pages(render_comparison(context), Path(reports_dir) / comparison_name(run_id, other_run_id), info)


def _context(
    pair: tuple[RunResults, RunResults],
    differences: Sequence[Difference],
    folders: Sequence[Path | None],
    images: Sequence[Mapping[str, Any]],
) -> Context:
    run, other = pair
    names = {"run": short_run_name(run.run_id), "other": short_run_name(other.run_id)}
    curves = [read_training(one.metrics_dir, one.run_id, folder) for one, folder in zip(pair, folders, strict=True)]
    training = training_pairs(curves, list(names.values()))
    configs = [_config(folder) for folder in folders]
    series = [figures.Series(names["run"], run, RUN), figures.Series(names["other"], other, OTHER)]
    defined = [item for item in differences if item.difference is not None]
    return {
        **names,
        "run_ids": [run.run_id, other.run_id],
        **asdict(run.identity),
        "synthetic": run.identity.source == SYNTHETIC,
        "headline": next((item for item in defined if item.metric == _HEADLINE), None),
        "rows": [PairedRow(other.run_id, title_of(item.metric), item, verdict(item)) for item in defined],
        "undefined": [title_of(item.metric) for item in differences if item.difference is None],
        "strata": _strata(run, other),
        "images": [{**item, "uri": data_uri(item["jpeg"])} for item in images],
        "training": training,
        "settings": _changed_settings(*configs) if all(configs) else [],
        "has_settings": all(configs),
        "provenance": _provenance(pair),
        "figures": {
            "pck": figures.pck_curve(series, target_distance_mm()),
            "histogram": figures.error_histogram(series),
            "scatter": figures.paired_scatter(run, other, names),
            "joints": figures.joint_pairs(run, other, names),
            **{f"training{number}": chart.figure for number, chart in enumerate(training)},
        },
    }


@dataclass(frozen=True, slots=True)
class PairedStratum:
    """Joint errors of both runs in one stratum."""

    label: str
    ours: float
    theirs: float
    n: int


def _strata(run: RunResults, other: RunResults) -> list[tuple[str, list[PairedStratum]]]:
    """Tabulate the joint errors of both by stratum, where both have them: title of the column, and its rows."""
    tables = []
    for column, title in STRATA:
        rows = []
        for label in run.labels(column):
            ours, theirs = (one.get(_HEADLINE, f"{column}={label}") for one in (run, other))
            if ours is None or theirs is None or ours.value is None or theirs.value is None:
                continue
            rows.append(PairedStratum(label, ours.value, theirs.value, ours.n))
        if len(rows) > 1:
            tables.append((title, rows))
    return tables


def _config(folder: Path | None) -> Json:
    path = folder / "config.yaml" if folder else None
    return _flat(yaml.safe_load(path.read_text()) or {}) if path is not None and path.is_file() else {}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Json:
    found: Json = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + str(name)] = value
    return found


def _changed_settings(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    names = sorted(set(ours) | set(theirs))
    missing = "not set"
    pairs = [(name, ours.get(name, missing), theirs.get(name, missing)) for name in names]
    return [(name, one, two) for name, one, two in pairs if one != two]


def _provenance(pair: Sequence[RunResults]) -> list[tuple[str, str, str]]:
    columns = [
        (i.run_id, i.checkpoint_sha256 or "none", i.dataset_version, i.protocol) for i in (r.identity for r in pair)
    ]
    return list(zip(("Run", "Checkpoint, sha256", "Dataset version", "Protocol"), *columns, strict=True))
