"""Similarity alignment of point clouds (Procrustes, Umeyama).

Convention: `target ~ s R pred + t`, column vectors, metres, free leading batch dimensions. No gradient flows through an
alignment: see `hawor_pipeline.core.losses.procrustes_keypoints_loss` for why that is right.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_TINY = 1e-24  # m^2: a cloud of this spread is a single point
_BULK = 1000  # clouds: from here on the closed form is faster than one decomposition each
_PIECE = 4096  # clouds whose temporaries stay in the cache
_LEAST_GAP = 1e-6  # product of the relative eigenvalue gaps below which the closed form loses digits


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
        pred: (*batch, points, 3), metres.
        target: (*batch, points, 3), metres.
        mask: (*batch, points), points that count; all by default.
        allow_reflection: let R mirror the cloud, as FreiHAND's and HO-3D's evaluation do.
        with_scale: fit the scale too; False gives the rigid alignment.

    Returns:
        s (*batch), R (*batch, 3, 3), t (*batch, 3) in the dtype of `pred` (at least float32). A cloud without extent,
        or a mask that selects nothing, gives finite values.

    Source:
        Umeyama 1991, equations 34 to 43; for many clouds the equal closed form of Horn 1987, see `_by_quaternion`.
        Agrees with `scipy.linalg.orthogonal_procrustes` when reflections are allowed.

    Example:
        >>> cloud = torch.rand(21, 3)
        >>> s, R, t = procrustes(cloud, 2 * cloud)
        >>> round(s.item(), 5)
        2.0
    """
    dtype = torch.promote_types(pred.dtype, torch.float32)
    a, b, mean_a, mean_b = _centred(pred.to(dtype), target.to(dtype), mask)
    covariance = (a.transpose(-1, -2) @ b).double()
    spread = a.square().sum((-1, -2)).double()
    if allow_reflection or spread.numel() < _BULK:
        rotation, strength = _by_svd(covariance, allow_reflection)
    else:
        rotation, strength = _in_bulk(covariance, (spread + b.square().sum((-1, -2))) / 2)
    scale = strength / spread.clamp_min(_TINY) if with_scale else torch.ones_like(strength)
    shift = mean_b.double() - scale.unsqueeze(-1) * (rotation @ mean_a.double().unsqueeze(-1)).squeeze(-1)
    return scale.to(dtype), rotation.to(dtype), shift.to(dtype)


def apply_similarity(
    points: Float[Tensor, "*batch points 3"],
    scale: Float[Tensor, "*batch"],
    rotation: Float[Tensor, "*batch 3 3"],
    shift: Float[Tensor, "*batch 3"],
) -> Float[Tensor, "*batch points 3"]:
    """Apply s R p + t to points.

    Args:
        points: (*batch, points, 3), metres.
        scale: (*batch).
        rotation: (*batch, 3, 3).
        shift: (*batch, 3), metres.

    Returns:
        (*batch, points, 3), metres.

    Source:
        Definition.

    Example:
        >>> apply_similarity(torch.ones(1, 3), torch.tensor(2.0), torch.eye(3), torch.zeros(3)).tolist()
        [[2.0, 2.0, 2.0]]
    """
    return points @ (scale[..., None, None] * rotation).transpose(-1, -2) + shift.unsqueeze(-2)


