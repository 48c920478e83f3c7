"""Each rule yields a finding when the tables give it reason to, and none otherwise."""

from pathlib import Path

import numpy as np
import pytest

from hawor_pipeline.evaluation.declared_metrics import SAMPLE_METRICS
from hawor_pipeline.evaluation.summary import Summary
from hawor_pipeline.evaluation.tables import RunIdentity, table_writer
from hawor_pipeline.reporting.findings import Evidence, _to_collect, find
from hawor_pipeline.reporting.results import Curve, RunResults

KEYS = ("sample_id", "subject", "sequence", "object", "action", "side")


def make_run(folder: Path, run_id: str, **metrics: float) -> RunResults:
    """Six sequences of four samples, all with these overall metrics; `view1` and `outlier` change some of them."""
    identity = RunIdentity(run_id, "arctic-all-val", "v1", "synthetic", "c")
    view1, outlier = metrics.pop("view1", 1.0), metrics.pop("outlier", 1.0)
    summary = Summary()
    with table_writer(folder, "samples", identity) as writer:
        for number in range(6):
            values = {name: np.full(4, np.nan) for name in SAMPLE_METRICS}
            values |= {name: np.full(4, value) for name, value in metrics.items()}
            factor = np.array([1.0, 1.0, view1, view1]) * (outlier if number == 3 else 1.0)
            values["mpjpe_mm"] = values["mpjpe_mm"] * factor
            keys = {name: np.array([f"{name}{number}"] * 4) for name in KEYS}
            view = np.array([0, 0, 1, 1])
            numbers = {
                name: np.zeros(4)
                for name in ("frame", "occlusion", "truncation", "depth_m", "speed_m_s", "box_size_px")
            }
            writer.write(keys | {"view": view} | numbers | values)
            summary.add_sequence(values, {"view": view.astype(str)})
    with table_writer(folder, "summary", identity) as writer:
        writer.write(summary.rows())
    return RunResults(folder, run_id)


def titles(run: RunResults, baselines: dict | None = None, curves: list[Curve] | None = None) -> str:
    return " | ".join(finding.title for finding in find(Evidence(run, baselines or {}, curves or [])))


def test_a_good_run_gives_no_cause_for_action(tmp_path: Path) -> None:
    run = make_run(tmp_path, "good", mpjpe_mm=8.0, pa_mpjpe_mm=6.0)
    baselines = {
        "mean_pose": make_run(tmp_path, "pose", mpjpe_mm=100.0),
        "mean_rotations": make_run(tmp_path, "rotations", mpjpe_mm=120.0, pa_mpjpe_mm=14.0),
    }
    found = find(Evidence(run, baselines, []))
    assert [finding.tone for finding in found] == ["good"]
    assert "8.0 mm against 100.0 mm" in found[0].evidence
    assert "92 % lower" in found[0].evidence


@pytest.mark.parametrize(
    ("baseline", "title"), [(9.0, "Hardly better"), (12.0, "More than half"), (50.0, "uses the images")]
)
def test_distance_from_the_baseline(tmp_path: Path, baseline: float, title: str) -> None:
    run = make_run(tmp_path, "run", mpjpe_mm=8.5, pa_mpjpe_mm=8.0)
    assert title in titles(run, {"mean_pose": make_run(tmp_path, "pose", mpjpe_mm=baseline)})


def test_orientation_and_fingers(tmp_path: Path) -> None:
    run = make_run(tmp_path, "run", mpjpe_mm=40.0, pa_mpjpe_mm=11.0, global_orient_error_deg=25.0)
    baselines = {"mean_rotations": make_run(tmp_path, "rotations", mpjpe_mm=120.0, pa_mpjpe_mm=11.5)}
    found = {finding.title: finding for finding in find(Evidence(run, baselines, []))}
    assert "25° on average" in found["Most of the error is the rotation of the whole hand"].evidence
    assert "4 % lower" in found["Finger poses are close to the mean pose"].evidence


