"""Other data sets: the data version follows every picture and label, and hands are not in two sequences."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from hawor_pipeline.conversion.prepare import prepare
from hawor_pipeline.shards.store import open_shards
from hawor_pipeline_tests.sources.layouts import WRITERS

SETTINGS = {"target_resolution": (64, 64)}


def versions(output: Path) -> dict[str, str]:
    """Sequence to data version, as the manifests say."""
    manifests = [json.loads(path.read_text()) for path in output.glob("*/manifest.json")]
    return {entry["sequence"]: entry["data_version"] for manifest in manifests for entry in manifest["sequences"]}


def invert(image: Path) -> None:
    cv2.imwrite(str(image), 255 - cv2.imread(str(image)))


@pytest.mark.parametrize("dataset", ["ho3d", "dexycb", "interhand"])
def test_the_data_version_follows_the_images_of_every_camera(dataset, mano_dir, tmp_path):
    """Cameras give their pictures the same names; each one counts."""
    raw, output = tmp_path / "raw", tmp_path / "out"
    WRITERS[dataset](raw, mano_dir)
    prepare(raw, output, dataset=dataset, mano_dir=mano_dir, settings=SETTINGS, workers=0)
    seen = [versions(output)]
    first_shown = {"ho3d": "0000", "dexycb": "000001", "interhand": "23434"}[dataset]
    images = sorted(raw.rglob(f"*{first_shown}.jpg"))
    assert len(images) == {"ho3d": 1, "dexycb": 4, "interhand": 2}[dataset]
    for image in images:
        invert(image)
        prepare(raw, output, dataset=dataset, mano_dir=mano_dir, settings=SETTINGS, workers=0)
        changed = [name for name, version in versions(output).items() if version != seen[-1][name]]
        assert len(changed) == 1 and changed[0] in str(image)
        assert versions(output) not in seen
        seen.append(versions(output))


def test_the_data_version_follows_the_labels_of_every_camera(mano_dir, tmp_path):
    raw, output = tmp_path / "raw", tmp_path / "out"
    WRITERS["dexycb"](raw, mano_dir)
    prepare(raw, output, dataset="dexycb", mano_dir=mano_dir, settings=SETTINGS, workers=0)
    seen = [versions(output)]
    for labels in sorted(raw.glob("*/20200709_141754/*/labels_000001.npz")):
        with np.load(labels) as arrays:
            moved = dict(arrays)
        moved["joint_3d"][0, 4] += 1e-4
        np.savez(labels, **moved)
        prepare(raw, output, dataset="dexycb", mano_dir=mano_dir, settings=SETTINGS, workers=0)
        assert versions(output) not in seen, labels
        seen.append(versions(output))
    assert len(seen) == 3


def test_all_versions_of_a_hand_of_freihand_are_in_one_sequence(mano_dir, tmp_path):
    """Four versions of ten of the hands, whose number is, as the published 32560, no multiple of 100."""
    raw, hands, shown = tmp_path / "raw", 160, range(60, 70)
    WRITERS["freihand"](raw, mano_dir, 1)
    for name in ("K", "mano", "xyz"):
        file = raw / f"training_{name}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) * hands))
    first, second = sorted((raw / "training" / "rgb").iterdir())
    second.unlink()
    for number in (index + hands * version for index in shown for version in range(4)):
        shutil.copy(first, first.parent / f"{number:08d}.jpg")
    first.unlink()
    prepare(raw, tmp_path / "out", dataset="freihand", mano_dir=mano_dir, settings=SETTINGS, workers=0)
    table = open_shards(tmp_path / "out", columns=["sequence", "frame"]).table
    shown_in: dict[int, set[str]] = {}
    for sequence, frame in zip(table["sequence"].to_pylist(), table["frame"].to_pylist(), strict=True):
        shown_in.setdefault(frame % hands, set()).add(sequence)
    assert len(table) == 40 and sorted(shown_in) == list(shown)
    assert all(len(sequences) == 1 for sequences in shown_in.values())
