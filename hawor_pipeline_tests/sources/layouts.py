"""Tiny data sets in the exact published layouts, made with smplx and the procedural hand: an independent truth.

Each writer returns the joints of every hand in the camera of its picture, (21, 3) metres, OpenPose order, by sample id.
"""

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import smplx
import torch
import yaml
from scipy.spatial.transform import Rotation

from hawor_pipeline.core.skeleton import OPENPOSE_FROM_MANO, TIP_VERTEX_IDS

FREIHAND_TIPS = (744, 320, 443, 555, 672)
HO3D_TIPS = (744, 333, 444, 555, 672)
DEXYCB_TIPS = {"right": (745, 317, 444, 556, 673), "left": (745, 317, 445, 556, 673)}  # manopth's


class Hands:
    """smplx's MANO of both sides, with random poses."""

    def __init__(self, mano_dir: Path, seed: int = 0):
        self.random = np.random.default_rng(seed)
        self.mano_dir = mano_dir

    def model(self, side: str, *, flat: bool, fix_left: bool = False):
        """smplx's model; `fix_left` corrects the published left one (smplx issue 48)."""
        file = self.mano_dir / f"MANO_{side.upper()}.npz"
        model = smplx.MANO(
            str(file), is_rhand=side == "right", use_pca=False, flat_hand_mean=flat, ext="npz", num_betas=10
        ).double()
        if fix_left:
            right = self.model("right", flat=flat)
            if (model.shapedirs[:, 0] - right.shapedirs[:, 0]).abs().sum() < 1:
                model.shapedirs[:, 0, :] *= -1
        return model

    def parameters(self) -> tuple[np.ndarray, np.ndarray]:
        """pose (48,) and betas (10,)."""
        pose = np.concatenate((self.random.normal(0, 0.6, 3), self.random.normal(0, 0.2, 45)))
        return pose, self.random.normal(0, 0.8, 10)

    @torch.no_grad()
    def posed(self, model, pose, betas, shift, tips=TIP_VERTEX_IDS, *, from_mesh: bool = False) -> np.ndarray:
        """Joints (21, 3) in OpenPose order; `from_mesh` regresses them from the posed mesh."""
        out = model(
            global_orient=torch.tensor(pose[None, :3]),
            hand_pose=torch.tensor(pose[None, 3:]),
            betas=torch.tensor(betas[None]),
            transl=torch.tensor(shift[None]),
        )
        skeleton = out.joints[0].numpy()[:16]
        if from_mesh:
            skeleton = model.J_regressor.numpy() @ out.vertices[0].numpy()
        joints = np.concatenate((skeleton, out.vertices[0].numpy()[list(tips)]))
        return joints[list(OPENPOSE_FROM_MANO)]

    def image(self, path: Path, height: int, width: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = self.random.integers(40, 200, (height // 16, width // 16, 3), np.uint8)
        cv2.imwrite(str(path), cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC))


def write_freihand(
    root: Path, mano_dir: Path, count: int = 4, part: str = "training", seed: int = 1
) -> dict[str, np.ndarray]:
    """`count` hands; the first one of the training set is shown twice (as the second version of its background)."""
    hands = Hands(mano_dir, seed)
    model = hands.model("right", flat=False)
    cameras, labels, points, truth = [], [], [], {}
    for index in range(count):
        pose, betas = hands.parameters()
        focal = 480.0 + 10 * index
        camera = np.array([[focal, 0, 112.0], [0, focal, 112.0], [0, 0, 1]])
        middle = np.array([0.01 * index, 0.02, 0.7])  # where the middle finger's root shall be
        shift = middle - hands.posed(model, pose, betas, np.zeros(3), from_mesh=True)[9]
        joints = hands.posed(model, pose, betas, shift)
        pixel, scale = (camera @ (middle / middle[2]))[:2], focal / middle[2]
        cameras.append(camera.tolist())
        labels.append([[*pose.tolist(), *betas.tolist(), *pixel.tolist(), scale]])
        points.append(hands.posed(model, pose, betas, shift, FREIHAND_TIPS, from_mesh=True).tolist())
        for number in (index, index + count) if index == 0 and part == "training" else (index,):
            hands.image(root / part / "rgb" / f"{number:08d}.jpg", 224, 224)
            subject = {"training": "freihand", "evaluation": "freihand_evaluation"}[part]
            truth[f"{subject}/{part}_{index:02d}/0/{number:05d}/right"] = joints
    for name, values in (("K", cameras), ("mano", labels), ("xyz", points)):
        (root / f"{part}_{name}.json").write_text(json.dumps(values))
    return truth


def write_ho3d(
    root: Path, mano_dir: Path, frames: int = 3, part: str = "train", suffix: str = "jpg"
) -> dict[str, np.ndarray]:
    """One sequence; its last frame is not annotated. Images of version 2 are .png, those of version 3 .jpg."""
    hands = Hands(mano_dir, 2)
    model = hands.model("right", flat=True)
    turn = np.diag([1.0, -1.0, -1.0])
    folder, truth = root / part / "ABF10", {}
    subject = "ho3d_ABF" if part == "train" else "ho3d_evaluation_ABF"
    (folder / "meta").mkdir(parents=True)
    camera = np.array([[614.0, 0, 320.0], [0, 614.0, 240.0], [0, 0, 1]])
    for frame in range(frames + 1):
        hands.image(folder / "rgb" / f"{frame:04d}.{suffix}", 480, 640)
        pose, betas = hands.parameters()
        shift = np.array([0.02 * frame, 0.01, -0.6])  # OpenGL: in front of the camera is -z
        joints = hands.posed(model, pose, betas, shift)
        in_mano_order = np.empty((21, 3))
        in_mano_order[list(OPENPOSE_FROM_MANO)] = hands.posed(model, pose, betas, shift, HO3D_TIPS)
        label = {"camMat": camera, "objName": "021_bleach_cleanser", "handPose": pose, "handTrans": shift}
        label |= {"handBeta": betas, "handJoints3D": in_mano_order}
        if frame == frames:
            label |= {"handPose": None, "handTrans": None, "handBeta": None, "handJoints3D": None}
        else:
            truth[f"{subject}/ABF10/0/{frame:05d}/right"] = joints @ turn
        (folder / "meta" / f"{frame:04d}.pkl").write_bytes(pickle.dumps(label))
    return truth


def write_dexycb(root: Path, mano_dir: Path, frames: int = 2) -> dict[str, np.ndarray]:
    """A recording of a right and one of a left hand, two cameras; in the first frame no hand is there."""
    hands = Hands(mano_dir, 3)
    serials, truth = ["836212060125", "839512060362"], {}
    for serial in serials:
        path = root / "calibration" / "intrinsics" / f"{serial}_640x480.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump({"color": {"fx": 613.0, "fy": 614.0, "ppx": 322.0, "ppy": 239.0}}))
    for recording, side in (("20200709_141754", "right"), ("20200709_150000", "left")):
        folder = root / "20200709-subject-01" / recording
        calibration = f"20200709-subject-01_{side}"
        _, betas = hands.parameters()
        hand_file = root / "calibration" / f"mano_{calibration}" / "mano.yml"
        hand_file.parent.mkdir(parents=True, exist_ok=True)
        hand_file.write_text(yaml.safe_dump({"betas": betas.tolist()}))
        meta = {"serials": serials, "num_frames": frames + 1, "ycb_ids": [5, 6], "ycb_grasp_ind": 1}
        folder.mkdir(parents=True)
        (folder / "meta.yml").write_text(yaml.safe_dump({**meta, "mano_sides": [side], "mano_calib": [calibration]}))
        model = hands.model(side, flat=False)  # left as published: no fix
        with np.load(hands.mano_dir / f"MANO_{side.upper()}.npz") as arrays:
            components = arrays["hands_components"].astype(np.float64)
        for view, serial in enumerate(serials):
            for frame in range(frames + 1):
                hands.image(folder / serial / f"color_{frame:06d}.jpg", 480, 640)
                pose, _ = hands.parameters()
                shift = np.array([0.03 * view, 0.01 * frame, 0.8])
                coefficients = pose[3:] @ np.linalg.inv(components)
                stored = np.concatenate((pose[:3], coefficients, shift))[None]
                points = hands.posed(model, pose, betas, shift, DEXYCB_TIPS[side])[None]
                if frame == 0:
                    stored, points = np.zeros_like(stored), np.full_like(points, -1)
                else:
                    joints = hands.posed(model, pose, betas, shift)
                    truth[f"20200709-subject-01/{recording}/{view}/{frame:05d}/{side}"] = joints
                path = folder / serial / f"labels_{frame:06d}.npz"
                np.savez(path, pose_m=stored.astype(np.float32), joint_3d=points.astype(np.float32))
    return truth


def write_interhand(root: Path, mano_dir: Path) -> dict[str, np.ndarray]:
    """One sequence with two cameras: both hands twice, then a right hand whose left one has no fit."""
    hands = Hands(mano_dir, 4)
    models = {"right": hands.model("right", flat=False), "left": hands.model("left", flat=False, fix_left=True)}
    cameras = {
        "400262": Rotation.from_euler("y", 10, degrees=True),
        "400263": Rotation.from_euler("x", -8, degrees=True),
    }
    centre_mm = np.array([20.0, -30.0, -900.0])
    same = {name: centre_mm.tolist() for name in cameras}
    calibration = {
        "campos": same,
        "camrot": {name: rotation.as_matrix().tolist() for name, rotation in cameras.items()},
        "focal": {name: [1200.0, 1210.0] for name in cameras},
        "princpt": {name: [170.0, 250.0] for name in cameras},
    }
    fits: dict = {}
    joints_3d: dict = {}
    images, truth = [], {}
    order = [20] + [4 * finger + joint for finger in range(5) for joint in (3, 2, 1, 0)]
    for frame in ("23434", "23437", "23440"):
        both = frame != "23440"
        points, valid = np.zeros((42, 3)), np.zeros((42, 1))
        fits[frame] = {"right": None, "left": None}
        for index, side in enumerate(("right", "left") if both else ("right",)):
            pose, betas = hands.parameters()
            shift = np.array([-0.05 + 0.1 * index, 0.0, 0.0])
            joints = hands.posed(models[side], pose, betas, shift)
            fits[frame][side] = {"pose": pose.tolist(), "shape": betas.tolist(), "trans": shift.tolist()}
            points[21 * index + np.array(order)] = 1000 * joints
            valid[21 * index : 21 * index + 21] = 1
            for name, rotation in cameras.items():
                key = f"test_Capture0/0390_dh_touchROM/{name}/{frame}/{side}"
                truth[key] = rotation.apply(joints - centre_mm / 1000)
        valid[4] = 0  # one joint of the right hand was not seen
        hand_type = "interacting"
        joints_3d[frame] = {"world_coord": points.tolist(), "joint_valid": valid.tolist(), "hand_type": hand_type}
        for name in cameras:
            file = f"Capture0/0390_dh_touchROM/cam{name}/image{frame}.jpg"
            hands.image(root / "images" / "test" / file, 512, 334 // 2 * 2)
            images.append(
                {"file_name": file, "width": 334, "height": 512, "capture": 0, "seq_name": "0390_dh_touchROM"}
                | {"camera": name, "frame_idx": int(frame)}
            )
    folder = root / "annotations" / "test"
    folder.mkdir(parents=True)
    contents = {"data": {"images": images}, "camera": {"0": calibration}}
    contents |= {"joint_3d": {"0": joints_3d}, "MANO_NeuralAnnot": {"0": fits}}
    for name, content in contents.items():
        (folder / f"InterHand2.6M_test_{name}.json").write_text(json.dumps(content))
    return truth


def write_freihand_evaluation(root: Path, mano_dir: Path, count: int = 4) -> dict[str, np.ndarray]:
    """FreiHAND's evaluation set alone."""
    return write_freihand(root, mano_dir, count, "evaluation", seed=5)


def write_ho3d_v2(root: Path, mano_dir: Path, frames: int = 3) -> dict[str, np.ndarray]:
    """HO-3D's version 2."""
    return write_ho3d(root, mano_dir, frames, suffix="png")


def write_ho3d_evaluation(root: Path, mano_dir: Path, frames: int = 3) -> dict[str, np.ndarray]:
    """HO-3D's evaluation set alone, with hand poses in its files."""
    return write_ho3d(root, mano_dir, frames, "evaluation")


def write_ho3d_vertices(root: Path, mano_dir: Path, frames: int = 3) -> dict[str, np.ndarray]:
    """HO-3D's evaluation set as published, with the vertices that were released later."""
    truth = write_ho3d(root, mano_dir, frames, "evaluation")
    model, names, meshes = Hands(mano_dir).model("right", flat=True), [], []
    for path in sorted((root / "evaluation" / "ABF10" / "meta").iterdir()):
        label = pickle.loads(path.read_bytes())  # noqa: S301, it is our own
        kept = {name: label[name] for name in ("camMat", "objName")} | {"handBoundingBox": [1, 2, 3, 4]}
        path.write_bytes(pickle.dumps(kept | {"handJoints3D": np.zeros(3)}))
        if label["handPose"] is not None:
            pose, betas, shift = (torch.tensor(label[name][None]) for name in ("handPose", "handBeta", "handTrans"))
            posed = model(global_orient=pose[:, :3], hand_pose=pose[:, 3:], betas=betas, transl=shift)
            names.append(f"ABF10/{path.stem}")
            meshes.append(posed.vertices[0].detach().tolist())
    (root / "evaluation.txt").write_text("\n".join(names) + "\n")
    (root / "evaluation_verts.json").write_text(json.dumps(meshes))
    return truth


WRITERS = {"freihand": write_freihand, "ho3d": write_ho3d, "dexycb": write_dexycb, "interhand": write_interhand}
# The same, and other published forms of them: name to data set and writer.
FORMS = {name: (name, writer) for name, writer in WRITERS.items()} | {
    "freihand_evaluation": ("freihand", write_freihand_evaluation),
    "ho3d_v2": ("ho3d", write_ho3d_v2),
    "ho3d_evaluation": ("ho3d", write_ho3d_evaluation),
    "ho3d_vertices": ("ho3d", write_ho3d_vertices),
}
