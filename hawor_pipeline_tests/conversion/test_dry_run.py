"""The estimate before a conversion against the conversion itself, and that it writes nothing."""

import json
import shutil

import pytest

from hawor_pipeline.cli import main
from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion.prepare import convert_subjects, estimate
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline_tests.sources.layouts import WRITERS

CHOSEN = {"target_resolution": (64, 64), "views": (0, 1, 4)}
SETTINGS = ConversionConfig(**CHOSEN)
SMALL = {"target_resolution": (64, 64)}


def test_estimate_equals_what_conversion_then_makes(raw_copy, tmp_path):
    said = estimate(raw_copy, tmp_path / "out", settings=CHOSEN, subjects=["s05", "s03"], workers=1)
    assert not (tmp_path / "out").exists()
    made = convert_subjects(raw_copy, None, ["s05"], tmp_path / "out", SETTINGS, workers=0)["s05"]
    assert said["crops"] == pytest.approx(made.info["rows"], rel=0.02)
    assert said["gigabytes"] * 1e9 == pytest.approx(made.info["bytes"], rel=0.5, abs=5e5)
    assert said["sequences_to_convert"] == 1 and said["hours"] >= 0 and said["enough_disk"]
    assert "withheld" in said["subjects_without_samples"]["s03"]
    again = estimate(raw_copy, tmp_path / "out", settings=CHOSEN, subjects=["s05"], workers=1)
    assert (again["sequences_to_convert"], again["sequences_reused"], again["crops"]) == (0, 1, 0)


