"""The report of one run."""

from typing import Any

import dagster as dg

from hawor_pipeline.orchestration.checks import checked
from hawor_pipeline.orchestration.failures import user_errors
from hawor_pipeline.orchestration.metadata import describe, picture
from hawor_pipeline.paths import DataPaths

_MAX_BYTES = 8_000_000


@dg.asset(
    group_name="results",
    kinds={"html", "plotly"},
    owners=["team:hand-mesh"],
    deps=["quality_stats", "baseline_metrics"],
    io_manager_key="json_io_manager",
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
def final_report(evaluation_metrics: dict[str, Any]) -> dg.MaterializeResult:
    """The report: performance against targets and floors, curves, strata, pictures, data card, provenance."""
    from hawor_pipeline.reporting.report import external_requests, report_for_run

    with user_errors():
        result = report_for_run(DataPaths.default().runs / evaluation_metrics["run_id"], DataPaths.default())
    html = result.path / "report.html"
    requests = external_requests(html)
    size = html.stat().st_size
    more = {"gallery": picture(sheet)} if (sheet := result.path / "gallery.jpg").is_file() else {}
    return dg.MaterializeResult(
        value={"path": str(result.path), "run_id": evaluation_metrics["run_id"]},
        data_version=dg.DataVersion(result.key),
        metadata=describe(result, report=dg.MetadataValue.url(html.as_uri()), size_bytes=size, **more),
        check_results=[
            checked(
                "report_is_self_contained",
                size <= _MAX_BYTES and not requests,
                size_bytes=size,
                external_requests=requests,
            ),
        ],
    )
