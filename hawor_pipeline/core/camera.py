"""Cameras: from world to camera to pixels and back, with lens distortion, crops and mirroring.

Convention: metres in the camera frame (x right, y down, z forward), pixels (x, y) with the centre of the first pixel at
(0, 0). Shapes are those of the signatures; leading batch dimensions are free and broadcast. Intrinsics and `uv` are in
pixels, normalised coordinates `xy` have no unit, and boxes and principal points are in the full pinhole image;
`image_width` is that of the full frame. The lens is OpenCV's rational model, `[k1, k2, p1, p2, k3, k4, k5, k6]`.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hawor_pipeline.core.lens import distort_rational, monotone_radius, undistort_normalized

MIN_DEPTH_M = 0.05  # the projection diverges towards depth 0, and no camera is in focus nearer than this
_RIM = 0.9999  # share of the one-to-one radius to which points beyond it are clamped
MIN_CAMERA_SCALE = 0.1  # 1/m: a box that is 20 m wide at the hand; keeps the depth finite and positive


def transform_points(
    target_from_source: Float[Tensor, "*#batch 4 4"], points: Float[Tensor, "*#batch points 3"]
) -> Float[Tensor, "*batch points 3"]:
    """Apply rigid transforms, for example `cam_from_world`, to points of the source frame.

    Source:
        p' = R p + t; only the upper three rows of a transform are read.

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
        min_depth_m: depths below it count as this depth, so that points near or behind the camera stay finite. Such
            pixels mean nothing: mask them by their depth.

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

    Source:
        Back substitution in the upper two rows of K, which is upper triangular.

    Example:
        >>> pixels_to_normalized(torch.tensor([[4.0, 3.0]]), torch.tensor([[9.0, 0, 4], [0, 9, 3], [0, 0, 1]])).tolist()
        [[0.0, 0.0]]
    """
    # y first: x depends on it through the skew, K[0, 1].
    centred = uv - intrinsics[..., :2, 2].unsqueeze(-2)
    y = centred[..., 1] / intrinsics[..., 1, 1].unsqueeze(-1)
    x = (centred[..., 0] - intrinsics[..., 0, 1].unsqueeze(-1) * y) / intrinsics[..., 0, 0].unsqueeze(-1)
    return torch.stack((x, y), -1)


def project_distorted(
    points_cam: Float[Tensor, "*#batch points 3"],
    intrinsics: Float[Tensor, "*#batch 3 3"],
    distortion: Float[Tensor, "*#batch 8"],
    *,
    min_depth_m: float = MIN_DEPTH_M,
) -> tuple[Float[Tensor, "*batch points 2"], Bool[Tensor, "*batch points"]]:
    """Project camera-frame points to pixels through the lens, with a mask of the points it is valid for.

    Args:
        min_depth_m: smallest depth of a point that counts as in front of the camera.

    Returns:
        Pixels (*batch, points, 2), always finite, and a mask (*batch, points) that is true where the depth exceeds
        `min_depth_m` and the point lies inside the radius up to which the lens is one-to-one. Points outside that
        radius are projected as if on it, so that they stay outside the image instead of folding back into it.

    Source:
        OpenCV `projectPoints`, which has neither guard.

    Example:
        >>> K = torch.tensor([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]])
        >>> uv, ok = project_distorted(torch.tensor([[0.0, 0, 1], [0, 0, -1]]), K, torch.zeros(8))
        >>> ok.tolist()
        [True, False]
    """
    xy = _normalize(points_cam, min_depth_m)
    # Past this radius the polynomial turns back, and a point far outside the view would land inside the image.
    limit = monotone_radius(distortion).unsqueeze(-1)  # (*b, 1)
    radius = torch.linalg.vector_norm(xy, dim=-1)
    inside = (points_cam[..., 2] > min_depth_m) & (radius < limit)
    # Clamp to just inside the rim: at the rim itself some lenses have a pole.
    shrink = torch.where(radius < limit, torch.ones_like(radius), _RIM * limit / radius.clamp_min(1e-12))
    return normalized_to_pixels(distort_rational(xy * shrink.unsqueeze(-1), distortion), intrinsics), inside


def _normalize(points_cam: Tensor, min_depth_m: float) -> Tensor:
    return points_cam[..., :2] / points_cam[..., 2:].clamp_min(min_depth_m)


def undistort_pixels(
    uv: Float[Tensor, "*#batch points 2"],
    intrinsics: Float[Tensor, "*#batch 3 3"],
    distortion: Float[Tensor, "*#batch 8"],
) -> Float[Tensor, "*batch points 2"]:
    """Map pixels of a distorted image to those of a pinhole image with the same intrinsics.

    Returns:
        (*batch, points, 2), pinhole pixels; NaN for pixels that no ray reaches inside the one-to-one radius.
        No gradient.

    Source:
        `hawor_pipeline.core.lens.undistort_normalized`.

    Example:
        >>> K = torch.tensor([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]])
        >>> undistort_pixels(torch.tensor([[60.0, 60.0]]), K, torch.zeros(8)).tolist()
        [[60.0, 60.0]]
    """
    # float64: the inverse is accepted within 1e-9, which float32 cannot resolve.
    k = intrinsics.double()
    xy = undistort_normalized(pixels_to_normalized(uv.double(), k), distortion)
    return normalized_to_pixels(xy, k).to(uv.dtype)


def full_translation(
    camera: Float[Tensor, "*batch 3"],
    box_center_px: Float[Tensor, "*batch 2"],
    box_size_px: Float[Tensor, "*batch"],
    focal_px: Float[Tensor, "*batch"],
    principal_point_px: Float[Tensor, "*batch 2"],
    *,
    min_scale: float = MIN_CAMERA_SCALE,
) -> Float[Tensor, "*batch 3"]:
    """Turn the weak-perspective camera of a crop into the translation in the full camera frame.

    Formula: t = (tx + 2 (cx - px) / (b s), ty + 2 (cy - py) / (b s), 2 f / (b s)).

    Args:
        camera: (*batch, 3): s in 1/m, then tx and ty in metres. s counts as at least `min_scale`.
        min_scale: bound of s in 1/m that keeps the depth finite and positive; minus infinity for none (HaWoR).

    Returns:
        (*batch, 3), metres, in the camera frame.

    Source:
        HaWoR with the real focal length and principal point; HaMeR with an assumed focal length.

    Example:
        >>> full_translation(torch.tensor([2.0, 0, 0]), torch.tensor([50.0, 40]), torch.tensor(100.0),
        ...                  torch.tensor(100.0), torch.tensor([50.0, 40])).tolist()
        [0.0, 0.0, 1.0]
    """
    # Unclamped, an untrained head outputs scales near 0 or below: an infinite depth, or a hand behind the camera.
    scale, shift = camera[..., :1].clamp_min(min_scale), camera[..., 1:]
    per_pixel = 2 / (box_size_px.unsqueeze(-1) * scale)  # metres per pixel at the hand
    return torch.cat((shift + (box_center_px - principal_point_px) * per_pixel, focal_px.unsqueeze(-1) * per_pixel), -1)


def camera_from_translation(
    translation_m: Float[Tensor, "*batch 3"],
    box_center_px: Float[Tensor, "*batch 2"],
    box_size_px: Float[Tensor, "*batch"],
    focal_px: Float[Tensor, "*batch"],
    principal_point_px: Float[Tensor, "*batch 2"],
) -> Float[Tensor, "*batch 3"]:
    """Turn a translation in the camera frame into the weak-perspective camera of a crop; inverse of `full_translation`.

    Args:
        translation_m: (*batch, 3), metres; depths count as at least `MIN_DEPTH_M`.

    Returns:
        (*batch, 3): s in 1/m, then tx and ty in metres.

    Source:
        `full_translation` solved for the camera.

    Example:
        >>> camera_from_translation(torch.tensor([0.0, 0, 1]), torch.tensor([50.0, 40]), torch.tensor(100.0),
        ...                         torch.tensor(100.0), torch.tensor([50.0, 40])).tolist()
        [2.0, 0.0, 0.0]
    """
    depth, focal = translation_m[..., 2:].clamp_min(MIN_DEPTH_M), focal_px.unsqueeze(-1)
    shift = translation_m[..., :2] - (box_center_px - principal_point_px) * depth / focal
    return torch.cat((2 * focal / (box_size_px.unsqueeze(-1) * depth), shift), -1)


def pixels_to_crop(
    uv: Float[Tensor, "*batch points 2"],
    box_center_px: Float[Tensor, "*batch 2"],
    box_size_px: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch points 2"]:
    """Express pixels in crop units, those of the box: 0 is its centre, -0.5 and 0.5 are its sides.

    Source:
        The units of HaMeR's 2D keypoints.

    Example:
        >>> pixels_to_crop(torch.tensor([[60.0, 40.0]]), torch.tensor([50.0, 40]), torch.tensor(20.0)).tolist()
        [[0.5, 0.0]]
    """
    return (uv - box_center_px.unsqueeze(-2)) / box_size_px[..., None, None]


def mirror_points(points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Mirror points in the plane x = 0, which turns a left hand into a right one: (x, y, z) -> (-x, y, z).

    Source:
        Reflection; applying it twice gives the input back.

    Example:
        >>> mirror_points(torch.tensor([1.0, 2.0, 3.0])).tolist()
        [-1.0, 2.0, 3.0]
    """
    return points * points.new_tensor([-1, 1, 1])


