"""Command that runs a network on a person's own footage: predict."""

import argparse
import os
import sys
from pathlib import Path

from hawor_pipeline.errors import ConfigError
from hawor_pipeline.paths import DataPaths


def add(commands) -> None:
    """Add the command of this module."""
    parser = commands.add_parser("predict", help="hands in your own video or pictures: table, film, meshes")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--input", type=Path, required=True, metavar="VIDEO|DIR", help="video file or folder of images")
    parser.add_argument(
        "--boxes", type=Path, required=True, metavar="FILE", help="CSV: image,side,x_min,y_min,x_max,y_max"
    )
    parser.add_argument("--focal", type=float, metavar="PX", help="focal length in pixels (default: the diagonal)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--mano-dir", type=Path, help="default: $MANO_DIR, then the built-in sample's")
    parser.add_argument("--device", default="auto")
    parser.set_defaults(execute=_predict)


def _predict(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.prediction.predict_footage import FILM_FILE, HANDS_FILE, MESH_DIR, predict_footage

    result = predict_footage(
        arguments.checkpoint,
        arguments.input,
        arguments.boxes,
        arguments.output,
        _mano_dir(arguments.mano_dir),
        focal_px=arguments.focal,
        device=arguments.device,
    )
    if result.focal_is_assumed:
        print(
            f"No --focal given: assumed {result.focal_px:.0f} px (the picture's diagonal). Distances from the camera "
            "scale with it."
        )
    print(f"{result.hands} hands in {result.frames} frames")
    for what, name in (("Table", HANDS_FILE), ("Film", FILM_FILE), ("Meshes", MESH_DIR)):
        print(f"{what}: {result.folder / name}")
    return 0


def _mano_dir(given: Path | None) -> Path:
    sample = DataPaths.default().sample / "body_models" / "mano"
    if chosen := given or os.environ.get("MANO_DIR"):
        return Path(chosen)
    if not sample.is_dir():
        raise ConfigError("MANO models not found; give --mano-dir DIR or set MANO_DIR.")
    print(
        f"SYNTHETIC hand model: MANO_DIR is not set, so meshes are those of the sample's hand ({sample})",
        file=sys.stderr,
    )
    return sample
