"""The report in a real browser: on a phone and on a desk, offline, without errors, nothing cut off."""

import shutil
from pathlib import Path

import pytest

from hawor_pipeline.reporting.report import build_report
from hawor_pipeline_tests.browser.browser import chromium_page
from hawor_pipeline_tests.reporting.tables_on_disk import write_everything

pytestmark = pytest.mark.engine
# Elements that reach past the right edge although nothing around them scrolls.
CUT_OFF = """[...document.querySelectorAll('body *')]
  .filter(e => !e.closest('.scroll') && !e.closest('svg') && !e.closest('.ribbon'))
  .filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    run_dir, metrics_dir = write_everything(root)
    return build_report(run_dir, metrics_dir, root / "reports").path


@pytest.mark.parametrize("width", [390, 1440])
def test_report_is_drawn_without_errors_or_requests(report: Path, width: int, screenshots: Path) -> None:
    with chromium_page(width=width, height=900) as page:
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto(report.as_uri())
        page.wait_for_selector("html[data-drawn]", timeout=60_000)
        assert page.console_errors == []
        assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [report.as_uri()]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(CUT_OFF) == []
        charts = page.locator("[data-figure]").count()
        assert charts > 8
        assert page.locator("[data-figure] .main-svg").count() >= charts
        page.screenshot(path=screenshots / f"report-{width}.png", full_page=True)


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
