"""The triangle rasteriser behind every rendered image: OpenCV's z-buffer, addressed in pixels and depths.

OpenCV draws for a symmetric pinhole camera that looks along -z with y up. So each vertex is placed where that
camera sees it at its pixel, after any camera and lens have projected it.
"""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True, slots=True)
class Rasterizer:
    """A z-buffer for triangles whose corners are pixels and depths.

    Attributes:
        fov_y: vertical field of view of OpenCV's camera, radians; images depend on it by rounding only.
        near_m: least depth that is drawn, metres.
        far_m: largest depth that is drawn, metres.
        cull_back: skip faces seen from behind, for closed meshes that are wound outwards.
    """

    fov_y: float
    near_m: float
    far_m: float
    cull_back: bool

    def draw(self, pixels, depth_m, faces, colours, colour_buffer, depth_buffer) -> None:
        """Draw triangles over the buffers, in place.

        Args:
            pixels: (N, 2), the first pixel's centre at 0; positions are computed in their precision.
            depth_m: (N,) positive.
            faces: (F, 3) int32, counter-clockwise seen from outside.
            colours: (N, 3) float32 in [0, 1].
            colour_buffer: (H, W, 3) float32.
            depth_buffer: (H, W) float32, metres; `far_m` where nothing is drawn.
        """
        height, width = depth_buffer.shape
        number = pixels.dtype.type
        scale = depth_m * number(np.tan(self.fov_y / 2) / (height / 2))
        points = np.empty((len(pixels), 3), np.float32)
        # OpenCV has the first pixel's centre at 0.5, hence the half.
        points[:, 0] = (pixels[:, 0] + number(0.5 - width / 2)) * scale
        points[:, 1] = (number(height / 2 - 0.5) - pixels[:, 1]) * scale
        points[:, 2] = -depth_m
        settings = cv2.TriangleRasterizeSettings()
        settings.setShadingType(cv2.RASTERIZE_SHADING_SHADED)
        settings.setCullingMode(cv2.RASTERIZE_CULLING_CW if self.cull_back else cv2.RASTERIZE_CULLING_NONE)
        pose = np.eye(4, dtype=np.float32)
        lens = (self.fov_y, self.near_m, self.far_m)
        cv2.triangleRasterize(points, faces, colours, colour_buffer, depth_buffer, pose, *lens, settings)
