"""Lens distortion: OpenCV's rational model, the radius up to which it is one-to-one, and its inverse.

Convention: normalised image coordinates (x/z, y/z) without unit; coefficients `[k1, k2, p1, p2, k3, k4, k5, k6]`;
leading batch dimensions are free and broadcast.
"""

import torch
from jaxtyping import Float
from torch import Tensor

_MAX_UNDISTORTED_RADIUS = 1e3  # tangent of 89.94 degrees: bounds the search where a lens never turns back


def distort_rational(
    xy: Float[Tensor, "*#batch points 2"], distortion: Float[Tensor, "*#batch 8"]
) -> Float[Tensor, "*batch points 2"]:
    """Apply the rational lens model to normalised image coordinates.

    Formula: with r^2 = x^2 + y^2 and d = (1 + k1 r^2 + k2 r^4 + k3 r^6) / (1 + k4 r^2 + k5 r^4 + k6 r^6),
    x' = x d + 2 p1 x y + p2 (r^2 + 2 x^2) and y' = y d + p1 (r^2 + 2 y^2) + 2 p2 x y.

    All zeros leave the points as they are.

    Source:
        OpenCV `projectPoints` with eight coefficients.

    Example:
        >>> distort_rational(torch.ones(1, 2), torch.zeros(8)).tolist()
        [[1.0, 1.0]]
    """
    p1, p2 = distortion[..., None, 2], distortion[..., None, 3]
    x, y = xy.unbind(-1)
    sq = x * x + y * y
    numerator, denominator = _radial_polynomials(sq, distortion.unsqueeze(-2))
    d = numerator / denominator
    return torch.stack(
        (
            x * d + 2 * p1 * x * y + p2 * (sq + 2 * x * x),
            y * d + p1 * (sq + 2 * y * y) + 2 * p2 * x * y,
        ),
        -1,
    )