def mirror_pixels(uv: Float[Tensor, "*batch 2"], image_width: int | float | Tensor) -> Float[Tensor, "*batch 2"]:
    """Mirror pixels left to right: x -> width - 1 - x, because an integer pixel is a pixel centre.

    Points, box centres and principal points alike; a tensor of widths broadcasts against (*batch).

    Source:
        Equals reversing the columns of the image.

    Example:
        >>> mirror_pixels(torch.tensor([0.0, 7.0]), 100).tolist()
        [99.0, 7.0]
    """
    return torch.stack((image_width - 1 - uv[..., 0], uv[..., 1]), -1)


def mirror_intrinsics(
    intrinsics: Float[Tensor, "*batch 3 3"], image_width: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch 3 3"]:
    """Mirror camera matrices along with the image: a mirrored point projects to the mirrored pixel.

    Source:
        K' = M K diag(-1, 1, 1) with M: x -> width - 1 - x.

    Example:
        >>> K = torch.tensor([[100.0, 2, 30], [0, 100, 40], [0, 0, 1]])
        >>> mirror_intrinsics(K, torch.tensor(100.0))[0].tolist()
        [100.0, -2.0, 69.0]
    """
    mirrored = intrinsics.clone()
    mirrored[..., 0, 1] = -intrinsics[..., 0, 1]
    mirrored[..., 0, 2] = image_width - 1 - intrinsics[..., 0, 2]
    return mirrored


def where_left(is_right: Bool[Tensor, "*batch"], mirrored: Tensor, value: Tensor) -> Tensor:
    """Select `mirrored` for left hands and `value` for right hands, by the true side of the leading dimensions.

    Source:
        `torch.where` with the mask broadcast from the left.

    Example:
        >>> where_left(torch.tensor([True, False]), torch.zeros(2, 1), torch.ones(2, 1)).tolist()
        [[1.0], [0.0]]
    """
    mask = is_right.reshape(is_right.shape + (1,) * (value.ndim - is_right.ndim))
    return torch.where(mask, value, mirrored)
