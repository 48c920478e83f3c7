"""A real Ray cluster on this machine: the same bytes as with processes, by the command line and by Dagster."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hawor_pipeline.data.ray_map import map_on_ray
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline_tests.conftest import project_environment

pytestmark = [pytest.mark.engine, pytest.mark.campaign]
ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
PORT, JOBS_PORT = 6391, 8291


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Environment of a cluster with two cores."""
    environment = {**project_environment(), "RAY_DISABLE_IMPORT_WARNING": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--num-cpus=2", f"--port={PORT}"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={JOBS_PORT}", "--include-dashboard=true"]
    command += ["--object-store-memory=100000000", "--disable-usage-stats", "--node-ip-address=127.0.0.1"]
    head = subprocess.Popen(
        [*command, "--block"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = {"RAY_ADDRESS": f"127.0.0.1:{PORT}", "RAY_DASHBOARD_ADDRESS": f"http://127.0.0.1:{JOBS_PORT}"}
    try:
        _wait_for_cluster(address["RAY_DASHBOARD_ADDRESS"])
        yield {**environment, **address, "HAWOR_ENGINE": "ray"}
    finally:
        head.terminate()
        head.wait(60)


def _wait_for_cluster(url: str, seconds: float = 120) -> None:
    import time

    import httpx

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


def test_all_subjects_convert_to_the_same_bytes(cluster, finished_project, tmp_path):
    sample = finished_project / "data" / "sample"
    command = [sys.executable, "-m", "hawor_pipeline.cli", "prepare", "--arctic-root", str(sample / "arctic")]
    command += ["--mano-dir", str(sample / "body_models" / "mano"), "--target-resolution", "64", "64"]
    done = subprocess.run(
        [*command, "--output-dir", str(tmp_path / "ray")], env=cluster, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout)["converted_sequences"] == 9
    by_processes = tree(finished_project / "data" / "shards" / "synthetic")
    assert len(by_processes) > 20
    assert tree(tmp_path / "ray") == by_processes


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
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-5000:]
    assert "Ray" in done.stderr
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
