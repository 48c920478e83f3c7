"""Similarity alignment of point clouds (Procrustes, Umeyama).

Convention: `target ~ s R pred + t`, column vectors, metres, free leading batch dimensions. `mask` (*batch, points)
selects the points that the alignment is fitted to, by default all, and `allow_reflection` lets it mirror, as FreiHAND's
and HO-3D's evaluation do. No gradient flows through an alignment;
`hawor_pipeline.core.losses.procrustes_keypoints_loss` explains why that is exact.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

_TINY = 1e-24  # m^2: a cloud of this spread is a single point
_PIECE = 1024  # covariances per piece: their temporaries stay in the cache
_LEAST_GAP = 1e-3  # (s1 + s2)(s2 + s3)(s3 + s1) over (s1 + s2 + s3)^3, below which the closed form loses digits
_NEWTON_STEPS = 12
_CONVERGED = 1e-8  # relative; a Newton step this small leaves an error of its square

# numpy.ndarray or Tensor. The closed form is plain arithmetic, and numpy takes a third of torch's time on small arrays.
Array = Any


@torch.no_grad()
def procrustes(
    pred: Float[Tensor, "*batch points 3"],
    target: Float[Tensor, "*batch points 3"],
    *,
    mask: Bool[Tensor, "*#batch points"] | None = None,
    allow_reflection: bool = False,
    with_scale: bool = True,
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch 3 3"], Float[Tensor, "*batch 3"]]:
    """Find the similarity that brings one cloud closest to another in the least-squares sense.

    Formula: with both clouds centred and K = sum a b^T = U S V^T: R = V diag(1, 1, d) U^T, d = sign(det U det V);
    s = (s1 + s2 + d s3) / sum |a|^2; t = mean b - s R mean a.

    Args:
        with_scale: fit the scale too; False gives the rigid alignment.

    Returns:
        s (*batch), R (*batch, 3, 3), t (*batch, 3) in the dtype of `pred` (at least float32). A cloud without extent,
        or a mask that selects nothing, gives finite values; points that are not finite give NaN.

    Source:
        Umeyama 1991, equations 34 to 43, by the equal closed form of Horn 1987, see `_closed_form`. Agrees with
        `scipy.linalg.orthogonal_procrustes` when reflections are allowed.

    Example:
        >>> cloud = torch.rand(21, 3)
        >>> s, R, t = procrustes(cloud, 2 * cloud)
        >>> round(s.item(), 5)
        2.0
    """
    dtype = torch.promote_types(pred.dtype, torch.float32)
    pred, target = pred.to(dtype), target.to(dtype)
    mean_a, mean_b = _mean(pred, mask), _mean(target, mask)
    a, b = _kept(pred - mean_a, mask), _kept(target - mean_b, mask)
    transposed, strength = _best_rotations(_product(a, b), allow_reflection)
    scale = strength / _spread(a).double() if with_scale else torch.ones_like(strength)
    shift = mean_b.double() - scale[..., None, None] * (mean_a.double() @ transposed)
    return scale.to(dtype), transposed.mT.to(dtype), shift.squeeze(-2).to(dtype)


def apply_similarity(
    points: Float[Tensor, "*batch points 3"],
    scale: Float[Tensor, "*batch"],
    rotation: Float[Tensor, "*batch 3 3"],
    shift: Float[Tensor, "*batch 3"],
) -> Float[Tensor, "*batch points 3"]:
    """Apply s R p + t to points.

    Example:
        >>> apply_similarity(torch.ones(1, 3), torch.tensor(2.0), torch.eye(3), torch.zeros(3)).tolist()
        [[2.0, 2.0, 2.0]]
    """
    return points @ (scale[..., None, None] * rotation).transpose(-1, -2) + shift.unsqueeze(-2)


def aligned_difference(
    pred: Float[Tensor, "*batch points 3"],
    target: Float[Tensor, "*batch points 3"],
    *,
    mask: Bool[Tensor, "*#batch points"] | None = None,
    allow_reflection: bool = False,
) -> Float[Tensor, "*batch points 3"]:
    """Compute the difference of two clouds after the best similarity: s R pred + t - target, of all points.

    Returns:
        (*batch, points, 3), metres; the alignment is a constant in the backward pass.

    Source:
        `procrustes` and `apply_similarity` in one, without writing the aligned cloud: s R (p - mean p) - (t - mean t).

    Example:
        >>> cloud = torch.rand(21, 3)
        >>> aligned_difference(3 * cloud + 1, cloud).abs().max().item() < 1e-5
        True
    """
    dtype = torch.promote_types(pred.dtype, torch.float32)
    pred, target = pred.to(dtype), target.to(dtype)
    a, b = pred - _mean(pred.detach(), mask), target - _mean(target.detach(), mask)
    with torch.no_grad():
        kept = _kept(a, mask)
        transposed, strength = _best_rotations(_product(kept, _kept(b, mask)), allow_reflection)
        scale = strength / _spread(kept)
        turn = (transposed * scale[..., None, None]).to(dtype, memory_format=torch.contiguous_format)
    if a.ndim == 3 and a.shape == b.shape:  # product and difference in one pass over the points
        return torch.baddbmm(b, a, turn, beta=-1)
    return a @ turn - b


def _mean(points: Tensor, mask: Tensor | None) -> Tensor:
    """Compute the mean of the masked points, (*batch, 1, 3); 0 for an empty mask."""
    if mask is None:
        return points.mean(-2, keepdim=True)
    keep = mask.unsqueeze(-1)
    return _kept(points, mask).sum(-2, keepdim=True) / keep.sum(-2, keepdim=True).clamp_min(1)


def _kept(points: Tensor, mask: Tensor | None) -> Tensor:
    """Set points outside the mask to zero."""
    # Not a product with the mask: 0 times NaN is NaN.
    return points if mask is None else torch.where(mask.unsqueeze(-1), points, points.new_zeros(()))


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Sum a b^T over points, (*batch, 3, 3)."""
    return torch.bmm(a.mT, b) if a.ndim == b.ndim == 3 and len(a) == len(b) else a.mT @ b


