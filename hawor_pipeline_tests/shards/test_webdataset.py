"""Tars for HaMeR's training: fields, geometry in the crop, round trip, portable pickles, refusals; and shards again."""

import hashlib
import io
import json
import pickle
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from hawor_pipeline.cli import main
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.locate import check_hand_models
from hawor_pipeline.shards.manifest import read_manifest
from hawor_pipeline.shards.schema import COLUMNS
from hawor_pipeline.shards.splits import read_protocols, record_protocols
from hawor_pipeline.shards.store import open_shards, read_side_tables
from hawor_pipeline.shards.webdataset import dump_portable, export_webdataset, read_webdataset
from hawor_pipeline.shards.webdataset_import import import_webdataset
from hawor_pipeline.sources.arctic import ArcticRoot
from hawor_pipeline_tests.shards.edited import restate


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


@pytest.mark.agreement(
    subject="tars of export-webdataset",
    publication="HaMeR's image_dataset.py (center, scale / 200, keypoints)",
    compared="joints and boxes in the full frame, read back as HaMeR does",
    tolerance=0.05,
    unit="px",
)
def test_geometry_returns_to_the_full_frame(exported, sample_shards, tolerance):
    _, tars = exported
    shards = open_shards(sample_shards)
    row = {name: index for index, name in enumerate(shards.table["sample_id"].to_pylist())}
    for _, jpeg, (hand,) in read_webdataset(tars):
        index = row[hand["extra_info"]["sample_id"]]
        assert jpeg == shards.jpeg(index)
        np.testing.assert_allclose(hand["joints_px"], shards.column("joints_px")[index], atol=tolerance)
        np.testing.assert_allclose(hand["box_center_px"], shards.column("box_center_px")[index], atol=tolerance)
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
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    seen = hand["keypoints_2d"][hand["keypoints_2d"][:, 2] > 0, :2]
    assert np.all(seen > -1) and np.all(seen < max(image.shape[:2]))
    middle = (np.array(image.shape[1::-1]) - 1) / 2
    assert np.abs(hand["center"] - middle).max() < 2  # the crop is centred on the box
    assert hand["scale"][0] * 200 == pytest.approx(image.shape[0] / 1.5, rel=0.05)  # and has a margin of half of it


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


# --- and back ---


@pytest.fixture(scope="module")
def back(exported, tmp_path_factory):
    output = tmp_path_factory.mktemp("back") / "shards"
    return import_webdataset(exported[0].output, output), output


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rewrite_tar(path, change):
    """Rewrite a tar with `change(name, data)` instead of each member's bytes."""
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            changed = change(name, data)
            entry = tarfile.TarInfo(name)
            entry.size = len(changed)
            tar.addfile(entry, io.BytesIO(changed))


def without_extra(*names):
    """A change that takes values out of `extra_info`, as in a tar of somebody else."""

    def change(name, data):
        if not name.endswith(".pyd"):
            return data
        (hand,) = pickle.loads(data)  # noqa: S301 - our own bytes
        kept = {key: value for key, value in hand["extra_info"].items() if names and key not in names}
        return pickle.dumps([{**hand, "extra_info": kept}])

    return change


def with_values(**values):
    """A change of values in `extra_info`; a function gets the value that is there."""

    def change(name, data):
        if not name.endswith(".pyd"):
            return data
        (hand,) = pickle.loads(data)  # noqa: S301 - our own bytes
        extra = hand["extra_info"]
        new = {key: value(extra[key]) if callable(value) else value for key, value in values.items()}
        return pickle.dumps([{**hand, "extra_info": {**extra, **new}}])

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_values(joints_px=lambda old: np.full_like(old, np.nan)), "joints_px holds values that are not finite"),
        (with_values(blur=float("inf")), "blur holds values that are not finite"),
        (with_values(image_height=-480), "image_height is -480, expected a number above 0"),
        (with_values(box_size_px=0.0), r"box_size_px is 0\.0, expected a number above 0"),
        (with_values(source="../elsewhere"), "source is '../elsewhere'"),
        (with_values(gt_index=2**70), "gt_index is 1180591620717411303424, which its column cannot hold"),
        (lambda name, data: b"" if name.endswith(".jpg") else data, "has no image before its labels"),
        (lambda name, data: data + b"x" if name.endswith(".jpg") else data, "not the one that was exported with these"),
    ],
)
def test_values_that_no_export_has_are_refused(tars, tmp_path, change, message):
    rewrite_tar(sorted_tars(tars)[0], change)
    with pytest.raises(DataError, match=message):
        import_webdataset(tars, tmp_path / "out")
    assert not any((tmp_path / "out").rglob("*.parquet"))


