"""The file of objects and body, against its generator in `tools`."""

import numpy as np
import pytest

from hawor_pipeline.sample.articulated_objects import SCENE_FILE, build_object
from hawor_pipeline.sample.hand import stored_arrays
from hawor_pipeline.sample.spec import OBJECT_NAMES
from tools.procedural_scene.__main__ import scene_arrays


def test_the_file_holds_what_the_generator_builds() -> None:
    stored, built = stored_arrays(SCENE_FILE), scene_arrays()
    assert list(stored) == list(built)
    for name, array in built.items():
        assert stored[name].dtype == array.dtype
        np.testing.assert_allclose(stored[name], array, rtol=0, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("name", OBJECT_NAMES)
def test_the_mesh_of_an_object_lies_on_its_signed_distance(name: str) -> None:
    model = build_object(name)
    distance = model.distance_mm(model.vertices_mm, 0.0)
    assert (distance < 1e-6).all()  # on the surface of its own primitive, so nowhere outside their union
    assert (np.abs(distance) < 1e-6).mean() > 0.3
