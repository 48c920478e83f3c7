"""The report in a real browser: on a phone and on a desk, offline, without errors, nothing cut off."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from hawor_pipeline.reporting.build_report import build_report
from hawor_pipeline.reporting.sample_page import write_sample_page
from hawor_pipeline.reporting.side_by_side import build_comparison
from hawor_pipeline_tests.browser.browser import chromium_page
from hawor_pipeline_tests.reporting.tables_on_disk import write_everything, write_run
from hawor_pipeline_tests.reporting.test_report import RUN_ID
from hawor_pipeline_tests.reporting.test_sample_page import make_run, make_view

pytestmark = pytest.mark.engine
JPEG = cv2.imencode(".jpg", np.full((256, 780, 3), 120, np.uint8))[1].tobytes()
# Elements that reach past the right edge although nothing around them scrolls.
CUT_OFF = """[...document.querySelectorAll('body *')]
  .filter(e => !e.closest('.scroll') && !e.closest('svg') && !e.closest('.ribbon'))
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 120))"""


# Text of charts that reaches out of its chart.
CUT_TEXT = """[...document.querySelectorAll('[data-figure] .main-svg text')].filter(text => {
  const place = text.closest('.plot').getBoundingClientRect(), box = text.getBoundingClientRect();
  return box.width > 0 && (box.left < place.left - 1 || box.right > place.right + 1 || box.top < place.top - 1
    || box.bottom > place.bottom + 1); }).map(text => text.closest('.plot').dataset.figure + ': ' + text.textContent)"""
# Names in legends that are longer than their place: plotly cuts them without a word.
CUT_NAMES = """[...document.querySelectorAll('[data-figure] .legend .traces')].filter(entry => {
  const name = entry.querySelector('.legendtext'), place = entry.querySelector('.legendtoggle');
  return name && name.getBoundingClientRect().right > place.getBoundingClientRect().right + 1;
}).map(entry => entry.textContent)"""
OPENED_MS = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def report(root: Path) -> Path:
    run_dir, metrics_dir = write_everything(root)
    return build_report(run_dir, metrics_dir, root / "reports").path


@pytest.fixture(scope="module")
def pages(root: Path, report: Path) -> dict[str, Path]:
    """One page of each kind."""
    write_run(root / "metrics", "another-run-with-a-long-name", 50.0)
    runs = (RUN_ID, "another-run-with-a-long-name")
    images = [
        {"rank": rank, "sample_id": "s05/espressomachine_grab_01_retake/8/00012/right", "mpjpe_mm": 9.0, "jpeg": JPEG}
        | {"other_mpjpe_mm": 80.0, "occlusion": 0.5, "width": 780, "height": 256}
        for rank in ("better", "worse")
    ]
    comparison = build_comparison(*runs, root / "metrics", root / "reports", runs_dir=root / "runs", images=images)
    sample = write_sample_page(make_view([make_run(name, 20.0) for name in runs]), root / "sample.html")
    return {"report": report, "comparison": comparison.path, "sample": sample}


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("kind", ["report", "comparison", "sample"])
def test_pages_are_drawn_without_errors_or_requests(kind: str, width: int, pages, screenshots: Path) -> None:
    path = pages[kind]
    with chromium_page(width=width, height=900) as page:
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-drawn]", timeout=60_000)
        assert page.console_errors == []
        assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [path.as_uri()]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(CUT_OFF) == []
        assert page.evaluate(CUT_TEXT) == []
        assert page.evaluate(CUT_NAMES) == []
        charts = page.locator("[data-figure]").count()
        assert charts >= (8 if kind == "report" else 2)
        assert page.locator("[data-figure] .main-svg").count() >= charts
        page.screenshot(path=screenshots / f"{kind}-{width}.png", full_page=True)


def test_the_report_opens_within_two_seconds(report: Path) -> None:
    opened = []
    with chromium_page() as page:
        for _ in range(3):
            page.goto(report.as_uri())
            opened.append(page.evaluate(OPENED_MS))
    assert min(opened) < 2000, opened


def test_mesh_turns_to_the_chosen_sample(report: Path) -> None:
    with chromium_page() as page:
        page.goto(report.as_uri())
        page.wait_for_selector("html[data-drawn]", timeout=60_000)
        shown = "document.querySelector('[data-figure=mesh]').data.map(trace => trace.visible)"
        assert page.evaluate(shown) == [True, True, False, False, False, False]
        page.locator("[data-meshes] input").nth(2).check()
        page.wait_for_function(f"({shown})[4] === true", timeout=10_000)
        assert page.evaluate(shown) == [False, False, False, False, True, True]


def test_every_printed_page_says_that_the_data_are_synthetic(report: Path, tmp_path: Path) -> None:
    reader = shutil.which("pdftotext")
    if reader is None:
        pytest.skip("no pdftotext on this machine (Debian: apt-get install poppler-utils)")
    import subprocess

    with chromium_page() as page:
        page.goto(report.as_uri())
        page.wait_for_selector("html[data-drawn]", timeout=60_000)
        page.pdf(path=tmp_path / "report.pdf", prefer_css_page_size=True)
    text = subprocess.run(
        [reader, str(tmp_path / "report.pdf"), "-"], capture_output=True, text=True, check=True
    ).stdout
    pages = text.rstrip("\f").split("\f")
    assert len(pages) > 3
    assert all("SYNTHETIC SAMPLE" in " ".join(page.split()) for page in pages)
