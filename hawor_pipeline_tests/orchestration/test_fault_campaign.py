"""The fault campaign of the benchmarks with few faults: `--faults N` sets their number."""

import json
import subprocess
import sys

import pytest

from hawor_pipeline_tests.conftest import REPOSITORY, project_environment

pytestmark = [pytest.mark.engine, pytest.mark.timeout(3600), pytest.mark.campaign]


def test_faults_lose_nothing_and_leave_nothing_behind(tmp_path, request):
    count = request.config.getoption("--faults")
    rows_file = tmp_path / "rows.json"
    command = [sys.executable, "benchmarks/faults_pipeline.py", "--faults", str(count), "--seed", "7"]
    done = subprocess.run(
        [*command, "--json", str(rows_file)], cwd=REPOSITORY, env=project_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    rows = {row["name"]: row["value"] for row in json.loads(rows_file.read_text())}
    assert rows.pop("faults_injected") >= 1
    assert rows == dict.fromkeys(rows, 0)
    assert len(rows) == 6
