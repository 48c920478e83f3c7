"""`doctor` on downloads that are whole, that lack their half, and on the folders of other datasets."""

import shutil
import zipfile
from pathlib import Path

import pytest

from hawor_pipeline.doctor import Diagnosis, examine, render
from hawor_pipeline_tests.conftest import DATASET_ROOTS


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    for name in ("ARCTIC_ROOT", "MANO_DIR", *DATASET_ROOTS):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def download(sample_root: Path, tmp_path: Path, monkeypatch) -> Path:
    """A copy of the sample that a test may thin out, named by ARCTIC_ROOT."""
    shutil.copytree(sample_root, tmp_path / "raw")
    monkeypatch.setenv("ARCTIC_ROOT", str(tmp_path / "raw" / "arctic"))
    return tmp_path / "raw" / "arctic"


def named(name: str) -> Diagnosis:
    (diagnosis,) = [diagnosis for diagnosis in examine() if diagnosis.name == name]
    return diagnosis


def test_subjects_are_counted(download):
    diagnosis = named("ARCTIC")
    assert diagnosis.ok and "sequences with images: s01 1, s05 1; withheld: s03; absent: s02, s04" in diagnosis.found
    shutil.rmtree(download / "images" / "s01")
    assert "s01 0 of 1, s05 1" in named("ARCTIC").found


def test_without_raw_sequences_and_images_it_says_what_to_do(download):
    shutil.rmtree(download / "images")
    assert "[MISS] ARCTIC" in render([named("ARCTIC")])
    assert "no images of any sequence" in named("ARCTIC").found and "images_zips" in named("ARCTIC").advice
    for folder in (download / "raw_seqs").iterdir():
        shutil.rmtree(folder)
    diagnosis = named("ARCTIC")
    assert not diagnosis.ok and "no raw sequences and no images" in diagnosis.found
    assert "raw_seqs.zip" in diagnosis.advice and "images_zips" in diagnosis.advice


def test_empty_folders_hold_no_images(download):
    for image in (download / "images").rglob("*.jpg"):
        image.unlink()
    assert not named("ARCTIC").ok


def test_zips_are_images_too(download):
    views = next((download / "images" / "s05").iterdir())
    archive = download / "downloads" / "data" / "images_zips" / "s05" / f"{views.name}.zip"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as zipped:
        for image in views.rglob("*.jpg"):
            zipped.write(image, image.relative_to(views))
    shutil.rmtree(download / "images")
    diagnosis = named("ARCTIC")
    assert diagnosis.ok and "s01 0 of 1, s05 1" in diagnosis.found
    archive.write_bytes(archive.read_bytes()[:100])
    assert not named("ARCTIC").ok


@pytest.mark.parametrize("variable", DATASET_ROOTS)
def test_folders_of_other_datasets_are_named_where_they_are_wrong(variable, tmp_path, monkeypatch):
    assert all(diagnosis.name != variable for diagnosis in examine())
    for wrong in (tmp_path / "nowhere", tmp_path):
        monkeypatch.setenv(variable, str(wrong))
        diagnosis = named(variable)
        assert (
            not diagnosis.ok and diagnosis.required and str(wrong) in diagnosis.found and variable in diagnosis.advice
        )


def test_another_dataset_needs_hand_models(tmp_path, mano_dir, licensed_mano, monkeypatch):
    (tmp_path / "train").mkdir()
    monkeypatch.setenv("HO3D_ROOT", str(tmp_path))
    assert "$MANO_DIR (not set)" in named("HO3D_ROOT").found
    monkeypatch.setenv("MANO_DIR", str(mano_dir))
    assert "the sample's hand, not MANO" in named("HO3D_ROOT").found
    monkeypatch.setenv("MANO_DIR", str(licensed_mano))
    assert named("HO3D_ROOT").ok
