"""Other data sets: how many labelled hands may be lost, and sequences that show none."""

import pickle
from pathlib import Path

import pytest

from hawor_pipeline.core.safe_load import load_pickle
from hawor_pipeline.data.external.convert import prepare_dataset
from hawor_pipeline.errors import DataError
from hawor_pipeline_tests.data.external.layouts import WRITERS
from hawor_pipeline_tests.data.external.test_external_manifests import Ho3d


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
        "ho3d_ABF/ABF11: 67% of the 3 labelled hands are left out ({'no_joints_to_check_the_fit': 2}), at most 20%"
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


def test_hands_of_interhand_without_a_fit_count_as_lost(mano_dir, tmp_path):
    """Two pictures show a left hand that has joints, but no parameters, beside ten hands that have both."""
    WRITERS["interhand"](tmp_path / "raw", mano_dir)
    settings = {"target_resolution": (64, 64), "max_left_out_share": 0.1}
    with pytest.raises(DataError, match=r"17% of the 12 labelled hands are left out \({'no_mano_fit': 2}\)"):
        prepare_dataset("interhand", tmp_path / "raw", tmp_path / "out", mano_dir, settings=settings, workers=0)
