"""The queries of docs/howto/query-the-tables.md run as they stand, and their answers are those of the tables."""

import re

import duckdb
import numpy as np
import pytest

from hawor_pipeline.evaluation.tables import read_table
from hawor_pipeline_tests.conftest import REPOSITORY
from hawor_pipeline_tests.evaluation.analyst import RUN, Analysed

PAGE = (REPOSITORY / "docs" / "howto" / "query-the-tables.md").read_text(encoding="utf-8")
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE, flags=re.DOTALL)
RECIPES = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture
def in_project(analysed: Analysed, monkeypatch: pytest.MonkeyPatch) -> Analysed:
    monkeypatch.chdir(analysed.root)
    return analysed


def answer(number: int) -> list[dict]:
    relation = duckdb.sql(QUERIES[number - 1])
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


def test_there_are_ten_queries_and_three_recipes() -> None:
    assert (len(QUERIES), len(RECIPES)) == (10, 3)


@pytest.mark.parametrize("number", range(1, 11))
def test_every_query_has_an_answer(in_project: Analysed, number: int) -> None:
    rows = answer(number)
    assert rows
    assert all(any(row[name] is not None for row in rows) for name in rows[0] if not name.startswith("ci_")), rows[0]


def test_first_query_is_the_summary(in_project: Analysed) -> None:
    found = {row["metric"]: row for row in answer(1) if row["run_id"] == RUN}
    for metric, row in found.items():
        assert row["value"] == pytest.approx(in_project.run.info["metrics"][metric], abs=6e-4)
        assert row["note"] == "no interval: 1 sequences, at least 5 are needed"


def test_second_query_has_a_row_per_baseline(in_project: Analysed) -> None:
    runs = {row["run"]: row["mpjpe_mm"] for row in answer(2)}
    kinds = ("mean_pose", "mean_rotations", "subject_mean", f"smoothed-{RUN}")
    assert set(runs) == {RUN, *(f"baseline-{kind}" for kind in kinds)}
    assert runs["baseline-mean_pose"] == pytest.approx(in_project.baselines.info["metrics"]["mean_pose"]["mpjpe_mm"])


def test_worst_samples_are_the_worst(in_project: Analysed) -> None:
    errors = np.sort(read_table(in_project.metrics, "samples", RUN)["mpjpe_mm"].to_numpy())[::-1]
    assert [row["mpjpe_mm"] for row in answer(4)] == pytest.approx(errors[:20], abs=0.06)


def test_clean_reference_of_the_robustness_query(in_project: Analysed) -> None:
    rows = answer(9)
    assert (rows[0]["kind"], rows[0]["times_clean"]) == ("none", 1.0)
    assert len(rows) == 16
    clean = rows[0]["mpjpe_mm"]
    for row in rows:
        assert row["times_clean"] == pytest.approx(row["mpjpe_mm"] / clean, rel=1e-2)


@pytest.mark.parametrize("number", range(3))
def test_recipes_run(in_project: Analysed, number: int, capsys: pytest.CaptureFixture) -> None:
    scope: dict = {}
    exec(compile(RECIPES[number], f"recipe {number}", "exec"), scope)
    printed = capsys.readouterr().out
    if number == 0:
        samples = read_table(in_project.metrics, "samples", RUN)
        expected = samples["mpjpe_mm"].to_numpy()[samples["view"].to_numpy() == 1].mean()
        assert scope["by_view"].loc[(RUN, 1), "mean"] == pytest.approx(expected)
    if number == 1:
        assert scope["worst"].height == 21
    if number == 2:
        assert scope["joints_cam_m"].shape[1:] == (21, 3)
    assert printed