def _centred(a: Tensor, b: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both clouds minus their means, points that do not count set to zero, and the means."""
    if mask is None:
        mean_a, mean_b = a.mean(-2), b.mean(-2)
        return a - mean_a.unsqueeze(-2), b - mean_b.unsqueeze(-2), mean_a, mean_b
    keep = mask.unsqueeze(-1)
    zero = torch.zeros((), dtype=a.dtype, device=a.device)
    count = keep.sum(-2).clamp_min(1)
    mean_a, mean_b = torch.where(keep, a, zero).sum(-2) / count, torch.where(keep, b, zero).sum(-2) / count
    return (
        torch.where(keep, a - mean_a.unsqueeze(-2), zero),
        torch.where(keep, b - mean_b.unsqueeze(-2), zero),
        mean_a,
        mean_b,
    )


def _by_svd(covariance: Tensor, allow_reflection: bool) -> tuple[Tensor, Tensor]:
    """Best rotations and the traces tr(R K) that they reach, by singular value decomposition."""
    u, singular, vh = torch.linalg.svd(covariance)
    v = vh.transpose(-1, -2)
    sign = torch.ones_like(singular)
    if not allow_reflection:
        sign[..., 2] = torch.where(torch.linalg.det(u @ vh) < 0, -1.0, 1.0).to(sign.dtype)
    return (v * sign.unsqueeze(-2)) @ u.transpose(-1, -2), (singular * sign).sum(-1)


def _in_bulk(covariance: Tensor, energy: Tensor) -> tuple[Tensor, Tensor]:
    """As `_by_svd`, component by component for all clouds of a piece; clouds without a clear answer go to the SVD."""
    batch = covariance.shape[:-2]
    flat = covariance.reshape(-1, 3, 3)
    # both bound the eigenvalue; the first is close for similar clouds, the second for unlike ones
    norm = 3**0.5 * torch.linalg.vector_norm(flat, dim=(1, 2))
    bound = torch.minimum(energy.reshape(-1), norm).clamp_min(_TINY)
    parts = [_by_quaternion(k / e[:, None, None]) for k, e in zip(flat.split(_PIECE), bound.split(_PIECE), strict=True)]
    rotation, strength, clear = (torch.cat(part) for part in zip(*parts, strict=True))
    strength = strength * bound
    unclear = ~clear
    if unclear.any():
        rotation[unclear], strength[unclear] = _by_svd(flat[unclear], False)
    return rotation.reshape(*batch, 3, 3), strength.reshape(batch)


def _by_quaternion(covariance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rotation as the top eigenvector of Horn's 4x4 matrix; covariance (B, 3, 3) scaled so that the eigenvalue is <= 1.

    The eigenvalue comes from Newton steps on the characteristic polynomial (Theobald 2005), the eigenvector from a
    column of the adjugate. The third result is true where both are accurate to float32 and better.
    """
    xx, xy, xz, yx, yy, yz, zx, zy, zz = covariance.flatten(1).unbind(1)
    m01, m02, m03, m12, m13, m23 = yz - zy, zx - xz, xy - yx, xy + yx, zx + xz, yz + zy
    diagonal = (xx + yy + zz, xx - yy - zz, yy - xx - zz, zz - xx - yy)
    c2 = -2 * covariance.square().sum((1, 2))
    c1 = -8 * (xx * (yy * zz - yz * zy) - xy * (yx * zz - yz * zx) + xz * (yx * zy - yy * zx))
    off = (m01, m02, m03, m12, m13, m23)
    s, t = _minors(diagonal, off)
    c0 = s[0] * t[5] - s[1] * t[4] + s[2] * t[3] + s[3] * t[2] - s[4] * t[1] + s[5] * t[0]
    top = torch.ones_like(c0)
    for _ in range(12):
        first = (top * top + c2) * top
        second = first + c1
        step = (second * top + c0) / (2 * top**3 + first + second)
        top = top - step
    m00, m11, m22, m33 = (d - top for d in diagonal)
    s, t = _minors((m00, m11, m22, m33), off)
    b00 = m11 * t[5] - m12 * t[4] + m13 * t[3]
    b01 = m02 * t[4] - m01 * t[5] - m03 * t[3]
    b02 = m13 * s[5] - m23 * s[4] + m33 * s[3]
    b03 = m22 * s[4] - m12 * s[5] - m23 * s[3]
    b11 = m00 * t[5] - m02 * t[2] + m03 * t[1]
    b12 = m23 * s[2] - m03 * s[5] - m33 * s[1]
    b13 = m02 * s[5] - m22 * s[2] + m23 * s[1]
    b22 = m03 * s[4] - m13 * s[2] + m33 * s[0]
    b23 = m12 * s[2] - m02 * s[4] - m23 * s[0]
    b33 = m02 * s[3] - m12 * s[1] + m22 * s[0]
    adjugate = torch.stack((b00, b01, b02, b03, b01, b11, b12, b13, b02, b12, b22, b23, b03, b13, b23, b33), 1)
    best = torch.stack((b00, b11, b22, b33), 1).abs().max(1)
    column = adjugate.view(-1, 4, 4)[torch.arange(len(top), device=top.device), best.indices]
    clear = (best.values > _LEAST_GAP) & (step.abs() < 1e-12)
    w, x, y, z = (column / torch.linalg.vector_norm(column, dim=1, keepdim=True)).unbind(1)
    rotation = torch.stack(
        (
            1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        ),
        1,
    )  # fmt: skip
    return rotation.view(-1, 3, 3), top, clear


def _minors(diagonal: tuple[Tensor, ...], off: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """The 2x2 minors of the upper and the lower two rows of a symmetric 4x4 matrix."""
    m00, m11, m22, m33 = diagonal
    m01, m02, m03, m12, m13, m23 = off
    upper = [
        m00 * m11 - m01 * m01, m00 * m12 - m01 * m02, m00 * m13 - m01 * m03,
        m01 * m12 - m11 * m02, m01 * m13 - m11 * m03, m02 * m13 - m12 * m03,
    ]  # fmt: skip
    lower = [
        m02 * m13 - m03 * m12, m02 * m23 - m03 * m22, m02 * m33 - m03 * m23,
        m12 * m23 - m13 * m22, m12 * m33 - m13 * m23, m22 * m33 - m23 * m23,
    ]  # fmt: skip
    return upper, lower
