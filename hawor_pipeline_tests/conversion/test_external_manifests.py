"""Other data sets: a manifest vouches only for shards that are as it says."""

import json
import shutil
from pathlib import Path

import pytest

import hawor_pipeline.conversion.convert as conversion
import hawor_pipeline.conversion.convert_sequence as worker
from hawor_pipeline.conversion import sequence_task
from hawor_pipeline.conversion.prepare import prepare
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.provenance import sha256_file
from hawor_pipeline.shards.store import open_shards
from hawor_pipeline_tests.sources.layouts import WRITERS

SETTINGS = {"target_resolution": (64, 64)}


class Ho3d:
    """HO-3D with two sequences of one subject, and calls that prepare it."""

    def __init__(self, folder: Path, mano_dir: Path) -> None:
        self.raw, self.output, self.mano_dir = folder / "raw", folder / "out", mano_dir
        WRITERS["ho3d"](self.raw, mano_dir)
        shutil.copytree(self.raw / "train" / "ABF10", self.raw / "train" / "ABF11")

    def prepare(self, **settings) -> dict:
        return prepare(
            self.raw, self.output, dataset="ho3d", mano_dir=self.mano_dir, settings={**SETTINGS, **settings}, workers=0
        )

    @property
    def manifest(self) -> dict:
        return json.loads((self.output / "ho3d_ABF" / "manifest.json").read_text())

    @property
    def listed(self) -> list[str]:
        """Names of the sequences in the manifest, whose files are found to be those that it vouches for."""
        for entry in self.manifest["sequences"]:
            for name, digest in entry["sha256"].items():
                assert sha256_file(self.output / "ho3d_ABF" / entry["sequence"] / name) == digest
        return [entry["sequence"] for entry in self.manifest["sequences"]]


@pytest.fixture
def ho3d(mano_dir, tmp_path) -> Ho3d:
    return Ho3d(tmp_path, mano_dir)


def kill_after(shards: int, monkeypatch) -> None:
    """The next call dies when so many shards have taken their place."""
    convert, left = worker.convert_sequence, [shards]

    def counted(task):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return convert(task)

    monkeypatch.setattr(worker, "convert_sequence", counted)


@pytest.mark.parametrize("shards", [1, 2])
def test_killed_while_shards_are_replaced_no_manifest_vouches_for_them(ho3d, monkeypatch, shards):
    ho3d.prepare()
    with monkeypatch.context() as patched:
        kill_after(shards, patched)
        if shards == 2:
            patched.setattr(conversion, "_write_manifest", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ho3d.prepare(box_scale=2.0)
    assert ho3d.listed == []
    assert ho3d.manifest["withdrawn"] == ["ABF10", "ABF11"]
    again = ho3d.prepare(box_scale=2.0)
    assert (again["reused_sequences"], again["converted_sequences"]) == (shards, 2 - shards)
    assert ho3d.listed == ["ABF10", "ABF11"] and ho3d.manifest["settings"]["box_scale"] == 2.0
    assert "withdrawn" not in ho3d.manifest


def test_what_was_finished_before_a_kill_is_listed_by_a_call_for_another_sequence(ho3d, monkeypatch):
    ho3d.prepare()
    with monkeypatch.context() as patched:
        kill_after(1, patched)
        with pytest.raises(KeyboardInterrupt):
            ho3d.prepare(box_scale=2.0)
    ho3d.prepare(box_scale=2.0, sequences=("ABF11",))
    assert ho3d.listed == ["ABF10", "ABF11"]


def test_a_sequence_that_left_the_raw_data_leaves_the_manifest(ho3d):
    ho3d.prepare()
    shutil.rmtree(ho3d.raw / "train" / "ABF11")
    assert ho3d.prepare()["sequences"] == 1
    assert ho3d.listed == ["ABF10"]
    assert ho3d.manifest["left_out_sequences"] == [{"sequence": "ABF11", "reason": "raw_files_gone"}]
    assert len(open_shards(ho3d.output)) == 3


def test_sequences_of_earlier_calls_stay_listed_under_the_same_settings(ho3d):
    ho3d.prepare(sequences=("ABF10",))
    ho3d.prepare(sequences=("ABF11",))
    assert ho3d.listed == ["ABF10", "ABF11"]


def test_shards_of_another_version_are_not_listed_beside_new_ones(ho3d, monkeypatch):
    ho3d.prepare()
    old = {entry["sequence"]: entry["data_version"] for entry in ho3d.manifest["sequences"]}
    monkeypatch.setattr(sequence_task, "EXTERNAL_VERSION", sequence_task.EXTERNAL_VERSION + 1)
    assert ho3d.prepare(sequences=("ABF10",))["converted_sequences"] == 2
    assert ho3d.listed == ["ABF10", "ABF11"]
    assert all(entry["data_version"] != old[entry["sequence"]] for entry in ho3d.manifest["sequences"])
    assert ho3d.prepare()["converted_sequences"] == 0


def test_shards_of_other_settings_are_not_listed_beside_new_ones(ho3d):
    ho3d.prepare()
    before = ho3d.manifest
    with pytest.raises(ConfigError, match=r"1 other finished sequences .*jpeg_quality 95 -> 80"):
        ho3d.prepare(sequences=("ABF10",), jpeg_quality=80)
    assert ho3d.manifest == before
    assert ho3d.prepare(jpeg_quality=80)["converted_sequences"] == 2
    assert ho3d.listed == ["ABF10", "ABF11"]


def test_a_limit_on_sequences_takes_the_others_out(ho3d):
    ho3d.prepare()
    assert ho3d.prepare(max_sequences_per_subject=1)["sequences"] == 1
    assert ho3d.listed == ["ABF10"]
    assert ho3d.prepare()["converted_sequences"] == 0


def test_a_subject_whose_raw_files_are_gone_keeps_its_manifest(ho3d):
    ho3d.prepare()
    before = ho3d.manifest
    for name in ("ABF10", "ABF11"):
        (ho3d.raw / "train" / name).rename(ho3d.raw / "train" / name.replace("ABF", "SM"))
    totals = ho3d.prepare()
    assert "2 finished sequences of an earlier conversion" in totals["kept_without_raw_files"]["ho3d_ABF"]
    assert totals["subjects"] == ["ho3d_ABF", "ho3d_SM"]
    assert ho3d.manifest == before


def test_a_sequence_that_failed_is_named_with_the_reason(ho3d):
    ho3d.prepare()
    (ho3d.raw / "train" / "ABF11" / "meta" / "0001.pkl").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"0001\.pkl"):
        ho3d.prepare()
    assert ho3d.listed == ["ABF10"]
    (left_out,) = ho3d.manifest["left_out_sequences"]
    assert left_out["sequence"] == "ABF11" and "0001.pkl" in left_out["reason"]
    assert str(ho3d.raw) not in left_out["reason"]
