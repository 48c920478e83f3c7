"""Other data sets: a manifest vouches only for shards that are as it says."""

import json
import shutil
from pathlib import Path

import pytest

import hawor_pipeline.conversion.prepare_dataset as conversion
from hawor_pipeline.errors import DataError
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
        return conversion.prepare_dataset(
            "ho3d", self.raw, self.output, self.mano_dir, settings={**SETTINGS, **settings}, workers=0
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
    convert, left = conversion.convert_unit, [shards]

    def counted(task):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return convert(task)

    monkeypatch.setattr(conversion, "convert_unit", counted)


@pytest.mark.parametrize("shards", [1, 2])
def test_killed_while_shards_are_replaced_no_manifest_vouches_for_them(ho3d, monkeypatch, shards):
    ho3d.prepare()
    with monkeypatch.context() as patched:
        kill_after(shards, patched)
        if shards == 2:
            patched.setattr(conversion, "_write_manifests", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
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
    assert len(open_shards(ho3d.output)) == 3


def test_sequences_of_earlier_calls_stay_listed_under_the_same_settings(ho3d):
    ho3d.prepare(sequences=("ABF10",))
    ho3d.prepare(sequences=("ABF11",))
    assert ho3d.listed == ["ABF10", "ABF11"]


@pytest.mark.parametrize("raised", ["EXTERNAL_VERSION", "settings"])
def test_shards_of_another_version_or_setting_are_not_listed_beside_new_ones(ho3d, monkeypatch, raised):
    ho3d.prepare()
    old = {entry["sequence"]: entry["data_version"] for entry in ho3d.manifest["sequences"]}
    if raised == "EXTERNAL_VERSION":
        monkeypatch.setattr(conversion, raised, conversion.EXTERNAL_VERSION + 1)
    settings = {"jpeg_quality": 80} if raised == "settings" else {}
    ho3d.prepare(sequences=("ABF10",), **settings)
    assert ho3d.listed == ["ABF10"]
    assert ho3d.manifest["sequences"][0]["data_version"] != old["ABF10"]
    assert ho3d.prepare(**settings)["converted_sequences"] == 1
    assert ho3d.listed == ["ABF10", "ABF11"]


def test_a_sequence_that_failed_is_named_with_the_reason(ho3d):
    ho3d.prepare()
    (ho3d.raw / "train" / "ABF11" / "meta" / "0001.pkl").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"0001\.pkl"):
        ho3d.prepare()
    assert ho3d.listed == ["ABF10"]
    (left_out,) = ho3d.manifest["left_out_sequences"]
    assert left_out["sequence"] == "ABF11" and "0001.pkl" in left_out["reason"]
    assert str(ho3d.raw) not in left_out["reason"]