def test_weak_view_and_outlier_sequence(tmp_path: Path) -> None:
    assert "View 1 is the weakest" in titles(make_run(tmp_path, "view", mpjpe_mm=10.0, pa_mpjpe_mm=9.0, view1=1.5))
    found = titles(make_run(tmp_path, "outlier", mpjpe_mm=10.0, pa_mpjpe_mm=9.0, outlier=2.0))
    assert "subject3/sequence3 stands out" in found
    assert "weakest" not in found


def test_what_to_record_more_of(tmp_path: Path) -> None:
    identity = RunIdentity("run", "arctic-all-val", "v1", "synthetic", "c")
    summary = Summary()
    for _ in range(6):
        errors = np.array([10.0] * 6 + [30.0] * 2)
        values = {name: np.full(8, np.nan) for name in SAMPLE_METRICS} | {"mpjpe_mm": errors}
        objects = np.array(["box"] * 6 + ["scissors"] * 2)
        summary.add_sequence(values, {"object": objects, "action": np.array(["use"] * 8)})
    with table_writer(tmp_path, "summary", identity) as writer:
        writer.write(summary.rows())
    found = list(_to_collect(Evidence(RunResults(tmp_path, "run"), {}, [])))
    assert len(found) == 1
    # a quarter of the samples at 30 mm, the rest at 10 mm: a mean of 15 mm, of which they add 5
    assert "object scissors (25 % of the samples): 30.0 mm, 10.0 mm elsewhere." in found[0].evidence
    assert "would fall by 33 %" in found[0].action


def test_a_hand_that_is_found_nowhere_is_placed_wrongly(tmp_path: Path) -> None:
    wrong = make_run(tmp_path, "wrong", mpjpe_mm=9.0, pa_mpjpe_mm=8.0, detected=0.1, translation_error_mm=52000.0)
    right = make_run(tmp_path, "right", mpjpe_mm=9.0, pa_mpjpe_mm=8.0, detected=0.9, translation_error_mm=30.0)
    (found,) = [finding for finding in find(Evidence(wrong, {}, [])) if "placed wrongly" in finding.title]
    assert "10 % of the hands" in found.evidence
    assert "52.00 m" in found.evidence
    assert "placed wrongly" not in titles(right)


def curve(metric: str, split: str, *values: float | None) -> Curve:
    return Curve(metric, split, list(range(len(values))), list(values))


@pytest.mark.parametrize(
    ("curves", "title"),
    [
        ([curve("mpjpe_mm", "train", 20.0), curve("mpjpe_mm", "val", 40.0)], "knows its training subjects"),
        (
            [curve("mpjpe_mm", "val", 9), *(curve("loss/KEYPOINTS_3D", s, v) for s, v in (("train", 2), ("val", 4)))],
            "knows its training subjects",
        ),
        ([curve("mpjpe_mm", "val", 90, 60, 50, 45, 40, 35, 30, 20)], "still getting better"),
        ([curve("mpjpe_mm", "val", 90, 40, 30, 30, 31, 35, 38, 40)], "last checkpoint is worse"),
        ([curve("share/KEYPOINTS_3D", "train", 0.7), curve("share/BETAS", "train", 0.3)], "KEYPOINTS_3D dominates"),
        ([curve("data_wait_share", "train", 0.5, None)], "waits for data"),
    ],
)  # fmt: skip
def test_training_curves(tmp_path: Path, curves: list[Curve], title: str) -> None:
    run = make_run(tmp_path, "run", mpjpe_mm=10.0, pa_mpjpe_mm=9.0)
    assert title in titles(run, curves=curves)
    assert title not in titles(run)


def test_healthy_curves_are_not_complained_about(tmp_path: Path) -> None:
    run = make_run(tmp_path, "run", mpjpe_mm=10.0, pa_mpjpe_mm=9.0)
    curves = [
        curve("mpjpe_mm", "train", 90, 40, 30, 29, 29, 29, 29, 29),
        curve("mpjpe_mm", "val", 92, 42, 31, 30, 30, 30, 30, 30),
        curve("share/A", "train", 0.5),
        curve("share/B", "train", 0.5),
        curve("data_wait_share", "train", 0.02),
    ]
    assert titles(run, curves=curves) == ""
