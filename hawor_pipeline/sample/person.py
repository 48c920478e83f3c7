"""Meshes of the person and the table: arms that continue the hands' wrist rims, and a body that stands still.

Meshes are metres in the world frame; albedo is linear RGB. None of it is ground truth: it gives the hands the context,
the occlusion and the silhouettes of real images.
"""

from dataclasses import dataclass

import numpy as np

from hawor_pipeline.sample.articulated_objects import SCENE_FILE
from hawor_pipeline.sample.hand import stored_arrays
from hawor_pipeline.sample.hand_motion import HandTrack
from hawor_pipeline.sample.studio import Look

ARM_RINGS = 17
FOREARM_RINGS = 10  # of the arm's rings, from the wrist to the elbow
HAT_BAND = 0.02  # albedo


@dataclass(frozen=True)
class AlbedoMesh:
    """A triangle mesh over time: vertices (T, N, 3) or (N, 3), faces (F, 3), albedo (N, 3)."""

    vertices: np.ndarray
    faces: np.ndarray
    albedo: np.ndarray


def wrist_rim(faces: np.ndarray) -> np.ndarray:
    """Return the vertex ids of the hand mesh's only boundary loop, in order."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    present = {(int(a), int(b)) for a, b in edges}
    # Inside the mesh every edge runs both ways, once for each of its faces; along the rim it runs one way only.
    following = {a: b for a, b in present if (b, a) not in present}
    start = min(following)
    loop, here = [start], following[start]
    while here != start:
        loop.append(here)
        here = following[here]
    return np.array(loop)


def ring_faces(rings: int, sides: int) -> np.ndarray:
    index = np.arange(rings * sides).reshape(rings, sides)
    after = np.roll(index, -1, axis=1)
    a, b, c, d = (part.ravel() for part in (index[:-1], after[:-1], index[1:], after[1:]))
    return np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)]).astype(np.int32)


def hem_ring(look: Look) -> int:
    """Return the ring of the arm at which the sleeve begins."""
    return int(np.searchsorted(np.linspace(0, 1, ARM_RINGS), look.sleeve_start))


def _curve(track: HandTrack, wrist: np.ndarray, away: np.ndarray) -> np.ndarray:
    """Return the centre line (T, ARM_RINGS, 3) from the wrist rim over the elbow to the shoulder."""
    elbow, shoulder = track.elbow, np.broadcast_to(track.shoulder, track.elbow.shape)
    reach = np.linalg.norm(elbow - wrist, axis=-1, keepdims=True)
    u = np.linspace(0, 1, FOREARM_RINGS)[None, :, None]
    # A cubic Bezier curve: it leaves the wrist along the hand and arrives at the elbow along the forearm.
    control = [wrist, wrist + 0.3 * reach * away, elbow + 0.45 * (wrist - elbow), elbow]
    p0, p1, p2, p3 = (c[:, None] for c in control)
    forearm = (1 - u) ** 3 * p0 + 3 * (1 - u) ** 2 * u * p1 + 3 * (1 - u) * u**2 * p2 + u**3 * p3
    v = np.linspace(0, 1, ARM_RINGS - FOREARM_RINGS + 1)[None, 1:, None]
    upper = elbow[:, None] * (1 - v) + shoulder[:, None] * v
    line = np.concatenate([forearm, upper], axis=1)
    elbow_ring = FOREARM_RINGS - 1
    line[:, elbow_ring] = 0.5 * line[:, elbow_ring] + 0.25 * (line[:, elbow_ring - 1] + line[:, elbow_ring + 1])
    return line


def arm_mesh(track: HandTrack, rim: np.ndarray, rim_albedo: np.ndarray, look: Look) -> AlbedoMesh:
    """Build an arm: skin from the wrist rim up, then a short sleeve.

    The second ring equals the rim in position and colour; the first lies inside the hand and hides the seam.
    """
    loop = track.vertices[:, rim].astype(np.float64)
    wrist = loop.mean(axis=1)
    line = _curve(track, wrist, track.away.astype(np.float64))
    tangent = np.gradient(line, axis=1)
    tangent /= np.linalg.norm(tangent, axis=-1, keepdims=True)
    tangent[:, 0] = track.away
    offsets = loop - wrist[:, None]
    mean_radius = np.linalg.norm(offsets, axis=-1).mean(axis=1)[:, None, None]
    rounded = offsets / np.linalg.norm(offsets, axis=-1, keepdims=True) * mean_radius
    along = np.linspace(0, 1, ARM_RINGS)
    girth = np.interp(along, [0, 0.1, 0.3, 0.48, 0.56, 0.66, 0.85, 1], [1, 1.0, 1.22, 1.42, 1.45, 1.5, 1.65, 1.8])
    hem = hem_ring(look)
    inside = wrist[:, None] + 0.93 * offsets - 0.004 * track.away[:, None]
    rings, albedo = [inside, loop], [rim_albedo, rim_albedo]
    current, flat = rounded, offsets - rounded
    for k in range(1, ARM_RINGS):
        current, flat = (_transport(tangent[:, k - 1], tangent[:, k], o) for o in (current, flat))
        skin = np.broadcast_to(look.skin * 0.97, rim_albedo.shape)
        for sleeve in (False, True) if k == hem else (k > hem,):  # two rings at the hem: a step in width and colour
            rings.append(line[:, k, None] + (girth[k] + 0.32 * sleeve) * (current + flat * max(0.0, 1 - k / 6)))
            blend = min(k / 4, 1.0)
            bare = blend * skin + (1 - blend) * rim_albedo
            albedo.append(np.broadcast_to(look.shirt, skin.shape) if sleeve else bare)
    end, along_end = current, tangent[:, -1, None]
    for bulge, width in ((0.02, 0.75), (0.03, 0.02)):  # close the tube inside the shoulder
        rings.append(line[:, -1, None] + bulge * along_end + width * girth[-1] * end)
        albedo.append(albedo[-1])
    vertices = np.stack(rings, axis=1).reshape(len(loop), -1, 3)
    faces = ring_faces(len(rings), len(rim))
    spin = np.einsum("tk,tk->t", np.cross(offsets[:, 0], offsets[:, 1]), track.away)
    if spin[0] < 0:  # the rim of a mirrored hand runs the other way
        faces = faces[:, ::-1]
    return AlbedoMesh(vertices.astype(np.float32), faces, np.concatenate(albedo))


def _transport(before: np.ndarray, after: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Rotate offsets (T, K, 3) by the smallest rotation that takes tangent `before` (T, 3) to `after`.

    Rodrigues' formula with the unnormalised axis: v + a x v + a x (a x v) / (1 + cos).
    """
    axis = np.cross(before, after)
    cosine = (before * after).sum(-1)[:, None, None]
    axis, turned = axis[:, None], offsets
    crossed = np.cross(np.broadcast_to(axis, offsets.shape), turned)
    return turned + crossed + np.cross(np.broadcast_to(axis, offsets.shape), crossed) / np.maximum(1 + cosine, 0.05)


