"""Commands that write data: sample-data, prepare, export-webdataset, import-webdataset."""

import argparse
import json
from pathlib import Path

from hawor_pipeline.commands.options import command, hand_models_option, option, shards_option
from hawor_pipeline.commands.printing import print_result, show_progress
from hawor_pipeline.errors import ConfigError
from hawor_pipeline.sources.registry import ARCTIC, DATASETS


@command("sample-data", "write the built-in synthetic sample in ARCTIC's raw layout")
@option("--root", type=Path, required=True, metavar="DIR", help="folder for arctic/ and body_models/")
@option("--subjects", nargs="+", metavar="s01", help="subjects, s01 to s10 (default: all)")
@option("--sequences-per-subject", type=int, metavar="N", help="sequences of each subject (default: 2)")
@option("--frames", type=int, metavar="N", help="frames of ground truth per sequence, at 30 fps (default: 36)")
@option("--views", type=int, nargs="+", metavar="V", help="cameras: 0 egocentric, 1 to 8 static (default: all)")
@option("--image-source", choices=["images", "cropped_images"], help="full frames (default) or crops")
@option(
    "--image-scale",
    type=float,
    metavar="F",
    help="scale of full frames and intrinsics (default: 0.25; 1 for crops)",
)
@option("--seed", type=int, metavar="N", help="random seed of all contents (default: 0)")
@option("--tempo", type=float, metavar="F", help="speed of motion (default: 1, natural)")
@option("--num-workers", type=int, metavar="N", help="worker processes (default: one per core)")
def _sample(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.sample.spec import SampleSpec
    from hawor_pipeline.sample.write import ensure_sample

    names = ("subjects", "sequences_per_subject", "frames", "views", "image_source", "image_scale", "seed", "tempo")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    for name in ("subjects", "views"):
        if name in given:
            given[name] = tuple(given[name])
    result = ensure_sample(
        arguments.root, SampleSpec(**given), workers=arguments.num_workers, progress=show_progress("sequence")
    )
    print_result(result)
    return 0


@command("prepare", "convert ARCTIC or another dataset to training shards")
@option("--arctic-root", type=Path, metavar="DIR", help="ARCTIC, any folder level of its download")
@option("--dataset", metavar="NAME", help=f"another dataset: {', '.join(DATASETS)}")
@option("--root", type=Path, metavar="DIR", help="folder that --dataset is unpacked in")
@option("--output-dir", type=Path, required=True, metavar="DIR", help="folder for the shards")
@option("--subjects", nargs="+", metavar="s01", help="default: all")
@option("--sequences", nargs="+", metavar="NAME", help="default: all")
@option("--max-sequences-per-subject", type=int, metavar="N", help="default: no limit")
@option("--target-resolution", type=int, nargs=2, metavar=("H", "W"), help="default: 256 256")
@option("--num-workers", type=int, metavar="N", help="worker processes (default: one per core)")
@option("--views", type=int, nargs="+", metavar="V", help="cameras of ARCTIC (default: all)")
@hand_models_option()
@option(
    "--smplx-dir",
    metavar="DIR",
    help="folder of SMPLX_MALE and SMPLX_FEMALE, for the person's body to count as an occluder; "
    "none: it does not count (default: those of the data, if any)",
)
@option("--dry-run", action="store_true", help="only estimate crops, disk and hours")
def _prepare(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.conversion.prepare import estimate, prepare

    if not (arguments.arctic_root or arguments.dataset or arguments.root):
        raise ConfigError("no raw data given: use --arctic-root DIR, or --dataset NAME --root DIR")
    if not arguments.arctic_root and not (arguments.dataset and arguments.root):
        raise ConfigError("another dataset needs --dataset NAME and --root DIR together")
    if arguments.arctic_root and (arguments.dataset or arguments.root):
        raise ConfigError("--arctic-root is for ARCTIC; another dataset needs --dataset NAME and --root DIR")
    names = ("sequences", "max_sequences_per_subject", "target_resolution", "views")
    settings = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    chosen = {
        "dataset": arguments.dataset or ARCTIC,
        "subjects": arguments.subjects,
        "mano_dir": arguments.mano_dir,
        "smplx_dir": arguments.smplx_dir,
        "workers": arguments.num_workers,
    }
    root = arguments.root or arguments.arctic_root
    if arguments.dry_run:
        found = estimate(root, arguments.output_dir, settings=settings, **chosen)
        print(json.dumps(found, indent=2))
        return 1 if found["problems"] or not found["enough_disk"] else 0
    totals = prepare(root, arguments.output_dir, settings=settings, progress=show_progress("sequence"), **chosen)
    print(json.dumps(totals, indent=2))
    return 0


@command("verify", "compare every file of converted shards with the checksums in their manifests")
@shards_option(required=True)
def _verify(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.shards.store import verify_shards

    files, problems = verify_shards(arguments.data)
    print(json.dumps({"files": files, "problems": problems}, indent=2))
    return 1 if problems else 0


@command("export-webdataset", "write shards as WebDataset tars that HaMeR's training reads")
@shards_option(required=True)
@option("--output", type=Path, required=True, metavar="DIR", help="a new folder")
@option("--subjects", nargs="+", metavar="s01", help="default: all")
@option("--samples-per-tar", type=int, default=1000, metavar="N", help="default: 1000")
def _export_webdataset(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.shards.webdataset import export_webdataset

    done = export_webdataset(
        arguments.data, arguments.output, subjects=arguments.subjects, samples_per_tar=arguments.samples_per_tar
    )
    print(f"wrote {done.samples} hands in {done.tars} tars to {done.output}; {done.skipped} rows are not valid")
    return 0


@command("import-webdataset", "convert tars of export-webdataset back to shards")
@option("tars", type=Path, metavar="TAR_FOLDER", help="folder written by export-webdataset")
@option("--output", type=Path, required=True, metavar="DIR", help="shards folder, new or of the same source")
def _import_webdataset(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.shards.webdataset_import import import_webdataset

    done = import_webdataset(arguments.tars, arguments.output, progress=show_progress("tar"))
    print(
        f"{done.samples} hands in {done.sequences} sequences from {done.tars} tars in {done.output}; "
        f"{done.reused_sequences} sequences were reused"
    )
    return 0
