"""Registration of a command, and options that several commands share, each with one help text."""

import argparse
from collections.abc import Callable
from pathlib import Path

_DATA_HELP = "shards folder, or the URL of a published one"


def add_command(commands, name: str, execute: Callable[[argparse.Namespace], int], summary: str):
    """Add a command that `execute` runs, and return its parser."""
    parser = commands.add_parser(name, help=summary)
    parser.set_defaults(execute=execute)
    return parser


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add `--device`."""
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, ...")


def add_hand_models(parser: argparse.ArgumentParser, default: str = "those of the data") -> None:
    """Add `--mano-dir`."""
    parser.add_argument(
        "--mano-dir", type=Path, metavar="DIR", help=f"folder of MANO_RIGHT and MANO_LEFT (default: {default})"
    )


def add_metrics(parser: argparse.ArgumentParser, name: str = "--metrics") -> None:
    """Add the folder of the metric tables."""
    parser.add_argument(name, type=Path, metavar="DIR", help="folder of the metric tables (default: data/metrics)")


def add_shards(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add `--data`; where it is not required, the project's shards are searched."""
    more = "" if required else " (default: the folder of data/shards that has the subject)"
    parser.add_argument("--data", required=required, help=_DATA_HELP + more)
