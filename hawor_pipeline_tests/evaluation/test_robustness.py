"""Degradations do what their level says, the same however the work is batched; the curve comes from the network."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from hawor_pipeline.evaluation.degrade import (
    KINDS,
    NONE,
    WINDOW_WIDTH,
    Degradation,
    all_degradations,
    blurred,
    image_change,
    rectangle,
    reduced,
    row_change,
)
from hawor_pipeline.evaluation.predict import Prediction
from hawor_pipeline.evaluation.recordings import open_recordings, plan_recordings
from hawor_pipeline.evaluation.robustness import METRICS, write_robustness
from hawor_pipeline.evaluation.setting import Devices
from hawor_pipeline.evaluation.tables import RunIdentity, read_table
from hawor_pipeline.loading.rows import load_rows
from hawor_pipeline.models.checkpoints import open_checkpoint
from hawor_pipeline_tests.evaluation.analyst import RUN, Analysed

NAME = "s05/box_use_01"


@pytest.fixture(scope="module")
def rows(sample_shards: Path):
    return load_rows(open_recordings(sample_shards, plan_recordings(sample_shards, ["s05"])).table)


@pytest.mark.parametrize("share", KINDS["box_shift"].levels)
def test_boxes_move_by_their_share_in_all_directions(rows, share: float) -> None:
    moved = row_change(Degradation("box_shift", share), NAME)(rows)
    shift = (moved.box_center_px - rows.box_center_px) / rows.box_size_px[:, None]
    assert torch.allclose(shift.norm(dim=1), torch.tensor(share), atol=1e-4)
    angles = torch.atan2(shift[:, 1], shift[:, 0])
    assert angles.min() < -1
    assert angles.max() > 1
    assert torch.equal(moved.box_size_px, rows.box_size_px)


@pytest.mark.parametrize("factor", KINDS["box_scale"].levels)
def test_boxes_grow_or_shrink_by_their_factor(rows, factor: float) -> None:
    ratio = row_change(Degradation("box_scale", factor), NAME)(rows).box_size_px / rows.box_size_px
    larger = ratio > 1
    assert 0.2 < larger.float().mean() < 0.8
    assert torch.allclose(ratio, torch.where(larger, factor, 1 / factor))


def test_blur_is_a_gaussian() -> None:
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 3, 40, 40)))
    expected = gaussian_filter(image.numpy(), (0, 0, 0, 1.5, 1.5), mode="nearest", truncate=5 / 1.5)
    assert np.allclose(blurred(image, 1.5).numpy(), expected, atol=1e-6)
    changed = image_change(Degradation("blur", 4.0), NAME)(image, torch.zeros(2, dtype=torch.int64))
    assert torch.equal(changed, blurred(image, 4.0 * 40 / 256))


def test_reduced_images_keep_their_mean_and_lose_detail() -> None:
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 1, 3, 64, 64))).float()
    small = reduced(image, 0.25)
    assert small.shape == image.shape
    assert small.mean() == pytest.approx(image.mean().item(), abs=0.01)
    assert small.std() < 0.3 * image.std()
    flat = torch.full((1, 1, 3, 64, 64), 0.7)
    assert torch.allclose(reduced(flat, 0.125), flat)


@pytest.mark.parametrize("share", KINDS["erase"].levels)
@pytest.mark.parametrize("side", [64, 256])
def test_erased_rectangles_have_their_share_of_the_window(share: float, side: int) -> None:
    window = WINDOW_WIDTH * side
    for seed in range(50):
        top, left, height, width = rectangle(np.random.default_rng(seed), share, side)
        assert height * width == pytest.approx(share * side * window, rel=0.06)
        assert 0 <= top <= top + height <= side
        assert (side - window) / 2 - 1 <= left <= left + width <= (side + window) / 2 + 1


def test_erasing_depends_on_the_clip_and_not_on_its_neighbours() -> None:
    change = image_change(Degradation("erase", 0.25), NAME)
    clips = torch.ones(3, 2, 3, 64, 64)
    together = change(clips, torch.tensor([5, 9, 14]))
    alone = change(clips[1:2], torch.tensor([9]))
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(together[0], together[1])
    assert torch.equal(together[0, 0], together[0, 1])  # one occluder for a whole clip
    assert clips.min() == 1, "the input must not change"


def test_table_has_every_kind_level_side_and_metric(analysed: Analysed) -> None:
    table = read_table(analysed.metrics, "robustness", RUN)
    found = set(zip(*(table[name].to_pylist() for name in ("kind", "level", "side", "metric")), strict=True))
    expected = {
        (d.kind, d.level, side, metric)
        for d in all_degradations()
        for side in ("all", "left", "right")
        for metric in METRICS
    }
    assert found == expected
    counts = set(table.filter(np.array(table["side"].to_pylist()) == "all")["n"].to_pylist())
    assert min(counts) >= 10


def test_no_degradation_is_the_usual_prediction_and_harm_changes_it(analysed: Analysed) -> None:
    rows = read_table(analysed.metrics, "robustness", RUN).to_pylist()
    value = {(r["kind"], r["level"]): r["value"] for r in rows if (r["metric"], r["side"]) == ("mpjpe_crop_px", "all")}
    usual = value.pop((NONE.kind, NONE.level))
    assert all(abs(other - usual) > 1e-6 for other in value.values())


def test_all_samples_without_degradation_are_the_summary(analysed: Analysed, tmp_path: Path) -> None:
    setting = replace(analysed.setting, metrics_dir=tmp_path)
    task = Prediction(open_checkpoint(analysed.checkpoint), setting, Devices("cpu"))
    identity = RunIdentity("all", "arctic-all-val", "v1", "synthetic", "x")
    write_robustness(task, identity, 10_000)
    rows = read_table(tmp_path, "robustness", "all").to_pylist()
    for metric in METRICS:
        (found,) = (r for r in rows if (r["kind"], r["metric"], r["side"]) == ("none", metric, "all"))
        assert found["value"] == pytest.approx(analysed.run.info["metrics"][metric], rel=1e-5), metric
