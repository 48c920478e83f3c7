"""From a row of a table to the picture behind it."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hawor_pipeline.cli import main
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.evaluation.tables import partition_dir, partition_file, read_table
from hawor_pipeline.inspection.gallery import pair_images
from hawor_pipeline.inspection.recording_view import open_recording
from hawor_pipeline.inspection.sample_view import look_at_sample
from hawor_pipeline.shards.store import open_shards
from hawor_pipeline_tests.evaluation.truth_run import write_truth_run


@pytest.fixture(scope="module")
def metrics_dir(sample_shards: Path, mano_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("metrics")
    write_truth_run(folder, sample_shards, mano_dir, "truth")
    write_truth_run(folder, sample_shards, mano_dir, "bent", bend_rad=0.5)
    return folder


@pytest.fixture(scope="module")
def sample_id(metrics_dir: Path) -> str:
    return read_table(metrics_dir, "samples", "bent")["sample_id"][3].as_py()


def test_errors_are_those_of_the_tables(metrics_dir, sample_shards, mano_dir, sample_id) -> None:
    view = look_at_sample(sample_id, sample_shards, mano_dir, metrics_dir, "bent")
    samples = read_table(metrics_dir, "samples", "bent")
    errors = samples["mpjpe_mm"].to_numpy()
    assert view.run is not None
    assert view.run.metrics["mpjpe_mm"] == errors[3] > 1
    assert view.run.worse_share == pytest.approx((errors > errors[3]).mean())
    assert {run.run_id: run.metrics["mpjpe_mm"] for run in view.history}["truth"] < 1e-3
    joints = read_table(metrics_dir, "joints", "bent").slice(3 * 21, 21)
    assert [joint["error_mm"] for joint in view.joints] == joints["error_mm"].to_pylist()
    assert [joint["visible"] for joint in view.joints] == joints["visible"].to_pylist()
    subject, sequence, camera, frame, side = sample_id.split("/")
    same = [s.split("/") for s in samples["sample_id"].to_pylist()]
    frames = [int(s[3]) for s in same if s[:3] == [subject, sequence, camera] and s[4] == side]
    assert sorted(view.run.track) == sorted(frames)
    assert view.run.track[int(frame)] == errors[3]


def test_meshes_are_truth_and_prediction_around_the_wrist(metrics_dir, sample_shards, mano_dir, sample_id) -> None:
    exact = look_at_sample(sample_id, sample_shards, mano_dir, metrics_dir, "truth")
    true, predicted = (np.array(exact.meshes[name]) for name in ("true_mm", "predicted_mm"))
    assert true.shape == (778, 3)
    # a left hand is said through the right model, so its surface is that of the nearest right shape
    assert np.abs(true - predicted).mean() < 1.0
    bent = look_at_sample(sample_id, sample_shards, mano_dir, metrics_dir, "bent")
    moved = np.linalg.norm(np.array(bent.meshes["predicted_mm"]) - predicted, axis=1)
    assert moved.max() > 10
    assert np.median(moved) < 1


def test_images_show_the_mesh_where_the_hand_is(metrics_dir, sample_shards, mano_dir, sample_id) -> None:
    view = look_at_sample(sample_id, sample_shards, mano_dir, metrics_dir, "truth")
    panels = {title: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for title, data in view.panels}
    assert [title.split(",")[0] for title in panels] == ["crop", "skeletons", "true mesh", *["predicted mesh"] * 2]
    assert {panel.shape for panel in panels.values()} == {(view.panel_px, view.panel_px, 3)}
    changed = {
        title: np.abs(panel.astype(int) - panels["crop"]).max(-1) > 40
        for title, panel in panels.items()
        if "mesh" in title
    }
    everywhere = np.logical_and.reduce(list(changed.values()))
    assert everywhere.sum() > 0.8 * max(mask.sum() for mask in changed.values())  # the same place, another colour
    hand = np.argwhere(changed["true mesh"]).mean(0)
    assert np.abs(hand - view.panel_px / 2).max() < 0.2 * view.panel_px  # the crop is centred on the hand


def test_without_a_name_the_run_evaluated_last_is_drawn(metrics_dir, sample_shards, mano_dir, sample_id) -> None:
    table = partition_dir(metrics_dir, "samples", "truth") / "part-0.parquet"
    os.utime(table)
    later = look_at_sample(sample_id, sample_shards, mano_dir, metrics_dir)
    assert later.run is not None
    assert later.run.run_id == "truth"


def test_a_sample_that_no_run_predicted_shows_the_truth(sample_shards, mano_dir, tmp_path) -> None:
    name = open_shards(sample_shards, ["s01"]).table["sample_id"][0].as_py()
    view = look_at_sample(name, sample_shards, mano_dir, tmp_path)
    assert view.run is None
    assert list(view.meshes) == ["true_mm"]
    assert [title for title, _ in view.panels] == ["crop", "skeletons, as placed", "true mesh"]


def test_names_that_do_not_exist_are_refused_with_a_hint(metrics_dir, sample_shards, mano_dir, sample_id) -> None:
    with pytest.raises(ConfigError, match="expected subject/sequence/view/frame/side"):
        look_at_sample("s05/box", sample_shards, mano_dir, metrics_dir)
    with pytest.raises(ConfigError, match="Did you mean"):
        look_at_sample(sample_id + "t", sample_shards, mano_dir, metrics_dir)
    with pytest.raises(ConfigError, match=r"'trutch' has no row.*Did you mean 'truth'"):
        look_at_sample(sample_id, sample_shards, mano_dir, metrics_dir, "trutch")


def test_a_frame_that_was_skipped_is_refused_with_the_reason(sample_shards, mano_dir, tmp_path) -> None:
    ledger = pq.read_table(next(sample_shards.glob("s05/*/ledger.parquet")), partitioning=None).to_pylist()
    entry = next(row for row in ledger if row["frame"] >= 0)
    name = f"s05/{entry['sequence']}/{entry['view']}/{entry['frame']:05d}/{entry['side'] or 'left'}"
    with pytest.raises(ConfigError, match=rf"it was skipped \({entry['reason']}\)"):
        look_at_sample(name, sample_shards, mano_dir, tmp_path)


def test_the_command_writes_the_page(metrics_dir, sample_shards, mano_dir, sample_id, tmp_path, capsys) -> None:
    places = ["--data", sample_shards, "--mano-dir", mano_dir, "--metrics", metrics_dir]
    words = ["show", sample_id, "--run", "bent", *places, "--output", tmp_path / "page.html"]
    assert main([str(word) for word in words]) == 0
    errors = read_table(metrics_dir, "samples", "bent")["mpjpe_mm"]
    assert f"bent: mpjpe_mm {errors[3].as_py():.1f}" in capsys.readouterr().out
    assert sample_id in (tmp_path / "page.html").read_text()
    assert main([str(word) for word in ["show", sample_id, *places, "--run", "nobody"]]) == 2
    assert "Runs with one: bent, truth" in capsys.readouterr().err


def test_a_run_on_other_data_of_the_same_names_is_not_drawn(metrics_dir, sample_shards, mano_dir, sample_id, tmp_path):
    """Two samples of different seeds have equal sample ids; the depth of the true wrist tells them apart."""
    other = tmp_path / "metrics"
    shutil.copytree(metrics_dir, other)
    path = partition_file(other, "samples", "bent")
    table = pq.read_table(path, partitioning=None)
    moved = pa.chunked_array([table["depth_m"].to_numpy() + 0.05], table["depth_m"].type)
    place = table.schema.get_field_index("depth_m")
    pq.write_table(table.set_column(place, table.schema.field(place), moved), path)
    with pytest.raises(ConfigError, match="run 'bent' has no row"):
        look_at_sample(sample_id, sample_shards, mano_dir, other, "bent")
    view = look_at_sample(sample_id, sample_shards, mano_dir, other)
    assert [run.run_id for run in view.history] == ["truth"]
    with pytest.raises(DataError, match="run 'bent' was measured on other data: the wrist of"):
        pair_images(sample_shards, mano_dir, other, "bent", "truth")
    subject, sequence, camera, *_ = sample_id.split("/")
    with pytest.raises(DataError, match="was measured on other data"):
        open_recording(f"{subject}/{sequence}", int(camera), sample_shards, mano_dir, other, "bent")
