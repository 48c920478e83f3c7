"""Paired differences against numbers worked out the long way."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.evaluation.compare import Difference, compare_runs, write_comparison
from hawor_pipeline.evaluation.tables import partition_file, read_table
from hawor_pipeline_tests.evaluation.made_up_runs import write_samples


def errors(sequences: int, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Errors of two runs: hard and easy recordings, and the second run 1 mm worse on average."""
    rng = np.random.default_rng(seed)
    first, second = [], []
    for number in range(sequences):
        common = rng.gamma(3, 4, 5 + 3 * number) + 10 * number
        first.append(common)
        second.append(common + 1 + rng.normal(0, 0.5) + rng.normal(0, 1, len(common)))
    return first, second


def written(folder: Path, sequences: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    first, second = errors(sequences)
    second[0][0] = np.nan
    for name, values in (("a", first), ("b", second)):
        write_samples(folder, name, [{"mpjpe_mm": v} for v in values])
    first[0][0] = np.nan  # the pair counts only where both are defined
    return np.concatenate(first), np.concatenate(second), np.repeat(np.arange(sequences), [len(v) for v in first])


def test_difference_is_over_samples_that_both_have(tmp_path: Path) -> None:
    a, b, _ = written(tmp_path, 8)
    (found,) = compare_runs(tmp_path, "b", "a", ["mpjpe_mm"])
    assert found.value == pytest.approx(np.nanmean(b))
    assert found.other == pytest.approx(np.nanmean(a))
    assert found.difference == pytest.approx(np.nanmean(b - a))
    assert (found.n, found.sequences, found.unit, found.note) == (len(a) - 1, 8, "mm", None)
    (back,) = compare_runs(tmp_path, "a", "b", ["mpjpe_mm"])
    assert (back.ci_low, back.ci_high) == pytest.approx((-found.ci_high, -found.ci_low))


def test_interval_draws_whole_recordings_and_is_paired(tmp_path: Path) -> None:
    a, b, recording = written(tmp_path, 12)
    (found,) = compare_runs(tmp_path, "b", "a", ["mpjpe_mm"])
    rng = np.random.default_rng(5)
    means = []
    for _ in range(3000):
        drawn = rng.integers(0, 12, 12)
        means.append(np.nanmean(np.concatenate([(b - a)[recording == i] for i in drawn])))
    low, high = np.percentile(means, (2.5, 97.5))
    assert found.ci_low == pytest.approx(low, abs=0.08)
    assert found.ci_high == pytest.approx(high, abs=0.08)
    unpaired = np.std(
        [np.nanmean(np.concatenate([a[recording == i] for i in rng.integers(0, 12, 12)])) for _ in "x" * 200]
    )
    assert found.ci_high - found.ci_low < unpaired


def test_worse_needs_the_whole_interval(tmp_path: Path) -> None:
    base = Difference("mpjpe_mm", "mm", "lower", 11.0, 10.0, 1.0, 0.2, 1.8, 100, 9, None)
    assert base.worse
    for changes, worse in (
        ({"ci_low": -0.1}, False),
        ({"ci_low": None, "ci_high": None}, True),
        ({"better": "higher"}, False),
        ({"difference": None, "ci_low": None, "ci_high": None}, False),
    ):
        plain = base.to_dict()
        assert plain.pop("worse")
        assert Difference(**{**plain, **changes}).worse is worse, changes
    drop = Difference("pck_3d_15mm", "1", "higher", 0.8, 0.9, -0.1, -0.15, -0.05, 100, 9, None)
    assert drop.worse
    assert not drop.improved
    assert not base.improved
    gain = Difference("pck_3d_15mm", "1", "higher", 0.9, 0.8, 0.1, 0.05, 0.15, 100, 9, None)
    assert gain.improved
    assert not gain.worse


def test_few_recordings_have_no_interval_and_say_so(tmp_path: Path) -> None:
    written(tmp_path, 4)
    (found,) = compare_runs(tmp_path, "b", "a", ["mpjpe_mm"])
    assert (found.ci_low, found.ci_high) == (None, None)
    assert found.note == "no interval: 4 sequences, at least 5 are needed"


def test_what_cannot_be_compared_is_an_error(tmp_path: Path) -> None:
    first, second = errors(3)
    write_samples(tmp_path, "a", [{"mpjpe_mm": v} for v in first])
    write_samples(tmp_path, "short", [{"mpjpe_mm": v} for v in second[:2]])
    write_samples(tmp_path, "other", [{"mpjpe_mm": v} for v in second], version="v2")
    write_samples(tmp_path, "ego", [{"mpjpe_mm": v} for v in second], protocol="arctic-p2-val")
    for run, message in (
        ("short", "different numbers of samples"),
        ("other", "dataset_version 'v1' against 'v2'"),
        ("ego", "protocol 'arctic-p1-val' against 'arctic-p2-val'"),
        ("absent", "Evaluate the run first"),
    ):
        with pytest.raises(DataError, match=message):
            compare_runs(tmp_path, "a", run)
    with pytest.raises(ConfigError, match="mpjpe_cm"):
        compare_runs(tmp_path, "a", "a", ["mpjpe_cm"])


def test_tables_of_an_older_version_are_named(tmp_path: Path) -> None:
    written(tmp_path, 5)
    path = partition_file(tmp_path, "samples", "a")
    pq.write_table(pq.read_table(path, partitioning=None).drop_columns(["rte"]), path)
    with pytest.raises(DataError, match=r"run 'a' is of an older version and lacks rte; evaluate"):
        compare_runs(tmp_path, "b", "a")
    assert compare_runs(tmp_path, "b", "a", ["mpjpe_mm"])[0].sequences == 5


def test_comparison_is_published_with_every_metric(tmp_path: Path) -> None:
    written(tmp_path, 6)
    write_comparison(tmp_path, "b", ["a"])
    rows = {row["metric"]: row for row in read_table(tmp_path, "comparison", "b").to_pylist()}
    row = rows["mpjpe_mm"]
    assert row["difference"] == pytest.approx(row["value"] - row["other_value"])
    assert row["other_run_id"] == "a"
    assert rows["mpvpe_mm"]["difference"] is None
    assert rows["mpvpe_mm"]["note"] == "no sample has it in both runs"
