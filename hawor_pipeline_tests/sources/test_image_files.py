"""Pictures in ARCTIC's zips: the same shards as from folders, and checksums that catch what a decoder would not."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion.inventory import inventory_subject
from hawor_pipeline.conversion.prepare import convert_subjects
from hawor_pipeline.errors import DataError
from hawor_pipeline.sources.arctic import ArcticRoot

SETTINGS = ConversionConfig(target_resolution=(64, 64), views=(0, 1, 4))


def convert(raw: Path, output: Path):
    return convert_subjects(raw, None, ["s05"], output, SETTINGS, workers=0)["s05"]


def shards(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.glob("s*/**/*")) if p.is_file()}


def zip_folder(folder: Path, archive: Path) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as out:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                out.write(path, path.relative_to(folder))
    return archive


@pytest.fixture
def download(raw_copy: Path, tmp_path: Path) -> Path:
    """ARCTIC's folders as its scripts leave them: unpack/arctic_data/data without pictures, which are in downloads."""
    repository = tmp_path / "arctic_repository"
    unpacked = repository / "unpack" / "arctic_data" / "data"
    shutil.copytree(raw_copy, unpacked, ignore=shutil.ignore_patterns("images"))
    shutil.copytree(raw_copy.parent / "body_models", unpacked.parent / "body_models")
    for folder in (raw_copy / "images" / "s05").iterdir():
        zip_folder(folder, repository / f"downloads/data/images_zips/s05/{folder.name}.zip")
    return repository


def the_zip(download: Path) -> Path:
    (archive,) = (download / "downloads/data/images_zips/s05").glob("*.zip")
    return archive


def state_checksums(download: Path, wrong: bool = False) -> None:
    archive = the_zip(download)
    digest = hashlib.sha256(archive.read_bytes() + b"x" * wrong).hexdigest()
    path = download / "bash" / "assets" / "checksum.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({f"/data/images_zips/s05/{archive.name}": digest}))


def test_zips_give_the_same_bytes_as_folders_from_any_level_of_the_download(raw_copy, download, tmp_path):
    first = convert(raw_copy, tmp_path / "a")
    state_checksums(download)
    for number, level in enumerate(("", "downloads", "downloads/data", "unpack", "unpack/arctic_data/data")):
        assert ArcticRoot.locate(download / level).path == download / "unpack/arctic_data/data", level
        assert number >= 0
    second = convert(download, tmp_path / "b")
    assert second.key == first.key and shards(tmp_path / "a") == shards(tmp_path / "b")
    assert convert(download, tmp_path / "b").reused


def test_inventory_of_zips_is_that_of_folders(raw_copy, download, tmp_path):
    first = inventory_subject(raw_copy, "s05", tmp_path / "a")
    second = inventory_subject(download, "s05", tmp_path / "b")
    assert first.info == second.info and first.info["images"] > 0


def flip(path: Path, where: int) -> None:
    data = bytearray(path.read_bytes())
    data[where] ^= 0x10
    path.write_bytes(data)


def test_every_flipped_bit_inside_a_zip_is_noticed(download, tmp_path):
    archive = the_zip(download)
    whole = archive.read_bytes()
    with zipfile.ZipFile(archive) as opened:
        members = [info for info in opened.infolist() if info.file_size > 1000]
    rng = np.random.default_rng(0)
    for number in range(12):
        member = members[rng.integers(len(members))]
        flip(archive, member.header_offset + 100 + int(rng.integers(member.file_size - 100)))
        with pytest.raises(DataError, match=rf"{archive.name}.*(CRC|cannot be read)"):
            convert(download, tmp_path / f"out{number}")
        archive.write_bytes(whole)


def test_a_zip_that_is_not_the_published_one_is_refused(download, tmp_path):
    state_checksums(download, wrong=True)
    with pytest.raises(DataError, match=r"differs from the published checksum"):
        convert(download, tmp_path / "out")


@pytest.mark.parametrize("keep", [0.5, 0.0])
def test_a_zip_cut_short_is_refused_by_name(download, tmp_path, keep):
    archive = the_zip(download)
    archive.write_bytes(archive.read_bytes()[: int(archive.stat().st_size * keep)])
    with pytest.raises(DataError, match=rf"{archive.name}: damaged zip"):
        convert(download, tmp_path / "out")
    rows = inventory_subject(download, "s05", tmp_path / "inventory").info
    assert rows["problems"] == {"broken": 9}


def test_unpacked_files_are_compared_with_the_zips_they_came_from(raw_copy, download, tmp_path):
    """A flipped bit that still decodes: noticed because the zips were kept."""
    unpacked = download / "unpack/arctic_data/data"
    shutil.copytree(raw_copy / "images", unpacked / "images")
    (download / "parts").mkdir()
    shutil.copytree(unpacked / "raw_seqs", download / "parts/raw_seqs")
    zip_folder(download / "parts", download / "downloads/data/raw_seqs.zip")
    assert convert(download, tmp_path / "fine").info["rows"] > 0
    image = sorted((unpacked / "images").rglob("1/*.jpg"))[4]
    flip(image, image.stat().st_size // 2)
    with pytest.raises(DataError, match=rf"{image.name}: differs from the one in the download's zip"):
        convert(download, tmp_path / "a")
    shutil.copy(raw_copy / image.relative_to(unpacked), image)
    array = next((unpacked / "raw_seqs/s05").glob("*.mano.npy"))
    flip(array, array.stat().st_size // 2)
    with pytest.raises(DataError, match=rf"{array.name}: differs"):
        convert(download, tmp_path / "b")


def test_what_an_interrupted_unzip_left_out_is_read_from_the_zip(raw_copy, download, tmp_path):
    """One view is there, one is cut short, one is missing: the same shards as from whole folders."""
    expected = convert(raw_copy, tmp_path / "a")
    unpacked = download / "unpack/arctic_data/data/images"
    shutil.copytree(raw_copy / "images", unpacked)
    shutil.rmtree(next(unpacked.glob("s05/*/4")))
    for image in sorted(next(unpacked.glob("s05/*/1")).iterdir())[3:]:
        image.unlink()
    state_checksums(download)
    found = convert(download, tmp_path / "b")
    assert found.key == expected.key and shards(tmp_path / "a") == shards(tmp_path / "b")
    state = download / "bash/assets/checksum.json"
    state.write_text(json.dumps(dict.fromkeys(json.loads(state.read_text()), "0" * 64)))
    with pytest.raises(DataError, match=r"differs from the published checksum"):
        convert(download, tmp_path / "c")


def test_estimates_and_proof_sheets_do_not_read_whole_zips(download, tmp_path):
    """Only a conversion compares a zip with its published checksum; here it would fail."""
    from hawor_pipeline.conversion.prepare import estimate
    from hawor_pipeline.conversion.proof_sheet import write_proof_sheet
    from hawor_pipeline.sources.registry import open_reader

    state_checksums(download, wrong=True)
    models = download / "unpack" / "arctic_data" / "body_models" / "mano"
    found = estimate(download, tmp_path / "out", mano_dir=models, settings={"views": (0, 1, 4)}, workers=0)
    assert found["problems"] == []
    reader = open_reader("arctic", download, models)
    assert write_proof_sheet(reader, "s05", tmp_path / "sheet.jpg")
    assert write_proof_sheet(reader, "s01", tmp_path / "none.jpg") == []  # no raw files