def test_exchanged_images_are_refused(tars, tmp_path):
    path = sorted_tars(tars)[0]
    with tarfile.open(path) as tar:
        images = [tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")]
    images = iter(images[1:] + images[:1])
    rewrite_tar(path, lambda name, data: next(images) if name.endswith(".jpg") else data)
    with pytest.raises(DataError, match="not the one that was exported with these labels"):
        import_webdataset(tars, tmp_path / "out")


def link_member(entry):
    entry.type, entry.linkname, entry.size = tarfile.SYMTYPE, "/etc/passwd", 0
    return entry


def huge_member(entry):
    entry.size = 1 << 32
    return entry


@pytest.mark.parametrize("member", [link_member, huge_member])
def test_members_that_are_no_plain_files_are_refused(tars, tmp_path, member):
    path = sorted_tars(tars)[0]
    header = member(tarfile.TarInfo("s01-box_grab_01-0-00001-left.jpg")).tobuf(tarfile.GNU_FORMAT)
    path.write_bytes(header + path.read_bytes())
    with pytest.raises(DataError, match="not a plain file of at most 64 MiB"):
        import_webdataset(tars, tmp_path / "out")


def test_labels_of_another_key_than_the_image_are_refused(tars, tmp_path):
    path = sorted_tars(tars)[0]
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
    members[0] = ("another.jpg", members[0][1])
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    with pytest.raises(DataError, match="found another"):
        import_webdataset(tars, tmp_path / "out")


@pytest.fixture
def tars(exported, tmp_path):
    return Path(shutil.copytree(exported[0].output, tmp_path / "tars"))


def test_every_valid_row_comes_back_bit_for_bit(back, sample_shards):
    result, output = back
    before, after = open_shards(sample_shards), open_shards(output)
    before = before.select(before.column("valid"))
    assert result.samples == len(after) == len(before) > 0 and after.source == before.source
    assert [path.name for path in after.directories] == [path.name for path in before.directories]
    for name in COLUMNS:
        old, new = before.column(name), after.column(name)
        assert old.dtype == new.dtype and old.shape == new.shape, name
        assert old.tolist() == new.tolist() if old.dtype == object else old.tobytes() == new.tobytes(), name
    assert all(before.jpeg(row) == after.jpeg(row) for row in range(len(before)))


def test_rows_that_are_not_valid_stay_behind(sample_shards, tmp_path):
    shards = Path(shutil.copytree(sample_shards, tmp_path / "shards"))
    file = next((shards / "s05").glob("*/annotations.parquet"))
    table = pq.read_table(file, partitioning=None)
    fine = np.arange(len(table)) % 3 > 0
    pq.write_table(table.set_column(table.schema.get_field_index("valid"), table.schema.field("valid"), [fine]), file)
    restate(shards)
    result = export_webdataset(shards, tmp_path / "tars", subjects=["s05"])
    assert result.skipped == np.count_nonzero(~fine) > 0
    import_webdataset(tmp_path / "tars", tmp_path / "back")
    before, after = open_shards(shards, ["s05"]), open_shards(tmp_path / "back")
    assert after.table["sample_id"].to_pylist() == np.array(before.table["sample_id"].to_pylist())[fine].tolist()
    assert [after.jpeg(new) for new in range(len(after))] == [before.jpeg(int(old)) for old in np.flatnonzero(fine)]


def test_imported_shards_know_their_hand_models(back, sample_shards, mano_dir, licensed_mano):
    _, output = back
    expected, found = (read_manifest(folder, "s05").hand_models for folder in (sample_shards, output))
    assert found == expected and set(found) == {"left", "right"}
    check_hand_models(output, mano_dir)
    with pytest.raises(ConfigError, match="not those of the shards"):
        check_hand_models(output, licensed_mano)


def test_tars_of_other_hand_models_are_refused(exported, back, tmp_path):
    """One manifest entry vouches for all sequences of a subject."""
    output = Path(shutil.copytree(back[1], tmp_path / "back"))
    path = output / "s05" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "hand_models": {"left": "0" * 64, "right": "1" * 64}}))
    with pytest.raises(ConfigError, match="other hand models than the tars"):
        import_webdataset(exported[0].output, output)
    path.write_text(json.dumps({**manifest, "hand_models": None}))  # as an earlier version wrote it
    import_webdataset(exported[0].output, output)
    assert read_manifest(output, "s05").hand_models is None


def test_an_import_is_an_ordinary_folder_of_shards(back, sample_shards):
    _, output = back
    for subject in ("s01", "s05"):
        old, new = (json.loads((folder / subject / "manifest.json").read_text()) for folder in (sample_shards, output))
        for name in ("subject", "source", "status", "settings", "converter_version", "valid_rows"):
            assert new[name] == old[name]
        assert new["data_version"] != old["data_version"]
        for was, entry in zip(old["sequences"], new["sequences"], strict=True):
            folder = output / subject / entry["sequence"]
            assert entry["exported_data_version"] == was["data_version"]
            for name, digest in entry["sha256"].items():
                assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
            tables = [root / subject / entry["sequence"] / "annotations.parquet" for root in (sample_shards, output)]
            files = [pq.read_schema(table) for table in tables]
            assert files[0].equals(files[1]) and files[1].metadata[b"source"] == files[0].metadata[b"source"]
    distances = [
        {tuple(row.values()) for row in read_side_tables(folder, ["s01", "s05"], "distances.parquet").to_pylist()}
        for folder in (sample_shards, output)
    ]
    assert distances[1] and distances[1] <= distances[0]
    assert len(read_side_tables(output, ["s01"], "ledger.parquet")) == 0


