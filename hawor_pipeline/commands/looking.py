"""Commands that show what a run did: show, video."""

import argparse
import os
from pathlib import Path

from hawor_pipeline.errors import ConfigError
from hawor_pipeline.paths import DataPaths

_SOURCES = ("synthetic", "arctic")


def add(commands) -> None:
    """Add the commands of this module."""
    for each in (_add_show, _add_video):
        each(commands)


def _add_places(parser) -> None:
    """Options that say where things are; the project's own folders by default."""
    parser.add_argument("--run", dest="run_id", metavar="RUN_ID", help="default: the run evaluated last")
    parser.add_argument("--metrics", type=Path, help="metrics directory (default: the project's)")
    parser.add_argument("--data", type=Path, help="a shards directory (default: the one of the project that has it)")
    parser.add_argument("--mano-dir", type=Path, help="default: $MANO_DIR, or the built-in sample's for its own hands")


def _add_show(commands) -> None:
    parser = commands.add_parser("show", help="one page about one sample: picture, true and predicted mesh, errors")
    parser.add_argument("sample_id", metavar="SAMPLE_ID", help="as in every table: s05/box_grab_01/0/00012/right")
    _add_places(parser)
    parser.add_argument("--output", type=Path, help="the page (default: in the project's reports)")
    parser.set_defaults(execute=_show)


def _show(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.evaluation.sample_view import look_at_sample
    from hawor_pipeline.reporting.sample_page import write_sample_page

    paths = DataPaths.default()
    shards = _find_shards(arguments.data, arguments.sample_id)
    view = look_at_sample(
        arguments.sample_id,
        shards,
        _find_mano(arguments.mano_dir, shards),
        arguments.metrics or paths.metrics,
        arguments.run_id,
    )
    page = write_sample_page(view, arguments.output or paths.sample_page(arguments.sample_id))
    if view.run is None:
        print("No run has predicted this sample; the page shows the truth.")
    else:
        errors = ", ".join(f"{name} {view.run.metrics[name]:.1f}" for name in ("mpjpe_mm", "pa_mpjpe_mm"))
        print(f"{view.run.run_id}: {errors}")
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
    from hawor_pipeline.evaluation.film import FilmSettings, film_sequence

    paths = DataPaths.default()
    shards = _find_shards(arguments.data, arguments.sequence)
    film = film_sequence(
        arguments.sequence,
        arguments.view,
        shards,
        _find_mano(arguments.mano_dir, shards),
        arguments.metrics or paths.metrics,
        arguments.output or paths.film(arguments.sequence, arguments.view),
        run_id=arguments.run_id,
        settings=FilmSettings(
            raw_root=None if arguments.crops else _raw_root(arguments.arctic_root, shards),
            height_px=arguments.height,
            with_truth=arguments.truth,
            align_wrists=arguments.align_wrists,
            rerun_path=arguments.rerun,
        ),
    )
    print(f"{film.frames} frames, {film.width_px} x {film.height_px} px, {film.seconds:.1f} s of {film.run_id}")
    print(f"Film: {film.path}")
    if arguments.rerun:
        print(f"For the rerun viewer: {arguments.rerun}")
    return 0


def _find_shards(given: Path | None, name: str) -> Path:
    """The shards that hold a sample or recording: as given, else the project's own that have its subject."""
    if given is not None:
        return given
    places = [DataPaths.default().shards(source) for source in _SOURCES]
    subject = name.split("/", 1)[0]
    found = [place for place in places if (place / subject / "manifest.json").is_file()]
    if len(found) == 1:
        return found[0]
    where = ", ".join(map(str, found or places))
    what = "more than one set of shards has" if found else "no shards have"
    raise ConfigError(f"{what} subject {subject!r}; looked in {where}. Say which with --data DIR.")


def _is_synthetic(shards: Path) -> bool:
    from hawor_pipeline.data.shards import read_manifest
    from hawor_pipeline.evaluation.recordings import converted_subjects

    manifests = (read_manifest(shards, subject) or {} for subject in converted_subjects(shards))
    return any(manifest.get("source") == "synthetic" for manifest in manifests)


def _find_mano(given: Path | None, shards: Path) -> Path:
    """Hand models that fit the shards."""
    if given is None and _is_synthetic(shards):
        return DataPaths.default().sample / "body_models" / "mano"
    chosen = given or os.environ.get("MANO_DIR")
    if not chosen:
        raise ConfigError("MANO models not found; give --mano-dir DIR or set MANO_DIR.")
    return Path(chosen)


def _raw_root(given: Path | None, shards: Path) -> Path:
    """Raw pictures that the shards were made from."""
    if given is None and _is_synthetic(shards):
        return DataPaths.default().sample / "arctic"
    chosen = given or os.environ.get("ARCTIC_ROOT")
    if not chosen:
        raise ConfigError("raw pictures not found; give --arctic-root DIR, set ARCTIC_ROOT, or ask for --crops.")
    return Path(chosen)
