"""From meshes to pictures: light, lens, z-buffer, blur and noise.

One `SequencePainter` holds what all views of a sequence share (meshes and their colours over time); one `ViewPainter`
holds what all frames of a view share (projected vertices, the empty room and the standing body behind the action) and
paints single frames. Only the region that moves is drawn again. Pictures are sRGB uint8 (H, W, 3) in RGB order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np
import torch

from hawor_pipeline.core.camera import project_distorted, transform_points, undistort_pixels
from hawor_pipeline.data.sample.grasp import HandRig
from hawor_pipeline.data.sample.light import Shade, Surroundings, shade_srgb, vertex_normals
from hawor_pipeline.data.sample.motion import HandTrack, Motion
from hawor_pipeline.data.sample.objects import build_object
from hawor_pipeline.data.sample.person import arm_mesh, body_mesh, wrist_rim
from hawor_pipeline.data.sample.scene import Camera, Look, Room
from hawor_pipeline.data.sample.skin import FineMesh, skin_albedo

SUPERSAMPLING = 2
FAR_M = 50.0
NEAR_M = 0.05
SHUTTER = 0.3  # share of the frame time that the shutter is open
GRAIN = 2.0  # standard deviation of the sensor's noise, of 255

_SETTINGS = cv2.TriangleRasterizeSettings()
_SETTINGS.setCullingMode(cv2.RASTERIZE_CULLING_NONE)
_SETTINGS.setShadingType(cv2.RASTERIZE_SHADING_SHADED)


def rasterize(uv, depth_m, faces, colours, colour_buffer, depth_buffer) -> None:
    """Draw triangles into an RGB float32 buffer (H, W, 3) and a depth buffer (H, W) in metres.

    Args:
        uv: (N, 2) float32 pixels, the first pixel's centre at 0.
        depth_m: (N,) float32, positive.
        faces: (F, 3) int32.
        colours: (N, 3) float32 in 0..1.
    """
    height, width = depth_buffer.shape
    half = height / 2
    # The rasteriser looks along -z with y up, a field of view of 90 degrees and its first pixel's centre at 0.5.
    x = (uv[:, 0] + (0.5 - width / 2)) * (depth_m / half)
    y = (half - 0.5 - uv[:, 1]) * (depth_m / half)
    points = np.stack([x, y, -depth_m], axis=1)
    eye = np.eye(4, dtype=np.float32)
    cv2.triangleRasterize(
        points, faces, colours, colour_buffer, depth_buffer, eye, np.pi / 2, NEAR_M, FAR_M, _SETTINGS
    )


@dataclass
class SequencePainter:
    """Everything of one sequence that moves, as one mesh with its colours."""

    vertices: np.ndarray  # (T, N, 3)
    normals: np.ndarray  # (T, N, 3)
    faces: np.ndarray  # (F, 3)
    colours: np.ndarray  # (T, N, 3) sRGB 0..1
    gloss: np.ndarray  # (T, N, 1) strength of the highlight
    parts: dict[str, slice]  # vertices of right, left, right_arm, left_arm, object; a hand's first 778 are the model's
    body: dict[bool, tuple[np.ndarray, np.ndarray, np.ndarray]]  # with and without head: vertices, faces, colours
    light: np.ndarray  # (3,) towards the main light

    @classmethod
    def prepare(cls, motion: Motion, rigs: Mapping[str, HandRig], look: Look, rng: np.random.Generator) -> Self:
        """Join hands, arms and object, and light them."""
        around = Surroundings(motion, look)
        pieces = {}
        for side, track in motion.hands.items():
            pieces.update(_hand_pieces(side, track, rigs[side], look, around, rng))
        model = build_object(motion.object_name)
        normals = vertex_normals(motion.object_vertices, model.faces)
        shade = around.shade(motion.object_vertices, normals, from_object=True)
        colours = shade_srgb(model.colours, normals, shade, look, skin=False)
        pieces["object"] = (motion.object_vertices, normals, model.faces, colours, 0.16 * shade.sun[..., None])
        parts, faces, count = {}, [], 0
        for name, piece in pieces.items():
            parts[name] = slice(count, count + piece[0].shape[1])
            faces.append(piece[2] + count)
            count = parts[name].stop
        joined = [np.concatenate([p[k] for p in pieces.values()], axis=1).astype(np.float32) for k in (0, 1, 3, 4)]
        return cls(joined[0], joined[1], np.concatenate(faces).astype(np.int32), joined[2], joined[3], parts,
                   {head: _lit_body(motion, look, head) for head in (True, False)},
                   look.light_direction[0].astype(np.float32))  # fmt: skip


def _hand_pieces(side: str, track: HandTrack, rig: HandRig, look: Look, around: Surroundings, rng) -> dict[str, tuple]:
    """A hand and its arm: (vertices, normals, faces, colours, gloss)."""
    fine = FineMesh.of(rig.faces)
    normals = vertex_normals(track.vertices, rig.faces)
    shade = around.shade(track.vertices, normals, from_object=False)
    rim = wrist_rim(rig.faces)
    albedo = skin_albedo(rig.arrays, fine, look.skin, rng)
    arm = arm_mesh(track, rim, albedo[rim], look)
    arm_normals = vertex_normals(arm.vertices, arm.faces)
    # One surface: hand and arm share the normals along the rim.
    seam = normals[:, rim] + arm_normals[:, : len(rim)]
    normals[:, rim] = arm_normals[:, : len(rim)] = seam / np.linalg.norm(seam, axis=-1, keepdims=True)
    still = np.ones(arm_normals.shape[:2], np.float32)
    still[:, : len(rim)] = shade.sky[:, rim]
    arm_colours = shade_srgb(arm.albedo, arm_normals, Shade(still * 0.97, still), look, skin=True)
    fine_normals = fine.average(normals)
    fine_normals /= np.linalg.norm(fine_normals, axis=-1, keepdims=True)
    fine_shade = Shade(*(fine.average(v[..., None])[..., 0] for v in (shade.sky, shade.sun)))
    colours = shade_srgb(albedo, fine_normals, fine_shade, look, skin=True)
    gloss = 0.13 * fine_shade.sun[..., None] * fine_shade.sky[..., None]
    surface = fine.rounded(track.vertices, normals)
    return {
        side: (surface, fine_normals, fine.faces, colours, gloss),
        f"{side}_arm": (arm.vertices, arm_normals, arm.faces, arm_colours, np.full((*still.shape, 1), 0.04)),
    }


def _lit_body(motion: Motion, look: Look, head: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mesh = body_mesh(look, motion.world_from_body, head=head)
    normals = vertex_normals(mesh.vertices[None], mesh.faces)
    open_sky = np.full(normals.shape[:2], 0.85, np.float32)
    lit = shade_srgb(mesh.albedo, normals, Shade(open_sky, open_sky), look, skin=False)
    return mesh.vertices, mesh.faces.astype(np.int32), lit[0].astype(np.float32)


class ViewPainter:
    """Paints the frames of one view."""

    def __init__(self, scene: SequencePainter, camera: Camera, ego_from_world: np.ndarray, room: Room, rng) -> None:
        self.scene, self.camera = scene, camera
        still = camera.cam_from_world
        self.pose = ego_from_world if still is None else np.broadcast_to(still, (len(scene.vertices), 4, 4))
        self.pose = self.pose.astype(np.float32)
        self.uv, self.depth, self.seen = self._project(scene.vertices, self.pose)
        self.colours = self._with_highlights() * self._camera_gain(rng)
        self.grain = _grain(camera.height + 64, camera.width + 64, rng)
        self.grain_offset = rng.integers(0, 64, (len(scene.vertices), 2))
        self.room = room
        if still is not None:
            self._prepare_background()
        else:
            self._prepare_map()

    def _project(self, vertices: np.ndarray, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels (T, N, 2), depths (T, N) and a mask of where both mean something."""
        points = transform_points(torch.from_numpy(pose), torch.from_numpy(vertices))
        uv, ok = project_distorted(
            points,
            torch.from_numpy(self.camera.intrinsics.astype(np.float32)),
            torch.from_numpy(self.camera.distortion.astype(np.float32)),
        )
        return uv.numpy(), points[..., 2].numpy(), ok.numpy()

    def _with_highlights(self) -> np.ndarray:
        """The scene's colours (T, N, 3) with the main light's reflection as this camera sees it."""
        scene = self.scene
        eye = -np.einsum("tji,tj->ti", self.pose[:, :3, :3], self.pose[:, :3, 3])
        toward = eye[:, None] - scene.vertices
        half = toward / np.linalg.norm(toward, axis=-1, keepdims=True) + scene.light
        cosine = np.einsum("tnk,tnk->tn", half, scene.normals) / np.linalg.norm(half, axis=-1)
        shine = np.maximum(cosine, 0) ** 16
        return np.clip(scene.colours + scene.gloss * shine[..., None], 0, 1)

    def _camera_gain(self, rng: np.random.Generator) -> np.ndarray:
        """Every camera has its own exposure and white balance."""
        self.gain = np.minimum(rng.uniform(0.85, 1.0) * (1 + rng.normal(0, 0.02, 3)), 1.0).astype(np.float32)
        return self.gain

    def _rays(self, step: int) -> np.ndarray:
        """Camera-frame ray directions (h, w, 3) at every `step`-th pixel, beginning at pixel 0."""
        width, height = self.camera.width, self.camera.height
        x, y = np.meshgrid(np.arange(0, width + step - 1, step), np.arange(0, height + step - 1, step))
        grid = torch.from_numpy(np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float64))
        intrinsics = torch.from_numpy(self.camera.intrinsics)
        pinhole = undistort_pixels(grid, intrinsics, torch.from_numpy(self.camera.distortion)).numpy()
        inverse = np.linalg.inv(self.camera.intrinsics)
        rays = np.concatenate([pinhole, np.ones((len(pinhole), 1))], axis=1) @ inverse.T
        return rays.reshape(*x.shape, 3)

    def _prepare_background(self) -> None:
        """The empty room with the standing body, as picture and as depth at the supersampled size."""
        camera = self.camera
        x = np.arange(camera.width, dtype=np.float32)[None, :] * np.ones((camera.height, 1), np.float32)
        y = np.arange(camera.height, dtype=np.float32)[:, None] * np.ones((1, camera.width), np.float32)
        inverse = np.linalg.inv(camera.intrinsics).astype(np.float32)
        rays = np.stack([x * inverse[0, 0] + inverse[0, 2], y * inverse[1, 1] + inverse[1, 2], np.ones_like(x)], -1)
        rotation = self.pose[0][:3, :3]
        origin = -rotation.T @ self.pose[0][:3, 3]
        empty = cv2.GaussianBlur(self.room.colours(origin, rays @ rotation), (0, 0), 1.0)
        k = SUPERSAMPLING
        self.back = cv2.resize(empty, None, fx=k, fy=k, interpolation=cv2.INTER_LINEAR).astype(np.float32)
        self.back *= self.gain / 255
        self.back_depth = np.full(self.back.shape[:2], FAR_M, np.float32)
        self._draw_body(True, self.pose[:1], self.back, self.back_depth, (0, 0))
        self.back_small = self._shrink(self.back)

    def _prepare_map(self) -> None:
        """The room as seen from the mean head position, in an azimuthal picture around the mean view direction."""
        rotation = self.pose[:, :3, :3]
        origins = -np.einsum("tji,tj->ti", rotation, self.pose[:, :3, 3])
        u, _, vt = np.linalg.svd(rotation.mean(axis=0))
        self.mean_rotation = (u @ vt).astype(np.float32)
        self.map_size, self.map_reach = 1000, np.radians(82.0)
        axis = (np.arange(self.map_size, dtype=np.float32) + 0.5) / self.map_size * 2 - 1
        x, y = np.meshgrid(axis * self.map_reach, axis * self.map_reach)
        theta = np.maximum(np.hypot(x, y), 1e-6)
        rays = np.stack([x / theta * np.sin(theta), y / theta * np.sin(theta), np.cos(theta)], -1)
        picture = self.room.colours(origins.mean(axis=0), rays @ self.mean_rotation)
        picture = cv2.GaussianBlur(picture, (0, 0), 0.7)
        self.map = np.clip(picture * self.gain, 0, 255).astype(np.uint8)
        self.step = 10
        self.coarse_rays = self._rays(self.step).astype(np.float32)

    def _ego_background(self, frame: int) -> np.ndarray:
        turn = self.mean_rotation @ self.pose[frame][:3, :3].T
        rays = self.coarse_rays @ turn.T
        theta = np.arctan2(np.hypot(rays[..., 0], rays[..., 1]), rays[..., 2])
        scale = theta / np.maximum(np.hypot(rays[..., 0], rays[..., 1]), 1e-6)
        place = ((rays[..., :2] * scale[..., None] / self.map_reach) + 1) / 2 * self.map_size - 0.5
        size = (self.camera.width, self.camera.height)
        # Sample positions of the coarse grid under full pixels: pixel p lies at grid coordinate p / step.
        warp = np.array([[1 / self.step, 0, 0], [0, 1 / self.step, 0]], np.float32)
        full = cv2.warpAffine(place.astype(np.float32), warp, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                              borderMode=cv2.BORDER_REPLICATE)  # fmt: skip
        return cv2.remap(self.map, full, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    def _draw_body(self, head: bool, pose: np.ndarray, colour, depth, corner) -> None:
        vertices, faces, lit = self.scene.body[head]
        uv, z, ok = self._project(vertices[None], pose)
        keep = ok[0][faces].all(axis=1)
        if keep.any():
            rasterize(self._fine(uv[0], corner), z[0], faces[keep], lit * self.gain, colour, depth)

    @staticmethod
    def _fine(uv: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
        """Full-picture pixels to supersampled pixels of a region whose first pixel is `corner` (x, y)."""
        return (uv - np.array(corner, np.float32) + np.float32(0.5)) * np.float32(SUPERSAMPLING) - np.float32(0.5)

    @staticmethod
    def _shrink(fine: np.ndarray) -> np.ndarray:
        small = cv2.resize(fine, None, fx=1 / SUPERSAMPLING, fy=1 / SUPERSAMPLING, interpolation=cv2.INTER_AREA)
        return (small * 255).astype(np.uint8)

    def _region(self, frame: int) -> tuple[int, int, int, int]:
        uv = self.uv[frame][self.seen[frame]]
        low = np.floor(uv.min(axis=0)).astype(int) - 3
        high = np.ceil(uv.max(axis=0)).astype(int) + 4
        x0, y0 = (int(v) for v in np.clip(low, 0, [self.camera.width, self.camera.height]))
        x1, y1 = (int(v) for v in np.clip(high, 0, [self.camera.width, self.camera.height]))
        return x0, y0, x1, y1

    def buffers(self, frame: int) -> tuple[np.ndarray, np.ndarray, tuple[int, int, int, int]]:
        """Supersampled colour and depth of the region (x0, y0, x1, y1) that moves, without blur and noise."""
        x0, y0, x1, y1 = region = self._region(frame)
        k = SUPERSAMPLING
        if self.camera.cam_from_world is not None:
            area = np.s_[y0 * k : y1 * k, x0 * k : x1 * k]
            colour, depth = self.back[area].copy(), self.back_depth[area].copy()
        else:
            behind = self.ego_picture[y0:y1, x0:x1].astype(np.float32) / 255
            colour = cv2.resize(behind, None, fx=k, fy=k, interpolation=cv2.INTER_LINEAR)
            depth = np.full(colour.shape[:2], FAR_M, np.float32)
            self._draw_body(False, self.pose[frame : frame + 1], colour, depth, (x0, y0))
        scene = self.scene
        keep = self.seen[frame][scene.faces].all(axis=1)
        faces = scene.faces if keep.all() else scene.faces[keep]
        rasterize(
            self._fine(self.uv[frame], (x0, y0)), self.depth[frame], faces, self.colours[frame], colour, depth
        )
        return colour, depth, region

    def object_uv(self, frame: int) -> np.ndarray:
        """Pixels (N, 2) of the object's vertices."""
        return self.uv[frame][self.scene.parts["object"]]

    def paint(self, frame: int) -> np.ndarray:
        """The finished picture of one frame."""
        if self.camera.cam_from_world is None:
            self.ego_picture = self._ego_background(frame)
            picture = self.ego_picture.copy()
        else:
            picture = self.back_small.copy()
        x0, y0, x1, y1 = self._region(frame)
        if x1 > x0 and y1 > y0:
            colour, _, (x0, y0, x1, y1) = self.buffers(frame)
            picture[y0:y1, x0:x1] = self._shrink(colour)
            self._blur_motion(picture, frame)
        dy, dx = self.grain_offset[frame]
        lighter, darker = (g[dy : dy + self.camera.height, dx : dx + self.camera.width] for g in self.grain)
        return cv2.subtract(cv2.add(picture, lighter), darker)

    def _blur_motion(self, picture: np.ndarray, frame: int) -> None:
        """Smear each hand along its way while the shutter is open."""
        before, after = max(frame - 1, 0), min(frame + 1, len(self.uv) - 1)
        for side in ("right", "left"):
            here = self.scene.parts[side]
            if not self.seen[before : after + 1, here].all():
                continue
            uv = self.uv[frame, here]
            step = (self.uv[after, here] - self.uv[before, here]).mean(axis=0) / max(after - before, 1) * SHUTTER
            length = float(np.hypot(*step))
            if length < 1.0:
                continue
            low = np.maximum(np.floor(uv.min(axis=0)).astype(int) - 4, 0)
            high = np.minimum(np.ceil(uv.max(axis=0)).astype(int) + 5, [self.camera.width, self.camera.height])
            if (high - low < 8).any():
                continue
            patch = picture[low[1] : high[1], low[0] : high[0]]
            patch[:] = cv2.filter2D(patch, -1, _streak(step))


def _streak(step: np.ndarray) -> np.ndarray:
    """A blur kernel: a line along `step` (x, y) in pixels, antialiased."""
    reach = int(np.ceil(max(np.abs(step)) / 2)) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    for share in np.linspace(-0.5, 0.5, 9):
        x, y = reach + share * step
        i, j = int(x), int(y)
        a, b = x - i, y - j
        kernel[j : j + 2, i : i + 2] += [[(1 - a) * (1 - b), a * (1 - b)], [(1 - a) * b, a * b]]
    return kernel / kernel.sum()


def _grain(height: int, width: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Sensor noise as what is to be added and what is to be taken away, uint8 (height, width, 3)."""
    noise = rng.standard_normal((height, width, 3), np.float32)
    noise = GRAIN * (0.75 * noise + 0.65 * cv2.blur(noise, (2, 2)) * 2)
    return np.maximum(np.rint(noise), 0).astype(np.uint8), np.maximum(np.rint(-noise), 0).astype(np.uint8)
