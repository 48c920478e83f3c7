"""Decode, crop and encode on one core: a plain script, this project, and a lower bound."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from _frames import Images
from _measure import Row, from_rounds
from _plain import warp_square
from PIL import Image

from hawor_pipeline.conversion.crops import crop_from_file, cut_crop, cut_crops, encode_crop, plan_cut, plan_shrink
from hawor_pipeline.conversion.decode import WHOLE_IMAGES, Decoder
from hawor_pipeline.conversion.jpeg_cut import JpegCutter
from hawor_pipeline.shards.store import ImageWriter

CROP_PX = 256
DECODING = {"whole": WHOLE_IMAGES, "region": ""}  # values of $HAWOR_TURBOJPEG
SIDES_PX = (200, 900)  # of the cropped squares
LARGE_PX = 600


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the processor time of one call, which hardly depends on the load of the machine."""
    start = time.process_time()
    work()
    return time.process_time() - start


def draw_boxes(rng: np.random.Generator, count: int, size: tuple[int, int]) -> list[list[tuple[np.ndarray, float]]]:
    """Draw two random squares inside each image."""
    boxes = []
    for _ in range(count):
        sides = rng.uniform(*SIDES_PX, 2)
        boxes.append([(np.array([rng.uniform(s / 2, edge - s / 2) for edge in size[::-1]]), float(s)) for s in sides])
    return boxes


def measure_crops(images: Images, rounds: int) -> list[Row]:
    """Measure the rows of decode-crop-encode, and print the lower bound and the image quality."""
    jpegs = list(images.jpegs.values())
    size = simplejpeg.decode_jpeg_header(jpegs[0])[:2]
    ways = {"whole": Decoder(), "region": Decoder(JpegCutter())}
    rng = np.random.default_rng(0)
    ratios: dict[str, list[float]] = {way: [] for way in ways}
    shares: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.jpg" for number in range(len(jpegs))]
        for path, jpeg in zip(paths, jpegs, strict=True):
            path.write_bytes(jpeg)
        for number in range(rounds + 1):
            boxes = draw_boxes(rng, len(jpegs), size)
            target = Path(folder) / f"round{number}"
            target.mkdir()
            seconds = _round(paths, boxes, ways, target)
            if number == 0:
                continue  # libraries and page cache warm up
            for way in ways:
                ratios[way].append(seconds["plain"] / seconds[way])
            shares.append(_floor(jpegs, boxes) / seconds["region"])
    return [
        from_rounds("decode_crop_encode", ratios["whole"], "times plain, per core", 1.3, "higher"),
        from_rounds("decode_crop_encode_region", ratios["region"], "times plain, per core", 2.3, "higher"),
        from_rounds(
            "share_of_physical_floor",
            shares,
            "lower bound / ours; above 1 if blocks are skipped undecoded",
            0.8,
            "higher",
        ),
        _quality(jpegs, size, ways["whole"]),
    ]


def _round(paths: list[Path], boxes: list, ways: dict[str, Decoder], target: Path) -> dict[str, float]:
    """Return the processor seconds of each way for all images, interleaved image by image."""
    seconds = dict.fromkeys(["plain", *ways], 0.0)
    writers = {way: ImageWriter(target / f"{way}.arrow") for way in ways}
    for number, (path, asked) in enumerate(zip(paths, boxes, strict=True)):
        order = ["plain", *ways] if number % 2 else [*reversed(ways), "plain"]
        for way in order:
            if way == "plain":
                work = lambda: _plain(path, asked, target / str(number))  # noqa: B023, E731 - called at once
            else:
                work = lambda: _ours(path, asked, ways[way], writers[way])  # noqa: B023, E731 - called at once
            seconds[way] += cpu_seconds(work)
    for way, writer in writers.items():
        seconds[way] += cpu_seconds(lambda: writer.__exit__(None))  # noqa: B023 - called at once
    return seconds


def _plain(path: Path, boxes: list, target: Path) -> None:
    image = cv2.imread(str(path))
    for number, (center, side) in enumerate(boxes):
        cv2.imwrite(f"{target}_{number}.jpg", warp_square(image, center, side, CROP_PX)[0])


def _ours(path: Path, boxes: list, decoder: Decoder, writer: ImageWriter) -> None:
    for crop in cut_crops(path.read_bytes(), path, None, boxes, CROP_PX, decoder):
        writer.append(encode_crop(crop.pixels, 95))


