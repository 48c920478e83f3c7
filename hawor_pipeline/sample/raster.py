"""Projection and the z-buffer: from triangles in the world to colours and depths of supersampled pixels."""

import cv2
import numpy as np
import torch

from hawor_pipeline.core.camera import project_distorted, transform_points, undistort_pixels
from hawor_pipeline.sample.studio import Camera

SUPERSAMPLING = 2
FAR_M = 50.0
NEAR_M = 0.05

_SETTINGS = cv2.TriangleRasterizeSettings()
_SETTINGS.setCullingMode(cv2.RASTERIZE_CULLING_CW)  # all meshes are closed and wound outwards
_SETTINGS.setShadingType(cv2.RASTERIZE_SHADING_SHADED)


def rasterize(uv, depth_m, faces, colours, colour_buffer, depth_buffer) -> None:
    """Draw the front of closed meshes into an RGB float32 buffer (H, W, 3) and a depth buffer (H, W) in metres.

    Args:
        uv: (N, 2) float32 pixels, the first pixel's centre at 0.
        depth_m: (N,) float32, positive.
        faces: (F, 3) int32, counter-clockwise seen from outside.
        colours: (N, 3) float32 in 0..1.
        colour_buffer: drawn over in place.
        depth_buffer: drawn over in place; `FAR_M` where there is nothing.
    """
    height, width = depth_buffer.shape
    half = height / 2
    # The rasteriser looks along -z with y up, a field of view of 90 degrees and its first pixel's centre at 0.5.
    points = np.empty((len(uv), 3), np.float32)
    scale = depth_m * np.float32(1 / half)
    points[:, 0] = (uv[:, 0] + np.float32(0.5 - width / 2)) * scale
    points[:, 1] = (np.float32(half - 0.5) - uv[:, 1]) * scale
    points[:, 2] = -depth_m
    eye = np.eye(4, dtype=np.float32)
    cv2.triangleRasterize(points, faces, colours, colour_buffer, depth_buffer, eye, np.pi / 2, NEAR_M, FAR_M, _SETTINGS)


def project(camera: Camera, cam_from_world: np.ndarray, vertices: np.ndarray):
    """Pixels (T, N, 2), depths (T, N) and a mask of where both mean something, of vertices (T, N, 3)."""
    points = transform_points(torch.from_numpy(cam_from_world), torch.from_numpy(vertices))
    uv, ok = project_distorted(
        points,
        torch.from_numpy(camera.intrinsics.astype(np.float32)),
        torch.from_numpy(camera.distortion.astype(np.float32)),
    )
    return uv.numpy(), points[..., 2].numpy(), ok.numpy()


def pixel_rays(camera: Camera, step: int) -> np.ndarray:
    """Camera-frame rays (h, w, 3), z = 1, float32, through every `step`-th pixel from pixel 0 to past the last one."""
    x, y = np.meshgrid(
        np.arange(0, camera.width + step - 1, step, dtype=np.float64), np.arange(0, camera.height + step - 1, step)
    )
    grid = np.stack([x, y], axis=-1)
    if camera.distortion.any():
        flat = torch.from_numpy(grid.reshape(-1, 2))
        pinhole = undistort_pixels(flat, torch.from_numpy(camera.intrinsics), torch.from_numpy(camera.distortion))
        grid = pinhole.numpy().reshape(grid.shape)
    k = camera.intrinsics
    rays = np.ones((*x.shape, 3), np.float32)
    rays[..., 1] = (grid[..., 1] - k[1, 2]) / k[1, 1]
    rays[..., 0] = (grid[..., 0] - k[0, 2] - k[0, 1] * rays[..., 1]) / k[0, 0]
    return rays


def to_fine(uv: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
    """Full-picture pixels to supersampled pixels of a region whose first pixel is `corner` (x, y)."""
    return (uv - np.array(corner, np.float32) + np.float32(0.5)) * np.float32(SUPERSAMPLING) - np.float32(0.5)


def enlarge(image: np.ndarray) -> np.ndarray:
    """A uint8 picture (H, W, 3) at the supersampled size, float32 in 0..1."""
    fine = cv2.resize(image, None, fx=SUPERSAMPLING, fy=SUPERSAMPLING, interpolation=cv2.INTER_LINEAR)
    return fine.astype(np.float32) * np.float32(1 / 255)


def shrink(fine: np.ndarray) -> np.ndarray:
    """Supersampled float32 colours 0..1 back to a uint8 picture: the mean over each pixel."""
    size = (fine.shape[1] // SUPERSAMPLING, fine.shape[0] // SUPERSAMPLING)
    return cv2.convertScaleAbs(cv2.resize(fine, size, interpolation=cv2.INTER_AREA), alpha=255.0)
