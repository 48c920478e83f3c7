"""The sensor on new raw sequences: only changed subjects, only when their files are complete."""

import os
import shutil
import time
from pathlib import Path

import dagster as dg
import pytest

from hawor_pipeline.orchestration.resources import RawData
from hawor_pipeline.orchestration.sensors import QUIET_VARIABLE, new_raw_sequences


@pytest.fixture
def arctic(sample_root: Path, tmp_path: Path, monkeypatch) -> Path:
    """Copy the sample's ground truth, set it as ARCTIC_ROOT, and make all files old."""
    root = tmp_path / "arctic"
    shutil.copytree(sample_root / "arctic", root)
    shutil.copytree(sample_root / "body_models", tmp_path / "body_models")
    monkeypatch.setenv("ARCTIC_ROOT", str(root))
    monkeypatch.setenv("MANO_DIR", str(tmp_path / "body_models" / "mano"))
    _age(root, 3600)
    return root


def _age(folder: Path, seconds: float) -> None:
    then = time.time() - seconds
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (then, then))


def _tick(cursor: str | None):
    """Evaluate a tick; return its results and the cursor after it."""
    with dg.build_sensor_context(cursor=cursor, resources={"raw": RawData()}) as context:
        return new_raw_sequences(context), context.cursor


def test_the_sample_is_not_watched(monkeypatch):
    monkeypatch.delenv("ARCTIC_ROOT", raising=False)
    skipped, _ = _tick(None)
    assert "ARCTIC_ROOT is not set" in skipped.skip_message


def test_only_the_subject_with_new_files_is_converted(arctic):
    skipped, cursor = _tick(None)
    assert "first look" in skipped.skip_message
    skipped, cursor = _tick(cursor)
    assert "no subject has new" in skipped.skip_message
    (file,) = list((arctic / "raw_seqs" / "s01").glob("*.mano.npy"))[:1]
    shutil.copy(file, file.with_name("capsule_use_01.mano.npy"))
    skipped, cursor = _tick(cursor)
    assert "still arriving" in skipped.skip_message
    _age(arctic / "raw_seqs" / "s01", 1000)
    (request,), cursor = _tick(cursor)
    assert request.partition_key == "s01"
    assert request.run_key.startswith("s01:")
    skipped, _ = _tick(cursor)
    assert "no subject has new" in skipped.skip_message


def test_images_that_arrive_later_count_too(arctic, monkeypatch):
    monkeypatch.setenv(QUIET_VARIABLE, "0")
    _, cursor = _tick(None)
    (arctic / "images" / "s05" / "box_grab_09").mkdir(parents=True)
    (request,), _ = _tick(cursor)
    assert request.partition_key == "s05"
