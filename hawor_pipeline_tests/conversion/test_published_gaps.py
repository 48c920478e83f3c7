"""Gaps of published data: every image without labels and every label without image is in the ledger of its sequence."""

import json
import pickle
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from hawor_pipeline.cli import main
from hawor_pipeline.conversion.prepare import estimate, prepare
from hawor_pipeline.conversion.proof_sheet import write_proof_sheet
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.shards.store import open_shards
from hawor_pipeline.sources import reader as protocol
from hawor_pipeline.sources.reader import HandLabels
from hawor_pipeline.sources.registry import open_reader
from hawor_pipeline.untrusted.safe_load import load_pickle
from hawor_pipeline_tests.sources.layouts import FORMS, WRITERS

SETTINGS = {"target_resolution": (64, 64)}
# One image of each dataset whose hands are labelled, and its (view, frame).
SHOWN = {
    "freihand": ("training/rgb/00000002.jpg", (0, 2)),
    "ho3d": ("train/ABF10/rgb/0001.jpg", (0, 1)),
    "dexycb": ("20200709-subject-01/20200709_141754/836212060125/color_000001.jpg", (0, 1)),
    "interhand": ("images/test/Capture0/0390_dh_touchROM/cam400262/image23434.jpg", (400262, 23434)),
}


class Raw:
    """One dataset in its layout, and calls that prepare it."""

    def __init__(self, form: str, folder: Path, mano_dir: Path) -> None:
        self.dataset, write = FORMS[form]
        self.raw, self.output, self.mano_dir = folder / "raw", folder / "out", mano_dir
        self.truth = write(self.raw, mano_dir)

    def call(self, function=prepare, **settings) -> dict:
        return function(
            self.raw,
            self.output,
            dataset=self.dataset,
            mano_dir=self.mano_dir,
            settings={**SETTINGS, **settings},
            workers=0,
        )

    @property
    def samples(self) -> set[str]:
        return set(open_shards(self.output).table.column("sample_id").to_pylist())

    @property
    def ledger(self) -> list[tuple]:
        """(view, frame, side, reason, samples) of all shards."""
        names = ("view", "frame", "side", "reason", "samples")
        tables = [pq.read_table(path, partitioning=None) for path in self.output.glob("*/*/ledger.parquet")]
        return [row for table in tables for row in zip(*(table[name].to_pylist() for name in names), strict=True)]

    @property
    def sequences(self) -> dict[str, dict]:
        manifests = [json.loads(path.read_text()) for path in self.output.glob("*/manifest.json")]
        return {entry["sequence"]: entry for manifest in manifests for entry in manifest["sequences"]}


@pytest.fixture
def make(mano_dir, tmp_path):
    return lambda form: Raw(form, tmp_path, mano_dir)


def at(samples: dict, view: int, frame: int) -> set[str]:
    """Names of the samples of one image."""
    return {name for name in samples if name.split("/")[2:4] == [str(view), f"{frame:05d}"]}


@pytest.mark.parametrize("dataset", sorted(WRITERS))
def test_labels_without_their_image_are_in_the_ledger_and_the_rest_converts(dataset, make):
    data = make(dataset)
    file, (view, frame) = SHOWN[dataset]
    (data.raw / file).unlink()
    sequence = "20200709_141754" if dataset == "dexycb" else ""
    gone = {name for name in at(data.truth, view, frame) if sequence in name}
    assert gone
    if dataset == "freihand":  # the only image of a sequence
        data.call()
        (entry,) = json.loads((data.output / "freihand" / "manifest.json").read_text())["left_out_sequences"]
        assert entry == {"sequence": "training_02", "reason": "no_pictures"}
    else:
        data.call()
        rows = [row for row in data.ledger if row[3] == "no_image"]
        assert sorted(rows) == sorted((view, frame, name.rsplit("/", 1)[1], "no_image", 1) for name in gone)
    assert data.samples == set(data.truth) - gone
    assert all(entry["unaccounted"] == 0 for entry in data.sequences.values())


def test_a_hand_of_freihand_without_any_image_is_in_the_ledger(make, mano_dir, tmp_path):
    """Hand n and hand n + 100 are in one sequence; the first five hands have an image, the others none."""
    data = Raw("freihand", tmp_path, mano_dir)
    for name in ("K", "mano", "xyz"):
        file = data.raw / f"training_{name}.json"
        file.write_text(json.dumps(json.loads(file.read_text())[:1] * 150))
    data.call()
    assert sorted(data.ledger) == [(0, hand, "right", "no_image", 1) for hand in range(100, 105)]
    assert len(data.samples) == 5


