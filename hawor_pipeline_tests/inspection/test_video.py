"""Videos of recordings: all frames in time, meshes where the hands are, missing data named."""

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from hawor_pipeline.cli import main
from hawor_pipeline.errors import ConfigError
from hawor_pipeline.inspection.recording_view import open_recording
from hawor_pipeline.inspection.video import VideoSettings, write_video
from hawor_pipeline.shards.store import open_shards
from hawor_pipeline_tests.evaluation.truth_run import write_truth_run


@pytest.fixture(scope="module")
def metrics_dir(sample_shards: Path, mano_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("metrics")
    write_truth_run(folder, sample_shards, mano_dir)
    return folder


@pytest.fixture(scope="module")
def sequence(sample_shards: Path) -> str:
    row = open_shards(sample_shards, ["s05"]).table.slice(0, 1).to_pylist()[0]
    return f"{row['subject']}/{row['sequence']}"


def read_back(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as file:
        return [frame.to_ndarray(format="bgr24") for frame in file.decode(video=0)]


@pytest.mark.parametrize("crops", [True, False])
def test_every_frame_is_shown_with_meshes(
    crops, sequence, sample_root, sample_shards, mano_dir, metrics_dir, tmp_path
) -> None:
    root = None if crops else sample_root / "arctic"
    video = write_video(
        sequence, 1, sample_shards, mano_dir, metrics_dir, tmp_path / "a.mp4", settings=VideoSettings(raw_root=root)
    )
    recording = open_recording(sequence, 1, sample_shards, mano_dir, metrics_dir)
    images = read_back(video.path)
    assert video.run_id == "truth"
    assert len(images) == video.frames == len(recording.frames)
    assert images[0].shape[:2] == (video.height_px, video.width_px)
    if not crops:
        table = recording.shards.table
        assert abs(video.width_px - table["image_width"][0].as_py()) <= 1
        frame = table["frame"][0].as_py()
        joints = np.array(table["joints_px"][0].as_py()).reshape(21, 2).round().astype(int)
        raw = recording.read_image(recording.raw_images(root)[frame])

        def orange(image: np.ndarray) -> float:
            at_joints = image[joints[:, 1], joints[:, 0]].astype(float)
            return float((at_joints[:, 2] - at_joints[:, 0]).mean())  # red over blue

        assert orange(images[frame - recording.frames[0]]) > orange(raw) + 30


def test_the_egocentric_view_is_drawn_through_its_lens(
    sequence, sample_root, sample_shards, mano_dir, metrics_dir, tmp_path
) -> None:
    settings = VideoSettings(raw_root=sample_root / "arctic", with_truth=True, height_px=120)
    video = write_video(sequence, 0, sample_shards, mano_dir, metrics_dir, tmp_path / "a.mp4", settings=settings)
    assert video.height_px <= 120 + 46
    assert len(read_back(video.path)) == video.frames


def test_missing_data_are_named_before_anything_is_written(
    sequence, sample_shards, mano_dir, metrics_dir, tmp_path
) -> None:
    def video(name: str, view: int, **more):
        write_video(name, view, sample_shards, mano_dir, metrics_dir, tmp_path / "a.mp4", **more)

    with pytest.raises(ConfigError, match="has no view 7; it has 0, 1, 4"):
        video(sequence, 7)
    with pytest.raises(ConfigError, match="Did you mean"):
        video(f"{sequence}x", 1)
    with pytest.raises(ConfigError, match="expected subject/sequence"):
        video("s05", 1)
    with pytest.raises(ConfigError, match="no run in"):
        video(open_shards(sample_shards, ["s01"]).table["sample_id"][0].as_py().rsplit("/", 3)[0], 1)
    with pytest.raises(ConfigError, match="has no prediction"):
        name = open_shards(sample_shards, ["s01"]).table["sample_id"][0].as_py().rsplit("/", 3)[0]
        video(name, 1, run_id="truth")
    assert not list(tmp_path.iterdir())


def test_rerun_is_asked_for_by_name_when_it_is_not_installed(
    sequence, sample_shards, mano_dir, metrics_dir, tmp_path, monkeypatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rerun", None)
    settings = VideoSettings(rerun_path=tmp_path / "a.rrd")
    with pytest.raises(ConfigError, match="pip install"):
        write_video(sequence, 1, sample_shards, mano_dir, metrics_dir, tmp_path / "a.mp4", settings=settings)
    assert not list(tmp_path.iterdir())


def test_rerun_holds_every_frame_in_the_world(sequence, sample_shards, mano_dir, metrics_dir, tmp_path) -> None:
    rerun = pytest.importorskip("rerun", reason="the extra 'rerun' is not installed")
    from hawor_pipeline.inspection.viewer3d import write_rerun

    recording = open_recording(sequence, 1, sample_shards, mano_dir, metrics_dir)
    path = write_rerun(recording, tmp_path / "a.rrd")
    assert rerun.__version__

    def ask(command: str) -> str:
        words = [sys.executable, "-m", "rerun", "rrd", command, str(path)]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    ask("verify")  # exit code 0: the file can be read and makes sense
    stats = ask("stats")
    for side in ("left", "right"):
        for entity in (f"/world/{side}/truth", f"/world/{side}/prediction", f"/error_mm/{side}"):
            assert entity in stats
    assert f"num_rows_max = {len(recording.frames)}" in stats


def test_the_command_writes_the_video(
    sequence, sample_root, sample_shards, mano_dir, metrics_dir, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.delenv("ARCTIC_ROOT", raising=False)
    places = ["--data", sample_shards, "--mano-dir", mano_dir, "--metrics", metrics_dir]
    root = ["--arctic-root", sample_root / "arctic", "--truth", "--align-wrists"]
    words = ["video", sequence, "--view", "1", *places, *root, "--output", tmp_path / "a.mp4"]
    assert main([str(word) for word in words]) == 0
    assert "of truth" in capsys.readouterr().out
    assert read_back(tmp_path / "a.mp4")
    monkeypatch.setenv("HAWOR_DATA_DIR", str(tmp_path / "empty"))
    assert main(["video", sequence]) == 2  # no shards anywhere
    assert "no shards have subject 's05'" in capsys.readouterr().err
