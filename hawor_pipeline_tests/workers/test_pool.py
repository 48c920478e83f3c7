"""The pool: errors of users come back as values, dead workers are noticed, hashes follow content."""

import os

import pytest

from hawor_pipeline.errors import DataError
from hawor_pipeline.sources.fingerprint import DigestCache, digest_images
from hawor_pipeline.sources.image_files import images_state, list_images
from hawor_pipeline.workers.engine import map_tasks
from hawor_pipeline.workers.pool import usable_cores


def work(number: int):
    if number == 3:
        raise DataError("three.jpg: damaged")
    if number == 99:
        os._exit(9)
    import cv2
    import torch

    return number * number, torch.get_num_threads(), cv2.getNumThreads()


@pytest.mark.parametrize("workers", [0, 2])
def test_results_and_user_errors_come_back(workers):
    results = dict(map_tasks(work, [1, 2, 3], workers, []))
    assert results[1] == (1, 1, 1) and results[2] == (4, 1, 1)  # one thread each
    assert isinstance(results[3], DataError) and str(results[3]) == "three.jpg: damaged"


def test_a_dead_worker_is_an_error_with_advice():
    with pytest.raises(DataError, match=r"worker process died.*fewer workers"):
        list(map_tasks(work, [99], 1, []))


def test_digest_follows_names_and_bytes_not_times(tmp_path):
    files = [tmp_path / name for name in ("1.jpg", "2.jpg")]
    for file in files:
        file.write_bytes(file.name.encode())
    images = list_images(tmp_path).values()
    first = digest_images(images)
    os.utime(files[0], (1, 1))
    assert digest_images(images) == first
    files[1].write_bytes(b"x")
    assert digest_images(images) != first


def test_cache_knows_a_digest_only_for_the_state_it_belongs_to(tmp_path):
    path = tmp_path / "cache.json"
    cache = DigestCache(path)
    cache.remember("a", "state 1", "digest 1")
    cache.save()
    assert DigestCache(path).known("a", "state 1") == "digest 1"
    assert DigestCache(path).known("a", "state 2") is None and DigestCache(path).known("b", "state 1") is None
    path.write_text(path.read_text().replace("xxh3_128", "sha256"))  # of a version that hashed otherwise
    assert DigestCache(path).known("a", "state 1") is None
    path.write_text("{ damaged")
    assert DigestCache(path).known("a", "state 1") is None


def test_state_changes_with_the_files(tmp_path):
    (tmp_path / "1.jpg").write_bytes(b"1")
    before = images_state(list_images(tmp_path).values())
    assert images_state(list_images(tmp_path).values()) == before
    os.utime(tmp_path / "1.jpg", (1, 1))
    assert images_state(list_images(tmp_path).values()) != before


def test_workers_are_as_many_as_this_process_may_use():
    assert usable_cores() == len(os.sched_getaffinity(0))
