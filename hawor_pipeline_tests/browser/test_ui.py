"""Dagster's web UI in a real browser: the graph, a finished run, and the metadata that a person wants to see."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from hawor_pipeline_tests.browser.browser import chromium_page

pytestmark = pytest.mark.engine
_START_TIMEOUT_S = 90.0
_PAGE_TIMEOUT_MS = 60_000


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def web_ui(finished_project: Path):
    """The web server over the instance of a finished run of the whole pipeline; yields its address."""
    port = _free_port()
    log = open(finished_project / "webserver.log", "w")  # noqa: SIM115 - lives as long as the server
    server = subprocess.Popen(
        [sys.executable, "-m", "dagster_webserver", "-h", "127.0.0.1", "-p", str(port), "-w", "workspace.yaml"],
        cwd=finished_project,
        env={**os.environ, "DAGSTER_HOME": str(finished_project), "PYTHONWARNINGS": "ignore"},
        stdout=log,
        stderr=log,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_up(address, server, finished_project / "webserver.log")
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)
        log.close()


def _wait_until_up(address: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            pytest.fail(f"the web server ended: {log.read_text()[-2000:]}")
        try:
            urllib.request.urlopen(f"{address}/server_info", timeout=5).read()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"the web server did not answer within {_START_TIMEOUT_S:.0f} s: {log.read_text()[-2000:]}")


def _graphql(address: str, query: str) -> dict:
    request = urllib.request.Request(
        f"{address}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    return json.loads(urllib.request.urlopen(request, timeout=60).read())["data"]


def test_the_graph_shows_every_asset(web_ui, screenshots):
    with chromium_page(1600, 900) as page:
        page.goto(f"{web_ui}/asset-groups", timeout=_PAGE_TIMEOUT_MS)
        for name in ("raw_arctic_sequences", "subject_shards", "trained_checkpoint", "final_report"):
            page.get_by_text(name, exact=True).first.wait_for(timeout=_PAGE_TIMEOUT_MS)
        page.wait_for_timeout(1500)
        page.screenshot(path=screenshots / "graph.png")


def test_a_finished_run_shows_its_steps(web_ui, screenshots):
    runs = _graphql(web_ui, "{runsOrError{... on Runs{results{runId status jobName}}}}")["runsOrError"]["results"]
    (run,) = [run for run in runs if run["jobName"] == "full_pipeline_job"][:1]
    assert run["status"] == "SUCCESS"
    with chromium_page() as page:
        page.goto(f"{web_ui}/runs/{run['runId']}", timeout=_PAGE_TIMEOUT_MS)
        page.get_by_text("trained_checkpoint").first.wait_for(timeout=_PAGE_TIMEOUT_MS)
        page.wait_for_timeout(1500)
        page.screenshot(path=screenshots / "run.png")


@pytest.mark.parametrize(
    ("asset", "expected"),
    [("evaluation_metrics", "mpjpe_mm"), ("trained_checkpoint", "checkpoint_sha256"), ("quality_stats", "occlusion")],
)
def test_an_asset_shows_its_metadata(web_ui, screenshots, asset, expected):
    with chromium_page(1440, 1400) as page:
        page.goto(f"{web_ui}/assets/{asset}?view=overview", timeout=_PAGE_TIMEOUT_MS)
        page.get_by_text(expected).first.wait_for(timeout=_PAGE_TIMEOUT_MS)
        page.wait_for_timeout(1500)
        page.screenshot(path=screenshots / f"{asset}.png")
