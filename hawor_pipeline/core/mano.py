"""The MANO hand: reading its files, and a fast differentiable layer that equals smplx.

Convention: metres, in the model's own frame; the global rotation turns about the root joint of the rest pose, as in
smplx, so `vertices_cam = layer(rotmats, betas).vertices + translation`. Rotations are absolute (the mean pose is
already in them); `ManoLayer.absolute_rotmats` adds it to poses that are stored relative to it. Joints are in OpenPose
order.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from hawor_pipeline.core.rotations import axis_angle_to_rotmat
from hawor_pipeline.core.safe_load import load_npz, load_pickle
from hawor_pipeline.core.skeleton import FACE_COUNT, MANO_PARENTS, OPENPOSE_FROM_MANO, TIP_VERTEX_IDS, VERTEX_COUNT
from hawor_pipeline.errors import ConfigError, DataError

Side = Literal["right", "left"]

# Vertices that serve as fingertips (thumb, index, middle, ring, pinky) in the conventions in use.
TIP_SETS = {
    "smplx": TIP_VERTEX_IDS,  # also HaMeR, HaWoR, ARCTIC
    "freihand": (744, 320, 443, 555, 672),
    "manopth": (745, 317, 444, 556, 673),  # also manotorch, DexYCB
}
_JOINTS = 16
_SHAPES = 10
_FEATURES = _SHAPES + 9 * (_JOINTS - 1)
_CHUNK = 256  # hands: larger batches without gradients run in pieces that stay in the cache
_FOLDERS = ("", "mano", "mano_v1_2/models", "models")
_SHAPE_OF = {
    "v_template": (VERTEX_COUNT, 3),
    "posedirs": (VERTEX_COUNT, 3, 9 * (_JOINTS - 1)),
    "J_regressor": (_JOINTS, VERTEX_COUNT),
    "weights": (VERTEX_COUNT, _JOINTS),
    "f": (FACE_COUNT, 3),
    "hands_mean": (3 * (_JOINTS - 1),),
}


@dataclass(slots=True, frozen=True)
class ManoArrays:
    """One side of MANO as float64 arrays (metres, radians), checked for shape, kinematic tree and finite values."""

    side: Side
    path: Path
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


def find_mano(path: str | Path, side: Side) -> Path:
    """Find the model file of one side.

    Args:
        path: the file itself, or a folder as unpacked from mano_v1_2.zip or as smplx expects it.
        side: "right" or "left".

    Returns:
        Path of `MANO_RIGHT` or `MANO_LEFT`, `.npz` before `.pkl`.

    Raises:
        ConfigError: there is none; the message names the places searched and how to get MANO.
    """
    if side not in ("right", "left"):
        raise ConfigError(f"found side {side!r}, expected 'right' or 'left'.")
    root = Path(path)
    if root.is_file():
        return root
    name = f"MANO_{side.upper()}"
    searched = [root / folder / f"{name}{suffix}" for folder in _FOLDERS for suffix in (".npz", ".pkl")]
    for candidate in searched:
        if candidate.is_file():
            return candidate
    places = ", ".join(str(p.parent) for p in searched[::2])
    raise ConfigError(
        f"no {name}.npz or {name}.pkl found; searched {places}. Register at https://mano.is.tue.mpg.de, download "
        f"mano_v1_2.zip, unpack it and give its folder; or use the hand model of the built-in sample."
    )


def load_mano(path: str | Path, side: Side, *, fix_left_shapedirs: bool = False) -> ManoArrays:
    """Read one side of MANO from a `.npz` or `.pkl` file without running code stored in it.

    Args:
        path: the file or a folder that holds it, see `find_mano`.
        side: "right" or "left".
        fix_left_shapedirs: flip the x component of the left shape directions, whose sign is wrong in the official file.
            ARCTIC and DexYCB were fitted with the file as it is, so the default leaves it. Only for side "left".

    Returns:
        The arrays, in float64.

    Raises:
        ConfigError: there is no such file, or the fix is asked for on the right side.
        DataError: the file lacks an array, or one has the wrong shape, kinematic tree or values.

    Source:
        File format of MANO v1.2 as smplx reads it.
    """
    if fix_left_shapedirs and side != "left":
        raise ConfigError("found fix_left_shapedirs=True with side 'right'; only the left file needs the fix.")
    file = find_mano(path, side)
    raw = load_npz(file) if file.suffix == ".npz" else load_pickle(file)
    if not isinstance(raw, dict):
        raise DataError(f"{file}: holds {type(raw).__name__}, expected a dictionary of arrays; get MANO v1.2.")
    arrays = {name: _checked(raw, name, shape, file) for name, shape in _SHAPE_OF.items()}
    shape_dirs = _dense(raw, "shapedirs", file)
    if shape_dirs.shape[:2] != (VERTEX_COUNT, 3) or shape_dirs.ndim != 3 or shape_dirs.shape[2] < _SHAPES:
        raise DataError(f"{file}: found shapedirs of shape {shape_dirs.shape}, expected (778, 3, 10); get MANO v1.2.")
    if not np.isfinite(shape_dirs).all():
        raise DataError(f"{file}: shapedirs holds values that are not finite; get the file again.")
    shape_dirs = np.ascontiguousarray(shape_dirs[:, :, :_SHAPES], np.float64)
    if fix_left_shapedirs:
        shape_dirs = shape_dirs * np.array([-1.0, 1.0, 1.0])[:, None]
    parents = _dense(raw, "kintree_table", file)[0].astype(np.int64)
    if tuple(parents[1:]) != MANO_PARENTS[1:]:
        raise DataError(f"{file}: found parents {parents.tolist()}, expected {list(MANO_PARENTS)}; this is not MANO.")
    faces = arrays["f"].astype(np.int64)
    if faces.min() < 0 or faces.max() >= VERTEX_COUNT:
        raise DataError(f"{file}: face indices reach from {faces.min()} to {faces.max()}, expected 0 to 777.")
    return ManoArrays(
        side=side,
        path=file,
        template=arrays["v_template"],
        shape_dirs=shape_dirs,
        pose_dirs=arrays["posedirs"],
        joint_regressor=arrays["J_regressor"],
        skin_weights=arrays["weights"],
        faces=faces,
        hands_mean=arrays["hands_mean"],
    )


def _dense(raw: dict, name: str, file: Path) -> np.ndarray:
    if name not in raw:
        raise DataError(f"{file}: found no array {name!r}, expected a MANO hand model; get MANO v1.2.")
    value = raw[name]
    return np.asarray(value.toarray() if hasattr(value, "toarray") else value)


def _checked(raw: dict, name: str, shape: tuple[int, ...], file: Path) -> np.ndarray:
    array = _dense(raw, name, file)
    if name == "hands_mean":
        array = array.reshape(-1)
    if array.shape != shape:
        raise DataError(f"{file}: found {name} of shape {array.shape}, expected {shape}; get MANO v1.2.")
    array = np.ascontiguousarray(array, np.float64)
    if not np.isfinite(array).all():
        raise DataError(f"{file}: {name} holds values that are not finite; get the file again.")
    return array


class ManoLayer(nn.Module):
    """MANO as a layer on rotation matrices: one matrix product for shape and pose, one for skinning.

    The model's arrays are buffers that move with the module but stay out of its state_dict: they are licensed, and
    checkpoints must not carry them.

    Args:
        arrays: one side, from `load_mano`.
        tips: name in `TIP_SETS` of the vertices that serve as fingertips.

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
    _tips: Tensor
    _order: Tensor

    def __init__(self, arrays: ManoArrays, *, tips: str = "smplx") -> None:
        super().__init__()
        if tips not in TIP_SETS:
            raise ConfigError(f"found tip set {tips!r}, expected one of {sorted(TIP_SETS)}.")
        self.side = arrays.side
        shape = arrays.shape_dirs.transpose(2, 1, 0).reshape(_SHAPES, -1)  # (10, 3*778), x of all vertices first
        pose = arrays.pose_dirs.transpose(2, 1, 0).reshape(_FEATURES - _SHAPES, -1)
        constants = {
            "_template": arrays.template.T.reshape(-1),
            "_directions": np.concatenate((shape, pose)),  # (145, 2334)
            "_joint_template": (arrays.joint_regressor @ arrays.template).reshape(-1),
            "_joint_directions": np.einsum("jv,vcs->sjc", arrays.joint_regressor, arrays.shape_dirs).reshape(
                _SHAPES, -1
            ),
            "_skin": arrays.skin_weights.T,  # (16, 778)
            "hands_mean": arrays.hands_mean,
        }
        for name, value in constants.items():
            tensor = torch.from_numpy(np.ascontiguousarray(value)).to(torch.get_default_dtype())
            self.register_buffer(name, tensor, persistent=False)
        indices = {"faces": arrays.faces, "_tips": TIP_SETS[tips], "_order": OPENPOSE_FROM_MANO}
        for name, index in indices.items():
            self.register_buffer(name, torch.as_tensor(np.asarray(index), dtype=torch.int64), persistent=False)

    def forward(self, rotmats: Float[Tensor, "*batch 16 3 3"], betas: Float[Tensor, "*batch 10"]) -> ManoOutput:
        """Pose and shape hands.

        Args:
            rotmats: (*batch, 16, 3, 3), absolute rotations in MANO's joint order; the first turns the whole hand.
            betas: (*batch, 10), shape coefficients.

        Returns:
            Vertices (*batch, 778, 3) and joints (*batch, 21, 3) in OpenPose order, metres, without translation. At
            least float32, also under autocast.
        """
        batch = rotmats.shape[:-3]
        dtype = self._template.dtype
        with torch.autocast(rotmats.device.type, enabled=False):
            flat = rotmats.reshape(-1, _JOINTS, 3, 3).to(dtype)
            shapes = betas.reshape(-1, _SHAPES).to(dtype)
            if len(flat) > _CHUNK and not (torch.is_grad_enabled() and (flat.requires_grad or shapes.requires_grad)):
                vertices = flat.new_empty(len(flat), VERTEX_COUNT, 3)
                joints = flat.new_empty(len(flat), 21, 3)
                for start in range(0, len(flat), _CHUNK):
                    part = slice(start, start + _CHUNK)
                    vertices[part], joints[part] = self._pose(flat[part], shapes[part])
            else:
                vertices, joints = self._pose(flat, shapes)
        return ManoOutput(vertices.reshape(*batch, VERTEX_COUNT, 3), joints.reshape(*batch, 21, 3))

    def rest_joints(self, betas: Float[Tensor, "*batch 10"]) -> Float[Tensor, "*batch 16 3"]:
        """Joints of the unposed hand.

        Args:
            betas: (*batch, 10), shape coefficients.

        Returns:
            (*batch, 16, 3), metres, in MANO's joint order; the first is the point that the global rotation turns about.
        """
        flat = betas.reshape(-1, _SHAPES).to(self._template.dtype)
        joints = torch.addmm(self._joint_template, flat, self._joint_directions)
        return joints.reshape(*betas.shape[:-1], _JOINTS, 3)

    def absolute_rotmats(
        self, global_orient: Float[Tensor, "*batch 3"], pose: Float[Tensor, "*batch 45"], *, mean_included: bool
    ) -> Float[Tensor, "*batch 16 3 3"]:
        """Turn axis-angle poses into the absolute rotation matrices that `forward` takes.

        Args:
            global_orient: (*batch, 3), radians.
            pose: (*batch, 45), radians.
            mean_included: false for poses relative to MANO's mean (ARCTIC's raw files; smplx with
                flat_hand_mean=False), which is then added in axis-angle space, as smplx does.

        Returns:
            (*batch, 16, 3, 3) rotation matrices.
        """
        full = pose if mean_included else pose + self.hands_mean.to(pose.dtype)
        vectors = torch.cat((global_orient, full), -1)
        return axis_angle_to_rotmat(vectors.reshape(*vectors.shape[:-1], _JOINTS, 3))

    def _pose(self, rotmats: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
        count = len(rotmats)
        eye = torch.eye(3, dtype=rotmats.dtype, device=rotmats.device)
        features = torch.cat((betas, (rotmats[:, 1:] - eye).flatten(1)), 1)  # (B, 145)
        shaped = torch.addmm(self._template, features, self._directions).view(count, 1, 3, VERTEX_COUNT)
        rest = torch.addmm(self._joint_template, betas, self._joint_directions).view(count, _JOINTS, 3)
        turned, placed = _forward_kinematics(rotmats, rest)  # (B, 16, 3, 3), (B, 16, 3)
        offsets = placed - (turned @ rest.unsqueeze(-1)).squeeze(-1)
        transforms = torch.cat((turned, offsets.unsqueeze(-1)), -1).reshape(count, _JOINTS, 12)
        blended = (transforms.transpose(1, 2).reshape(-1, _JOINTS) @ self._skin).view(count, 3, 4, VERTEX_COUNT)
        # (B, 3, 778): R v + t, the three products added in place of a homogeneous matrix product
        surface = (blended[:, :, :3] * shaped).sum(2) + blended[:, :, 3]
        vertices = surface.transpose(1, 2)
        joints = torch.cat((placed, vertices[:, self._tips]), 1)[:, self._order]
        return vertices, joints


def _forward_kinematics(rotmats: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
    """World rotations and positions of the 16 joints; the five fingers advance together, one knuckle at a time."""
    count = len(rotmats)
    fingers = rotmats[:, 1:].view(count, 5, 3, 3, 3)  # (B, finger, knuckle, 3, 3)
    points = rest[:, 1:].view(count, 5, 3, 3)
    turn, place = rotmats[:, :1], rest[:, :1]  # (B, 1, 3, 3), (B, 1, 3)
    last = place
    turns, places = [], []
    for knuckle in range(3):
        here = points[:, :, knuckle]
        place = place + (turn @ (here - last).unsqueeze(-1)).squeeze(-1)
        turn = turn @ fingers[:, :, knuckle]
        last = here
        turns.append(turn)
        places.append(place)
    turned = torch.cat((rotmats[:, :1], torch.stack(turns, 2).flatten(1, 2)), 1)
    placed = torch.cat((rest[:, :1], torch.stack(places, 2).flatten(1, 2)), 1)
    return turned, placed