def test_a_missing_version_of_a_hand_of_freihand_is_in_the_ledger(mano_dir, tmp_path):
    """Of the first version and the third, which is there but for one image; of the second there is one image only."""
    data = Raw("freihand", tmp_path, mano_dir)
    folder = data.raw / "training" / "rgb"
    for hand in (0, 1, 3):
        shutil.copy(folder / "00000001.jpg", folder / f"{hand + 8:08d}.jpg")
    (folder / "00000000.jpg").unlink()
    data.call(max_left_out_share=0.0)
    assert sorted(data.ledger) == [(0, 0, "right", "no_image", 1), (0, 10, "right", "no_image", 1)]
    shown = {name.split("/")[3] for name in data.samples}
    assert shown == {"00001", "00002", "00003", "00004", "00008", "00009", "00011"}


@pytest.mark.parametrize("form", ["ho3d", "ho3d_v2", "dexycb", "freihand_evaluation", "interhand"])
def test_images_without_labels_are_in_the_ledger_and_the_rest_converts(form, make):
    """As HO-3D v3 lacks the annotation files of ABF12 from 0678 on."""
    data = make(form)
    files = {"ho3d": "train/ABF10/meta/0001.pkl", "dexycb": SHOWN["dexycb"][0].replace("color_", "labels_")}
    gone, expected = set(), []
    if form == "interhand":
        folder = data.raw / "images/test/Capture0"
        shutil.copy(data.raw / SHOWN["interhand"][0], folder / "0390_dh_touchROM/cam400263/image00007.jpg")
        shutil.copytree(folder / "0390_dh_touchROM", folder / "0391_unlisted")
        expected = [(400263, 7, "", "no_label", 1)]
        expected += [(view, frame, "", "no_label", 1) for view in (400262, 400263) for frame in (23434, 23437, 23440)]
        expected += [(400263, 7, "", "no_label", 1)]
    elif form == "freihand_evaluation":  # never the labels of another hand, as in the training set
        shutil.copy(data.raw / "evaluation/rgb/00000001.jpg", data.raw / "evaluation/rgb/00000104.jpg")
        expected = [(0, 104, "right", "no_label", 1)]
    else:
        file = data.raw / files[data.dataset].replace("jpg", "npz")
        file.unlink()
        sequence = "20200709_141754" if form == "dexycb" else ""
        gone = {name for name in at(data.truth, 0, 1) if sequence in name}
        expected = [(0, 1, "right", "no_label", 1)]
    data.call(max_left_out_share=0.0)
    assert sorted(row for row in data.ledger if row[3] == "no_label") == sorted(expected)
    assert data.samples == set(data.truth) - gone
    assert all(entry["unaccounted"] == 0 for entry in data.sequences.values())


def test_missing_labels_and_images_of_arctic_are_in_the_ledger(raw_copy, mano_dir, tmp_path):
    """Image files of one view are renumbered past the end of the ground truth."""
    folder = next(iter(sorted((raw_copy / "images" / "s05").iterdir()))) / "1"
    first, second = sorted(folder.iterdir())[3:5]
    number = int(first.stem)
    first.unlink()
    second.rename(folder / "09999.jpg")
    settings = {**SETTINGS, "views": (1,), "max_left_out_share": 1.0}
    prepare(raw_copy, tmp_path, subjects=["s05"], mano_dir=mano_dir, settings=settings, workers=0)
    ledger = pq.read_table(tmp_path / "s05" / folder.parent.name / "ledger.parquet", partitioning=None).to_pylist()
    found = {(row["frame"], row["reason"]) for row in ledger if row["reason"].startswith("no_")}
    assert {(number, "no_image"), (int(second.stem), "no_image"), (9999, "no_ground_truth_after_end")} <= found


