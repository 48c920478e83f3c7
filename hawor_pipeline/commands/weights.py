"""Commands that exchange weights: export, import-checkpoint."""

import argparse
from collections import Counter
from pathlib import Path

from hawor_pipeline.commands.options import command, option
from hawor_pipeline.core.box_rule import RULES
from hawor_pipeline.errors import ConfigError
from hawor_pipeline.paths import DataPaths

SUFFIXES = {"safetensors": (".safetensors",), "hawor": (".ckpt", ".pt", ".pth")}


@command("export", "write the network of a checkpoint in HaWoR's naming")
@option("--checkpoint", type=Path, required=True, metavar="FILE", help="checkpoint to export")
@option("--format", required=True, choices=("hawor", "safetensors"), help="file format")
@option("--output", type=Path, required=True, metavar="FILE", help="file to write (.ckpt or .safetensors)")
@option("--allow-differences", action="store_true", help="write it for HaWoR's code even if that computes otherwise")
def _export(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.models.exchange import export_checkpoint

    output: Path = arguments.output
    if (output.suffix == ".safetensors") != (arguments.format == "safetensors"):
        raise ConfigError(
            f"--output {output.name}: found the ending {output.suffix or '(none)'}, expected "
            f"{' or '.join(SUFFIXES[arguments.format])} for --format {arguments.format}"
        )
    network, differences = export_checkpoint(
        arguments.checkpoint, output, allow_differences=arguments.allow_differences
    )
    print(f"wrote {output} ({output.stat().st_size / 1e6:.1f} MB); without the MANO body model")
    if not differences:
        print("HaWoR's own code loads it and computes the same; its MANO buffers come from the user's MANO files.")
    if network.box_rule != RULES["hawor"]:
        print(f"its bounding boxes: {network.box_rule}; HaWoR's own inference takes {RULES['hawor']}")
    for difference in differences:
        print(f"  not in HaWoR's own code: {difference}")
    return 0


@command("import-checkpoint", "check a HaWoR, HaMeR, WiLoR or ViTPose checkpoint key by key and import its weights")
@option("path", type=Path, metavar="FILE", help="checkpoint as downloaded")
@option("--output", type=Path, metavar="FILE", help="default: data/pretrained/NAME.safetensors")
@option("--partial", action="store_true", help="import the keys that match instead of refusing the file")
@option("--all-keys", action="store_true", help="also print the keys that were used and ignored")
def _import(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.models.exchange import import_checkpoint

    output = arguments.output or DataPaths.default().pretrained / f"{arguments.path.stem}.safetensors"
    if output.resolve() == arguments.path.resolve():
        raise ConfigError(f"--output {output} is the file to import; choose another path")
    imported = import_checkpoint(arguments.path, output, partial=arguments.partial)
    report, network = imported.report, imported.network
    print(f"{arguments.path}: recognised as {imported.kind}; {report.explain()}")
    for kind, names in (("used", report.used), ("ignored", report.ignored)):
        for part, count in sorted(Counter(name.split(".")[0] for name in names).items()):
            print(f"  {kind:11} {part}: {count}")
        if arguments.all_keys:
            print("".join(f"  {kind:11} {name}\n" for name in names), end="")
    for kind, names in (
        ("missing", report.missing),
        ("unexpected", report.unexpected),
        ("wrong shape", report.wrong_shape),
    ):
        print("".join(f"  {kind:11} {name}\n" for name in names), end="")
    if report.has("mano_head"):
        print(f"bounding boxes: {network.box_rule}")
    parts = [part for part in ("backbone", "st_module", "motion_module", "mano_head") if report.has(part)]
    print(f"backbone of width {network.dim} and depth {network.depth}, images of {network.image_size} px")
    print(f"wrote {imported.path} with {', '.join(parts)}; train from it with pretrained_weights: {imported.path}")
    return 0
