"""Command that runs a network on a person's own footage: predict."""

import argparse
import sys
from pathlib import Path


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
    )
    if result.focal_is_assumed:
        print(
            f"No --focal given: assumed {result.focal_px:.0f} px (the picture's diagonal). Distances from the camera "
            "scale with it."
        )
    print(f"{result.hands} hands in {result.frames} frames")
    for what, name in (("Table", HANDS_FILE), ("Video", VIDEO_FILE), ("Meshes", MESH_DIR)):
        print(f"{what}: {result.folder / name}")
    return 0
