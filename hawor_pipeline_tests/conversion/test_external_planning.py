"""Other data sets: planning opens no label file of a picture, and workers read no label file of a whole split."""

import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from hawor_pipeline.conversion import convert_sequence
from hawor_pipeline.conversion.prepare import prepare
from hawor_pipeline.errors import DataError
from hawor_pipeline.sources import dexycb, ho3d
from hawor_pipeline.sources.fingerprint import hash_files
from hawor_pipeline.sources.registry import DATASETS, open_reader
from hawor_pipeline_tests.sources.layouts import WRITERS

SETTINGS = {"target_resolution": (64, 64)}
VIEWS = range(9)
SHARED = {"freihand": "training_*.json", "interhand": "annotations/*/*.json"}


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_images_of_a_sequence_are_those_of_its_shots(dataset, mano_dir, tmp_path):
    """Without opening one: what `images` lists is what is read in the end, in the same order."""
    WRITERS[dataset](tmp_path, mano_dir)
    reader = open_reader(dataset, tmp_path, mano_dir)
    for ref in reader.refs():
        takes = reader.takes(ref, reader.labels_of(ref), VIEWS)
        listed = [image for images in reader.images(ref, VIEWS).values() for image in images.values()]
        assert listed == [image for take in takes for images in take.images.values() for image in images.values()]


@pytest.mark.parametrize(("dataset", "module", "load"), [("dexycb", dexycb, "load_npz"), ("ho3d", ho3d, "load_pickle")])
def test_where_nothing_changed_no_label_is_opened(dataset, module, load, mano_dir, tmp_path, monkeypatch):
    """Except the first of each sequence of HO-3D, which names its object."""
    raw, output = tmp_path / "raw", tmp_path / "out"
    WRITERS[dataset](raw, mano_dir)
    prepare(raw, output, dataset=dataset, mano_dir=mano_dir, settings=SETTINGS, workers=0)
    opened, original = [], getattr(module, load)
    monkeypatch.setattr(module, load, lambda path: opened.append(path) or original(path))
    assert (
        prepare(raw, output, dataset=dataset, mano_dir=mano_dir, settings=SETTINGS, workers=0)["converted_sequences"]
        == 0
    )
    assert {path.name for path in opened} <= ({"0000.pkl"} if dataset == "ho3d" else set())


@pytest.mark.parametrize("dataset", sorted(SHARED))
def test_label_files_of_a_split_are_read_once_whatever_the_number_of_sequences(
    dataset, mano_dir, tmp_path, monkeypatch
):
    raw = tmp_path / "raw"
    WRITERS[dataset](raw, mano_dir)
    files = {path.name for path in raw.glob(SHARED[dataset])}
    read, original = Counter(), Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, **how: read.update([path.name]) or original(path, **how))
    prepare(raw, tmp_path / "out", dataset=dataset, mano_dir=mano_dir, settings=SETTINGS, workers=0)
    assert {name: count for name, count in read.items() if name in files} == dict.fromkeys(files, 1)


@pytest.mark.parametrize("dataset", sorted(SHARED))
def test_a_worker_needs_only_the_labels_of_its_sequence(dataset, mano_dir, tmp_path):
    """They survive the way to another process, and the whole files may be unreadable there."""
    WRITERS[dataset](tmp_path, mano_dir)
    reader = open_reader(dataset, tmp_path, mano_dir)
    ref = reader.refs()[0]
    labels = reader.labels_of(ref)
    here = list(reader.takes(ref, labels, VIEWS))
    sent = pickle.dumps(labels)
    for path in tmp_path.glob(SHARED[dataset]):
        path.write_text("not JSON")
    there = list(open_reader(dataset, tmp_path, mano_dir).takes(ref, pickle.loads(sent), VIEWS))  # noqa: S301, it is our own
    assert len(here) == len(there) > 0
    for mine, theirs in zip(here, there, strict=True):
        assert mine.images == theirs.images
        assert list(mine.hands) == list(theirs.hands)
        for side, hand in mine.hands.items():
            np.testing.assert_array_equal(hand.joints_m, theirs.hands[side].joints_m)
            np.testing.assert_array_equal(hand.pose, theirs.hands[side].pose)


def test_the_labels_of_one_sequence_hold_nothing_of_another(mano_dir, tmp_path):
    WRITERS["freihand"](tmp_path, mano_dir, 6)
    reader = open_reader("freihand", tmp_path, mano_dir)
    numbers = [{found.number for found in reader.labels_of(ref)} for ref in reader.refs()]
    assert numbers == [{0, 6}, {1}, {2}, {3}, {4}, {5}]


def test_a_changed_label_file_is_read_again_in_the_same_process(mano_dir, tmp_path):
    """A long-running process must not go on with the labels that it read first."""
    raw, output = tmp_path / "raw", tmp_path / "out"
    WRITERS["freihand"](raw, mano_dir)
    prepare(raw, output, dataset="freihand", mano_dir=mano_dir, settings=SETTINGS, workers=0)
    (raw / "training_K.json").write_text("not JSON")
    with pytest.raises(DataError, match=r"training_K\.json: not readable as JSON"):
        prepare(raw, output, dataset="freihand", mano_dir=mano_dir, settings=SETTINGS, workers=0)


def test_label_files_that_sequences_share_are_hashed_once(mano_dir, tmp_path, monkeypatch):
    WRITERS["freihand"](tmp_path / "raw", mano_dir, 6)
    hashed = Counter()
    monkeypatch.setattr(
        convert_sequence, "hash_files", lambda files, below: hashed.update(files) or hash_files(files, below)
    )
    prepare(tmp_path / "raw", tmp_path / "out", dataset="freihand", mano_dir=mano_dir, settings=SETTINGS, workers=0)
    assert hashed == dict.fromkeys((tmp_path / "raw").glob("*.json"), 1)


@pytest.mark.parametrize("missing", ["meta.yml", "mano.yml", "836212060125_640x480.yml"])
def test_a_missing_file_is_named_before_anything_is_opened(missing, mano_dir, tmp_path):
    """One of a recording keeps that recording out, one that both need keeps out both."""
    raw = tmp_path / "raw"
    WRITERS["dexycb"](raw, mano_dir)
    sorted(raw.rglob(missing))[0].unlink()
    finished = 0 if missing.endswith("480.yml") else 1
    with pytest.raises(DataError, match=rf"{missing}: cannot be read.*{finished} of 2 sequences are finished"):
        prepare(raw, tmp_path / "out", dataset="dexycb", mano_dir=mano_dir, settings=SETTINGS, workers=0)
