"""Commands that look at results: report."""

import argparse
import sys
from pathlib import Path

from hawor_pipeline.commands.printing import print_report
from hawor_pipeline.errors import ConfigError
from hawor_pipeline.paths import DataPaths


def add(commands) -> None:
    """Add the commands of this module."""
    for each in (_add_report,):
        each(commands)


def _add_report(commands) -> None:
    parser = commands.add_parser("report", help="write the report of a run and print its path and main numbers")
    parser.add_argument("--run", dest="run_dir", type=Path, required=True, help="the run's folder under data/runs")
    parser.add_argument("--against", metavar="RUN", help="compare with this run instead: its folder or run_id")
    parser.add_argument("--metrics", type=Path, help="metrics directory (default: the project's)")
    parser.add_argument("--data", help="shards for the pictures of a comparison (default: the project's)")
    parser.add_argument("--mano-dir", type=Path, help="hand models for them (default: $MANO_DIR, or the sample's)")
    parser.add_argument("--output", type=Path, help="where the report goes (default: the project's)")
    parser.add_argument("--data-card-dir", type=Path, help="folder of data_card.md (default: the project's, if there)")
    parser.set_defaults(execute=_report)


def _report(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.reporting.build_report import build_report
    from hawor_pipeline.reporting.results import RunResults

    paths = DataPaths.default()
    metrics, output = arguments.metrics or paths.metrics, arguments.output or paths.reports
    if arguments.against is not None:
        return _compare(arguments, metrics, output)
    card = arguments.data_card_dir or paths.metadata(RunResults(metrics, arguments.run_dir.name).source)
    metadata = card if (card / "data_card.md").is_file() else None
    print_report(
        build_report(arguments.run_dir, metrics, output, metadata_dir=metadata, registry_dir=paths.registry).path
    )
    return 0


def _compare(arguments: argparse.Namespace, metrics: Path, output: Path) -> int:
    from hawor_pipeline.evaluation.compare import compare_runs
    from hawor_pipeline.evaluation.tables import read_table
    from hawor_pipeline.inspection.gallery import pair_images
    from hawor_pipeline.locate import find_shards
    from hawor_pipeline.reporting.side_by_side import build_comparison

    run, other = arguments.run_dir.name, Path(arguments.against).name
    compare_runs(metrics, run, other, ["mpjpe_mm"])  # refuse what cannot be compared before anything is drawn
    sample = read_table(metrics, "samples", run, ["sample_id"])["sample_id"][0].as_py()
    images = []
    try:
        shards = find_shards(arguments.data, sample)
        images = pair_images(shards, arguments.mano_dir, metrics, run, other)
    except ConfigError as error:
        if arguments.data is not None or arguments.mano_dir is not None:
            raise
        print(f"without pictures: {error}", file=sys.stderr)
    result = build_comparison(run, other, metrics, output, runs_dir=arguments.run_dir.parent, images=images)
    for item in result.info["differences"][:3]:
        if item["difference"] is not None:
            interval = "" if item["ci_low"] is None else f" (95 % {item['ci_low']:+.3g} .. {item['ci_high']:+.3g})"
            print(f"{item['metric']:14} {item['value']:7.2f} against {item['other']:7.2f}{interval}")
    print(f"Report: {result.path}")
    return 0
