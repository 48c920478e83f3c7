"""The page about one sample: what the view holds is on it, and it needs nothing else."""

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from hawor_pipeline.core.skeleton import JOINT_NAMES
from hawor_pipeline.evaluation.declared_metrics import SAMPLE_METRICS
from hawor_pipeline.evaluation.tables import RunIdentity
from hawor_pipeline.inspection.sample_view import RunOnSample, SampleView
from hawor_pipeline.reporting.sample_page import write_sample_page
from hawor_pipeline_tests.reporting.test_report import parsed

SAMPLE_ID = "s05/box_grab_01/1/00012/left"


def make_run(run_id: str, error: float) -> RunOnSample:
    metrics: dict[str, float | None] = dict.fromkeys(SAMPLE_METRICS, None)
    metrics |= {"mpjpe_mm": error, "pa_mpjpe_mm": error / 3}
    track = {frame: error + frame for frame in range(10, 15)}
    return RunOnSample(run_id, RunIdentity(run_id, "arctic-all-val", "v1", "synthetic"), metrics, 0.25, track)


def make_view(runs: list[RunOnSample], source: str = "synthetic") -> SampleView:
    jpeg = cv2.imencode(".jpg", np.full((64, 64, 3), 90, np.uint8))[1].tobytes()
    facts = {"subject": "s05", "side": "left", "frame": 12, "occlusion": 0.25, "truncation": 0.0, "valid": True}
    facts |= {"box_size_px": 120.0, "image_width": 700, "image_height": 500, "skip_reason": "", "view": 1}
    joint = {"visible": True, "in_frame": True, "error_mm": 7.25 if runs else None, "error_px": None}
    square = [[0.0, 0, 0], [10, 0, 0], [0, 10, 0]]
    return SampleView(
        sample_id=SAMPLE_ID,
        source=source,
        facts=facts,
        depth_m=0.8,
        panels=[("crop", jpeg), ("true mesh", jpeg)],
        panel_px=64,
        joints=[{"joint": name, **joint} for name in JOINT_NAMES],
        meshes={"true_mm": square, **({"predicted_mm": square} if runs else {})},
        faces=[[0, 1, 2]],
        run=runs[0] if runs else None,
        history=runs,
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    runs = [make_run("demo-1", 21.5), make_run("baseline-mean_pose-v1", 90.25), make_run("other", 30.0)]
    return write_sample_page(make_view(runs), tmp_path_factory.mktemp("page") / "sample.html").read_text()


def test_page_is_well_formed_and_loads_nothing(page: str) -> None:
    text = parsed(page)
    assert not text.faults
    assert not text.open
    assert all(link.startswith(("#", "data:")) for link in text.links)


def test_numbers_and_history_are_there(page: str) -> None:
    words = " ".join(" ".join(parsed(page).words).split())
    assert "21.5 mm mean joint error" in words
    assert "25 % of its samples are worse".replace(" %", "\u202f%") in words or "25 %" in words
    for expected in (SAMPLE_ID, "mean pose", "90.2 mm", "other", "30.0 mm", "7.2", "SYNTHETIC SAMPLE"):
        assert expected in words, expected
    first = re.search(r"<tbody><tr><th scope=\"row\">(.*?) <span", page.split('id="h-history"')[1])
    assert first is not None
    assert first.group(1) == "demo-1"  # the run that is drawn comes first


def test_a_sample_without_predictions_has_a_page(tmp_path: Path) -> None:
    page = write_sample_page(make_view([], "arctic"), tmp_path / "sample.html").read_text()
    words = " ".join(" ".join(parsed(page).words).split())
    assert "No run has predicted this sample yet" in words
    assert "SYNTHETIC" not in words
    assert 'id="h-history"' not in page
