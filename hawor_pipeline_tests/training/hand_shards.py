"""A few made-up shards: true projections of posed hands, drawn as coloured joints on noise.

Small and quick to make, consistent in every column, and easy enough that a tiny network can learn from them.
"""

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import torch

from hawor_pipeline.core.camera import project_distorted
from hawor_pipeline.core.mano import ManoLayer
from hawor_pipeline.core.rotations import axis_angle_to_rotmat
from hawor_pipeline.core.skeleton import MANO_PARENTS
from hawor_pipeline.shards.schema import COLUMNS, to_arrow
from hawor_pipeline.shards.store import ImageWriter, write_parquet
from hawor_pipeline.untrusted.mano_files import load_mano

STORED = 96  # px, 1.5 times the box
TIPS = (4, 8, 12, 16, 20)
JPEG_OPTIONS = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
HEIGHT, WIDTH = 500, 700
K = np.array([[600.0, 0, 330], [0, 610.0, 260], [0, 0, 1]])
EGO_LENS = np.array([-0.2, 0.05, 0.001, -0.002, 0.01, 0.1, 0.02, 0.0])


def write_mano(folder: Path, seed: int = 0) -> Path:
    """A hand in MANO's format without anatomy: joints in a fan, vertices around them; both sides mirror each other."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    parents = np.array([2**32 - 1, *MANO_PARENTS[1:]], np.uint32)
    joints = np.zeros((16, 3))
    for joint in range(1, 16):
        finger, knuckle = divmod(joint - 1, 3)
        joints[joint] = [-0.07 - 0.03 * knuckle, 0.005 * finger, 0.02 * (finger - 2)]
    owner = np.arange(778) % 16
    template = joints[owner] + rng.normal(0, 0.008, (778, 3))
    weights = np.eye(16)[owner] * 0.9 + 0.1 / 16
    regressor = (np.eye(16)[owner] / np.eye(16)[owner].sum(0)).T
    arrays = {
        "v_template": template,
        "f": np.stack([rng.permutation(778)[:3] for _ in range(1538)]).astype(np.uint32),
        "shapedirs": rng.normal(0, 0.002, (778, 3, 10)),
        "posedirs": rng.normal(0, 0.0005, (778, 3, 135)),
        "J_regressor": regressor,
        "weights": weights,
        "kintree_table": np.stack([parents, np.arange(16, dtype=np.uint32)]),
        "hands_mean": rng.normal(0, 0.2, 45),
        "hands_components": np.eye(45),
        "hands_coeffs": np.zeros((2, 45)),
        "source": np.array("synthetic: made by a test"),
    }
    np.savez(folder / "MANO_RIGHT.npz", **arrays)
    mirror = np.array([-1.0, 1, 1])
    turned = np.tile([1.0, -1, -1], 15)
    features = (mirror[:, None] * mirror[None]).reshape(9)  # how the entries of a mirrored rotation change sign
    left = {
        **arrays,
        "v_template": template * mirror,
        "f": arrays["f"][:, ::-1],
        "shapedirs": arrays["shapedirs"] * mirror[:, None],
        "posedirs": arrays["posedirs"] * mirror[:, None] * np.tile(features, 15),
        "hands_mean": arrays["hands_mean"] * turned,
    }
    np.savez(folder / "MANO_LEFT.npz", **left)
    return folder


def write_shards(
    root: Path, mano_dir: Path, subjects=("s01", "s05"), frames: int = 6, views=(0, 1), seed: int = 0
) -> Path:
    """One sequence per subject, both hands."""
    layers = {side: ManoLayer(load_mano(mano_dir, side)) for side in ("right", "left")}
    for number, subject in enumerate(subjects):
        rng = np.random.default_rng((seed, number))
        folder = root / subject / "box_grab_01"
        folder.mkdir(parents=True)
        rows, jpegs = [], []
        for view in views:
            for side in ("left", "right"):
                start, velocity = rng.normal(0, 0.6, 51), rng.normal(0, 0.03, 51)
                betas = rng.normal(0, 0.5, 10)
                place = rng.uniform([-0.1, -0.1, 0.5], [0.1, 0.1, 0.7])
                for frame in range(frames):
                    pose = start + frame * velocity
                    row, jpeg = _sample(layers[side], side, pose, betas, place, view, rng)
                    name = f"{subject}/box_grab_01/{view}/{frame:05d}/{side}"
                    rows.append({**row, "sample_id": name, "subject": subject, "frame": frame, "gt_index": frame})
                    jpegs.append(jpeg)
        with ImageWriter(folder / "images.arrow") as writer:
            for jpeg in jpegs:
                writer.append(jpeg)
        arrays = {name: np.stack([np.asarray(row[name]) for row in rows]) for name in COLUMNS}
        write_parquet(to_arrow(arrays, {"source": "synthetic"}), folder / "annotations.parquet")
        version = hashlib.sha256((folder / "annotations.parquet").read_bytes() + b"".join(jpegs)).hexdigest()
        manifest = {
            "source": "synthetic",
            "rows": len(rows),
            "data_version": version,
            "sequences": [{"sequence": "box_grab_01", "rows": len(rows)}],
        }
        (root / subject / "manifest.json").write_text(json.dumps(manifest))
    return root


def _sample(layer, side, pose, betas, place, view, rng):
    orient, fingers = torch.tensor(pose[:3] * 0.5), torch.tensor(pose[3:48] * 0.3)
    angles = torch.cat((orient, fingers))
    rotmats = axis_angle_to_rotmat(angles.reshape(16, 3)).float()[None]
    hand = layer(rotmats, torch.tensor(betas)[None].float())
    translation = torch.tensor(place).float() - hand.joints[0, 0]
    joints = (hand.joints[0] + translation).double()
    lens = torch.tensor(EGO_LENS if view == 0 else np.zeros(8))
    vertices = (hand.vertices[0] + translation).double()
    pixels, _ = project_distorted(torch.cat((joints, vertices)), torch.tensor(K), lens)
    low, high = pixels[21:].amin(0), pixels[21:].amax(0)
    center, size = (low + high) / 2, 1.2 * float(torch.maximum(high[1] - low[1], 4 / 3 * (high[0] - low[0])))
    scale = STORED / (1.5 * size)
    crop = np.array(
        [[scale, 0, STORED / 2 - 0.5 - scale * center[0]], [0, scale, STORED / 2 - 0.5 - scale * center[1]]]
    )
    image = rng.integers(60, 100, (STORED, STORED, 3), dtype=np.uint8)
    drawn = pixels[:21].numpy() @ crop[:, :2].T + crop[:, 2]
    for joint in sorted(range(21), key=TIPS.__contains__):  # tips last, so that nothing covers them
        x, y = drawn[joint]
        colour = tuple(int(c) for c in cv2.cvtColor(np.uint8([[[8 * joint, 220, 255]]]), cv2.COLOR_HSV2RGB)[0, 0])
        cv2.circle(image, (round(x), round(y)), 3, colour, -1)
    jpeg = cv2.imencode(".jpg", image[..., ::-1], JPEG_OPTIONS)[1].tobytes()
    row = {
        "sequence": "box_grab_01", "object": "box", "action": "grab", "side": side, "skip_reason": "", "view": view,
        "image_height": HEIGHT, "image_width": WIDTH, "is_right": side == "right",
        "joint_in_frame": np.ones(21, bool), "joint_visible": np.ones(21, bool), "valid": True,
        "box_center_px": center.numpy(), "box_size_px": size, "crop_from_image": crop, "intrinsics": K,
        "cam_from_world": np.eye(4), "distortion": lens.numpy(), "global_orient": angles[:3].numpy(),
        "hand_pose": angles[3:].numpy(), "betas": betas, "betas_as_right": betas, "betas_as_right_residual_mm": 0.0,
        "translation_m": translation.numpy(), "joints_cam_m": joints.numpy(), "joints_px": pixels[:21].numpy(),
        "joints_world_m": joints.numpy(), "occlusion": 0.0, "truncation": 0.0, "confidence": 1.0, "blur": 0.0,
        "fitting_err": 0.0,
    }  # fmt: skip
    return row, jpeg
