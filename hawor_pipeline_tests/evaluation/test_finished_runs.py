"""Which run is meant, and the rows of a few samples out of many."""

import os
from pathlib import Path

import pytest

from hawor_pipeline.evaluation.finished_runs import errors_of, last_run, newest, rows_of
from hawor_pipeline.evaluation.tables import partition_dir, read_table
from hawor_pipeline_tests.reporting.tables_on_disk import VERSION, write_run


@pytest.fixture
def metrics_dir(tmp_path: Path) -> Path:
    for number, run in enumerate(("first", "second", f"baseline-mean_pose-{VERSION}")):
        write_run(tmp_path, run, 30.0)
        os.utime(partition_dir(tmp_path, "samples", run) / "part-0.parquet", (number, number))
    return tmp_path


def test_rows_come_in_the_order_of_the_table_and_none_is_a_table_too(metrics_dir: Path) -> None:
    table = read_table(metrics_dir, "samples", "first")
    names = table["sample_id"].to_pylist()
    wanted = [names[70], names[3], names[-1]]
    found = rows_of(metrics_dir, "samples", "first", wanted, ["sample_id", "mpjpe_mm"])
    assert found["sample_id"].to_pylist() == [names[3], names[70], names[-1]]
    assert found["mpjpe_mm"].to_pylist() == [table["mpjpe_mm"][i].as_py() for i in (3, 70, len(names) - 1)]
    nothing = rows_of(metrics_dir, "samples", "first", ["nobody"])
    assert nothing.num_rows == 0
    assert nothing.column_names == table.column_names
    assert errors_of(metrics_dir, "first", ["nobody", names[3]]) == {names[3]: table["mpjpe_mm"][3].as_py()}


def test_the_last_run_is_no_baseline_and_has_the_samples(metrics_dir: Path) -> None:
    name = read_table(metrics_dir, "samples", "first")["sample_id"][0].as_py()
    assert last_run(metrics_dir, "samples", [name]) == "second"
    assert last_run(metrics_dir, "samples", ["nobody"]) is None
    assert newest(metrics_dir, "samples", [f"baseline-mean_pose-{VERSION}"]) is None
