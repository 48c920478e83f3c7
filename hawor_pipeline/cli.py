"""The command line: `hawor-pipeline COMMAND`. Parses words and runs one command.

Exit codes: 0 done; 1 damaged data, full disk, failed run; 2 wrong usage, configuration, missing path, unknown subject.
Heavy packages are imported by the command that needs them.
"""

import argparse
import signal
import sys
from collections.abc import Sequence

from hawor_pipeline import __version__
from hawor_pipeline.commands import data, evaluation, predicting, project, training, viewing, weights
from hawor_pipeline.commands.options import Command
from hawor_pipeline.errors import HaworError

TOPICS = (project, data, training, evaluation, viewing, predicting, weights)  # in the order of the help


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = build_parser().parse_args(argv)
    try:
        return arguments.execute(arguments)
    except HaworError as error:
        print(f"hawor-pipeline {arguments.command}: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"hawor-pipeline {arguments.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"hawor-pipeline {arguments.command}: interrupted; finished work is kept", file=sys.stderr)
        return 128 + signal.SIGINT


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="hawor-pipeline", description="3D hand meshes from video: data, training, evaluation and reports."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in TOPICS:
        for declared in vars(module).values():  # in the order of the module
            if isinstance(declared, Command):
                declared.add_to(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
