"""The published schemas: what fits is written whole, what does not fit is refused and nothing is left behind."""

import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from hawor_pipeline.errors import ConfigError, DataError, UnknownRun
from hawor_pipeline.evaluation import schemas, tables
from hawor_pipeline.evaluation.declared_metrics import SAMPLE_METRICS

IDENTITY = tables.RunIdentity("demo-1", "arctic-all-val", "v1", "synthetic", "abc")
RNG = np.random.default_rng(0)


def predictions(rows: int) -> dict:
    return {
        "sample_id": [f"s05/box_use_01/1/{i:05d}/left" for i in range(rows)],
        "rotmats": RNG.random((rows, 16, 3, 3)),
        "betas": RNG.random((rows, 10)),
        "translation_m": RNG.random((rows, 3)),
        "joints_cam_m": RNG.random((rows, 21, 3)),
        "joints_px": RNG.random((rows, 21, 2)),
    }


def write(folder: Path, columns: dict, table: str = "predictions") -> None:
    with tables.table_writer(folder, table, IDENTITY) as writer:
        writer.write(columns)


def test_arrays_come_back_as_written(tmp_path: Path) -> None:
    columns = predictions(7)
    write(tmp_path, columns)
    table = tables.read_table(tmp_path, "predictions", "demo-1")
    for name, shape in (("rotmats", (16, 3, 3)), ("joints_px", (21, 2))):
        assert np.array_equal(tables.to_numpy(table[name], shape), columns[name].astype(np.float32))


def test_undefined_is_null_on_disk_and_nan_in_memory(tmp_path: Path) -> None:
    columns = predictions(5)
    columns["rotmats"][2, 3, 1, 1] = np.nan
    write(tmp_path, columns)
    table = tables.read_table(tmp_path, "predictions", "demo-1")
    assert table["rotmats"].null_count == 1
    back = tables.to_numpy(table["rotmats"].slice(1), (16, 3, 3))
    assert np.isnan(back[1]).all()
    assert np.isfinite(back[[0, 2, 3]]).all()


def test_duckdb_and_polars_find_run_and_elements(tmp_path: Path) -> None:
    columns = predictions(3)
    write(tmp_path, columns)
    pattern = str(tmp_path / "predictions" / "*" / "*.parquet")
    query = (
        f"select run_id, protocol, source, joints_cam_m[5][3] from read_parquet('{pattern}', hive_partitioning=true)"
    )
    run_id, protocol, source, depth = duckdb.sql(query).fetchall()[1]
    assert (run_id, protocol, source) == ("demo-1", "arctic-all-val", "synthetic")
    assert depth == np.float32(columns["joints_cam_m"][1, 4, 2])
    assert pl.read_parquet(pattern, hive_partitioning=True)["run_id"].unique().to_list() == ["demo-1"]


@pytest.mark.parametrize("run_id", ["1demo", "", "a/b", "../up", "a b", "run=1"])
def test_run_id_must_be_a_safe_name_that_begins_with_a_letter(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(ConfigError, match="begin with a letter"):
        tables.partition_dir(tmp_path, "samples", run_id)


def damaged(change: str) -> dict:
    columns = predictions(4)
    if change == "missing":
        del columns["betas"]
    elif change == "unknown":
        columns["bettas"] = columns["betas"]
    elif change == "shape":
        columns["betas"] = columns["betas"][:, :9]
    elif change == "length":
        columns["betas"] = columns["betas"][:3]
    elif change == "undefined":
        columns["joints_cam_m"][1] = np.nan
    return columns


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "betas"),
        ("unknown", "bettas"),
        ("shape", "expected \\(10,\\)"),
        ("length", "has 3 rows, expected 4"),
        ("undefined", "joints_cam_m has 1 undefined"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_the_old_table(tmp_path: Path, change: str, message: str) -> None:
    write(tmp_path, predictions(2))
    with pytest.raises(DataError, match=message):
        write(tmp_path, damaged(change))
    assert tables.read_table(tmp_path, "predictions", "demo-1").num_rows == 2
    assert [p.name for p in (tmp_path / "predictions").iterdir()] == ["run_id=demo-1"]


def test_infinite_numbers_are_refused(tmp_path: Path) -> None:
    columns = {"step": [1], "epoch": [0], "split": ["train"], "metric": ["loss"], "value": [np.inf]}
    with pytest.raises(DataError, match="infinite"):
        write(tmp_path, columns, "training")


def test_many_small_writes_make_few_row_groups(tmp_path: Path) -> None:
    with tables.table_writer(tmp_path, "training", IDENTITY) as writer:
        for step in range(300):
            writer.write({"step": [step], "epoch": [0], "split": ["train"], "metric": ["loss"], "value": [1.0]})
    batches = list(tables.iterate_table(tmp_path, "training", "demo-1", ["step"], batch_rows=128))
    assert [b.num_rows for b in batches] == [128, 128, 44]
    path = tables.partition_dir(tmp_path, "training", "demo-1") / tables.PART_NAME
    assert pa.parquet.ParquetFile(path).num_row_groups == 1


def test_missing_and_damaged_tables_are_named(tmp_path: Path) -> None:
    write(tmp_path, predictions(2))
    with pytest.raises(DataError, match="Evaluate the run first") as missing:
        tables.read_table(tmp_path, "summary", "demo-1")
    assert missing.value.exit_code == 1
    with pytest.raises(UnknownRun, match=r"Did you mean 'demo-1'\? Evaluate the run first") as unknown:
        tables.read_table(tmp_path, "predictions", "demo-2")
    assert unknown.value.exit_code == 2
    with pytest.raises(UnknownRun, match=r"There are demo-1\. Evaluate the run first"):
        tables.read_table(tmp_path, "predictions", "else")
    folder = tables.partition_dir(tmp_path, "summary", "demo-1")
    folder.mkdir(parents=True)
    (folder / tables.PART_NAME).write_bytes(b"PAR1 but not really")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        tables.read_table(tmp_path, "summary", "demo-1")


@pytest.mark.parametrize("table", list(schemas.SCHEMAS))
def test_every_column_is_documented_also_in_the_file(table: str) -> None:
    docs = schemas.column_docs(table)
    assert docs[0][0] == "run_id"
    assert all(name and kind and meaning for name, kind, _, meaning in docs)
    schema = schemas.arrow_schema(table)
    assert {field.name: field.metadata[b"unit"].decode() for field in schema} == {n: u for n, _, u, _ in docs[1:]}


def test_every_sample_metric_has_a_column_with_its_unit_in_the_name() -> None:
    suffixes = {"mm": "_mm", "px": "_px", "deg": "_deg", "m/s^2": "_m_s2"}
    for name, metric in SAMPLE_METRICS.items():
        assert name in schemas.arrow_schema("samples").names
        if metric.unit in suffixes:
            assert name.endswith(suffixes[metric.unit]), name


def test_schemas_load_no_torch() -> None:
    modules = "hawor_pipeline.evaluation.tables, hawor_pipeline.evaluation.targets"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