def test_sequences_of_arctic_with_images_and_no_raw_files_are_in_the_manifest(raw_copy, mano_dir, tmp_path):
    sequence = min((raw_copy / "images" / "s05").iterdir()).name
    shutil.copytree(raw_copy / "images" / "s05" / sequence, raw_copy / "images" / "s05" / "box_use_99")
    settings = {**SETTINGS, "views": (1,), "max_left_out_share": 1.0}
    prepare(raw_copy, tmp_path, subjects=["s05"], mano_dir=mano_dir, settings=settings, workers=0)
    listed = json.loads((tmp_path / "s05" / "manifest.json").read_text())["left_out_sequences"]
    assert listed == [{"sequence": "box_use_99", "reason": "no_raw_files"}]


@pytest.mark.parametrize("form", sorted(FORMS))
def test_a_dataset_without_any_usable_image_is_an_error(form, make, capsys):
    """The images have another format, or are not unpacked."""
    data = make(form)
    for path in [*data.raw.rglob("*.jpg"), *data.raw.rglob("*.png")]:
        path.rename(path.with_suffix(".webp"))
    words = ["prepare", "--dataset", data.dataset, "--root", str(data.raw), "--mano-dir", str(data.mano_dir)]
    words += ["--output-dir", str(data.output), "--num-workers", "0"]
    for command in (words, [*words, "--dry-run"]):
        assert main(command) != 0
        printed = capsys.readouterr()
        said = printed.out + printed.err
        for part in ("found no images", "expected .jpg or .png files", "such as", "Unpack the images there"):
            assert part in said, said
    assert not list(data.output.glob("*/*/annotations.parquet"))


@pytest.mark.parametrize("form", sorted(FORMS))
def test_foreign_files_are_ignored_and_suffixes_may_be_upper_case(form, make):
    data = make(form)
    images = sorted([*data.raw.rglob("*.jpg"), *data.raw.rglob("*.png")])
    for number, path in enumerate(images):
        for foreign in (f"._{path.name}", "Thumbs.db", ".DS_Store", f"{path.stem} (1){path.suffix}"):
            (path.parent / foreign).write_bytes(b"foreign")
        if path.suffix == ".jpg":
            path.rename(path.with_suffix((".JPG", ".jpeg", ".JPEG")[number % 3]))
    for path in [*data.raw.rglob("*.pkl"), *data.raw.rglob("labels_*.npz"), *data.raw.rglob("meta.yml")]:
        (path.parent / f"._{path.name}").write_bytes(b"foreign")
    (data.raw / "train" / ".hidden" / "rgb").mkdir(parents=True)
    data.call(max_left_out_share=0.0)
    assert data.samples == set(data.truth)
    assert {row[3] for row in data.ledger} <= {"not_annotated", "no_hand", "no_mano_fit"}


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("dataset", sorted(WRITERS))
def test_a_corrupt_image_is_a_row_of_the_ledger_in_every_dataset(dataset, suffix, make):
    data = make(dataset)
    file, (view, frame) = SHOWN[dataset]
    path = data.raw / file
    if suffix == "png":
        whole = cv2.imread(str(path))
        path.unlink()
        path = path.with_suffix(".png")
        cv2.imwrite(str(path), whole)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    path.write_bytes(content[:-20] if suffix == "jpg" else content)
    with pytest.raises(DataError, match=rf"{path.name}: damaged {'JPEG' if suffix == 'jpg' else 'PNG'}"):
        data.call(max_left_out_share=0.05)
    share = 1 if dataset == "freihand" else 0.5  # its sequences have one or two images
    totals = data.call(max_left_out_share=share)
    sequence = "20200709_141754" if dataset == "dexycb" else ""
    gone = {name for name in at(data.truth, view, frame) if sequence in name}
    assert totals["left_out"]["corrupt_image"] == len(gone) > 0
    assert data.samples == set(data.truth) - gone


@pytest.mark.parametrize("cut", [8, 40, 1000, -1])
def test_a_png_that_is_cut_short_is_corrupt(cut, make):
    data = make("ho3d_v2")
    path = data.raw / "train/ABF10/rgb/0001.png"
    path.write_bytes(path.read_bytes()[:cut])
    assert data.call(max_left_out_share=0.5)["left_out"] == {"corrupt_image": 1, "not_annotated": 1}


