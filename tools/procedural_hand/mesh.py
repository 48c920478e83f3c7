"""The resting right hand as a mesh of exactly MANO's size: 778 vertices, 1538 faces, a wrist rim of 16 edges.

Marching cubes on `hand_sdf` over a box that ends at the wrist (which leaves the rim), edge collapse to the exact
counts under a sizing field, then relaxation on the surface with one vertex pinned to each fingertip.
"""

import numpy as np
from skimage.measure import marching_cubes

from hawor_pipeline.core.skeleton import FACE_COUNT, FINGERS, TIP_VERTEX_IDS, VERTEX_COUNT
from hawor_pipeline.errors import NumericalError
from hawor_pipeline.sample.hand import DIGITS
from tools.procedural_hand.decimate import CollapseMesh, relax, rim_edges
from tools.procedural_hand.skeleton import SKELETON
from tools.procedural_hand.surface import hand_sdf, hand_sdf_gradient, project_to_surface

RIM_COUNT = 16  # edges of MANO's open wrist
WRIST_PLANE_M = 0.103
"""x of the plane that cuts the forearm, just past the wrist joint."""
GRID_STEP_M = 0.0025
MAX_SPARE_VERTICES = 1000  # the rim is reduced once this many are left, before triangles are large beside it
TIP_IDS = dict(zip(FINGERS, TIP_VERTEX_IDS, strict=True))
BOX_M = ((-0.1045, WRIST_PLANE_M), (-0.0500, 0.0300), (-0.0650, 0.0950))


def edge_size(points: np.ndarray) -> np.ndarray:
    """Return the target edge length (P,) at points (P, 3), metres: coarse on the palm, fine at joints and tips."""
    size = np.full(len(points), 0.0110)
    for k in range(5):
        joints = SKELETON.joints[1 + 3 * k : 4 + 3 * k]
        near_root = 0.014 if k == DIGITS.index("thumb") else 0.006
        along = (points - joints[0]) @ SKELETON.bone_axes[3 * k]
        beside = np.linalg.norm(
            points - joints[0] - np.clip(along, 0, None)[:, None] * SKELETON.bone_axes[3 * k], axis=1
        )
        on_digit = np.clip((along - near_root) / 0.010, 0, 1) * np.clip((0.027 - beside) / 0.008, 0, 1)
        size = np.minimum(size, 0.0110 - 0.0036 * on_digit)
        for joint, least in ((joints[1], 0.0060), (joints[2], 0.0055), (SKELETON.tips[k], 0.0034)):
            far = np.linalg.norm(points - joint, axis=1)
            size = np.minimum(size, least + 0.28 * np.clip(far - 0.003, 0, None))
    return size


def _fine_mesh() -> tuple[np.ndarray, np.ndarray]:
    """Run marching cubes: vertices (V, 3) m and faces (F, 3), outward winding, open at the wrist plane."""
    axes = [np.linspace(low, high, round((high - low) / GRID_STEP_M) + 1) for low, high in BOX_M]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    values = hand_sdf(grid.reshape(-1, 3)).reshape(grid.shape[:3])
    step = tuple(float(axis[1] - axis[0]) for axis in axes)
    vertices, faces, _, _ = marching_cubes(values, 0.0, spacing=step, allow_degenerate=False)
    return vertices + np.array([low for low, _ in BOX_M]), faces.astype(np.int64)


def _pin_tips(vertices: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
    """Move the nearest vertex of each digit onto the skin at its tip; return new vertices and the moved ones' ids."""
    vertices = vertices.copy()
    pins = {}
    skin = project_to_surface(SKELETON.tips.copy(), rounds=4)
    for name, tip in zip(DIGITS, skin, strict=True):
        nearest = int(np.argmin(np.linalg.norm(vertices - tip, axis=1)))
        vertices[nearest] = tip
        pins[name] = nearest
    return vertices, pins


def _swap_to_tip_ids(vertices: np.ndarray, faces: np.ndarray, pins: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Renumber so that the pinned vertices get MANO's fingertip ids."""
    order = np.argsort(vertices @ np.array([-1.0, 1e-3, 1e-2]), kind="stable")
    place = np.empty(len(vertices), dtype=np.int64)
    place[order] = np.arange(len(vertices))
    for name, vertex in pins.items():
        wanted = TIP_IDS[name]
        other = int(np.flatnonzero(place == wanted)[0])
        place[other], place[vertex] = place[vertex], wanted
    renumbered = np.empty_like(vertices)
    renumbered[place] = vertices
    faces = place[faces]
    faces = np.stack([np.roll(face, -int(np.argmin(face))) for face in faces])
    return renumbered, faces[np.lexsort(faces.T[::-1])]


def right_hand_mesh() -> tuple[np.ndarray, np.ndarray]:
    """Build the mesh of the resting right hand.

    Returns:
        Vertices (778, 3) in metres and faces (1538, 3), outward winding.

    Raises:
        NumericalError: the decimation missed the exact counts.
    """
    fine, fine_faces = _fine_mesh()
    mesh = CollapseMesh(fine, fine_faces, edge_size(fine))
    mesh.reduce(MAX_SPARE_VERTICES, RIM_COUNT)
    mesh.reduce(0, RIM_COUNT, rim_only=True)
    mesh.reduce(VERTEX_COUNT, RIM_COUNT)
    vertices, faces = mesh.arrays()
    rim = np.unique(rim_edges(faces))
    if len(vertices) != VERTEX_COUNT or len(faces) != FACE_COUNT or len(rim) != RIM_COUNT:
        raise NumericalError(
            f"the procedural hand has {len(vertices)} vertices, {len(faces)} faces and {len(rim)} on the rim; "
            f"expected {VERTEX_COUNT}, {FACE_COUNT} and {RIM_COUNT}: check the versions of numpy and scikit-image"
        )
    vertices[rim] = _even_rim(vertices, faces)
    vertices, pins = _pin_tips(vertices)
    frozen = np.zeros(len(vertices), dtype=bool)
    frozen[rim] = True
    frozen[list(pins.values())] = True
    vertices, faces = relax(vertices, faces, frozen, edge_size, hand_sdf_gradient, project_to_surface)
    return _swap_to_tip_ids(vertices, faces, pins)


def _even_rim(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return even positions of the rim vertices, in order of their ids, on the skin in the wrist plane."""
    edges = rim_edges(faces)
    start = int(edges.min())
    chain, previous = [start], -1
    while len(chain) < len(edges):
        here = chain[-1]
        following = sorted(int(v) for edge in edges for v in edge if here in edge and v != here and v != previous)
        previous = here
        chain.append(following[0])
    ring = vertices[chain]
    for _ in range(30):
        ring = 0.5 * ring + 0.25 * (np.roll(ring, 1, axis=0) + np.roll(ring, -1, axis=0))
        for _ in range(2):
            gradient = hand_sdf_gradient(ring)
            gradient[:, 0] = 0.0
            ring = ring - (hand_sdf(ring) / np.einsum("pk,pk->p", gradient, gradient))[:, None] * gradient
        ring[:, 0] = WRIST_PLANE_M
    order = np.argsort(chain)
    return ring[order]