def grid_faces(rows: int, columns: int) -> np.ndarray:
    """Return triangles (F, 3) int32 over a grid of points in rows, wound from the first axis to the second."""
    index = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = (part.ravel() for part in (index[:-1, :-1], index[:-1, 1:], index[1:, :-1], index[1:, 1:]))
    return np.concatenate([np.stack([a, c, b], 1), np.stack([b, c, d], 1)]).astype(np.int32)


def table_meshes(low: np.ndarray, high: np.ndarray, colour: np.ndarray) -> tuple[AlbedoMesh, AlbedoMesh]:
    """Build a table between two corners of its top, high[2] being the height: sides with legs, and top."""
    top = high[2]
    boxes = [(np.array([low[0], low[1], top - 0.035]), np.array([high[0], high[1], top - 0.002]))]
    for x in (low[0] + 0.03, high[0] - 0.08):
        for y in (low[1] + 0.03, high[1] - 0.08):
            boxes.append((np.array([x, y, 0.0]), np.array([x + 0.05, y + 0.05, top - 0.03])))
    vertices: list[np.ndarray] = []
    faces: list[tuple[int, int, int]] = []
    for near, far in boxes:
        corners = np.array([[(near, far)[(i >> axis) & 1][axis] for axis in range(3)] for i in range(8)])
        for quad in ((0, 1, 5, 4), (1, 3, 7, 5), (3, 2, 6, 7), (2, 0, 4, 6)):
            first = 4 * len(vertices)
            vertices.append(corners[list(quad)])
            faces += [(first, first + 1, first + 2), (first, first + 2, first + 3)]
    joined = np.concatenate(vertices).astype(np.float32)
    sides = AlbedoMesh(joined, np.array(faces, np.int32), np.broadcast_to(colour * 0.8, joined.shape))
    x, y = np.meshgrid(np.linspace(low[0], high[0], 9), np.linspace(low[1], high[1], 9))
    grid = np.stack([x, y, np.full_like(x, top)], axis=-1).reshape(-1, 3).astype(np.float32)
    return sides, AlbedoMesh(grid, grid_faces(9, 9)[:, ::-1], np.broadcast_to(colour, grid.shape))


def body_mesh(look: Look, world_from_body: np.ndarray, *, head: bool) -> AlbedoMesh:
    """Build torso and, unless `head` is False, the head of a person who looks down at their hands."""
    stored = stored_arrays(SCENE_FILE)
    count = len(stored["body.vertices"]) if head else int(stored["body.torso_vertices"])
    faces = stored["body.faces"][(stored["body.faces"] < count).all(axis=1)]
    materials = np.stack([look.trousers, look.shirt, look.skin, look.hair, np.full(3, HAT_BAND)])
    vertices = stored["body.vertices"][:count] @ world_from_body.T
    return AlbedoMesh(vertices.astype(np.float32), faces, materials[stored["body.surface"][:count]])
