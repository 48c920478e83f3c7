"""From raw parameters to what a camera sees of each hand: posed meshes, camera frames, pixels, boxes.

Everything is computed in double precision for a whole sequence at once. T is the number of frames.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from hawor_pipeline.core.camera import MIN_DEPTH_M, project_distorted, project_pinhole, transform_points
from hawor_pipeline.core.mano_convention import ARCTIC
from hawor_pipeline.core.rotations import rotmat_to_axis_angle
from hawor_pipeline.sources.arctic import EGO_VIEW, SubjectCameras
from hawor_pipeline.sources.hand_models import HandModels
from hawor_pipeline.sources.raw_sequence import RawHand, RawSequence

# The box of a hand of which less than this share can be projected would say nothing about the hand.
_LEAST_PROJECTED = 0.5


@dataclass(frozen=True, slots=True)
class WorldHand:
    """One posed hand in the world frame."""

    vertices_m: np.ndarray  # (T, 778, 3)
    joints_m: np.ndarray  # (T, 21, 3) OpenPose order
    global_rotmat: np.ndarray  # (T, 3, 3)
    hand_pose: np.ndarray  # (T, 45) absolute axis-angle: mean pose included
    betas: np.ndarray  # (T, 10)
    betas_as_right: np.ndarray  # (T, 10)
    betas_as_right_residual_mm: np.ndarray  # (T,)
    root_m: np.ndarray  # (T, 3) root joint of the rest pose, model frame
    translation_m: np.ndarray  # (T, 3)
    fitting_err: np.ndarray  # (T,)


@torch.no_grad()
def pose_hand(models: HandModels, side: str, raw: RawHand) -> WorldHand:
    """MANO forward of one hand of a sequence."""
    layer = models.layers[side]
    betas = torch.tensor(raw.betas)
    rotmats = layer.absolute_rotmats(
        torch.from_numpy(raw.global_orient), torch.from_numpy(raw.pose), mean_included=ARCTIC.mean_included
    )
    surface = layer(rotmats, betas)
    shift = raw.translation_m[:, None]
    as_right, residual = models.betas_as_right(side, raw.betas)
    return WorldHand(
        vertices_m=surface.vertices.numpy() + shift,
        joints_m=surface.joints.numpy() + shift,
        global_rotmat=rotmats[:, 0].numpy(),
        hand_pose=ARCTIC.to_absolute(raw.pose, models.arrays[side].hands_mean),
        betas=raw.betas,
        betas_as_right=as_right,
        betas_as_right_residual_mm=residual,
        root_m=layer.rest_joints(betas)[:, 0].numpy(),
        translation_m=raw.translation_m,
        fitting_err=raw.fitting_err,
    )


@dataclass(frozen=True, slots=True)
class ViewCamera:
    """One view of a sequence. The full frame has `image_size` (height, width)."""

    view: int
    image_size: tuple[int, int]
    cam_from_world: np.ndarray  # (T, 4, 4)
    intrinsics: np.ndarray  # (3, 3)
    distortion: np.ndarray  # (8,) zeros for the static views

    @property
    def centres_m(self) -> np.ndarray:
        """Camera centres in the world frame, (T, 3)."""
        rotation, shift = self.cam_from_world[:, :3, :3], self.cam_from_world[:, :3, 3]
        return -np.einsum("tji,tj->ti", rotation, shift)

    def project(self, points_world: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Args:
            points_world: (T, N, 3), metres.

        Returns:
            Points in the camera frame (T, N, 3), pixels (T, N, 2), and whether each is in front of the camera and
            inside the lens model's monotone radius, (T, N).
        """
        points = transform_points(torch.tensor(self.cam_from_world), torch.tensor(points_world))
        intrinsics, distortion = torch.tensor(self.intrinsics), torch.tensor(self.distortion)
        if not self.distortion.any():  # the same numbers, without the work of a lens
            return points.numpy(), project_pinhole(points, intrinsics).numpy(), (points[..., 2] > MIN_DEPTH_M).numpy()
        pixels, projectable = project_distorted(points, intrinsics, distortion)
        return points.numpy(), pixels.numpy(), projectable.numpy()


