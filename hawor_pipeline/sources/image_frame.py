"""Cameras of views, and the pixels of image files against those of the full original frame.

ARCTIC ships its images twice: whole, and cropped around the object. Shards hold pixels of the full frame for both.
"""

from dataclasses import dataclass, replace

import numpy as np

from hawor_pipeline.sources.arctic import EGO_VIEW

# ARCTIC's own cropping: the object's box is widened, not made smaller than a least size, and cut with a margin.
_OBJECT_BOX_SCALE = 1.7
_LEAST_BOX_PX = 600.0
_CUT_MARGIN = 1.5
_CUT_PX = 1000
_EGO_SCALE = 0.3  # the egocentric images are scaled, not cut


@dataclass(frozen=True, slots=True)
class ViewCamera:
    """One view of a sequence. The full frame has `image_size` (height, width)."""

    view: int
    image_size: tuple[int, int]
    cam_from_world: np.ndarray  # (T, 4, 4)
    intrinsics: np.ndarray  # (3, 3)
    distortion: np.ndarray  # (8,) zeros for the static views

    @property
    def centres_m(self) -> np.ndarray:
        """Centre in the world frame, (T, 3)."""
        rotation, shift = self.cam_from_world[:, :3, :3], self.cam_from_world[:, :3, 3]
        return -np.einsum("tji,tj->ti", rotation, shift)

    def moment(self, index: int) -> "ViewCamera":
        """Reduce the camera to one moment."""
        return replace(self, cam_from_world=self.cam_from_world[index : index + 1])

    def project(self, points_world: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Project points into the view.

        Args:
            points_world: (T, N, 3), metres.

        Returns:
            Points in the camera frame (T, N, 3), pixels (T, N, 2), and whether each is in front of the camera and
            inside the lens model's monotone radius, (T, N).
        """
        import torch  # here, because planning a conversion needs no torch

        from hawor_pipeline.core.camera import MIN_DEPTH_M, project_distorted, project_pinhole, transform_points

        points = transform_points(torch.tensor(self.cam_from_world), torch.tensor(points_world))
        intrinsics, distortion = torch.tensor(self.intrinsics), torch.tensor(self.distortion)
        if not self.distortion.any():  # the same numbers, without the work of a lens
            return points.numpy(), project_pinhole(points, intrinsics).numpy(), (points[..., 2] > MIN_DEPTH_M).numpy()
        pixels, projectable = project_distorted(points, intrinsics, distortion)
        return points.numpy(), pixels.numpy(), projectable.numpy()


@dataclass(frozen=True, slots=True)
class ImageFrame:
    """file = scale x full + shift, per frame; sizes are (height, width)."""

    size: tuple[int, int]  # of the file
    full_size: tuple[int, int]
    scale: np.ndarray  # (T,)
    shift: np.ndarray  # (T, 2)

    def shows(self, pixels: np.ndarray) -> np.ndarray:
        """Test full-frame pixels (T, N, 2) against the file's area; outermost pixels reach half a pixel past centres.

        A cropped file may reach past the full frame, where it shows nothing, and a hand may be in the full frame but
        not in the cropped file.
        """
        x, y = np.moveaxis(pixels, -1, 0).copy()  # contiguous per axis: NumPy is several times faster then
        inside = _within(x, y, self.full_size)
        if self._whole:
            return inside
        scale, shift = self.scale[:, None], self.shift[..., None]
        return inside & _within(x * scale + shift[:, 0], y * scale + shift[:, 1], self.size)

    @property
    def _whole(self) -> bool:
        """The file is the full frame."""
        return self.size == self.full_size and bool((self.scale == 1).all()) and not self.shift.any()


def _within(x: np.ndarray, y: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return (x >= -0.5) & (x < size[1] - 0.5) & (y >= -0.5) & (y < size[0] - 0.5)


def full_frame(size: tuple[int, int], frames: int) -> ImageFrame:
    """Return the frame of files that hold the full frame."""
    return ImageFrame(size, size, np.ones(frames), np.zeros((frames, 2)))


def cropped_frame(camera: ViewCamera, object_px: np.ndarray | None) -> ImageFrame:
    """Return the frame of files of ARCTIC's `cropped_images`.

    Args:
        camera: the view.
        object_px: (T, V, 2) projected object vertices, full frame; not needed for the egocentric view.

    Source: ARCTIC's data processing: box side 1.7 x max(w, h) of the projected object, at least 600 px, cut with margin
        1.5 and scaled to 1000 x 1000; egocentric images scaled by 0.3.
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


def bounds(pixels: np.ndarray, known: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return least and greatest (T, 2) of points (T, N, 2), or of the known ones, (T, N); infinite where none is."""
    by_axis = np.moveaxis(pixels, -1, 0).copy()  # reductions are fast along the last axis only
    if known is not None and not known.all():
        return np.where(known, by_axis, np.inf).min(-1).T, np.where(known, by_axis, -np.inf).max(-1).T
    return by_axis.min(-1).T, by_axis.max(-1).T
