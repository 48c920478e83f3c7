"""Projection of points to pixels and back to rays, and images at the supersampled size that is drawn."""

import cv2
import numpy as np
import torch

from hawor_pipeline.core.camera import project_distorted, transform_points, undistort_pixels
from hawor_pipeline.rasterizer import Rasterizer
from hawor_pipeline.sample.studio import Camera

SUPERSAMPLING = 2
FAR_M = 50.0
RASTERIZER = Rasterizer(fov_y=np.pi / 2, near_m=0.05, far_m=FAR_M, cull_back=True)


def project(camera: Camera, cam_from_world: np.ndarray, vertices: np.ndarray):
    """Project vertices (T, N, 3) to pixels (T, N, 2) and depths (T, N), with a mask (T, N) of valid ones."""
    points = transform_points(torch.from_numpy(cam_from_world), torch.from_numpy(vertices))
    uv, ok = project_distorted(
        points,
        torch.from_numpy(camera.intrinsics.astype(np.float32)),
        torch.from_numpy(camera.distortion.astype(np.float32)),
    )
    return uv.numpy(), points[..., 2].numpy(), ok.numpy()


def pixel_rays(camera: Camera, step: int) -> np.ndarray:
    """Return camera-frame rays (h, w, 3), z = 1, float32, of every `step`-th pixel from 0 to past the last one."""
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
    """Convert pixels of the full image to supersampled pixels of a region whose first pixel is `corner` (x, y)."""
    return (uv - np.array(corner, np.float32) + np.float32(0.5)) * np.float32(SUPERSAMPLING) - np.float32(0.5)


def enlarge(image: np.ndarray) -> np.ndarray:
    """Resize a uint8 image (H, W, 3) to the supersampled size, float32 in 0..1."""
    fine = cv2.resize(image, None, fx=SUPERSAMPLING, fy=SUPERSAMPLING, interpolation=cv2.INTER_LINEAR)
    return fine.astype(np.float32) * np.float32(1 / 255)


def shrink(fine: np.ndarray) -> np.ndarray:
    """Average supersampled float32 colours 0..1 over each pixel, as a uint8 image."""
    size = (fine.shape[1] // SUPERSAMPLING, fine.shape[0] // SUPERSAMPLING)
    return cv2.convertScaleAbs(cv2.resize(fine, size, interpolation=cv2.INTER_AREA), alpha=255.0)