def test_command_says_it_and_names_what_would_fail(raw_copy, tmp_path, capsys):
    array = next((raw_copy / "raw_seqs/s05").glob("*.object.npy"))
    array.write_bytes(array.read_bytes()[:-9])
    arguments = ["prepare", "--arctic-root", str(raw_copy), "--output-dir", str(tmp_path / "out"), "--dry-run"]
    assert main([*arguments, "--subjects", "s05"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert array.name in said["problems"][0] and said["crops"] == 0
    assert main([*arguments, "--subjects", "s99"]) == 2


def test_damaged_images_are_problems_of_their_sequence_and_the_rest_is_measured(raw_copy, tmp_path):
    whole = estimate(raw_copy, tmp_path / "out", settings=CHOSEN, subjects=["s05"], workers=1)
    assert whole["problems"] == [] and whole["pictures_looked_at"] == len(list((raw_copy / "images").rglob("*.jpg")))
    images = sorted((raw_copy / "images").rglob("[14]/*.jpg"))
    short, other = images[2], images[5]
    short.write_bytes(short.read_bytes()[:-100])
    other.write_bytes(b"no picture")
    said = estimate(raw_copy, tmp_path / "out", settings=CHOSEN, subjects=["s05"], workers=1)
    sequence = short.parent.parent.name
    assert all(problem.startswith(f"s05/{sequence}: ") for problem in said["problems"])
    for damaged in (short, other):
        assert sum(str(damaged) in problem for problem in said["problems"]) == 1
    assert said["crops"] == pytest.approx(whole["crops"], rel=0.2)
    assert said["measured"]["kilobytes_per_crop"] == pytest.approx(whole["measured"]["kilobytes_per_crop"], rel=0.2)
    with pytest.raises(DataError, match="JPEG"):
        convert_subjects(raw_copy, None, ["s05"], tmp_path / "out", SETTINGS, workers=0)


def test_every_damaged_file_is_listed_not_only_the_first(raw_copy, tmp_path):
    sequence = next((raw_copy / "images/s05").iterdir()).name
    for copy in ("two", "three"):
        name = f"{sequence.split('_')[0]}_use_{copy}"
        shutil.copytree(raw_copy / "images/s05" / sequence, raw_copy / "images/s05" / name)
        for part in ("mano", "object", "egocam.dist"):
            shutil.copy(raw_copy / f"raw_seqs/s05/{sequence}.{part}.npy", raw_copy / f"raw_seqs/s05/{name}.{part}.npy")
        (raw_copy / f"raw_seqs/s05/{name}.{'mano' if copy == 'two' else 'object'}.npy").write_bytes(b"damaged")
    said = estimate(raw_copy, tmp_path / "out", settings=CHOSEN, subjects=["s05"], workers=1)
    assert [problem.split(": ")[0].rsplit("_", 1)[1] for problem in said["problems"]] == ["three", "two"]
    assert said["crops"] > 0
    mesh = raw_copy / "meta/object_vtemplates" / sequence.split("_")[0] / "top.obj"
    mesh.write_text("v 1 2\nf 1 2 3\n")
    assert any(
        "top.obj" in p for p in estimate(raw_copy, tmp_path / "out", settings=CHOSEN, subjects=["s05"])["problems"]
    )


def test_too_small_a_disk_is_exit_code_1(raw_copy, tmp_path, monkeypatch):
    usage = shutil._ntuple_diskusage(10, 10, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    arguments = ["prepare", "--arctic-root", str(raw_copy), "--output-dir", str(tmp_path / "out"), "--dry-run"]
    assert main([*arguments, "--subjects", "s05", "--num-workers", "1"]) == 1


def test_what_a_conversion_would_refuse_is_a_problem_or_refused(raw_copy, tmp_path):
    out = tmp_path / "out"
    assert "withheld" in estimate(raw_copy, out, subjects=["s03"])["problems"][0]
    assert "no images" in estimate(raw_copy, out, subjects=["s05"], settings={"views": (7,)})["problems"][0]
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        estimate(raw_copy, tmp_path / "file", subjects=["s05"])
    images = sorted(next((raw_copy / "images/s05").glob("*/1")).glob("*.jpg"))
    for path in images[1:]:
        path.unlink()
    problems = estimate(raw_copy, out, subjects=["s05"], settings={"max_left_out_share": 0.1})["problems"]
    assert any("counts of images and ground truth disagree" in problem for problem in problems)


@pytest.mark.parametrize("dataset", sorted(WRITERS))
def test_other_datasets_are_estimated_as_they_are_converted(dataset, mano_dir, tmp_path, capsys):
    raw, out = tmp_path / "raw", tmp_path / "out"
    rows = len(WRITERS[dataset](raw, mano_dir))
    arguments = ["prepare", "--dataset", dataset, "--root", str(raw), "--output-dir", str(out)]
    arguments += ["--mano-dir", str(mano_dir), "--target-resolution", "64", "64", "--num-workers", "0"]
    capsys.readouterr()
    assert main([*arguments, "--dry-run"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert not out.exists() and found["source"] == dataset and found["problems"] == []
    assert found["crops"] == pytest.approx(rows, rel=0.5)
    assert len(found["measured"]["sequences"]) == min(3, found["sequences_to_convert"])
    assert main(arguments) == 0
    capsys.readouterr()
    assert main([*arguments, "--dry-run"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["sequences_to_convert"], again["crops"]) == (0, 0)


def test_a_damaged_image_or_label_of_another_dataset_is_a_problem_of_its_sequence(mano_dir, tmp_path):
    WRITERS["dexycb"](tmp_path / "raw", mano_dir, 4)
    first, second = sorted((tmp_path / "raw").glob("*/2*"))
    image = first / "836212060125" / "color_000002.jpg"
    image.write_bytes(image.read_bytes()[:2000])
    (second / "836212060125" / "labels_000002.npz").write_bytes(b"damaged")
    found = estimate(tmp_path / "raw", tmp_path / "out", dataset="dexycb", mano_dir=mano_dir, settings=SMALL)
    assert [problem.split(": ")[0] for problem in found["problems"]] == [
        f"{first.parent.name}/{first.name}",
        f"{second.parent.name}/{second.name}",
    ]
    assert image.name in found["problems"][0] and "labels_000002.npz" in found["problems"][1]
    assert found["crops"] > 0
