"""Hand bounding boxes from a CSV file that any detector can write.

One line per hand, with a header:

    image,side,x_min,y_min,x_max,y_max
    s03/box_use_01/1/00010.jpg,left,812.5,640.0,1010.0,873.5

`image` is the path of the image below its folder (`s03/box_use_01/1/00010.jpg`), or the number of a video's frame, from
0. `side` is the true side, left or right. The box is tight around the hand, in pixels of the image file, (x, y) with
the centre of the first pixel at (0, 0). A column `confidence` is optional: of two boxes of one hand in one image the
one with the higher confidence is used; without it, two are an error. Other columns are ignored.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from hawor_pipeline.core.box_rule import BoxRule
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.sources.arctic import SIDES

CORNERS = ("x_min", "y_min", "x_max", "y_max")
COLUMNS = ("image", "side", *CORNERS)


@dataclass(frozen=True, slots=True)
class HandBox:
    """One tight box, px."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float

    def side_px(self, rule: BoxRule) -> float:
        """Return the side of the square around the box by a rule, px."""
        return rule.side_px(self.x_max - self.x_min, self.y_max - self.y_min)

    def square(self, box_scale: float) -> tuple[np.ndarray, float]:
        """Return centre (2,) and side of the square that a conversion stores, px: box_scale x max(h, 4 w / 3)."""
        center = np.array([(self.x_min + self.x_max) / 2, (self.y_min + self.y_max) / 2])
        return center, self.side_px(BoxRule(box_scale))


def read_boxes(path: Path | str) -> dict[str, dict[str, HandBox]]:
    """Read boxes by image and side.

    Raises:
        ConfigError: there is no such file.
        DataError: it is not such a table, or a line is invalid; the message names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"boxes file {path} does not exist; expected a CSV with the columns {','.join(COLUMNS)}.")
    table = _read_table(path)
    corners = np.stack([table[name].to_numpy() for name in CORNERS], 1)
    sides = table["side"].to_pylist()
    confidences = table["confidence"].to_numpy() if "confidence" in table.column_names else None
    boxes: dict[str, dict[str, HandBox]] = {}
    best: dict[tuple[str, str], float] = {}
    for row, (image, side) in enumerate(zip(table["image"].to_pylist(), sides, strict=True)):
        line = f"{path}, line {row + 2}"
        if side not in SIDES:
            raise DataError(f"{line}: side {side!r}, expected left or right.")
        if not np.isfinite(corners[row]).all() or (corners[row, 2:] <= corners[row, :2]).any():
            raise DataError(f"{line}: box {corners[row].tolist()}, expected x_min < x_max and y_min < y_max.")
        if confidences is not None and not np.isfinite(confidences[row]):
            raise DataError(f"{line}: found no confidence, expected a number as in the other lines.")
        key, confidence = (image, side), float(confidences[row]) if confidences is not None else 0.0
        if key in best and (confidences is None or confidence == best[key]):
            raise DataError(f"{line}: a second box of the {side} hand in {image}; keep one, or add confidence.")
        if key not in best or confidence > best[key]:
            best[key] = confidence
            boxes.setdefault(image, {})[side] = HandBox(*(float(v) for v in corners[row]))
    return boxes


def _read_table(path: Path) -> pa.Table:
    numbers = dict.fromkeys((*CORNERS, "confidence"), pa.float64())
    options = pa.csv.ConvertOptions(column_types={**numbers, "image": pa.string(), "side": pa.string()})
    try:
        table = pa.csv.read_csv(path, convert_options=options)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not readable as CSV ({error}); expected the columns {','.join(COLUMNS)}.") from None
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise DataError(f"{path}: no column {', '.join(missing)}; expected {','.join(COLUMNS)}.")
    for name in COLUMNS:
        if table[name].null_count:
            raise DataError(f"{path}: {table[name].null_count} lines have no {name}; every line needs one.")
    return table
