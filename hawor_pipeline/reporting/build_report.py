"""The report of one run: a page that needs nothing else, its Markdown, and its numbers as JSON.

Lays out what evaluation wrote. Every number comes from a table, a configuration or a file's hash.
"""

import hashlib
from pathlib import Path
from typing import Any

from hawor_pipeline.errors import ConfigError
from hawor_pipeline.evaluation.schemas import ALL_METRICS
from hawor_pipeline.evaluation.targets import SYNTHETIC, judge, target_distance_mm
from hawor_pipeline.provenance import StageResult, find_done, hash_json, mark_done, staging_dir
from hawor_pipeline.reporting import figures
from hawor_pipeline.reporting.comparison import decision, paired_differences, robustness_figures, with_champion
from hawor_pipeline.reporting.findings import Evidence, find
from hawor_pipeline.reporting.markdown import to_html
from hawor_pipeline.reporting.names import METRIC_TITLES, STRATA, short_run_name
from hawor_pipeline.reporting.origin import also_chosen_on, evaluated, provenance
from hawor_pipeline.reporting.pages import HTML, data_uri, render_report
from hawor_pipeline.reporting.published import PUBLISHED
from hawor_pipeline.reporting.results import (
    FLOOR_KINDS,
    Entry,
    RunResults,
    find_floors,
    read_gallery,
    read_training,
    read_training_result,
)
from hawor_pipeline.reporting.shapes import hand_drawing, turnable_mesh
from hawor_pipeline.reporting.style import Figure
from hawor_pipeline.reporting.training_curves import training_figures

HEADLINES = ("mpjpe_mm", "pa_mpjpe_mm", "pck_3d_15mm", "mpjpe_crop_px")
COMPARED = (
    "mpjpe_mm",
    "pa_mpjpe_mm",
    "mpvpe_mm",
    "pa_mpvpe_mm",
    "pck_3d_15mm",
    "pck_auc",
    "f_score_15mm",
    "global_orient_error_deg",
    "pose_error_deg",
    "mpjpe_crop_px",
    "detected",
    "accel_error_m_s2",
)


def build_report(
    run_dir: Path | str,
    metrics_dir: Path | str,
    reports_dir: Path | str,
    *,
    run_id: str | None = None,
    metadata_dir: Path | str | None = None,
    registry_dir: Path | str | None = None,
) -> StageResult:
    """Lay out the report of an evaluated run under `reports_dir/run_id`.

    Args:
        run_dir: folder of the training run (configuration, training curves).
        metrics_dir: metric tables; the run's summary must be there, floors are found by dataset version.
        reports_dir: where the report goes.
        run_id: of the metric tables; None: the name of `run_dir`.
        metadata_dir: folder of the data card; None leaves it out.
        registry_dir: where champions are; None leaves the comparison with the champion out.

    Returns:
        `path` is the HTML page; `info` has the headline numbers, the targets and the number of findings.

    Raises:
        ConfigError: the run's folder does not exist.
        DataError: the run was not evaluated.
    """
    run_dir, metrics_dir = Path(run_dir), Path(metrics_dir)
    if not run_dir.is_dir():
        raise ConfigError(f"run folder {run_dir} does not exist; give the folder of a training run.")
    run = RunResults(metrics_dir, run_id or run_dir.name)
    registry = Path(registry_dir) if registry_dir else None
    floors = with_champion(find_floors(metrics_dir, run), run, registry)
    card = Path(metadata_dir) / "data_card.md" if metadata_dir else None
    final = Path(reports_dir) / run.run_id
    context = collect(run, floors, run_dir, card)
    context["decision"] = decision(run, registry)
    return publish(render_report(context), final, _info(context))


def publish(files: dict[str, bytes], final: Path, info: dict[str, Any]) -> StageResult:
    """Write rendered files, unless exactly these are there: what a reader would see decides what is stale."""
    key = hash_json({name: hashlib.sha256(content).hexdigest() for name, content in files.items()})
    done, why = find_done(final, key)
    if done is not None:
        return StageResult(final / HTML, True, why, key, done)
    with staging_dir(final) as staged:
        for name, content in files.items():
            (staged / name).parent.mkdir(exist_ok=True)
            (staged / name).write_bytes(content)
        mark_done(staged, key, info, list(files))
    return StageResult(final / HTML, False, why, key, info)


