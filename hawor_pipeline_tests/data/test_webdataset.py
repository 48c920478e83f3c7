"""Tars for HaMeR's training: fields, geometry in the crop, round trip, portable pickles, refusals."""

import io
import pickle
import tarfile

import cv2
import numpy as np
import pytest

from hawor_pipeline.cli import main
from hawor_pipeline.data.shards import open_shards
from hawor_pipeline.data.webdataset import dump_portable, export_webdataset, read_webdataset
from hawor_pipeline.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def exported(sample_shards, tmp_path_factory):
    output = tmp_path_factory.mktemp("tars") / "out"
    return export_webdataset(sample_shards, output, samples_per_tar=20), sorted_tars(output)


def sorted_tars(folder):
    return sorted(folder.glob("*.tar"))


def test_every_valid_row_is_in_one_tar(exported, sample_shards):
    result, tars = exported
    shards = open_shards(sample_shards)
    valid = {name for name, ok in zip(shards.table["sample_id"].to_pylist(), shards.column("valid"), strict=True) if ok}
    found = [hands[0]["extra_info"]["sample_id"] for _, _, hands in read_webdataset(tars)]
    assert len(found) == len(set(found)) == result.samples and set(found) == valid
    assert result.tars == len(tars) == -(-result.samples // 20)


def test_geometry_returns_to_the_full_frame(exported, sample_shards):
    _, tars = exported
    shards = open_shards(sample_shards)
    row = {name: index for index, name in enumerate(shards.table["sample_id"].to_pylist())}
    for _, jpeg, (hand,) in read_webdataset(tars):
        index = row[hand["extra_info"]["sample_id"]]
        assert jpeg == shards.jpeg(index)
        np.testing.assert_allclose(hand["joints_px"], shards.column("joints_px")[index], atol=0.05)
        np.testing.assert_allclose(hand["box_center_px"], shards.column("box_center_px")[index], atol=0.05)
        assert hand["box_size_px"] == pytest.approx(shards.column("box_size_px")[index], rel=1e-5)
        np.testing.assert_array_equal(hand["keypoints_3d"][:, :3], shards.column("joints_cam_m")[index])


def test_fields_have_the_shapes_that_hamer_reads(exported):
    _, tars = exported
    _, jpeg, (hand,) = next(read_webdataset(tars))
    shapes = {name: np.shape(hand[name]) for name in ("keypoints_2d", "keypoints_3d", "center", "scale", "hand_pose")}
    assert shapes == {
        "keypoints_2d": (21, 3),
        "keypoints_3d": (21, 4),
        "center": (2,),
        "scale": (2,),
        "hand_pose": (48,),
    }
    assert np.shape(hand["betas"]) == (10,) and hand["right"] in (0.0, 1.0)
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    seen = hand["keypoints_2d"][hand["keypoints_2d"][:, 2] > 0, :2]
    assert np.all(seen > -1) and np.all(seen < max(picture.shape[:2]))
    middle = (np.array(picture.shape[1::-1]) - 1) / 2
    assert np.abs(hand["center"] - middle).max() < 2  # the crop is centred on the box
    assert hand["scale"][0] * 200 == pytest.approx(picture.shape[0] / 1.5, rel=0.05)  # and has a margin of half of it


def as_hamer_keeps_it(hand, least_confidence=0.5, least_joints=4, least_side_px=1.0, largest_loss=10**4.5, betas=3.0):
    """Whether HaMeR's training keeps a hand of a tar, reading every field as it does; written from its description.

    Returns:
        Filter to whether the hand passes it.
    """
    loss = hand.get("extra_info", {}).get("fitting_loss", np.array({})).item().get("reprojection_loss")
    confidence = np.where(hand["keypoints_2d"][:, 2] < least_confidence, 0.0, hand["keypoints_2d"][:, 2])
    shape_is_known, pose_is_known = hand["has_betas"] > 0, hand["has_hand_pose"] > 0
    return {
        "joints": (confidence > 0).sum() > least_joints,
        "side": hand["scale"].min().item() * 200.0 > least_side_px,
        "reprojection": loss is None or loss < largest_loss,
        "betas": bool(shape_is_known) and bool(np.all(np.abs(hand["betas"]) <= betas)),
        "pose": bool(pose_is_known) and hand["hand_pose"].shape == (48,) and bool(np.isfinite(hand["hand_pose"]).all()),
        "numbers": all(np.isfinite(hand[name]).all() for name in ("keypoints_2d", "keypoints_3d", "center", "betas")),
        "side_of_body": hand["right"] in (0, 1),
    }


def test_hamer_keeps_every_hand(exported, sample_shards):
    _, tars = exported
    shards = open_shards(sample_shards)
    few = {
        name
        for name, joints in zip(shards.table["sample_id"].to_pylist(), shards.column("joint_in_frame"), strict=True)
        if joints.sum() <= 4
    }
    for path in tars:
        with tarfile.open(path) as tar:
            for member in tar:
                if not member.name.endswith(".data.pyd"):
                    continue
                (hand,) = pickle.loads(tar.extractfile(member).read())  # noqa: S301 - as HaMeR does; our own bytes
                lost = {name for name, kept in as_hamer_keeps_it(hand).items() if not kept}
                assert lost == ({"joints"} if hand["extra_info"]["sample_id"] in few else set())


def test_the_same_shards_give_the_same_bytes(exported, sample_shards, tmp_path):
    _, tars = exported
    export_webdataset(sample_shards, tmp_path / "again", samples_per_tar=20)
    assert [path.read_bytes() for path in sorted_tars(tmp_path / "again")] == [path.read_bytes() for path in tars]


def test_pickles_name_numpy_as_both_of_its_versions_do():
    data = dump_portable([{"a": np.arange(3, dtype=np.float32), "b": 1.5}])
    assert b"numpy._core" not in data and b"numpy.core.multiarray" in data
    (back,) = pickle.loads(data)  # noqa: S301 - our own bytes
    np.testing.assert_array_equal(back["a"], [0, 1, 2])


def test_a_pickle_that_runs_something_is_refused(tmp_path):
    mark = tmp_path / "ran"
    evil = b"cos\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR."
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        for name, data in (("a.jpg", b"x"), ("a.data.pyd", evil)):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    with pytest.raises(DataError, match=r"a\.data\.pyd"):
        list(read_webdataset([tmp_path / "evil.tar"]))
    assert not mark.exists()


@pytest.mark.parametrize("blocks", [0, 0.6, 1, 3.4, *np.arange(8, 12, 0.5)])  # in a header, between members, in a file
def test_a_cut_tar_is_a_clear_error(exported, tmp_path, blocks):
    _, tars = exported
    (tmp_path / "cut.tar").write_bytes(tars[0].read_bytes()[: int(512 * blocks)])
    with pytest.raises(DataError, match=r"cut\.tar"):
        list(read_webdataset([tmp_path / "cut.tar"]))


def test_nothing_is_overwritten(sample_shards, tmp_path, capsys):
    words = ["export-webdataset", "--data", str(sample_shards), "--output", str(tmp_path / "out"), "--subjects", "s05"]
    assert main(words) == 0
    assert "hands in 1 tars" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="exists already"):
        export_webdataset(sample_shards, tmp_path / "out")
