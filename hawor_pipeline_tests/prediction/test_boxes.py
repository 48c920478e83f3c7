"""Boxes from a CSV: read as documented, and clear about the line that cannot be right."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.prediction.boxes import HandBox, read_boxes
from hawor_pipeline.prediction.footage import Footage, require_plausible_boxes

HEADER = "image,side,x_min,y_min,x_max,y_max"


def write(folder: Path, *lines: str, header: str = HEADER) -> Path:
    path = folder / "boxes.csv"
    path.write_text("\n".join((header, *lines)) + "\n")
    return path


def test_boxes_by_image_and_side(tmp_path: Path) -> None:
    boxes = read_boxes(
        write(tmp_path, "s03/a/1/00010.jpg,left,1,2,5,10", "s03/a/1/00010.jpg,right,0,0,3.5,1", "7,left,0,0,1,1")
    )
    assert boxes["s03/a/1/00010.jpg"] == {"left": HandBox(1, 2, 5, 10), "right": HandBox(0, 0, 3.5, 1)}
    assert list(boxes) == ["s03/a/1/00010.jpg", "7"]


def test_the_square_is_that_of_the_conversion() -> None:
    center, side = HandBox(10, 20, 40, 50).square(1.2)  # 30 x 30: the width counts by 4/3
    assert center.tolist() == [25, 35]
    assert side == pytest.approx(1.2 * 40)
    assert HandBox(0, 0, 3, 30).square(1.0)[1] == 30


def test_of_two_boxes_the_surer_one_counts(tmp_path: Path) -> None:
    header = HEADER + ",confidence,detector"
    lines = ("a.jpg,left,0,0,1,1,0.4,x", "a.jpg,left,0,0,2,2,0.9,x", "a.jpg,left,0,0,3,3,0.5,x")
    assert read_boxes(write(tmp_path, *lines, header=header))["a.jpg"]["left"].x_max == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.jpg,links,0,0,1,1", "line 3: side 'links', expected left or right"),
        ("a.jpg,left,5,0,1,1", "line 3: box .* expected x_min < x_max"),
        ("a.jpg,left,0,0,inf,1", "line 3: box"),
        ("a.jpg,left,0,0,,1", "1 lines have no x_max"),
        ("b.jpg,left,0,0,1,1", "line 3: a second box of the left hand in b.jpg"),
        ("a.jpg,left,0,0,one,1", "not readable as CSV"),
    ],
)
def test_lines_that_cannot_be_right(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_boxes(write(tmp_path, "b.jpg,left,0,0,1,1", line))


@pytest.mark.parametrize("blank", ["", "nan", "inf"])
def test_a_box_without_confidence_never_beats_one_that_has_it(tmp_path: Path, blank: str) -> None:
    header = HEADER + ",confidence"
    boxes = write(tmp_path, f"0.jpg,left,10,10,90,90,{blank}", "0.jpg,left,126,90,252,210,0.9", header=header)
    with pytest.raises(DataError, match="line 2: found no confidence"):
        read_boxes(boxes)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((0.1, 0.2, 0.4, 0.6), "largest coordinate of all boxes is 0.6; expected pixels of images of 640x480"),
        ((700, 10, 760, 80), "the left hand in 0.jpg is 700, 10 to 760, 80; expected one that overlaps"),
        ((-90, 10, -5, 80), "overlaps the image of 640x480"),
        ((10, 500, 90, 560), "overlaps the image of 640x480"),
        ((10, 10, 10 + 1e-9, 10 + 1e-9), "at least 2 px"),
        ((-1e7, -1e7, 1e7, 1e7), "at most 4 times the image"),
    ],
)
def test_boxes_that_no_hand_of_these_images_has(box: tuple[float, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        require_plausible_boxes({"0.jpg": {"left": HandBox(*box)}}, 480, 640)


def test_a_hand_may_reach_past_the_image_and_boxes_of_video_corners_are_pixels() -> None:
    near = {"left": HandBox(-200, -100, 300, 500), "right": HandBox(0.0, 0.0, 0.9, 40.0)}
    require_plausible_boxes({"0.jpg": near}, 480, 640)


def test_missing_file_and_missing_column(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not exist; expected a CSV"):
        read_boxes(tmp_path / "no.csv")
    with pytest.raises(DataError, match="no column y_max"):
        read_boxes(write(tmp_path, "a,left,0,0,1", header="image,side,x_min,y_min,x_max"))


def test_images_are_in_the_order_of_their_numbers_and_hidden_files_are_skipped(tmp_path: Path) -> None:
    """8, 9, 10: as text 10 comes first, and clips over time would run backwards."""
    for number, name in enumerate(["a/8.png", "a/9.png", "a/10.png", "b/frame2_1.png", "b/frame10_0.png"]):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.full((4, 4, 3), 10 * number, np.uint8))
    for hidden in (".thumb.png", "a/._8.png", ".cache/1.png"):
        path = tmp_path / hidden
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"not an image")
    frames = list(Footage(tmp_path).frames())
    assert [frame.name for frame in frames] == ["a/8.png", "a/9.png", "a/10.png", "b/frame2_1.png", "b/frame10_0.png"]
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [0, 10, 20, 30, 40]