def test_a_second_import_changes_nothing(back, exported):
    result, output = back
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    again = import_webdataset(exported[0].output, output)
    assert again.reused_sequences == again.sequences == result.sequences and result.reused_sequences == 0
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()} == {
        path: time for path, time in before.items() if path.is_file()
    }


@pytest.mark.parametrize("where", ["ImageWriter.append", "mark_done", "write_manifest"])
def test_an_import_that_was_killed_goes_on(back, exported, tmp_path, where):
    output = tmp_path / "shards"
    code = f"""
import os, sys
import hawor_pipeline.shards.webdataset_import as module
calls, original = [0], module.{where}
def dying(*arguments):
    calls[0] += 1
    if calls[0] == 2:
        os._exit(9)
    return original(*arguments)
module.{where} = dying
module.import_webdataset(*sys.argv[1:])
"""
    done = subprocess.run([sys.executable, "-c", code, str(exported[0].output), str(output)], check=False)
    assert done.returncode == 9
    import_webdataset(exported[0].output, output)
    assert files_of(output) == files_of(back[1])


def test_a_sequence_that_differs_is_kept_and_refused(tars, tmp_path):
    output = tmp_path / "shards"
    import_webdataset(tars, output)
    before = files_of(output)
    rewrite_tar(sorted_tars(tars)[0], with_values(blur=0.25))
    with pytest.raises(DataError, match="differs from the tars"):
        import_webdataset(tars, output)
    assert files_of(output) == before


def test_foreign_tars_are_refused_by_what_they_lack(tars, tmp_path):
    rewrite_tar(sorted_tars(tars)[0], without_extra())
    with pytest.raises(DataError, match=r"lacks the camera \(intrinsics.*the translation \(translation_m\)"):
        import_webdataset(tars, tmp_path / "out")
    assert not any((tmp_path / "out").rglob("*.parquet"))


def test_tars_of_an_earlier_export_say_which_column_they_lack(tars, tmp_path):
    rewrite_tar(sorted_tars(tars)[0], without_extra("joints_world_m"))
    with pytest.raises(DataError, match=r"lacks other values \(joints_world_m\).*export again"):
        import_webdataset(tars, tmp_path / "out")


@pytest.mark.parametrize("name", ["../../evil/0/00001/left", "s01/..hidden/0/00001/left", "s01/a/0/00001/both", "s01"])
def test_a_sample_id_cannot_lead_elsewhere(tars, tmp_path, name):
    def change(member, data):
        if not member.endswith(".pyd"):
            return data
        (hand,) = pickle.loads(data)  # noqa: S301 - our own bytes
        hand["extra_info"]["sample_id"] = name
        return pickle.dumps([hand])

    rewrite_tar(sorted_tars(tars)[0], change)
    with pytest.raises(DataError, match="sample_id is"):
        import_webdataset(tars, tmp_path / "out")


def test_a_tar_that_is_missing_is_noticed(tars, tmp_path):
    sorted_tars(tars)[-1].unlink()
    with pytest.raises(DataError, match="a tar is missing"):
        import_webdataset(tars, tmp_path / "out")


def test_tars_in_another_order_are_refused(tars, tmp_path):
    first, second = sorted_tars(tars)[:2]
    first.rename(tars / "x")
    second.rename(first)
    (tars / "x").rename(second)
    with pytest.raises(DataError, match=r"in its order|in the order"):
        import_webdataset(tars, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "value", "words"), [("source", "ho3d", "never mix"), ("settings", {}, "other settings")]
)
def test_another_source_or_setting_in_the_folder_is_refused(exported, back, tmp_path, name, value, words):
    output = Path(shutil.copytree(back[1], tmp_path / "shards"))
    manifest = json.loads((output / "s01" / "manifest.json").read_text())
    (output / "s01" / "manifest.json").write_text(json.dumps({**manifest, name: value}))
    with pytest.raises(ConfigError, match=words):
        import_webdataset(exported[0].output, output)


def test_recorded_protocols_travel_along(sample_shards, sample_root, tmp_path, capsys):
    shards = Path(shutil.copytree(sample_shards, tmp_path / "shards"))
    record_protocols(shards, read_protocols(ArcticRoot.locate(sample_root / "arctic")))
    assert main(["export-webdataset", "--data", str(shards), "--output", str(tmp_path / "tars")]) == 0
    assert main(["import-webdataset", str(tmp_path / "tars"), "--output", str(tmp_path / "back")]) == 0
    assert "0 sequences were reused" in capsys.readouterr().out
    assert (tmp_path / "back" / "protocols.json").read_bytes() == (shards / "protocols.json").read_bytes()


def test_a_folder_without_tars_is_a_wrong_path(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no \.tar"):
        import_webdataset(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("count", [0, -5])
def test_a_tar_holds_a_sample_at_least(sample_shards, tmp_path, count):
    with pytest.raises(ConfigError, match=f"{count} samples per tar"):
        export_webdataset(sample_shards, tmp_path / "tars", samples_per_tar=count)
    assert not (tmp_path / "tars").exists()
