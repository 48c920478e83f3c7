"""Commands that show what a run did: show, video."""

import argparse
from pathlib import Path

from hawor_pipeline.paths import DataPaths


def add(commands) -> None:
    """Add the commands of this module."""
    for each in (_add_show, _add_video):
        each(commands)


def _add_places(parser) -> None:
    """Options that say where things are; the project's own folders by default."""
    parser.add_argument("--run", dest="run_id", metavar="RUN_ID", help="default: the run evaluated last")
    parser.add_argument("--metrics", type=Path, help="metrics directory (default: the project's)")
    parser.add_argument("--data", help="a shards directory (default: the one of the project that has it)")
    parser.add_argument("--mano-dir", type=Path, help="default: $MANO_DIR, or the built-in sample's for its own hands")


def _add_show(commands) -> None:
    parser = commands.add_parser("show", help="one page about one sample: picture, true and predicted mesh, errors")
    parser.add_argument("sample_id", metavar="SAMPLE_ID", help="as in every table: s05/box_grab_01/0/00012/right")
    _add_places(parser)
    parser.add_argument("--output", type=Path, help="the page (default: in the project's reports)")
    parser.set_defaults(execute=_show)


def _show(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.inspection.sample_view import look_at_sample
    from hawor_pipeline.locate import find_shards
    from hawor_pipeline.reporting.sample_page import write_sample_page

    paths = DataPaths.default()
    shards = find_shards(arguments.data, arguments.sample_id)
    view = look_at_sample(
        arguments.sample_id,
        shards,
        arguments.mano_dir,
        arguments.metrics or paths.metrics,
        arguments.run_id,
    )
    page = write_sample_page(view, arguments.output or paths.sample_page(arguments.sample_id))
    if view.run is None:
        print("No run has predicted this sample; the page shows the truth.")
    else:
        errors = {name: view.run.metrics[name] for name in ("mpjpe_mm", "pa_mpjpe_mm")}
        said = ", ".join(f"{name} {'-' if value is None else format(value, '.1f')}" for name, value in errors.items())
        print(f"{view.run.run_id}: {said}")
    print(f"Page: {page}")
    return 0


def _add_video(commands) -> None:
    parser = commands.add_parser("video", help="predicted meshes over one recording, as MP4 or for the rerun viewer")
    parser.add_argument("sequence", metavar="SUBJECT/SEQUENCE", help="such as s05/box_grab_01")
    parser.add_argument("--view", type=int, default=1, help="camera: 0 on the head, 1 to 8 in the room (default 1)")
    _add_places(parser)
    parser.add_argument("--crops", action="store_true", help="show the hands' crops; needs no raw pictures")
    parser.add_argument("--arctic-root", type=Path, help="raw pictures; default: $ARCTIC_ROOT, or the built-in sample")
    parser.add_argument("--height", type=int, default=720, metavar="PX", help="of the film, at most (default 720)")
    parser.add_argument("--truth", action="store_true", help="draw the true skeletons, too")
    parser.add_argument("--align-wrists", action="store_true", help="put predicted wrists on the true ones")
    parser.add_argument("--rerun", type=Path, metavar="FILE.rrd", help="also write meshes and cameras for rerun")
    parser.add_argument("--output", type=Path, help="the film (default: in the project's reports)")
    parser.set_defaults(execute=_video)


def _video(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.inspection.video import VideoSettings, write_video
    from hawor_pipeline.locate import find_raw_root_of, find_shards

    paths = DataPaths.default()
    shards = find_shards(arguments.data, arguments.sequence)
    video = write_video(
        arguments.sequence,
        arguments.view,
        shards,
        arguments.mano_dir,
        arguments.metrics or paths.metrics,
        arguments.output or paths.video(arguments.sequence, arguments.view),
        run_id=arguments.run_id,
        settings=VideoSettings(
            raw_root=None if arguments.crops else find_raw_root_of(shards, arguments.arctic_root).path,
            height_px=arguments.height,
            with_truth=arguments.truth,
            align_wrists=arguments.align_wrists,
            rerun_path=arguments.rerun,
        ),
    )
    print(f"{video.frames} frames, {video.width_px} x {video.height_px} px, {video.seconds:.1f} s of {video.run_id}")
    print(f"Video: {video.path}")
    if arguments.rerun:
        print(f"For the rerun viewer: {arguments.rerun}")
    return 0
