"""What only the renderer needs: a smoother mesh and where skin changes colour.

Both hands share the vertex order; nothing here makes the hand again, the caller brings the model's arrays.
"""

import numpy as np
from scipy.sparse import csr_array, vstack

from hawor_pipeline.data.sample.decimate import mesh_edges, rim_edges
from hawor_pipeline.data.sample.hand_skeleton import (
    BONE_AXES,
    DIGITS,
    FLEXION_AXES,
    PALMAR_AXES,
    REST_JOINTS,
    REST_TIPS,
    SKELETON_MM,
)


def loop_subdivision(faces: np.ndarray, vertex_count: int) -> tuple[csr_array, np.ndarray]:
    """One step of Loop's subdivision, as a matrix.

    Args:
        faces: (F, 3).
        vertex_count: V.

    Returns:
        Sparse (V + E, V) matrix: `matrix @ vertices` are the finer vertices, the old ones first, then one an edge;
        and the finer faces (4 F, 3), same winding.

    Source: C. Loop, Smooth Subdivision Surfaces Based on Triangles, 1987; rim vertices follow the cubic B-spline.
    """
    edges = mesh_edges(faces)
    number = {(int(a), int(b)): k for k, (a, b) in enumerate(edges)}
    opposite: list[list[int]] = [[] for _ in edges]
    finer = []
    for a, b, c in faces.tolist():
        ab, bc, ca = (number[min(p, q), max(p, q)] for p, q in ((a, b), (b, c), (c, a)))
        opposite[ab].append(c)
        opposite[bc].append(a)
        opposite[ca].append(b)
        ab, bc, ca = ab + vertex_count, bc + vertex_count, ca + vertex_count
        finer += [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    odd: list[tuple[int, int, float]] = []
    for k, (a, b) in enumerate(edges.tolist()):
        near = 0.375 if len(opposite[k]) == 2 else 0.5
        odd += [(k, a, near), (k, b, near)]
        if len(opposite[k]) == 2:
            odd += [(k, c, 0.125) for c in opposite[k]]
    even = _even_rule(edges, rim_edges(faces), vertex_count)
    matrix = vstack([_sparse(even, (vertex_count, vertex_count)), _sparse(odd, (len(edges), vertex_count))])
    return csr_array(matrix), np.array(finer, dtype=np.int64)


def _even_rule(edges: np.ndarray, rim: np.ndarray, vertex_count: int) -> list[tuple[int, int, float]]:
    """Entries of the rows that move the old vertices."""
    on_rim = np.zeros(vertex_count, dtype=bool)
    on_rim[rim] = True
    entries: list[tuple[int, int, float]] = []
    neighbours: list[list[int]] = [[] for _ in range(vertex_count)]
    for a, b in edges.tolist():
        neighbours[a].append(b)
        neighbours[b].append(a)
    for v in np.flatnonzero(~on_rim).tolist():
        n = len(neighbours[v])
        share = (0.625 - (0.375 + 0.25 * np.cos(2 * np.pi / n)) ** 2) / n
        entries += [(v, v, 1.0 - n * share), *((v, u, share) for u in neighbours[v])]
    entries += [(v, v, 0.75) for v in np.flatnonzero(on_rim).tolist()]
    for a, b in rim.tolist():
        entries += [(a, b, 0.125), (b, a, 0.125)]
    return entries


def _sparse(entries: list[tuple[int, int, float]], shape: tuple[int, int]) -> csr_array:
    rows, columns, values = zip(*entries, strict=True)
    return csr_array((values, (rows, columns)), shape=shape)


def render_topology(faces: np.ndarray, level: int = 1) -> tuple[csr_array, np.ndarray]:
    """The hand's triangles, subdivided for smooth outlines.

    The finer surface lies a little inside the model's (2 mm at the fingertips); labels come from the model.

    Args:
        faces: (1538, 3) of either hand.
        level: 0, 1 (3,093 vertices) or 2 (12,337 vertices).

    Returns:
        Sparse matrix (N, 778), so that `matrix @ vertices` are the finer vertices of any pose, and faces (M, 3) of the
        same winding.
    """
    faces = np.asarray(faces, dtype=np.int64)
    count = int(faces.max()) + 1
    matrix = csr_array((np.ones(count), (np.arange(count), np.arange(count))))
    for _ in range(level):
        step, faces = loop_subdivision(faces, matrix.shape[0])
        matrix = csr_array(step @ matrix)
    return matrix, faces


def _bump(distance: np.ndarray, width: float) -> np.ndarray:
    return np.exp(-0.5 * (distance / width) ** 2)


def _ramp(value: np.ndarray, low: float, high: float) -> np.ndarray:
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def albedo_masks(points: np.ndarray, faces: np.ndarray) -> dict[str, np.ndarray]:
    """Where skin changes colour. The vertex order is shared, so the masks of the right hand serve the left too.

    Args:
        points: (N, 3) vertices of the resting right hand (`v_template`, or `matrix @ v_template` when subdivided), m.
        faces: their faces (M, 3).

    Returns:
        Values in [0, 1], each (N,): `palm` (the paler side), `nail`, `knuckle` (redder, back of the joints), `crease`
        (darker lines across the palmar side of the joints and the palm), `tip` (redder pulps).
    """
    normal = np.zeros_like(points)
    corner = points[faces]
    across = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    for k in range(3):
        np.add.at(normal, faces[:, k], across)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    masks = {name: np.zeros(len(points)) for name in ("palm", "nail", "knuckle", "crease", "tip")}
    nearest = np.full(len(points), np.inf)
    palmar = np.tile([0.0, -1.0, 0.0], (len(points), 1))
    for joint in range(15):
        k = joint // 3
        end = REST_TIPS[k] if joint % 3 == 2 else REST_JOINTS[joint + 2]
        bone = end - REST_JOINTS[joint + 1]
        along = np.clip((points - REST_JOINTS[joint + 1]) @ bone / (bone @ bone), 0, 1)
        far = np.linalg.norm(points - REST_JOINTS[joint + 1] - along[:, None] * bone, axis=1)
        closer = (far < nearest) & (far < 0.016) & ((DIGITS[k] == "thumb") | (joint % 3 > 0) | (along > 0.1))
        palmar[closer], nearest[closer] = PALMAR_AXES[joint], far[closer]
    masks["palm"] = _ramp(np.einsum("pk,pk->p", normal, palmar), -0.25, 0.45)
    for k, name in enumerate(DIGITS):
        _paint_digit(masks, points, normal, k, name)
    for start, end in (((0.020, -0.022), (0.034, 0.030)), ((0.036, 0.034), (0.070, 0.004))):
        a, b = np.array(start), np.array(end)
        flat = points[:, [0, 2]]
        along = np.clip((flat - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
        line = _bump(np.linalg.norm(flat - a - along[:, None] * (b - a), axis=1), 0.0028)
        masks["crease"] = np.maximum(masks["crease"], 0.5 * line * _ramp(-normal[:, 1], 0.3, 0.8))
    return masks


def _paint_digit(masks: dict[str, np.ndarray], points: np.ndarray, normal: np.ndarray, k: int, name: str) -> None:
    """Adds one digit's nail, pulp, knuckles and creases to the masks."""
    radii = np.array(SKELETON_MM[name].radii) * 1e-3
    for level in range(3):
        j = 3 * k + level
        offset = points - REST_JOINTS[j + 1]
        sideways = np.abs(offset @ FLEXION_AXES[j])
        near = (np.linalg.norm(offset, axis=1) < 2.2 * radii[level]) * 1.0
        front = normal @ PALMAR_AXES[j]
        along = np.abs(offset @ BONE_AXES[j])
        if not (name == "thumb" and level == 0):
            knuckle = _bump(sideways, 0.55 * radii[level]) * _bump(along, 0.0045) * _ramp(-front, 0.2, 0.8) * near
            masks["knuckle"] = np.maximum(masks["knuckle"], knuckle / max(knuckle.max(), 1e-9))
        if level > 0:
            masks["crease"] = np.maximum(masks["crease"], _bump(along, 0.0013) * _ramp(front, 0.1, 0.7) * near)
    j = 3 * k + 2
    from_tip = (REST_TIPS[k] - points) @ BONE_AXES[j]
    side = np.abs((points - REST_TIPS[k]) @ FLEXION_AXES[j])
    own = np.linalg.norm(points - (REST_TIPS[k] - 0.008 * BONE_AXES[j]), axis=1) < 2.4 * radii[3]
    width, length = 0.80 * radii[3], 1.75 * radii[3]
    middle = 0.0016 + 0.5 * length
    inside = (side / width) ** 4 + ((from_tip - middle) / (0.5 * length)) ** 4
    back = -(normal @ PALMAR_AXES[j])
    masks["nail"] = np.maximum(masks["nail"], own * _ramp(-inside, -1.5, -0.7) * _ramp(back, 0.15, 0.45))
    masks["tip"] = np.maximum(
        masks["tip"], own * _bump(np.maximum(from_tip - 0.004, 0), 0.006) * _ramp(-back, -0.3, 0.5)
    )


def skin_colors(masks: dict[str, np.ndarray], tone_rgb: tuple[float, float, float]) -> np.ndarray:
    """(N, 3) RGB albedo in [0, 1] of a hand whose back has the given tone."""
    tone = np.asarray(tone_rgb, dtype=float)
    palm = tone + 0.42 * (np.array([0.93, 0.74, 0.66]) - tone) * np.clip(1.25 - tone.mean(), 0.35, 1.0)
    color = tone + masks["palm"][:, None] * (palm - tone)
    for name, factor in (
        ("knuckle", (0.94, 0.84, 0.82)),
        ("tip", (1.0, 0.89, 0.87)),
        ("crease", (0.80, 0.70, 0.68)),
    ):
        color = color * (1.0 + masks[name][:, None] * (np.array(factor) - 1.0))
    nail = 0.45 * tone + 0.55 * np.array([0.96, 0.80, 0.77])
    return np.clip(color + masks["nail"][:, None] * (nail - color), 0.0, 1.0)
