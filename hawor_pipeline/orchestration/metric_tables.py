"""The metric tables in the UI: columns, row counts, and the columns of the shards that each is computed from."""

from collections.abc import Sequence
from pathlib import Path

import dagster as dg

from hawor_pipeline.orchestration.materialization import Metadata
from hawor_pipeline.orchestration.table_checks import lineage, row_count, schema_check, table_metadata
from hawor_pipeline.paths import DataPaths

BASELINE_TABLES = ("predictions", "samples", "joints", "summary")
RUN_TABLES = (*BASELINE_TABLES, "training")
MAIN_TABLE = "samples"


def table_files(table: str, run_ids: Sequence[str]) -> list[Path]:
    """Return the files of a table that belong to some runs."""
    from hawor_pipeline.evaluation.tables import PART_NAME, partition_dir

    return [partition_dir(DataPaths.default().metrics, table, run_id) / PART_NAME for run_id in run_ids]


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
