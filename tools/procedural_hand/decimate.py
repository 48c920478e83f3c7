"""Decimation of a triangle mesh with one open rim to an exact number of vertices, and relaxation of the result.

A mesh of disc topology with V vertices and b rim edges has 2 V - b - 2 faces, so fixing both counts fixes the
faces too. Everything here is deterministic: ties are broken by vertex number.
"""

import heapq
from collections.abc import Callable

import numpy as np


class CollapseMesh:
    """A triangle mesh under edge collapse.

    Args:
        vertices: (V, 3) m.
        faces: (F, 3) int, one consistent winding, manifold, at most one rim.
        size: target edge length at each vertex, (V,) m; the edge shortest relative to it is collapsed first.
    """

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, size: np.ndarray) -> None:
        self.points = [tuple(p) for p in vertices.tolist()]
        self.size = size.tolist()
        self.faces: dict[int, tuple[int, int, int]] = {k: tuple(f) for k, f in enumerate(faces.tolist())}  # type: ignore[misc]
        self.around: dict[int, set[int]] = {}
        for k, face in self.faces.items():
            for v in face:
                self.around.setdefault(v, set()).add(k)
        self.near = {v: {u for k in fs for u in self.faces[k]} - {v} for v, fs in self.around.items()}
        self.rim = {v for edge in rim_edges(faces) for v in edge.tolist()}

    def cost(self, a: int, b: int) -> float:
        """Return the edge length relative to the mean target length."""
        p, q = self.points[a], self.points[b]
        square = (p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2 + (p[2] - q[2]) ** 2
        return 2.0 * square**0.5 / (self.size[a] + self.size[b])

    def _target(self, a: int, b: int) -> tuple[float, float, float]:
        p, q = self.points[a], self.points[b]
        if (a in self.rim) != (b in self.rim):
            return p if a in self.rim else q
        return (0.5 * (p[0] + q[0]), 0.5 * (p[1] + q[1]), 0.5 * (p[2] + q[2]))

    def _allowed(self, a: int, b: int, target: tuple[float, float, float], max_valence: int) -> bool:
        """Return whether the collapse keeps the surface a manifold, the valence bounded and every face upright."""
        # Link condition: the ends may share no neighbours but those opposite the edge, or two sheets would touch.
        shared = self.around[a] & self.around[b]
        common = self.near[a] & self.near[b]
        if len(common) != len(shared) or len(self.near[a]) + len(self.near[b]) - len(common) - 2 > max_valence:
            return False
        if a in self.rim and b in self.rim and len(shared) != 1:
            return False
        if any(len(self.near[c]) <= (3 if c in self.rim else 4) for c in common):
            return False
        for moved in (a, b):
            for k in self.around[moved] - shared:
                before = [self.points[v] for v in self.faces[k]]
                after = [target if v == moved else self.points[v] for v in self.faces[k]]
                n, m = _normal(before), _normal(after)
                dot = n[0] * m[0] + n[1] * m[1] + n[2] * m[2]
                nn, mm = n[0] ** 2 + n[1] ** 2 + n[2] ** 2, m[0] ** 2 + m[1] ** 2 + m[2] ** 2
                if dot <= 0.25 * (nn * mm) ** 0.5:
                    return False
        return True

    def _collapse(self, a: int, b: int, target: tuple[float, float, float]) -> None:
        """Merge b into a at the target."""
        shared = self.around[a] & self.around[b]
        for k in shared:
            for v in self.faces.pop(k):
                self.around[v].discard(k)
        for k in self.around[b]:
            self.faces[k] = tuple(a if v == b else v for v in self.faces[k])  # type: ignore[assignment]
            self.around[a].add(k)
        for v in self.near[b]:
            self.near[v].discard(b)
            if v != a:
                self.near[v].add(a)
                self.near[a].add(v)
        self.points[a] = target
        self.size[a] = 0.5 * (self.size[a] + self.size[b])
        if b in self.rim:
            self.rim.add(a)
            self.rim.discard(b)
        del self.around[b], self.near[b]

    def reduce(self, vertices: int, rim: int, max_valence: int = 9, rim_only: bool = False) -> None:
        """Collapse edges, cheapest first, until `vertices` remain; the rim keeps at least `rim` of them."""
        heap = [(self.cost(a, b), a, b) for a in self.near for b in self.near[a] if a < b]
        heapq.heapify(heap)
        while heap and len(self.near) > vertices and not (rim_only and len(self.rim) <= rim):
            cost, a, b = heapq.heappop(heap)
            if a not in self.near or b not in self.near[a]:
                continue
            now = self.cost(a, b)
            # An entry is stale where a neighbour's collapse has lengthened the edge since: queue it again.
            if now > cost * 1.000001:
                heapq.heappush(heap, (now, a, b))
                continue
            on_rim = a in self.rim and b in self.rim
            if (on_rim and len(self.rim) <= rim) or (rim_only and not on_rim):
                continue
            target = self._target(a, b)
            if not self._allowed(a, b, target, max_valence):
                continue
            self._collapse(a, b, target)
            for v in sorted(self.near[a]):
                heapq.heappush(heap, (self.cost(a, v), min(a, v), max(a, v)))

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the mesh with vertices renumbered: (V, 3) float, (F, 3) int."""
        kept = sorted(self.near)
        number = {v: k for k, v in enumerate(kept)}
        faces = np.array([[number[v] for v in self.faces[k]] for k in sorted(self.faces)], dtype=np.int64)
        return np.array([self.points[v] for v in kept]), faces


def _normal(p: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    ux, uy, uz = (p[1][k] - p[0][k] for k in range(3))
    vx, vy, vz = (p[2][k] - p[0][k] for k in range(3))
    return (uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx)


def mesh_edges(faces: np.ndarray) -> np.ndarray:
    """Return the unique undirected edges (E, 2), lower vertex first."""
    pairs = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    return np.unique(np.sort(pairs, axis=1), axis=0)


def rim_edges(faces: np.ndarray) -> np.ndarray:
    """Return the edges (b, 2) with a face on one side only."""
    pairs = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    unique, counts = np.unique(np.sort(pairs, axis=1), axis=0, return_counts=True)
    return unique[counts == 1]


def _flip_edges(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Flip edges once where the two opposite angles add to more than pi (Delaunay) and the surface is flat enough."""
    faces = faces.copy()
    owner: dict[tuple[int, int], int] = {}
    for k, (a, b, c) in enumerate(faces.tolist()):
        owner[a, b], owner[b, c], owner[c, a] = k, k, k
    near = {(min(a, b), max(a, b)) for a, b in owner}
    touched: set[int] = set()
    for a, b in sorted(owner):
        if a > b or (b, a) not in owner:
            continue
        one, two = owner[a, b], owner[b, a]
        if one in touched or two in touched:
            continue
        c = int(faces[one].sum()) - a - b
        d = int(faces[two].sum()) - a - b
        if (min(c, d), max(c, d)) in near:
            continue
        pa, pb, pc, pd = vertices[[a, b, c, d]]
        if _angle(pc, pa, pb) + _angle(pd, pa, pb) <= np.pi + 0.05:
            continue
        old = np.cross(pb - pa, pc - pa), np.cross(pa - pb, pd - pb)
        new = np.cross(pd - pc, pb - pc), np.cross(pc - pd, pa - pd)
        unit = [n / max(np.linalg.norm(n), 1e-15) for n in (*old, *new)]
        if (
            unit[0] @ unit[1] < 0.5
            or min(unit[2] @ unit[0], unit[2] @ unit[1], unit[3] @ unit[0], unit[3] @ unit[1]) < 0.5
        ):
            continue
        faces[one], faces[two] = (c, d, b), (d, c, a)
        near.discard((a, b))
        near.add((min(c, d), max(c, d)))
        touched |= {one, two}
    return faces


def _angle(corner: np.ndarray, p: np.ndarray, q: np.ndarray) -> float:
    u, v = p - corner, q - corner
    return float(np.arctan2(np.linalg.norm(np.cross(u, v)), u @ v))


def relax(
    vertices: np.ndarray,
    faces: np.ndarray,
    frozen: np.ndarray,
    size_of: Callable[[np.ndarray], np.ndarray],
    normal_of: Callable[[np.ndarray], np.ndarray],
    project: Callable[[np.ndarray], np.ndarray],
    rounds: int = 24,
) -> tuple[np.ndarray, np.ndarray]:
    """Even out triangles by springs of the target length within the surface, edge flips and projection.

    Args:
        vertices: (V, 3) m.
        faces: (F, 3).
        frozen: (V,) bool, vertices that do not move.
        size_of: target edge length at points.
        normal_of: surface direction at points, any length.
        project: moves points back onto the surface.
        rounds: number of iterations.

    Returns:
        New vertices and faces.
    """
    for turn in range(rounds):
        if turn % 3 == 0:
            faces = _flip_edges(vertices, faces)
        edges = mesh_edges(faces)
        size = size_of(vertices)
        span = vertices[edges[:, 1]] - vertices[edges[:, 0]]
        wanted = 0.5 * (size[edges[:, 0]] + size[edges[:, 1]])
        weight = np.linalg.norm(span, axis=1) / wanted
        push, total = np.zeros_like(vertices), np.zeros(len(vertices))
        np.add.at(push, edges[:, 0], weight[:, None] * span)
        np.add.at(push, edges[:, 1], -weight[:, None] * span)
        np.add.at(total, edges[:, 0], weight)
        np.add.at(total, edges[:, 1], weight)
        push /= total[:, None]
        normal = normal_of(vertices)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        push -= np.einsum("vk,vk->v", push, normal)[:, None] * normal
        moved = vertices + 0.6 * push
        moved = project(moved)
        vertices = np.where(frozen[:, None], vertices, moved)
    return vertices, faces
