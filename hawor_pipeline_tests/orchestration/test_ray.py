"""A Ray cluster on this machine: the same bytes as with processes, from the command line and from Dagster."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import httpx
import pytest

from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.workers.engine import map_on_ray
from hawor_pipeline_tests.conftest import project_environment
from hawor_pipeline_tests.orchestration.daemon import free_ports, opened_instance

pytestmark = [pytest.mark.engine, pytest.mark.timeout(150)]
ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """Start a cluster with two cores for the module, and yield the environment of its clients."""
    programs = Path(sys.executable).parent  # jobs of the cluster call `dagster`, as in an activated environment
    environment = {
        **project_environment(),
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "RAY_DISABLE_IMPORT_WARNING": "1",
    }
    port, jobs_port = free_ports(2)
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # its sockets need a short path
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"]
    command += [f"--port={port}", "--node-ip-address=127.0.0.1", "--disable-usage-stats", f"--temp-dir={folder}"]
    command += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={jobs_port}"]
    head = subprocess.Popen(
        [*command, "--object-store-memory=100000000"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = {"RAY_ADDRESS": f"127.0.0.1:{port}", "RAY_DASHBOARD_ADDRESS": f"http://127.0.0.1:{jobs_port}"}
    try:
        _wait_for_cluster(address["RAY_DASHBOARD_ADDRESS"])
        yield {**environment, **address, "HAWOR_ENGINE": "ray"}
    finally:
        head.terminate()
        try:
            head.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for_cluster(url: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if httpx.get(f"{url}/api/version", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        assert time.monotonic() < deadline, "the Ray head did not come up"
        time.sleep(0.5)


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def convert(sample: Path, output: Path, environment: dict[str, str]) -> int:
    """Convert all subjects from the command line and return the number of converted sequences."""
    command = [sys.executable, "-m", "hawor_pipeline.cli", "prepare", "--arctic-root", str(sample / "arctic")]
    command += ["--mano-dir", str(sample / "body_models" / "mano"), "--target-resolution", "64", "64"]
    command += ["--output-dir", str(output)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)["converted_sequences"]


def test_all_subjects_convert_to_the_same_bytes(cluster, finished_project, tmp_path):
    sample = finished_project / "data" / "sample"
    assert convert(sample, tmp_path / "ray", cluster) == 9
    assert convert(sample, tmp_path / "processes", {**cluster, "HAWOR_ENGINE": "multiprocess"}) == 9
    by_processes = tree(tmp_path / "processes")
    assert len(by_processes) > 20
    assert tree(tmp_path / "ray") == by_processes
    by_the_job = tree(finished_project / "data" / "shards" / "synthetic")
    assert by_the_job.items() <= by_processes.items()  # the command also writes what the job keeps elsewhere


def test_steps_of_a_job_run_on_the_cluster(cluster, finished_project, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    settings = (finished_project / "dagster.yaml").read_text().replace("data/dagster", str(home / "dagster"))
    (home / "dagster.yaml").write_text(settings)
    sample = finished_project / "data" / "sample"
    environment = {
        **cluster,
        "DAGSTER_HOME": str(home),
        "HAWOR_DATA_DIR": str(tmp_path / "data"),
        "ARCTIC_ROOT": str(sample / "arctic"),
        "MANO_DIR": str(sample / "body_models" / "mano"),
    }
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "hawor_pipeline.definitions"]
    command += ["-j", "prepare_data_job", "--tags", '{"dagster/partition": "s05"}']
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=140)
    assert done.returncode == 0, done.stderr[-5000:]
    with opened_instance(home) as instance:
        (run,) = instance.get_runs()
        starting = dg.DagsterEventType.STEP_WORKER_STARTING
        messages = [record.message for record in instance.all_logs(run.run_id, of_type=starting)]
    assert len(messages) >= 2 and all("in Ray job" in message for message in messages)
    made = tree(tmp_path / "data" / "shards" / "synthetic" / "s05")
    assert "manifest.json" in made


def test_errors_of_tasks_come_back_and_cores_are_used(cluster, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", cluster["RAY_ADDRESS"])
    results = dict(map_on_ray(_halve, [2, 3, 4], os.getpid))
    assert results[2] == 1 and results[4] == 2
    assert isinstance(results[3], DataError) and "odd" in str(results[3])


def _halve(number: int) -> int:
    if number % 2:
        raise DataError(f"{number} is odd")
    return number // 2


def test_no_cluster_is_a_clear_error(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ConfigError, match="no Ray cluster answers"):
        list(map_on_ray(_halve, [2], os.getpid))
