"""Commands for those who come from another system: migrate-config."""

import argparse
from pathlib import Path

from hawor_pipeline.errors import ConfigError


def add(commands) -> None:
    """Add the commands of this module."""
    parser = commands.add_parser(
        "migrate-config", help="translate a configuration of the original training-evaluation system"
    )
    parser.add_argument("old", type=Path, metavar="OLD", help="its YAML or JSON file")
    parser.add_argument("new", type=Path, metavar="NEW", help="the YAML file to write")
    parser.set_defaults(execute=_migrate)


def _migrate(arguments: argparse.Namespace) -> int:
    from hawor_pipeline.provenance import atomic_write_text
    from hawor_pipeline.training.migrate import migrate_file

    if arguments.new.exists():
        raise ConfigError(f"{arguments.new} exists already; choose another path or remove it")
    migration = migrate_file(arguments.old)
    atomic_write_text(arguments.new, migration.to_yaml())
    print(migration.report())
    print(f"wrote {arguments.new}; train with: hawor-pipeline train --config {arguments.new}")
    return 0