def _info(context: dict[str, Any]) -> dict[str, Any]:
    return {
        "run_id": context["run_id"],
        "source": context["source"],
        "metrics": {tile["metric"]: tile["value"] for tile in context["tiles"]},
        "targets": context["targets"],
        "floors": {metric: values for metric, values in context["floors"].items() if metric in HEADLINES},
        "rivals": {metric: values for metric, values in context["rivals"].items() if metric in HEADLINES},
        "findings": len(context["findings"]),
    }


def collect(run: RunResults, floors: dict[str, RunResults], run_dir: Path, card: Path | None) -> dict[str, Any]:
    """Everything that the page shows, as plain values."""
    curves = read_training(run.metrics_dir, run.run_id, run_dir)
    charts, training, robustness = _charts(run, floors), training_figures(curves), robustness_figures(run)
    for name, group in (("training", training), ("robustness", robustness)):
        charts |= {f"{name}{number}": chart["figure"] for number, chart in enumerate(group)}
    folder, gallery = read_gallery(run.metrics_dir, run.run_id)
    if gallery["meshes"]:
        charts["mesh"] = turnable_mesh(gallery)
    overall, comparison, paired = run.overall(), _comparison(run, floors), paired_differences(run)
    config = run_dir / "config.yaml"
    return {
        "run_id": run.run_id,
        "source": run.source,
        "synthetic": run.source == SYNTHETIC,
        "protocol": run.protocol,
        "dataset_version": run.dataset_version,
        "checkpoint_sha256": run.checkpoint_sha256,
        "headline": _headline(run, floors) | {"aligned_verdict": _aligned_verdict(paired)},
        "tiles": [_tile(metric, run, floors) for metric in HEADLINES],
        "targets": judge(
            {metric: entry.value for metric, entry in overall.items() if entry.value is not None}, run.source
        ),
        "findings": find(Evidence(run, floors, curves)),
        "floor_kinds": list(floors),
        "comparison": comparison,
        "floors": _compared_with(comparison, [kind for kind in floors if kind in FLOOR_KINDS]),
        "rivals": _compared_with(comparison, [kind for kind in floors if kind not in FLOOR_KINDS]),
        "training": training,
        "robustness": robustness,
        "paired": paired,
        "figures": charts,
        "hand": hand_drawing(run.joint_means_mm()),
        "with_intervals": any(entry.low is not None for entry in overall.values()),
        "visibility": _visibility(run),
        "strata": _strata(run),
        "gallery": _with_images(folder, gallery),
        "meshes": [{k: mesh[k] for k in ("rank", "sample_id", "mpjpe_mm")} for mesh in gallery["meshes"]],
        "published": PUBLISHED,
        "metrics": {name: (entry, ALL_METRICS[name]) for name, entry in overall.items()},
        "evaluated": evaluated(run),
        "trained": read_training_result(run_dir),
        "also_chosen_on": also_chosen_on(run, run_dir),
        "data_card": to_html(card.read_text()) if card and card.is_file() else "",
        "config": config.read_text() if config.is_file() else "",
        "provenance": provenance(run, config),
    }


def _compared_with(comparison: list[dict[str, Any]], kinds: list[str]) -> dict[str, dict[str, float | None]]:
    """Values of these floors or rivals by metric."""
    return {row["metric"]: {kind: row["floors"][kind] for kind in kinds} for row in comparison}


def _aligned_verdict(paired: list[dict[str, Any]]) -> str | None:
    """How the aligned error compares with that of the mean rotations sample by sample; None where not measured."""
    pair = (short_run_name("baseline-mean_rotations"), "pa_mpjpe_mm")
    verdicts = [row["verdict"] for row in paired if (row["other"], row["item"].metric) == pair]
    return verdicts[0] if verdicts else None


