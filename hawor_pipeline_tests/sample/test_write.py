"""The sample as files: ARCTIC's layout and irregularities, atomic, independent of the number of workers."""

import errno
import hashlib
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.sample import sequence, write
from hawor_pipeline.sample.spec import SUBJECTS, SampleSpec, plan_sequences
from hawor_pipeline.sample.write import ensure_sample

TINY = SampleSpec(subjects=("s02", "s06"), sequences_per_subject=1, frames=8, views=(0, 7), image_scale=0.06)


def tree(root: Path) -> dict[str, str]:
    """Hash every file below `root/arctic`."""
    files = sorted(p for p in (root / "arctic").rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tiny")
    result = ensure_sample(root, TINY, workers=1)
    assert not result.reused and result.info["source"] == "synthetic" and result.info["frames"] > 0
    return root


def test_raw_arrays_have_arctics_shapes_and_units(sample_root: Path) -> None:
    for subject in ("s01", "s05"):
        (file,) = (sample_root / "arctic" / "raw_seqs" / subject).glob("*.mano.npy")
        mano = np.load(file, allow_pickle=True).item()
        assert set(mano) == {"right", "left"}
        for hand in mano.values():
            shapes = {name: value.shape for name, value in hand.items()}
            assert shapes == {"rot": (8, 3), "pose": (8, 45), "trans": (8, 3), "shape": (10,), "fitting_err": (8,)}
            assert np.ptp(hand["fitting_err"]) > 0 and np.abs(hand["trans"]).max() < 3
        rigid = np.load(str(file).replace(".mano.", ".object."))
        assert rigid.shape == (8, 7) and 500 < np.abs(rigid[:, 4:]).max() < 2000  # millimetres
        ego = np.load(str(file).replace(".mano.", ".egocam.dist."), allow_pickle=True).item()
        assert ego["R_k_cam_np"].shape == (8, 3, 3) and ego["T_k_cam_np"].shape == (8, 3, 1)
        assert ego["dist8"].shape == (8,) and ego["intrinsics"].shape == (3, 3)
        assert ego["R0"].shape == (3, 3) and ego["T0"].shape == (3, 1)


def test_meta_describes_all_subjects_and_is_marked_synthetic(sample_root: Path) -> None:
    arctic = sample_root / "arctic"
    misc = json.loads((arctic / "meta" / "misc.json").read_text())
    assert tuple(misc) == SUBJECTS
    for entry in misc.values():
        assert np.shape(entry["world2cam"]) == (8, 4, 4) and np.shape(entry["intris_mat"]) == (8, 3, 3)
        assert np.shape(entry["image_size"]) == (9, 2) and entry["source"] == "synthetic"
    assert "not ARCTIC" in (arctic / "SYNTHETIC").read_text()
    splits = json.loads((arctic / "splits_json" / "protocol_p1.json").read_text())
    assert [s.split("/")[0] for s in splits["test"]] == ["s03"] and [s.split("/")[0] for s in splits["val"]] == ["s05"]
    image = next((arctic / "images" / "s01").rglob("*.jpg"))
    assert b"synthetic" in image.read_bytes()[:200]
    height, width = cv2.imread(str(image)).shape[:2]
    assert [width, height] == misc["s01"]["image_size"][int(image.parent.name)]


def test_the_oddities_of_the_real_data_are_there(sample_root: Path) -> None:
    arctic = sample_root / "arctic"
    assert list((arctic / "images" / "s03").rglob("*.jpg")) and not (arctic / "raw_seqs" / "s03").exists()
    assert any(p.name.endswith("_retake") for p in (arctic / "images" / "s01").iterdir())
    plans = plan_sequences(SampleSpec())
    # Images of existing frames: numbers ioi_offset .. ioi_offset + frames - 1.
    ends = {p.image_count - (p.frames - 1 + p.ioi_offset) for p in plans}
    assert min(ends) < 0 < max(ends)
    assert len({p.object_name for p in plans}) >= 5 and len({(p.subject, p.name) for p in plans}) == len(plans)


def test_bytes_do_not_depend_on_workers_or_interruptions(tiny: Path, tmp_path: Path) -> None:
    ensure_sample(tmp_path, TINY, workers=2)
    whole = tree(tmp_path)
    assert whole == tree(tiny)
    plan = plan_sequences(TINY)[1]
    kept = tmp_path / "arctic" / "images" / "s02"
    before = {p: p.stat().st_mtime_ns for p in kept.rglob("*.jpg")}
    # As if the run had been killed while making the second sequence.
    shutil.rmtree(tmp_path / "arctic" / "images" / plan.subject / plan.name)
    (tmp_path / ".staging" / "rest").mkdir(parents=True)
    steps: list[tuple[int, int]] = []
    result = ensure_sample(tmp_path, TINY, workers=1, progress=lambda done, total: steps.append((done, total)))
    assert not result.reused and steps == [(2, 2)]
    assert tree(tmp_path) == whole and not (tmp_path / ".staging").exists()
    assert before == {p: p.stat().st_mtime_ns for p in kept.rglob("*.jpg")}


def test_a_kill_between_the_two_renames_of_a_sequence_leaves_no_old_copy(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "copy")
    whole = tree(tiny)
    plan = plan_sequences(TINY)[0]
    place = tmp_path / "copy/arctic/images" / plan.subject / plan.name
    (tmp_path / "copy" / ".finished" / f"{plan.subject}.{plan.name}.json").unlink()
    (tmp_path / "copy" / "_stage.json").unlink()
    place.rename(place.with_name(f".{plan.name}.999999999.old"))  # of a process that no longer exists
    ensure_sample(tmp_path / "copy", TINY, workers=1)
    assert tree(tmp_path / "copy") == whole
    assert not list((tmp_path / "copy").rglob("*.old"))


def test_finished_work_is_reused_and_other_settings_replace_it(tiny: Path, tmp_path: Path) -> None:
    again = ensure_sample(tiny, TINY, workers=1)
    assert again.reused and again.info["frames"] > 0
    shutil.copytree(tiny, tmp_path / "copy")
    other = SampleSpec(subjects=("s02",), sequences_per_subject=1, frames=8, views=(7,), image_scale=0.06, seed=5)
    result = ensure_sample(tmp_path / "copy", other, workers=1)
    assert not result.reused and not (tmp_path / "copy" / "arctic" / "images" / "s06").exists()
    assert tree(tmp_path / "copy")[f"arctic/images/s02/{plan_sequences(other)[0].name}/7/00004.jpg"] not in set(
        tree(tiny).values()
    )


@pytest.mark.parametrize("name", ["hand.npz", "scene.npz", "grasps.yaml", "grasp.py"])
def test_a_changed_source_or_data_file_makes_a_sample_stale(name: str, tmp_path: Path, monkeypatch) -> None:
    shutil.copytree(Path(write.__file__).parent, tmp_path / "sample")
    monkeypatch.setattr(write, "__file__", str(tmp_path / "sample" / "write.py"))
    before = write._generator()
    with (tmp_path / "sample" / name).open("ab") as file:
        file.write(b"\n")
    assert write._generator() != before


def test_the_default_scale_depends_on_the_image_source() -> None:
    assert SampleSpec().image_scale == 0.25
    crops = SampleSpec(image_source="cropped_images")
    crops.check()
    assert crops.image_scale == 1 and crops == SampleSpec(image_source="cropped_images", image_scale=1.0)


def test_a_real_data_set_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "arctic" / "raw_seqs").mkdir(parents=True)
    with pytest.raises(ConfigError, match="SYNTHETIC"):
        ensure_sample(tmp_path, TINY, workers=1)
    assert (tmp_path / "arctic" / "raw_seqs").is_dir()


