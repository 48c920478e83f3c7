"""A drawn sample shows its labels in the right place."""

import numpy as np
import pytest

from hawor_pipeline.data import sample_picture
from hawor_pipeline.data.external.convert import prepare_dataset
from hawor_pipeline.data.sample_picture import draw_sample, find_sample, surface_of
from hawor_pipeline.data.shards import open_shards
from hawor_pipeline.errors import ConfigError
from hawor_pipeline_tests.data.external.layouts import WRITERS


@pytest.mark.parametrize("view", [0, 1])
def test_joints_are_drawn_where_the_row_says_in_the_colour_of_their_visibility(sample_shards, sample_root, view):
    shards = open_shards(sample_shards)
    row = int(np.flatnonzero((shards.column("view") == view) & shards.column("valid"))[3])
    assert find_sample(shards, shards.column("sample_id")[row]) == row
    picture = draw_sample(shards, row, sample_root / "body_models" / "mano", width=480)
    affine = shards.column("crop_from_image")[row]
    stored = shards.column("joints_px")[row] @ affine[:, :2].T + affine[:, 2]
    drawn = ((stored + 0.5) * 480 / 96 - 0.5).round().astype(int)
    right_colour = 0
    for (x, y), visible in zip(drawn, shards.column("joint_visible")[row], strict=True):
        red, green, _ = picture[y, x].astype(int)
        right_colour += (green > red) == visible
    assert right_colour >= 18  # a later joint may cover an earlier one


def test_an_unknown_sample_is_named_with_the_nearest(sample_shards):
    shards = open_shards(sample_shards)
    name = shards.column("sample_id")[0]
    with pytest.raises(ConfigError, match=name[:-1]):
        find_sample(shards, name[:-1])


@pytest.mark.parametrize("dataset", ["interhand", "dexycb"])
def test_left_hands_are_posed_with_the_model_they_were_fitted_with(sample_root, tmp_path, monkeypatch, dataset):
    """Fingertips are vertices: those of the drawn mesh lie where the row's own joints do."""
    mano = sample_root / "body_models" / "mano"
    WRITERS[dataset](tmp_path / "raw", mano)
    settings = {"target_resolution": (64, 64)}
    prepare_dataset(dataset, tmp_path / "raw", tmp_path / "shards", mano, settings=settings, workers=0)
    shards = open_shards(tmp_path / "shards")
    drawn = {}

    def kept(data, layer):
        drawn[data["sample_id"]] = surface_of(data, layer)
        return drawn[data["sample_id"]]

    monkeypatch.setattr(sample_picture, "surface_of", kept)
    left = np.flatnonzero(shards.column("side") == "left")
    assert len(left)
    for row in left:
        draw_sample(shards, int(row), mano, width=96)
        tips = drawn[shards.column("sample_id")[row]].numpy()[[744, 320, 443, 554, 671]]
        np.testing.assert_allclose(tips, shards.column("joints_cam_m")[row][[4, 8, 12, 16, 20]], atol=2e-5)
