"""A straightforward conversion script: the baseline of the end-to-end measurements.

One process. Per image: cv2.imread. Per hand: a MANO forward at batch 1, projection, cv2.warpAffine, cv2.imwrite of a
crop file, and a JSON file with keypoints and parameters; with `mesh`, also the 778 vertices and 1538 faces, as the
earlier implementation of this system writes them.
"""

import json
from pathlib import Path

import cv2
import numpy as np
import smplx
import torch
from scipy.spatial.transform import Rotation

TIPS = [744, 320, 443, 554, 671]
OPENPOSE = [0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20]


def warp_square(image: np.ndarray, center: np.ndarray, size: float, crop_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Crop and resize a square with bilinear interpolation, independent of the factor, as common scripts do."""
    scale = crop_px / size
    affine = np.array([[scale, 0, crop_px / 2 - scale * center[0]], [0, scale, crop_px / 2 - scale * center[1]]])
    return cv2.warpAffine(image, affine, (crop_px, crop_px)), affine


class PlainConverter:
    """Converter of one sequence at a time; models are loaded once."""

    def __init__(self, root: Path, *, crop_px: int, mesh: bool) -> None:
        self.arctic, self.crop_px, self.mesh = root / "arctic", crop_px, mesh
        self.misc = json.loads((self.arctic / "meta" / "misc.json").read_text())
        mano = root / "body_models" / "mano"
        self.models = {
            side: smplx.MANO(
                str(mano / f"MANO_{side.upper()}.npz"),
                ext="npz",
                is_rhand=side == "right",
                use_pca=False,
                flat_hand_mean=False,
            )
            for side in ("right", "left")
        }

    @torch.no_grad()
    def convert(
        self,
        images: Path,
        subject: str,
        sequence: str,
        output: Path,
        frames_of: dict[int, tuple[np.ndarray, np.ndarray]],
        margin: float = 1.5,
    ) -> int:
        """Convert one sequence and return the number of hands.

        Args:
            images: folder with a folder per view.
            subject, sequence: the sequence to convert.
            output: parent of the folder of each sequence.
            frames_of: view to scale (T,) and shift (T, 2) of its files relative to full frames, known beforehand.
            margin: side of the crop over the side of the box.
        """
        stem = self.arctic / "raw_seqs" / subject / sequence
        mano = np.load(f"{stem}.mano.npy", allow_pickle=True).item()
        ego = np.load(f"{stem}.egocam.dist.npy", allow_pickle=True).item()
        frames, hands = len(mano["right"]["rot"]), 0
        for folder in sorted(images.iterdir()):
            view = int(folder.name)
            target = output / sequence / folder.name
            target.mkdir(parents=True)
            for path in sorted(folder.glob("*.jpg")):
                index = int(path.stem) - self.misc[subject]["ioi_offset"]
                if not 0 <= index < frames:
                    continue
                image = cv2.imread(str(path))
                scale, shift = (values[index] for values in frames_of[view])
                for side in ("right", "left"):
                    camera = self._camera(subject, ego, view, index)
                    box, label = self._hand(mano[side], side, index, camera, margin)
                    crop, affine = warp_square(image, box[:2] * scale + shift, box[2] * scale, self.crop_px)
                    name = target / f"{path.stem}_{side}"
                    cv2.imwrite(f"{name}.jpg", crop)
                    with open(f"{name}.json", "w") as file:
                        json.dump({**label, "affine": affine.tolist()}, file)
                    hands += 1
        return hands

    def _camera(self, subject: str, ego: dict, view: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        if view == 0:
            return np.hstack([ego["R_k_cam_np"][index], ego["T_k_cam_np"][index]]), np.asarray(ego["intrinsics"])
        entry = self.misc[subject]
        return np.array(entry["world2cam"][view - 1])[:3], np.array(entry["intris_mat"][view - 1])

    def _hand(self, raw: dict, side: str, index: int, camera: tuple, margin: float) -> tuple[np.ndarray, dict]:
        """Return the box (x, y, side) in the full frame, and the label."""

        def one(name: str) -> torch.Tensor:
            return torch.as_tensor(np.asarray(raw[name][index], np.float32))[None]

        betas = torch.as_tensor(np.asarray(raw["shape"], np.float32))[None]
        out = self.models[side](global_orient=one("rot"), hand_pose=one("pose"), betas=betas, transl=one("trans"))
        vertices = out.vertices[0].numpy()
        joints = np.concatenate([out.joints[0].numpy()[:16], vertices[TIPS]])[OPENPOSE]
        world2cam, intrinsics = camera
        joints_cam, vertices_cam = (p @ world2cam[:, :3].T + world2cam[:, 3] for p in (joints, vertices))
        joints_px, vertices_px = (
            (p @ intrinsics.T)[:, :2] / (p @ intrinsics.T)[:, 2:] for p in (joints_cam, vertices_cam)
        )
        low, high = vertices_px.min(0), vertices_px.max(0)
        size = margin * 1.2 * max(high[1] - low[1], (high[0] - low[0]) * 4 / 3)
        orient = Rotation.from_matrix(world2cam[:, :3] @ Rotation.from_rotvec(raw["rot"][index]).as_matrix())
        label = {
            "keypoints_3d": joints_cam.tolist(),
            "keypoints_2d": joints_px.tolist(),
            "global_orient": orient.as_rotvec().tolist(),
            "hand_pose": np.asarray(raw["pose"][index]).tolist(),
            "betas": betas[0].tolist(),
            "trans": np.asarray(raw["trans"][index]).tolist(),
            "side": side,
        }
        if self.mesh:
            label["vertices"] = vertices_cam.tolist()
            label["faces"] = self.models[side].faces.tolist()
        return np.array([*((low + high) / 2), size]), label