def _radial_polynomials(sq: Tensor, distortion: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate numerator and denominator of the radial factor at r^2 = sq; distortion ends with 8 and broadcasts."""
    k1, k2, _, _, k3, k4, k5, k6 = distortion.unbind(-1)
    return 1 + sq * (k1 + sq * (k2 + sq * k3)), 1 + sq * (k4 + sq * (k5 + sq * k6))


@torch.no_grad()
def monotone_radius(distortion: Float[Tensor, "*batch 8"]) -> Float[Tensor, "*batch"]:
    """Find the undistorted radius up to which a lens model is one-to-one.

    Beyond it the radial curve r d(r) turns back (or has a pole) and points far outside the view fall back into the
    image.

    Returns:
        (*batch), no unit (tangent of the angle to the optical axis); infinite where the curve never turns.

    Source:
        The smallest positive root s = r^2 of (N + 2 s N') D - 2 s N D' (the sign of the derivative of r N/D) and of D.
        Both have the constant term 1, so in 1/s they are monic and the companion matrix needs no leading coefficient.

    Example:
        >>> monotone_radius(torch.zeros(8)).item()
        inf
    """
    k1, k2, _, _, k3, k4, k5, k6 = distortion.double().unbind(-1)
    one = torch.ones_like(k1)
    n = (one, k1, k2, k3)
    d = (one, k4, k5, k6)
    # Coefficients of the derivative's sign: s^(i + j) collects N_i D_j (1 + 2 i - 2 j), from (N + 2 s N') D - 2 s N D'.
    slope = [torch.zeros_like(one) for _ in range(7)]
    for i in range(4):
        for j in range(4):
            slope[i + j] = slope[i + j] + (1 + 2 * i - 2 * j) * n[i] * d[j]
    radius_sq = torch.minimum(_smallest_positive_root(slope), _smallest_positive_root(list(d)))
    return radius_sq.sqrt().to(distortion.dtype)


def _smallest_positive_root(coefficients: list[Tensor]) -> Tensor:
    """Find the smallest s > 0 with 1 + c1 s + c2 s^2 + ... = 0, or infinity; coefficients ascending, c0 = 1."""
    degree = len(coefficients) - 1
    companion = torch.zeros(*coefficients[0].shape, degree, degree, dtype=torch.float64, device=coefficients[0].device)
    companion[..., 0, :] = -torch.stack(coefficients[1:], -1)
    companion[..., range(1, degree), range(degree - 1)] = 1.0
    inverse = torch.linalg.eigvals(companion)  # roots in 1/s: the smallest s is the largest of them
    # A real root comes out of the solver with an imaginary part of rounding size.
    real = (inverse.imag.abs() <= 1e-7 * inverse.abs()) & (inverse.real > 1e-9)
    largest = torch.where(real, inverse.real, torch.zeros_like(inverse.real)).amax(-1)
    return torch.where(largest > 0, 1 / largest, torch.full_like(largest, torch.inf))


@torch.no_grad()
def undistort_normalized(
    goal: Float[Tensor, "*#batch points 2"], distortion: Float[Tensor, "*#batch 8"]
) -> Float[Tensor, "*batch points 2"]:
    """Invert `distort_rational`; `goal` are distorted coordinates.

    Returns:
        (*batch, points, 2), undistorted coordinates in float64; NaN where no ray inside the one-to-one radius ends.

    Source:
        A bracketed Newton search along the radius, then Newton steps in the plane with the exact Jacobian. OpenCV's
        fixed-point iteration diverges at the rim of wide lenses.

    Example:
        >>> undistort_normalized(torch.ones(1, 2), torch.zeros(8)).tolist()
        [[1.0, 1.0]]
    """
    goal, lens = goal.double(), distortion.double()
    limit = monotone_radius(lens).clamp_max(_MAX_UNDISTORTED_RADIUS).unsqueeze(-1)
    xy = _undo_radial(goal, lens, limit)
    for _ in range(8):
        xy = xy + _plane_step(xy, goal, lens)
    reached = torch.linalg.vector_norm(xy, dim=-1) <= limit * (1 + 1e-9)
    close = torch.linalg.vector_norm(distort_rational(xy, lens) - goal, dim=-1) < 1e-9 * (1 + goal.abs().amax(-1))
    return torch.where((reached & close).unsqueeze(-1), xy, torch.full_like(xy, torch.nan))


def _undo_radial(goal: Tensor, lens: Tensor, limit: Tensor) -> Tensor:
    """Undistort without the tangential terms: Newton along the radius, bisection where a step leaves the bracket."""
    radius = torch.linalg.vector_norm(goal, dim=-1)
    low, high = torch.zeros_like(radius), torch.zeros_like(radius) + limit * (1 - 1e-12)  # excludes a pole at the limit
    r = torch.minimum(radius, high)
    coefficients = lens.unsqueeze(-2)
    k1, k2, _, _, k3, k4, k5, k6 = coefficients.unbind(-1)
    for _ in range(40):
        sq = r * r
        n, d = _radial_polynomials(sq, coefficients)
        error = r * n / d - radius
        low, high = torch.where(error < 0, r, low), torch.where(error < 0, high, r)
        dn = k1 + sq * (2 * k2 + sq * 3 * k3)
        dd = k4 + sq * (2 * k5 + sq * 3 * k6)
        newton = r - error / ((n + 2 * sq * dn) / d - 2 * sq * n * dd / (d * d))
        good = (newton >= low) & (newton <= high)  # false for NaN too
        r = torch.where(good, newton, (low + high) / 2)
    return goal * (r / radius.clamp_min(1e-300)).unsqueeze(-1)


def _plane_step(xy: Tensor, goal: Tensor, lens: Tensor) -> Tensor:
    """Take one Newton step towards distort(xy) = goal."""
    k1, k2, p1, p2, k3, k4, k5, k6 = lens.unsqueeze(-2).unbind(-1)
    x, y = xy.unbind(-1)
    sq = x * x + y * y
    n, d = _radial_polynomials(sq, lens.unsqueeze(-2))
    # derivative of the radial factor by r^2
    slope = (k1 + sq * (2 * k2 + sq * 3 * k3)) / d - n * (k4 + sq * (2 * k5 + sq * 3 * k6)) / (d * d)
    factor = n / d
    jxx = factor + 2 * x * x * slope + 2 * p1 * y + 6 * p2 * x
    jxy = 2 * x * y * slope + 2 * p1 * x + 2 * p2 * y
    jyy = factor + 2 * y * y * slope + 6 * p1 * y + 2 * p2 * x
    error = goal - distort_rational(xy, lens)
    determinant = jxx * jyy - jxy * jxy
    # An infinite determinant makes the step zero where the Jacobian is singular.
    safe = torch.where(determinant.abs() < 1e-12, torch.full_like(determinant, torch.inf), determinant)
    return torch.stack(
        ((jyy * error[..., 0] - jxy * error[..., 1]) / safe, (jxx * error[..., 1] - jxy * error[..., 0]) / safe), -1
    )
