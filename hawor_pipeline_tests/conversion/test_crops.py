"""Cutting and resampling: the recorded mapping is the one that was applied, nothing aliases, damage is refused."""

import io
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image
from skimage.measure import blur_effect

from hawor_pipeline.conversion.blur import _EXACT_COLUMNS, array_sums, loop_sums, measure_blur
from hawor_pipeline.conversion.crops import (
    PAD_RGB,
    Cut,
    crop_from_file,
    cut_crop,
    encode_crop,
    is_black,
    plan_cut,
)
from hawor_pipeline.conversion.decode import Part, decode_image
from hawor_pipeline.errors import DataError

CROP = 192


def blob_image(center, size=(700, 500), sigma=9.0):
    """White gaussian blob on black, in all channels; (x, y) centre in pixels."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    value = 255 * np.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2) / (2 * sigma**2))
    return np.repeat(value[..., None], 3, 2).astype(np.uint8)


@pytest.mark.parametrize("side", [40.0, 119.3, 192.0, 250.7, 330.0, 401.2])
def test_recorded_mapping_is_the_applied_one(side):
    """The centroid of a blob lands where crop_from_file maps it, whether the crop is enlarged, kept, or reduced."""
    spot, center = np.array([330.25, 240.75]), np.array([333.1, 236.4])
    cut = plan_cut(center, side, CROP)
    affine = crop_from_file(cut, CROP)
    crop = cut_crop(Part.whole(blob_image(spot, sigma=side / 30)), cut, CROP)[..., 0].astype(float)
    x, y = np.meshgrid(np.arange(CROP), np.arange(CROP))
    centroid = np.array([(crop * x).sum(), (crop * y).sum()]) / crop.sum()
    assert np.abs(centroid - (affine[:, :2] @ spot + affine[:, 2])).max() < 0.12
    assert abs(cut.side - side) <= max(0.5, cut.reduce / 2) + 1e-9
    middle = affine[:, :2] @ center + affine[:, 2]
    assert np.abs(middle - (CROP / 2 - 0.5)).max() <= CROP / cut.side  # within one pixel of the file


def test_mapping_keeps_the_cut_s_corners():
    cut = plan_cut(np.array([100.0, 80.0]), 60.0, CROP)
    affine = crop_from_file(cut, CROP)
    corners = np.array([[cut.left - 0.5, cut.top - 0.5], [cut.left + cut.side - 0.5, cut.top + cut.side - 0.5]])
    np.testing.assert_allclose(corners @ affine[:, :2].T + affine[:, 2], [[-0.5, -0.5], [CROP - 0.5, CROP - 0.5]])


@pytest.mark.parametrize("center", [(10, 10), (695, 490), (350, -20), (-60, 250)])
def test_past_the_edge_is_the_mean_colour_and_the_rest_stays_in_place(center):
    image = np.random.default_rng(0).integers(0, 255, (500, 700, 3), dtype=np.uint8)
    cut = plan_cut(np.array(center, float), 192.0, 192)
    crop = cut_crop(Part.whole(image), cut, 192)  # same size: no resampling, so values must be equal
    inside = np.zeros((192, 192), bool)
    for v in range(192):
        for u in range(0, 192, 7):
            x, y = cut.left + u, cut.top + v
            inside[v, u] = 0 <= x < 700 and 0 <= y < 500
            expected = image[y, x] if inside[v, u] else PAD_RGB
            assert tuple(crop[v, u]) == tuple(expected)
    assert inside.any() and not inside.all()


def test_large_boxes_do_not_alias():
    """A pattern finer than the crop can show becomes grey, as an exact area average makes it."""
    stripes = np.zeros((1600, 1600, 3), np.uint8)
    stripes[:, ::2] = 255
    crop = cut_crop(Part.whole(stripes), plan_cut(np.array([800.0, 800.0]), 1152.0, CROP), CROP)
    assert crop.std() < 3 and abs(crop.mean() - 127.5) < 2


def test_blur_equals_the_published_measure():
    rng = np.random.default_rng(1)
    for sigma in (0.6, 1.5, 4.0):
        noise = cv2.GaussianBlur(rng.normal(size=(192, 192)), (0, 0), sigma)
        gray = np.clip(128 + 60 * noise / noise.std(), 0, 255).astype(np.uint8)
        ours = measure_blur(np.repeat(gray[..., None], 3, 2), crop_margin=1.5)
        assert ours == pytest.approx(blur_effect(gray[32:160, 32:160], h_size=11), abs=2e-3)
    assert measure_blur(np.full((96, 96, 3), 90, np.uint8), 1.5) == 1.0


@pytest.mark.parametrize("shape", [(256, 256), (97, 130), (20, 15), (40, _EXACT_COLUMNS)])
def test_compiled_blur_gives_the_same_numbers(shape):
    """A row's sums have to stay exact in single precision, also where every gradient is as large as it can be."""
    noise = np.random.default_rng(shape[0]).integers(0, 256, shape, dtype=np.uint8)
    stripes = np.where(np.arange(shape[0]) // 2 % 2, 255, 0).astype(np.uint8)[:, None].repeat(shape[1], 1)
    for gray in (noise, stripes, np.full(shape, 7, np.uint8)):
        assert loop_sums(gray) == array_sums(gray)
    assert array_sums(stripes)[0][0] > 0 and array_sums(stripes) == array_sums(stripes.T)[::-1]


def test_blur_grows_with_motion_in_one_direction():
    image = np.random.default_rng(2).integers(0, 255, (192, 192, 3), dtype=np.uint8)
    assert measure_blur(cv2.blur(image, (15, 1)), 1.5) > measure_blur(image, 1.5) + 0.15


def test_damaged_and_wrongly_sized_images_are_refused_by_name():
    data = simplejpeg.encode_jpeg(blob_image((10, 10)), quality=90, colorspace="RGB")
    path = Path("some/00012.jpg")
    assert decode_image(data, path, (500, 700)).shape == (500, 700, 3)
    for damaged in (data[: len(data) // 2], b"", b"GIF89a" + data, data[:-300]):
        with pytest.raises(DataError, match=r"00012\.jpg: damaged JPEG"):
            decode_image(damaged, path, None)
    with pytest.raises(DataError, match=r"00012\.jpg: 700x500 pixels, expected 640x480"):
        decode_image(data, path, (480, 640))


def test_encoding_is_repeatable_and_no_worse_than_opencvs():
    """Against the files that cv2.imwrite makes by default, decoded by another library."""
    crop = np.random.default_rng(3).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    crop = cv2.resize(crop, (128, 128), interpolation=cv2.INTER_CUBIC)
    data = encode_crop(crop, 95)
    assert data == encode_crop(crop.copy(), 95)
    written = cv2.imencode(".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR))[1].tobytes()
    pixels = [np.asarray(Image.open(io.BytesIO(file))).astype(int) for file in (data, written)]
    ours, theirs = (np.abs(each - crop).mean() for each in pixels)
    assert ours < 1.05 * theirs and ours < 3


def test_black_frames_are_recognised():
    black = simplejpeg.decode_jpeg(simplejpeg.encode_jpeg(np.zeros((100, 100, 3), np.uint8), colorspace="RGB"))
    assert is_black(black) and not is_black(blob_image((300, 200)))


@pytest.mark.parametrize(("ratio", "reduce"), [(1.6, 1), (1.7, 2), (2.4, 2), (2.9, 2), (3.1, 3), (4.2, 4)])
def test_the_average_leaves_no_fewer_pixels_than_the_crop_from_twice_its_side_on(ratio, reduce):
    cut = plan_cut(np.array([900.0, 900.0]), ratio * 256, 256)
    assert cut.reduce == reduce
    assert cut.side % reduce == 0
    assert ratio < 2 or cut.side // reduce >= 256


def test_large_boxes_come_near_to_exact_resampling():
    """Exact is Pillow's bilinear filter with support, in float32. Rounding the factor up would be farther from it."""
    rng = np.random.default_rng(4)
    noise = cv2.GaussianBlur(rng.normal(size=(900, 900, 3)).astype(np.float32), (0, 0), 2.0)
    image = np.clip(128 + 50 * noise / noise.std(), 0, 255).astype(np.uint8)
    cut = plan_cut(np.array([450.0, 450.0]), 2.7 * 256, 256)

    def error(cut: Cut) -> float:
        box = (cut.left, cut.top, cut.left + cut.side, cut.top + cut.side)
        channels = [Image.fromarray(channel) for channel in image.astype(np.float32).transpose(2, 0, 1)]
        exact = [np.asarray(c.resize((256, 256), Image.Resampling.BILINEAR, box=box)) for c in channels]
        return float(np.sqrt(np.mean((cut_crop(Part.whole(image), cut, 256) - np.stack(exact, -1)) ** 2)))

    assert error(cut) < 0.75 * error(replace(cut, reduce=3, side=cut.side // 3 * 3))
