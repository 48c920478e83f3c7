"""The MANO hand model as a fast differentiable layer, equal to smplx.

Convention: metres, in the model's own frame; the global rotation turns about the root joint of the rest pose, as in
smplx, so `vertices_cam = layer(rotmats, betas).vertices + translation`. Rotations are absolute (the mean pose is
already in them); `ManoLayer.absolute_rotmats` adds it to poses that are stored relative to it. `rotmats` (*batch, 16,
3, 3) are in MANO's joint order, the first turns the whole hand; `betas` (*batch, 10) are shape coefficients. Joints are
in OpenPose order unless stated.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from hawor_pipeline.core.rotations import axis_angle_to_rotmat
from hawor_pipeline.core.skeleton import (
    JOINT_COUNT,
    MANO_JOINT_COUNT,
    OPENPOSE_FROM_MANO,
    SHAPE_COUNT,
    TIP_VERTEX_IDS,
    VERTEX_COUNT,
)
from hawor_pipeline.errors import ConfigError

Side = Literal["right", "left"]

# Fingertip vertices (thumb, index, middle, ring, pinky) of the conventions in use.
TIP_SETS = {
    "smplx": TIP_VERTEX_IDS,  # also HaMeR, HaWoR, ARCTIC
    "freihand": (744, 320, 443, 555, 672),
    "ho3d": (744, 333, 444, 555, 672),
    "manopth": (745, 317, 444, 556, 673),  # also DexYCB's labels; manotorch: these on both sides
}
_LEFT_TIP_SETS = {"manopth": (745, 317, 445, 556, 673)}  # the left mesh differs around the middle finger's tip


def tip_vertices(tips: str, side: str) -> tuple[int, ...]:
    """Return the fingertip vertices of one side.

    Args:
        tips: name in `TIP_SETS`.
        side: "right" or "left"; they differ in manopth only, which takes vertex 445 for the left middle fingertip.

    Raises:
        ConfigError: unknown tip set.
    """
    if tips not in TIP_SETS:
        raise ConfigError(f"found tip set {tips!r}, expected one of {sorted(TIP_SETS)}.")
    return _LEFT_TIP_SETS.get(tips, TIP_SETS[tips]) if side == "left" else TIP_SETS[tips]


# Joints by knuckle: the root, five first knuckles, five second ones, five third ones. In this order each level of the
# kinematic tree is one slice, and one batched product advances all five fingers.
_BY_KNUCKLE = (0, *(1 + 3 * finger + knuckle for knuckle in range(3) for finger in range(5)))
_POSE_FEATURES = 9 * (MANO_JOINT_COUNT - 1)
# Hands per piece: 778 vertices x 12 numbers x 4 bytes are 37 KB per hand, so 64 hands (2.4 MB) stay in a core's cache.
# With gradients the pieces are larger: there the temporaries are kept for the backward pass anyway.
_PIECE, _PIECE_WITH_GRADIENT = 64, 256


@dataclass(slots=True, frozen=True)
class ManoArrays:
    """One side of MANO as float64 arrays (metres, radians) of checked shape, kinematic tree and finite values."""

    side: Side
    template: np.ndarray  # (778, 3)
    shape_dirs: np.ndarray  # (778, 3, 10)
    pose_dirs: np.ndarray  # (778, 3, 135)
    joint_regressor: np.ndarray  # (16, 778)
    skin_weights: np.ndarray  # (778, 16)
    faces: np.ndarray  # (1538, 3) int64
    hands_mean: np.ndarray  # (45,)


@dataclass(slots=True)
class ManoOutput:
    """Surface and joints of posed hands, metres, in the model's frame."""

    vertices: Float[Tensor, "*batch 778 3"]
    joints: Float[Tensor, "*batch 21 3"]  # OpenPose order


