"""First use of the UI: start it, materialise everything, follow the training, open the report."""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from hawor_pipeline.config import read_yaml
from hawor_pipeline_tests.browser.browser import chromium_page
from hawor_pipeline_tests.conftest import REPOSITORY, project_environment
from hawor_pipeline_tests.orchestration.daemon import free_ports, opened_instance, wait_for

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800), pytest.mark.campaign]
LOCATION = "hawor_pipeline_tests.browser.small_location"
_PAGE_MS = 120_000
_PIPELINE_S = 1200.0


@pytest.fixture
def fresh(tmp_path: Path):
    """Yield an empty project and the address of its UI, started by `hawor-pipeline ui`."""
    shutil.copy(REPOSITORY / "dagster.yaml", tmp_path)
    location = {"python_module": {"module_name": LOCATION, "working_directory": "."}}
    (tmp_path / "workspace.yaml").write_text(yaml.safe_dump({"load_from": [location]}))
    smoke = read_yaml(REPOSITORY / "configs" / "jobs" / "smoke.yaml")["ops"]["trained_checkpoint"]["config"]
    demo = read_yaml(REPOSITORY / "configs" / "experiments" / "demo.yaml")
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({**demo, **smoke["overrides"]}))
    ports = [str(port) for port in free_ports(3)]
    command = [sys.executable, "-m", "hawor_pipeline.cli", "ui", "--port", ports[0], "--reports-port", ports[1]]
    with open(tmp_path / "ui.log", "w") as log:
        process = subprocess.Popen(
            [*command, "--tensorboard-port", ports[2]],
            cwd=tmp_path,
            env=project_environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            address = f"http://127.0.0.1:{ports[0]}"
            wait_for(lambda: _answers(f"{address}/server_info"), 180, "the UI answers")
            yield tmp_path, address
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise
    assert not _answers(f"http://127.0.0.1:{ports[1]}/")
    assert not _answers(f"http://127.0.0.1:{ports[2]}/")


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=5).read()
        return True
    except (urllib.error.URLError, OSError):
        return False


def _statuses(project: Path) -> list[str]:
    with opened_instance(project) as instance:
        return [run.status.value for run in instance.get_runs()]


def test_from_an_empty_folder_to_the_report_by_clicking(fresh, screenshots):
    project, address = fresh
    with chromium_page(1700, 1000) as page:
        page.goto(f"{address}/asset-groups", timeout=_PAGE_MS)
        page.get_by_text("trained_checkpoint", exact=True).first.wait_for(timeout=_PAGE_MS, state="attached")
        page.get_by_role("button", name="Materialize all").first.click()
        page.get_by_role("button", name="All", exact=True).click()
        page.wait_for_timeout(1500)
        page.screenshot(path=screenshots / "first_1_materialize_all.png")
        page.get_by_role("button", name="Launch backfill").click()
        wait_for(lambda: list((project / "data" / "runs").glob("*/progress.jsonl")), _PIPELINE_S, "training begins")
        page.goto(f"{address}/assets/trained_checkpoint?view=events", timeout=_PAGE_MS)
        page.get_by_text("trained_checkpoint").first.wait_for(timeout=_PAGE_MS)
        page.wait_for_timeout(4000)
        page.screenshot(path=screenshots / "first_2_watch_training.png")
        wait_for(lambda: _statuses(project)[:2] == ["SUCCESS", "SUCCESS"], _PIPELINE_S, "both runs succeed")
        time.sleep(2)
        page.goto(f"{address}/assets/final_report?view=overview", timeout=_PAGE_MS)
        link = page.get_by_role("link", name="report.html").first
        link.wait_for(timeout=_PAGE_MS)
        page.wait_for_timeout(2000)
        page.screenshot(path=screenshots / "first_3_report_asset.png")
        with page.context.expect_page(timeout=_PAGE_MS) as opened:
            link.click()
        report = opened.value
        report.get_by_text("SYNTHETIC SAMPLE").first.wait_for(timeout=_PAGE_MS)
        report.screenshot(path=screenshots / "first_4_report.png")
        assert "report.html" in report.url
        page.goto(f"{address}/assets/trained_checkpoint?view=overview", timeout=_PAGE_MS)
        curves = page.get_by_role("link", name="runFilter").first
        curves.wait_for(timeout=_PAGE_MS)
        assert _answers(curves.get_attribute("href"))
