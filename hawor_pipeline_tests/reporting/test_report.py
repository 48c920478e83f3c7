"""The report lays out exactly the numbers of the tables, in one self-contained file."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.evaluation.tables import read_table
from hawor_pipeline.reporting import figures
from hawor_pipeline.reporting.build_report import build_report
from hawor_pipeline.reporting.pages import number, share
from hawor_pipeline.reporting.results import RunResults, find_baselines
from hawor_pipeline_tests.reporting.tables_on_disk import VERSION, write_everything, write_run

RUN_ID = "demo-0a1b2c3d4e"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("project")
    run_dir, metrics_dir = write_everything(root)
    build_report(run_dir, metrics_dir, root / "reports")
    return root


@pytest.fixture(scope="module")
def page(project: Path) -> str:
    return (project / "reports" / RUN_ID / "report.html").read_text()


@pytest.fixture(scope="module")
def numbers(project: Path) -> dict:
    return json.loads((project / "reports" / RUN_ID / "report.json").read_text())


class Text(HTMLParser):
    """Collects visible text, links to elsewhere, and tags that were not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.links += [value for name, value in attrs if name in ("src", "href", "action", "data") and value]
        if tag not in ("meta", "link", "img", "br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.faults.append(tag)
        else:
            self.open.pop()

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.links += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_data(self, data: str) -> None:
        if "script" not in self.open and "style" not in self.open:
            self.words.append(data)


def parsed(page: str) -> Text:
    text = Text()
    text.feed(page)
    return text


def test_page_is_small_well_formed_and_loads_nothing(page: str) -> None:
    assert len(page.encode()) < 8_000_000
    text = parsed(page)
    assert not text.faults
    assert not text.open
    assert all(link.startswith(("#", "data:")) for link in text.links)
    assert "@import" not in page.split("</style>")[0]


def test_headline_numbers_are_those_of_the_tables(project: Path, page: str, numbers: dict) -> None:
    errors = read_table(project / "metrics", "samples", RUN_ID)["mpjpe_mm"].to_numpy()
    baseline = read_table(project / "metrics", "samples", f"baseline-mean_pose-{VERSION}")["mpjpe_mm"].to_numpy()
    assert numbers["metrics"]["mpjpe_mm"]["value"] == pytest.approx(errors.mean())
    assert numbers["floors"]["mpjpe_mm"]["mean_pose"] == pytest.approx(baseline.mean())
    words = " ".join(" ".join(parsed(page).words).split())
    assert f"the mean joint error with wrists aligned is {number(errors.mean())} mm" in words
    gain = share(1 - errors.mean() / baseline.mean()).replace("\u202f", " ")
    assert f"{gain} less than a constant mean hand ({number(baseline.mean())} mm)" in words


def test_other_tables_give_other_numbers(tmp_path: Path) -> None:
    run_dir, metrics_dir = write_everything(tmp_path)
    write_run(metrics_dir, RUN_ID, 7.0)
    result = build_report(run_dir, metrics_dir, tmp_path / "reports")
    errors = read_table(metrics_dir, "samples", RUN_ID)["mpjpe_mm"].to_numpy()
    assert result.info["metrics"]["mpjpe_mm"] == pytest.approx(errors.mean())
    met = {target["metric"]: target["met"] for target in result.info["targets"]}
    assert met["mpjpe_mm"] == bool(errors.mean() < 10)
    assert met["pck_2d_10px"] and met["mpjpe_crop_px"] is True


def test_synthetic_sample_is_marked_on_screen_on_paper_and_in_the_text(project: Path, page: str) -> None:
    assert 'class="banner"' in page
    assert 'class="ribbon"' in page
    assert page.count("sample only") >= 4
    assert "SYNTHETIC SAMPLE" in (project / "reports" / RUN_ID / "report.md").read_text()


def test_real_data_are_not_called_synthetic(tmp_path: Path) -> None:
    run_dir, metrics_dir = write_everything(tmp_path, source="arctic")
    build_report(run_dir, metrics_dir, tmp_path / "reports")
    page = (tmp_path / "reports" / RUN_ID / "report.html").read_text()
    body = re.sub(r"<style>.*?</style>|<script.*?</script>", "", page, flags=re.S)
    assert "SYNTHETIC" not in body
    assert "sample only" not in body


def test_every_part_of_the_report_is_there(page: str) -> None:
    words = " ".join(parsed(page).words)
    for part in (
        "Targets", "What to do next", "Against baselines and rivals", "Accuracy", "Where errors come from", "Samples",
        "Training",
        "Published numbers", "Provenance", "Loss terms", "Weights", "Gradient norms", "Learning rate",
        "Throughput", "Memory", "mean rotations", "Checkpoint, sha256", "learning_rate: 0.0005",
    ):  # fmt: skip
        assert part in words, part
    assert words.count("Second-hand") >= 1


def test_markdown_images_exist(project: Path) -> None:
    folder = project / "reports" / RUN_ID
    names = re.findall(r"\]\((pictures/[^)]+)\)", (folder / "report.md").read_text())
    assert len(names) == 6
    assert all((folder / name).is_file() for name in names)


def test_finished_report_is_reused_until_a_table_changes(project: Path) -> None:
    run_dir, metrics_dir = project / "runs" / RUN_ID, project / "metrics"
    again = build_report(run_dir, metrics_dir, project / "reports")
    assert again.reused
    assert again.path == project / "reports" / RUN_ID / "report.html"
    (run_dir / "config.yaml").write_text("learning_rate: 0.0005\nseed: 2\n")
    assert not build_report(run_dir, metrics_dir, project / "reports").reused


def test_same_tables_give_the_same_page(project: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        build_report(project / "runs" / RUN_ID, project / "metrics", tmp_path / name)
    pages = [(tmp_path / name / RUN_ID / "report.html").read_bytes() for name in ("a", "b")]
    assert pages[0] == pages[1]


def test_missing_run_and_missing_evaluation_are_named(project: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        build_report(project / "runs" / "nothing", project / "metrics", tmp_path)
    with pytest.raises(DataError, match="Evaluate the run first"):
        build_report(project / "runs" / RUN_ID, tmp_path / "metrics", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_run_without_baselines_curves_and_gallery_still_has_a_report(tmp_path: Path) -> None:
    write_run(tmp_path / "metrics", "lonely", 30.0, sequences=2)
    (tmp_path / "runs" / "lonely").mkdir(parents=True)
    build_report(tmp_path / "runs" / "lonely", tmp_path / "metrics", tmp_path / "reports")
    page = (tmp_path / "reports" / "lonely" / "report.html").read_text()
    assert not parsed(page).faults
    assert 'id="training"' not in page
    assert "2 of at least 5 sequences that an interval needs" in page


def test_pck_curve_is_the_share_of_joints(project: Path) -> None:
    run = RunResults(project / "metrics", RUN_ID)
    errors = read_table(project / "metrics", "joints", RUN_ID)["error_mm"].to_numpy()
    curve = figures.pck_curve(figures.with_baselines(run, find_baselines(project / "metrics", run)), 15.0)["data"][0]
    for limit in (0, 7, 15, 50):
        assert curve["y"][limit] == pytest.approx(100 * np.mean(errors <= limit), rel=1e-3)
    assert run.value("pck_3d_15mm") == pytest.approx(np.mean(errors <= 15), rel=1e-6)


def test_baselines_of_another_dataset_or_protocol_are_skipped(project: Path) -> None:
    metrics_dir = project / "metrics"
    write_run(metrics_dir, "baseline-mean_pose-v-other", 1.0, checkpoint=None)
    run = RunResults(metrics_dir, RUN_ID)
    assert find_baselines(metrics_dir, run)["mean_pose"].run_id == f"baseline-mean_pose-{VERSION}"
    run.identity = replace(run.identity, protocol="arctic-p2-val")
    assert find_baselines(metrics_dir, run) == {}


def test_figures_are_valid_json(project: Path, page: str) -> None:
    block = re.search(r'id="figures">(.*?)</script>', page, re.S)
    assert block is not None
    content = json.loads(block.group(1))
    places = set(re.findall(r'data-figure="([^"]+)"', page)) - {"mesh"}
    assert places <= set(content)
    assert "mesh" in content


def test_reporting_loads_no_torch() -> None:
    code = "import sys, hawor_pipeline.reporting.build_report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_split_is_named_and_a_checkpoint_chosen_on_evaluated_subjects_is_marked(tmp_path: Path) -> None:
    run_dir, metrics_dir = write_everything(tmp_path)
    split = {"rule": "val_subjects", "training": ["s01", "s02"], "validation": ["s05"]}
    (run_dir / "result.json").write_text(json.dumps({"split": split, "step": 1600, "best_step": 800, "seconds": 90.0}))
    path = build_report(run_dir, metrics_dir, tmp_path / "reports").path
    words = " ".join(" ".join(parsed(path.read_text()).words).split())
    assert "Trained on s01, s02; validated on s05 (rule: val subjects)." in words
    assert "chosen by its error on s05" in words
    assert "in 1.5 minutes" in words
    assert "chosen by its error on s05" in path.with_name("report.md").read_text()
    split["validation"] = ["s04"]
    (run_dir / "result.json").write_text(json.dumps({"split": split}))
    again = build_report(run_dir, metrics_dir, tmp_path / "reports")
    assert not again.reused
    assert "chosen by its error" not in again.path.read_text()