def _headline(run: RunResults, floors: dict[str, RunResults]) -> dict[str, Any]:
    value = run.value("mpjpe_mm")
    floor = floors["mean_pose"].value("mpjpe_mm") if "mean_pose" in floors else None
    aligned = run.value("pa_mpjpe_mm")
    aligned_floor = floors["mean_rotations"].value("pa_mpjpe_mm") if "mean_rotations" in floors else None
    return {
        "value": value,
        "floor": floor,
        "gain": 1 - value / floor if value is not None and floor else None,
        "aligned": aligned,
        "aligned_floor": aligned_floor,
        "aligned_gain": 1 - aligned / aligned_floor if aligned is not None and aligned_floor else None,
        "subjects": run.labels("subject"),
    }


def _tile(metric: str, run: RunResults, floors: dict[str, RunResults]) -> dict[str, Any]:
    entry = run.get(metric)
    values = {kind: results.value(metric) for kind, results in floors.items()}
    return {
        "metric": metric,
        "title": METRIC_TITLES[metric],
        "unit": ALL_METRICS[metric].unit,
        "meaning": ALL_METRICS[metric].meaning,
        "value": entry.value if entry else None,
        "entry": entry,
        "floors": {kind: value for kind, value in values.items() if value is not None},
    }


def _comparison(run: RunResults, floors: dict[str, RunResults]) -> list[dict[str, Any]]:
    rows = []
    for metric in COMPARED:
        entry = run.get(metric)
        if entry is not None:
            values = {kind: results.value(metric) for kind, results in floors.items()}
            best = min if ALL_METRICS[metric].better == "lower" else max
            known = [value for value in (entry.value, *values.values()) if value is not None]
            rows.append(
                {
                    "metric": metric,
                    "title": METRIC_TITLES[metric],
                    "unit": ALL_METRICS[metric].unit,
                    "better": ALL_METRICS[metric].better,
                    "entry": entry,
                    "floors": values,
                    "best": best(known),
                }
            )
    return rows


def _charts(run: RunResults, floors: dict[str, RunResults]) -> dict[str, Figure]:
    series = figures.with_floors(run, floors)
    return {
        "pck": figures.pck_curve(series, target_distance_mm()),
        "histogram": figures.error_histogram(series),
        "joints": figures.joint_bars(run),
        "occlusion": figures.occlusion_scatter(run),
    }


def _strata(run: RunResults) -> list[dict[str, Any]]:
    tables: list[dict[str, Any]] = []
    for column, title in STRATA:
        rows = [
            {
                "label": label,
                "entry": run.get("mpjpe_mm", f"{column}={label}"),
                "aligned": run.value("pa_mpjpe_mm", f"{column}={label}"),
                "pck": run.value("pck_3d_15mm", f"{column}={label}"),
                "pixels": run.value("mpjpe_crop_px", f"{column}={label}"),
            }
            for label in run.labels(column)
        ]
        rows = [row for row in rows if row["entry"] is not None]
        if len(rows) > 1 or (rows and column == "subject"):
            tables.append({"column": column, "title": title, "rows": rows})
    entries: list[Entry] = [row["entry"] for table in tables for row in table["rows"]]
    top = max((entry.high or entry.value or 0.0 for entry in entries), default=0.0) or 1.0
    for table in tables:
        for row in table["rows"]:
            ends = {"value": row["entry"].value, "low": row["entry"].low, "high": row["entry"].high}
            row["bar"] = {name: round(100 * (value or 0.0) / top, 2) for name, value in ends.items()}
    return tables


def _visibility(run: RunResults) -> list[tuple[str, Entry]]:
    """Errors of single joints that are seen and that are hidden."""
    entries = {
        "seen": run.get("mpjpe_mm", "visible=true", "joint"),
        "hidden": run.get("mpjpe_mm", "visible=false", "joint"),
    }
    return [(label, entry) for label, entry in entries.items() if entry is not None]


def _with_images(folder: Path, gallery: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**item, "uri": data_uri((folder / item["picture"]).read_bytes())} for item in gallery["items"]]
