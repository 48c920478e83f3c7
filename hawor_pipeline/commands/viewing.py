"""Commands that show the results of a run: report, show, video."""

import argparse
import sys
from pathlib import Path

from hawor_pipeline.commands.options import command, hand_models_option, metrics_option, option, options, shards_option
from hawor_pipeline.commands.printing import print_report
from hawor_pipeline.errors import ConfigError
from hawor_pipeline.paths import DataPaths

# The options that name inputs; the project's own folders by default.
_places = options(
    option("--run", dest="run_id", metavar="RUN_ID", help="default: the run evaluated last"),
    metrics_option(),
    shards_option(required=False),
    hand_models_option(),
)


@command("report", "write the report of a run and print its path and main numbers")
@option("--run", dest="run_dir", type=Path, required=True, metavar="DIR", help="folder of the run below data/runs")
@option("--against", metavar="RUN", help="write a comparison with this run (folder or run_id) instead")
@metrics_option()
@shards_option(required=False)
@hand_models_option()
@option("--output", type=Path, metavar="DIR", help="folder for the report (default: data/reports)")
@option("--data-card-dir", type=Path, metavar="DIR", help="folder of data_card.md (default: data/metadata)")
def _report(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.reporting.build_report import build_report
    from hawor_pipeline.reporting.results import RunResults

    paths = DataPaths.default()
    metrics, output = arguments.metrics or paths.metrics, arguments.output or paths.reports
    if arguments.against is not None:
        return _report_comparison(arguments, metrics, output)
    card = arguments.data_card_dir or paths.metadata(RunResults(metrics, arguments.run_dir.name).identity.source)
    metadata = card if (card / "data_card.md").is_file() else None
    print_report(
        build_report(arguments.run_dir, metrics, output, metadata_dir=metadata, registry_dir=paths.registry).path
    )
    return 0


def _report_comparison(arguments: argparse.Namespace, metrics: Path, output: Path) -> int:
    from hawor_pipeline.evaluation.compare import compare_runs
    from hawor_pipeline.evaluation.tables import read_table
    from hawor_pipeline.inspection.gallery import pair_images
    from hawor_pipeline.locate import find_shards
    from hawor_pipeline.reporting.side_by_side import build_comparison

    run, other = arguments.run_dir.name, Path(arguments.against).name
    compare_runs(metrics, run, other, ["mpjpe_mm"])  # refuse runs that cannot be compared before drawing
    sample = read_table(metrics, "samples", run, ["sample_id"])["sample_id"][0].as_py()
    images = []
    try:
        shards = find_shards(arguments.data, sample)
        images = pair_images(shards, arguments.mano_dir, metrics, run, other)
    except ConfigError as error:
        if arguments.data is not None or arguments.mano_dir is not None:
            raise
        print(f"without images: {error}", file=sys.stderr)
    result = build_comparison(run, other, metrics, output, runs_dir=arguments.run_dir.parent, images=images)
    for item in result.info["differences"][:3]:
        if item["difference"] is not None:
            interval = "" if item["ci_low"] is None else f" (95 % {item['ci_low']:+.3g} .. {item['ci_high']:+.3g})"
            print(f"{item['metric']:14} {item['value']:7.2f} against {item['other']:7.2f}{interval}")
    print(f"Report: {result.path}")
    return 0


@command("show", "write a page about one sample: image, true and predicted mesh, errors")
@option("sample_id", metavar="SAMPLE_ID", help="such as s05/box_grab_01/0/00012/right")
@_places
@option("--output", type=Path, metavar="FILE", help="the page (default: in data/reports)")
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
        print("No run has predicted this sample; the page shows the ground truth.")
    else:
        errors = {name: view.run.metrics[name] for name in ("mpjpe_mm", "pa_mpjpe_mm")}
        shown = ", ".join(f"{name} {'-' if value is None else format(value, '.1f')}" for name, value in errors.items())
        print(f"{view.run.run_id}: {shown}")
    print(f"Page: {page}")
    return 0


@command("video", "draw predicted meshes over one recording, as MP4 and for rerun")
@option("sequence", metavar="SUBJECT/SEQUENCE", help="such as s05/box_grab_01")
@option("--view", type=int, default=1, metavar="V", help="camera: 0 egocentric, 1 to 8 static (default: 1)")
@_places
@option("--crops", action="store_true", help="show the crops of the hands instead of raw frames")
@option("--arctic-root", type=Path, metavar="DIR", help="raw data (default: those of the shards)")
@option("--height", type=int, default=720, metavar="PX", help="largest height of the video (default: 720)")
@option("--truth", action="store_true", help="also draw the skeletons of the ground truth")
@option("--align-wrists", action="store_true", help="move predicted wrists to the true ones")
@option("--rerun", type=Path, metavar="FILE.rrd", help="also write meshes and cameras for the rerun viewer")
@option("--output", type=Path, metavar="FILE", help="the video (default: in data/reports)")
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
