"""Rotations: axis-angle vectors, 3x3 matrices and the 6D form, with gradients that are finite everywhere.

Convention: `rotmat` and matrices without another description are rotation matrices that act on column vectors;
axis-angle is in radians, the 6D form has no unit; leading batch dimensions are free. Half-precision inputs are promoted
to float32, because a rotation in bfloat16 is wrong by a fifth of a degree.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hawor_pipeline.core.types import promote

Rot6dLayout = Literal["columns", "rows"]

_SMALL_ANGLE_SQ = 1e-4  # rad^2: below it the series is exact to float64 rounding after four terms
_DEGENERATE_NORM = 1e-6  # norms below it carry no direction in float32


def axis_angle_to_rotmat(axis_angle: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Turn axis-angle vectors into rotation matrices.

    Formula: R = I + (sin t / t) K + ((1 - cos t) / t^2) K^2 with t the norm and K the cross-product matrix; a Taylor
    series takes over for small angles, so values and gradients are exact at zero.

    Source:
        Rodrigues' formula. Agrees with `scipy.spatial.transform.Rotation.from_rotvec`.

    Example:
        >>> axis_angle_to_rotmat(torch.zeros(3)).diagonal().tolist()
        [1.0, 1.0, 1.0]
    """
    w = promote(axis_angle)
    sq = (w * w).sum(-1, keepdim=True)  # (*b, 1)
    small = sq < _SMALL_ANGLE_SQ
    t = torch.where(small, torch.ones_like(sq), sq).sqrt()  # the unused branch of a where must be finite in backward
    series_a = 1 - sq / 6 * (1 - sq / 20 * (1 - sq / 42))
    series_b = 0.5 - sq / 24 * (1 - sq / 30 * (1 - sq / 56))
    a = torch.where(small, series_a, t.sin() / t)
    # 1 - cos t = 2 sin^2(t/2), without cancellation at small angles.
    b = torch.where(small, series_b, 2 * (t / 2).sin().square() / (t * t))
    x, y, z = (w * a).unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), -1).reshape(*w.shape, 3)
    outer = b.unsqueeze(-1) * w.unsqueeze(-1) * w.unsqueeze(-2)  # K^2 = w w^T - |w|^2 I
    eye = torch.eye(3, dtype=w.dtype, device=w.device)
    return eye * (1 - (b * sq).unsqueeze(-1)) + skew + outer


