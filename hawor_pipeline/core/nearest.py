"""Nearest points between clouds: indices to differentiate through, and exact distances."""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

_CHUNK = 8  # meshes searched together: 18 MB of distances for 778 x 778 float32


@torch.no_grad()
def nearest_indices(
    first: Float[Tensor, "batch points 3"], second: Float[Tensor, "batch others 3"]
) -> tuple[Int[Tensor, "batch points"], Int[Tensor, "batch others"]]:
    """For each point of two clouds, the index of the nearest point of the other.

    Args:
        first: (batch, points, 3), metres.
        second: (batch, others, 3), metres.

    Returns:
        Indices into `second` (batch, points) and into `first` (batch, others).

    Source:
        All distances, a few clouds at a time. They are taken between clouds centred on the first, because the matrix
        form |x|^2 - 2 x.y + |y|^2 loses a millimetre when a hand is a metre from the origin.

    Example:
        >>> nearest_indices(torch.zeros(1, 1, 3), torch.eye(3)[None] * 2)[1].tolist()
        [[0, 0, 0]]
    """
    to_second, to_first = [], []
    for start in range(0, len(first), _CHUNK):
        x, y = first[start : start + _CHUNK], second[start : start + _CHUNK]
        centre = x.mean(1, keepdim=True)
        x, y = x - centre, y - centre
        squares = x.square().sum(-1, keepdim=True) + y.square().sum(-1).unsqueeze(1)
        distance = torch.baddbmm(squares, x, y.transpose(1, 2), alpha=-2)
        to_second.append(distance.argmin(2))
        to_first.append(distance.argmin(1))
    empty = torch.empty(0, 0, dtype=torch.int64, device=first.device)
    return (torch.cat(to_second), torch.cat(to_first)) if to_second else (empty, empty)


@torch.no_grad()
def nearest_distances(
    pred: Float[Tensor, "*batch points 3"],
    target: Float[Tensor, "*batch others 3"],
    *,
    bound: float = float("inf"),
    enough: float = 0.0,
) -> tuple[Float[Tensor, "*batch points"], Float[Tensor, "*batch others"]]:
    """Distance of each point to the nearest point of the other cloud, both ways.

    Args:
        pred: (*batch, points, 3), metres.
        target: (*batch, others, 3), metres.
        bound: distances from here on may come back as infinity, which makes the search shorter.
        enough: in clouds of equal size, a point closer than this to its own partner needs no search: the distance to
            the partner (never less than the true one) comes back.

    Returns:
        Distances of the predicted points (*batch, points) and of the target's (*batch, others), metres.

    Source:
        KD-trees on the CPU, all distances in chunks elsewhere. Exact, unlike the matrix form of `torch.cdist`.

    Example:
        >>> nearest_distances(torch.zeros(1, 3), torch.eye(3))[1].tolist()
        [1.0, 1.0, 1.0]
    """
    batch = pred.shape[:-2]
    p, t = _clouds(pred), _clouds(target)
    if p.device.type == "cpu":
        forward, backward = _tree_distances(p.numpy(), t.numpy(), bound, enough)
        first, second = torch.from_numpy(forward), torch.from_numpy(backward)
    else:
        to_target, to_pred = nearest_indices(p, t)
        first = torch.linalg.vector_norm(p - t.gather(1, to_target.unsqueeze(-1).expand(-1, -1, 3)), dim=-1)
        second = torch.linalg.vector_norm(t - p.gather(1, to_pred.unsqueeze(-1).expand(-1, -1, 3)), dim=-1)
    return first.to(p.dtype).reshape(*batch, p.shape[-2]), second.to(p.dtype).reshape(*batch, t.shape[-2])


@torch.no_grad()
def nearest_points(
    points: Float[Tensor, "*batch points 3"], others: Float[Tensor, "*batch others 3"]
) -> tuple[Float[Tensor, "*batch points"], Int[Tensor, "*batch points"]]:
    """For each point of one cloud the nearest of another: its distance and its index.

    Args:
        points: (*batch, points, 3), metres.
        others: (*batch, others, 3), metres.

    Returns:
        Distances (*batch, points), metres, NaN where a cloud is not finite, and indices into `others`
        (*batch, points).

    Source:
        KD-trees on the CPU, all distances in chunks elsewhere. Exact, so that a point just in contact is in contact.

    Example:
        >>> nearest_points(torch.zeros(1, 3), torch.eye(3) * 2)
        (tensor([2.]), tensor([0]))
    """
    p, t = _clouds(points), _clouds(others)
    if p.device.type == "cpu":
        reach, index = np.full(p.shape[:2], np.nan), np.zeros(p.shape[:2], np.int64)
        for i, (ours, theirs) in enumerate(zip(p.numpy(), t.numpy(), strict=True)):
            if np.isfinite(ours).all() and np.isfinite(theirs).all():
                reach[i], index[i] = cKDTree(theirs).query(ours)
        distances, indices = torch.from_numpy(reach).to(p.dtype), torch.from_numpy(index)
    else:
        indices = nearest_indices(p, t)[0]
        distances = torch.linalg.vector_norm(p - t.gather(1, indices.unsqueeze(-1).expand(-1, -1, 3)), dim=-1)
    shape = points.shape[:-1]
    return distances.reshape(shape), indices.reshape(shape)


def _clouds(points: Tensor) -> Tensor:
    """(B, points, 3) without gradient, in at least float32."""
    wide = points.detach().to(torch.promote_types(points.dtype, torch.float32))
    return wide.reshape(-1, *points.shape[-2:])


def _tree_distances(pred: np.ndarray, target: np.ndarray, bound: float, enough: float) -> tuple[np.ndarray, np.ndarray]:
    forward = np.full(pred.shape[:2], np.inf)
    backward = np.full(target.shape[:2], np.inf)
    if enough > 0 and pred.shape == target.shape:
        partner = np.linalg.norm(pred.astype(np.float64) - target, axis=-1)
        close = partner < enough
        forward[close], backward[close] = partner[close], partner[close]
    for i, (p, t) in enumerate(zip(pred, target, strict=True)):
        for points, others, out in ((p, t, forward[i]), (t, p, backward[i])):
            open_ = np.isinf(out)
            if open_.any() and np.isfinite(points).all() and np.isfinite(others).all():
                tree = cKDTree(others, balanced_tree=False, compact_nodes=False)
                out[open_] = tree.query(points[open_], distance_upper_bound=bound)[0]
            elif open_.any():
                out[:] = np.nan
    return forward, backward
