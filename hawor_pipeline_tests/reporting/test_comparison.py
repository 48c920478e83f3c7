"""Gate decision, paired differences and robustness curves on the report: those of the tables, or none."""

import json
from pathlib import Path

import pytest

from hawor_pipeline.commands.printing import print_report
from hawor_pipeline.evaluation.compare import write_comparison
from hawor_pipeline.evaluation.registry import Registry, RunRecord
from hawor_pipeline.evaluation.tables import table_writer
from hawor_pipeline.provenance import sha256_file
from hawor_pipeline.reporting.build_report import build_report
from hawor_pipeline.reporting.comparison import decision, paired_differences, robustness_charts, with_champion
from hawor_pipeline.reporting.results import RunResults, find_baselines
from hawor_pipeline_tests.reporting.tables_on_disk import VERSION, write_run
from hawor_pipeline_tests.reporting.test_report import parsed


def promoted(root: Path, run_id: str, scale: float) -> Registry:
    """A registry whose champion is a run of about this error."""
    (root / f"{run_id}.ckpt").write_bytes(run_id.encode())
    digest = sha256_file(root / f"{run_id}.ckpt")
    identity = write_run(root / "metrics", run_id, scale, checkpoint=digest)
    registry = Registry(root / "registry")
    about = (identity.protocol, identity.dataset_version, identity.source)
    record = RunRecord(run_id, *about, digest, str(root / f"{run_id}.ckpt"), {"mpjpe_mm": scale})
    registry.promote(record, "for the test")
    return registry


@pytest.mark.parametrize(("scale", "title"), [(20.0, "Passes the gate"), (60.0, "Does not take the champion's place")])
def test_the_gate_speaks_on_the_report(tmp_path: Path, scale: float, title: str) -> None:
    registry = promoted(tmp_path, "champ-1", 40.0)
    write_run(tmp_path / "metrics", "demo-1", scale)
    (tmp_path / "runs" / "demo-1").mkdir(parents=True)
    result = build_report(
        tmp_path / "runs" / "demo-1", tmp_path / "metrics", tmp_path / "reports", registry_dir=registry.root
    )
    words = " ".join(" ".join(parsed(result.path.read_text()).words).split())
    assert title in words
    assert "champ-1" in words
    numbers = json.loads(result.path.with_name("report.json").read_text())
    champion = RunResults(tmp_path / "metrics", "champ-1")
    assert numbers["rivals"]["mpjpe_mm"]["champion"] == champion.value("mpjpe_mm")


def test_first_champion_and_the_champion_itself(tmp_path: Path) -> None:
    write_run(tmp_path / "metrics", "demo-1", 40.0)
    run = RunResults(tmp_path / "metrics", "demo-1")
    assert decision(run, None) is None
    first = decision(run, tmp_path / "nothing")
    assert first is not None
    assert first.title == "May become the first champion"
    registry = promoted(tmp_path, "champ-1", 40.0)
    itself = decision(RunResults(tmp_path / "metrics", "champ-1"), registry.root)
    assert itself is not None
    assert itself.outcome == "is_champion"
    baselines = {"mean_pose": run, "champion": run}
    champion = RunResults(tmp_path / "metrics", "champ-1")
    assert list(with_champion(baselines, champion, registry.root)) == ["mean_pose", "previous_champion"]
    assert with_champion(baselines, run, registry.root)["champion"].run_id == "champ-1"


def test_a_champion_without_tables_is_named_and_stops_nothing(tmp_path: Path) -> None:
    registry = promoted(tmp_path, "champ-1", 40.0)
    for table in ("samples", "joints", "summary"):
        folder = tmp_path / "metrics" / table / "run_id=champ-1"
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    write_run(tmp_path / "metrics", "demo-1", 30.0)
    found = decision(RunResults(tmp_path / "metrics", "demo-1"), registry.root)
    assert found is not None
    assert found.outcome == "unknown"
    assert "champ-1" in found.reason


