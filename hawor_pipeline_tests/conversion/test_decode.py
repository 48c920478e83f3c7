"""Decoding parts of images: the same pixels with and without cutting; a file cut short is refused either way."""

import contextlib
import io
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator

import cv2
import numba
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from hawor_pipeline.conversion.compiled import compiled
from hawor_pipeline.conversion.crops import cut_crops, plan_shrink
from hawor_pipeline.conversion.decode import (
    _END,
    CUTTING_VARIABLE,
    WHOLE_IMAGES,
    Decoder,
    _find_cutter,
    check_jpeg,
)
from hawor_pipeline.conversion.jpeg_cut import JpegCutter
from hawor_pipeline.errors import CorruptImage, DataError


class AlwaysCuts(Decoder):
    """Decoder that also cuts small images and large regions."""

    def __init__(self) -> None:
        super().__init__(JpegCutter())

    def _cuts(self, *_) -> bool:
        return True


@pytest.fixture(scope="module")
def partial() -> Decoder:
    """Return a decoder that decodes regions wherever it can."""
    return AlwaysCuts()


def photograph(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Smooth colours with edges and some noise."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 255, (height // 24 + 2, width // 24 + 2, 3), dtype=np.uint8)
    image = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).astype(int)
    return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


BOXES = [
    [((300.0, 240.0), 180.0), ((420.5, 300.2), 200.0)],  # near full resolution
    [((350.0, 260.0), 420.0), ((300.0, 250.0), 460.0)],  # shrunk by 2
    [((10.0, 8.0), 150.0)],  # past the corner
    [((690.0, 495.0), 900.0)],  # shrunk by 4, past the far corner
    [((352.3, 251.9), 96.0), ((60.0, 430.0), 97.0)],
]


@pytest.mark.parametrize("subsampling", ["420", "444", "422", "gray"])
@pytest.mark.parametrize("boxes", BOXES)
def test_region_and_whole_decoding_give_the_same_crops(partial, boxes, subsampling):
    image = photograph(701, 503)
    if subsampling == "gray":
        data = simplejpeg.encode_jpeg(image[..., :1].copy(), quality=90, colorspace="GRAY", colorsubsampling="gray")
    else:
        data = simplejpeg.encode_jpeg(image, quality=90, colorspace="RGB", colorsubsampling=subsampling)
    asked = [(np.array(center), size) for center, size in boxes]
    whole = cut_crops(data, "a", (503, 701), asked, 192, Decoder())
    part = cut_crops(data, "a", (503, 701), asked, 192, partial)
    for first, second in zip(whole, part, strict=True):
        np.testing.assert_array_equal(first.pixels, second.pixels)
        np.testing.assert_array_equal(first.crop_from_file, second.crop_from_file)
        assert first.black == second.black


def test_region_decoding_reads_no_more_than_it_needs(partial):
    data = simplejpeg.encode_jpeg(photograph(701, 503), quality=90, colorspace="RGB", colorsubsampling="420")
    part = partial.decode(data, "a", None, 1, (300, 100, 340, 140))
    assert part.pixels.shape[0] <= 40 + 32 and part.pixels.shape[1] <= 40 + 32 + 16
    assert part.size == (503, 701)


def test_scale_follows_from_the_smallest_box_alone():
    """Where a 2x2 average would follow, from 1.65 times the crop's side on, the decoder takes it over."""
    assert [plan_shrink(sizes, 100) for sizes in ([150.0], [164.9, 900.0], [165.0, 900.0], [330.0], [660.0])] == [
        1,
        1,
        2,
        4,
        8,
    ]


@pytest.mark.parametrize("size", [430.0, 700.0, 1100.0])
def test_shrunk_images_keep_the_mapping(size):
    """The centroid of a blob lands where crop_from_file maps it, also if the decoder shrank the image."""
    spot = np.array([351.25, 246.75])
    x, y = np.meshgrid(np.arange(701), np.arange(503))
    value = 255 * np.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / (2 * (size / 25) ** 2))
    image = np.repeat(value[..., None], 3, 2).astype(np.uint8)
    data = simplejpeg.encode_jpeg(image, quality=97, colorspace="RGB", colorsubsampling="444")
    (crop,) = cut_crops(data, "a", None, [(np.array([340.0, 250.0]), size)], 128, Decoder())
    weight = crop.pixels[..., 0].astype(float)
    x, y = np.meshgrid(np.arange(128), np.arange(128))
    weight[weight < 8] = 0  # grey of the padding is far away from the blob
    near = np.hypot(x - 64, y - 64) < 30
    centroid = np.array([(weight * near * x).sum(), (weight * near * y).sum()]) / (weight * near).sum()
    expected = crop.crop_from_file[:, :2] @ spot + crop.crop_from_file[:, 2]
    assert np.abs(centroid - expected).max() < 0.15


