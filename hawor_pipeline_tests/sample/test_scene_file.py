"""The file of objects and body, against its generator in `tools`."""

import numpy as np

from hawor_pipeline.sample.articulated_objects import SCENE_FILE
from hawor_pipeline.sample.hand import stored_arrays
from tools.procedural_scene.__main__ import scene_arrays


def test_the_file_holds_what_the_generator_builds() -> None:
    stored, built = stored_arrays(SCENE_FILE), scene_arrays()
    assert list(stored) == list(built)
    for name, array in built.items():
        assert stored[name].dtype == array.dtype
        np.testing.assert_allclose(stored[name], array, rtol=0, atol=1e-9, err_msg=name)