def test_paired_differences_come_from_the_comparison_table(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics"
    write_run(metrics, "demo-1", 30.0)
    write_run(metrics, f"baseline-mean_pose-{VERSION}", 90.0, checkpoint=None)
    run = RunResults(metrics, "demo-1")
    assert paired_differences(run) == []
    write_comparison(metrics, "demo-1", [f"baseline-mean_pose-{VERSION}"])
    rows = {row.item.metric: row for row in paired_differences(run)}
    assert set(rows) == {"mpjpe_mm", "pa_mpjpe_mm"}
    assert rows["mpjpe_mm"].other == "mean pose"
    assert rows["mpjpe_mm"].verdict == "better"
    baseline = RunResults(metrics, f"baseline-mean_pose-{VERSION}")
    assert rows["mpjpe_mm"].item.difference == pytest.approx(run.value("mpjpe_mm") - baseline.value("mpjpe_mm"))


def test_smoothed_predictions_of_another_checkpoint_are_skipped(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics"
    write_run(metrics, "demo-1", 30.0, checkpoint="a" * 64)
    write_run(metrics, f"baseline-mean_pose-{VERSION}", 90.0, checkpoint=None)
    write_run(metrics, f"baseline-smoothed-{VERSION}", 29.0, checkpoint="b" * 64)
    run = RunResults(metrics, "demo-1")
    assert list(find_baselines(metrics, run)) == ["mean_pose"]
    write_run(metrics, f"baseline-smoothed-{VERSION}", 29.0, checkpoint="a" * 64)
    assert list(find_baselines(metrics, run)) == ["mean_pose", "smoothed"]


def test_robustness_curves_start_at_the_reference_and_follow_the_levels(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics"
    write_run(metrics, "demo-1", 30.0)
    run = RunResults(metrics, "demo-1")
    assert robustness_charts(run) == []
    rows = [("none", 0.0, "", 10.0), ("blur", 1.0, "px", 11.0), ("blur", 2.0, "px", 14.0), ("blur", 4.0, "px", 25.0)]
    count = len(rows)
    with table_writer(metrics, "robustness", run.identity) as writer:
        writer.write(
            {
                "kind": [row[0] for row in rows],
                "level": [row[1] for row in rows],
                "level_unit": [row[2] for row in rows],
                "side": ["all"] * count,
                "metric": ["mpjpe_mm"] * count,
                "unit": ["mm"] * count,
                "value": [row[3] for row in rows],
                "ci_low": [None] * count,
                "ci_high": [None] * count,
                "n": [8] * count,
                "sequences": [2] * count,
                "note": ["few"] * count,
            }
        )
    (chart,) = robustness_charts(run)
    (trace,) = chart.figure["data"]
    assert trace["y"] == [10.0, 11.0, 14.0, 25.0]
    assert trace["text"] == ["undegraded", "1 px", "2 px", "4 px"]


@pytest.mark.parametrize(("scale", "even"), [(30.0, True), (15.0, False)])
def test_the_headline_says_where_an_aligned_gain_is_chance(tmp_path: Path, scale: float, even: bool) -> None:
    """Mean rotations as good as the run itself, and twice as bad."""
    metrics, floor = tmp_path / "metrics", f"baseline-mean_rotations-{VERSION}"
    write_run(metrics, "demo-1", scale)
    write_run(metrics, floor, 30.0, checkpoint=None)
    write_comparison(metrics, "demo-1", [floor])
    (tmp_path / "runs" / "demo-1").mkdir(parents=True)
    result = build_report(tmp_path / "runs" / "demo-1", metrics, tmp_path / "reports")
    words = " ".join(" ".join(parsed(result.path.read_text()).words).split())
    assert ("no difference beyond chance" in words) == even
    verdict = json.loads(result.path.with_name("report.json").read_text())["headline"]["aligned_verdict"]
    assert verdict == ("even" if even else "better")


def test_the_terminal_keeps_rivals_apart_from_floors(tmp_path: Path, capsys) -> None:
    metrics = tmp_path / "metrics"
    write_run(metrics, "demo-1", 30.0)
    write_run(metrics, f"baseline-mean_pose-{VERSION}", 90.0, checkpoint=None)
    (tmp_path / "runs" / "demo-1").mkdir(parents=True)
    print_report(build_report(tmp_path / "runs" / "demo-1", metrics, tmp_path / "reports").path)
    alone = capsys.readouterr().out
    assert "baselines: mean_pose" in alone and "rivals:" not in alone
    registry = promoted(tmp_path, "champ-1", 40.0)
    page = build_report(tmp_path / "runs" / "demo-1", metrics, tmp_path / "reports", registry_dir=registry.root).path
    print_report(page)
    line = next(text for text in capsys.readouterr().out.splitlines() if text.startswith("mpjpe_mm"))
    assert line.index("baselines: mean_pose") < line.index("rivals: champion")
