"""Which samples a gallery shows."""

import numpy as np
import pyarrow as pa

from hawor_pipeline.inspection.gallery import pick_samples


def test_picks_are_extremes_of_different_tracks() -> None:
    n = 60
    samples = pa.table(
        {
            "subject": ["s05"] * n,
            "sequence": ["box_use_01"] * n,
            "view": np.repeat(np.arange(6), 10),
            "side": ["left"] * n,
            "mpjpe_mm": np.random.default_rng(0).permutation(n).astype(float),
        }
    )
    picks = pick_samples(samples, 3)
    errors, view = samples["mpjpe_mm"].to_numpy(), samples["view"].to_numpy()
    assert errors[picks["best"][0]] == 0
    assert errors[picks["worst"][0]] == n - 1
    assert abs(errors[picks["median"][0]] - n / 2) <= 1
    assert all(len(set(view[rows])) == 3 for rows in picks.values())
