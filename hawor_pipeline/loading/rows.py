"""The annotation table as tensors: right hands, pinhole images, camera frame.

Mirroring and the lens are handled here, once per table. The ego camera's images are distorted, but the network's camera
is a pinhole: around the centre of each box the lens is linear to first order, so a crop is read through that linear
map, and box and labels are those of the pinhole image.
"""

from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from hawor_pipeline.config import DataFiltering
from hawor_pipeline.core.camera import (
    mirror_intrinsics,
    mirror_pixels,
    mirror_points,
    project_distorted,
    undistort_pixels,
    where_left,
)
from hawor_pipeline.core.rotations import axis_angle_to_rotmat, mirror_rotmat
from hawor_pipeline.shards.schema import as_numpy

LENS_STEP_PX = 1.0  # step of the finite difference that linearises the lens


@dataclass(slots=True)
class HandRows:
    """Annotations of N hands, a row each, mirrored to right hands in pinhole images."""

    rotmats: Tensor  # (N, 16, 3, 3) absolute, camera frame
    betas: Tensor  # (N, 10) as right
    translation_m: Tensor  # (N, 3)
    joints_m: Tensor  # (N, 21, 3) camera frame
    joint_visible: Tensor  # (N, 21)
    joint_in_frame: Tensor  # (N, 21)
    valid: Tensor  # (N,)
    frame: Tensor  # (N,)
    is_right: Tensor  # (N,) true side
    box_center_px: Tensor  # (N, 2)
    box_size_px: Tensor  # (N,)
    intrinsics: Tensor  # (N, 3, 3)
    stored_from_image: Tensor  # (N, 2, 3) pixels of the stored crop from pixels of the mirrored pinhole image

    def __len__(self) -> int:
        return len(self.valid)

    def take(self, index: Tensor) -> "HandRows":
        """Select rows by an index of any shape."""
        return HandRows(*(getattr(self, field.name)[index] for field in fields(self)))


def load_rows(table: pa.Table, filtering: DataFiltering | None = None) -> HandRows:
    """Read annotations into right-hand, pinhole, camera-frame tensors.

    Args:
        table: Annotations of shards.
        filtering: Rows outside these limits become invalid (they stay in their clips and carry no loss).
    """

    def real(name: str) -> Tensor:
        return torch.from_numpy(as_numpy(table, name).astype(np.float64))

    def flags(name: str) -> Tensor:
        return torch.from_numpy(as_numpy(table, name).astype(bool))

    is_right = flags("is_right")
    width = real("image_width")
    intrinsics = real("intrinsics")
    center, size, stored, reachable = _pinhole_boxes(
        real("box_center_px"), real("box_size_px"), real("crop_from_image"), intrinsics, real("distortion")
    )
    # Images are stored as taken, so pixels of the mirrored image of a left hand are mirrored back before the lookup.
    unmirror = torch.eye(3, dtype=torch.float64).repeat(len(width), 1, 1)
    unmirror[:, 0, 0] = torch.where(is_right, 1.0, -1.0)
    unmirror[:, 0, 2] = torch.where(is_right, torch.zeros_like(width), width - 1)
    rotmats = axis_angle_to_rotmat(torch.cat((real("global_orient"), real("hand_pose")), dim=-1).unflatten(-1, (16, 3)))
    joints, translation = real("joints_cam_m"), real("translation_m")
    in_frame = flags("joint_in_frame")
    valid = flags("valid") & reachable
    if filtering is not None:
        valid &= real("confidence") >= filtering.min_confidence
        valid &= real("occlusion") <= filtering.max_occlusion_level
        valid &= in_frame.double().mean(-1) >= filtering.min_keypoint_visibility
        valid &= real("truncation") <= filtering.max_truncation
        valid &= real("blur") <= filtering.max_blur
        if filtering.max_fitting_err is not None:
            valid &= real("fitting_err") <= filtering.max_fitting_err
    return HandRows(
        rotmats=where_left(is_right, mirror_rotmat(rotmats), rotmats).float(),
        betas=real("betas_as_right").float(),
        translation_m=where_left(is_right, mirror_points(translation), translation).float(),
        joints_m=where_left(is_right, mirror_points(joints), joints).float(),
        joint_visible=flags("joint_visible"),
        joint_in_frame=in_frame,
        valid=valid,
        frame=torch.from_numpy(as_numpy(table, "frame").astype(np.int64)),
        is_right=is_right,
        box_center_px=where_left(is_right, mirror_pixels(center, width), center).float(),
        box_size_px=size.float(),
        intrinsics=where_left(is_right, mirror_intrinsics(intrinsics, width), intrinsics).float(),
        stored_from_image=(stored @ unmirror).float(),
    )


def _pinhole_boxes(
    center: Tensor, size: Tensor, crop_from_image: Tensor, intrinsics: Tensor, distortion: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the boxes in the pinhole image, and the map from its pixels to the stored crop.

    Returns:
        (centres (N, 2), sizes (N,), stored-crop-from-pinhole-pixels (N, 2, 3), whether the lens reaches the centre).
    """
    pinhole = undistort_pixels(center[:, None], intrinsics, distortion)[:, 0]
    reachable = torch.isfinite(pinhole).all(-1)
    pinhole = torch.where(reachable[:, None], pinhole, center)
    steps = torch.tensor([[0.5, 0.0], [-0.5, 0.0], [0.0, 0.5], [0.0, -0.5]], dtype=center.dtype) * LENS_STEP_PX
    around = torch.cat((pinhole[:, None] + steps, torch.ones(len(center), 4, 1, dtype=center.dtype)), dim=-1)
    rays = torch.linalg.solve(intrinsics[:, None], around[..., None])[..., 0]  # (N, 4, 3), depth 1
    distorted, _ = project_distorted(rays, intrinsics, distortion)
    jacobian = (
        torch.stack((distorted[:, 0] - distorted[:, 1], distorted[:, 2] - distorted[:, 3]), dim=-1) / LENS_STEP_PX
    )  # (N, 2, 2) distorted by pinhole pixels
    # The determinant is the factor by which the lens enlarges areas around the centre; its root is that of lengths.
    enlargement = torch.linalg.det(jacobian).abs().clamp_min(1e-6).sqrt()
    image_from_pinhole = torch.eye(3, dtype=center.dtype).repeat(len(center), 1, 1)
    image_from_pinhole[:, :2, :2] = jacobian
    image_from_pinhole[:, :2, 2] = center - (jacobian @ pinhole[..., None])[..., 0]
    return pinhole, size / enlargement, crop_from_image @ image_from_pinhole, reachable
