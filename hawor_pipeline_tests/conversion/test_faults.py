"""Bad input: a clear message that names the culprit, the right kind of error, and nothing half-written."""

import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion.ledger import CORRUPT_IMAGE
from hawor_pipeline.conversion.prepare import convert_subjects
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.shards.store import ImageWriter, open_shards
from hawor_pipeline.sources.arctic import ArcticRoot
from hawor_pipeline.sources.raw_sequence import load_sequence

SETTINGS = ConversionConfig(target_resolution=(64, 64), views=(0, 1, 4))


def convert(raw: Path, output: Path, subject="s05", mano=None, settings=SETTINGS):
    return convert_subjects(raw, mano, [subject], output, settings, workers=0)[subject]


def assert_nothing_published(output: Path):
    assert not output.exists() or not list(output.rglob("*"))


def raw_file(raw: Path, part: str) -> Path:
    return next((raw / "raw_seqs" / "s05").glob(f"*.{part}.npy"))


def edit(raw: Path, part: str, change) -> Path:
    path = raw_file(raw, part)
    loaded = np.load(path, allow_pickle=True)
    value = loaded.item() if loaded.dtype == object else loaded
    np.save(path, change(value), allow_pickle=True)
    return path


class Command:
    def __init__(self, flag):
        self.flag = flag

    def __reduce__(self):
        return os.system, (f"touch {self.flag}",)


