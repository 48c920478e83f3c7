"""Command `export-leaderboard`: write an upload for ARCTIC's evaluation server, or check one."""

import argparse
from pathlib import Path

from hawor_pipeline.errors import ConfigError, DataError


def add(commands) -> None:
    """Add the command of this module."""
    parser = commands.add_parser(
        "export-leaderboard", help="write and check an upload for ARCTIC's leaderboard (hands only)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.zip", help="upload to write")
    parser.add_argument("--check", type=Path, metavar="FILE.zip", help="only check this upload")
    parser.add_argument("--task", default="pose_p1", metavar="NAME", help="pose_p1 (static views) or pose_p2 (ego)")
    parser.add_argument("--split", default="test", metavar="NAME", help="test (default), or val for a trial")
    parser.add_argument("--run", dest="run_id", metavar="RUN_ID", help="upload the stored predictions of this run")
    parser.add_argument("--checkpoint", type=Path, help="apply this network to the images; needs --boxes")
    parser.add_argument("--boxes", type=Path, metavar="FILE.csv", help="hand boxes: image,side,x_min,y_min,x_max,y_max")
    parser.add_argument(
        "--arctic-root", type=Path, metavar="DIR", help="default: $ARCTIC_ROOT, else the built-in sample"
    )
    parser.add_argument("--mano-dir", type=Path, metavar="DIR", help="MANO models (default: those of the data)")
    parser.add_argument("--ego-camera", type=Path, metavar="FILE.npy", help="an .egocam.dist.npy, for pose_p2")
    parser.add_argument("--metrics", type=Path, metavar="DIR", help="metric tables (default: data/metrics)")
    parser.add_argument("--missing", choices=("refuse", "hold"), default="refuse", help="hands without a prediction")
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, ...")
    parser.set_defaults(execute=_export)


def _export(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.leaderboard.submission_check import check_upload
    from hawor_pipeline.leaderboard.submission_sources import UploadRequest, export_upload

    if arguments.check is not None:
        return _report(arguments.check, check_upload(arguments.check))
    if arguments.output is None:
        raise ConfigError("no output: give --output FILE.zip, or --check FILE.zip to check an upload.")
    names = (
        "output",
        "task",
        "split",
        "run_id",
        "checkpoint",
        "boxes",
        "arctic_root",
        "mano_dir",
        "ego_camera",
        "device",
    )
    chosen = {name: getattr(arguments, name) for name in names}
    hold = arguments.missing == "hold"
    info, problems = export_upload(UploadRequest(**chosen, metrics_dir=arguments.metrics, hold_missing=hold))
    print(f"{info.task}: {info.views} views, {info.frames} frames of both hands, {info.held} hands held in time")
    print(f"left hands: the left model fits the prediction to {info.left_residual_mm:.2f} mm")
    print(info.object_note)
    if arguments.split != "test":
        print(f"split {arguments.split}: a trial, the server takes test")
    return _report(arguments.output, problems)


def _report(path: Path, problems: list[str]) -> int:
    if problems:
        shown = "\n".join(f"  {problem}" for problem in problems[:20])
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise DataError(f"{path} would not be evaluated:\n{shown}{more}")
    print(f"Checked, complete: {path}")
    return 0
