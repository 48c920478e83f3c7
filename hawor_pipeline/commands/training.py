"""Commands for training and its configuration: create-config, migrate-config, preflight, train."""

import argparse
import sys
from pathlib import Path

from hawor_pipeline.commands.options import command, option, options
from hawor_pipeline.commands.printing import print_result
from hawor_pipeline.errors import ConfigError
from hawor_pipeline.paths import experiment_file

# The options that define a run.
_settings = options(
    option("--config", type=Path, required=True, metavar="FILE", help="training configuration (YAML or JSON)"),
    option("--set", nargs="+", default=[], metavar="KEY=VALUE", action="extend", help="replace configured values"),
    option("--val-subjects", nargs="+", metavar="s05", help="validate on these subjects"),
    option("--val-fraction", type=float, metavar="F", help="validate on this share of the sequences"),
    option("--from-scratch", action="store_true", help="allow a huge backbone without pretrained weights"),
)


@command("create-config", "write a training configuration with every key explained")
@option("path", type=Path, metavar="FILE", help="file to write: .yaml, .yml or .json")
@option("--experiment", metavar="NAME", help="start from a shipped experiment")
def _create_config(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.config import TrainingConfig, config_text, load_config
    from hawor_pipeline.provenance import atomic_write_text

    config = load_config(experiment_file(arguments.experiment)) if arguments.experiment else TrainingConfig()
    if arguments.path.exists():
        raise ConfigError(f"{arguments.path} exists already; choose another path or remove it")
    atomic_write_text(arguments.path, config_text(config, arguments.path))
    print(f"wrote {arguments.path}; train with: hawor-pipeline train --config {arguments.path}")
    return 0


@command("migrate-config", "translate a configuration of the original system")
@option("old", type=Path, metavar="OLD", help="its YAML or JSON file")
@option("new", type=Path, metavar="NEW", help="file to write: .yaml, .yml or .json")
def _migrate(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.config import config_text
    from hawor_pipeline.provenance import atomic_write_text
    from hawor_pipeline.training.migrate import migrate_file

    if arguments.new.exists():
        raise ConfigError(f"{arguments.new} exists already; choose another path or remove it")
    migration = migrate_file(arguments.old)
    atomic_write_text(arguments.new, config_text(migration.config, arguments.new, migration.heading()))
    print(migration.report())
    print(f"wrote {arguments.new}; train with: hawor-pipeline train --config {arguments.new}")
    return 0


@command("preflight", "check memory, data loading, learning and duration before training")
@_settings
def _preflight(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.config import load_config
    from hawor_pipeline.evaluation.predict import choose_device
    from hawor_pipeline.training.preflight import preflight
    from hawor_pipeline.training.resolve import with_recorded_split

    config = with_recorded_split(load_config(arguments.config, _overrides(arguments)))
    findings = preflight(config, choose_device(config.accelerator))
    for name, value in findings.facts.items():
        print(f"{name + ':':18} {value}")
    for kind, messages in (("warning", findings.warnings), ("REFUSED", findings.refusals)):
        for message in messages:
            print(f"{kind + ':':18} {message}")
    if not findings.refusals:
        print("Ready to train.")
    return 1 if findings.refusals else 0


@command("train", "train a network; resumes an interrupted run")
@_settings
@option(
    "--resume",
    default="auto",
    metavar="auto|PATH",
    help="auto (default) resumes this run; PATH starts a new run from it",
)
def _train(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.config import load_config
    from hawor_pipeline.training.launch import train
    from hawor_pipeline.training.progress import show_training

    config = load_config(arguments.config, _overrides(arguments))
    result, code = train(config, resume=arguments.resume, on_progress=show_training())
    if result is None:
        print("stopped; the checkpoint is kept, the same command resumes", file=sys.stderr)
    else:
        print_result(result)
    return code


def _overrides(arguments: argparse.Namespace) -> dict:
    from hawor_pipeline.config import parse_value

    overrides = {}
    for item in arguments.set:
        key, separator, text = item.partition("=")
        if not separator:
            raise ConfigError(f"--set {item!r}: expected KEY=VALUE, such as learning_rate=1e-4")
        overrides[key] = parse_value(text)
    if arguments.val_subjects:
        overrides["val_subjects"] = arguments.val_subjects
    if arguments.val_fraction is not None:
        overrides["val_fraction"] = arguments.val_fraction
    if arguments.from_scratch:
        overrides["from_scratch"] = True
    return overrides