def _spread(centred: Tensor) -> Tensor:
    """Sum the squares of a centred cloud, (*batch)."""
    return centred.square().sum((-1, -2)).clamp_min(_TINY)


def _best_rotations(covariance: Tensor, allow_reflection: bool) -> tuple[Tensor, Tensor]:
    """Compute transposed rotations (*batch, 3, 3), float64, and the traces tr(R K) that they reach (*batch).

    By the closed form; clouds without a clear answer (points, lines, mirror images) go to the SVD.
    """
    if covariance.ndim != 3:
        rotation, strength = _best_rotations(covariance.reshape(-1, 3, 3), allow_reflection)
        return rotation.reshape(covariance.shape), strength.reshape(covariance.shape[:-2])
    if len(covariance) > _PIECE:
        pieces = [_best_rotations(piece, allow_reflection) for piece in covariance.split(_PIECE)]
        rotations, strengths = zip(*pieces, strict=True)
        return torch.cat(rotations), torch.cat(strengths)
    rotation, strength, clear = _in_closed_form(covariance, allow_reflection)
    if not clear.all():  # NaN covariances stay NaN: the SVD would raise on them
        rest = ~clear & covariance.isfinite().flatten(1).all(1)
        rotation[rest], strength[rest] = _by_svd(covariance[rest].double(), allow_reflection)
    return rotation, strength


def _by_svd(covariance: Tensor, allow_reflection: bool) -> tuple[Tensor, Tensor]:
    """Compute transposed rotations and the traces that they reach by singular value decomposition."""
    u, singular, vh = torch.linalg.svd(covariance)
    sign = torch.ones_like(singular)
    if not allow_reflection:
        # Of all mirrored solutions, flipping the weakest axis gives up the least of the trace.
        sign[..., 2] = torch.where(torch.linalg.det(u @ vh) < 0, -1.0, 1.0).to(sign.dtype)
    return (u * sign.unsqueeze(-2)) @ vh, (singular * sign).sum(-1)


