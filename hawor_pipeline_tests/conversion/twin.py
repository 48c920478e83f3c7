"""A slow, independent double-precision twin of the conversion's geometry, from raw files to pixels.

Written from the descriptions of ARCTIC and MANO with numpy and scipy alone, one frame and one joint at a time; shares
no code with the package.
"""

import json
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

PARENTS = [-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14]
TIPS = [744, 320, 443, 554, 671]
OPENPOSE = [0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20]


def mano_forward(model, orient, pose, betas, translation):
    """Vertices (778, 3) and 21 joints; `pose` is relative to the mean pose."""
    shaped = model["v_template"] + model["shapedirs"][:, :, :10] @ betas
    rest = model["J_regressor"] @ shaped
    angles = np.concatenate([orient, pose + model["hands_mean"].reshape(-1)]).reshape(16, 3)
    rotations = [Rotation.from_rotvec(angle).as_matrix() for angle in angles]
    features = np.concatenate([(rotation - np.eye(3)).ravel() for rotation in rotations[1:]])
    posed = shaped + model["posedirs"] @ features
    world = []
    for joint, parent in enumerate(PARENTS):
        local = np.eye(4)
        local[:3, :3] = rotations[joint]
        local[:3, 3] = rest[joint] - (rest[parent] if parent >= 0 else 0)
        world.append(local if parent < 0 else world[parent] @ local)
    vertices = np.zeros_like(posed)
    for joint in range(16):
        turn, shift = world[joint][:3, :3], world[joint][:3, 3]
        vertices += model["weights"][:, joint : joint + 1] * ((posed - rest[joint]) @ turn.T + shift)
    joints = np.concatenate([np.stack([frame[:3, 3] for frame in world]), vertices[TIPS]])
    return vertices + translation, joints[OPENPOSE] + translation


def project(points_cam, intrinsics, distortion):
    """Pixels of points in the camera frame; `distortion` (k1 k2 p1 p2 k3 k4 k5 k6) or None."""
    pixels = []
    for x, y, z in points_cam:
        u, v = x / z, y / z
        if distortion is not None:
            k1, k2, p1, p2, k3, k4, k5, k6 = distortion
            r = u * u + v * v
            radial = (1 + k1 * r + k2 * r**2 + k3 * r**3) / (1 + k4 * r + k5 * r**2 + k6 * r**3)
            u, v = (
                u * radial + 2 * p1 * u * v + p2 * (r + 2 * u * u),
                v * radial + p1 * (r + 2 * v * v) + 2 * p2 * u * v,
            )
        pixels.append((intrinsics @ np.array([u, v, 1.0]))[:2])
    return np.array(pixels)


class Twin:
    """Ground truth of a sample, by subject, sequence, view, frame number and side."""

    def __init__(self, arctic: Path, mano: Path):
        self.arctic = arctic
        self.misc = json.loads((arctic / "meta" / "misc.json").read_text())
        self.models = {side: dict(np.load(mano / f"MANO_{side.upper()}.npz")) for side in ("right", "left")}
        self._raw = {}

    def _load(self, subject, sequence):
        if (subject, sequence) not in self._raw:
            stem = self.arctic / "raw_seqs" / subject / sequence
            # the sample's own files, written by this project
            arrays = [np.load(f"{stem}.{part}.npy", allow_pickle=True) for part in ("mano", "object", "egocam.dist")]
            self._raw[subject, sequence] = (arrays[0].item(), arrays[1], arrays[2].item())
        return self._raw[subject, sequence]

    def hand(self, subject, sequence, view, frame, side):
        """Everything a row should say of a hand."""
        mano, _, ego = self._load(subject, sequence)
        misc, hand = self.misc[subject], mano[side]
        index = frame - misc["ioi_offset"]
        shape = np.asarray(hand["shape"], float)
        betas = shape if shape.ndim == 1 else shape[index]
        orient, pose, translation = (np.asarray(hand[name][index], float) for name in ("rot", "pose", "trans"))
        vertices, joints = mano_forward(self.models[side], orient, pose, betas, translation)
        if view == 0:
            turn, shift = np.asarray(ego["R_k_cam_np"][index]), np.asarray(ego["T_k_cam_np"][index]).reshape(3)
            intrinsics, distortion = np.asarray(ego["intrinsics"]), np.asarray(ego["dist8"])
        else:
            matrix = np.asarray(misc["world2cam"][view - 1])
            turn, shift = matrix[:3, :3], matrix[:3, 3]
            intrinsics, distortion = np.asarray(misc["intris_mat"][view - 1]), None
        vertices_cam, joints_cam = vertices @ turn.T + shift, joints @ turn.T + shift
        return {
            "joints_world": joints,
            "joints_cam": joints_cam,
            "vertices_cam": vertices_cam,
            "joints_px": project(joints_cam, intrinsics, distortion),
            "vertices_px": project(vertices_cam, intrinsics, distortion),
            "orient": turn @ Rotation.from_rotvec(orient).as_matrix(),
            "pose": pose + self.models[side]["hands_mean"].reshape(-1),
            "betas": betas,
            "index": index,
        }
