"""Commands that train: create-config, train."""

import argparse
import sys
from pathlib import Path

from hawor_pipeline.commands.printing import print_result
from hawor_pipeline.errors import ConfigError
from hawor_pipeline.paths import experiment_file


def add(commands) -> None:
    """Add the commands of this module."""
    for each in (_add_create_config, _add_train):
        each(commands)


def _add_create_config(commands) -> None:
    parser = commands.add_parser("create-config", help="write a training configuration with every key explained")
    parser.add_argument("path", type=Path)
    parser.add_argument("--experiment", metavar="NAME", help="start from a shipped experiment")
    parser.set_defaults(execute=_create_config)


def _create_config(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.config import TrainingConfig, commented_yaml, load_config
    from hawor_pipeline.provenance import atomic_write_text

    config = load_config(experiment_file(arguments.experiment)) if arguments.experiment else TrainingConfig()
    if arguments.path.exists():
        raise ConfigError(f"{arguments.path} exists already; choose another path or remove it")
    atomic_write_text(arguments.path, commented_yaml(config))
    print(f"wrote {arguments.path}; train with: hawor-pipeline train --config {arguments.path}")
    return 0


def _add_train(commands) -> None:
    parser = commands.add_parser("train", help="train a network; an interrupted run resumes")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", action="extend")
    parser.add_argument("--resume", default="auto", metavar="auto|PATH")
    parser.add_argument("--val-subjects", nargs="+", metavar="s05")
    parser.add_argument("--val-fraction", type=float, metavar="F")
    parser.add_argument("--from-scratch", action="store_true", help="allow a huge backbone without pretrained weights")
    parser.set_defaults(execute=_train)


def _train(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.config import load_config
    from hawor_pipeline.training.launch import train

    config = load_config(arguments.config, _overrides(arguments))
    result, code = train(config, resume=arguments.resume)
    if result is None:
        print("stopped; the checkpoint is kept, and the same command continues", file=sys.stderr)
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
