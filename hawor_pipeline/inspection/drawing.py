"""Hands drawn over images: skeletons and shaded meshes, projected through the real camera and lens.

Nothing is fitted to the image: meshes appear where they were measured. Images are BGR, uint8.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from hawor_pipeline.core.camera import project_distorted
from hawor_pipeline.core.skeleton import BONES
from hawor_pipeline.rasterizer import Rasterizer

TRUE_RGB = (0.16, 0.47, 0.71)
PREDICTED_RGB = (0.88, 0.42, 0.12)
OTHER_RGB = (0.42, 0.25, 0.62)  # the second run of a comparison
_NEAR_M, _FAR_M = 0.02, 20.0
# Hands are open at the wrist, so faces seen from behind are drawn too.
_RASTERIZER = Rasterizer(fov_y=np.pi / 3, near_m=_NEAR_M, far_m=_FAR_M, cull_back=False)
_SUPERSAMPLE = 2  # pixels per pixel and direction before averaging
_MESH_OPACITY = 0.92
_SUBPIXEL_BITS = 3  # OpenCV draws at an eighth of a pixel
_FAR_PX = 4000.0  # points farther outside are clamped: OpenCV's fixed-point coordinates overflow


@dataclass(frozen=True, slots=True)
class ImageView:
    """Mapping from the camera frame to an image: through the lens to the full frame, then by an affine to the image."""

    intrinsics: torch.Tensor  # (3, 3) of the full frame
    distortion: torch.Tensor  # (8,)
    image_from_full: np.ndarray  # (2, 3)

    def pixels(self, points_m: torch.Tensor) -> np.ndarray:
        """Project points (N, 3), metres, to pixels (N, 2)."""
        full, _ = project_distorted(points_m[None], self.intrinsics[None], self.distortion[None])
        return full[0].numpy() @ self.image_from_full[:, :2].T + self.image_from_full[:, 2]

    def scaled(self, scale: float) -> "ImageView":
        """Return the view of the same image after resizing it."""
        affine = self.image_from_full * scale
        affine[:, 2] += (scale - 1) / 2  # pixel centres are at integers, so the corner is at -0.5
        return ImageView(self.intrinsics, self.distortion, affine)


@dataclass(frozen=True, slots=True)
class ColoredMesh:
    """A surface in the camera frame and its colour."""

    vertices_m: torch.Tensor  # (V, 3)
    faces: np.ndarray  # (F, 3) int32, outward
    rgb: Sequence[float]

    @property
    def in_front(self) -> bool:
        """True where all of the mesh is far enough before the camera to be drawn."""
        return bool((self.vertices_m[:, 2] > _NEAR_M).all())


def resized(image: np.ndarray, scale: float) -> np.ndarray:
    """Return the image at another size, without aliasing."""
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=how)


def draw_skeleton(image: np.ndarray, joints_px: np.ndarray, rgb: Sequence[float], thickness: int = 2) -> None:
    """Draw the 20 bones and 21 joints into an image.

    Args:
        image: changed in place.
        joints_px: (21, 2), OpenPose order.
        rgb: in [0, 1].
        thickness: of the bones, px; joints are as wide as two bones.
    """
    color = tuple(255 * channel for channel in reversed(rgb))
    steps = 1 << _SUBPIXEL_BITS
    points = [tuple(int(v) for v in np.round(p * steps)) for p in np.clip(joints_px, -_FAR_PX, _FAR_PX)]
    for start, end in BONES:
        cv2.line(image, points[start], points[end], color, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
    for point in points:
        cv2.circle(image, point, thickness * steps, color, -1, cv2.LINE_AA, _SUBPIXEL_BITS)


def draw_meshes(image: np.ndarray, view: ImageView, meshes: Sequence[ColoredMesh]) -> np.ndarray:
    """Draw shaded meshes over an image, nearer ones over farther ones, and return the new image."""
    if not meshes:
        return image.copy()
    pixels = np.concatenate([view.pixels(mesh.vertices_m) for mesh in meshes])
    depth = np.concatenate([mesh.vertices_m[:, 2].numpy() for mesh in meshes])
    colors = np.concatenate([shade(mesh.vertices_m.numpy(), mesh.faces, mesh.rgb) for mesh in meshes])
    starts = np.cumsum([0] + [len(mesh.vertices_m) for mesh in meshes])
    faces = np.concatenate([mesh.faces + start for mesh, start in zip(meshes, starts[:-1], strict=True)])
    size = (image.shape[0] * _SUPERSAMPLE, image.shape[1] * _SUPERSAMPLE)
    color, covered = rasterize(pixels * _SUPERSAMPLE + (_SUPERSAMPLE - 1) / 2, depth, faces, colors, size)
    shown, alpha = (cv2.resize(layer, image.shape[1::-1], interpolation=cv2.INTER_AREA) for layer in (color, covered))
    # Colours are black where nothing was drawn, so they are multiplied by their coverage already.
    blended = image * (1 - _MESH_OPACITY * alpha[..., None]) + 255 * shown[..., ::-1] * _MESH_OPACITY
    return np.clip(blended, 0, 255).round().astype(np.uint8)


def side_by_side(panels: Sequence[np.ndarray], gap_px: int = 6) -> np.ndarray:
    """Place panels of one height in a row, white between them."""
    gap = np.full((panels[0].shape[0], gap_px, 3), 255, np.uint8)
    row = [part for panel in panels for part in (gap, panel)]
    return np.concatenate(row[1:], 1)


def jpeg(image: np.ndarray, quality: int = 85) -> bytes:
    """Encode the image as a JPEG file."""
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def shade(vertices: np.ndarray, faces: np.ndarray, rgb: Sequence[float]) -> np.ndarray:
    """Compute the colours (V, 3) in [0, 1] of a mesh lit from the camera, a little from above."""
    corners = vertices[faces]
    normals = np.zeros_like(vertices)
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    for corner in range(3):
        np.add.at(normals, faces[:, corner], face_normals)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    light = np.array([-0.25, -0.55, -0.8])  # towards the camera is -z, up is -y
    diffuse = np.clip(normals @ (light / np.linalg.norm(light)), 0, 1)
    gloss = diffuse**20 * 0.25
    return np.clip((0.35 + 0.7 * diffuse)[:, None] * np.array(rgb) + gloss[:, None], 0, 1).astype(np.float32)


def rasterize(
    pixels: np.ndarray, depth_m: np.ndarray, faces: np.ndarray, colors: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Draw triangles whose corners are given as pixels and depths.

    Args:
        pixels: (V, 2) in an image of `size`.
        depth_m: (V,).
        faces: (F, 3).
        colors: (V, 3) in [0, 1].
        size: (height, width).

    Returns:
        Colour (height, width, 3) in [0, 1], black where nothing was drawn, and coverage (height, width), 0 or 1.
    """
    color, depth = np.zeros((*size, 3), np.float32), np.full(size, _FAR_M, np.float32)
    _RASTERIZER.draw(pixels, depth_m, faces.astype(np.int32), colors, color, depth)
    # OpenCV converts depths to a nonlinear scale and back, so an empty pixel may come out a little below the limit.
    return color, (depth < 0.999 * _FAR_M).astype(np.float32)
