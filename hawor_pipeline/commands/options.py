"""Declaration of a command and its options; options that several commands share are here, each with one help text."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Execute = Callable[[argparse.Namespace], int]
Declare = Callable[[Execute], Execute]
AddOption = Callable[[argparse.ArgumentParser], object]
_declared: dict[Execute, list[AddOption]] = {}


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its name, help, options in the order of its help, and function, which returns the exit code."""

    name: str
    summary: str
    options: tuple[AddOption, ...]
    execute: Execute

    def add_to(self, commands) -> None:
        """Add the parser of this command to those of all commands."""
        parser = commands.add_parser(self.name, help=self.summary)
        parser.set_defaults(execute=self.execute)
        for add_option in self.options:
            add_option(parser)


def command(name: str, summary: str) -> Callable[[Execute], Command]:
    """Make a function a command, with the options that are declared below this decorator."""
    return lambda execute: Command(name, summary, tuple(_declared.pop(execute, ())), execute)


def option(*names: str, **settings: Any) -> Declare:
    """Declare an option or argument of a command; arguments as of `ArgumentParser.add_argument`."""

    def declare(execute: Execute) -> Execute:
        adds = _declared.setdefault(execute, [])
        adds.insert(0, lambda parser: parser.add_argument(*names, **settings))  # the lowest decorator runs first
        return execute

    return declare


def options(*group: Declare) -> Declare:
    """Declare several options, in this order."""

    def declare(execute: Execute) -> Execute:
        for each in reversed(group):
            execute = each(execute)
        return execute

    return declare


def hand_models_option(default: str = "those of the data") -> Declare:
    """Declare `--mano-dir`."""
    return option(
        "--mano-dir", type=Path, metavar="DIR", help=f"folder of MANO_RIGHT and MANO_LEFT (default: {default})"
    )


def metrics_option(name: str = "--metrics") -> Declare:
    """Declare the folder of the metric tables."""
    return option(name, type=Path, metavar="DIR", help="folder of the metric tables (default: data/metrics)")


def box_rule_option() -> Declare:
    """Declare `--box-rule`."""
    return option(
        "--box-rule",
        metavar="RULE",
        help="boxes the network is given: pipeline, hawor, hamer, or SCALE,ASPECT (default: those of its weights)",
    )


def shards_option(*, required: bool) -> Declare:
    """Declare `--data`; where it is not required, the project's shards are searched."""
    more = "" if required else " (default: the folder of data/shards that has the subject)"
    return option("--data", required=required, help="shards folder, or the URL of a published one" + more)


device_option = option("--device", default="auto", help="auto (default), cpu, cuda, ...")
