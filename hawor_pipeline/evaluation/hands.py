"""Hands of the tables as tensors: ground truth from annotations, predictions from their table, meshes from MANO.

Convention: N rows on their TRUE side, camera frame, metres, double precision, OpenPose joints, rotations absolute (mean
pose included). A predicted left hand is the mirror image of the right-hand model with mirrored rotations; a true left
hand comes from the left-hand model, as ARCTIC's was fitted.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from hawor_pipeline.core.camera import (
    camera_from_translation,
    full_translation,
    mirror_points,
    project_distorted,
    where_left,
)
from hawor_pipeline.core.rotations import axis_angle_to_rotmat, mirror_rotmat
from hawor_pipeline.evaluation.tables import to_numpy
from hawor_pipeline.loading.rows import HandRows, load_rows
from hawor_pipeline.sources.hand_models import HandModels

TRUTH_SHAPES: dict[str, tuple[int, ...]] = {
    "global_orient": (3,),
    "hand_pose": (15, 3),
    "betas": (10,),
    "betas_as_right": (10,),
    "translation_m": (3,),
    "joints_cam_m": (21, 3),
    "joints_px": (21, 2),
    "intrinsics": (3, 3),
    "distortion": (8,),
    "box_size_px": (),
    "cam_from_world": (4, 4),
}
TRUTH_COLUMNS = (*TRUTH_SHAPES, "joint_visible", "joint_in_frame", "is_right")
# What `data.rows.load_rows` reads besides, to give the network's view of a row.
NETWORK_COLUMNS = ("image_width", "box_center_px", "crop_from_image", "frame", "valid")
PREDICTION_SHAPES: dict[str, tuple[int, ...]] = {  # in the order of the fields of `PredictedHands`
    "rotmats": (16, 3, 3),
    "betas": (10,),
    "translation_m": (3,),
    "joints_cam_m": (21, 3),
    "joints_px": (21, 2),
    "own_betas": (10,),
}


@dataclass(slots=True)
class _Rows:
    """Tensors whose first dimension is the row."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def take(self, rows: Tensor | slice) -> Any:
        """Return the same struct with only these rows."""
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(slots=True)
class HandTruth(_Rows):
    """Ground truth of N rows; `betas` belong to the hand's own side, `betas_as_right` to the right-hand model."""

    rotmats: Tensor  # (N, 16, 3, 3)
    betas: Tensor  # (N, 10)
    betas_as_right: Tensor  # (N, 10)
    translation_m: Tensor  # (N, 3)
    joints_m: Tensor  # (N, 21, 3)
    joints_px: Tensor  # (N, 21, 2) full frame, lens included
    joint_visible: Tensor  # (N, 21) bool
    joint_in_frame: Tensor  # (N, 21) bool
    is_right: Tensor  # (N,) bool
    intrinsics: Tensor  # (N, 3, 3)
    distortion: Tensor  # (N, 8)
    box_size_px: Tensor  # (N,)
    cam_from_world: Tensor  # (N, 4, 4)


@dataclass(slots=True)
class PredictedHands(_Rows):
    """Predictions of N rows; values without a prediction are NaN. Joints without translation are wrist-relative.

    The shape directions of MANO's published left model are not the mirror image of the right ones, so `own_betas` have
    no equal among the right-hand model's shapes: only they give labels back exactly.
    """

    rotmats: Tensor  # (N, 16, 3, 3)
    betas: Tensor  # (N, 10) of the right-hand model
    translation_m: Tensor  # (N, 3)
    joints_m: Tensor  # (N, 21, 3)
    joints_px: Tensor  # (N, 21, 2)
    own_betas: Tensor = None  # type: ignore[assignment]  # (N, 10) of the own side's model; NaN where none (default)

    def __post_init__(self) -> None:
        if self.own_betas is None:
            self.own_betas = torch.full_like(self.betas, torch.nan)

    @property
    def has_mesh(self) -> Tensor:
        """(N,) true where the parameters of a mesh are predicted."""
        return torch.isfinite(self.rotmats).flatten(1).all(1) & torch.isfinite(self.betas).all(1)

    def relative_mesh(self, models: HandModels, is_right: Tensor) -> tuple[Tensor, Tensor]:
        """Pose the hands without their translation; vertices (N, 778, 3) and joints (N, 21, 3)."""
        at_origin = torch.zeros_like(self.betas[:, :3])
        return predicted_mesh(models, self.rotmats, self.betas, at_origin, is_right, self.own_betas)

    def columns(self, sample_ids: Sequence[str]) -> dict[str, Any]:
        """Return the rows as the predictions table takes them."""
        values = (getattr(self, field.name).numpy() for field in fields(self))
        return {"sample_id": sample_ids, **dict(zip(PREDICTION_SHAPES, values, strict=True))}


