"""Commands that look at results: evaluate, report."""

import argparse
import os
from pathlib import Path

from hawor_pipeline.commands.printing import print_report, print_result
from hawor_pipeline.paths import DataPaths


def add(commands) -> None:
    """Add the commands of this module."""
    for each in (_add_evaluate, _add_report):
        each(commands)


def _add_evaluate(commands) -> None:
    parser = commands.add_parser("evaluate", help="evaluate a checkpoint on shards and write the metric tables")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", required=True, help="a shards directory, or the URL of a published one")
    parser.add_argument("--output", type=Path, required=True, help="a metrics directory")
    parser.add_argument("--subjects", nargs="+", metavar="s05", help="default: the validation subjects of the protocol")
    parser.add_argument("--mano-dir", type=Path)
    parser.add_argument("--protocol", default="arctic-all-val", metavar="NAME")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--run-id", metavar="NAME", help="of the tables; default: the name of the run's folder")
    parser.set_defaults(execute=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.core.mano import find_mano
    from hawor_pipeline.data.shards import shards_version
    from hawor_pipeline.data.splits import VALIDATION_SUBJECTS
    from hawor_pipeline.evaluation.evaluate import evaluate_checkpoint
    from hawor_pipeline.remote import local_copy

    mano = arguments.mano_dir or os.environ.get("MANO_DIR") or DataPaths.default().sample / "body_models" / "mano"
    find_mano(mano, "right")
    shards = local_copy(arguments.data)
    run = arguments.checkpoint.resolve().parent.parent
    curves = run / "training.parquet"
    result = evaluate_checkpoint(
        arguments.checkpoint,
        shards,
        mano,
        arguments.output,
        run_id=arguments.run_id or (run.name if curves.is_file() else f"checkpoint-{arguments.checkpoint.stem}"),
        dataset_version=shards_version(shards),
        subjects=arguments.subjects or list(VALIDATION_SUBJECTS),
        protocol=arguments.protocol,
        device=arguments.device,
        training_table=curves if curves.is_file() else None,
    )
    print_result(result)
    for name, value in result.info["metrics"].items():
        print(f"  {name}: {'not available' if value is None else format(value, '.4g')}")
    return 0


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
