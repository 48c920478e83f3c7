"""The pool: errors of users come back as values, dead workers are noticed, hashes follow content."""

import os

import pytest

from hawor_pipeline.data.fingerprint import DigestCache
from hawor_pipeline.data.pool import map_tasks
from hawor_pipeline.errors import DataError


def work(number: int):
    if number == 3:
        raise DataError("three.jpg: damaged")
    if number == 99:
        os._exit(9)
    import torch

    return number * number, torch.get_num_threads()


@pytest.mark.parametrize("workers", [0, 2])
def test_results_and_user_errors_come_back(workers):
    results = dict(map_tasks(work, [1, 2, 3], workers, []))
    assert results[1] == (1, 1) and results[2] == (4, 1)  # one thread each
    assert isinstance(results[3], DataError) and str(results[3]) == "three.jpg: damaged"


def test_a_dead_worker_is_an_error_with_advice():
    with pytest.raises(DataError, match=r"worker process died.*fewer workers"):
        list(map_tasks(work, [99], 1, []))


def test_digest_follows_content_and_reads_only_what_changed(tmp_path):
    files = [tmp_path / name for name in ("1.jpg", "2.jpg")]
    for file in files:
        file.write_bytes(file.name.encode())
    cache = DigestCache(tmp_path / "cache.json")
    first = cache.digest("a", files)
    cache.save()
    os.utime(files[0], (1, 1))
    assert DigestCache(tmp_path / "cache.json").digest("a", files) == first
    files[1].write_bytes(b"x")
    assert DigestCache(tmp_path / "cache.json").digest("a", files) != first
    (tmp_path / "cache.json").write_text("{ damaged")
    files[1].write_bytes(b"2.jpg")
    assert DigestCache(tmp_path / "cache.json").digest("a", files) == first
    assert cache.digest("none", []) == ""


def test_digest_of_unchanged_files_reads_nothing(tmp_path, monkeypatch):
    file = tmp_path / "1.jpg"
    file.write_bytes(b"x")
    cache = DigestCache(tmp_path / "cache.json")
    digest = cache.digest("a", [file])
    monkeypatch.setattr("hawor_pipeline.data.fingerprint.hash_files", lambda _: pytest.fail("read again"))
    assert cache.digest("a", [file]) == digest
