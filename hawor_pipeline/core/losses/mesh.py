"""Surface terms: corresponding vertices, topology against ground truth (edges, normals, Laplacian), and Chamfer."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hawor_pipeline.core.losses.robust import (
    KEYPOINT_SCALE_M,
    difference,
    masked_mean,
    mixed_penalty,
    safe_norm,
)
from hawor_pipeline.core.mesh import MeshTopology
from hawor_pipeline.core.nearest import nearest_indices
from hawor_pipeline.core.types import promote

EDGE_SCALE_M = 0.001  # one unit of edge or Laplacian error
SLIVER_SHARE = 0.1  # a triangle with less than this share of its true area has a normal shorter than 1
_TINY = 1e-6  # of a unit: below it a length has no gradient


def vertices_loss(
    pred: Float[Tensor, "*batch vertices 3"],
    target: Float[Tensor, "*batch vertices 3"],
    mask: Bool[Tensor, "*#batch #vertices"] | None = None,
    *,
    scale_m: float = KEYPOINT_SCALE_M,
) -> Float[Tensor, ""]:
    """Penalise the distance of corresponding vertices; subtract the roots first for a root-relative term.

    Formula: mean over vertices of rho(|v' - v| / scale).

    Source:
        `mixed_penalty` per vertex.

    Example:
        >>> vertices_loss(torch.zeros(778, 3), torch.zeros(778, 3)).item()
        0.0
    """
    return masked_mean(mixed_penalty(safe_norm(difference(pred, target, mask)), scale_m), mask)


def topology_loss(
    pred: Float[Tensor, "*batch vertices 3"],
    target: Float[Tensor, "*batch vertices 3"],
    topology: MeshTopology,
    mask: Bool[Tensor, "*#batch"] | None = None,
    *,
    scale_m: float = EDGE_SCALE_M,
) -> Float[Tensor, ""]:
    """Compare the local shape of two surfaces of the same topology.

    Formula: mean over edges of | |e'| - |e| | / scale, plus mean over faces of 1 - n' . n, plus mean over vertices of
    |L (v' - v)| / scale with the uniform Laplacian L. All three are against ground truth: none shrinks or flattens the
    hand, as the regularisers of the same name do. The normal of a collapsing triangle (below a tenth of its true area)
    shrinks with it, which keeps the gradient bounded.

    Args:
        topology: from `mesh_topology`.

    Source:
        Edge and normal terms after I2L-MeshNet and Pose2Mesh, with the angle between normals in place of that between a
        normal and predicted edges; Laplacian coordinates after Sorkine 2006.

    Example:
        >>> from hawor_pipeline.core.mesh import mesh_topology
        >>> triangle = torch.eye(3)
        >>> round(topology_loss(triangle, triangle, mesh_topology(torch.tensor([[0, 1, 2]]), 3)).item(), 4)
        0.0
    """
    p, t, flat_mask = _flat(pred, target, mask)
    p, t = _by_component(p, scale_m), _by_component(t, scale_m)
    edges = (_length(_sides(p, topology.edges)) - _length(_sides(t, topology.edges))).abs().mean(0)
    cross, true_cross = _crosses(p, topology.faces), _crosses(t, topology.faces)
    true_area = _length(true_cross)
    cosine = (cross * (true_cross / true_area)).sum(0) / torch.maximum(_length(cross), SLIVER_SHARE * true_area)
    normals = torch.where(true_area > 2 * _TINY, 1 - cosine, torch.zeros_like(cosine)).mean(0)
    smooth = _length(_laplacian(p - t, topology)).mean(0)
    return masked_mean(edges + normals + smooth, flat_mask)


# Below, points are (3, points, B): gathers copy whole rows of B numbers, in half the time of a layout with 3 last.


def _by_component(points: Tensor, scale_m: float) -> Tensor:
    return (points / scale_m).permute(2, 1, 0).contiguous()


def _length(vector: Tensor) -> Tensor:
    """Compute the length over the first dimension, at least `_TINY`; the gradient is 0 at this bound."""
    x, y, z = vector.unbind(0)
    return (x * x + y * y + z * z).clamp_min(_TINY**2).sqrt()


def _sides(points: Tensor, edges: Tensor) -> Tensor:
    return points.index_select(1, edges[:, 0]) - points.index_select(1, edges[:, 1])


def _crosses(points: Tensor, faces: Tensor) -> Tensor:
    corner = points.index_select(1, faces[:, 0])
    ax, ay, az = (points.index_select(1, faces[:, 1]) - corner).unbind(0)
    bx, by, bz = (points.index_select(1, faces[:, 2]) - corner).unbind(0)
    return torch.stack((ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx))


def _laplacian(values: Tensor, topology: MeshTopology) -> Tensor:
    """Subtract the mean of its neighbours from each vertex."""
    first, second = topology.edges.unbind(-1)
    total = torch.zeros_like(values)
    total = total.index_add(1, first, values.index_select(1, second))
    total = total.index_add(1, second, values.index_select(1, first))
    return values - total * topology.inverse_degree[:, None].to(values.dtype)


def chamfer_loss(
    pred: Float[Tensor, "*batch points 3"],
    target: Float[Tensor, "*batch others 3"],
    mask: Bool[Tensor, "*#batch"] | None = None,
    *,
    squared: bool = False,
    scale_m: float = KEYPOINT_SCALE_M,
) -> Float[Tensor, ""]:
    """Penalise the distance to the nearest point, both ways; for surfaces without correspondence.

    The nearest points are searched without gradient, a few meshes at a time, and the distances to them then computed
    exactly: the memory of the backward pass is linear in the number of points.

    Formula: mean over i of min_j |x_i - y_j| / scale + mean over j of min_i |x_i - y_j| / scale; squared on request.

    Args:
        squared: square the distances (pytorch3d's default) instead of taking them as they are.

    Source:
        Fan et al. 2017. MANO has corresponding vertices: `vertices_loss` is the better main term there.

    Example:
        >>> chamfer_loss(torch.zeros(5, 3), torch.zeros(7, 3)).item()
        0.0
    """
    p, t, flat_mask = _flat(pred, target, mask)
    to_target, to_pred = nearest_indices(p, t)
    forward = safe_norm(p - t.gather(1, to_target.unsqueeze(-1).expand(-1, -1, 3))) / scale_m
    backward = safe_norm(t - p.gather(1, to_pred.unsqueeze(-1).expand(-1, -1, 3))) / scale_m
    if squared:
        forward, backward = forward.square(), backward.square()
    return masked_mean(forward.mean(-1) + backward.mean(-1), flat_mask)


def _flat(pred: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Flatten both point sets to (B, points, 3) and the mask to (B); masked samples become zeros."""
    p = promote(pred).reshape(-1, *pred.shape[-2:])
    t = promote(target).reshape(-1, *target.shape[-2:])
    if mask is None:
        return p, t, None
    flat = mask.expand(pred.shape[:-2]).reshape(-1)
    keep = flat[:, None, None]
    return torch.where(keep, p, torch.zeros_like(p)), torch.where(keep, t, torch.zeros_like(t)), flat
