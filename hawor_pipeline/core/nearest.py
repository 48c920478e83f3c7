"""Nearest points between clouds (metres): indices to differentiate through, and exact distances."""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from torch import Tensor

_CHUNK = 8  # meshes searched together: 18 MB of distances for 778 x 778 float32
_TILE_ROWS = 256
_MATRIX_ENTRIES = 4_000_000  # pairs of points; with more, trees are faster


@torch.no_grad()
def nearest_indices(
    first: Float[Tensor, "batch points 3"], second: Float[Tensor, "batch others 3"]
) -> tuple[Int[Tensor, "batch points"], Int[Tensor, "batch others"]]:
    """Find the index of the nearest point of the other cloud, for each point of two clouds.

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
    pred: Float[Tensor, "*batch points 3"], target: Float[Tensor, "*batch others 3"], *, enough: float = 0.0
) -> tuple[Float[Tensor, "*batch points"], Float[Tensor, "*batch others"]]:
    """Measure the distance of each point to the nearest point of the other cloud, both ways.

    Args:
        enough: in clouds of equal size, a point closer than this to its own partner is not searched: its distance is
            that to the partner (never less than the exact one).

    Returns:
        Distances of the predicted points (*batch, points) and of the target's (*batch, others), metres; NaN for clouds
        that are not finite.

    Source:
        The neighbour is found among all distances in float32, and the distance to it is then taken in the precision of
        the input, unlike that of `torch.cdist`: of two neighbours that are equally near to a few micrometres either may
        be taken. On the CPU clouds of more than some thousand points are searched by KD-trees.

    Example:
        >>> nearest_distances(torch.zeros(1, 3), torch.eye(3))[1].tolist()
        [1.0, 1.0, 1.0]
    """
    batch = pred.shape[:-2]
    p, t = _clouds(pred), _clouds(target)
    if p.device.type != "cpu":
        to_target, to_pred = nearest_indices(p, t)
    elif p.shape[1] * t.shape[1] <= _MATRIX_ENTRIES:
        to_target, to_pred = _matrix_search(p, t, enough)
    else:
        to_target, to_pred = _tree_search(p, t)
    first = torch.linalg.vector_norm(p - t.gather(1, to_target.unsqueeze(-1).expand(-1, -1, 3)), dim=-1)
    second = torch.linalg.vector_norm(t - p.gather(1, to_pred.unsqueeze(-1).expand(-1, -1, 3)), dim=-1)
    broken = ~(torch.isfinite(p).flatten(1).all(1) & torch.isfinite(t).flatten(1).all(1)).unsqueeze(-1)
    first, second = (distance.masked_fill(broken, torch.nan) for distance in (first, second))
    return first.reshape(*batch, p.shape[-2]), second.reshape(*batch, t.shape[-2])


@torch.no_grad()
def nearest_points(
    points: Float[Tensor, "*batch points 3"], others: Float[Tensor, "*batch others 3"]
) -> tuple[Float[Tensor, "*batch points"], Int[Tensor, "*batch points"]]:
    """Find distance and index of the nearest point of another cloud, for each point of one cloud.

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
    """Flatten to (B, points, 3) without gradient, in at least float32."""
    wide = points.detach().to(torch.promote_types(points.dtype, torch.float32))
    return wide.reshape(-1, *points.shape[-2:])


def _matrix_search(pred: Tensor, target: Tensor, enough: float) -> tuple[Tensor, Tensor]:
    """Search all distances of each pair of clouds, a few rows at a time, so that they stay in the cache."""
    # |x - y|^2 less |x|^2 is a product of [-2 x, 1] and [y, |y|^2], and has its minimum at the same y. NumPy's argmin
    # along rows is ten times faster than torch's, so each direction has its own product; its calls cost less, too.
    centre = pred.mean(1, keepdim=True)
    clouds = [torch.nan_to_num((cloud - centre).float()).numpy() for cloud in (pred, target)]
    rows = [np.concatenate((-2 * cloud, np.ones_like(cloud[..., :1])), -1) for cloud in clouds]  # (B, n, 4)
    squares = [np.einsum("bnc,bnc->bn", cloud, cloud)[:, None] for cloud in clouds]
    columns = [np.concatenate((cloud.transpose(0, 2, 1), s), 1) for cloud, s in zip(clouds, squares, strict=True)]
    far = None
    if enough > 0 and pred.shape == target.shape:
        far = (torch.linalg.vector_norm(pred - target, dim=-1) >= enough).numpy()
    tile = np.empty(_TILE_ROWS * max(pred.shape[1], target.shape[1]), np.float32)  # fresh memory costs page faults
    found = []
    for asking, asked in ((0, 1), (1, 0)):
        points = rows[asking].shape[1]
        index = np.tile(np.arange(points), (len(pred), 1))  # partners, unless a nearer point is found
        for number, column in enumerate(columns[asked]):
            if far is None:
                _nearest_columns(rows[asking][number], column, tile, index[number])
            else:
                (moved,) = far[number].nonzero()
                nearer = np.empty(len(moved), np.int64)
                _nearest_columns(rows[asking][number, moved], column, tile, nearer)
                index[number, moved] = nearer
        found.append(torch.from_numpy(index))
    return found[0], found[1]


def _nearest_columns(rows: np.ndarray, columns: np.ndarray, tile: np.ndarray, index: np.ndarray) -> None:
    """Write the index of the smallest entry per row of rows (n, 4) @ columns (4, m); `tile` is overwritten."""
    width = columns.shape[1]
    for start in range(0, len(rows), _TILE_ROWS):
        part = rows[start : start + _TILE_ROWS]
        distance = tile[: len(part) * width].reshape(len(part), width)
        np.matmul(part, columns, out=distance)
        distance.argmin(1, out=index[start : start + len(part)])


def _tree_search(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    clouds = [torch.nan_to_num(cloud).numpy() for cloud in (pred, target)]
    found = []
    for asking, asked in (clouds, clouds[::-1]):
        # Each tree is queried once, so a faster construction pays more than a faster query.
        trees = [cKDTree(cloud, balanced_tree=False, compact_nodes=False) for cloud in asked]
        indices = [tree.query(points)[1] for tree, points in zip(trees, asking, strict=True)]
        found.append(torch.from_numpy(np.array(indices, np.int64).reshape(asking.shape[:2])))
    return found[0], found[1]
