"""The examples of docs/howto/read-shards.md run unchanged, and print the contents of the shards."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from hawor_pipeline.shards.splits import read_protocols, record_protocols
from hawor_pipeline.shards.store import open_shards
from hawor_pipeline.sources.arctic import ArcticRoot
from hawor_pipeline_tests.conftest import REPOSITORY, project_environment

PAGE = (REPOSITORY / "docs" / "howto" / "read-shards.md").read_text(encoding="utf-8")
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE, flags=re.DOTALL)
RECIPES = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
SCRIPT = RECIPES[-1]


@pytest.fixture
def shards(sample_shards: Path, sample_root: Path, tmp_path: Path, monkeypatch) -> Path:
    """A project's folder with the shared shards where the page expects them."""
    folder = tmp_path / "data" / "shards" / "synthetic"
    shutil.copytree(sample_shards, folder)
    record_protocols(folder, read_protocols(ArcticRoot.locate(sample_root)))
    (tmp_path / "data" / "sample").symlink_to(sample_root)
    monkeypatch.chdir(tmp_path)
    return folder


def manifests(shards: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(shards.glob("*/manifest.json"))]


def test_queries_count_what_the_manifests_count(shards):
    assert len(QUERIES) == 3
    counted, reasons, distances = (duckdb.sql(query).fetchall() for query in QUERIES)
    assert sum(row[3] for row in counted) == sum(manifest["rows"] for manifest in manifests(shards))
    assert sum(row[4] for row in counted) == sum(manifest["valid_rows"] for manifest in manifests(shards))
    stated: dict[str, int] = {}
    for entry in (entry for manifest in manifests(shards) for entry in manifest["sequences"]):
        for reason, samples in entry["left_out"].items():
            stated[reason] = stated.get(reason, 0) + samples
    assert {reason: samples for reason, _, samples in reasons} == stated
    assert len(distances) == 10 and distances == sorted(distances, key=lambda row: (row[1], row[0]))


def test_recipes_run_one_after_the_other(shards):
    scope: dict = {"__name__": "recipes"}
    for number, recipe in enumerate(RECIPES[:-1]):
        exec(compile(recipe, f"recipe {number}", "exec"), scope)
        if number == 0:
            everything = open_shards(shards)
            assert np.array_equal(scope["joints_cam_m"], everything.column("joints_cam_m"))
        if number == 2:
            assert cv2.imread("hand.png").shape == (96, 96, 3)
            box = 96 / 1.5  # the box is the middle of a crop, and holds the hand with a margin
            assert np.abs(scope["joints_crop_px"] - 47.5).max() < box / 2
        if number == 3:
            subject = open_shards(shards, ["s01"])
            assert scope["jpeg"] == subject.jpeg(int(np.flatnonzero(subject.column("valid"))[0]))
        if number == 5:
            assert all(name.startswith("s01/") for name in scope["names"])


def test_a_folder_is_no_table_for_pandas(shards):
    with pytest.raises(pa.ArrowInvalid, match=r"protocols\.json"):
        pd.read_parquet(shards)


@pytest.mark.slow
def test_the_script_converts_and_needs_its_guard(shards):
    def run(text: str) -> subprocess.CompletedProcess:
        Path("script.py").write_text(text)
        return subprocess.run(
            [sys.executable, "script.py"], env=project_environment(), capture_output=True, text=True, timeout=300
        )

    done = run(SCRIPT)
    assert done.returncode == 0, done.stderr
    assert "'successful_conversions': 1" in done.stdout
    unguarded = SCRIPT.replace('if __name__ == "__main__":\n    main()', "main()").replace("again", "bare")
    bare = run(unguarded)
    assert bare.returncode != 0
    assert "before the\n        current process has finished its bootstrapping phase" in bare.stderr
    assert "a worker process died" in bare.stderr
    assert run(unguarded.replace("num_workers=2", "num_workers=0")).returncode == 0
