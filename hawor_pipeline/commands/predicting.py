"""Commands that predict without ground truth: predict, export-leaderboard."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

from hawor_pipeline.commands.options import (
    box_rule_option,
    command,
    device_option,
    hand_models_option,
    metrics_option,
    option,
)
from hawor_pipeline.errors import ConfigError, DataError


@command("predict", "predict the hands in a video or image folder: table, video, meshes")
@option("--checkpoint", type=Path, required=True, metavar="FILE", help="network to apply")
@option("--input", type=Path, required=True, metavar="VIDEO|DIR", help="video file, or folder of images")
@option("--boxes", type=Path, required=True, metavar="FILE", help="CSV: image,side,x_min,y_min,x_max,y_max")
@box_rule_option()
@option("--focal", type=float, metavar="PX", help="focal length in pixels (default: the diagonal)")
@option("--output", type=Path, required=True, metavar="DIR", help="a new folder")
@hand_models_option("$MANO_DIR, else the hand of the built-in sample")
@device_option
def _predict(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.locate import hand_models_for_footage
    from hawor_pipeline.prediction.predict_footage import HANDS_FILE, MESH_DIR, VIDEO_FILE, predict_footage

    models, synthetic = hand_models_for_footage(arguments.mano_dir)
    if synthetic:
        print(f"SYNTHETIC hand model: meshes are those of the built-in sample's hand ({models})", file=sys.stderr)
    result = predict_footage(
        arguments.checkpoint,
        arguments.input,
        arguments.boxes,
        arguments.output,
        models,
        focal_px=arguments.focal,
        device=arguments.device,
        box_rule=arguments.box_rule,
    )
    if result.focal_is_assumed:
        print(
            f"No --focal given: assumed {result.focal_px:.0f} px, the image diagonal. Distances from the camera are "
            "proportional to it."
        )
    print(f"Bounding boxes: {result.box_rule}")
    print(f"{result.hands} hands in {result.frames} frames")
    for title, name in (("Table", HANDS_FILE), ("Video", VIDEO_FILE), ("Meshes", MESH_DIR)):
        print(f"{title}: {result.folder / name}")
    return 0


@command("export-leaderboard", "write and check an upload for ARCTIC's leaderboard (hands only)")
@option("--output", type=Path, metavar="FILE.zip", help="upload to write")
@option("--check", type=Path, metavar="FILE.zip", help="only check this upload")
@option("--task", default="pose_p1", metavar="NAME", help="pose_p1 (static views) or pose_p2 (ego)")
@option("--split", default="test", metavar="NAME", help="test (default), or val for a trial")
@option("--run", dest="run_id", metavar="RUN_ID", help="upload the stored predictions of this run")
@option("--checkpoint", type=Path, metavar="FILE", help="apply this network to the images; needs --boxes")
@box_rule_option()
@option("--boxes", type=Path, metavar="FILE.csv", help="hand boxes: image,side,x_min,y_min,x_max,y_max")
@option("--arctic-root", type=Path, metavar="DIR", help="default: $ARCTIC_ROOT, else the built-in sample")
@hand_models_option()
@option("--ego-camera", type=Path, metavar="FILE.npy", help="an .egocam.dist.npy, for pose_p2")
@metrics_option()
@option("--missing", choices=("refuse", "hold"), default="refuse", help="hands without a prediction")
@device_option
def _export_leaderboard(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.leaderboard.submission_check import check_upload
    from hawor_pipeline.leaderboard.submission_sources import UploadRequest, export_upload

    if arguments.check is not None:
        return _report_problems(arguments.check, check_upload(arguments.check))
    if arguments.output is None:
        raise ConfigError("no output: give --output FILE.zip, or --check FILE.zip to check an upload.")
    given = vars(arguments)
    chosen = {field.name: given[field.name] for field in fields(UploadRequest) if field.name in given}
    hold = arguments.missing == "hold"
    info, problems = export_upload(UploadRequest(**chosen, metrics_dir=arguments.metrics, hold_missing=hold))
    print(f"{info.task}: {info.views} views, {info.frames} frames of both hands, {info.held} hands held in time")
    print(f"left hands: the left model fits the prediction to {info.left_residual_mm:.2f} mm")
    print(info.object_note)
    if arguments.split != "test":
        print(f"split {arguments.split}: a trial, the server takes test")
    return _report_problems(arguments.output, problems)


def _report_problems(path: Path, problems: list[str]) -> int:
    if problems:
        shown = "\n".join(f"  {problem}" for problem in problems[:20])
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise DataError(f"{path} would not be evaluated:\n{shown}{more}")
    print(f"Checked, complete: {path}")
    return 0