def _floor(jpegs: list[bytes], boxes: list) -> float:
    """Return the processor seconds that no decoder of the blocks can save.

    The sum of entropy decoding down to the last row of the region, transform of the region alone, resampling and
    encoding, each measured separately. Decoding at an eighth of the size is little more than entropy decoding.
    """
    total, decoder = 0.0, Decoder(JpegCutter())
    for jpeg, asked in zip(jpegs, boxes, strict=True):
        shrink = plan_shrink([side for _, side in asked], CROP_PX)
        cuts = [plan_cut(center, side, CROP_PX, shrink) for center, side in asked]
        regions = [(c.left, c.top, c.left + c.side, c.top + c.side) for c in cuts]
        parts = decoder.decode_parts(jpeg, "", None, shrink, regions)
        rows = parts[0].size[0]
        total += _decoding_s(jpeg, 8) * min(max(region[3] for region in regions), rows) / rows
        for part in {id(part): part for part in parts}.values():  # one holds both hands, or each has its own
            height, width = part.pixels.shape[:2]
            alone = _region_alone(jpeg, (part.left, part.top, part.left + width, part.top + height), shrink)
            total += max(_decoding_s(alone, shrink) - _decoding_s(alone, 8), 0.0)
        for part, cut in zip(parts, cuts, strict=True):
            crop = cut_crop(part, cut, CROP_PX)
            total += cpu_seconds(lambda: cut_crop(part, cut, CROP_PX))  # noqa: B023 - called at once
            total += cpu_seconds(lambda: encode_crop(crop, 95))  # noqa: B023 - called at once
    return total


def _decoding_s(jpeg: bytes, shrink: int) -> float:
    height, width = (-(-side // shrink) for side in simplejpeg.decode_jpeg_header(jpeg)[:2])
    return cpu_seconds(lambda: simplejpeg.decode_jpeg(jpeg, "RGB", min_height=height, min_width=width))


def _region_alone(jpeg: bytes, region: tuple[int, int, int, int], shrink: int) -> bytes:
    """Encode the region as a JPEG at the file's own resolution and about its quality."""
    image = simplejpeg.decode_jpeg(jpeg)
    left, top, right, bottom = (max(0, edge * shrink) for edge in region)
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(image[top:bottom, left:right]), quality=80, colorspace="RGB", colorsubsampling="420"
    )


def _quality(jpegs: list[bytes], size: tuple[int, int], decoder: Decoder) -> Row:
    """Return the gain in PSNR of large crops over the plain script's, against exact anti-aliased resampling, in dB."""
    rng = np.random.default_rng(1)
    gains = []
    for jpeg in jpegs[::3]:
        image = simplejpeg.decode_jpeg(jpeg)
        side = float(rng.uniform(LARGE_PX, SIDES_PX[1]))
        center = np.array([rng.uniform(side / 2 + 4, edge - side / 2 - 4) for edge in size[::-1]])
        crop = cut_crops(jpeg, "", None, [(center, side)], CROP_PX, decoder)[0]
        shrink = plan_shrink([side], CROP_PX)
        assert np.array_equal(crop.crop_from_file, crop_from_file(plan_cut(center, side, CROP_PX, shrink), CROP_PX))
        plain, affine = warp_square(image, center, side, CROP_PX)
        ours = _psnr(crop.pixels, _exact(image, crop.crop_from_file))
        gains.append(ours - _psnr(plain, _exact(image, affine)))
    return from_rounds("large_crop_psnr_gain", gains, "dB over plain, boxes over 600 px", 0.0, "higher")


def _exact(image: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Resample the square of an affine map with anti-aliased bilinear filtering in single precision."""
    zoom = affine[0, 0]
    x, y = (-0.5 - affine[0, 2]) / zoom + 0.5, (-0.5 - affine[1, 2]) / zoom + 0.5
    box = (x, y, x + CROP_PX / zoom, y + CROP_PX / zoom)
    channels = [Image.fromarray(image[..., c].astype(np.float32)) for c in range(3)]
    return np.stack(
        [np.asarray(c.resize((CROP_PX, CROP_PX), Image.Resampling.BILINEAR, box=box)) for c in channels], -1
    )


def _psnr(crop: np.ndarray, exact: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((crop.astype(np.float64) - exact) ** 2)))
