"""Parquet tables in the UI: columns with unit and meaning, row counts, lineage; and checks against their schema.

Everything is generated from the schemas that the tables are written with; nothing is described twice.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from hawor_pipeline.orchestration.materialization import Metadata
from hawor_pipeline.paths import DataPaths

SAMPLE_ID = "sample_id"
BASELINE_TABLES = ("predictions", "samples", "joints", "summary")
RUN_TABLES = (*BASELINE_TABLES, "training")
MAIN_TABLE = "samples"
_EXAMPLES = 3
_BATCH_ROWS = 65_536


def schema_check_specs(asset: str, tables: Iterable[str]) -> list[dg.AssetCheckSpec]:
    """Declare a blocking check per table: it fits its published schema."""
    return [
        dg.AssetCheckSpec(
            check_name(table),
            asset=asset,
            blocking=True,
            description=f"`{table}` has the published columns and types, no null in a required column, no NaN and no "
            "duplicate sample.",
        )
        for table in tables
    ]


def check_name(table: str) -> str:
    """Return the name of a table's check."""
    return f"{table}_fit_their_schema" if table.endswith("s") else f"{table}_fits_its_schema"


def schema_check(table: str, files: Sequence[Path], schema: Any) -> dg.AssetCheckResult:
    """Check one table, over all its Parquet files, against its published Arrow schema."""
    problems = [f"{file.parent.name}/{file.name}: {text}" for file in files for text in file_problems(file, schema)]
    return dg.AssetCheckResult(
        check_name=check_name(table),
        passed=not problems,
        metadata={
            "rows": row_count(files),
            "files": len(files),
            "problems": dg.MetadataValue.json(problems[:_EXAMPLES]),
        },
    )


def file_problems(file: Path, schema: Any) -> list[str]:
    """List the contradictions of a file to a schema; reads it in batches."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        opened = pq.ParquetFile(file)
    except (OSError, pa.ArrowException) as error:
        return [f"cannot be read: {error}"]
    found = opened.schema_arrow
    expected = {field.name: field.type for field in schema}
    actual = {field.name: field.type for field in found}
    problems = [f"column {name} is missing" for name in expected if name not in actual]
    problems += [f"column {name} is not in the schema" for name in actual if name not in expected]
    problems += [
        f"column {name} is {actual[name]}, expected {kind}"
        for name, kind in expected.items()
        if name in actual and not _same_type(actual[name], kind)
    ]
    return problems or _value_problems(opened, schema)


def _same_type(found: Any, expected: Any) -> bool:
    """Return whether types are equal but for the names of list items."""
    import pyarrow as pa

    if pa.types.is_fixed_size_list(found) and pa.types.is_fixed_size_list(expected):
        return found.list_size == expected.list_size and _same_type(found.value_type, expected.value_type)
    return found == expected


def _value_problems(opened: Any, schema: Any) -> list[str]:
    problems: dict[str, str] = {}
    seen: set[str] = set()
    group, members = "", set[str]()
    for batch in opened.iter_batches(batch_size=_BATCH_ROWS):
        for field in schema:
            column = batch.column(field.name)
            if not field.nullable and column.null_count:
                problems[field.name] = f"column {field.name} has nulls"
            if _has_nan(column):
                problems[field.name] = f"column {field.name} has NaN"
        if SAMPLE_ID in schema.names and "joint" not in schema.names:
            for name in batch.column(SAMPLE_ID).to_pylist():
                recording = name.rsplit("/", 3)[0]  # contiguous, so that one recording's names fit in memory
                if recording != group:
                    group, members = recording, set()
                    if recording in seen:
                        problems[SAMPLE_ID] = f"the samples of {recording} are not contiguous"
                    seen.add(recording)
                if name in members:
                    problems[SAMPLE_ID] = f"sample {name} is a duplicate"
                members.add(name)
    return list(problems.values())


def _has_nan(column: Any) -> bool:
    import pyarrow as pa
    import pyarrow.compute as pc

    while pa.types.is_fixed_size_list(column.type):
        column = column.flatten()
    return pa.types.is_floating(column.type) and bool(pc.any(pc.is_nan(column)).as_py())


def row_count(files: Iterable[Path]) -> int:
    """Count the rows of all files from their footers."""
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(file).num_rows for file in files)


def table_metadata(files: Sequence[Path], *, partition: bool = False) -> Metadata:
    """Return row count and column schema of a table, from its files."""
    import pyarrow.parquet as pq

    count = {"dagster/partition_row_count" if partition else "dagster/row_count": row_count(files)}
    return {**count, "dagster/column_schema": column_schema(pq.read_schema(files[0]))} if files else count


def column_schema(schema: Any) -> dg.TableSchema:
    """Convert an Arrow schema for the UI; unit and meaning come from the metadata of its fields."""
    columns = []
    for field in schema:
        notes = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        meaning, unit = notes.get("meaning", ""), notes.get("unit", "")
        constraints = dg.TableColumnConstraints(nullable=field.nullable, unique=field.name == SAMPLE_ID)
        description = f"{meaning} [{unit}]" if unit else meaning or None
        columns.append(dg.TableColumn(field.name, str(field.type), description=description, constraints=constraints))
    return dg.TableSchema(columns=columns)


def lineage(columns: Mapping[str, Sequence[str]], upstream: str) -> dg.TableColumnLineage:
    """Declare the columns of another asset's table that each column is computed from."""
    key = dg.AssetKey(upstream)
    return dg.TableColumnLineage(
        {
            name: [dg.TableColumnDep(asset_key=key, column_name=source) for source in sources]
            for name, sources in columns.items()
            if sources
        }
    )


def table_files(table: str, run_ids: Sequence[str]) -> list[Path]:
    """Return the files of a table that belong to some runs."""
    from hawor_pipeline.evaluation.tables import partition_file

    return [partition_file(DataPaths.default().metrics, table, run_id) for run_id in run_ids]


def table_checks(run_ids: Sequence[str], tables: Sequence[str]) -> list[dg.AssetCheckResult]:
    """Check each table against its published schema."""
    from hawor_pipeline.evaluation.schemas import arrow_schema

    return [schema_check(table, table_files(table, run_ids), arrow_schema(table)) for table in tables]


def described_tables(run_ids: Sequence[str]) -> Metadata:
    """Return columns, rows and lineage of the samples table, and the rows of the other tables, as metadata."""
    from hawor_pipeline.evaluation.schemas import columns_of, made_from
    from hawor_pipeline.shards.schema import COLUMNS

    names = [column.name for column in columns_of(MAIN_TABLE)]
    sources = {name: (name,) if name in COLUMNS else made_from(name) for name in names}
    others = {
        f"{table}_rows": row_count(table_files(table, run_ids)) for table in BASELINE_TABLES if table != MAIN_TABLE
    }
    return {
        **table_metadata(table_files(MAIN_TABLE, run_ids)),
        "dagster/column_lineage": lineage(sources, "subject_shards"),
        **others,
    }
