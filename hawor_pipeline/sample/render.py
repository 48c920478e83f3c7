"""Rendering of a sequence's motion to images.

A `SequencePainter` holds the part that all views of a sequence share: the meshes over time and their colours. A
`ViewPainter` holds the part that all frames of a view share, and paints single frames; only the region that moves is
drawn again. Images are sRGB uint8 (H, W, 3), RGB order.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import cv2
import numpy as np

from hawor_pipeline.sample.articulated_objects import build_object
from hawor_pipeline.sample.backdrop import GRAIN_SHIFT_PX, Backdrop, Region, add_grain
from hawor_pipeline.sample.grasp import HandRig
from hawor_pipeline.sample.hand_motion import HandTrack, Motion
from hawor_pipeline.sample.light import Shade, Surroundings, shade_srgb, vertex_normals
from hawor_pipeline.sample.person import arm_mesh, wrist_rim
from hawor_pipeline.sample.projection import RASTERIZER, project, shrink, to_fine
from hawor_pipeline.sample.skin import FineMesh, skin_albedo
from hawor_pipeline.sample.studio import Camera, Look

EXPOSURE_S = 0.01  # time that the shutter is open


@dataclass(frozen=True, slots=True)
class _Piece:
    """One moving mesh: vertices, normals, colours (T, N, 3), faces (F, 3), gloss (T, N, 1)."""

    vertices: np.ndarray
    normals: np.ndarray
    faces: np.ndarray
    colours: np.ndarray
    gloss: np.ndarray


@dataclass
class SequencePainter:
    """All moving meshes of one sequence, joined to one mesh with its colours."""

    vertices: np.ndarray  # (T, N, 3)
    normals: np.ndarray  # (T, N, 3)
    faces: np.ndarray  # (F, 3)
    colours: np.ndarray  # (T, N, 3) sRGB 0..1
    gloss: np.ndarray  # (T, N, 1) strength of the highlight
    parts: dict[str, slice]  # vertices of right, left, right_arm, left_arm, object; a hand's first 778 are the model's
    light: np.ndarray  # (3,) towards the main light
    shutter: float  # share of the frame time that the shutter is open

    @classmethod
    def prepare(cls, motion: Motion, rigs: Mapping[str, HandRig], look: Look, rng: np.random.Generator) -> Self:
        """Join hands, arms and object, and light them."""
        around = Surroundings(motion, look)
        pieces: dict[str, _Piece] = {}
        for side, track in motion.hands.items():
            pieces.update(_hand_pieces(side, track, rigs[side], look, around, rng))
        model = build_object(motion.object_name)
        normals = vertex_normals(motion.object_vertices, model.faces)
        shade = around.shade(motion.object_vertices, normals, from_object=True)
        colours = shade_srgb(model.colours, normals, shade, look, skin=False)
        pieces["object"] = _Piece(motion.object_vertices, normals, model.faces, colours, 0.16 * shade.sun[..., None])
        parts, faces, count = {}, [], 0
        for name, piece in pieces.items():
            parts[name] = slice(count, count + piece.vertices.shape[1])
            faces.append(piece.faces + count)
            count = parts[name].stop

        def joined(field: str) -> np.ndarray:
            return np.concatenate([getattr(piece, field) for piece in pieces.values()], axis=1).astype(np.float32)

        return cls(
            vertices=joined("vertices"),
            normals=joined("normals"),
            faces=np.concatenate(faces).astype(np.int32),
            colours=joined("colours"),
            gloss=joined("gloss"),
            parts=parts,
            light=look.light_direction[0].astype(np.float32),
            shutter=EXPOSURE_S / motion.step_s,
        )


def _hand_pieces(side: str, track: HandTrack, rig: HandRig, look: Look, around: Surroundings, rng) -> dict[str, _Piece]:
    """Build a hand and its arm."""
    fine = FineMesh.of(rig.faces)
    normals = vertex_normals(track.vertices, rig.faces)
    shade = around.shade(track.vertices, normals, from_object=False)
    rim = wrist_rim(rig.faces)
    albedo = skin_albedo(rig.arrays, fine, look.skin, rng)
    arm = arm_mesh(track, rim, albedo[rim], look)
    arm_normals = vertex_normals(arm.vertices, arm.faces)
    # Hand and arm share the normals along the rim, so that no seam shows between the two meshes.
    inside, edge = slice(0, len(rim)), slice(len(rim), 2 * len(rim))
    seam = normals[:, rim] + arm_normals[:, edge]
    seam /= np.linalg.norm(seam, axis=-1, keepdims=True)
    normals[:, rim] = arm_normals[:, edge] = arm_normals[:, inside] = seam
    still = np.ones(arm_normals.shape[:2], np.float32)
    still[:, edge] = still[:, inside] = shade.sky[:, rim]
    arm_colours = shade_srgb(arm.albedo, arm_normals, Shade(still * 0.97, still), look, skin=True)
    fine_normals = fine.average(normals)
    fine_normals /= np.linalg.norm(fine_normals, axis=-1, keepdims=True)
    fine_shade = Shade(*(fine.average(v[..., None])[..., 0] for v in (shade.sky, shade.sun)))
    colours = shade_srgb(albedo, fine_normals, fine_shade, look, skin=True)
    gloss = 0.13 * fine_shade.sun[..., None] * fine_shade.sky[..., None]
    surface = fine.rounded(track.vertices, normals)
    return {
        side: _Piece(surface, fine_normals, fine.faces, colours, gloss),
        f"{side}_arm": _Piece(arm.vertices, arm_normals, arm.faces, arm_colours, np.full((*still.shape, 1), 0.04)),
    }


class ViewPainter:
    """Painter of the frames of one view."""

    def __init__(self, scene: SequencePainter, camera: Camera, backdrop: Backdrop, rng: np.random.Generator) -> None:
        self.scene, self.camera, self.backdrop = scene, camera, backdrop
        count = len(scene.vertices)
        self.poses = backdrop.poses(count)
        self.uv, self.depth, self.seen = project(camera, self.poses, scene.vertices)
        self.all_seen = self.seen.all(axis=1)
        self.colours = self._with_highlights() * backdrop.gain
        self.grain_shift = rng.integers(0, GRAIN_SHIFT_PX, (count, 2))

    def _with_highlights(self) -> np.ndarray:
        """Return the scene's colours (T, N, 3) with the main light's reflection as seen by this camera."""
        scene = self.scene
        eye = -np.einsum("tji,tj->ti", self.poses[:, :3, :3], self.poses[:, :3, 3])
        toward = eye[:, None] - scene.vertices
        half = toward / np.linalg.norm(toward, axis=-1, keepdims=True) + scene.light
        cosine = np.einsum("tnk,tnk->tn", half, scene.normals) / np.linalg.norm(half, axis=-1)
        shine = np.maximum(cosine, 0)
        for _ in range(4):  # to the 16th power
            shine *= shine
        return np.minimum(scene.colours + scene.gloss * shine[..., None], 1)

    def _region(self, frame: int) -> Region:
        uv = self.uv[frame] if self.all_seen[frame] else self.uv[frame][self.seen[frame]]
        if len(uv) == 0:
            return 0, 0, 0, 0
        low = np.floor(uv.T.copy().min(axis=1)).astype(int) - 3
        high = np.ceil(uv.T.copy().max(axis=1)).astype(int) + 4
        x0, y0 = (int(v) for v in np.clip(low, 0, [self.camera.width, self.camera.height]))
        x1, y1 = (int(v) for v in np.clip(high, 0, [self.camera.width, self.camera.height]))
        return x0, y0, x1, y1

    def buffers(self, frame: int, behind: np.ndarray) -> tuple[np.ndarray, np.ndarray, Region]:
        """Draw the region that moves over `behind`: supersampled colour and depth (m), without blur and grain."""
        region = self._region(frame)
        colour, depth = self.backdrop.buffers(behind, frame, region)
        faces = self.scene.faces
        if not self.all_seen[frame]:
            faces = faces[self.seen[frame][faces].all(axis=1)]
        if len(faces):
            fine = to_fine(self.uv[frame], region[:2])
            RASTERIZER.draw(fine, self.depth[frame], faces, self.colours[frame], colour, depth)
        return colour, depth, region

    def object_uv(self, frame: int) -> np.ndarray:
        """Return the pixels (N, 2) of the object's vertices."""
        return self.uv[frame][self.scene.parts["object"]]

    def paint(self, frame: int) -> np.ndarray:
        """Render the image of one frame."""
        behind = self.backdrop.at(frame)
        image = behind.copy()
        x0, y0, x1, y1 = self._region(frame)
        if x1 > x0 and y1 > y0:
            colour, _, (x0, y0, x1, y1) = self.buffers(frame, behind)
            image[y0:y1, x0:x1] = shrink(colour)
            self._blur_motion(image, frame)
        return add_grain(image, self.grain_shift[frame])

    def _blur_motion(self, image: np.ndarray, frame: int) -> None:
        """Blur each hand along its path while the shutter is open."""
        before, after = max(frame - 1, 0), min(frame + 1, len(self.uv) - 1)
        for side in ("right", "left"):
            here = self.scene.parts[side]
            if not self.seen[before : after + 1, here].all():
                continue
            uv = self.uv[frame, here]
            step = (
                (self.uv[after, here] - self.uv[before, here]).mean(axis=0)
                / max(after - before, 1)
                * self.scene.shutter
            )
            length = float(np.hypot(*step))
            if length < 1.0:
                continue
            low = np.maximum(np.floor(uv.min(axis=0)).astype(int) - 4, 0)
            high = np.minimum(np.ceil(uv.max(axis=0)).astype(int) + 5, [self.camera.width, self.camera.height])
            if (high - low < 8).any():
                continue
            patch = image[low[1] : high[1], low[0] : high[0]]
            patch[:] = cv2.filter2D(patch, -1, _streak(step))


def _streak(step: np.ndarray) -> np.ndarray:
    """Build a blur kernel: an antialiased line along `step` (x, y) in pixels."""
    reach = int(np.ceil(max(np.abs(step)) / 2)) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    for share in np.linspace(-0.5, 0.5, 9):
        x, y = reach + share * step
        i, j = int(x), int(y)
        a, b = x - i, y - j
        kernel[j : j + 2, i : i + 2] += [[(1 - a) * (1 - b), a * (1 - b)], [(1 - a) * b, a * b]]
    return kernel / kernel.sum()
