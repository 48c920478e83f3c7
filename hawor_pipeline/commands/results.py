"""Commands that look at results: report."""

import argparse
from pathlib import Path

from hawor_pipeline.commands.printing import print_report
from hawor_pipeline.paths import DataPaths


def add(commands) -> None:
    """Add the commands of this module."""
    for each in (_add_report,):
        each(commands)


def _add_report(commands) -> None:
    parser = commands.add_parser("report", help="write the report of a run and print its path and main numbers")
    parser.add_argument("--run", dest="run_dir", type=Path, required=True, help="the run's folder under data/runs")
    parser.add_argument("--metrics", type=Path, help="metrics directory (default: the project's)")
    parser.add_argument("--output", type=Path, help="where the report goes (default: the project's)")
    parser.add_argument("--data-card-dir", type=Path, help="folder of data_card.md (default: the project's, if there)")
    parser.set_defaults(execute=_report)


def _report(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.reporting.report import build_report
    from hawor_pipeline.reporting.results import RunResults

    paths = DataPaths.default()
    metrics, output = arguments.metrics or paths.metrics, arguments.output or paths.reports
    card = arguments.data_card_dir or paths.metadata(RunResults(metrics, arguments.run_dir.name).source)
    metadata = card if (card / "data_card.md").is_file() else None
    print_report(build_report(arguments.run_dir, metrics, output, metadata_dir=metadata).path)
    return 0
