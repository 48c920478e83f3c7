"""How the pixels of a picture file relate to those of the full original frame.

ARCTIC ships its pictures twice: whole, and cropped around the object. Everything in a shard is in pixels of the full
frame, whichever is read.
"""

from dataclasses import dataclass

import numpy as np

from hawor_pipeline.conversion.hand_geometry import ViewCamera, bounds
from hawor_pipeline.sources.arctic import EGO_VIEW

# ARCTIC's own cropping: the object's box is widened, not made smaller than a least size, and cut with a margin.
_OBJECT_BOX_SCALE = 1.7
_LEAST_BOX_PX = 600.0
_CUT_MARGIN = 1.5
_CUT_PX = 1000
_EGO_SCALE = 0.3  # the egocentric pictures are only made smaller


@dataclass(frozen=True, slots=True)
class ImageFrame:
    """file = scale x full + shift, per frame; sizes are (height, width)."""

    size: tuple[int, int]  # of the file
    full_size: tuple[int, int]
    scale: np.ndarray  # (T,)
    shift: np.ndarray  # (T, 2)

    def shows(self, pixels: np.ndarray) -> np.ndarray:
        """Whether the file holds full-frame pixels (T, N, 2); outermost pixels reach half a pixel past their centres.

        A cropped file may reach past the full frame, where it shows nothing, and a hand may be in the full frame but
        not in the cropped file.
        """
        x, y = np.moveaxis(pixels, -1, 0).copy()  # NumPy is slow where values do not lie side by side
        inside = _within(x, y, self.full_size)
        if self._whole:
            return inside
        scale, shift = self.scale[:, None], self.shift[..., None]
        return inside & _within(x * scale + shift[:, 0], y * scale + shift[:, 1], self.size)

    @property
    def _whole(self) -> bool:
        """Whether the file is the full frame."""
        return self.size == self.full_size and bool((self.scale == 1).all()) and not self.shift.any()


def _within(x: np.ndarray, y: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return (x >= -0.5) & (x < size[1] - 0.5) & (y >= -0.5) & (y < size[0] - 0.5)


def find_image_frame(image_source: str, camera: ViewCamera, object_world: np.ndarray) -> ImageFrame:
    """How the files of a view relate to full frames.

    Args:
        image_source: `images` or `cropped_images`.
        camera: the view.
        object_world: (T, V, 3) object vertices, world frame, metres; ARCTIC cropped around them.
    """
    if image_source == "images":
        return full_frame(camera.image_size, len(camera.cam_from_world))
    return cropped_frame(camera, None if camera.view == EGO_VIEW else camera.project(object_world)[1])


def full_frame(size: tuple[int, int], frames: int) -> ImageFrame:
    """Files that hold the full frame."""
    return ImageFrame(size, size, np.ones(frames), np.zeros((frames, 2)))


def cropped_frame(camera: ViewCamera, object_px: np.ndarray | None) -> ImageFrame:
    """Files of ARCTIC's `cropped_images`.

    Args:
        camera: the view.
        object_px: (T, V, 2) projected object vertices, full frame; not needed for the egocentric view.

    Source: ARCTIC's data processing: box side 1.7 x max(w, h) of the projected object, at least 600 px, cut with margin
        1.5 and scaled to 1000 x 1000; egocentric pictures scaled by 0.3.
    """
    frames = len(camera.cam_from_world)
    if camera.view == EGO_VIEW or object_px is None:
        size = tuple(round(side * _EGO_SCALE) for side in camera.image_size)
        return ImageFrame((size[0], size[1]), camera.image_size, np.full(frames, _EGO_SCALE), np.zeros((frames, 2)))
    low, high = bounds(object_px)
    side = _CUT_MARGIN * np.maximum(_OBJECT_BOX_SCALE * (high - low).max(1), _LEAST_BOX_PX)
    scale = _CUT_PX / side
    corner = (low + high) / 2 - side[:, None] / 2
    return ImageFrame((_CUT_PX, _CUT_PX), camera.image_size, scale, -corner * scale[:, None])
