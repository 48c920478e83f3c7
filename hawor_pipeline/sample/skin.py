"""The rendered surface of the hand: a finer mesh through the same vertices, and the colour of its skin.

The finer mesh splits every triangle in four; new vertices are lifted onto the smooth surface that the normals describe
(Phong tessellation, Boubekeur and Alexa 2008). The model's own vertices keep their ground-truth positions.
"""

from dataclasses import dataclass

import numpy as np

from hawor_pipeline.core.mano import ManoArrays
from hawor_pipeline.sample.hand import DIGITS, rest_skeleton
from hawor_pipeline.sample.light import vertex_normals

ROUNDING = 0.7  # 0: flat triangles, 1: fully rounded


@dataclass(frozen=True)
class FineMesh:
    """Edges (E, 2) whose midpoints become vertices, after the original ones, and the finer faces (4F, 3)."""

    edges: np.ndarray
    inner: np.ndarray  # (E, 1) 1 where an edge has two faces, 0 along the rim, which stays straight
    faces: np.ndarray

    @classmethod
    def of(cls, faces: np.ndarray) -> "FineMesh":
        """Split every face in four."""
        sides = np.sort(np.stack([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]], axis=1), axis=-1)
        edges, middle, uses = np.unique(sides.reshape(-1, 2), axis=0, return_inverse=True, return_counts=True)
        m = middle.reshape(-1, 3) + faces.max() + 1
        a, b, c = faces.T
        ab, bc, ca = m.T
        quarters = ((a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca))
        fine = np.concatenate([np.stack(corners, axis=1) for corners in quarters])
        return cls(edges, (uses > 1).astype(np.float32)[:, None], fine.astype(np.int32))

    def average(self, values: np.ndarray) -> np.ndarray:
        """Extend values (*b, N, C) at the original vertices to all vertices (*b, N + E, C)."""
        first, second = values[..., self.edges[:, 0], :], values[..., self.edges[:, 1], :]
        return np.concatenate([values, 0.5 * (first + second)], axis=-2)

    def rounded(self, vertices: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """Extend vertices (T, N, 3) to (T, N + E, 3) on the rounded surface."""
        a, b = vertices[:, self.edges[:, 0]], vertices[:, self.edges[:, 1]]
        na, nb = normals[:, self.edges[:, 0]], normals[:, self.edges[:, 1]]
        half = 0.5 * (b - a)
        # The mean of the midpoint's projections onto both tangent planes is half of this away from it.
        lift = (half * nb).sum(-1, keepdims=True) * nb - (half * na).sum(-1, keepdims=True) * na
        return np.concatenate([vertices, 0.5 * (a + b) + (0.5 * ROUNDING) * self.inner * lift], axis=1)


def _ease(value: np.ndarray, low: float, high: float) -> np.ndarray:
    u = np.clip((value - low) / (high - low), 0, 1)
    return u * u * (3 - 2 * u)


def skin_albedo(arrays: ManoArrays, fine: FineMesh, tone: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw linear RGB (N, 3) of the fine mesh: paler palm, redder tips and knuckles, nails, fine blotches."""
    mirror = np.array([1.0 if arrays.side == "right" else -1.0, 1.0, 1.0])
    template = arrays.template * mirror
    normals = vertex_normals(template[None], arrays.faces if mirror[0] > 0 else arrays.faces[:, ::-1])
    points = fine.rounded(template[None], normals)[0]
    facing = fine.average(normals)[0]
    palm = _ease(-facing[:, 1], -0.1, 0.6)[:, None]
    darkness = 1.0 - float(np.clip(tone.mean() / 0.45, 0, 1))
    pale = tone ** (1 - 0.35 * darkness) * np.array([1.06, 1.0, 1.0])
    albedo = tone * (1 - palm) + pale * palm
    skeleton = rest_skeleton()
    tips = np.linalg.norm(points[:, None] - skeleton.tips, axis=-1).min(axis=1)
    knuckles = np.linalg.norm(points[:, None] - skeleton.joints[1:], axis=-1).min(axis=1)
    blush = 0.6 * (1 - _ease(tips, 0.006, 0.022)) + 0.35 * (1 - _ease(knuckles, 0.008, 0.017)) * (1 - palm[:, 0])
    albedo = albedo * (1 - blush[:, None] * np.array([0.06, 0.24, 0.26]))
    crease = 0.12 * (1 - _ease(knuckles, 0.006, 0.012))[:, None] * palm
    albedo = albedo * (1 - crease) * (1 + rng.normal(0, 0.025, (len(points), 1)))
    nail = _nails(points, facing)[:, None]
    shine = tone * np.array([1.12, 1.05, 1.08]) + 0.05
    return (albedo * (1 - nail) + shine * nail).astype(np.float32)


def _nails(points: np.ndarray, facing: np.ndarray) -> np.ndarray:
    """Return the share of nail (N,) at rest-pose points of a right hand."""
    skeleton = rest_skeleton()
    share = np.zeros(len(points))
    for digit in range(len(DIGITS)):
        last = 3 * digit + 2
        bone, back, tip = skeleton.bone_axes[last], -skeleton.palmar_axes[last], skeleton.tips[digit]
        offset = points - tip
        along = -(offset @ bone)
        sideways = np.linalg.norm(offset + along[:, None] * bone - (offset @ back)[:, None] * back, axis=1)
        here = (along > 0.0005) & (along < 0.0125) & (facing @ back > 0.55) & (sideways < 0.0062)
        share[here] = 0.8
    return share
