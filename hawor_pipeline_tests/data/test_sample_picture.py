"""A drawn sample shows its labels in the right place."""

import numpy as np
import pytest

from hawor_pipeline.data.sample_picture import draw_sample, find_sample
from hawor_pipeline.data.shards import open_shards
from hawor_pipeline.errors import ConfigError


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