def view_camera(raw: RawSequence, cameras: SubjectCameras, view: int) -> ViewCamera:
    """Camera of one view for every frame of a sequence."""
    if view == EGO_VIEW:
        return ViewCamera(view, cameras.image_sizes[0], raw.ego_from_world, raw.ego_intrinsics, raw.ego_distortion)
    fixed = np.broadcast_to(cameras.cam_from_world[view - 1], (len(raw), 4, 4))
    return ViewCamera(
        view, cameras.image_sizes[view], np.ascontiguousarray(fixed), cameras.intrinsics[view - 1], np.zeros(8)
    )


@dataclass(frozen=True, slots=True)
class SeenHand:
    """One hand as one view sees it. Pixels and boxes are those of the full frame."""

    global_orient: np.ndarray  # (T, 3) axis-angle, camera frame
    translation_m: np.ndarray  # (T, 3) so that ManoLayer(...).vertices + translation is the hand in the camera frame
    joints_cam_m: np.ndarray  # (T, 21, 3)
    joints_px: np.ndarray  # (T, 21, 2)
    joint_in_frame: np.ndarray  # (T, 21) bool
    box_center_px: np.ndarray  # (T, 2)
    box_size_px: np.ndarray  # (T,) NaN where too little of the hand can be projected
    overlaps: np.ndarray  # (T,) bool, some of the hand's surface is in the picture
    truncation: np.ndarray  # (T,) share of the surface points that are not in the picture


@torch.no_grad()
def see_hand(
    hand: WorldHand, camera: ViewCamera, box_scale: float, shows: Callable[[np.ndarray], np.ndarray]
) -> SeenHand:
    """Project one hand into one view.

    The box is square, centred on the projected vertices, with side `box_scale` x max(h, 4 w / 3): the network sees the
    middle three quarters of its width.

    Args:
        hand: the hand in the world.
        camera: the view.
        box_scale: widens the box.
        shows: says of full-frame pixels (T, N, 2) whether the picture file holds them, (T, N).
    """
    rotation, shift = camera.cam_from_world[:, :3, :3], camera.cam_from_world[:, :3, 3]
    joints_cam, joints_px, joints_ok = camera.project(hand.joints_m)
    _, vertices_px, vertices_ok = camera.project(hand.vertices_m)
    inside = vertices_ok & shows(vertices_px)
    enough = vertices_ok.mean(1) >= _LEAST_PROJECTED
    low, high = bounds(vertices_px, vertices_ok)
    low, high = np.where(enough[:, None], low, np.nan), np.where(enough[:, None], high, np.nan)
    size = high - low
    # the root joint of the rest pose is the point that MANO's global rotation turns about
    pivot = np.einsum("tij,tj->ti", rotation, hand.root_m + hand.translation_m) + shift
    return SeenHand(
        global_orient=rotmat_to_axis_angle(torch.from_numpy(rotation @ hand.global_rotmat)).numpy(),
        translation_m=pivot - hand.root_m,
        joints_cam_m=joints_cam,
        joints_px=joints_px,
        joint_in_frame=joints_ok & shows(joints_px),
        box_center_px=(low + high) / 2,
        box_size_px=box_scale * np.maximum(size[:, 1], size[:, 0] * 4 / 3),
        overlaps=inside.any(1),
        truncation=1.0 - inside.mean(1),
    )


def bounds(pixels: np.ndarray, known: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Least and greatest (T, 2) of points (T, N, 2), or of those that are known, (T, N); infinite where none is."""
    by_axis = np.moveaxis(pixels, -1, 0).copy()  # NumPy is slow along all but the last axis
    if known is not None and not known.all():
        return np.where(known, by_axis, np.inf).min(-1).T, np.where(known, by_axis, -np.inf).max(-1).T
    return by_axis.min(-1).T, by_axis.max(-1).T
