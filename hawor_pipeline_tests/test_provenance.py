"""Results are whole or absent: atomic writes, directories by one rename, markers that are believed only when true."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hawor_pipeline.errors import DataError
from hawor_pipeline.provenance import (
    STAGE_FILE,
    atomic_write_bytes,
    atomic_write_text,
    find_done,
    hash_json,
    mark_done,
    sha256_file,
    staging_dir,
)


def _full_disk(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_sha256_of_a_known_text(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_hash_of_settings_does_not_depend_on_their_order():
    assert hash_json({"a": 1, "b": [1, 2]}) == hash_json({"b": [1, 2], "a": 1})
    assert hash_json({"a": 1}) != hash_json({"a": 2})
    with pytest.raises(ValueError, match="JSON compliant"):
        hash_json(float("nan"))


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing(tmp_path, monkeypatch):
    atomic_write_text(tmp_path / "f", "old")
    monkeypatch.setattr(os, "fsync", _full_disk)
    with pytest.raises(DataError, match="disk full while writing"):
        atomic_write_bytes(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_text() == "old"
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounts a small file system: root on Linux")
def test_a_disk_that_is_really_full(tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.decode().strip()}")
    try:
        with pytest.raises(DataError, match="disk full"), staging_dir(tmp_path / "out") as staged:
            (staged / "big").write_bytes(b"x" * 200_000)
        assert os.listdir(tmp_path) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_directory_appears_at_once_or_not_at_all(tmp_path):
    final = tmp_path / "out"
    with staging_dir(final) as staged:
        (staged / "a").write_text("1")
        assert not final.exists()
    assert (final / "a").read_text() == "1"
    with pytest.raises(RuntimeError), staging_dir(final) as staged:
        (staged / "a").write_text("2")
        raise RuntimeError
    assert (final / "a").read_text() == "1"
    assert os.listdir(tmp_path) == ["out"]


def test_a_directory_is_replaced_as_a_whole(tmp_path):
    for content in ("1", "2"):
        with staging_dir(tmp_path / "out") as staged:
            (staged / content).write_text(content)
    assert os.listdir(tmp_path / "out") == ["2"]
    assert os.listdir(tmp_path) == ["out"]


def _dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_leftovers_of_killed_processes_go_and_those_of_living_ones_stay(tmp_path):
    dead, living = tmp_path / f".out.{_dead_pid()}.tmp", tmp_path / f".out.{os.getppid()}.tmp"
    for folder in (dead, living):
        folder.mkdir()
    with staging_dir(tmp_path / "out"):
        pass
    assert not dead.exists()
    assert living.exists()


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path):
    old = tmp_path / f".out.{_dead_pid()}.old"
    old.mkdir()
    (old / "a").write_text("1")
    with pytest.raises(RuntimeError), staging_dir(tmp_path / "out"):
        raise RuntimeError
    assert (tmp_path / "out" / "a").read_text() == "1"


def test_finished_work_is_found_only_under_its_key_and_while_complete(tmp_path: Path):
    assert find_done(tmp_path, "k")[0] is None
    (tmp_path / "table").write_text("x")
    mark_done(tmp_path, "k", {"rows": 3}, ["table"])
    assert find_done(tmp_path, "k")[0] == {"rows": 3}
    assert find_done(tmp_path, "other") == (None, "inputs, settings or code version changed since the earlier result")
    (tmp_path / "table").write_text("")
    assert find_done(tmp_path, "k") == (None, "the earlier result is damaged (table has another size)")
    (tmp_path / "table").unlink()
    info, why = find_done(tmp_path, "k")
    assert info is None
    assert "table is missing" in why
    (tmp_path / "_stage.json").write_text("{")
    assert "could not be read" in find_done(tmp_path, "k")[1]


@pytest.mark.parametrize("text", ["null", "[]", '"done"', '{"key": "k", "outputs": 5}'])
def test_a_marker_of_another_form_is_no_finished_work(tmp_path: Path, text: str):
    (tmp_path / STAGE_FILE).write_text(text)
    assert find_done(tmp_path, "k") == (None, "the earlier result's marker could not be read")


def test_outputs_beside_a_folder_that_was_not_there_are_noticed_when_cut_short(tmp_path):
    table = tmp_path / "table"
    table.write_bytes(b"whole")
    mark_done(tmp_path / "stages" / "run", "k", {}, ["../../table"])
    assert find_done(tmp_path / "stages" / "run", "k")[0] == {}
    table.write_bytes(b"who")
    info, why = find_done(tmp_path / "stages" / "run", "k")
    assert info is None and "another size" in why


def test_markers_hold_no_time_host_or_path(tmp_path):
    mark_done(tmp_path, "k", {"rows": 3}, ["table"])
    stored = json.loads((tmp_path / "_stage.json").read_text())
    assert stored == {"key": "k", "info": {"rows": 3}, "outputs": ["table"], "sizes": {}}
