"""Copies of the shared sample that a test may damage."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def raw_copy(sample_root: Path, tmp_path: Path) -> Path:
    """A private copy of one subject of the sample: arctic/ and body_models/ (s05; ego and two static views)."""
    arctic = tmp_path / "raw" / "arctic"
    for folder in ("meta", "splits_json"):
        shutil.copytree(sample_root / "arctic" / folder, arctic / folder)
    for folder in ("raw_seqs", "images"):
        shutil.copytree(sample_root / "arctic" / folder / "s05", arctic / folder / "s05")
    shutil.copy(sample_root / "arctic" / "SYNTHETIC", arctic)
    shutil.copytree(sample_root / "body_models", tmp_path / "raw" / "body_models")
    return arctic


def one_file(folder: Path, pattern: str) -> Path:
    """The first match, which must exist."""
    return sorted(folder.glob(pattern))[0]
