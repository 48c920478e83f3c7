"""Folders on object storage, over fsspec's in-memory storage: order of upload, reuse, cache, damage."""

import json
import uuid
from pathlib import Path

import fsspec
import pytest

from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.remote import INDEX_FILE, is_url, local_copy, publish_folder, remote_url


@pytest.fixture
def url() -> str:
    return f"memory://bucket-{uuid.uuid4().hex}/shards"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    (folder / "s01" / "box_grab_01").mkdir(parents=True)
    (folder / "s01" / "box_grab_01" / "images.arrow").write_bytes(b"pictures" * 1000)
    (folder / "s01" / "box_grab_01" / "annotations.parquet").write_bytes(b"rows")
    (folder / "s01" / "manifest.json").write_text("{}")
    (folder / "s01" / ".laptop_use_01.17.tmp").mkdir()
    (folder / "s01" / ".laptop_use_01.17.tmp" / "half").write_bytes(b"half")
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_published_comes_back(folder, url, tmp_path):
    published = publish_folder(folder, url)
    assert (published.files, published.uploaded) == (3, 3)
    copy = local_copy(url, tmp_path / "cache")
    assert tree(copy) == {name: data for name, data in tree(folder).items() if ".tmp" not in name}


def test_parts_first_then_manifests_then_the_index(folder, url, monkeypatch):
    system = fsspec.filesystem("memory")
    order = []
    put, pipe = type(system).put_file, type(system).pipe_file
    monkeypatch.setattr(type(system), "put_file", lambda self, a, b, **k: (order.append(b), put(self, a, b, **k))[1])
    monkeypatch.setattr(type(system), "pipe_file", lambda self, a, b, **k: (order.append(a), pipe(self, a, b, **k))[1])
    publish_folder(folder, url)
    assert [Path(name).name for name in order if name in order][-2:] == ["manifest.json", INDEX_FILE]
    assert {Path(name).name for name in order[:-2]} == {"images.arrow", "annotations.parquet"}


def test_only_what_changed_is_sent_and_fetched(folder, url, tmp_path):
    publish_folder(folder, url)
    assert publish_folder(folder, url).uploaded == 0
    copy = local_copy(url, tmp_path / "cache")
    kept = (copy / "s01" / "box_grab_01" / "images.arrow").stat().st_mtime_ns
    (folder / "s01" / "box_grab_01" / "annotations.parquet").write_bytes(b"more rows")
    published = publish_folder(folder, url)
    assert (published.uploaded, published.uploaded_bytes) == (1, len(b"more rows"))
    local_copy(url, tmp_path / "cache")
    assert (copy / "s01" / "box_grab_01" / "annotations.parquet").read_bytes() == b"more rows"
    assert (copy / "s01" / "box_grab_01" / "images.arrow").stat().st_mtime_ns == kept


def test_what_was_removed_is_removed_everywhere(folder, url, tmp_path):
    publish_folder(folder, url)
    copy = local_copy(url, tmp_path / "cache")
    (folder / "s01" / "box_grab_01" / "annotations.parquet").unlink()
    publish_folder(folder, url)
    local_copy(url, tmp_path / "cache")
    assert not (copy / "s01" / "box_grab_01" / "annotations.parquet").exists()
    system, base = fsspec.core.url_to_fs(url)
    assert not system.exists(f"{base}/s01/box_grab_01/annotations.parquet")


def test_a_damaged_remote_file_is_refused_and_the_good_copy_stays(folder, url, tmp_path):
    publish_folder(folder, url)
    copy = local_copy(url, tmp_path / "cache")
    system, base = fsspec.core.url_to_fs(url)
    system.pipe_file(f"{base}/s01/manifest.json", b"{ }")
    (copy / "s01" / "manifest.json").write_text("lost")
    with pytest.raises(DataError, match=r"manifest\.json has sha256"):
        local_copy(url, tmp_path / "cache")
    assert (copy / "s01" / "manifest.json").read_text() == "lost"
    assert not [name for name in tree(copy) if name.endswith(".tmp")]


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b"])
def test_an_index_cannot_write_outside_the_cache(url, tmp_path, name):
    system, base = fsspec.core.url_to_fs(url)
    system.makedirs(base, exist_ok=True)
    system.pipe_file(f"{base}/{INDEX_FILE}", json.dumps({name: {"sha256": "0", "bytes": 1}}).encode())
    with pytest.raises(DataError, match="refusing"):
        local_copy(url, tmp_path / "cache")


def test_a_folder_of_published_folders_comes_back_whole(folder, url, tmp_path):
    other = tmp_path / "s02"
    other.mkdir()
    (other / "manifest.json").write_text("{}")
    publish_folder(folder / "s01", f"{url}/s01")
    publish_folder(other, f"{url}/s02")
    copy = local_copy(url, tmp_path / "cache")
    assert set(tree(copy)) == {
        "s01/manifest.json",
        "s01/box_grab_01/images.arrow",
        "s01/box_grab_01/annotations.parquet",
        "s02/manifest.json",
    }


def test_nothing_published_is_a_clear_error(url, tmp_path):
    with pytest.raises(ConfigError, match="nothing is published"):
        local_copy(url, tmp_path / "cache")


def test_an_unknown_scheme_is_a_clear_error(tmp_path):
    with pytest.raises(ConfigError, match="nosuch"):
        local_copy("nosuch://bucket/x", tmp_path)


def test_local_places_are_taken_as_they_are(tmp_path):
    assert local_copy(tmp_path) == tmp_path
    assert not is_url("data/shards")
    assert not is_url(Path("/data"))


def test_the_url_of_a_folder_follows_the_data_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("HAWOR_DATA_DIR", str(tmp_path))
    assert remote_url(tmp_path / "runs") is None
    monkeypatch.setenv("HAWOR_REMOTE_URL", "s3://bucket/team/")
    assert remote_url(tmp_path / "shards" / "synthetic") == "s3://bucket/team/shards/synthetic"
    with pytest.raises(ConfigError, match="not inside"):
        remote_url(Path("/elsewhere"))
    monkeypatch.setenv("HAWOR_REMOTE_URL", "bucket")
    with pytest.raises(ConfigError, match="expected a URL"):
        remote_url(tmp_path)