@pytest.mark.parametrize("decoder", [Decoder(), AlwaysCuts()], ids=["whole", "cut"])
def test_damage_is_refused_by_name_in_every_way(decoder):
    data = simplejpeg.encode_jpeg(photograph(300, 200), quality=90, colorspace="RGB")
    boxes = [(np.array([150.0, 60.0]), 60.0)]
    assert len(cut_crops(data, "x/00012.jpg", (200, 300), boxes, 64, decoder)) == 1
    for damaged in (b"", data[:1], data[: len(data) // 2], data[:-2], b"GIF89a" + data):
        with pytest.raises(DataError, match=r"x/00012\.jpg: damaged JPEG"):
            cut_crops(damaged, "x/00012.jpg", None, boxes, 64, decoder)
    with pytest.raises(DataError, match="300x200 pixels, expected 640x480"):
        cut_crops(data, "x/00012.jpg", (480, 640), boxes, 64, decoder)


def test_cutting_can_be_switched_off_and_needs_numba(monkeypatch):
    monkeypatch.setenv(CUTTING_VARIABLE, WHOLE_IMAGES)
    assert _find_cutter() is None and not Decoder(_find_cutter()).decodes_regions
    monkeypatch.delenv(CUTTING_VARIABLE)
    assert isinstance(_find_cutter(), JpegCutter) and Decoder(_find_cutter()).decodes_regions
    monkeypatch.setitem(sys.modules, "hawor_pipeline.conversion.jpeg_cut", None)  # as where numba is missing
    assert _find_cutter() is None


def coloured(subsampling: str, quality: int, size: tuple[int, int], **options: object) -> bytes:
    """A JPEG of Pillow's, whose writer differs from simplejpeg's in tables and options."""
    file = io.BytesIO()
    samplings = {"444": 0, "422": 1, "420": 2}
    image = Image.fromarray(photograph(*size, seed=quality))
    image.save(file, "jpeg", quality=quality, subsampling=samplings[subsampling], **options)
    return file.getvalue()


@pytest.mark.parametrize("shrink", [1, 2, 4, 8])
@pytest.mark.parametrize("subsampling", ["444", "422", "420"])
@pytest.mark.parametrize("quality", [12, 75, 98])
def test_a_region_holds_the_same_pixels_as_the_whole(partial, subsampling, quality, shrink):
    """Optimised code tables, large and small coefficients, any place: the pixels of the whole image."""
    size = (533, 389)
    data = coloured(subsampling, quality, size, optimize=True)
    rng = np.random.default_rng(quality)
    width, height = (-(-side // shrink) for side in size)
    whole = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width)
    smaller = 0
    for _ in range(12):
        (left, right), (top, bottom) = (np.sort(rng.choice(side, 2, replace=False)) for side in (width, height))
        part = partial.decode(data, "a", None, shrink, (int(left), int(top), int(right), int(bottom)))
        rows, columns = slice(top - part.top, bottom - part.top), slice(left - part.left, right - part.left)
        np.testing.assert_array_equal(part.pixels[rows, columns], whole[top:bottom, left:right])
        assert part.size == (height, width)
        smaller += part.pixels.shape != whole.shape
    assert smaller >= 9  # a file's own code tables may lack what the first block of a row needs


@pytest.mark.parametrize("subsampling", ["444", "422", "420"])
def test_several_regions_are_found_in_one_pass(partial, subsampling):
    """Apart, overlapping, one inside another, side by side, at the edges: the pixels of the whole image."""
    size = (533, 389)
    data = coloured(subsampling, 80, size, optimize=True)
    whole = simplejpeg.decode_jpeg(data)
    rng = np.random.default_rng(3)
    asked = [[(0, 0, 40, 40), (493, 349, 533, 389)], [(64, 64, 128, 128), (128, 64, 192, 128), (96, 0, 100, 389)]]
    for count in (2, 2, 2, 3, 5):
        edges = [np.sort(rng.choice(side, (count, 2)), axis=1) for side in size]
        asked.append([(int(x[0]), int(y[0]), int(x[1]) + 1, int(y[1]) + 1) for x, y in zip(*edges, strict=True)])
    apart = 0
    for regions in asked:
        parts = partial.decode_parts(data, "a", None, 1, regions)
        apart += len({id(part) for part in parts}) > 1
        for part, (left, top, right, bottom) in zip(parts, regions, strict=True):
            rows, columns = slice(top - part.top, bottom - part.top), slice(left - part.left, right - part.left)
            np.testing.assert_array_equal(part.pixels[rows, columns], whole[top:bottom, left:right])
    assert apart >= 2


def test_a_region_outside_the_image_takes_no_others_part_away(partial):
    data = coloured("420", 80, (301, 203))
    inside, outside = partial.decode_parts(data, "a", None, 1, [(10, 10, 50, 50), (400, 10, 440, 50)])
    found = inside.pixels[10 - inside.top : 50 - inside.top, 10 - inside.left : 50 - inside.left]
    np.testing.assert_array_equal(found, simplejpeg.decode_jpeg(data)[10:50, 10:50])
    assert outside.size == (203, 301)


@pytest.mark.parametrize("options", [{"progressive": True}, {"restart_marker_blocks": 3}, {"restart_marker_rows": 1}])
def test_what_cannot_be_cut_is_decoded_whole(options):
    data = coloured("420", 80, (301, 203), **options)
    assert JpegCutter().cut(data, 1, [(20, 20, 60, 60)]) is None
    part = AlwaysCuts().decode(data, "a", None, 1, (20, 20, 60, 60))
    np.testing.assert_array_equal(part.pixels, simplejpeg.decode_jpeg(data))


def test_images_of_four_colours_are_not_cut():
    file = io.BytesIO()
    Image.fromarray(photograph(120, 90)).convert("CMYK").save(file, "jpeg")
    assert JpegCutter().cut(file.getvalue(), 1, [(20, 20, 60, 60)]) is None


@pytest.mark.parametrize("shrink", [1, 2, 4, 8])
@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411", "gray"])
def test_narrow_regions_at_the_edges_hold_the_same_pixels(partial, subsampling, shrink):
    """Colour is upsampled otherwise where only two of its columns remain; an image may end anywhere in a block."""
    for width in range(129, 146, 3):
        image = photograph(width, 96, seed=width)
        shown = image[..., :1].copy() if subsampling == "gray" else image
        kind = "GRAY" if subsampling == "gray" else "RGB"
        data = simplejpeg.encode_jpeg(shown, quality=85, colorspace=kind, colorsubsampling=subsampling)
        right, bottom = (-(-side // shrink) for side in (width, 96))
        whole = simplejpeg.decode_jpeg(data, "RGB", min_height=bottom, min_width=right)
        for columns in range(1, 6):
            for left in (0, right - columns):
                part = partial.decode(data, "a", None, shrink, (left, bottom // 2, left + columns, bottom))
                found = part.pixels[bottom // 2 - part.top :, left - part.left :][:, :columns]
                np.testing.assert_array_equal(found, whole[bottom // 2 :, left : left + columns])


def with_growing_codes(rows: int) -> bytes:
    """Build an image of four columns of blocks, of which the first three take more bytes when cut out than all four.

    A difference of one has a code of one bit, all others of sixteen; each row of the three begins with one of these.
    """
    differences = bytes([0x00, 1, *[0] * 14, 4, 1, 2, 3, 0, 4])  # one bit for 1, sixteen for 2, 3, 0, 4
    ended = bytes([0x10, 1, *[0] * 15, 0])  # one bit: the block has nothing else
    frame = bytes([8, *(8 * rows).to_bytes(2, "big"), 0, 32, 3, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0])
    parts = {
        0xDB: bytes([0, *[1] * 64]),
        0xC0: frame,
        0xC4: differences + ended,
        0xDA: bytes([3, 1, 0, 2, 0, 3, 0, 0, 63, 0]),
    }
    head = b"".join(bytes([0xFF, kind]) + (len(body) + 2).to_bytes(2, "big") + body for kind, body in parts.items())
    up, down = 12 * "010", 12 * "000"  # a row of differences of one, each with the end of its block
    bits = "".join(down if row % 2 else up for row in range(rows))
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    return b"\xff\xd8" + head + scan + _END


def test_a_region_may_take_more_bytes_than_its_image():
    data = with_growing_codes(8000)
    whole = simplejpeg.decode_jpeg(data, "RGB", strict=True)
    (found,) = JpegCutter().cut(data, 1, [(0, 0, 20, whole.shape[0])]) or [None]
    assert found is not None and len(found.data) > 1.5 * len(data)
    np.testing.assert_array_equal(simplejpeg.decode_jpeg(found.data, "RGB", strict=True)[:, :20], whole[:, :20])


HARMED = [(100, 90, 180, 150), (150, 40, 230, 110)]  # they overlap


def harm(cutter: JpegCutter, times: int) -> tuple[int, list[bytes], list[bytes]]:
    """Cut damaged images; return the number refused, and parts of an intact one before and after."""
    data = coloured("420", 60, (301, 203))
    rng = np.random.default_rng(0)
    before = cutter.cut(data, 1, HARMED)
    refused = 0
    for _ in range(times):
        damaged = bytearray(data)
        if rng.random() < 0.2:
            del damaged[int(rng.integers(len(data))) :]
        else:
            last = len(data) if rng.random() < 0.6 else data.index(b"\xff\xda") + 14  # else in the header
            for position in rng.integers(2, last, int(rng.integers(1, 6))):
                damaged[position] ^= 1 << int(rng.integers(8))
        found = cutter.cut(bytes(damaged), 1, HARMED)
        refused += found is None
        for small in found or []:
            with contextlib.suppress(ValueError):  # kinds of image that no decoder supports
                assert simplejpeg.decode_jpeg_header(small.data)[:2] == small.size
    after = cutter.cut(data, 1, HARMED)
    assert before is not None and after is not None
    return refused, [small.data for small in before], [small.data for small in after]


def test_damage_never_harms_the_cutter():
    """With flipped or lost bytes the result is None, or a JPEG of its header's size; later cuts are unaffected."""
    refused, before, after = harm(JpegCutter(), 1500)
    assert 200 < refused < 1500 and before == after


@pytest.mark.slow
def test_damage_never_leads_past_the_memory_of_the_cutter(tmp_path):
    """The same with every access checked: compiled code would read and write elsewhere without a word."""
    script = (
        "from hawor_pipeline_tests.conversion.test_decode import *\n"
        "harm(JpegCutter(), 1500)\n"
        "test_a_region_may_take_more_bytes_than_its_image()\n"
    )
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=300)


def test_damage_below_a_region_is_seen(partial):
    data = simplejpeg.encode_jpeg(photograph(301, 203), quality=90, colorspace="RGB", colorsubsampling="420")
    half = data[: len(data) // 2] + b"\xff\xd9"
    for decoder in (partial, Decoder()):
        with pytest.raises(CorruptImage, match="damaged JPEG"):
            decoder.decode(half, "a", None, 1, (100, 10, 160, 60))


def damages(data: bytes, other: bytes, rng: np.random.Generator, page: int) -> Iterator[bytes]:
    """Yield a file with damage of each kind at each of its pages: holes, wrong pages, lost and inserted bytes, cuts."""
    for at in range(page, len(data) - page, page):
        elsewhere = int(rng.integers(page, len(data) - page))
        yield from (
            data[:at] + wrong[:page] + data[at + page :]
            for wrong in (bytes(page), b"\xff" * page, data[at - page :], data[elsewhere:], other[at:], rng.bytes(page))
        )
        yield from (data[:at] + data[at + page :], data[:at] + data[at - page :], data[:at] + bytes([data[at] ^ 8]))
        yield from (data[:at], data[:at] + _END, data[:at] + bytes(len(data) - at - 2) + _END)


KINDS = {
    "420": {"subsampling": "420"},
    "444": {"subsampling": "444"},
    "own code tables": {"subsampling": "420", "optimize": True},
    "progressive": {"subsampling": "420", "progressive": True},
    "restart markers": {"subsampling": "420", "restart_marker_rows": 2},
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_whole_decoding_refuses_is_refused(partial, kind):
    """Whole decoding by libjpeg, where each warning counts, is the reference; what it accepts has its pixels."""
    data, other = (coloured(quality=quality, size=(301, 203), **KINDS[kind]) for quality in (85, 80))
    region = (100, 10, 160, 60)
    refused, accepted = 0, 0
    for damaged in damages(data, other, np.random.default_rng(0), 300):
        try:
            whole = simplejpeg.decode_jpeg(damaged, "RGB", strict=True)
        except ValueError:
            refused += 1
            with pytest.raises(CorruptImage):
                partial.decode(damaged, "a", None, 1, region)
            with pytest.raises(CorruptImage):
                check_jpeg(damaged, "a")
        else:
            accepted += 1
            part = partial.decode(damaged, "a", None, 1, region)
            found = part.pixels[10 - part.top : 60 - part.top, 100 - part.left : 160 - part.left]
            np.testing.assert_array_equal(found, whole[10:60, 100:160])
    assert refused > 200 and refused > 8 * accepted


def test_a_damaged_size_is_refused_before_it_takes_memory(partial):
    data = coloured("420", 80, (301, 203))
    frame = data.index(b"\xff\xc0") + 5
    damaged = data[:frame] + b"\xff\xf0" * 2 + data[frame + 4 :]
    tracemalloc.start()
    assert JpegCutter().cut(damaged, 1, [(20, 20, 60, 60)]) is None
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    with pytest.raises(DataError):
        partial.decode(damaged, "a", (203, 301), 1, (20, 20, 60, 60))


def test_filling_of_the_last_byte_may_be_of_any_length_and_no_more(partial):
    """Images whose last block ends at each bit of a byte are cut; one more byte is damage."""
    lengths = set()
    for size in range(33, 65):
        data = coloured("444", 40, (size, 33))
        assert JpegCutter().cut(data, 1, [(4, 4, 20, 20)]) is not None
        with pytest.raises(CorruptImage):
            partial.decode(data[:-2] + b"\x55" * 9 + _END, "a", None, 1, (4, 4, 20, 20))
        lengths.add((data[-3] + 1) & -(data[-3] + 1))  # lowest zero bit of the last byte: a bound of the filling
    assert len(lengths) >= 4


def test_loops_are_compiled_where_no_folder_can_keep_them(monkeypatch):
    """A container whose files are read-only, with no home folder."""
    caching = numba.core.caching
    for kind in (caching.CacheImpl, *caching.CacheImpl.__subclasses__()):
        monkeypatch.setattr(kind, "_locator_classes", [], raising=False)

    def twice(value):
        return value + value

    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(cache=True)(twice)
    assert compiled(twice)(21) == 42


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16"])
def test_png_of_every_kind_decodes_to_rgb(mode):
    pixels = np.random.default_rng(1).integers(0, 256, (30, 42, 3), np.uint8)
    image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(pixels)
    image = image if mode == "I;16" else image.convert(mode)
    stored = io.BytesIO()
    image.save(stored, "PNG")
    grey = np.repeat(pixels[..., :1], 3, 2)
    expected = grey if mode == "I;16" else np.asarray(image.convert("RGB"))
    found = Decoder().decode(stored.getvalue() + b"trailing" * 40, "a.jpg", (30, 42)).pixels
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [(32, 48), (31, 45)])
def test_a_png_is_shrunk_by_averages(size):
    pixels = np.random.default_rng(2).integers(0, 256, (*size, 3), np.uint8)
    stored = io.BytesIO()
    Image.fromarray(pixels).save(stored, "PNG")
    part = Decoder().decode(stored.getvalue(), "a.png", size, shrink=4)
    padded = np.pad(pixels, ((0, -size[0] % 4), (0, -size[1] % 4), (0, 0)), "edge").astype(float)
    expected = padded.reshape(8, 4, 12, 4, 3).mean((1, 3))
    assert part.pixels.shape == (8, 12, 3) == (*part.size, 3)
    assert np.abs(part.pixels - expected).max() <= 0.51


@pytest.mark.parametrize("position", [20, 45, 900, -6])
def test_a_png_with_one_flipped_bit_is_corrupt(position):
    stored = io.BytesIO()
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (30, 42, 3), np.uint8)).save(stored, "PNG")
    data = bytearray(stored.getvalue())
    data[position] ^= 1
    with pytest.raises(CorruptImage, match=r"a\.png: damaged PNG"):
        Decoder().decode(bytes(data), "a.png", (30, 42))
    with pytest.raises(DataError, match="42x30 pixels, expected 40x30"):
        Decoder().decode(stored.getvalue(), "a.png", (30, 40))
