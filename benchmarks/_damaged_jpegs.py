"""JPEGs with damaged pages, and what the decoding of regions makes of them."""

import collections
import io
from collections.abc import Iterator

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from hawor_pipeline.conversion.crops import cut_crops
from hawor_pipeline.conversion.decode import Decoder
from hawor_pipeline.conversion.jpeg_cut import JpegCutter
from hawor_pipeline.errors import CorruptImage

PAGE = 4096  # bytes that a file system or a download loses at once
CROP_PX = 384
BOXES = (((0.29, 0.5), 0.18), ((0.68, 0.55), 0.17))  # centre over (width, height), side over width
END = b"\xff\xd9"
FULL, SMALLER = (2000, 2800), (1000, 1400)
WRITERS = {  # Pillow's options by kind; every page of the first kind is damaged, some pages of the others
    "full frame": {"quality": 92, "subsampling": 2},
    "4:4:4": {"quality": 90, "subsampling": 0},
    "own code tables": {"quality": 95, "subsampling": 2, "optimize": True},
    "gray": {"quality": 92},
    "progressive": {"quality": 92, "progressive": True},
    "restart markers": {"quality": 92, "restart_marker_rows": 1},
}


def smooth_image(seed: int, size: tuple[int, int]) -> np.ndarray:
    """Return an image with coarse and fine structure, (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    image = np.full((*size, 3), 120, np.float32)
    for count, weight in ((5, 40), (20, 25), (80, 12), (400, 5)):
        grid = rng.normal(0, weight, (count, count * 7 // 5, 3)).astype(np.float32)
        image += cv2.resize(grid, size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(image, 0, 255).astype(np.uint8)


def write_jpeg(seed: int, kind: str) -> bytes:
    """Return a JPEG of one kind."""
    file = io.BytesIO()
    image = Image.fromarray(smooth_image(seed, FULL if kind == "full frame" else SMALLER))
    (image.convert("L") if kind == "gray" else image).save(file, "jpeg", **WRITERS[kind])
    return file.getvalue()


def damage_page(data: bytes, other: bytes, at: int, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """Yield the kinds of damage to one page of a file, and the damaged files."""
    elsewhere, foreign = (int(rng.integers(1, len(file) // PAGE)) * PAGE for file in (data, other))
    pages = {
        "zeros": bytes(PAGE),
        "ones": b"\xff" * PAGE,
        "page before": data[at - PAGE : at],
        "other page": data[elsewhere : elsewhere + PAGE],
        "foreign page": other[foreign : foreign + PAGE],
        "random": rng.bytes(PAGE),
        "random without markers": rng.bytes(PAGE).replace(b"\xff", b"\xfe"),
    }
    yield from ((kind, data[:at] + page + data[at + PAGE :]) for kind, page in pages.items())
    yield "lost", data[:at] + data[at + PAGE :]
    yield "repeated", data[:at] + data[at - PAGE :]
    yield "cut", data[:at]
    yield "cut with an end marker", data[:at] + END
    yield "zeros to the end marker", data[:at] + bytes(len(data) - at - 2) + END


def count_accepted(every: int) -> tuple[int, int]:
    """Damage pages of images of each kind, two each, and decode regions of them.

    Args:
        every: Share of the damaged files to judge, as its inverse.

    Returns:
        Files whose wrong crops were accepted though whole decoding refuses them, and files that it refuses.
    """
    outcomes: dict[str, int] = collections.Counter()
    for seed in range(2):
        for kind in WRITERS:
            data, other = write_jpeg(seed, kind), write_jpeg(seed + 100, kind)
            rng = np.random.default_rng(seed)
            step = PAGE if kind == "full frame" else 6 * PAGE
            for at in range(PAGE, len(data) // PAGE * PAGE, step):
                for damage, damaged in damage_page(data, other, at, rng):
                    if rng.random() < 1 / every:
                        outcomes[_outcome(data, damaged, damage)] += 1
    print(f"damaged JPEGs: {dict(sorted(outcomes.items()))}", flush=True)
    refused = sum(count for outcome, count in outcomes.items() if outcome.startswith("whole refuses"))
    return sum(count for outcome, count in outcomes.items() if outcome.startswith("whole refuses, wrong")), refused


def _outcome(data: bytes, damaged: bytes, damage: str) -> str:
    """Return what whole decoding and the decoding of regions make of a damaged file."""
    try:
        simplejpeg.decode_jpeg(damaged, "RGB", strict=True)
        whole = "whole accepts"
    except ValueError:
        whole = "whole refuses"
    try:
        found = _crops(damaged)
    except CorruptImage:
        return f"{whole}, refused"
    wrong = any(not np.array_equal(one, two) for one, two in zip(found, _crops(data), strict=True))
    return f"{whole}, wrong: {damage}" if wrong else f"{whole}, unharmed"


def _crops(data: bytes) -> list[np.ndarray]:
    height, width = simplejpeg.decode_jpeg_header(data)[:2]
    boxes = [((x * width, y * height), side * width) for (x, y), side in BOXES]
    return [crop.pixels.copy() for crop in cut_crops(data, "", None, boxes, CROP_PX, _decoder)]


_decoder = Decoder(JpegCutter())
