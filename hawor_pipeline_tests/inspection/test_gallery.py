"""A gallery shows the best, median and worst samples, and is made again where it was changed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from hawor_pipeline.evaluation.tables import partition_dir, read_table
from hawor_pipeline.inspection.gallery import ensure_gallery, pick_samples
from hawor_pipeline_tests.evaluation.analyst import RUN, Analysed


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


def test_gallery_shows_best_median_and_worst_and_is_made_again_where_it_was_changed(
    analysed: Analysed, tmp_path: Path
) -> None:
    setting = replace(analysed.setting, metrics_dir=tmp_path / "metrics")
    for table in ("samples", "predictions"):
        shutil.copytree(partition_dir(analysed.metrics, table, RUN), partition_dir(setting.metrics_dir, table, RUN))
    first = ensure_gallery(setting, RUN)
    folder = partition_dir(setting.metrics_dir, "gallery", RUN)
    content = json.loads((folder / "gallery.json").read_text())
    errors = read_table(setting.metrics_dir, "samples", RUN)["mpjpe_mm"].to_numpy()
    found = {item["rank"]: item["mpjpe_mm"] for item in reversed(content["items"])}
    assert (found["best"], found["worst"]) == (errors.min(), errors.max())
    assert abs((errors < found["median"]).mean() - 0.5) < 0.03
    assert all((folder / item["picture"]).stat().st_size > 2000 for item in content["items"])
    assert len(content["meshes"]) == 3
    assert np.array(content["meshes"][0]["predicted_mm"]).shape == (778, 3)
    assert not first.reused and ensure_gallery(setting, RUN).reused
    image = folder / "best-1.jpg"
    whole = image.read_bytes()
    for change in (lambda: image.write_bytes(whole[:-1] + b"x"), image.unlink, lambda: shutil.rmtree(folder)):
        change()
        again = ensure_gallery(setting, RUN)
        assert not again.reused and image.read_bytes() == whole
        assert again.info == first.info
