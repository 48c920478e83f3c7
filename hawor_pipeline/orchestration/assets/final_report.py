"""The report of one run."""

from typing import Any

import dagster as dg

from hawor_pipeline.orchestration.checks import checked, external_requests
from hawor_pipeline.orchestration.companions import ReportServer
from hawor_pipeline.orchestration.failures import RETRY_POLICY, clear_failures
from hawor_pipeline.orchestration.materialization import announce, describe
from hawor_pipeline.paths import DataPaths

_MAX_BYTES = 8_000_000


@dg.asset(
    group_name="hand_mesh",
    kinds={"html", "plotly"},
    owners=["team:hand-mesh"],
    deps=["quality_stats", "baseline_metrics"],
    io_manager_key="json_io_manager",
    dagster_type=dg.Any,
    retry_policy=RETRY_POLICY,
    code_version="1",
    check_specs=[
        dg.AssetCheckSpec(
            "report_is_self_contained",
            asset="final_report",
            blocking=True,
            description="The HTML file is at most 8 MB and asks nothing of the network.",
        )
    ],
)
@clear_failures
def final_report(
    context: dg.AssetExecutionContext, evaluation_metrics: dict[str, Any], reports: ReportServer
) -> dg.MaterializeResult:
    """The report: performance against targets and floors, curves, strata, pictures, data card, provenance.

    One self-contained HTML file, with Markdown and JSON beside it. The link `report` opens it while the web UI runs.
    """
    from hawor_pipeline.reporting.build_report import build_report

    paths, run_id = DataPaths.default(), evaluation_metrics["run_id"]
    result = build_report(
        paths.runs / run_id,
        paths.metrics,
        paths.reports,
        metadata_dir=paths.metadata(evaluation_metrics["source"]),
        registry_dir=paths.registry,
    )
    announce(context.log, "final_report", result)
    requests, size = external_requests(result.path.read_text()), result.path.stat().st_size
    return dg.MaterializeResult(
        value={"path": str(result.path), "run_id": run_id},
        data_version=dg.DataVersion(result.key),
        metadata=describe(result, report=reports.link(result.path), size_bytes=size),
        check_results=[
            checked(
                "report_is_self_contained",
                size <= _MAX_BYTES and not requests,
                size_bytes=size,
                external_requests=requests,
            ),
        ],
    )