def rotmat_to_quaternion(rotmat: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 4"]:
    """Turn rotation matrices into unit quaternions (w, x, y, z) with w >= 0.

    Returns:
        (*batch, 4) unit quaternions, real part first and never negative.

    Source:
        Shepperd 1978: the largest of the four squared components is taken first, so no division is by a small number.

    Example:
        >>> rotmat_to_quaternion(torch.eye(3)).tolist()
        [1.0, 0.0, 0.0, 0.0]
    """
    m = promote(rotmat)
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = m.flatten(-2).unbind(-1)
    squares = torch.stack((1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22), -1)
    candidates = torch.stack(
        (
            torch.stack((squares[..., 0], m21 - m12, m02 - m20, m10 - m01), -1),
            torch.stack((m21 - m12, squares[..., 1], m10 + m01, m02 + m20), -1),
            torch.stack((m02 - m20, m10 + m01, squares[..., 2], m12 + m21), -1),
            torch.stack((m10 - m01, m02 + m20, m12 + m21, squares[..., 3]), -1),
        ),
        -2,
    )  # (*b, 4, 4): row i is the quaternion times four times its component i
    best = squares.detach().argmax(-1)  # at least 1 of 4, so the division by its root is safe
    chosen = candidates.gather(-2, best[..., None, None].expand(*best.shape, 1, 4)).squeeze(-2)
    quaternion = chosen / torch.linalg.vector_norm(chosen, dim=-1, keepdim=True).clamp_min(_DEGENERATE_NORM)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def rotmat_to_axis_angle(rotmat: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3"]:
    """Turn rotation matrices into axis-angle vectors of norm 0 to pi.

    Returns:
        (*batch, 3), radians. At exactly pi the sign of the axis is arbitrary, as it must be.

    Source:
        Through the quaternion: t = 2 atan2(|v|, w). Agrees with `scipy.spatial.transform.Rotation.as_rotvec`.

    Example:
        >>> rotmat_to_axis_angle(torch.eye(3)).tolist()
        [0.0, 0.0, 0.0]
    """
    quaternion = rotmat_to_quaternion(rotmat)
    real, imaginary = quaternion[..., :1], quaternion[..., 1:]
    norm = torch.linalg.vector_norm(imaginary, dim=-1, keepdim=True)
    small = norm < _DEGENERATE_NORM
    safe = torch.where(small, torch.ones_like(norm), norm)
    scale = torch.where(small, 2 / real.clamp_min(0.5), 2 * torch.atan2(safe, real) / safe)
    return scale * imaginary


def rot6d_to_rotmat(rot6d: Float[Tensor, "*batch 6"], layout: Rot6dLayout = "columns") -> Float[Tensor, "*batch 3 3"]:
    """Turn six numbers into rotation matrices by Gram-Schmidt.

    Convention: the two 3-vectors become the first two columns of the matrix. With layout "columns" they are stored one
    after the other (HaMeR, HaWoR heads); with "rows" the six numbers are a 3x2 matrix in row order (SPIN, HaWoR
    infiller). A zero or collinear pair has no rotation: a constant direction replaces the missing one, so the result
    is always a proper rotation with finite gradients.

    Args:
        layout: how the two vectors are stored.

    Raises:
        ValueError: the layout is unknown.

    Source:
        Zhou et al. 2019, "On the Continuity of Rotation Representations in Neural Networks", section 4.2.

    Example:
        >>> rot6d_to_rotmat(torch.tensor([2.0, 0, 0, 5, 3, 0])).diagonal().tolist()
        [1.0, 1.0, 1.0]
    """
    x = promote(rot6d)
    if layout == "columns":
        first, second = x[..., :3], x[..., 3:]
    elif layout == "rows":
        first, second = x[..., 0::2], x[..., 1::2]
    else:
        raise ValueError(f"found layout={layout!r}, expected 'columns' or 'rows'")
    axes = torch.eye(3, dtype=x.dtype, device=x.device)
    b1 = _normalize_or(first, axes[0])
    rest = second - (b1 * second).sum(-1, keepdim=True) * b1
    # The coordinate axis least aligned with b1, made perpendicular to it, is well defined for every b1.
    helper = axes[b1.detach().abs().argmin(-1)]
    helper = helper - (b1.detach() * helper).sum(-1, keepdim=True) * b1.detach()
    b2 = _normalize_or(rest, helper / torch.linalg.vector_norm(helper, dim=-1, keepdim=True))
    b2 = b2 - (b1 * b2).sum(-1, keepdim=True) * b1  # once more: a nearly collinear pair loses digits in the first pass
    b2 = b2 / torch.linalg.vector_norm(b2, dim=-1, keepdim=True).clamp_min(0.5)
    return torch.stack((b1, b2, torch.linalg.cross(b1, b2)), -1)


def _normalize_or(vector: Tensor, replacement: Tensor) -> Tensor:
    """Normalise vectors; a vector without direction becomes the replacement, with zero gradient."""
    norm = torch.linalg.vector_norm(vector, dim=-1, keepdim=True)
    degenerate = norm < _DEGENERATE_NORM
    return torch.where(degenerate, replacement, vector / torch.where(degenerate, torch.ones_like(norm), norm))


def rotmat_to_rot6d(rotmat: Float[Tensor, "*batch 3 3"], layout: Rot6dLayout = "columns") -> Float[Tensor, "*batch 6"]:
    """Take the first two columns of rotation matrices as six numbers; the inverse of `rot6d_to_rotmat`.

    Args:
        layout: how the two columns are stored.

    Raises:
        ValueError: the layout is unknown.

    Source:
        Zhou et al. 2019.

    Example:
        >>> rotmat_to_rot6d(torch.eye(3)).tolist()
        [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    """
    two = rotmat[..., :2]
    if layout == "columns":
        return two.transpose(-1, -2).flatten(-2)
    if layout == "rows":
        return two.flatten(-2)
    raise ValueError(f"found layout={layout!r}, expected 'columns' or 'rows'")


def geodesic_angle(pred: Float[Tensor, "*batch 3 3"], target: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch"]:
    """Measure the angle of the rotation between two rotation matrices.

    Formula: t = atan2(|vee(D - D^T)| / 2, (tr D - 1) / 2), D = pred^T target. Exact at both ends, unlike the arc
    cosine, which loses every angle below half a milliradian in float32.

    Returns:
        (*batch), radians, 0 to pi; the gradient is finite everywhere (0 at exactly 0 and pi).

    Source:
        Agrees with `scipy.spatial.transform.Rotation.magnitude` of the relative rotation.

    Example:
        >>> round(geodesic_angle(torch.eye(3), torch.diag(torch.tensor([1.0, -1, -1]))).item(), 4)
        3.1416
    """
    a, b = promote(pred), promote(target)
    delta = a.transpose(-1, -2) @ b
    vee = torch.stack(
        (
            delta[..., 2, 1] - delta[..., 1, 2],
            delta[..., 0, 2] - delta[..., 2, 0],
            delta[..., 1, 0] - delta[..., 0, 1],
        ),
        -1,
    )
    trace = delta.diagonal(dim1=-2, dim2=-1).sum(-1)
    return torch.atan2(torch.linalg.vector_norm(vee, dim=-1) / 2, (trace - 1) / 2)


def chordal_mean(mean_matrix: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Project arithmetic means of rotation matrices to the nearest rotations (Frobenius norm).

    Source:
        Hartley et al. 2013, "Rotation averaging", section 5.3.

    Example:
        >>> chordal_mean(torch.diag(torch.tensor([0.5, 0.5, 1.0]))).diagonal().tolist()
        [1.0, 1.0, 1.0]
    """
    u, _, vh = torch.linalg.svd(mean_matrix)
    # Without the flip u @ vh may be a reflection; the last singular direction costs the least to turn.
    flip = torch.linalg.det(u @ vh).sign()
    u = torch.cat((u[..., :2], u[..., 2:] * flip[..., None, None]), -1)
    return u @ vh


def mirror_rotmat(rotmat: Float[Tensor, "*batch 3 3"]) -> Float[Tensor, "*batch 3 3"]:
    """Mirror rotations in the plane x = 0 (left hand to right hand and back): R -> M R M with M = diag(-1, 1, 1).

    Source:
        Conjugation by the reflection; applying it twice gives the input back.

    Example:
        >>> mirror_rotmat(torch.eye(3)).diagonal().tolist()
        [1.0, 1.0, 1.0]
    """
    sign = rotmat.new_tensor([[1, -1, -1], [-1, 1, 1], [-1, 1, 1]])
    return rotmat * sign
