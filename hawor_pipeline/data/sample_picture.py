"""A stored sample as a person checks it: the crop with mesh, skeleton, box and what ray casting says of each joint."""

from pathlib import Path

import cv2
import numpy as np
import torch

from hawor_pipeline.core.camera import project_distorted
from hawor_pipeline.core.rotations import axis_angle_to_rotmat
from hawor_pipeline.core.skeleton import BONES
from hawor_pipeline.data.decode import decode_image
from hawor_pipeline.data.external.convert_unit import hand_models
from hawor_pipeline.data.external.readers import fixes_left_shapedirs
from hawor_pipeline.data.shards import ShardSet
from hawor_pipeline.errors import ConfigError, nearest

_MESH_RGB = {"right": (80, 220, 255), "left": (255, 190, 60)}
_VISIBLE_RGB, _HIDDEN_RGB, _OUTSIDE_RGB = (90, 230, 90), (235, 70, 70), (150, 150, 150)
_FRACTION_BITS = 3  # OpenCV's drawing takes fixed point


def find_sample(shards: ShardSet, sample_id: str) -> int:
    """Row of a sample.

    Raises:
        ConfigError: there is none of that name.
    """
    names = shards.column("sample_id")
    rows = np.flatnonzero(names == sample_id)
    if not len(rows):
        raise ConfigError(
            f"no sample {sample_id!r} among {len(names)}; expected a name like {names[0] if len(names) else ''}."
            f"{nearest(sample_id, names.tolist())}"
        )
    return int(rows[0])


@torch.no_grad()
def draw_sample(shards: ShardSet, row: int, mano_dir: Path, width: int = 768) -> np.ndarray:
    """Draw the labels of one row over its stored crop.

    Joints that the ray casting calls visible are green, hidden ones red, those outside the picture grey. The mesh is
    posed from the row's own parameters and projected through its own camera and lens, so that every column shows.

    Args:
        shards: with all columns.
        row: which.
        mano_dir: folder of the MANO models.
        width: of the picture, px.

    Returns:
        (width, width, 3) uint8 RGB.

    Raises:
        DataError: the crop is damaged.
    """
    data = {
        name: shards.column(name)[row] for name in shards.table.column_names if name not in ("shard_id", "row_in_shard")
    }
    crop = decode_image(shards.jpeg(row), data["sample_id"], None)
    zoom = width / crop.shape[1]
    picture = cv2.resize(crop, (width, width), interpolation=cv2.INTER_CUBIC)

    def place(pixels: np.ndarray) -> np.ndarray:
        """Full-frame pixels (N, 2) to the drawing's fixed point."""
        stored = pixels @ data["crop_from_image"][:, :2].T + data["crop_from_image"][:, 2]
        return np.round(((stored + 0.5) * zoom - 0.5) * 2**_FRACTION_BITS).astype(np.int32)

    models = hand_models(mano_dir, fixes_left_shapedirs(shards.source))  # as the labels were fitted with them
    camera = (torch.from_numpy(data[name].astype(np.float64)) for name in ("intrinsics", "distortion"))
    pixels = project_distorted(surface_of(data, models.layers[data["side"]]), *camera)[0].numpy()
    overlay = picture.copy()
    triangles = place(pixels)[models.arrays[data["side"]].faces]
    cv2.polylines(overlay, list(triangles), True, _MESH_RGB[data["side"]], 1, cv2.LINE_AA, _FRACTION_BITS)
    picture = cv2.addWeighted(overlay, 0.4, picture, 0.6, 0)
    _draw_skeleton(picture, place(data["joints_px"]), data["joint_visible"], data["joint_in_frame"])
    half = data["box_size_px"] / 2
    corners = place(np.stack((data["box_center_px"] - half, data["box_center_px"] + half)))
    cv2.rectangle(picture, corners[0].tolist(), corners[1].tolist(), (255, 255, 255), 1, cv2.LINE_AA, _FRACTION_BITS)
    _label(picture, data)
    return picture


def surface_of(data: dict, layer: torch.nn.Module) -> torch.Tensor:
    """Surface (778, 3), camera frame, metres, of a row's parameters."""
    angles = torch.from_numpy(np.concatenate((data["global_orient"], data["hand_pose"])).astype(np.float64))
    hand = layer(axis_angle_to_rotmat(angles.reshape(16, 3)), torch.from_numpy(data["betas"].astype(np.float64)))
    return hand.vertices + torch.from_numpy(data["translation_m"].astype(np.float64))


def _draw_skeleton(picture: np.ndarray, joints: np.ndarray, visible: np.ndarray, in_frame: np.ndarray) -> None:
    for a, b in BONES:
        cv2.line(picture, joints[a].tolist(), joints[b].tolist(), (255, 255, 255), 2, cv2.LINE_AA, _FRACTION_BITS)
    for joint, seen, inside in zip(joints, visible, in_frame, strict=True):
        color = _OUTSIDE_RGB if not inside else _VISIBLE_RGB if seen else _HIDDEN_RGB
        cv2.circle(picture, joint.tolist(), 5 << _FRACTION_BITS, color, -1, cv2.LINE_AA, _FRACTION_BITS)


def _label(picture: np.ndarray, data: dict) -> None:
    lines = [
        data["sample_id"],
        f"occlusion {data['occlusion']:.2f}  truncation {data['truncation']:.2f}  blur {data['blur']:.2f}",
        f"confidence {data['confidence']:.2f}  {'valid' if data['valid'] else 'invalid: ' + data['skip_reason']}",
    ]
    strip = picture[: 20 * len(lines) + 10]
    strip[:] = strip // 4
    for number, line in enumerate(lines, 1):
        cv2.putText(picture, line, (8, 20 * number), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