def read_truth(annotations: pa.Table) -> HandTruth:
    """Read ground truth from rows of annotations that have the `TRUTH_COLUMNS`."""
    value = {name: _tensor(annotations[name], shape) for name, shape in TRUTH_SHAPES.items()}
    axis_angles = torch.cat((value.pop("global_orient").unsqueeze(1), value.pop("hand_pose")), 1)  # (N, 16, 3)
    return HandTruth(
        rotmats=axis_angle_to_rotmat(axis_angles),
        joints_m=value.pop("joints_cam_m"),
        joint_visible=_flags(annotations["joint_visible"]),
        joint_in_frame=_flags(annotations["joint_in_frame"]),
        is_right=torch.from_numpy(to_numpy(annotations["is_right"]).astype(bool)),
        **value,  # the other columns have the names of their fields
    )


def read_predictions(rows: pa.Table | pa.RecordBatch) -> PredictedHands:
    """Read predictions from rows of the predictions table; null becomes NaN, as do columns of later versions."""
    known = set(rows.schema.names)
    return PredictedHands(*(_tensor(rows[name], shape) for name, shape in PREDICTION_SHAPES.items() if name in known))


def _tensor(column: pa.Array | pa.ChunkedArray, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(to_numpy(column, shape).astype(np.float64))


def _flags(column: pa.Array | pa.ChunkedArray) -> Tensor:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    values = array.flatten().to_numpy(zero_copy_only=False)
    return torch.from_numpy(values.astype(bool).reshape(len(array), -1))


@torch.no_grad()
def true_vertices(models: HandModels, truth: HandTruth) -> Tensor:
    """Pose ground truth with the model of each row's own side; (N, 778, 3)."""
    vertices = truth.joints_m.new_empty(len(truth), 778, 3)
    for side, rows in (("right", truth.is_right), ("left", ~truth.is_right)):
        if rows.any():
            vertices[rows] = models.layers[side](truth.rotmats[rows], truth.betas[rows]).vertices
    return vertices + truth.translation_m.unsqueeze(-2)


@torch.no_grad()
def predicted_mesh(
    models: HandModels,
    rotmats: Tensor,
    betas: Tensor,
    translation_m: Tensor,
    is_right: Tensor,
    own_betas: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Pose predictions on their true side; vertices (N, 778, 3) and joints (N, 21, 3).

    Args:
        models: the two MANO models.
        rotmats: (N, 16, 3, 3), true side.
        betas: (N, 10) of the right-hand model, whose mirror image a left hand is.
        translation_m: (N, 3), true side.
        is_right: (N,) bool.
        own_betas: (N, 10) of the left-hand model for left hands; rows of NaN, and None, have none.
    """
    mesh = models.layers["right"](where_left(is_right, mirror_rotmat(rotmats), rotmats), betas)
    vertices, joints = (where_left(is_right, mirror_points(p), p) for p in (mesh.vertices, mesh.joints))
    if own_betas is not None and (own := ~is_right & torch.isfinite(own_betas).all(-1)).any():
        left = models.layers["left"](rotmats[own], own_betas[own])
        vertices[own], joints[own] = left.vertices, left.joints
    return vertices + translation_m.unsqueeze(-2), joints + translation_m.unsqueeze(-2)


def predictions_on_true_side(
    models: HandModels,
    truth: HandTruth,
    rotmats: Tensor,
    betas: Tensor,
    translation_m: Tensor,
    own_betas: Tensor | None = None,
) -> PredictedHands:
    """Mirror parameters of right hands back to the true side, pose the model and project its joints through the lens.

    Args:
        models: the two MANO models.
        truth: rows that give side, camera and lens; nothing else of them is read.
        rotmats: (N, 16, 3, 3), hands mirrored to right, as the network predicts them.
        betas: (N, 10) of the right-hand model.
        translation_m: (N, 3), hands mirrored to right.
        own_betas: (N, 10) of each row's own side's model, where known.
    """
    rotmats = where_left(truth.is_right, mirror_rotmat(rotmats), rotmats)
    translation = where_left(truth.is_right, mirror_points(translation_m), translation_m)
    return project_predictions(models, truth, rotmats, betas, translation, own_betas)


def project_predictions(
    models: HandModels,
    truth: HandTruth,
    rotmats: Tensor,
    betas: Tensor,
    translation_m: Tensor,
    own_betas: Tensor | None = None,
) -> PredictedHands:
    """Pose the model by parameters that are on the true side already, and project its joints through the lens."""
    _, joints = predicted_mesh(models, rotmats, betas, translation_m, truth.is_right, own_betas)
    pixels, _ = project_distorted(joints, truth.intrinsics, truth.distortion)
    own = torch.full_like(betas, torch.nan) if own_betas is None else own_betas
    return PredictedHands(rotmats, betas, translation_m, joints, pixels, own)


def own_joints(models: HandModels, vertices: Tensor, joints: Tensor, is_right: Tensor) -> Tensor:
    """Compute the joints that the dataset's publication measures, (N, 21, 3), of hands of both sides.

    Args:
        models: with the dataset's convention.
        vertices: (N, 778, 3), metres.
        joints: (N, 21, 3) as shards store them.
        is_right: (N,) bool.
    """
    own = joints.clone()
    for side, rows in (("right", is_right), ("left", ~is_right)):
        own[rows] = models.own_joints(side, vertices[rows], joints[rows])
    return own


@torch.no_grad()
def with_own_joints(
    models: HandModels, truth: HandTruth, predicted: PredictedHands
) -> tuple[HandTruth, PredictedHands]:
    """Replace stored joints by those that the dataset's publication measures, in metres and pixels.

    Predictions without a mesh (constant joints of a baseline) keep theirs.
    """
    if models.convention.has_stored_joints:
        return truth, predicted
    true_joints = own_joints(models, true_vertices(models, truth), truth.joints_m, truth.is_right)
    joints, rows = predicted.joints_m.clone(), predicted.has_mesh
    mesh, posed = predicted.take(rows).relative_mesh(models, truth.is_right[rows])
    joints[rows] += own_joints(models, mesh, posed, truth.is_right[rows]) - posed
    true_px, px = (project_distorted(points, truth.intrinsics, truth.distortion)[0] for points in (true_joints, joints))
    px = px.where(torch.isfinite(predicted.joints_px), torch.nan)  # not predicted, as is the place in the camera frame
    return replace(truth, joints_m=true_joints, joints_px=true_px), replace(predicted, joints_m=joints, joints_px=px)


def crop_camera(rows: HandRows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return box centre, box size, focal length and principal point as the camera head takes them (double)."""
    focal = (rows.intrinsics[:, 0, 0] + rows.intrinsics[:, 1, 1]) / 2
    camera = (rows.box_center_px, rows.box_size_px, focal, rows.intrinsics[:, :2, 2])
    return camera[0].double(), camera[1].double(), camera[2].double(), camera[3].double()


def ground_truth_predictions(models: HandModels, annotations: pa.Table) -> PredictedHands:
    """Send ground truth through the network's parametrisation and back; every error of it must be 0.

    The output of a perfect network (hand mirrored to right, shape as right, weak-perspective camera of the crop) takes
    the same way as any prediction. Its shape besides is the label's own, see `PredictedHands`.
    """
    rows = load_rows(annotations)
    boxes = crop_camera(rows)
    camera = camera_from_translation(rows.translation_m.double(), *boxes)
    truth, translation = read_truth(annotations), full_translation(camera, *boxes)
    parameters = (rows.rotmats.double(), rows.betas.double(), translation)
    return predictions_on_true_side(models, truth, *parameters, own_betas=truth.betas)
