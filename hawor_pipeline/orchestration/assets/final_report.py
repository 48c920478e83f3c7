"""The report of one run."""

import dagster as dg

from hawor_pipeline.orchestration.checks import checked, external_requests
from hawor_pipeline.orchestration.companions import ReportServer
from hawor_pipeline.orchestration.materialization import log_and_publish, stage_metadata
from hawor_pipeline.orchestration.resources import Handoff
from hawor_pipeline.orchestration.stage_asset import PASSES_VALUE, stage_asset
from hawor_pipeline.paths import DataPaths
from hawor_pipeline.versions import REPORT_VERSION

_MAX_BYTES = 8_000_000


@stage_asset(
    REPORT_VERSION,
    kinds={"html", "plotly"},
    deps=["quality_stats", "baseline_metrics"],
    blocking={"report_is_self_contained": "The HTML file is at most 8 MB and requests nothing from the network."},
    **PASSES_VALUE,
)
def final_report(
    context: dg.AssetExecutionContext, evaluation_metrics: Handoff, reports: ReportServer
) -> dg.MaterializeResult:
    """The report: performance against targets and baselines, curves, strata, images, data card, provenance.

    One self-contained HTML file, with Markdown and JSON beside it. The link `report` opens it while the web UI runs.
    """
    from hawor_pipeline.reporting.build_report import build_report

    paths, run_id = DataPaths.default(), evaluation_metrics["run_id"]
    card, registry = paths.metadata(evaluation_metrics["source"]), paths.registry
    result = build_report(paths.runs / run_id, paths.metrics, paths.reports, metadata_dir=card, registry_dir=registry)
    log_and_publish(context.log, "final_report", result)
    requests, size = external_requests(result.path.read_text()), result.path.stat().st_size
    passed = size <= _MAX_BYTES and not requests
    return dg.MaterializeResult(
        value={"path": str(result.path), "run_id": run_id},
        data_version=dg.DataVersion(result.key),
        metadata=stage_metadata(result, report=reports.link(result.path), size_bytes=size),
        check_results=[
            checked("report_is_self_contained", passed, size_bytes=size, external_requests=requests),
        ],
    )
