"""Inventory and proof sheet: counts, hashes, and what is wrong with files and why."""

import hashlib

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from hawor_pipeline.conversion.inventory import inventory_subject
from hawor_pipeline.conversion.proof_sheet import write_proof_sheet
from hawor_pipeline.errors import ConfigError
from hawor_pipeline.sources.registry import open_reader
from hawor_pipeline_tests.sources.layouts import WRITERS


def rows_of(result):
    return {row["view"]: row for row in pq.read_table(result.path / "inventory.parquet").to_pylist()}


def test_rows_say_what_is_there(raw_copy, tmp_path):
    result = inventory_subject(raw_copy, "s05", tmp_path / "out")
    rows = rows_of(result)
    sequence = rows[0]["sequence"]
    assert sorted(rows) == list(range(9)) and {row["source"] for row in rows.values()} == {"synthetic"}
    images = sorted((raw_copy / "images/s05" / sequence / "1").glob("*.jpg"))
    frames = len(np.load(raw_copy / f"raw_seqs/s05/{sequence}.object.npy"))
    row = rows[1]
    assert row["images"] == len(images) and row["ground_truth_frames"] == frames
    assert row["image_bytes"] == sum(path.stat().st_size for path in images)
    numbers = np.array([int(path.stem) for path in images]) - row["ioi_offset"]
    matched = int(((numbers >= 0) & (numbers < frames)).sum())
    assert row["images_without_ground_truth"] == len(images) - matched
    assert row["ground_truth_without_image"] == frames - matched
    mano = (raw_copy / f"raw_seqs/s05/{sequence}.mano.npy").read_bytes()
    assert row["mano_sha256"] == hashlib.sha256(mano).hexdigest()
    assert rows[2]["status"] == "missing" and rows[1]["status"] in ("ok", "incomplete")
    assert result.info["damaged"] == [] and result.info["status"] == "present"


def test_proof_sheet_shows_labels_on_images(raw_copy, tmp_path):
    result = inventory_subject(raw_copy, "s05", tmp_path / "out")
    sheet = cv2.imread(str(result.path / "proof.jpg"))
    assert sheet.shape[1] == 3 * 560 and len(result.info["proof"]) == 6
    strip, sheet = sheet[:40].astype(int), sheet[40:]
    colors = {"right": (80, 220, 255), "left": (255, 190, 60), "mark of the sample": (255, 90, 90)}
    for name, color in colors.items():  # JPEG changes them a little
        assert (np.abs(strip[..., ::-1] - color).max(-1) < 60).sum() > 200, name
    views = {name.split("/")[1] for name in result.info["proof"]}
    assert views == {"0", "1", "4"}
    blue, green, red = (sheet[..., channel].astype(int) for channel in range(3))
    assert ((blue > 200) & (red < 140) & (green > 150)).sum() > 500  # the right hand's colour
    assert ((red > 200) & (blue < 130) & (green > 120) & (green < 220)).sum() > 500  # the left hand's


def test_what_is_broken_is_named(raw_copy, tmp_path):
    image = sorted((raw_copy / "images").rglob("4/*.jpg"))[2]
    image.write_bytes(image.read_bytes()[:-100])
    result = inventory_subject(raw_copy, "s05", tmp_path / "a")
    assert rows_of(result)[4]["status"] == "broken" and image.name in rows_of(result)[4]["reason"]
    assert len(result.info["damaged"]) == 1 and not result.info["unreadable"]
    path = next((raw_copy / "raw_seqs/s05").glob("*.object.npy"))
    path.write_bytes(path.read_bytes()[:-9])
    result = inventory_subject(raw_copy, "s05", tmp_path / "b")
    assert {row["status"] for row in rows_of(result).values()} == {"broken"}
    assert (
        result.info["unreadable"]
        and path.name in rows_of(result)[0]["reason"]
        and rows_of(result)[0]["ground_truth_frames"] is None
    )


def test_withheld_and_absent_subjects_have_no_rows_and_a_reason(sample_root, tmp_path):
    for subject, status, word in (("s03", "withheld", "withheld"), ("s07", "absent", "not downloaded")):
        result = inventory_subject(sample_root, subject, tmp_path / subject)
        assert result.info["status"] == status and word in result.info["reason"] and not rows_of(result)
    with pytest.raises(ConfigError, match="unknown subject"):
        inventory_subject(sample_root, "s11", tmp_path / "s11")


def test_second_inventory_is_reused_until_a_file_changes(raw_copy, tmp_path):
    inventory_subject(raw_copy, "s05", tmp_path / "out")
    assert inventory_subject(raw_copy, "s05", tmp_path / "out").reused
    sorted((raw_copy / "images").rglob("4/*.jpg"))[2].unlink()
    assert not inventory_subject(raw_copy, "s05", tmp_path / "out").reused


def test_inventory_is_taken_again_when_a_mesh_or_a_hand_model_changes(raw_copy, tmp_path):
    inventory_subject(raw_copy, "s05", tmp_path / "out")
    sequence = next((raw_copy / "images/s05").iterdir()).name
    mesh = raw_copy / "meta/object_vtemplates" / sequence.split("_")[0] / "top.obj"
    mesh.write_text(mesh.read_text() + "# touched\n")
    assert not inventory_subject(raw_copy, "s05", tmp_path / "out").reused
    assert inventory_subject(raw_copy, "s05", tmp_path / "out").reused
    model = dict(np.load(raw_copy.parent / "body_models/mano/MANO_LEFT.npz"))
    np.savez(raw_copy.parent / "body_models/mano/MANO_LEFT.npz", **model, note=np.zeros(1))
    assert not inventory_subject(raw_copy, "s05", tmp_path / "out").reused


def test_a_failed_proof_sheet_is_tried_again(raw_copy, tmp_path):
    sequence = next((raw_copy / "images/s05").iterdir()).name
    mesh = raw_copy / "meta/object_vtemplates" / sequence.split("_")[0] / "top.obj"
    whole = mesh.read_text()
    mesh.write_text("v 1 2\nf 1 2 3\n")
    result = inventory_subject(raw_copy, "s05", tmp_path / "out")
    assert "top.obj" in result.info["proof_error"] and not (result.path / "proof.jpg").exists()
    assert not inventory_subject(raw_copy, "s05", tmp_path / "out").reused
    mesh.write_text(whole)
    assert inventory_subject(raw_copy, "s05", tmp_path / "out").info["proof_error"] == ""


@pytest.mark.parametrize("dataset", sorted(WRITERS))
def test_every_dataset_has_a_proof_sheet(dataset, mano_dir, tmp_path):
    truth = WRITERS[dataset](tmp_path / "raw", mano_dir)
    reader = open_reader(dataset, tmp_path / "raw", mano_dir)
    shown = write_proof_sheet(reader, reader.subjects()[0], tmp_path / "proof.jpg")
    frames = {tuple(name.split("/")[1:4]) for name in truth}
    assert {tuple(name.split("/")) for name in shown} <= frames and shown
    assert cv2.imread(str(tmp_path / "proof.jpg")).shape[1] == 3 * 560