class ManoLayer(nn.Module):
    """MANO layer: one matrix product for shape and pose, one for skinning.

    The model's arrays are non-persistent buffers: they move with the module, but checkpoints must not contain licensed
    data.

    Args:
        arrays: one side, from `hawor_pipeline.untrusted.mano_files.load_mano`.
        tips: name of the fingertip vertices in `TIP_SETS`.

    Raises:
        ConfigError: unknown tip set.

    Source:
        Romero et al. 2017; equal to `smplx.MANOLayer` within 1e-6 m.

    Example:
        >>> layer = ManoLayer(load_mano("body_models/mano", "right"))  # doctest: +SKIP
        >>> layer(torch.eye(3).expand(2, 16, 3, 3), torch.zeros(2, 10)).joints.shape  # doctest: +SKIP
        torch.Size([2, 21, 3])
    """

    faces: Tensor
    hands_mean: Tensor
    _template: Tensor
    _directions: Tensor
    _joint_template: Tensor
    _joint_directions: Tensor
    _skin: Tensor
    _last_column: Tensor
    _tips: Tensor
    _by_knuckle: Tensor
    _mano_order: Tensor
    _order: Tensor

    def __init__(self, arrays: ManoArrays, *, tips: str = "smplx") -> None:
        super().__init__()
        self.side = arrays.side
        # Coordinates before vertices (x of all vertices, then y, then z): the rows of the result are contiguous, and
        # skinning below multiplies whole rows.
        shape = arrays.shape_dirs.transpose(2, 1, 0).reshape(SHAPE_COUNT, -1)  # (10, 3*778)
        pose = arrays.pose_dirs.transpose(2, 1, 0).reshape(_POSE_FEATURES, -1)
        regressor = arrays.joint_regressor[list(_BY_KNUCKLE)]
        # MANO's pose features are R - I. Moving I @ pose into the template makes R itself the feature, without a
        # subtraction per call.
        at_rest = np.tile(np.eye(3).reshape(-1), MANO_JOINT_COUNT - 1) @ pose
        constants = {
            "_template": arrays.template.T.reshape(-1) - at_rest,
            "_directions": np.concatenate((shape, pose)),  # (145, 2334)
            "_joint_template": (regressor @ arrays.template).reshape(-1),
            "_joint_directions": np.einsum("jv,vcs->sjc", regressor, arrays.shape_dirs).reshape(SHAPE_COUNT, -1),
            "_skin": arrays.skin_weights.T[list(_BY_KNUCKLE)],  # (16, 778)
            # Completes the transposed motions to 4 x 4 (and the appended point, a fifth row, to homogeneous
            # coordinates).
            "_last_column": np.array([[0.0], [0.0], [0.0], [1.0], [1.0]]),
            "hands_mean": arrays.hands_mean,
        }
        for name, value in constants.items():
            tensor = torch.from_numpy(np.ascontiguousarray(value)).to(torch.get_default_dtype())
            self.register_buffer(name, tensor, persistent=False)
        mano_order = np.argsort(_BY_KNUCKLE)
        with_tips = np.concatenate((mano_order, np.arange(MANO_JOINT_COUNT, JOINT_COUNT)))
        indices = {
            "faces": arrays.faces,
            "_tips": tip_vertices(tips, arrays.side),
            "_by_knuckle": _BY_KNUCKLE,
            "_mano_order": mano_order,
            "_order": with_tips[list(OPENPOSE_FROM_MANO)],
        }
        for name, index in indices.items():
            self.register_buffer(name, torch.as_tensor(np.asarray(index), dtype=torch.int64), persistent=False)

    def forward(self, rotmats: Float[Tensor, "*batch 16 3 3"], betas: Float[Tensor, "*batch 10"]) -> ManoOutput:
        """Pose and shape hands.

        Returns:
            Vertices (*batch, 778, 3) and joints (*batch, 21, 3) in OpenPose order, metres, without translation. At
            least float32, also under autocast.
        """
        # Half precision would move vertices by millimetres: bfloat16 resolves 0.5 mm at 10 cm, and errors add up along
        # the fingers.
        if torch.is_autocast_enabled(rotmats.device.type):
            with torch.autocast(rotmats.device.type, enabled=False):
                return self._hands(rotmats, betas)
        return self._hands(rotmats, betas)

    def rest_joints(self, betas: Float[Tensor, "*batch 10"]) -> Float[Tensor, "*batch 16 3"]:
        """Compute the joints of the unposed hand.

        Returns:
            (*batch, 16, 3), metres, in MANO's joint order; the first is the centre of the global rotation.
        """
        flat = betas.reshape(-1, SHAPE_COUNT).to(self._template.dtype)
        joints = torch.addmm(self._joint_template, flat, self._joint_directions)
        joints = joints.view(-1, MANO_JOINT_COUNT, 3).index_select(1, self._mano_order)
        return joints.reshape(*betas.shape[:-1], MANO_JOINT_COUNT, 3)

    def absolute_rotmats(
        self, global_orient: Float[Tensor, "*batch 3"], pose: Float[Tensor, "*batch 45"], *, mean_included: bool
    ) -> Float[Tensor, "*batch 16 3 3"]:
        """Turn axis-angle poses (radians) into the absolute rotation matrices that `forward` takes.

        Args:
            mean_included: false for poses relative to MANO's mean (ARCTIC's raw files; smplx with
                flat_hand_mean=False), which is then added in axis-angle space, as smplx does. True is smplx's
                flat_hand_mean=True.

        Returns:
            (*batch, 16, 3, 3) rotation matrices.
        """
        full = pose if mean_included else pose + self.hands_mean.to(pose.dtype)
        vectors = torch.cat((global_orient, full), -1)
        return axis_angle_to_rotmat(vectors.reshape(*vectors.shape[:-1], MANO_JOINT_COUNT, 3))

    def _hands(self, rotmats: Tensor, betas: Tensor) -> ManoOutput:
        batch = rotmats.shape[:-3]
        dtype = self._template.dtype
        turns = rotmats.reshape(-1, MANO_JOINT_COUNT, 3, 3).to(dtype)
        shapes = betas.reshape(-1, SHAPE_COUNT).to(dtype)
        rest = torch.addmm(self._joint_template, shapes, self._joint_directions)  # (B, 16 3)
        motion, places = self._joint_motions(turns.index_select(1, self._by_knuckle), rest)
        columns = motion.permute(0, 2, 3, 1).reshape(-1, 12, MANO_JOINT_COUNT)
        features = torch.cat((shapes, turns.flatten(1)[:, 9:]), 1)  # (B, 145)
        vertices = self._surfaces(features, columns)
        tips = vertices.index_select(1, self._tips)
        joints = torch.cat((places, tips), 1).index_select(1, self._order)
        if len(batch) == 1:
            return ManoOutput(vertices, joints)
        return ManoOutput(vertices.reshape(*batch, VERTEX_COUNT, 3), joints.reshape(*batch, JOINT_COUNT, 3))

    def _surfaces(self, features: Tensor, columns: Tensor) -> Tensor:
        """Compute (B, 778, 3) vertices from (B, 145) features and (B, 12, 16) motions of the joints, in pieces."""
        learning = torch.is_grad_enabled() and (features.requires_grad or columns.requires_grad)
        piece = _PIECE_WITH_GRADIENT if learning else _PIECE
        if len(features) <= piece:
            return self._surface(features, columns)
        parts = zip(features.split(piece), columns.split(piece), strict=True)
        if learning:
            return torch.cat([self._surface(*part) for part in parts])
        # Without gradients each piece is written into place; `torch.cat` would copy everything once more.
        vertices = features.new_empty(len(features), VERTEX_COUNT, 3)
        for target, part in zip(vertices.split(piece), parts, strict=True):
            target.copy_(self._surface(*part))
        return vertices

    def _surface(self, features: Tensor, columns: Tensor) -> Tensor:
        shaped = torch.addmm(self._template, features, self._directions).view(-1, 3, VERTEX_COUNT)
        blended = (columns.flatten(0, 1) @ self._skin).view(-1, 4, 3, VERTEX_COUNT)
        return _moved(blended, shaped).transpose(1, 2)

    def _joint_motions(self, rotmats: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """Compute how each joint, with all its ancestors, moves the rest pose, and the resulting place of the joint.

        A joint alone turns about its own place: x -> R x + (j - R j).

        Args:
            rotmats: (B, 16, 3, 3), joints by knuckle: root, five first knuckles, five second ones, five third ones.
            rest: (B, 16 3), places of the joints in the same order.

        Returns:
            (B, 16, 4, 3) transposed motions and (B, 16, 3) places.
        """
        # For a single hand the number of calls dominates the time, so the layout serves few, large products. Motions
        # are transposed: points are rows, and the rows of all joints of a level can be stacked under one parent. The
        # joint itself is appended to its motion as a fifth row, so the same product that composes motions also moves
        # it.
        count = len(rotmats)
        turn, place = rotmats.mT.flatten(0, 1), rest.view(-1, 1, 3)
        shift = torch.baddbmm(place, place, turn, alpha=-1)  # j - j R^T, as a row
        own = torch.cat((turn, shift, place), 1)  # (B 16, 5, 3)
        own = torch.cat((own, self._last_column.expand(len(own), 5, 1)), 2).view(count, 5 * MANO_JOINT_COUNT, 4)
        firsts = torch.bmm(own[:, 5:30], own[:, :4])  # (B, 25, 4): five fingers of five rows under the root
        seconds = torch.bmm(own[:, 30:55].reshape(-1, 5, 4), firsts.view(-1, 5, 4)[:, :4])  # (B 5, 5, 4)
        thirds = torch.bmm(own[:, 55:].reshape(-1, 5, 4), seconds[:, :4])
        full = torch.cat((own[:, :5], firsts, seconds.view(count, 25, 4), thirds.view(count, 25, 4)), 1)
        full = full.view(count, MANO_JOINT_COUNT, 5, 4)
        return full[:, :, :4, :3], full[:, :, 4, :3]


def _moved(blended: Tensor, shaped: Tensor) -> Tensor:
    """Move (B, 3, V) vertices by (B, 4, 3, V) motions: R v + t, one coordinate of v at a time."""
    if torch.is_grad_enabled() and (blended.requires_grad or shaped.requires_grad):
        return _Moved.apply(blended, shaped)
    by_x, by_y, by_z, shift = blended.unbind(1)
    x, y, z = shaped.unsqueeze(2).unbind(1)
    # Fused multiply-adds in place: an einsum would materialise the (B, 3, 3, V) products.
    return torch.addcmul(shift, by_x, x).addcmul_(by_y, y).addcmul_(by_z, z)


class _Moved(torch.autograd.Function):
    """`_moved` with a backward pass of two products; autograd would record a dozen."""

    @staticmethod
    def forward(ctx, blended: Tensor, shaped: Tensor) -> Tensor:
        """Move vertices; see `_moved`."""
        ctx.save_for_backward(blended, shaped)
        return _moved(blended, shaped)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the gradients of both inputs."""
        blended, shaped = ctx.saved_tensors
        homogeneous = torch.nn.functional.pad(shaped, (0, 0, 0, 1), value=1.0)  # (B, 4, V)
        wide = gradient.contiguous().unsqueeze(1)
        return homogeneous.unsqueeze(2) * wide, (blended[:, :3] * wide).sum(2)