@pytest.mark.parametrize("where", ["missing folder", "empty folder", "a file"])
def test_root_that_is_none(tmp_path, where):
    root = tmp_path / "arctic"
    if where == "empty folder":
        root.mkdir()
    elif where == "a file":
        root.write_text("")
    with pytest.raises(ConfigError, match=r"arctic.*(does not exist|expected meta/misc\.json)"):
        convert(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_mano_missing(raw_copy, tmp_path, monkeypatch):
    monkeypatch.delenv("MANO_DIR", raising=False)
    shutil.rmtree(raw_copy.parent / "body_models")
    with pytest.raises(ConfigError, match=r"MANO models not found for synthetic data.*sample-data"):
        convert(raw_copy, tmp_path / "out")
    with pytest.raises(ConfigError, match="nowhere"):
        convert(raw_copy, tmp_path / "out", mano=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"MANO_(LEFT|RIGHT)"):
        convert(raw_copy, tmp_path / "out", mano=tmp_path / "empty")
    assert_nothing_published(tmp_path / "out")


def test_unknown_subject_and_sequence(raw_copy, tmp_path):
    with pytest.raises(ConfigError, match="unknown subject 's50'"):
        convert(raw_copy, tmp_path / "out", subject="s50")
    known = raw_file(raw_copy, "mano").name.split(".")[0]
    wrong = known.replace("_", "-", 1)
    with pytest.raises(ConfigError, match=f"unknown sequence '{wrong}'.*{known}"):
        convert_subjects(raw_copy, None, ["s05"], tmp_path / "out", SETTINGS, sequences=[wrong], workers=0)
    assert_nothing_published(tmp_path / "out")


def ledger_of(output: Path) -> list[dict]:
    return pq.read_table(next(output.rglob("ledger.parquet")), partitioning=None).to_pylist()


@pytest.mark.parametrize("damage", [0, 1, 100, 0.5, -2, "zeros", "text"])
def test_a_corrupt_image_is_in_the_ledger_and_the_other_rows_are_unchanged(raw_copy, tmp_path, damage):
    convert(raw_copy, tmp_path / "whole")
    image = sorted((raw_copy / "images").rglob("1/*.jpg"))[4]
    data, hole = image.read_bytes(), len(image.read_bytes()) // 2
    if damage == "zeros":
        image.write_bytes(data[:hole] + bytes(300) + data[hole + 300 :])
    elif damage == "text":
        image.write_text("not an image")
    else:
        image.write_bytes(data[: int(len(data) * damage) if isinstance(damage, float) else damage])
    convert(raw_copy, tmp_path / "out")
    lost = [row for row in ledger_of(tmp_path / "out") if row["reason"] == CORRUPT_IMAGE]
    assert [(row["view"], row["frame"], row["side"], row["samples"]) for row in lost] == [(1, int(image.stem), "", 2)]
    before, after = (open_shards(tmp_path / name) for name in ("whole", "out"))
    names = [name for name in before.column("sample_id") if f"/1/{image.stem}/" not in name]
    assert after.column("sample_id").tolist() == names and len(names) == len(before.column("sample_id")) - 2
    kept = np.isin(before.column("sample_id"), names).nonzero()[0]
    assert [after.jpeg(row) for row in range(len(names))] == [before.jpeg(row) for row in kept]
    (sequence,) = json.loads((tmp_path / "out/s05/manifest.json").read_text())["sequences"]
    assert sequence["left_out"][CORRUPT_IMAGE] == 2 and sequence["unaccounted"] == 0 and sequence["rows"] == len(names)


def test_too_many_corrupt_images_are_an_error_that_names_the_first(raw_copy, tmp_path):
    images = sorted((raw_copy / "images").rglob("1/*.jpg"))[2:]
    for image in images:
        image.write_bytes(image.read_bytes()[:-40])
    with pytest.raises(DataError, match=f"max_left_out_share.*first corrupt .*1/{images[0].name}: damaged JPEG"):
        convert(raw_copy, tmp_path / "out")
    assert_nothing_published(tmp_path / "out")


def test_image_of_another_size(raw_copy, tmp_path):
    import simplejpeg

    image = sorted((raw_copy / "images").rglob("1/*.jpg"))[4]
    image.write_bytes(simplejpeg.encode_jpeg(np.full((40, 60, 3), 99, np.uint8), colorspace="RGB"))
    with pytest.raises(DataError, match=f"{image.name}: 60x40 pixels, expected"):
        convert(raw_copy, tmp_path / "out")
    assert_nothing_published(tmp_path / "out")


@pytest.mark.parametrize("part", ["mano", "object", "egocam.dist"])
@pytest.mark.parametrize("keep", [0, 60, 0.5, -1])
def test_array_cut_short(raw_copy, tmp_path, part, keep):
    path = raw_file(raw_copy, part)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(DataError, match=path.name.replace(".", r"\.")):
        convert(raw_copy, tmp_path / "out")
    assert_nothing_published(tmp_path / "out")


@pytest.mark.parametrize("part", ["mano", "object", "egocam.dist"])
def test_array_missing(raw_copy, tmp_path, part):
    path = raw_file(raw_copy, part)
    path.unlink()
    with pytest.raises(DataError, match=rf"{path.name}: missing"):
        convert(raw_copy, tmp_path / "out")
    assert_nothing_published(tmp_path / "out")


@pytest.mark.parametrize("part", ["mano", "object", "egocam.dist"])
def test_malicious_array_is_refused_and_not_run(raw_copy, tmp_path, part):
    path, flag = raw_file(raw_copy, part), tmp_path / "ran"
    holder = np.empty((), object)
    holder[()] = {"right": Command(flag), "left": 1}
    np.save(path, holder, allow_pickle=True)
    with pytest.raises(DataError, match=rf"{path.name}: refused.*{os.system.__module__}\.system"):
        convert(raw_copy, tmp_path / "out")
    assert not flag.exists()
    assert_nothing_published(tmp_path / "out")


def test_malicious_mano_model_is_refused_and_not_run(raw_copy, tmp_path):
    import pickle

    mano, flag = tmp_path / "mano", tmp_path / "ran"
    mano.mkdir()
    for side in ("LEFT", "RIGHT"):
        (mano / f"MANO_{side}.pkl").write_bytes(pickle.dumps({"v_template": Command(flag)}))
    with pytest.raises(DataError, match=rf"MANO_\w+\.pkl: refused.*{os.system.__module__}\.system"):
        convert(raw_copy, tmp_path / "out", mano=mano)
    assert not flag.exists()
    assert_nothing_published(tmp_path / "out")


CHANGES = {
    "object shorter": ("object", lambda a: a[:-2], "disagree about the number of frames"),
    "one hand shorter": (
        "mano",
        lambda d: {**d, "left": {k: v[:-1] if k != "shape" else v for k, v in d["left"].items()}},
        "disagree",
    ),
    "pose shorter than rot": (
        "mano",
        lambda d: {**d, "left": {**d["left"], "pose": d["left"]["pose"][:-1]}},
        "left.pose has shape",
    ),
    "camera longer": (
        "egocam.dist",
        lambda d: {**d, "R_k_cam_np": np.concatenate([d["R_k_cam_np"]] * 2)},
        "T_k_cam_np has shape",
    ),
    "wrong width": ("object", lambda a: a[:, :6], "object poses has shape"),
    "not finite": (
        "mano",
        lambda d: {**d, "right": {**d["right"], "trans": d["right"]["trans"] * np.nan}},
        "not finite",
    ),
    "millimetres": (
        "mano",
        lambda d: {**d, "right": {**d["right"], "trans": d["right"]["trans"] * 1000 + 1e5}},
        "expected metres",
    ),
    "metres": ("object", lambda a: a * 1e6, "expected millimetres"),
    "hands that turn endlessly": (
        "mano",
        lambda d: {**d, "left": {**d["left"], "pose": d["left"]["pose"] + 1e3}},
        "left.pose reaches .* expected radians",
    ),
    "a body of no human shape": (
        "mano",
        lambda d: {**d, "left": {**d["left"], "shape": d["left"]["shape"] + 100.0}},
        "left.shape reaches",
    ),
    "camera far away": (
        "egocam.dist",
        lambda d: {**d, "T_k_cam_np": d["T_k_cam_np"] + 1e6},
        "T_k_cam_np reaches .* expected metres",
    ),
    "no camera matrix": (
        "egocam.dist",
        lambda d: {**d, "intrinsics": np.zeros((3, 3))},
        "intrinsics are no camera matrix",
    ),
    "no rotation": ("egocam.dist", lambda d: {**d, "R_k_cam_np": d["R_k_cam_np"] * 1.1}, "is not a rotation"),
    "key missing": (
        "mano",
        lambda d: {**d, "right": {k: v for k, v in d["right"].items() if k != "trans"}},
        "no array 'trans'",
    ),
    "side missing": ("mano", lambda d: {"right": d["right"]}, "right and left"),
    "text": ("object", lambda a: a.astype(str), "expected numbers"),
    "no dictionary": ("mano", lambda d: d["right"]["rot"], "right and left"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_arrays_that_contradict(raw_copy, tmp_path, name):
    part, change, message = CHANGES[name]
    edit(raw_copy, part, change)
    with pytest.raises(DataError, match=message):
        convert(raw_copy, tmp_path / "out")
    assert_nothing_published(tmp_path / "out")


def test_counts_of_images_and_ground_truth_that_disagree(raw_copy, tmp_path):
    for path in sorted((raw_copy / "images").rglob("1/*.jpg"))[2:]:
        path.unlink()
    with pytest.raises(DataError, match=r"counts of images and ground truth disagree.*no_image"):
        convert(raw_copy, tmp_path / "out")
    assert_nothing_published(tmp_path / "out")


def test_no_images_at_all(raw_copy, tmp_path):
    shutil.rmtree(raw_copy / "images" / "s05")
    with pytest.raises(DataError, match="found no images"):
        convert(raw_copy, tmp_path / "out")
    shutil.rmtree(raw_copy / "images")
    with pytest.raises(ConfigError, match="images or cropped_images"):
        convert(raw_copy, tmp_path / "out")
    assert_nothing_published(tmp_path / "out")


def test_damaged_meta(raw_copy, tmp_path):
    path = raw_copy / "meta" / "misc.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"misc\.json: not readable"):
        convert(raw_copy, tmp_path / "out")
    entry = json.loads(whole)
    entry["s05"]["world2cam"] = entry["s05"]["world2cam"][:3]
    path.write_text(json.dumps(entry))
    with pytest.raises(DataError, match=r"misc\.json: entry of s05 is damaged"):
        convert(raw_copy, tmp_path / "out")
    for name, value, message in (
        ("intris_mat", np.nan, "not finite"),
        ("world2cam", 7.0, "is no camera"),
        ("intris_mat", -1.0, "is no camera"),
    ):
        entry = json.loads(whole)
        entry["s05"][name][2][0][0] = value
        path.write_text(json.dumps(entry))
        with pytest.raises(DataError, match=message):
            convert(raw_copy, tmp_path / "out")
    path.write_text(whole)
    mesh = next((raw_copy / "meta/object_vtemplates").rglob("top.obj")).parent
    for top in (raw_copy / "meta/object_vtemplates").rglob("top.obj"):
        top.write_text("v 1 2\nf 1 2 3\n")
    with pytest.raises(DataError, match=r"top\.obj: not a triangle mesh"):
        convert(raw_copy, tmp_path / "out")
    assert mesh.exists()
    assert_nothing_published(tmp_path / "out")


def test_synthetic_and_real_never_share_a_folder(raw_copy, tmp_path):
    mano = raw_copy.parent / "body_models" / "mano"
    convert(raw_copy, tmp_path / "out", mano=mano)
    (raw_copy / "SYNTHETIC").unlink()
    with pytest.raises(ConfigError, match=r"holds synthetic shards.*never mix"):
        convert(raw_copy, tmp_path / "out", mano=mano)


def test_disk_full_on_a_real_small_disk(raw_copy, tmp_path):
    """A file system of 100 kB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk; the simulated one is tested below")
    try:
        with pytest.raises(DataError, match="disk full while writing"):
            convert(raw_copy, disk / "out")
        assert_nothing_published(disk / "out")
        assert not list(disk.rglob("*.tmp"))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_disk_full_in_the_middle_of_writing(raw_copy, tmp_path, monkeypatch):
    written = ImageWriter.append

    def fails(self, jpeg):
        if self.count == 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        written(self, jpeg)

    monkeypatch.setattr(ImageWriter, "append", fails)
    with pytest.raises(DataError, match="disk full while writing"):
        convert(raw_copy, tmp_path / "out")
    assert_nothing_published(tmp_path / "out")
    monkeypatch.undo()
    assert convert(raw_copy, tmp_path / "out").info["rows"] > 0


@pytest.mark.parametrize("part", ["mano", "object", "egocam.dist"])
def test_random_damage_ends_in_a_named_error_or_in_whole_arrays(raw_copy, part):
    """Cuts and changed bytes anywhere, more of them near the start where the structure is."""
    root = ArcticRoot.locate(raw_copy)
    sequence = root.sequences("s05")[0]
    frames = len(load_sequence(root, "s05", sequence))
    path = raw_file(raw_copy, part)
    whole, rng, refused = path.read_bytes(), np.random.default_rng(7), 0
    for case in range(60):
        data = bytearray(whole)
        if case % 3 == 0:
            del data[rng.integers(len(data)) :]
        else:
            for _ in range(3):
                data[rng.integers(len(data) if case % 3 == 1 else 200)] = rng.integers(256)
        path.write_bytes(data)
        try:
            assert len(load_sequence(root, "s05", sequence)) == frames
        except DataError as error:
            refused += 1
            assert sequence in str(error)
    assert refused > 30
