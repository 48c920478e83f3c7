"""Manifests: what is on disk comes back unchanged, withdrawal forgets nothing, hand models go by their arrays."""

import json
import pickle

import numpy as np
import pytest

from hawor_pipeline.errors import DataError
from hawor_pipeline.shards.manifest import Manifest, read_manifest, read_manifests, withdraw, write_manifest
from hawor_pipeline.sources.hand_models import digest_hand_models


def test_values_come_back_as_they_are_on_disk(sample_shards):
    for path in sorted(sample_shards.glob("*/manifest.json")):
        manifest = read_manifest(sample_shards, path.parent.name)
        assert manifest.to_dict() == json.loads(path.read_text())
        assert manifest == manifest.listing(manifest.sequences)  # the totals are those of the sequences


def test_a_withdrawn_sequence_keeps_its_name(sample_shards, tmp_path):
    manifest = read_manifests(sample_shards)["s05"]
    write_manifest(tmp_path, manifest)
    withdraw(tmp_path, "s05", manifest.names)
    found = read_manifest(tmp_path, "s05")
    assert (found.names, found.rows, list(found.withdrawn)) == ([], 0, manifest.names)
    withdraw(tmp_path, "s06", ["box_grab_01"])  # a subject without a manifest has nothing to withdraw
    assert read_manifest(tmp_path, "s06") is None


@pytest.mark.parametrize("text", ["{", "[]", '{"sequences": [{"rows": 1}]}', '{"left_out_sequences": [{}]}'])
def test_a_corrupt_manifest_is_an_error(tmp_path, text):
    (tmp_path / "s01").mkdir()
    (tmp_path / "s01" / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json: not readable"):
        read_manifest(tmp_path, "s01")


def test_shards_name_the_hand_models_they_were_made_with(sample_shards, sample_root):
    digests = digest_hand_models(sample_root / "body_models" / "mano")
    assert set(digests) == {"left", "right"} and digests["left"] != digests["right"]
    assert all(manifest.hand_models == digests for manifest in read_manifests(sample_shards).values())
    assert Manifest.from_dict({}).hand_models is None


def test_the_digest_of_a_model_does_not_depend_on_the_file_format(mano_dir, tmp_path):
    with np.load(mano_dir / "MANO_LEFT.npz") as arrays:
        (tmp_path / "MANO_LEFT.pkl").write_bytes(pickle.dumps(dict(arrays)))
        moved = {**arrays, "v_template": arrays["v_template"] + 1e-6}
    (tmp_path / "MANO_RIGHT.npz").write_bytes((mano_dir / "MANO_RIGHT.npz").read_bytes())
    digests = digest_hand_models(mano_dir)
    assert digest_hand_models(tmp_path) == digests
    np.savez(tmp_path / "MANO_LEFT.npz", **moved)
    assert digest_hand_models(tmp_path)["left"] != digests["left"]
