"""The published schema of every metric table: name, unit and meaning of each column, from schemas.yaml.

No torch here: the web UI and the report import this module.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from hawor_pipeline.config import read_yaml
from hawor_pipeline.errors import ConfigError
from hawor_pipeline.evaluation.declared_metrics import SAMPLE_METRICS
from hawor_pipeline.shards.columns import Column

_TABLES = read_yaml(Path(__file__).with_suffix(".yaml"))
# Columns of a shard that the strata which are measured depend on; those of metrics stand in their declarations.
_STRATA_MADE_FROM = {"depth_m": ("joints_cam_m",), "speed_m_s": ("joints_cam_m",)}


def _column(name: str, meaning: str, type: str, unit: str = "", optional: bool = False) -> Column:
    """Build a column from its declaration; the type is like "float[16,3,3]?", with "?" for nullable."""
    kind, _, shape = type.removesuffix("?").removesuffix("]").partition("[")
    sizes = tuple(int(size) for size in shape.split(",") if size)
    return Column(
        name, pa.type_for_alias(kind), sizes, unit, meaning, type.endswith("?"), nested=True, optional=optional
    )


def _columns(entries: Iterable[str | dict[str, dict[str, Any]]]) -> Iterator[Column]:
    """Build the columns of a table from its entries: columns, and names of groups."""
    for entry in entries:
        if entry == "metrics":
            yield from (_column(m.name, m.meaning, "double?", m.unit) for m in SAMPLE_METRICS.values())
        elif isinstance(entry, str):
            yield from _columns([_TABLES["groups"][entry]])
        else:
            yield from (_column(name, **declared) for name, declared in entry.items())


SCHEMAS = {table: tuple(_columns(entries)) for table, entries in _TABLES["tables"].items()}


def arrow_schema(table: str) -> pa.Schema:
    """Return the Arrow schema of a table; unit and meaning travel in the field metadata of the file."""
    return pa.schema([column.field for column in columns_of(table)])


def column_docs(table: str) -> list[tuple[str, str, str, str]]:
    """Return (name, type, unit, meaning) of each column, the partition column `run_id` first."""
    run_id = ("run_id", "string", "", "the run, from the path; begins with a letter")
    return [run_id, *((c.name, _type_name(c), c.unit, c.meaning) for c in columns_of(table))]


def _type_name(column: Column) -> str:
    """Lists of fixed size as "float[16,3,3]"."""
    return f"{column.kind}[{','.join(map(str, column.shape))}]" if column.shape else str(column.kind)


def columns_of(table: str) -> tuple[Column, ...]:
    """Return the columns of a table.

    Raises:
        ConfigError: there is no such table.
    """
    if table not in SCHEMAS:
        raise ConfigError(f"unknown metric table {table!r}; there are {', '.join(SCHEMAS)}.")
    return SCHEMAS[table]


def made_from(column: str) -> tuple[str, ...]:
    """Return the columns of a shard that a column of the samples table depends on; () for those from elsewhere."""
    metric = SAMPLE_METRICS.get(column)
    return metric.made_from if metric else _STRATA_MADE_FROM.get(column, ())