def _in_closed_form(covariance: Tensor, allow_reflection: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the same as `_by_svd` for (N, 3, 3); the third result (N) is true where it is accurate."""
    # The batch goes last, so that every operation below runs over contiguous rows of N numbers.
    rows, shape = covariance.permute(1, 2, 0), (5, 5, len(covariance))
    if covariance.device.type == "cpu":
        with np.errstate(all="ignore"):  # a cloud without extent divides by zero; the SVD then replaces it
            wrapped = _wrap(rows.numpy(), np.empty(shape))
            rotation, strength, clear = (torch.from_numpy(x) for x in _closed_form(wrapped, allow_reflection))
    else:
        wrapped = _wrap(rows, torch.empty(shape, dtype=torch.float64, device=rows.device))
        rotation, strength, clear = _closed_form(wrapped, allow_reflection)
    return rotation.permute(2, 0, 1), strength, clear


def _wrap(matrices: Array, out: Array) -> Array:
    """Write (3, 3, N) into (5, 5, N), the first two rows and columns repeated after the last ones."""
    out[:3, :3] = matrices
    out[3:, :3] = out[:2, :3]
    out[:, 3:] = out[:, :2]
    return out


def _closed_form(wrapped: Array, allow_reflection: bool) -> tuple[Array, Array, Array]:
    """Compute transposed rotations (3, 3, N), the traces that they reach (N), and where both are accurate (N).

    With l = s1 + s2 + s3 the trace, F the norm of K, C its cofactors and k = (l^2 - F^2) / 2, the transposed rotation
    is ((k + F^2) K + l C - K K^T K) / (k l - det K). Newton's method finds l as the largest root of
    x^4 - 2 F^2 x^2 - 8 det K x + F^4 - 4 |C|^2. A best reflection is minus the best rotation of -K.

    Args:
        wrapped: (5, 5, N), K followed by itself as cofactors need it, from `_wrap`.

    Source:
        Markley 1993, "Attitude determination using vector observations: a fast optimal matrix algorithm".
    """
    k = wrapped[:3, :3]
    # Cofactor (i, j) is K[i+1, j+1] K[i+2, j+2] - K[i+1, j+2] K[i+2, j+1] with indices modulo 3: on the wrapped matrix
    # all nine are one expression of four slices.
    cofactors = wrapped[1:4, 1:4] * wrapped[2:5, 2:5] - wrapped[1:4, 2:5] * wrapped[2:5, 1:4]
    det = (k[0] * cofactors[0]).sum(0)
    norm = (k * k).sum((0, 1))  # F^2
    minors = (cofactors * cofactors).sum((0, 1))  # |C|^2
    sign = 1.0 - 2.0 * (det < 0) if allow_reflection else 1.0  # solve for -K where a reflection is better
    trace, step = _largest_root(norm, det * sign, minors)
    half = (trace * trace - norm) / 2
    gaps = half * trace - det * sign
    square = (k[:, :, None] * k[:, None]).sum(0)  # K^T K
    cube = (k[:, :, None] * square).sum(1)
    rotation = ((half + norm) * k + trace * sign * cofactors - cube) / gaps
    # `gaps` is (s1 + s2)(s2 + s3)(s3 + s1); where a factor vanishes, several rotations are equally good.
    clear = (gaps > _LEAST_GAP * trace**3) & (abs(step) < _CONVERGED * trace)
    return rotation, trace, clear


def _largest_root(norm: Array, det: Array, minors: Array) -> tuple[Array, Array]:
    """Find the sum of the signed singular values; return it with the last Newton step."""
    # All roots are real, so Newton descends monotonically to the largest one from any upper bound. This bound follows
    # from l^2 = F^2 + 2 q with q = s1 s2 + s2 s3 + s3 s1, q^2 = |C|^2 + 2 l det K, and l <= sqrt(3) F. It is close
    # unless the third value is negative and large.
    root = (norm + 2 * (minors + 2 * 3**0.5 * abs(det) * norm**0.5) ** 0.5) ** 0.5
    constant = norm * norm - 4 * minors
    for number in range(_NEWTON_STEPS):
        square = root * root
        first = (square - 2 * norm) * root - 8 * det
        step = (first * root + constant) / (4 * (square - norm) * root - 8 * det)
        root = root - step
        # The test costs as much as half a step, so the first two steps skip it.
        if number > 1 and not (abs(step) > _CONVERGED * root).any():
            break
    return root, step
