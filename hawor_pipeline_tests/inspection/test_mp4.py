"""Videos play: what was written comes back, in a form that browsers accept."""

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from hawor_pipeline.errors import DataError
from hawor_pipeline.inspection.mp4 import write_mp4

COLORS = [(200, 40, 40), (40, 200, 40), (40, 40, 200), (120, 120, 120)]  # BGR


def frames(height: int = 65, width: int = 97):
    for color in COLORS:
        yield np.full((height, width, 3), color, np.uint8)


def test_frames_come_back_in_order_with_their_colours(tmp_path: Path) -> None:
    path = tmp_path / "videos" / "a.mp4"
    assert write_mp4(path, frames(), 30.0) == (4, (64, 96))
    capture = cv2.VideoCapture(str(path))  # another reader than the writer
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(30.0)
    for color in COLORS:
        found, image = capture.read()
        assert found
        assert np.abs(image.reshape(-1, 3).mean(0) - color).max() < 8
    assert not capture.read()[0]
    assert [file.name for file in path.parent.iterdir()] == ["a.mp4"]


def test_the_form_is_one_that_browsers_play(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_mp4(path, frames(), 30.0)
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # playing starts before all of it is there


def test_no_frames_or_frames_of_two_sizes_leave_nothing_behind(tmp_path: Path) -> None:
    def growing():
        yield np.zeros((64, 64, 3), np.uint8)
        yield np.zeros((80, 64, 3), np.uint8)

    with pytest.raises(DataError, match="no frame"):
        write_mp4(tmp_path / "a.mp4", [], 30.0)
    with pytest.raises(DataError, match="frame 1 is 64x80, the first 64x64"):
        write_mp4(tmp_path / "a.mp4", growing(), 30.0)
    assert not list(tmp_path.iterdir())