def test_crops_of_a_png_are_those_of_the_same_pixels_in_a_jpeg(make, tmp_path, mano_dir):
    """Quality 100 without subsampling: a few grey levels at most, and the same map from the image."""
    data = make("ho3d_v2")
    data.call()
    other = Raw("ho3d", tmp_path / "other", mano_dir)
    for path in (data.raw / "train/ABF10/rgb").iterdir():
        how = [cv2.IMWRITE_JPEG_QUALITY, 100, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
        cv2.imwrite(str(other.raw / "train/ABF10/rgb" / f"{path.stem}.jpg"), cv2.imread(str(path)), how)
    other.call()
    mine, theirs = open_shards(data.output), open_shards(other.output)
    np.testing.assert_array_equal(mine.column("crop_from_image"), theirs.column("crop_from_image"))
    for index in range(len(mine)):
        found, expected = (
            cv2.imdecode(np.frombuffer(shards.jpeg(index), np.uint8), cv2.IMREAD_COLOR).astype(int)
            for shards in (mine, theirs)
        )
        assert np.abs(found - expected).mean() < 2


def test_a_png_is_taken_where_a_jpeg_was_made_from_it(make):
    data = make("ho3d_v2")
    for path in sorted((data.raw / "train/ABF10/rgb").iterdir()):
        path.with_suffix(".jpg").write_bytes(b"not read")
    data.call(max_left_out_share=0.0)
    assert data.samples == set(data.truth)


def test_the_published_evaluation_set_of_ho3d_is_in_the_ledger(mano_dir, tmp_path):
    """It has the wrist and a bounding box; beside the training set, it is its own subject and the test set."""
    data = Raw("ho3d", tmp_path, mano_dir)
    FORMS["ho3d_evaluation"][1](data.raw, mano_dir)
    for path in (data.raw / "evaluation/ABF10/meta").iterdir():
        label = load_pickle(path)
        wrist = np.array([0.0, 0.0, -0.5])
        kept = {"camMat": label["camMat"], "objName": label["objName"], "handJoints3D": wrist}
        path.write_bytes(pickle.dumps({**kept, "handBoundingBox": [1, 2, 3, 4]}))
    totals = data.call(max_left_out_share=0.0)
    assert data.samples == set(data.truth)
    assert totals["left_out"] == {"not_annotated": 5}
    assert "every hand is skipped" in totals["subjects_without_samples"]["ho3d_evaluation_ABF"]
    split = json.loads((data.output / "protocols.json").read_text())["ho3d"]
    assert split["subjects"] == {"train": ["ho3d_ABF"], "val": [], "test": ["ho3d_evaluation_ABF"]}
    shutil.rmtree(data.raw / "train")
    shutil.rmtree(data.output)
    with pytest.raises(DataError, match=r"no sample was made: ho3d_evaluation_ABF: every hand.*'not_annotated': 4"):
        data.call()
    assert "no sample would be made" in data.call(estimate)["problems"][0]


def test_the_evaluation_set_of_freihand_is_the_test_set_of_its_protocol(mano_dir, tmp_path):
    from hawor_pipeline.evaluation.protocols import default_subjects, find_protocol

    data = Raw("freihand", tmp_path, mano_dir)
    truth = {**data.truth, **FORMS["freihand_evaluation"][1](data.raw, mano_dir)}
    data.call()
    assert data.samples == set(truth)
    split = json.loads((data.output / "protocols.json").read_text())["freihand"]
    assert split["subjects"] == {"train": ["freihand"], "val": [], "test": ["freihand_evaluation"]}
    assert split["stated_by"] == "freihand's publication"
    assert default_subjects(find_protocol("freihand"), data.output) == ["freihand_evaluation"]


def test_the_training_download_of_freihand_has_evaluation_images_without_labels(mano_dir, tmp_path):
    data = Raw("freihand", tmp_path, mano_dir)
    FORMS["freihand_evaluation"][1](data.raw, mano_dir)
    for name in ("mano", "xyz"):
        (data.raw / f"evaluation_{name}.json").rename(tmp_path / f"{name}.json")
    totals = data.call(max_left_out_share=0.0)
    assert data.samples == set(data.truth)
    assert totals["left_out"] == {"no_label": 4}
    (tmp_path / "xyz.json").rename(data.raw / "evaluation_xyz.json")
    with pytest.raises(ConfigError, match=r"evaluation_mano\.json not found"):
        data.call()
    (tmp_path / "mano.json").rename(data.raw / "evaluation_mano.json")
    assert data.call()["rows"] == totals["rows"] + 4


def test_a_split_of_interhand_without_its_label_files_is_refused_by_name(make):
    data = make("interhand")
    shutil.copytree(data.raw / "images/test", data.raw / "images/val")
    with pytest.raises(ConfigError, match=r"InterHand2\.6M_val_data\.json not found"):
        data.call()


def test_a_proof_sheet_shows_images_with_labels_only(make, tmp_path):
    data = make("ho3d")
    for number in (0, 2):
        (data.raw / f"train/ABF10/meta/{number:04d}.pkl").unlink()
    reader = open_reader("ho3d", data.raw, data.mano_dir)
    assert write_proof_sheet(reader, "ho3d_ABF", tmp_path / "proof.jpg") == ["ABF10/0/00001"]


def shift_camera(data: Raw, serials: list[str]) -> None:
    """Move the image of cameras of DexYCB far from the hand."""
    for serial in serials:
        path = data.raw / "calibration" / "intrinsics" / f"{serial}_640x480.yml"
        path.write_text(path.read_text().replace("ppx: 322.0", "ppx: 9322.0"))


def test_hands_outside_one_of_several_cameras_are_no_loss_and_outside_all_they_are(make):
    data = make("dexycb")
    serials = ["836212060125", "839512060362"]
    shift_camera(data, serials[1:])
    assert data.call(max_left_out_share=0.0)["left_out"] == {"no_hand": 4, "outside_picture": 4}
    assert data.samples == {name for name in data.truth if name.split("/")[2] == "0"}
    shift_camera(data, serials[:1])
    with pytest.raises(DataError, match=r"100% of the 4 labelled hands are skipped \({'outside_picture': 4}\)"):
        data.call()


def test_a_large_share_of_missing_images_is_refused_and_a_few_never(make, mano_dir, tmp_path):
    data = make("ho3d")
    shutil.rmtree(data.raw)
    WRITERS["ho3d"](data.raw, mano_dir, 12)
    images = sorted((data.raw / "train/ABF10/rgb").iterdir())
    for path in images[:3]:
        path.unlink()
    assert data.call(max_left_out_share=0.0)["left_out"] == {"no_image": 3, "not_annotated": 1}
    for path in images[3:7]:
        path.unlink()
    with pytest.raises(DataError, match=r"ABF10: 33% of the 12 labelled hands are skipped \({'no_image': 7}\)"):
        data.call()
    assert any("'no_image': 7" in problem for problem in data.call(estimate)["problems"])


@pytest.mark.parametrize("dataset", sorted(WRITERS))
def test_labels_without_own_joints_are_a_problem_of_the_dry_run_too(dataset, make, monkeypatch):
    data = make(dataset)
    original = HandLabels.of_moment.__func__
    monkeypatch.setattr(
        protocol.HandLabels, "of_moment", classmethod(lambda cls, *arrays: original(cls, *arrays[:4], None))
    )
    problems = data.call(estimate)["problems"]
    assert any("no_joints_to_check_the_fit" in problem for problem in problems), problems
    with pytest.raises(DataError, match="no_joints_to_check_the_fit"):
        data.call()


def test_a_recording_of_dexycb_without_metadata_is_named_and_the_other_converts(make):
    data = make("dexycb")
    (data.raw / "20200709-subject-01/20200709_150000/meta.yml").unlink()
    with pytest.raises(DataError, match=r"20200709_150000/meta\.yml: cannot be read.*1 of 2 sequences are finished"):
        data.call()
    assert Counter(name.split("/")[1] for name in data.samples) == {"20200709_141754": 4}


def test_meshes_of_ho3d_that_are_not_of_this_hand_model_are_in_the_ledger(make):
    data = make("ho3d_vertices")
    file = data.raw / "evaluation_verts.json"
    meshes = np.array(json.loads(file.read_text()))
    meshes[1] = np.random.default_rng(0).normal(0, 0.05, meshes[1].shape)
    file.write_text(json.dumps(meshes.tolist()))
    assert data.call(max_left_out_share=0.0)["left_out"] == {"no_mano_fit": 1, "not_annotated": 1}
    assert len(data.samples) == 2
    file.write_text(json.dumps(meshes[:2].tolist()))
    with pytest.raises(DataError, match=r"evaluation_verts\.json: 2 hands, expected the 3 of evaluation\.txt"):
        data.call()
