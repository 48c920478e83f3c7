"""Triangle meshes: topology, edge lengths, face normals."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hawor_pipeline.core.units import MM_PER_M


@dataclass(slots=True)
class MeshTopology:
    """Faces, edges and inverse vertex degrees of a triangle mesh."""

    faces: Int[Tensor, "faces 3"]
    edges: Int[Tensor, "edges 2"]
    inverse_degree: Float[Tensor, " vertices"]


def mesh_topology(faces: Int[Tensor, "faces 3"], vertex_count: int) -> MeshTopology:
    """Derive unique edges and vertex degrees from triangles.

    Args:
        faces: (faces, 3), vertex indices.
        vertex_count: number of vertices.

    Returns:
        The topology; MANO has 778 vertices, 1538 faces and 2315 edges.

    Example:
        >>> mesh_topology(torch.tensor([[0, 1, 2], [0, 2, 3]]), 4).edges.tolist()
        [[0, 1], [0, 2], [0, 3], [1, 2], [2, 3]]
    """
    pairs = torch.cat((faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]))
    edges = torch.unique(pairs.sort(-1).values, dim=0)
    degree = torch.zeros(vertex_count, device=faces.device).index_add_(
        0, edges.flatten(), torch.ones(edges.numel(), device=faces.device)
    )
    return MeshTopology(faces=faces, edges=edges, inverse_degree=1 / degree.clamp_min(1))


def edge_lengths(
    vertices: Float[Tensor, "*batch vertices 3"], edges: Int[Tensor, "edges 2"]
) -> Float[Tensor, "*batch edges"]:
    """Measure the length of each edge, metres."""
    return torch.linalg.vector_norm(
        vertices.index_select(-2, edges[:, 0]) - vertices.index_select(-2, edges[:, 1]), dim=-1
    )


def face_normals(
    vertices: Float[Tensor, "*batch vertices 3"], faces: Int[Tensor, "faces 3"]
) -> Float[Tensor, "*batch faces 3"]:
    """Compute the unit normal of each triangle; zero, with zero gradient, for a triangle without area."""
    # In millimetres: in metres, the areas of a hand's triangles come too close to the smallest numbers.
    first, second, third = (vertices.index_select(-2, corner) * MM_PER_M for corner in faces.unbind(-1))
    cross = torch.linalg.cross(second - first, third - first)
    norm = torch.linalg.vector_norm(cross, dim=-1, keepdim=True)
    flat = norm < 1e-6
    return torch.where(flat, torch.zeros_like(cross), cross / torch.where(flat, torch.ones_like(norm), norm))
