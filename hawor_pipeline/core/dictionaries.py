"""Predictions and ground truth as dictionaries of tensors, which the loss of the earlier system took.

Convention: N images, or B clips of T frames, as leading dimensions `lead`; right-hand convention, camera frame. Keys of
the prediction begin with `pred_`; those of the ground truth with `gt_`, or have no prefix, as that system's dataset
gives them:

    keypoints_3d    lead + (21, 3), metres, OpenPose order; required
    keypoints_2d    lead + (21, 2), crop units, (uv - box_center) / box_size
    vertices        lead + (778, 3), metres
    mano_params     mapping of global_orient, 1 rotation, and hand_pose, 15 rotations, as axis angles (3 numbers each)
                    or matrices (9), mean pose included; and betas, lead + (10,)

Other keys are ignored, as the network of that system returns more than the loss uses.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hawor_pipeline.core.rotations import axis_angle_to_rotmat
from hawor_pipeline.core.skeleton import JOINT_COUNT, MANO_JOINT_COUNT, SHAPE_COUNT, VERTEX_COUNT
from hawor_pipeline.core.types import HandPrediction, HandTarget
from hawor_pipeline.errors import DataError

FARTHEST_IN_CROP = 20.0  # crop units; 2D joints beyond it are pixels
_SHAPES = {"keypoints_3d": (JOINT_COUNT, 3), "keypoints_2d": (JOINT_COUNT, 2), "vertices": (VERTEX_COUNT, 3)}
_ROTATIONS = {"global_orient": 1, "hand_pose": MANO_JOINT_COUNT - 1}
_MANO = (*_ROTATIONS, "betas")
_TERMS = {
    "keypoints_3d": ("KEYPOINTS_3D", "TEMPORAL_CONSISTENCY", "OCCLUSION_ROBUSTNESS"),
    "keypoints_2d": ("KEYPOINTS_2D",),
    "vertices": ("MESH_VERTICES", "MESH_FACES"),
    "global_orient": ("GLOBAL_ORIENT",),
    "hand_pose": ("HAND_POSE",),
    "betas": ("BETAS",),
}


@dataclass(frozen=True, slots=True)
class LossInputs:
    """Arguments of the loss; `terms` are those that the dictionaries have the keys of."""

    pred: HandPrediction
    target: HandTarget
    target_vertices_m: Tensor | None
    terms: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Entry:
    key: str
    value: Any


def from_dictionaries(
    pred_output: Any,
    gt_data: Any,
    valid_mask: Tensor | None,
    occlusion_mask: Tensor | None,
    *,
    wanted: Collection[str],
) -> LossInputs:
    """Convert the dictionaries to the structs of the loss. N images become N clips of one frame.

    Args:
        pred_output: prediction, keys as above.
        gt_data: ground truth, keys as above.
        valid_mask: lead, bool, images that count; None: all.
        occlusion_mask: lead + (21,) or lead, 1 for hidden joints; without it there is no OCCLUSION_ROBUSTNESS.
        wanted: terms with a weight above 0; a key of theirs that only one dictionary has is an error.

    Raises:
        DataError: a key is missing, a value is no tensor of its shape, or 2D joints are in pixels.
    """
    pred, truth = _entries(pred_output, ("pred_",), "prediction"), _entries(gt_data, ("gt_", ""), "ground truth")
    for key, data, entries in (("pred_keypoints_3d", pred_output, pred), ("gt_keypoints_3d", gt_data, truth)):
        if "keypoints_3d" not in entries:
            raise DataError(f"found the keys {', '.join(map(str, data)) or 'none'}, expected {key} among them.")
    for name, terms in _TERMS.items():
        needed = [term for term in terms if term in wanted]
        if needed and (name in pred) != (name in truth):
            there, absent = (pred, "gt") if name in pred else (truth, "pred")
            place = f"mano_params[{name!r}]" if name in _MANO else name
            raise DataError(
                f"found {there[name].key} without {absent}_{place}, expected both or neither: {needed[0]} compares "
                f"them. Add the key, or set the weight of {' and '.join(needed)} to 0."
            )
    first = _tensor(pred["keypoints_3d"])
    lead = tuple(first.shape[:-2])
    if len(lead) not in (1, 2):
        raise DataError(
            f"found pred_keypoints_3d of shape {tuple(first.shape)}, expected (images, 21, 3) or (clips, time, 21, 3)."
        )
    both = [name for name in _TERMS if name in pred and name in truth]
    ours, theirs = ({name: _converted(name, side[name], lead) for name in both} for side in (pred, truth))
    valid = _valid(valid_mask, lead, first.device)
    _refuse_pixels(theirs.get("keypoints_2d"), truth, valid)
    visible = _visible(occlusion_mask, lead, first.device)
    possible = {term for name in both for term in _TERMS[name]} - (
        {"OCCLUSION_ROBUSTNESS"} if visible is None else set()
    )
    return LossInputs(*_structs(ours, theirs, valid, visible), frozenset(possible))


def _entries(data: Any, prefixes: tuple[str, ...], side: str) -> dict[str, _Entry]:
    """Return the entries that the loss uses by their names without prefix, those of `mano_params` beside the others."""
    if not isinstance(data, Mapping):
        raise DataError(f"found a {side} of type {type(data).__name__}, expected a dictionary like the other argument.")
    if "pred_sequence" in data:
        raise DataError(
            "found pred_sequence, expected clips as keypoints of shape (clips, time, 21, 3): their motion is compared "
            "with that of the ground truth. Remove the key."
        )
    found: dict[str, _Entry] = {}
    name: str
    for name in (*_SHAPES, "mano_params"):
        keys = [prefix + name for prefix in prefixes if data.get(prefix + name) is not None]
        if len(keys) > 1:
            raise DataError(f"found {' and '.join(keys)} in the {side}, expected one of them.")
        if keys:
            found[name] = _Entry(keys[0], data[keys[0]])
    params = found.pop("mano_params", None)
    if params is not None:
        if not isinstance(params.value, Mapping):
            raise DataError(f"found {params.key} of type {type(params.value).__name__}, expected a dictionary.")
        given = [name for name in _MANO if params.value.get(name) is not None]
        found |= {name: _Entry(f"{params.key}[{name!r}]", params.value[name]) for name in given}
    return found


def _tensor(entry: _Entry) -> Tensor:
    if not isinstance(entry.value, Tensor) or not entry.value.is_floating_point():
        kind = entry.value.dtype if isinstance(entry.value, Tensor) else type(entry.value).__name__
        raise DataError(f"found {entry.key} of type {kind}, expected a tensor of floating-point numbers.")
    return entry.value


def _converted(name: str, entry: _Entry, lead: tuple[int, ...]) -> Tensor:
    """Check the shape of a value; return rotations as matrices (lead, rotations, 3, 3)."""
    value = _tensor(entry)
    own = tuple(value.shape)
    if name in _SHAPES:
        if own == lead + _SHAPES[name]:
            return value
        raise DataError(f"found {entry.key} of shape {own}, expected {lead + _SHAPES[name]}.")
    numbers = math.prod(own[len(lead) :])
    fits = own[: len(lead)] == lead
    if name == "betas":
        if fits and numbers == SHAPE_COUNT:
            return value.reshape(*lead, SHAPE_COUNT)
        raise DataError(f"found {entry.key} of shape {own}, expected {(*lead, SHAPE_COUNT)}.")
    count = _ROTATIONS[name]
    if fits and numbers == 9 * count:
        return value.reshape(*lead, count, 3, 3)
    if fits and numbers == 3 * count:
        return axis_angle_to_rotmat(value.reshape(*lead, count, 3))
    expected = f"{(*lead, 3 * count)} (axis angles) or {(*lead, count, 3, 3)} (matrices)"
    raise DataError(f"found {entry.key} of shape {own}, expected {expected}.")


def _valid(mask: Tensor | None, lead: tuple[int, ...], device: torch.device) -> Tensor:
    if mask is None:
        return torch.ones(lead, dtype=torch.bool, device=device)
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or tuple(mask.shape) != lead:
        raise DataError(f"found valid_mask {_described(mask)}, expected a bool tensor of shape {lead}.")
    return mask.to(device)


def _visible(mask: Tensor | None, lead: tuple[int, ...], device: torch.device) -> Tensor | None:
    if mask is None:
        return None
    joints = (*lead, JOINT_COUNT)
    if not isinstance(mask, Tensor) or tuple(mask.shape) not in (lead, joints):
        raise DataError(f"found occlusion_mask {_described(mask)}, expected a tensor of shape {joints} or {lead}.")
    if bool(((mask != 0) & (mask != 1)).any()):
        raise DataError("found an occlusion_mask with values between 0 and 1, expected 1 for hidden joints, else 0.")
    return (mask if tuple(mask.shape) == joints else mask[..., None]).to(device).eq(0).expand(joints)


def _described(value: Any) -> str:
    return f"of {value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"of type {type(value).__name__}"


def _refuse_pixels(crop: Tensor | None, truth: Mapping[str, _Entry], valid: Tensor) -> None:
    if crop is None or not bool((crop.detach()[valid].abs() > FARTHEST_IN_CROP).any()):
        return
    raise DataError(
        f"found {truth['keypoints_2d'].key} up to {float(crop.detach()[valid].abs().max()):.0f}, which are pixels; "
        "expected crop units: (uv - box_center) / box_size, -0.5 to 0.5 inside the crop."
    )


def _structs(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], valid: Tensor, visible: Tensor | None
) -> tuple[HandPrediction, HandTarget, Tensor | None]:
    """Fill the structs. Fields without a key are zeros that no term reads."""
    lead = tuple(valid.shape)
    clips = lead if len(lead) == 2 else (*lead, 1)

    def field(values: Mapping[str, Tensor], name: str, *shape: int) -> Tensor:
        given = values.get(name)
        return (
            theirs["keypoints_3d"].new_zeros(()).expand(*clips, *shape)
            if given is None
            else given.reshape(*clips, *shape)
        )

    def rotmats(values: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([field(values, name, count, 3, 3) for name, count in _ROTATIONS.items()], -3)

    joints = (JOINT_COUNT,)
    everywhere = torch.ones((*clips, *joints), dtype=torch.bool, device=valid.device)
    pred = HandPrediction(
        rotmats=rotmats(ours),
        betas=field(ours, "betas", SHAPE_COUNT),
        camera=field({}, "camera", 3),
        translation_m=field({}, "translation", 3),
        joints_m=field(ours, "keypoints_3d", JOINT_COUNT, 3),
        vertices_m=field(ours, "vertices", VERTEX_COUNT, 3),
        joints_crop=field(ours, "keypoints_2d", JOINT_COUNT, 2),
    )
    target = HandTarget(
        rotmats=rotmats(theirs),
        betas=field(theirs, "betas", SHAPE_COUNT),
        translation_m=field({}, "translation", 3),
        joints_m=field(theirs, "keypoints_3d", JOINT_COUNT, 3),
        joints_crop=field(theirs, "keypoints_2d", JOINT_COUNT, 2),
        joint_visible=everywhere if visible is None else visible.reshape(*clips, *joints),
        joint_in_frame=everywhere,
        valid=valid.reshape(clips),
        frame=torch.arange(clips[1], device=valid.device).expand(clips),
    )
    return pred, target, field(theirs, "vertices", VERTEX_COUNT, 3) if "vertices" in theirs else None
