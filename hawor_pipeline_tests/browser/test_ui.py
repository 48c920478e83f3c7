"""Dagster's web UI in a real browser: the graph, a finished run, and the metadata of its assets."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from hawor_pipeline_tests.browser.browser import chromium_page
from hawor_pipeline_tests.conftest import REPOSITORY, project_environment

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1200)]
_START_TIMEOUT_S = 90.0
_PAGE_TIMEOUT_MS = 60_000
_RUN_TIMEOUT_S = 600.0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def web_ui(finished_project: Path):
    """Start `dagster dev` (web server and daemon) on a finished project and yield its address."""
    port = _free_port()
    log = open(finished_project / "webserver.log", "w")  # noqa: SIM115 - lives as long as the server
    server = subprocess.Popen(
        [sys.executable, "-m", "dagster", "dev", "-h", "127.0.0.1", "-p", str(port)],
        cwd=finished_project,
        env={**project_environment(), "DAGSTER_HOME": str(finished_project)},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_up(address, server, finished_project / "webserver.log")
        yield address
    finally:
        os.killpg(server.pid, signal.SIGINT)
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
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


def _graphql(address: str, query: str, **variables) -> dict:
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{address}/graphql", body, {"Content-Type": "application/json"})
    return json.loads(urllib.request.urlopen(request, timeout=60).read())["data"]


LAUNCH = """
mutation($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }
  }
}
"""
TERMINATE = """
mutation($run: String!) { terminateRun(runId: $run) { __typename } }
"""
LATEST = """
{ assetOrError(assetKey: {path: ["%s"]}) { ... on Asset {
    assetMaterializations(limit: 1) { runId metadataEntries { label ... on BoolMetadataEntry { boolValue } } }
} } }
"""


def test_the_graph_shows_every_asset(web_ui, screenshots):
    with chromium_page(1700, 800) as page:
        page.goto(f"{web_ui}/asset-groups", timeout=_PAGE_TIMEOUT_MS)
        for name in ("raw_arctic_sequences", "subject_shards", "trained_checkpoint", "final_report"):
            page.get_by_text(name, exact=True).first.wait_for(timeout=_PAGE_TIMEOUT_MS, state="attached")
        page.wait_for_timeout(3000)
        page.screenshot(path=screenshots / "graph.png")


def test_a_finished_run_shows_its_steps(web_ui, screenshots):
    runs = _graphql(web_ui, "{runsOrError{... on Runs{results{runId status jobName}}}}")["runsOrError"]["results"]
    run = next(run for run in runs if run["jobName"] == "full_pipeline_job")
    assert run["status"] == "SUCCESS"
    with chromium_page() as page:
        page.goto(f"{web_ui}/runs/{run['runId']}", timeout=_PAGE_TIMEOUT_MS)
        page.get_by_text("trained_checkpoint").first.wait_for(timeout=_PAGE_TIMEOUT_MS)
        page.wait_for_timeout(2000)
        page.screenshot(path=screenshots / "run.png")


@pytest.mark.parametrize(
    ("asset", "expected"),
    [("evaluation_metrics", "mpjpe_mm"), ("trained_checkpoint", "checkpoint_sha256"), ("quality_stats", "occlu")],
)
def test_an_asset_shows_its_metadata(web_ui, screenshots, asset, expected):
    with chromium_page(1440, 1400) as page:
        page.goto(f"{web_ui}/assets/{asset}?view=overview", timeout=_PAGE_TIMEOUT_MS)
        page.get_by_text(expected).first.wait_for(timeout=_PAGE_TIMEOUT_MS)
        page.wait_for_timeout(2000)
        page.screenshot(path=screenshots / f"{asset}.png")


def _launch(address: str, preset: dict) -> str:
    """Launch the main job without tags or partition and return the run's id."""
    selector = {
        "repositoryLocationName": "hawor_pipeline.definitions",
        "repositoryName": "__repository__",
        "pipelineName": "full_pipeline_job",
    }
    launched = _graphql(address, LAUNCH, params={"selector": selector, "mode": "default", "runConfigData": preset})
    assert launched["launchRun"]["__typename"] == "LaunchRunSuccess", launched
    return launched["launchRun"]["run"]["runId"]


