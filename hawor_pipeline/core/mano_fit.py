"""MANO parameters of posed meshes: the inverse of `ManoLayer`, for publications that state vertices alone.

Convention: as `core.mano`; N meshes at once, in double precision.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hawor_pipeline.core.alignment import procrustes
from hawor_pipeline.core.mano import ManoLayer
from hawor_pipeline.core.rotations import axis_angle_to_rotmat
from hawor_pipeline.core.skeleton import MANO_JOINT_COUNT, MANO_PARENTS, SHAPE_COUNT

_STEP = 1e-6  # radians and shape coefficients, of the differences
_ROUNDS = 40
_EXACT_M = 1e-7  # below this mean distance a mesh is done
_FIRST_DAMPING, _LESS, _MORE = 1e-3, 0.1, 8.0  # Levenberg-Marquardt
_PIECE = 32  # meshes at once: each is posed 59 times a round
_TURNS = 3 * MANO_JOINT_COUNT
_POSED = _TURNS + SHAPE_COUNT  # parameters that need the model; translations are known without it


@dataclass(frozen=True, slots=True)
class MeshFit:
    """Parameters of N meshes."""

    rotmats: Tensor  # (N, 16, 3, 3) absolute, MANO's joint order
    betas: Tensor  # (N, 10)
    translation_m: Tensor  # (N, 3)
    error_m: Tensor  # (N,) mean distance of the vertices

    def vertices(self, layer: ManoLayer) -> Tensor:
        """Pose the meshes, (N, 778, 3)."""
        return layer(self.rotmats, self.betas).vertices + self.translation_m[:, None]


@torch.no_grad()
def fit_meshes(layer: ManoLayer, parts: Int[Tensor, "778"], vertices: Float[Tensor, "meshes 778 3"]) -> MeshFit:
    """Find the parameters whose mesh is nearest, in the least-squares sense.

    Args:
        layer: the model, in double precision.
        parts: joint in MANO's order that moves each vertex most.
        vertices: metres.

    Returns:
        The fits; meshes that are not of this model keep an error.

    Source:
        Levenberg 1944, Marquardt 1963, started from the rigid motion of each part of the hand.
    """
    pieces = [_fit_piece(layer, parts, piece) for piece in vertices.double().split(_PIECE)]
    names = MeshFit.__dataclass_fields__
    return MeshFit(*(torch.cat([getattr(piece, name) for piece in pieces]) for name in names))


def _fit_piece(layer: ManoLayer, parts: Tensor, target: Tensor) -> MeshFit:
    fit = _rigid_parts(layer, parts, target)
    damping = torch.full_like(fit.error_m, _FIRST_DAMPING)
    for _ in range(_ROUNDS):
        if bool((fit.error_m < _EXACT_M).all()):
            break
        trial = _with_error(layer, target, *_stepped(layer, fit, target, damping))
        better = trial.error_m < fit.error_m
        damping = torch.where(better, damping * _LESS, damping * _MORE)
        chosen = (
            torch.where(better.view(-1, *[1] * (new.dim() - 1)), new, old)
            for new, old in (
                (getattr(trial, name), getattr(fit, name)) for name in ("rotmats", "betas", "translation_m", "error_m")
            )
        )
        fit = MeshFit(*chosen)
    return fit


def _with_error(layer: ManoLayer, target: Tensor, rotmats: Tensor, betas: Tensor, translation_m: Tensor) -> MeshFit:
    posed = layer(rotmats, betas).vertices + translation_m[:, None]
    return MeshFit(rotmats, betas, translation_m, (posed - target).norm(dim=-1).mean(-1))


def _rigid_parts(layer: ManoLayer, parts: Tensor, target: Tensor) -> MeshFit:
    """Start from the rotation of each part of the unposed mean hand onto its vertices."""
    count = len(target)
    betas = target.new_zeros(count, SHAPE_COUNT)
    rest_pose = torch.eye(3, dtype=target.dtype).expand(count, MANO_JOINT_COUNT, 3, 3)
    rest = layer(rest_pose, betas).vertices
    turns = [procrustes(rest, target, mask=parts == joint, with_scale=False)[1] for joint in range(MANO_JOINT_COUNT)]
    local = [turns[0], *(turns[MANO_PARENTS[j]].mT @ turns[j] for j in range(1, MANO_JOINT_COUNT))]
    rotmats = torch.stack(local, 1)
    shift = (target - layer(rotmats, betas).vertices).mean(1)
    return _with_error(layer, target, rotmats, betas, shift)


def _stepped(layer: ManoLayer, fit: MeshFit, target: Tensor, damping: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return rotations, shapes and translations after one damped step."""
    count, posed = len(target), fit.vertices(layer)
    nudges = _STEP * torch.eye(_POSED, dtype=target.dtype)
    turned = axis_angle_to_rotmat(nudges[:, :_TURNS].view(_POSED, MANO_JOINT_COUNT, 3))
    rotmats, betas = fit.rotmats[:, None] @ turned, fit.betas[:, None] + nudges[:, _TURNS:]
    nudged = layer(rotmats.flatten(0, 1), betas.flatten(0, 1)).vertices.view(count, _POSED, -1)
    slopes = (nudged - (posed - fit.translation_m[:, None]).flatten(1)[:, None]) / _STEP  # (N, 58, 2334)
    shifts = torch.eye(3, dtype=target.dtype).repeat(1, target.shape[1]).expand(count, 3, -1)
    slopes = torch.cat((slopes, shifts), 1)  # (N, 61, 2334)
    squares = slopes @ slopes.mT
    pull = slopes @ (target - posed).flatten(1)[..., None]
    damped = squares + torch.diag_embed(damping[:, None] * squares.diagonal(dim1=1, dim2=2) + 1e-12)
    step = torch.linalg.solve(damped, pull)[..., 0]
    turned = axis_angle_to_rotmat(step[:, :_TURNS].reshape(count, MANO_JOINT_COUNT, 3))
    return fit.rotmats @ turned, fit.betas + step[:, _TURNS:_POSED], fit.translation_m + step[:, _POSED:]
