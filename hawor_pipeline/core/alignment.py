"""Similarity alignment of point clouds (Procrustes, Umeyama).

Convention: `target ~ s R pred + t`, column vectors, metres, free leading batch dimensions. No gradient flows through an
alignment: see `hawor_pipeline.core.losses.procrustes_keypoints_loss` for why that is right.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_TINY = 1e-24  # m^2: a cloud of this spread is a single point


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
        Umeyama 1991, equations 34 to 43. Agrees with `scipy.linalg.orthogonal_procrustes` when reflections are allowed.

    Example:
        >>> cloud = torch.rand(21, 3)
        >>> s, R, t = procrustes(cloud, 2 * cloud)
        >>> round(s.item(), 5)
        2.0
    """
    dtype = torch.promote_types(pred.dtype, torch.float32)
    a, b, mean_a, mean_b = _centred(pred.to(dtype), target.to(dtype), mask)
    covariance = (a.transpose(-1, -2) @ b).double()
    u, singular, vh = torch.linalg.svd(covariance)
    v = vh.transpose(-1, -2)
    sign = torch.ones_like(singular)
    if not allow_reflection:
        negative = torch.linalg.det(u) * torch.linalg.det(v) < 0
        sign[..., 2] = torch.where(negative, -1.0, 1.0).to(sign.dtype)
    rotation = (v * sign.unsqueeze(-2)) @ u.transpose(-1, -2)
    if with_scale:
        scale = (singular * sign).sum(-1) / a.square().sum((-1, -2)).double().clamp_min(_TINY)
    else:
        scale = torch.ones_like(singular[..., 0])
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
