"""Predicted hands in the parameters that ARCTIC's evaluation server poses its own MANO models with.

The server turns rotation matrices into axis-angle, adds MANO's mean pose there (`flat_hand_mean=False`), and poses a
left hand with the left model. Predictions here are absolute rotations, and a left hand is the mirrored right model. So
the mean pose is subtracted from the fingers, and a shape of the left model is fitted. Both are checked by repeating the
server's computation.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from hawor_pipeline.core.rotations import axis_angle_to_rotmat, rotmat_to_axis_angle
from hawor_pipeline.core.units import m_to_mm
from hawor_pipeline.errors import NumericalError
from hawor_pipeline.evaluation.hands import PredictedHands, predicted_mesh
from hawor_pipeline.sources.hand_models import HandModels

_ROTATION_TOLERANCE = 1e-4  # largest entry by which the server's rotations may differ


@dataclass(frozen=True, slots=True)
class ArcticHands:
    """N hands of one side."""

    beta: Tensor  # (N, 10) of that side's model
    cam_t: Tensor  # (N, 3) metres, camera frame: added to the model's vertices
    pose: Tensor  # (N, 16, 3, 3) fingers without the mean pose
    residual_mm: Tensor  # (N,) mean vertex distance between the predicted hand and the one that the server poses


def to_arctic(models: HandModels, hands: PredictedHands, side: str) -> ArcticHands:
    """Turn predictions of one side into ARCTIC's parameters.

    Args:
        models: the two MANO models, as ARCTIC's were: left shape directions as in the file.
        hands: N rows on their true side, with rotations, shape and translation.
        side: left or right.

    Raises:
        NumericalError: a finger rotation has no axis-angle relative to the mean (its angle would exceed pi).
    """
    layer = models.layers[side]
    mean = layer.hands_mean.reshape(15, 3)
    relative = rotmat_to_axis_angle(hands.rotmats[:, 1:]) - mean  # (N, 15, 3)
    pose = torch.cat((hands.rotmats[:, :1], axis_angle_to_rotmat(relative)), 1)
    beta = hands.betas if side == "right" else torch.from_numpy(models.mirrored_betas("right", hands.betas.numpy())[0])
    # Both models turn about their root joint, which must land on the predicted wrist.
    cam_t = hands.joints_m[:, 0] - layer.rest_joints(beta)[:, 0]
    absolute = posed_by_server(pose, mean)
    wrong = (absolute - hands.rotmats).abs().amax((1, 2, 3))
    if (wrong > _ROTATION_TOLERANCE).any():
        row = int(wrong.argmax())
        raise NumericalError(
            f"row {row} ({side} hand): a finger is turned so far that MANO's mean pose cannot be subtracted "
            f"(rotations differ by {float(wrong[row]):.2g}); no real hand does this, inspect the prediction."
        )
    predicted, _ = predicted_mesh(
        models, hands.rotmats, hands.betas, hands.translation_m, torch.full((len(hands),), side == "right")
    )
    theirs = layer(absolute, beta).vertices + cam_t[:, None]
    residual = m_to_mm(torch.linalg.vector_norm(predicted - theirs, dim=-1).mean(-1))
    return ArcticHands(beta.float(), cam_t.float(), pose.float(), residual)


def posed_by_server(pose: Tensor, mean: Tensor) -> Tensor:
    """Compute the absolute rotations (N, 16, 3, 3) that the server poses; `mean` is (15, 3), rad."""
    fingers = axis_angle_to_rotmat(rotmat_to_axis_angle(pose[:, 1:]) + mean)
    return torch.cat((pose[:, :1], fingers), 1)
