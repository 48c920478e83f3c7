"""The report of one run: a self-contained page, its Markdown, and its numbers as JSON.

Lays out the results of evaluation. Every number comes from a table, a configuration or the hash of a file.
"""

import hashlib
from dataclasses import asdict
from pathlib import Path

from hawor_pipeline.errors import ConfigError
from hawor_pipeline.evaluation.declared_metrics import ALL_METRICS
from hawor_pipeline.evaluation.targets import judge, target_distance_mm
from hawor_pipeline.provenance import StageResult, find_done, hash_json, mark_done, staging_dir
from hawor_pipeline.reporting import figures, sections
from hawor_pipeline.reporting.comparison import (
    PUBLISHED,
    decision,
    paired_differences,
    robustness_charts,
    with_champion,
)
from hawor_pipeline.reporting.findings import Evidence, find
from hawor_pipeline.reporting.pages import HTML, Context, data_uri, render_report, to_html
from hawor_pipeline.reporting.results import (
    BASELINE_KINDS,
    RunResults,
    find_baselines,
    read_gallery,
    read_training,
    read_training_result,
)
from hawor_pipeline.reporting.shapes import hand_drawing, turnable_mesh
from hawor_pipeline.reporting.style import Figure
from hawor_pipeline.reporting.training_curves import training_charts
from hawor_pipeline.sources.arctic import SYNTHETIC

HEADLINES = ("mpjpe_mm", "pa_mpjpe_mm", "pck_3d_15mm", "mpjpe_crop_px")


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
        metrics_dir: metric tables; the run's summary must exist, baselines are found by dataset version.
        reports_dir: parent of the report's folder.
        run_id: of the metric tables; None: the name of `run_dir`.
        metadata_dir: folder of the data card; None: no data card.
        registry_dir: registry of champions; None: no comparison with the champion.

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
    baselines = with_champion(find_baselines(metrics_dir, run), run, registry)
    card = Path(metadata_dir) / "data_card.md" if metadata_dir else None
    context = collect(run, baselines, run_dir, card)
    context["decision"] = decision(run, registry)
    return write_pages(render_report(context), Path(reports_dir) / run.run_id, _info(context))


def write_pages(files: dict[str, bytes], final: Path, info: Context) -> StageResult:
    """Write rendered files, unless exactly these exist: the files themselves are the key, not their inputs."""
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


def _info(context: Context) -> Context:
    return {
        "run_id": context["run_id"],
        "source": context["source"],
        "metrics": {tile.metric: tile.value for tile in context["tiles"]},
        "targets": context["targets"],
        "floors": {metric: values for metric, values in context["floors"].items() if metric in HEADLINES},
        "rivals": {metric: values for metric, values in context["rivals"].items() if metric in HEADLINES},
        "findings": len(context["findings"]),
    }


def collect(run: RunResults, baselines: dict[str, RunResults], run_dir: Path, card: Path | None) -> Context:
    """Collect everything that the page shows."""
    curves = read_training(run.metrics_dir, run.run_id, run_dir)
    training, robustness = training_charts(curves), robustness_charts(run)
    folder, gallery = read_gallery(run.metrics_dir, run.run_id)
    overall, comparison, paired = run.overall(), sections.comparison_rows(run, baselines), paired_differences(run)
    charts = {
        **_charts(run, baselines),
        **{f"training{number}": chart.figure for number, chart in enumerate(training)},
        **{f"robustness{number}": chart.figure for number, chart in enumerate(robustness)},
        **({"mesh": turnable_mesh(gallery["meshes"], gallery["faces"])} if gallery["meshes"] else {}),
    }
    config = run_dir / "config.yaml"
    return {
        **asdict(run.identity),
        "synthetic": run.identity.source == SYNTHETIC,
        "headline": sections.headline(run, baselines, paired),
        "tiles": [sections.metric_row(metric, run, baselines) for metric in HEADLINES],
        "targets": judge(
            {metric: e.value for metric, e in overall.items() if e.value is not None}, run.identity.source
        ),
        "findings": find(Evidence(run, baselines, curves)),
        "kinds": list(baselines),
        "comparison": comparison,
        "floors": sections.values_of(comparison, [kind for kind in baselines if kind in BASELINE_KINDS]),
        "rivals": sections.values_of(comparison, [kind for kind in baselines if kind not in BASELINE_KINDS]),
        "training": training,
        "robustness": robustness,
        "paired": paired,
        "figures": charts,
        "hand": hand_drawing(run.joint_means_mm()),
        "with_intervals": any(entry.low is not None for entry in overall.values()),
        "visibility": sections.visibility(run),
        "strata": sections.strata(run),
        "gallery": [{**item, "uri": data_uri((folder / item["picture"]).read_bytes())} for item in gallery["items"]],
        "meshes": gallery["meshes"],
        "published": PUBLISHED,
        "metrics": {name: (entry, ALL_METRICS[name]) for name, entry in overall.items()},
        "evaluated": sections.evaluated(run),
        "trained": read_training_result(run_dir),
        "also_chosen_on": sections.also_chosen_on(run, run_dir),
        "data_card": to_html(card.read_text()) if card and card.is_file() else "",
        "config": config.read_text() if config.is_file() else "",
        "provenance": sections.provenance(run, config),
    }


def _charts(run: RunResults, baselines: dict[str, RunResults]) -> dict[str, Figure]:
    series = figures.with_baselines(run, baselines)
    return {
        "pck": figures.pck_curve(series, target_distance_mm()),
        "histogram": figures.error_histogram(series),
        "joints": figures.joint_bars(run),
        "occlusion": figures.occlusion_scatter(run),
    }
