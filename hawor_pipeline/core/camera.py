"""Cameras: from world to camera to pixels and back, with lens distortion, crops and mirroring.

Convention: metres in the camera frame (x right, y down, z forward), pixels (x, y) with the centre of the first pixel at
(0, 0). Leading batch dimensions are free and broadcast. The lens is OpenCV's rational model,
`[k1, k2, p1, p2, k3, k4, k5, k6]`.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MIN_DEPTH_M = 0.05  # nearer than this nothing is in focus and the projection explodes
MIN_CAMERA_SCALE = 0.1  # 1/m: a box that is 20 m wide at the hand; keeps the depth finite and positive
_MAX_UNDISTORTED_RADIUS = 1e3  # tangent of 89.94 degrees


def transform_points(
    target_from_source: Float[Tensor, "*#batch 4 4"], points: Float[Tensor, "*#batch points 3"]
) -> Float[Tensor, "*batch points 3"]:
    """Apply rigid transforms to points.

    Args:
        target_from_source: (*batch, 4, 4), for example `cam_from_world`; only the upper three rows are read.
        points: (*batch, points, 3), metres, in the source frame.

    Returns:
        (*batch, points, 3), metres, in the target frame.

    Source:
        p' = R p + t.

    Example:
        >>> transform_points(torch.eye(4), torch.ones(1, 3)).tolist()
        [[1.0, 1.0, 1.0]]
    """
    rotation, translation = target_from_source[..., :3, :3], target_from_source[..., :3, 3]
    return points @ rotation.transpose(-1, -2) + translation.unsqueeze(-2)


def project_pinhole(
    points_cam: Float[Tensor, "*#batch points 3"],
    intrinsics: Float[Tensor, "*#batch 3 3"],
    *,
    min_depth_m: float = MIN_DEPTH_M,
) -> Float[Tensor, "*batch points 2"]:
    """Project camera-frame points to pixels without distortion.

    Args:
        points_cam: (*batch, points, 3), metres.
        intrinsics: (*batch, 3, 3), pixels.
        min_depth_m: depths below it count as this depth, so that points near or behind the camera stay finite. Such
            pixels mean nothing: mask them by their depth.

    Returns:
        (*batch, points, 2), pixels (x, y).

    Source:
        u = fx x/z + skew y/z + cx, v = fy y/z + cy.

    Example:
        >>> K = torch.tensor([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]])
        >>> project_pinhole(torch.tensor([[0.1, 0.2, 1.0]]), K).tolist()
        [[60.0, 60.0]]
    """
    return normalized_to_pixels(_normalize(points_cam, min_depth_m), intrinsics)


def normalized_to_pixels(
    xy: Float[Tensor, "*#batch points 2"], intrinsics: Float[Tensor, "*#batch 3 3"]
) -> Float[Tensor, "*batch points 2"]:
    """Map normalised image coordinates (x/z, y/z) to pixels.

    Args:
        xy: (*batch, points, 2), no unit.
        intrinsics: (*batch, 3, 3), pixels.

    Returns:
        (*batch, points, 2), pixels (x, y).

    Source:
        The upper two rows of K.

    Example:
        >>> normalized_to_pixels(torch.zeros(1, 2), torch.tensor([[9.0, 0, 4], [0, 9, 3], [0, 0, 1]])).tolist()
        [[4.0, 3.0]]
    """
    return xy @ intrinsics[..., :2, :2].transpose(-1, -2) + intrinsics[..., :2, 2].unsqueeze(-2)


def pixels_to_normalized(
    uv: Float[Tensor, "*#batch points 2"], intrinsics: Float[Tensor, "*#batch 3 3"]
) -> Float[Tensor, "*batch points 2"]:
    """Map pixels to normalised image coordinates; the inverse of `normalized_to_pixels`.

    Args:
        uv: (*batch, points, 2), pixels (x, y).
        intrinsics: (*batch, 3, 3), pixels, upper triangular.

    Returns:
        (*batch, points, 2), no unit.

    Source:
        Back substitution in the upper two rows of K.

    Example:
        >>> pixels_to_normalized(torch.tensor([[4.0, 3.0]]), torch.tensor([[9.0, 0, 4], [0, 9, 3], [0, 0, 1]])).tolist()
        [[0.0, 0.0]]
    """
    centred = uv - intrinsics[..., :2, 2].unsqueeze(-2)
    y = centred[..., 1] / intrinsics[..., 1, 1].unsqueeze(-1)
    x = (centred[..., 0] - intrinsics[..., 0, 1].unsqueeze(-1) * y) / intrinsics[..., 0, 0].unsqueeze(-1)
    return torch.stack((x, y), -1)


def distort_rational(
    xy: Float[Tensor, "*#batch points 2"], distortion: Float[Tensor, "*#batch 8"]
) -> Float[Tensor, "*batch points 2"]:
    """Apply the rational lens model to normalised image coordinates.

    Formula: with r^2 = x^2 + y^2 and d = (1 + k1 r^2 + k2 r^4 + k3 r^6) / (1 + k4 r^2 + k5 r^4 + k6 r^6),
    x' = x d + 2 p1 x y + p2 (r^2 + 2 x^2) and y' = y d + p1 (r^2 + 2 y^2) + 2 p2 x y.

    Args:
        xy: (*batch, points, 2), no unit.
        distortion: (*batch, 8), order k1 k2 p1 p2 k3 k4 k5 k6. All zeros leave the points as they are.

    Returns:
        (*batch, points, 2), no unit.

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
    """Numerator and denominator of the radial factor at r^2 = sq; distortion broadcasts against sq with 8 last."""
    k1, k2, _, _, k3, k4, k5, k6 = distortion.unbind(-1)
    return 1 + sq * (k1 + sq * (k2 + sq * k3)), 1 + sq * (k4 + sq * (k5 + sq * k6))


