"""The numbers of one training batch, with the unit and formula of each."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from hawor_pipeline.errors import ConfigError, nearest


def _about(unit: str, formula: str) -> dict[str, str]:
    return {"unit": unit, "formula": formula}


def _number(unit: str, formula: str) -> Any:
    return field(default=math.nan, metadata=_about(unit, formula))


@dataclass(slots=True)
class TrainingMetrics:
    """Numbers of one batch; each field's metadata has its unit and formula."""

    mpjpe_3d: float = _number("mm", "mean joint distance, wrists put on each other")
    mpjpe_3d_pa: float = _number("mm", "mean joint distance after the best similarity transform")
    pck_3d_5mm: float = _number("1", "share of wrist-aligned joints within 5 mm")
    pck_3d_10mm: float = _number("1", "share of wrist-aligned joints within 10 mm")
    pck_3d_15mm: float = _number("1", "share of wrist-aligned joints within 15 mm")
    pck_3d_20mm: float = _number("1", "share of wrist-aligned joints within 20 mm")
    mpjpe_2d: float = _number("px", "mean distance of joints inside the image, in the 256 px crop")
    pck_2d_5px: float = _number("1", "share of joints inside the image within 5 px of the 256 px crop")
    pck_2d_10px: float = _number("1", "share of joints inside the image within 10 px of the 256 px crop")
    pck_2d_15px: float = _number("1", "share of joints inside the image within 15 px of the 256 px crop")
    mano_pose_error: float = _number("deg", "mean angle between the rotations of the 15 finger joints")
    mano_shape_error: float = _number("1", "root of the summed squared differences of the shape parameters")
    mano_global_orient_error: float = _number("deg", "angle between the rotations of the wrist")
    mano_trans_error: float = _number("mm", "distance of the translations in the camera frame")
    mesh_vertices_error: float = _number("mm", "mean vertex distance, wrists put on each other; needs model.mano")
    mesh_faces_error: float = _number("mm", "mean difference of edge lengths; needs model.mano")
    mesh_surface_error: float = _number("mm", "sum of the mean nearest distances, wrist-aligned; needs model.mano")
    temporal_consistency_3d: float = _number("m/s^2", "difference of wrist-relative joint accelerations in a clip")
    temporal_consistency_2d: float = _number("px", "difference of second differences of joints in the 256 px crop")
    temporal_consistency_mano: float = _number("deg", "difference of the turn of each joint from frame to frame")
    hand_detection_rate: float = _number("1", "share of hands whose predicted and true joint boxes overlap by half")
    left_hand_detection_rate: float = _number("1", "the same over left hands")
    right_hand_detection_rate: float = _number("1", "the same over right hands")
    occlusion_robustness: float = _number("1", "mpjpe_3d with over half of the joints hidden over that below a tenth")
    loss: float = _number("1", "weighted sum of the terms")
    inference_time: float = _number("s", "last forward pass of the model, start to end on its device")
    memory_usage: float = _number("MB", "of the accelerator, or of this process on the CPU")
    samples: int = field(default=0, metadata=_about("1", "valid frames in the batch"))
    loss_components: dict[str, float] = field(default_factory=dict, metadata=_about("1", "each term"))
    gradient_norms: dict[str, float] = field(
        default_factory=dict, metadata=_about("1", "Euclidean norm by child module; empty without gradients")
    )
    learning_rates: dict[str, float] = field(
        default_factory=dict, metadata=_about("1", "by parameter group of `optimizer`; empty without one")
    )

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain values."""
        return asdict(self)

    def update_from_dict(self, metrics_dict: Mapping[str, Any]) -> None:
        """Replace the named fields in place; entries of the three dictionaries are added to those already there.

        Args:
            metrics_dict: values by field, such as `to_dict` of another batch; numbers may be tensors of one element.

        Raises:
            ConfigError: a name that is no field, or a value of the wrong kind. Nothing is changed then.
        """
        known = [f.name for f in fields(self)]
        changed: dict[str, float | dict[str, float]] = {}
        for name, value in metrics_dict.items():
            if name not in known:
                raise ConfigError(f"found metric {name!r}, expected a field of TrainingMetrics.{nearest(name, known)}")
            old = getattr(self, name)
            if isinstance(old, dict):
                if not isinstance(value, Mapping):
                    raise ConfigError(f"found {name}: {value!r}, expected a mapping of numbers by name.")
                changed[name] = {**old, **{str(key): _as_number(f"{name}/{key}", v) for key, v in value.items()}}
            else:
                number = _as_number(name, value)
                changed[name] = int(number) if name == "samples" else number
        for name, value in changed.items():
            setattr(self, name, value)

    def flat(self) -> dict[str, float]:
        """Flatten the entries of dictionaries to `name/entry`."""
        values: dict[str, float] = {}
        for name, value in asdict(self).items():
            entries = {f"{name}/{key}": v for key, v in value.items()} if isinstance(value, dict) else {name: value}
            values.update(entries)
        return values


def _as_number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(f"found {name}: {value!r}, expected a number.") from None
