"""The checks derived from a table's schema detect violations of it, and nothing else."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hawor_pipeline.orchestration.table_checks import file_problems, lineage, schema_check, table_metadata

SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), False),
        pa.field("error_mm", pa.float64(), True, {"unit": "mm", "meaning": "mean distance"}),
        pa.field("joints_m", pa.list_(pa.float32(), 3), False),
    ]
)
NAMES = ["s01/box_grab_01/0/00001/left", "s01/box_grab_01/0/00001/right", "s01/box_use_01/0/00001/left"]
GOOD = {"sample_id": NAMES, "error_mm": [1.0, None, 3.0], "joints_m": [[0.0, 1.0, 2.0]] * 3}


def _write(folder: Path, columns: dict, schema: pa.Schema = SCHEMA) -> Path:
    path = folder / "part-0.parquet"
    pq.write_table(pa.table(columns, schema=schema), path)
    return path


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"error_mm": [1.0, float("nan"), 3.0]}, ["column error_mm has NaN"]),
        ({"joints_m": [[0.0, 1.0, float("nan")]] * 3}, ["column joints_m has NaN"]),
        ({"sample_id": [NAMES[0], NAMES[0], NAMES[2]]}, [f"sample {NAMES[0]} is a duplicate"]),
        ({"sample_id": [NAMES[0], NAMES[2], NAMES[1]]}, ["the samples of s01/box_grab_01 are not contiguous"]),
    ],
)
def test_values_that_contradict_the_schema_are_named(tmp_path, changes, expected):
    assert file_problems(_write(tmp_path, {**GOOD, **changes}), SCHEMA) == expected


def test_nulls_and_other_columns_are_named(tmp_path):
    loose = pa.schema([field.with_nullable(True) for field in SCHEMA])
    nulls = _write(
        tmp_path,
        {**GOOD, "sample_id": [NAMES[0], NAMES[1], NAMES[2]], "joints_m": [None, *GOOD["joints_m"][:2]]},
        loose,
    )
    assert file_problems(nulls, SCHEMA) == ["column joints_m has nulls"]
    other = pa.schema(
        [pa.field("sample_id", pa.string()), pa.field("error_mm", pa.float32()), pa.field("more", pa.int32())]
    )
    path = _write(tmp_path, {"sample_id": NAMES, "error_mm": [1.0, 2.0, 3.0], "more": [1, 2, 3]}, other)
    assert file_problems(path, SCHEMA) == [
        "column joints_m is missing",
        "column more is not in the schema",
        "column error_mm is float, expected double",
    ]


def test_a_damaged_file_fails_the_check_and_is_named(tmp_path):
    path = _write(tmp_path, GOOD)
    whole = path.read_bytes()
    assert schema_check("samples", [path], SCHEMA).passed
    path.write_bytes(whole[: len(whole) // 2])
    (problem,) = file_problems(path, SCHEMA)
    assert problem.startswith("cannot be read")


def test_the_ui_gets_units_meanings_and_counts(tmp_path):
    path = _write(tmp_path, GOOD)
    metadata = table_metadata([path])
    assert metadata["dagster/row_count"] == 3
    columns = {column.name: column for column in metadata["dagster/column_schema"].columns}
    assert columns["error_mm"].description == "mean distance [mm]"
    assert columns["sample_id"].constraints.unique
    assert not columns["sample_id"].constraints.nullable
    assert columns["error_mm"].constraints.nullable
    assert table_metadata([], partition=True) == {"dagster/partition_row_count": 0}
    made = lineage({"error_mm": ("joints_m",), "run": ()}, "subject_shards")
    assert [dep.column_name for dep in made.deps_by_column["error_mm"]] == ["joints_m"]
    assert "run" not in made.deps_by_column