def _ended(address: str, run_id: str) -> str:
    """Wait for a run and return its status."""
    query = f'{{runOrError(runId: "{run_id}"){{... on Run{{status}}}}}}'
    deadline = time.monotonic() + _RUN_TIMEOUT_S
    while (status := _graphql(address, query)["runOrError"]["status"]) not in ("SUCCESS", "FAILURE", "CANCELED"):
        assert time.monotonic() < deadline, f"the run is still {status}"
        time.sleep(1)
    return status


def _smoke(**overrides) -> dict:
    preset = yaml.safe_load((REPOSITORY / "configs" / "jobs" / "smoke.yaml").read_text())
    preset["ops"]["trained_checkpoint"]["config"]["overrides"].update(overrides)
    return preset


def test_the_job_launched_from_the_ui_reuses_what_is_there(web_ui, finished_project):
    """A launch without tags or partition, as by the button, covers all subjects in one run."""
    run_id = _launch(web_ui, _smoke())
    assert _ended(web_ui, run_id) == "SUCCESS"
    for asset in ("trained_checkpoint", "evaluation_metrics", "quality_stats", "final_report"):
        (latest,) = _graphql(web_ui, LATEST % asset)["assetOrError"]["assetMaterializations"]
        entries = {entry["label"]: entry.get("boolValue") for entry in latest["metadataEntries"]}
        assert latest["runId"] == run_id
        assert entries["reused"] is True, asset


def _new_training(project: Path, known: set[Path]) -> Path:
    """Wait for a training that has saved a checkpoint, and return its run folder."""
    deadline = time.monotonic() + _RUN_TIMEOUT_S
    while time.monotonic() < deadline:
        for checkpoint in set((project / "data" / "runs").glob("*/checkpoints/last.ckpt")) - known:
            return checkpoint.parents[1]
        time.sleep(0.2)
    pytest.fail("training wrote no checkpoint in time")


def _starts(run: Path) -> list[int]:
    """Return the step at which each process of a training run began."""
    lines = [json.loads(line) for line in (run / "progress.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if line["kind"] == "start"]


def test_a_training_cancelled_in_the_ui_ends_saves_and_goes_on_later(web_ui, finished_project, screenshots):
    """The button "Terminate": the run is cancelled, its processes end, its slot is free; the next run resumes."""
    preset = _smoke(max_steps=3000, save_every_n_steps=2, val_check_interval=1500)
    known = set((finished_project / "data" / "runs").glob("*/checkpoints/last.ckpt"))
    run_id = _launch(web_ui, preset)
    training = _new_training(finished_project, known)
    with chromium_page(1440, 1000) as page:
        page.goto(f"{web_ui}/runs/{run_id}", timeout=_PAGE_TIMEOUT_MS)
        page.get_by_role("button", name="Terminate").click(timeout=_PAGE_TIMEOUT_MS)
        page.get_by_role("button", name="Terminate 1 run").click(timeout=_PAGE_TIMEOUT_MS)
        page.wait_for_timeout(3000)
        page.screenshot(path=screenshots / "terminate.png")
    assert _ended(web_ui, run_id) == "CANCELED"
    assert json.loads((training / "result.json").read_text())["status"] == "interrupted"
    pools = _graphql(web_ui, "{instance{concurrencyLimits{concurrencyKey activeSlotCount pendingStepCount}}}")
    (gpu,) = [pool for pool in pools["instance"]["concurrencyLimits"] if pool["concurrencyKey"] == "gpu"]
    assert (gpu["activeSlotCount"], gpu["pendingStepCount"]) == (0, 0)
    again = _launch(web_ui, preset)
    deadline = time.monotonic() + _RUN_TIMEOUT_S
    while len(_starts(training)) < 2:
        assert time.monotonic() < deadline, "the second run did not continue the training"
        time.sleep(0.5)
    _graphql(web_ui, TERMINATE, run=again)
    assert _ended(web_ui, again) == "CANCELED"
    first, second = _starts(training)
    assert first == 0
    assert second > 0
