"""Means and intervals against numbers worked out the long way."""

import numpy as np
import pytest

from hawor_pipeline.evaluation.declared_metrics import CLEAR, HIDDEN
from hawor_pipeline.evaluation.summary import Summary
from hawor_pipeline.evaluation.targets import judge


def rows_of(summary: Summary) -> dict[tuple[str, str, str], dict]:
    columns = summary.rows()
    records = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return {(r["stratum"], r["level"], r["metric"]): r for r in records}


def filled(sequences: int, seed: int = 0) -> tuple[Summary, list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    summary, errors, sides = Summary(), [], []
    for number in range(sequences):
        count = 3 + 2 * number
        values = rng.gamma(3, 10, count)
        values[0] = np.nan
        side = rng.choice(["left", "right"], count)
        summary.add_sequence({"mpjpe_mm": values}, {"side": side})
        errors.append(values)
        sides.append(side)
    return summary, errors, sides


def test_means_weigh_samples_or_sequences_equally_and_leave_undefined_ones_out() -> None:
    summary, errors, sides = filled(6)
    rows = rows_of(summary)
    everything, side = np.concatenate(errors), np.concatenate(sides)
    row = rows["all", "sample", "mpjpe_mm"]
    assert row["value"] == pytest.approx(np.nanmean(everything))
    assert (row["n"], row["sequences"], row["unit"]) == (np.isfinite(everything).sum(), 6, "mm")
    assert rows["all", "sequence", "mpjpe_mm"]["value"] == pytest.approx(np.mean([np.nanmean(e) for e in errors]))
    left = rows["side=left", "sample", "mpjpe_mm"]
    assert left["value"] == pytest.approx(np.nanmean(everything[side == "left"]))


def test_interval_draws_whole_sequences() -> None:
    summary, errors, _ = filled(12)
    row = rows_of(summary)["all", "sample", "mpjpe_mm"]
    rng = np.random.default_rng(1)
    means = []
    for _ in range(4000):
        drawn = rng.integers(0, 12, 12)
        means.append(np.nanmean(np.concatenate([errors[i] for i in drawn])))
    low, high = np.percentile(means, (2.5, 97.5))
    assert row["ci_low"] == pytest.approx(low, rel=0.05)
    assert row["ci_high"] == pytest.approx(high, rel=0.05)


def test_no_interval_below_five_sequences() -> None:
    assert rows_of(filled(4)[0])["all", "sample", "mpjpe_mm"]["ci_low"] is None
    assert rows_of(filled(5)[0])["all", "sample", "mpjpe_mm"]["ci_low"] is not None


def test_same_numbers_every_time() -> None:
    assert filled(7)[0].rows() == filled(7)[0].rows()


def test_nothing_measured_is_null() -> None:
    summary = Summary()
    summary.add_sequence({"mpvpe_mm": np.full(3, np.nan)}, {})
    row = rows_of(summary)["all", "sample", "mpvpe_mm"]
    assert (row["value"], row["ci_low"], row["n"]) == (None, None, 0)


def test_robustness_is_the_ratio_of_hidden_to_clear() -> None:
    summary = Summary()
    for number in range(6):
        values = np.array([10.0, 20.0, 30.0]) + number
        hidden, clear = np.array([False, False, True]), np.array([True, False, False])
        summary.add_sequence({"mpjpe_mm": values}, {HIDDEN: hidden, CLEAR: clear})
    row = rows_of(summary)["all", "sample", "occlusion_robustness"]
    assert row["value"] == pytest.approx(32.5 / 12.5)
    assert row["n"] == 12
    assert row["ci_low"] < row["value"] < row["ci_high"]


def test_robustness_is_null_without_hidden_hands() -> None:
    assert rows_of(filled(6)[0])["all", "sample", "occlusion_robustness"]["value"] is None


def test_targets_are_sample_only_on_synthetic_data() -> None:
    metrics = {"mpjpe_mm": 9.9, "pck_3d_15mm": 0.85, "mpjpe_crop_px": 15.1}
    verdicts = {t["metric"]: t for t in judge(metrics, "synthetic")}
    assert [verdicts[m]["met"] for m in ("mpjpe_mm", "pck_3d_15mm", "mpjpe_crop_px", "pck_2d_10px")] == [
        True,
        False,
        False,
        False,
    ]
    assert all(t["sample_only"] for t in verdicts.values())
    assert not any(t["sample_only"] for t in judge(metrics, "arctic"))