@torch.no_grad()
def monotone_radius(distortion: Float[Tensor, "*batch 8"]) -> Float[Tensor, "*batch"]:
    """Find the undistorted radius up to which a lens model is one-to-one.

    Beyond it the radial curve r d(r) turns back (or has a pole) and points far outside the view fall back into the image.

    Args:
        distortion: (*batch, 8), order k1 k2 p1 p2 k3 k4 k5 k6.

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
    slope = [torch.zeros_like(one) for _ in range(7)]
    for i in range(4):
        for j in range(4):
            slope[i + j] = slope[i + j] + (1 + 2 * i - 2 * j) * n[i] * d[j]
    radius_sq = torch.minimum(_smallest_positive_root(slope), _smallest_positive_root(list(d)))
    return radius_sq.sqrt().to(distortion.dtype)


def _smallest_positive_root(coefficients: list[Tensor]) -> Tensor:
    """Smallest s > 0 with 1 + c1 s + c2 s^2 + ... = 0, infinite where there is none; coefficients ascending, c0 = 1."""
    degree = len(coefficients) - 1
    companion = torch.zeros(*coefficients[0].shape, degree, degree, dtype=torch.float64, device=coefficients[0].device)
    companion[..., 0, :] = -torch.stack(coefficients[1:], -1)
    companion[..., range(1, degree), range(degree - 1)] = 1.0
    inverse = torch.linalg.eigvals(companion)  # roots in 1/s
    real = (inverse.imag.abs() <= 1e-7 * inverse.abs()) & (inverse.real > 1e-9)
    largest = torch.where(real, inverse.real, torch.zeros_like(inverse.real)).amax(-1)
    return torch.where(largest > 0, 1 / largest, torch.full_like(largest, torch.inf))


def project_distorted(
    points_cam: Float[Tensor, "*#batch points 3"],
    intrinsics: Float[Tensor, "*#batch 3 3"],
    distortion: Float[Tensor, "*#batch 8"],
    *,
    min_depth_m: float = MIN_DEPTH_M,
) -> tuple[Float[Tensor, "*batch points 2"], Bool[Tensor, "*batch points"]]:
    """Project camera-frame points to pixels through the lens, and say which of them the model holds for.

    Args:
        points_cam: (*batch, points, 3), metres.
        intrinsics: (*batch, 3, 3), pixels.
        distortion: (*batch, 8), order k1 k2 p1 p2 k3 k4 k5 k6.
        min_depth_m: smallest depth of a point that counts as in front of the camera.

    Returns:
        Pixels (*batch, points, 2), always finite, and a mask (*batch, points) that is true where the depth exceeds
        `min_depth_m` and the point lies inside the radius up to which the lens is one-to-one. Points outside that radius
        are projected as if on it, so that they stay outside the picture instead of folding back into it.

    Source:
        OpenCV `projectPoints`, which has neither guard.

    Example:
        >>> K = torch.tensor([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]])
        >>> uv, ok = project_distorted(torch.tensor([[0.0, 0, 1], [0, 0, -1]]), K, torch.zeros(8))
        >>> ok.tolist()
        [True, False]
    """
    xy = _normalize(points_cam, min_depth_m)
    limit = monotone_radius(distortion).unsqueeze(-1)  # (*b, 1)
    radius = torch.linalg.vector_norm(xy, dim=-1)
    inside = (points_cam[..., 2] > min_depth_m) & (radius < limit)
    shrink = torch.where(radius > limit, limit / radius.clamp_min(1e-12), torch.ones_like(radius))
    return normalized_to_pixels(distort_rational(xy * shrink.unsqueeze(-1), distortion), intrinsics), inside


@torch.no_grad()
def undistort_pixels(
    uv: Float[Tensor, "*#batch points 2"],
    intrinsics: Float[Tensor, "*#batch 3 3"],
    distortion: Float[Tensor, "*#batch 8"],
) -> Float[Tensor, "*batch points 2"]:
    """Find where pixels of a distorted picture would be in a pinhole picture with the same intrinsics.

    Args:
        uv: (*batch, points, 2), distorted pixels (x, y).
        intrinsics: (*batch, 3, 3), pixels.
        distortion: (*batch, 8), order k1 k2 p1 p2 k3 k4 k5 k6.

    Returns:
        (*batch, points, 2), pinhole pixels (x, y); NaN for pixels that no ray reaches inside the one-to-one radius.

    Source:
        Inverse of `distort_rational`: a bracketed Newton search along the radius, then Newton steps in the plane with the
        exact Jacobian, in float64. OpenCV's fixed-point iteration diverges at the rim of wide lenses.

    Example:
        >>> K = torch.tensor([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]])
        >>> undistort_pixels(torch.tensor([[60.0, 60.0]]), K, torch.zeros(8)).tolist()
        [[60.0, 60.0]]
    """
    k, lens = intrinsics.double(), distortion.double()
    goal = pixels_to_normalized(uv.double(), k)
    limit = monotone_radius(lens).clamp_max(_MAX_UNDISTORTED_RADIUS).unsqueeze(-1)
    xy = _undo_radial(goal, lens, limit)
    for _ in range(8):
        xy = xy + _plane_step(xy, goal, lens)
    reached = torch.linalg.vector_norm(xy, dim=-1) <= limit * (1 + 1e-9)
    close = torch.linalg.vector_norm(distort_rational(xy, lens) - goal, dim=-1) < 1e-9 * (1 + goal.abs().amax(-1))
    pixels = normalized_to_pixels(xy, k)
    return torch.where((reached & close).unsqueeze(-1), pixels, torch.full_like(pixels, torch.nan)).to(uv.dtype)


def _undo_radial(goal: Tensor, lens: Tensor, limit: Tensor) -> Tensor:
    """Undistorted points ignoring the tangential terms: Newton along the radius, halving the bracket where it fails."""
    radius = torch.linalg.vector_norm(goal, dim=-1)
    low, high = torch.zeros_like(radius), torch.zeros_like(radius) + limit
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
    """One Newton step of distort(xy) = goal."""
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
    safe = torch.where(determinant.abs() < 1e-12, torch.full_like(determinant, torch.inf), determinant)
    return torch.stack(
        ((jyy * error[..., 0] - jxy * error[..., 1]) / safe, (jxx * error[..., 1] - jxy * error[..., 0]) / safe), -1
    )


def _normalize(points_cam: Tensor, min_depth_m: float) -> Tensor:
    return points_cam[..., :2] / points_cam[..., 2:].clamp_min(min_depth_m)
