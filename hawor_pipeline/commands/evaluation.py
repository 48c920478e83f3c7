"""Commands that measure runs: evaluate, compare."""

import argparse
from pathlib import Path

from hawor_pipeline.commands.options import (
    box_rule_option,
    command,
    device_option,
    hand_models_option,
    metrics_option,
    option,
    shards_option,
)
from hawor_pipeline.commands.printing import print_result
from hawor_pipeline.paths import DataPaths


@command("evaluate", "evaluate a checkpoint on shards and write the metric tables")
@option("--checkpoint", type=Path, required=True, metavar="FILE", help="checkpoint to evaluate")
@shards_option(required=True)
@option("--output", type=Path, required=True, metavar="DIR", help="folder for the metric tables")
@option("--subjects", nargs="+", metavar="s05", help="default: ARCTIC's validation subject; others' test set")
@hand_models_option()
@option("--protocol", default="arctic-all-val", metavar="NAME", help="default: arctic-all-val")
@device_option
@option("--devices", type=int, default=1, metavar="N", help="number of devices that share the work (default: 1)")
@option("--num-workers", type=int, default=0, metavar="N", help="decoding processes per device (default: 0)")
@option("--run-id", metavar="NAME", help="run_id of the tables (default: the name of the run's folder)")
@box_rule_option()
@option("--robustness", type=int, default=0, metavar="N", help="write the robustness table from about N samples")
def _evaluate(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.evaluation.evaluate import evaluate_checkpoint
    from hawor_pipeline.evaluation.protocols import default_subjects, find_protocol
    from hawor_pipeline.evaluation.setting import Devices, Setting
    from hawor_pipeline.inspection.gallery import ensure_gallery
    from hawor_pipeline.locate import hand_models_of
    from hawor_pipeline.models.checkpoints import open_checkpoint
    from hawor_pipeline.remote import local_copy
    from hawor_pipeline.shards.store import shards_version

    protocol = find_protocol(arguments.protocol)
    shards = local_copy(arguments.data)
    run = arguments.checkpoint.resolve().parent.parent
    curves = run / "training.parquet"
    setting = Setting.of(
        shards,
        hand_models_of(shards, arguments.mano_dir),
        arguments.output,
        shards_version(shards),
        arguments.subjects or default_subjects(protocol, shards),
        protocol.name,
    )
    run_id = arguments.run_id or (run.name if curves.is_file() else f"checkpoint-{arguments.checkpoint.stem}")
    result = evaluate_checkpoint(
        open_checkpoint(arguments.checkpoint, box_rule=arguments.box_rule),
        setting,
        run_id,
        devices=Devices(arguments.device, arguments.devices, arguments.num_workers),
        training_table=curves if curves.is_file() else None,
        robustness_samples=arguments.robustness,
    )
    ensure_gallery(setting, run_id)
    print_result(result)
    metrics = result.info["metrics"]
    others = [name for name in metrics if name not in protocol.headlines]
    for title, names in ((f"headlines of {protocol.name}", protocol.headlines), ("other metrics", others)):
        print(f"{title}:")
        for name in names:
            value = metrics.get(name)
            print(f"  {name}: {'not available' if value is None else format(value, '.4g')}")
    return 0


@command("compare", "compare two runs sample by sample, with confidence intervals")
@option("run_id", metavar="RUN_ID")
@option("other_run_id", metavar="OTHER_RUN_ID")
@metrics_option("--metrics-dir")
@option("--metrics", nargs="+", metavar="mpjpe_mm", help="metrics to compare (default: all of the samples table)")
def _compare(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.evaluation.compare import compare_runs
    from hawor_pipeline.evaluation.gate import describe

    metrics_dir = arguments.metrics_dir or DataPaths.default().metrics
    differences = compare_runs(metrics_dir, arguments.run_id, arguments.other_run_id, arguments.metrics)
    print(f"{arguments.run_id} against {arguments.other_run_id}; better or worse: zero is outside the interval")
    for item in differences:
        mark = "worse" if item.worse else "better" if item.improved else ""
        print(f"{mark:8}{describe(item) if item.difference is not None else f'{item.metric}: {item.note}'}")
    return 0