def test_a_full_disk_leaves_finished_sequences_and_nothing_else(tiny: Path, tmp_path: Path, monkeypatch) -> None:
    real, calls = sequence.encode, [0]

    def encode(image):
        calls[0] += 1
        if calls[0] > plan_sequences(TINY)[0].image_count * 2 + 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(image)

    monkeypatch.setattr(sequence, "encode", encode)
    with pytest.raises(DataError, match="disk full"):
        ensure_sample(tmp_path, TINY, workers=1)
    assert (tmp_path / "arctic" / "images" / "s02").is_dir() and not (tmp_path / "arctic" / "images" / "s06").exists()
    assert not list((tmp_path / ".staging").glob("*")) and not (tmp_path / "_stage.json").exists()
    monkeypatch.setattr(sequence, "encode", real)
    ensure_sample(tmp_path, TINY, workers=1)
    assert tree(tmp_path) == tree(tiny)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subjects": ("s01", "s11")}, "s11.*expected some of s01"),
        ({"subjects": ()}, "at least one"),
        ({"views": (0, 9)}, "views"),
        ({"frames": 3}, "frames"),
        ({"image_source": "crops"}, "cropped_images"),
        ({"image_source": "cropped_images", "image_scale": 0.25}, "Omit the scale"),
        ({"image_scale": 2.0}, "image scale"),
    ],
)
def test_impossible_specifications_are_refused(change: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        ensure_sample(tmp_path / "x", SampleSpec(**change))
    assert not (tmp_path / "x").exists()


def test_crops_follow_arctics_mapping(tiny: Path, tmp_path: Path) -> None:
    """A crop equals the full frame seen through the published formula, computed here from the files alone."""
    size = {"subjects": ("s02",), "sequences_per_subject": 1, "frames": 8}
    for name, spec in {
        "full": SampleSpec(views=(0, 7), image_scale=0.5, **size),
        "crop": SampleSpec(views=(0, 7), image_source="cropped_images", **size),
    }.items():
        ensure_sample(tmp_path / name, spec, workers=1)
    plan = plan_sequences(SampleSpec(**size))[0]
    arctic = tmp_path / "crop" / "arctic"
    misc = json.loads((arctic / "meta" / "misc.json").read_text())["s02"]
    number = 5
    rigid = np.load(arctic / "raw_seqs" / "s02" / f"{plan.name}.object.npy")[number - plan.ioi_offset].astype(float)
    folder = arctic / "meta" / "object_vtemplates" / plan.object_name
    lines = (line.split() for line in (folder / "mesh.obj").read_text().splitlines())
    vertices = np.array([[float(v) for v in line[1:]] for line in lines if line[0] == "v"])
    parts = np.array(json.loads((folder / "parts.json").read_text()))
    turned = vertices @ cv2.Rodrigues(np.array([0, 0, -rigid[0]]))[0].T
    world = np.where(parts[:, None] == 0, turned, vertices) @ cv2.Rodrigues(rigid[1:4])[0].T / 1000 + rigid[4:] / 1000
    pose = np.array(misc["world2cam"][6])
    uv = (world @ pose[:3, :3].T + pose[:3, 3]) @ np.array(misc["intris_mat"][6]).T
    uv = uv[:, :2] / uv[:, 2:]
    low, high = uv.min(axis=0), uv.max(axis=0)
    box = max(1.7 * (high - low).max(), 600.0)  # kp_crop = (kp - (c - 0.75 S)) 1000 / (1.5 S)
    zoom, corner = 1000 / (1.5 * box), (low + high) / 2 - 0.75 * box
    sources = {"full": "images", "crop": "cropped_images"}
    files = [tmp_path / name / "arctic" / source / "s02" / plan.name for name, source in sources.items()]
    full, crop = (cv2.imread(str(f / "7" / f"{number:05d}.jpg")).astype(np.float32) for f in files)
    assert crop.shape == (1000, 1000, 3)
    scale = 2.0  # the full frame is half as large as the calibration in the crop's misc.json
    shift = (0.5 * scale - 0.5 - corner) * zoom
    expected = cv2.warpAffine(full, np.array([[zoom * scale, 0, shift[0]], [0, zoom * scale, shift[1]]]), (1000, 1000))
    assert np.abs(expected - crop).mean() < 4.0
    assert np.abs(np.roll(expected, 12, axis=1) - crop).mean() > 1.5 * np.abs(expected - crop).mean()
    ego = cv2.imread(str(files[1] / "0" / f"{number:05d}.jpg"))
    assert ego.shape == (600, 840, 3) and ego.std() > 10
