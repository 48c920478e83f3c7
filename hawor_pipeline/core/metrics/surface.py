"""Distances between surfaces: F-score, Chamfer, edge lengths and normals.

Convention: points and vertices are (*batch, points, 3), metres, as given, without alignment; `faces` (faces, 3) are
vertex indices. One value per sample comes out.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hawor_pipeline.core.mesh import edge_lengths, face_normals
from hawor_pipeline.core.metrics.points import share_below
from hawor_pipeline.core.nearest import nearest_distances
from hawor_pipeline.core.types import promote


def f_score(
    pred: Float[Tensor, "*batch points 3"],
    target: Float[Tensor, "*batch others 3"],
    threshold: float | Sequence[float],
) -> Tensor:
    """Compute the harmonic mean of precision and recall of surface points within a distance.

    Formula: 2 P R / (P + R), P the share of predicted points nearer than the threshold to the target, R the reverse.

    Args:
        threshold: one distance or several, metres; several cost one search.

    Returns:
        (*batch) for one threshold, (*batch, thresholds) for several; 0 to 1, NaN for points that are not finite.

    Source:
        Knapitsch et al. 2017; strict `<` as FreiHAND and HO-3D. Exact: a point closer than the
        threshold to its own partner is a hit without a search.

    Quirk:
        FreiHAND and HO-3D swap the names of precision and recall; F is the same.

    Example:
        >>> f_score(torch.zeros(4, 3), torch.zeros(4, 3), 0.005).item()
        1.0
    """
    least = threshold if isinstance(threshold, (int, float)) else min(threshold)
    return f_score_of_distances(*nearest_distances(pred, target, enough=float(least)), threshold)


def f_score_of_distances(
    forward: Float[Tensor, "*batch points"],
    backward: Float[Tensor, "*batch others"],
    threshold: float | Sequence[float],
) -> Tensor:
    """Compute the `f_score` of nearest distances that are known already.

    Formula: 2 P R / (P + R), with P and R the shares of forward and backward distances below the threshold.

    Args:
        forward: (*batch, points), metres, of the predicted points to the target.
        backward: (*batch, others), metres, of the target's points to the prediction.
        threshold: one distance or several, metres.

    Returns:
        (*batch) for one threshold, (*batch, thresholds) for several; 0 to 1, NaN where a distance is.

    Source:
        As `f_score`.

    Example:
        >>> f_score_of_distances(torch.zeros(4), torch.ones(4), 0.5).item()
        0.0
    """
    limits = [threshold] if isinstance(threshold, (int, float)) else list(threshold)
    scores = []
    for limit in limits:
        precision = share_below(forward, limit)
        recall = share_below(backward, limit)
        both = precision + recall
        scores.append(torch.where(both == 0, both, 2 * precision * recall / both))
    return scores[0] if isinstance(threshold, (int, float)) else torch.stack(scores, -1)


def chamfer_distance(
    pred: Float[Tensor, "*batch points 3"], target: Float[Tensor, "*batch others 3"], *, squared: bool = False
) -> Float[Tensor, "*batch"]:
    """Compute the mean distance to the nearest point, both ways added.

    Formula: mean over i of min_j |x_i - y_j| + mean over j of min_i |x_i - y_j|.

    Args:
        squared: square the distances, as pytorch3d does by default; the result is then in square metres.

    Returns:
        (*batch), metres or square metres.

    Source:
        Fan et al. 2017.

    Quirk:
        pytorch3d squares by default. `torch.cdist`'s default form is wrong by 1 mm at zero distance a metre from the
        origin.

    Example:
        >>> chamfer_distance(torch.zeros(1, 3), torch.tensor([[3.0, 4.0, 0.0]])).item()
        10.0
    """
    forward, backward = nearest_distances(pred, target)
    if squared:
        forward, backward = forward.square(), backward.square()
    return forward.mean(-1) + backward.mean(-1)


def point_to_surface(
    points: Float[Tensor, "*batch points 3"],
    vertices: Float[Tensor, "*batch vertices 3"],
    faces: Int[Tensor, "faces 3"],
) -> Float[Tensor, "*batch points"]:
    """Compute the distance of points to the triangles of a mesh; never more than to its nearest vertex.

    Formula: min over triangles of the distance from the point to the triangle.

    Returns:
        (*batch, points), metres.

    Source:
        The nearest of: the point's projection onto each triangle's plane where it falls inside, and the triangle's
        three edges. All pairs, one mesh and 64 points at a time.

    Example:
        >>> square = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
        >>> point_to_surface(torch.tensor([[0.2, 0.2, 3.0]]), square, torch.tensor([[0, 1, 2]])).tolist()
        [3.0]
    """
    batch = points.shape[:-2]
    flat_points = points.reshape(-1, *points.shape[-2:])
    flat_vertices = vertices.expand(*batch, *vertices.shape[-2:]).reshape(-1, *vertices.shape[-2:])
    rows = []
    for cloud, mesh in zip(flat_points, flat_vertices, strict=True):
        corners = mesh[faces]  # (faces, 3, 3)
        rows.append(torch.cat([_to_triangles(part, corners) for part in cloud.split(64)]))
    return torch.stack(rows).reshape(*batch, -1)


def _to_triangles(points: Tensor, corners: Tensor) -> Tensor:
    """Distance of each point (P, 3) to the nearest of the triangles (F, 3, 3)."""
    a, b, c = corners.unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    area = torch.linalg.vector_norm(normal, dim=-1)
    unit = normal / area.clamp_min(torch.finfo(area.dtype).tiny).unsqueeze(-1)
    offset = points.unsqueeze(1) - a  # (P, F, 3)
    height = (offset * unit).sum(-1)
    best = torch.full_like(height, torch.inf)
    inside = (area > 0).expand_as(height)
    for start, end in ((a, b), (b, c), (c, a)):
        edge = end - start
        rel = points.unsqueeze(1) - start
        along = (rel * edge).sum(-1) / edge.square().sum(-1).clamp_min(torch.finfo(area.dtype).tiny)
        best = torch.minimum(best, torch.linalg.vector_norm(rel - along.clamp(0, 1).unsqueeze(-1) * edge, dim=-1))
        inside = inside & ((torch.linalg.cross(edge.expand_as(rel), rel) * unit).sum(-1) >= 0)
    return torch.where(inside, torch.minimum(height.abs(), best), best).amin(1)


def edge_length_error(
    pred: Float[Tensor, "*batch vertices 3"],
    target: Float[Tensor, "*batch vertices 3"],
    edges: Int[Tensor, "edges 2"],
    *,
    relative: bool = False,
) -> Float[Tensor, "*batch"]:
    """Compute the mean difference of edge lengths.

    Formula: mean over edges of | |e'| - |e| |, or of the same over |e|.

    Args:
        edges: (edges, 2), from `hawor_pipeline.core.mesh.mesh_topology`.
        relative: divide each difference by the true length; true edges without length are dropped.

    Returns:
        (*batch), metres; a share if relative.

    Source:
        Definition.

    Quirk:
        pytorch3d's `mesh_edge_loss` has no truth and shrinks edges; it is another thing.

    Example:
        >>> round(edge_length_error(torch.eye(3) * 2, torch.eye(3), torch.tensor([[0, 1]])).item(), 4)
        1.4142
    """
    true_length = edge_lengths(promote(target), edges)
    error = (edge_lengths(promote(pred), edges) - true_length).abs()
    if not relative:
        return error.mean(-1)
    there = true_length > 0
    share = error / torch.where(there, true_length, torch.ones_like(true_length))
    return torch.where(there, share, torch.zeros_like(share)).sum(-1) / there.sum(-1)


def normal_consistency(
    pred: Float[Tensor, "*batch vertices 3"],
    target: Float[Tensor, "*batch vertices 3"],
    faces: Int[Tensor, "faces 3"],
    *,
    signed: bool = False,
) -> Float[Tensor, "*batch"]:
    """Compute the mean cosine of the angle between corresponding triangle normals.

    Formula: mean over faces of |n' . n|.

    Args:
        signed: keep the sign of the cosine, so that a surface turned inside out scores -1 instead of 1.

    Returns:
        (*batch), 0 to 1 (-1 to 1 if signed); 1 is best. Triangles without area are dropped.

    Source:
        Mean |cos|, as in surface reconstruction benchmarks (Mescheder et al. 2019) but between corresponding triangles.

    Quirk:
        pytorch3d's function of this name compares neighbouring faces of one mesh; it is another thing.

    Example:
        >>> mesh = torch.eye(3)
        >>> round(normal_consistency(mesh, mesh, torch.tensor([[0, 1, 2]])).item(), 6)
        1.0
    """
    first, second = (face_normals(promote(x), faces) for x in (pred, target))
    cosine = (first * second).sum(-1)
    there = first.any(-1) & second.any(-1)
    value = torch.where(there, cosine if signed else cosine.abs(), torch.zeros_like(cosine))
    return value.sum(-1) / there.sum(-1)
