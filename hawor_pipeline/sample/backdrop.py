"""Backdrops (the empty room and the standing body, drawn once per static view) and the sensor's grain."""

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from hawor_pipeline.sample.light import Shade, shade_srgb, vertex_normals
from hawor_pipeline.sample.person import AlbedoMesh, body_mesh, table_meshes
from hawor_pipeline.sample.projection import (
    FAR_M,
    RASTERIZER,
    SUPERSAMPLING,
    enlarge,
    pixel_rays,
    project,
    shrink,
    to_fine,
)
from hawor_pipeline.sample.studio import Camera, Look, Room, body_rotation

GRAIN = 2.0  # standard deviation of the sensor's noise, of 255
GRAIN_SHIFT_PX = 64
_ROOM_STEP_PX = 2  # the room is out of focus: half the resolution is enough
_MAP_SIZE_PX, _MAP_REACH = 640, np.radians(80.0)
_EGO_STEP_PX = 10


Region = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, the last two exclusive


def _between(coarse: np.ndarray, step: int, camera: Camera) -> np.ndarray:
    """Interpolate values at every pixel from values at every `step`-th pixel."""
    warp = np.array([[1 / step, 0, 0], [0, 1 / step, 0]], np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(coarse, warp, (camera.width, camera.height), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def camera_gain(rng: np.random.Generator) -> np.ndarray:
    """Draw the exposure and white balance of one camera: factors (3,) on sRGB values."""
    return np.minimum(rng.uniform(0.85, 1.0) * (1 + rng.normal(0, 0.02, 3)), 1.0).astype(np.float32)


@dataclass(frozen=True)
class Standing:
    """A lit mesh that does not move: vertices (N, 3), faces (F, 3), sRGB colours (N, 3)."""

    vertices: np.ndarray
    faces: np.ndarray
    colours: np.ndarray

    @classmethod
    def lit(cls, mesh: AlbedoMesh, look: Look) -> "Standing":
        """Light a mesh as in the subject's room."""
        normals = vertex_normals(mesh.vertices[None], mesh.faces)
        open_sky = np.full(normals.shape[:2], 0.85, np.float32)
        colours = shade_srgb(mesh.albedo, normals, Shade(open_sky, open_sky), look, skin=False)
        return cls(mesh.vertices, mesh.faces.astype(np.int32), colours[0].astype(np.float32))

    def draw(self, camera: Camera, pose: np.ndarray, gain: np.ndarray, buffers, corner: tuple[int, int]) -> None:
        """Draw into supersampled (colour, depth) buffers whose first pixel is `corner`."""
        uv, depth, ok = project(camera, pose[None], self.vertices[None])
        keep = ok[0][self.faces].all(axis=1)
        if keep.any():
            RASTERIZER.draw(to_fine(uv[0], corner), depth[0], self.faces[keep], self.colours * gain, *buffers)


class StaticBackdrop:
    """Room and body in front of a camera that does not move."""

    def __init__(self, camera: Camera, room: Room, look: Look, rng: np.random.Generator) -> None:
        assert camera.cam_from_world is not None
        self.pose = camera.cam_from_world.astype(np.float32)
        self.gain = camera_gain(rng)
        rotation = self.pose[:3, :3]
        rays = pixel_rays(camera, _ROOM_STEP_PX) @ rotation
        coarse = cv2.GaussianBlur(room.image(-rotation.T @ self.pose[:3, 3], rays), (0, 0), 0.8)
        fine = enlarge(_between(coarse, _ROOM_STEP_PX, camera)) * self.gain
        self.depth = np.full(fine.shape[:2], FAR_M, np.float32)
        sides, top = table_meshes(room.table_low, room.table_high, room.table_colour)
        # The room's image has the textured table top already: here it only hides what is behind and below it.
        Standing.lit(top, look).draw(camera, self.pose, self.gain, (fine.copy(), self.depth), (0, 0))
        for mesh in (sides, body_mesh(look, body_rotation(look), head=True)):
            Standing.lit(mesh, look).draw(camera, self.pose, self.gain, (fine, self.depth), (0, 0))
        self.fine = cv2.convertScaleAbs(fine, alpha=255.0)
        self.image = shrink(fine)

    def poses(self, count: int) -> np.ndarray:
        """Return the world-to-camera transforms (count, 4, 4)."""
        return np.tile(self.pose, (count, 1, 1))

    def at(self, frame: int) -> np.ndarray:
        """Return the background image (H, W, 3) uint8, the same in every frame."""
        return self.image

    def buffers(self, image: np.ndarray, frame: int, region: Region) -> tuple[np.ndarray, np.ndarray]:
        """Return new supersampled colour and depth buffers of a region."""
        x0, y0, x1, y1 = (SUPERSAMPLING * v for v in region)
        return self.fine[y0:y1, x0:x1] * np.float32(1 / 255), self.depth[y0:y1, x0:x1].copy()


class HeadBackdrop:
    """The room in front of the moving ego camera, from one image around its mean position and direction.

    The image is azimuthal (distance from the centre = angle), so it has no seam and no pole in the field of view.
    """

    def __init__(self, camera: Camera, poses: np.ndarray, room: Room, look: Look, rng: np.random.Generator) -> None:
        self.camera, self.path, self.gain = camera, poses, camera_gain(rng)
        rotation = poses[:, :3, :3]
        u, _, vt = np.linalg.svd(rotation.mean(axis=0))  # the rotation nearest to the mean matrix
        self.mean_rotation = (u @ vt).astype(np.float32)
        origin = -np.einsum("tji,tj->ti", rotation, poses[:, :3, 3]).mean(axis=0)
        axis = ((np.arange(_MAP_SIZE_PX, dtype=np.float32) + 0.5) / _MAP_SIZE_PX * 2 - 1) * np.float32(_MAP_REACH)
        x, y = np.meshgrid(axis, axis)
        theta = np.maximum(np.hypot(x, y), np.float32(1e-6))
        bend = np.sin(theta) / theta
        rays = np.stack([x * bend, y * bend, np.cos(theta)], -1) @ self.mean_rotation
        image = room.image(origin, rays)
        self.map = cv2.convertScaleAbs(cv2.GaussianBlur(image, (0, 0), 0.6) * self.gain)
        self.rays = pixel_rays(camera, _EGO_STEP_PX)
        # The camera is inside the head, which would hide everything.
        self.body = Standing.lit(body_mesh(look, body_rotation(look), head=False), look)

    def poses(self, count: int) -> np.ndarray:
        """Return the world-to-camera transforms (count, 4, 4)."""
        return self.path[:count]

    def at(self, frame: int) -> np.ndarray:
        """Return the room as the camera sees it in one frame, (H, W, 3) uint8."""
        rays = self.rays @ (self.mean_rotation @ self.path[frame, :3, :3].T).T
        across = np.hypot(rays[..., 0], rays[..., 1])
        scale = np.arctan2(across, rays[..., 2]) / np.maximum(across, np.float32(1e-6)) / np.float32(_MAP_REACH)
        place = (rays[..., :2] * scale[..., None] + 1) * np.float32(_MAP_SIZE_PX / 2) - np.float32(0.5)
        full = _between(place.astype(np.float32), _EGO_STEP_PX, self.camera)
        x, y = np.ascontiguousarray(full[..., 0]), np.ascontiguousarray(full[..., 1])
        return cv2.remap(self.map, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def buffers(self, image: np.ndarray, frame: int, region: Region) -> tuple[np.ndarray, np.ndarray]:
        """Return new supersampled colour and depth buffers of a region of `at(frame)`, with the body."""
        x0, y0, x1, y1 = region
        colour = enlarge(image[y0:y1, x0:x1])
        depth = np.full(colour.shape[:2], FAR_M, np.float32)
        self.body.draw(self.camera, self.path[frame], self.gain, (colour, depth), (x0, y0))
        return colour, depth


Backdrop = StaticBackdrop | HeadBackdrop  # the background of a view that moving meshes are drawn over


@lru_cache(maxsize=4)
def grain(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw sensor noise as its positive and negative part, uint8, larger than the image by the shift."""
    rng = np.random.default_rng(7)
    noise = rng.standard_normal((height + GRAIN_SHIFT_PX, width + GRAIN_SHIFT_PX, 3), np.float32)
    mixed = GRAIN * (0.75 * noise + 1.3 * cv2.blur(noise, (2, 2)))
    return cv2.convertScaleAbs(np.maximum(mixed, 0)), cv2.convertScaleAbs(np.maximum(-mixed, 0))


def add_grain(image: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Add sensor noise to an image; `shift` (2,) in 0..GRAIN_SHIFT_PX selects the pattern."""
    height, width = image.shape[:2]
    more, less = (g[shift[0] : shift[0] + height, shift[1] : shift[1] + width] for g in grain(height, width))
    return cv2.subtract(cv2.add(image, more), less)
