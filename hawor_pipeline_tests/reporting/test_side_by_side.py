"""Two runs on one page: the differences of the tables, and the settings that differ."""

import json
from pathlib import Path

import numpy as np
import pytest

from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.evaluation.compare import Difference
from hawor_pipeline.evaluation.tables import read_table
from hawor_pipeline.inspection.gallery import pick_pairs
from hawor_pipeline.reporting.comparison import verdict
from hawor_pipeline.reporting.side_by_side import build_comparison
from hawor_pipeline_tests.reporting.tables_on_disk import VERSION, write_run, write_training
from hawor_pipeline_tests.reporting.test_report import parsed


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    for run_id, scale, rate in (("demo-a", 30.0, 4e-4), ("demo-b", 45.0, 7e-4)):
        write_training(root / "metrics", write_run(root / "metrics", run_id, scale))
        (root / "runs" / run_id).mkdir(parents=True)
        settings = f"seed: 1\nlearning_rate: {rate}\nloss_weights:\n  BETAS: {rate}\n"
        (root / "runs" / run_id / "config.yaml").write_text(settings)
    write_run(root / "metrics", f"baseline-mean_pose-{VERSION}", 100.0, checkpoint=None)
    return root


def build(project: Path, other: str = "demo-b", **more):
    return build_comparison(
        "demo-a", other, project / "metrics", project / "reports", runs_dir=project / "runs", **more
    )


def test_differences_are_those_of_the_samples(project: Path) -> None:
    result = build(project)
    ours, theirs = (
        read_table(project / "metrics", "samples", run)["mpjpe_mm"].to_numpy() for run in ("demo-a", "demo-b")
    )
    found = {item["metric"]: item for item in result.info["differences"]}["mpjpe_mm"]
    assert found["difference"] == pytest.approx((ours - theirs).mean())
    assert found["ci_low"] < found["difference"] < found["ci_high"] < 0
    words = " ".join(" ".join(parsed(result.path.read_text()).words).split())
    assert f"{ours.mean():.1f} mm" in words
    assert f"{theirs.mean():.1f} mm" in words
    assert "a real difference" in words
    numbers = json.loads(result.path.with_name("report.json").read_text())
    assert {row["metric"]: row["verdict"] for row in numbers["differences"]}["mpjpe_mm"] == "better"


def test_page_needs_nothing_else_and_shows_what_was_set_differently(project: Path) -> None:
    page = build(project).path.read_text()
    text = parsed(page)
    assert len(page.encode()) < 8_000_000
    assert not text.faults
    assert not text.open
    assert all(link.startswith(("#", "data:")) for link in text.links)
    words = " ".join(" ".join(text.words).split())
    assert "learning_rate 0.0004 0.0007" in words
    assert "loss_weights.BETAS 0.0004 0.0007" in words
    assert "seed 1" not in words
    for part in ("Differences", "Where they differ", "Training", "Settings that differ", "SYNTHETIC SAMPLE"):
        assert part in words


def test_images_are_laid_out_by_who_is_better(project: Path) -> None:
    item = {"sample_id": "s05/x/1/00001/left", "mpjpe_mm": 9.0, "other_mpjpe_mm": 50.0, "occlusion": 0.5}
    item |= {"jpeg": b"\xff\xd8\xff", "width": 30, "height": 10, "rank": "better"}
    words = " ".join(" ".join(parsed(build(project, images=[item]).path.read_text()).words).split())
    assert "demo-a is better" in words
    assert "demo-b is better" not in words
    assert "9.0 mm against 50.0 mm" in words


def test_a_baseline_has_no_settings(project: Path) -> None:
    words = " ".join(parsed(build(project, f"baseline-mean_pose-{VERSION}").path.read_text()).words)
    assert "mean pose" in words
    assert "no configuration here" in words


def test_finished_page_is_reused_until_it_would_look_different(project: Path) -> None:
    build(project)
    assert build(project).reused
    (project / "runs" / "demo-a" / "config.yaml").write_text("seed: 2\n")
    assert not build(project).reused


def test_what_cannot_be_compared_is_refused(project: Path) -> None:
    with pytest.raises(ConfigError, match="with itself"):
        build(project, "demo-a")
    with pytest.raises(DataError, match="no samples table"):
        build(project, "nobody")
    write_run(project / "metrics", "short", 30.0, sequences=3)
    with pytest.raises(DataError, match="same shards, subjects and protocol"):
        build(project, "short")
    assert not list((project / "reports").glob("*short*"))


@pytest.mark.parametrize(
    ("better", "difference", "ends", "expected"),
    [
        ("lower", -2.0, (-3.0, -1.0), "better"),
        ("lower", -2.0, (-3.0, 0.5), "even"),
        ("lower", 2.0, (1.0, 3.0), "worse"),
        ("higher", 0.2, (0.1, 0.3), "better"),
        ("higher", -0.2, (-0.3, -0.1), "worse"),
        ("higher", 0.2, (None, None), "no interval"),
        ("lower", 0.0, (0.0, 0.0), "even"),
    ],
)
def test_verdicts(better, difference, ends, expected) -> None:
    item = Difference("m", "mm", better, 1.0, 1.0 - difference, difference, *ends, 10, 6, None)
    assert verdict(item) == expected


def test_picked_pairs_differ_most_and_are_of_different_tracks(project: Path) -> None:
    columns = ["sample_id", "subject", "sequence", "view", "side", "mpjpe_mm"]
    write_run(project / "metrics", "demo-similar", 31.0)
    ours, theirs = (read_table(project / "metrics", "samples", run, columns) for run in ("demo-a", "demo-similar"))
    picks = pick_pairs(ours, theirs, 3)
    difference = ours["mpjpe_mm"].to_numpy() - theirs["mpjpe_mm"].to_numpy()
    assert difference[picks["better"][0]] == difference.min()
    assert difference[picks["worse"][0]] == difference.max()
    tracks = np.array([name.rsplit("/", 2)[0] + name[-4:] for name in ours["sample_id"].to_pylist()])
    assert all(len(set(tracks[rows])) == 3 for rows in picks.values())
