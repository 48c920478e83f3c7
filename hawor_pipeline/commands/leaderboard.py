"""Command `export-leaderboard`: an upload for ARCTIC's evaluation server, and the check of one."""

import argparse
from pathlib import Path

from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.paths import DataPaths


def add(commands) -> None:
    """Add the command of this module."""
    parser = commands.add_parser(
        "export-leaderboard", help="write and check an upload for ARCTIC's leaderboard (hands only)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.zip")
    parser.add_argument("--check", type=Path, metavar="FILE.zip", help="only check this upload")
    parser.add_argument("--task", default="pose_p1", metavar="NAME", help="pose_p1 (static views) or pose_p2 (ego)")
    parser.add_argument("--split", default="test", metavar="NAME", help="test, or val to try the way there")
    parser.add_argument("--run", dest="run_id", metavar="RUN_ID", help="upload the stored predictions of this run")
    parser.add_argument("--checkpoint", type=Path, help="run this network on the pictures; needs --boxes")
    parser.add_argument("--boxes", type=Path, metavar="FILE.csv", help="hand boxes: image,side,x_min,y_min,x_max,y_max")
    parser.add_argument("--arctic-root", type=Path, help="default: $ARCTIC_ROOT, or the built-in sample")
    parser.add_argument("--mano-dir", type=Path, help="default: $MANO_DIR, or that of the built-in sample")
    parser.add_argument("--ego-camera", type=Path, metavar="FILE.npy", help="an .egocam.dist.npy, for pose_p2")
    parser.add_argument("--metrics", type=Path, help="metrics directory (default: the project's)")
    parser.add_argument("--missing", choices=("refuse", "hold"), default="refuse", help="hands without a prediction")
    parser.add_argument("--device", default="auto")
    parser.set_defaults(execute=_export)


def _export(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.leaderboard.submission import task_views
    from hawor_pipeline.leaderboard.submission_check import check_upload
    from hawor_pipeline.leaderboard.submission_sources import expectation
    from hawor_pipeline.locate import find_raw_root

    if arguments.check is not None:
        return _report(arguments.check, check_upload(arguments.check))
    if arguments.output is None:
        raise ConfigError("where to? Give --output FILE.zip, or --check FILE.zip to check an upload.")
    if (arguments.run_id is None) == (arguments.checkpoint is None):
        raise ConfigError("whose predictions? Give --run RUN_ID, or --checkpoint PATH with --boxes FILE.csv.")
    views, root = task_views(arguments.task), find_raw_root(arguments.arctic_root)
    expected = expectation(root, arguments.task, arguments.split, views)
    info = _write(arguments, root, sorted(expected.sequences or ()), views)
    print(f"{info.task}: {info.views} views, {info.frames} frames of both hands, {info.held} hands held in time")
    print(f"left hands: the left model fits the prediction to {info.left_residual_mm:.2f} mm")
    print(info.object_note)
    problems = check_upload(arguments.output, expected)
    if arguments.split != "test":
        problems = [problem for problem in problems if "the server takes" not in problem]
        print(f"split {arguments.split}: for trying only, the server takes test")
    return _report(arguments.output, problems)


def _write(arguments: argparse.Namespace, root, sequences: list[str], views):
    from hawor_pipeline.leaderboard.submission import write_upload
    from hawor_pipeline.leaderboard.submission_sources import from_boxes, from_run
    from hawor_pipeline.locate import find_hand_models
    from hawor_pipeline.sources.hand_models import HandModels

    models = HandModels.load(find_hand_models(root.source, arguments.mano_dir, root.path))
    if arguments.run_id is not None:
        metrics = arguments.metrics or DataPaths.default().metrics
        predictions = from_run(metrics, arguments.run_id, sequences, views)
    else:
        from hawor_pipeline.evaluation.evaluate import clip_length_of
        from hawor_pipeline.prediction.boxes import read_boxes

        if arguments.boxes is None:
            raise ConfigError("--checkpoint needs --boxes FILE.csv: without ground truth, hands must be boxed.")
        if not arguments.checkpoint.is_file():
            raise ConfigError(f"checkpoint {arguments.checkpoint} does not exist; give the file that training wrote.")
        predictions = from_boxes(
            arguments.checkpoint,
            root,
            read_boxes(arguments.boxes),
            models,
            sequences,
            views,
            clip_length=clip_length_of(arguments.checkpoint),
            ego_camera=arguments.ego_camera,
            device=arguments.device,
        )
    hold = arguments.missing == "hold"
    return write_upload(arguments.output, arguments.task, arguments.split, predictions, models, hold_missing=hold)


def _report(path: Path, problems: list[str]) -> int:
    if problems:
        shown = "\n".join(f"  {problem}" for problem in problems[:20])
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise DataError(f"{path} would not be evaluated:\n{shown}{more}")
    print(f"Checked, complete: {path}")
    return 0
