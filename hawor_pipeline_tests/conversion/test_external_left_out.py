"""Other data sets: how many labelled hands may be lost, and sequences that show none."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hawor_pipeline.conversion.prepare import prepare
from hawor_pipeline.errors import DataError
from hawor_pipeline.shards.store import open_shards
from hawor_pipeline.sources.reader import NO_HAND, NOT_ANNOTATED
from hawor_pipeline.untrusted.safe_load import load_pickle
from hawor_pipeline_tests.conversion.test_external_manifests import Ho3d
from hawor_pipeline_tests.sources.layouts import WRITERS


@pytest.fixture
def ho3d(mano_dir, tmp_path) -> Ho3d:
    return Ho3d(tmp_path, mano_dir)


def remove(sequence: Path, frames: range, *names: str) -> None:
    """Take labels out of some frames of a sequence of HO-3D."""
    for frame in frames:
        file = sequence / "meta" / f"{frame:04d}.pkl"
        file.write_bytes(pickle.dumps({**load_pickle(file), **dict.fromkeys(names)}))


def test_too_many_lost_hands_are_an_error_and_good_sequences_are_kept(ho3d):
    """Two of three labelled hands cannot be checked; the frame without annotation is no ground truth at all."""
    remove(ho3d.raw / "train" / "ABF11", range(2), "handJoints3D")
    with pytest.raises(DataError) as caught:
        ho3d.prepare()
    expected = (
        "ho3d_ABF/ABF11: 67% of the 3 labelled hands are skipped ({'no_joints_to_check_the_fit': 2}), at most 20%"
    )
    assert expected in str(caught.value) and "1 of 2 sequences are finished" in str(caught.value)
    assert ho3d.listed == ["ABF10"]
    assert not (ho3d.output / "ho3d_ABF" / "ABF11").exists()
    assert ho3d.prepare(max_left_out_share=0.7)["left_out"] == {"no_joints_to_check_the_fit": 2, "not_annotated": 2}
    assert ho3d.listed == ["ABF10", "ABF11"]


@pytest.mark.parametrize("sequences", [None, ("ABF10",)])
def test_a_shard_made_under_a_more_lenient_limit_does_not_pass_a_stricter_one(ho3d, sequences):
    """Whether it is asked for, or only listed by an earlier call."""
    remove(ho3d.raw / "train" / "ABF11", range(1), "handJoints3D")
    ho3d.prepare(max_left_out_share=0.5)
    with pytest.raises(DataError, match="ABF11: 33% of the 3 labelled hands"):
        ho3d.prepare(max_left_out_share=0.0, sequences=sequences)
    assert ho3d.listed == ["ABF10"]
    assert [entry["sequence"] for entry in ho3d.manifest["left_out_sequences"]] == ["ABF11"]
    again = ho3d.prepare(max_left_out_share=0.5)
    assert (again["reused_sequences"], ho3d.listed) == (2, ["ABF10", "ABF11"])


def test_frames_that_the_data_set_does_not_annotate_lose_nothing(ho3d):
    remove(ho3d.raw / "train" / "ABF11", range(2), "handPose", "handTrans", "handBeta", "handJoints3D")
    assert ho3d.prepare(max_left_out_share=0.0)["left_out"] == {"not_annotated": 4}


def test_hands_of_interhand_without_a_fit_are_a_gap_of_the_published_data(mano_dir, tmp_path):
    """Two pictures show a left hand that has joints, but no parameters, beside ten hands that have both."""
    WRITERS["interhand"](tmp_path / "raw", mano_dir)
    settings = {"target_resolution": (64, 64), "max_left_out_share": 0.0}
    totals = prepare(
        tmp_path / "raw", tmp_path / "out", dataset="interhand", mano_dir=mano_dir, settings=settings, workers=0
    )
    assert (totals["rows"], totals["left_out"]) == (10, {"no_mano_fit": 2})


@pytest.mark.parametrize(("dataset", "reason", "empty"), [("ho3d", NOT_ANNOTATED, 4), ("dexycb", NO_HAND, 6)])
def test_a_sequence_without_any_annotated_frame_has_a_shard_without_rows(dataset, reason, empty, mano_dir, tmp_path):
    """Every frame of it is in the ledger, the limit on lost hands does not apply, and its neighbour is converted."""
    raw, output = tmp_path / "raw", tmp_path / "out"
    truth = WRITERS[dataset](raw, mano_dir)
    if dataset == "ho3d":
        shutil.copytree(raw / "train" / "ABF10", raw / "train" / "ABF11")
        remove(raw / "train" / "ABF11", range(4), "handPose", "handTrans", "handBeta", "handJoints3D")
        name = "ABF11"
    else:
        name = "20200709_150000"
        for file in raw.glob(f"*/{name}/*/labels_*.npz"):
            np.savez(file, pose_m=np.zeros((1, 51), np.float32), joint_3d=np.full((1, 21, 3), -1, np.float32))
        truth = {sample: joints for sample, joints in truth.items() if name not in sample}
    settings = {"target_resolution": (64, 64), "max_left_out_share": 0.0}
    totals = prepare(raw, output, dataset=dataset, mano_dir=mano_dir, settings=settings, workers=0)
    assert (totals["sequences"], totals["rows"]) == (2, len(truth))
    (manifest,) = [json.loads(path.read_text()) for path in output.glob("*/manifest.json")]
    (entry,) = [entry for entry in manifest["sequences"] if entry["sequence"] == name]
    assert (entry["rows"], entry["left_out"], entry["unaccounted"]) == (0, {reason: empty}, 0)
    shard = output / manifest["subject"] / name
    assert pq.read_table(shard / "annotations.parquet", partitioning=None).num_rows == 0
    assert pq.read_table(shard / "ledger.parquet", partitioning=None)["reason"].to_pylist() == [reason] * empty
    assert set(open_shards(output).table.column("sample_id").to_pylist()) == set(truth)
    again = prepare(raw, output, dataset=dataset, mano_dir=mano_dir, settings=settings, workers=0)
    assert again["reused_sequences"] == 2
