"""Geometry of hands: posed meshes from raw parameters, and their camera frames, pixels and boxes in a view.

All in double precision, T moments at once.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from hawor_pipeline.core.mano_convention import ARCTIC
from hawor_pipeline.core.rotations import rotmat_to_axis_angle
from hawor_pipeline.sources.hand_models import HandModels
from hawor_pipeline.sources.image_frame import ViewCamera, bounds
from hawor_pipeline.sources.reader import HandLabels

# A hand gets no box where less than this share of its vertices can be projected.
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
def pose_hand(models: HandModels, side: str, raw: HandLabels) -> WorldHand:
    """Pose one hand with MANO, at all moments."""
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
        fitting_err=np.zeros(len(raw.betas)) if raw.fitting_err is None else raw.fitting_err,
    )


@dataclass(frozen=True, slots=True)
class SeenHand:
    """One hand in one view. Pixels and boxes are those of the full frame."""

    global_orient: np.ndarray  # (T, 3) axis-angle, camera frame
    translation_m: np.ndarray  # (T, 3) so that ManoLayer(...).vertices + translation is the hand in the camera frame
    joints_cam_m: np.ndarray  # (T, 21, 3)
    joints_px: np.ndarray  # (T, 21, 2)
    joint_in_frame: np.ndarray  # (T, 21) bool
    box_center_px: np.ndarray  # (T, 2)
    box_size_px: np.ndarray  # (T,) NaN where too little of the hand can be projected
    overlaps: np.ndarray  # (T,) bool, some of the hand's surface is in the image
    truncation: np.ndarray  # (T,) share of the surface points that are not in the image


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
        shows: maps full-frame pixels (T, N, 2) to True where the image file holds them, (T, N).
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
