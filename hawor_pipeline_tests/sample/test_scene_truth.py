"""Images against ground truth: files are read back and projected by separate float64 NumPy code."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from hawor_pipeline.sample import projection, render, sequence
from hawor_pipeline.sample.spec import SampleSpec, plan_sequences
from hawor_pipeline.workers.pool import one_thread

PARENTS = [-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14]
SPEC = SampleSpec(subjects=("s01", "s03", "s05"), sequences_per_subject=1, frames=8, views=(0, 1, 4), image_scale=0.15)
MAGENTA = np.array([255, 0, 255])


def load_raw(root: Path, subject: str, name: str, suffix: str):
    value = np.load(root / "arctic" / "raw_seqs" / subject / f"{name}.{suffix}.npy", allow_pickle=True)
    return value.item() if value.shape == () else value


def hand_vertices(root: Path, side: str, hand: dict, frame: int) -> np.ndarray:
    """Compute a separate MANO in float64: (778, 3) in the world frame."""
    model = np.load(root / "body_models" / "mano" / f"MANO_{side.upper()}.npz")
    shaped = model["v_template"] + model["shapedirs"][..., :10] @ hand["shape"].astype(float)
    joints = model["J_regressor"] @ shaped
    pose = (hand["pose"][frame].astype(float) + model["hands_mean"].reshape(-1)).reshape(15, 3)
    turns = Rotation.from_rotvec(np.concatenate([hand["rot"][frame][None].astype(float), pose])).as_matrix()
    shaped = shaped + model["posedirs"].reshape(778, 3, 135) @ (turns[1:] - np.eye(3)).reshape(-1)
    chain = []
    for j, parent in enumerate(PARENTS):
        local = np.eye(4)
        local[:3, :3] = turns[j]
        local[:3, 3] = joints[j] - (joints[parent] if parent >= 0 else 0)
        chain.append(local if parent < 0 else chain[parent] @ local)
    moves = np.stack(chain)
    moves[:, :3, 3] -= np.einsum("jab,jb->ja", moves[:, :3, :3], joints)
    blended = np.einsum("vj,jab->vab", model["weights"], moves)
    posed = np.einsum("vab,vb->va", blended[:, :3, :3], shaped) + blended[:, :3, 3]
    return posed + hand["trans"][frame].astype(float)


def project(root: Path, subject: str, name: str, view: int, frame: int, points: np.ndarray) -> np.ndarray:
    """Project world points (N, 3) to pixels and depth (N, 3), with calibration from the files."""
    if view > 0:
        misc = json.loads((root / "arctic" / "meta" / "misc.json").read_text())[subject]
        cam = points @ np.array(misc["world2cam"][view - 1])[:3, :3].T + np.array(misc["world2cam"][view - 1])[:3, 3]
        uv = cam @ np.array(misc["intris_mat"][view - 1]).T
        return np.concatenate([uv[:, :2] / uv[:, 2:], cam[:, 2:]], axis=1)
    ego = load_raw(root, subject, name, "egocam.dist")
    cam = points @ ego["R_k_cam_np"][frame].astype(float).T + ego["T_k_cam_np"][frame].astype(float)[:, 0]
    x, y = cam[:, 0] / cam[:, 2], cam[:, 1] / cam[:, 2]
    k1, k2, p1, p2, k3, k4, k5, k6 = ego["dist8"]
    r2 = x**2 + y**2
    d = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    bent = np.stack(
        [x * d + 2 * p1 * x * y + p2 * (r2 + 2 * x**2), y * d + 2 * p2 * x * y + p1 * (r2 + 2 * y**2), np.ones_like(x)]
    )
    return np.concatenate([(ego["intrinsics"] @ bent)[:2].T, cam[:, 2:]], axis=1)


def filled(uv: np.ndarray, faces: np.ndarray, height: int, width: int, zoom: int) -> np.ndarray:
    """Fill the triangles of a mesh: its silhouette, `zoom` times as large as the image."""
    mask = np.zeros((height * zoom, width * zoom), np.uint8)
    fine = np.rint(((uv + 0.5) * zoom - 0.5) * 16).astype(np.int32)
    for triangle in fine[faces]:
        cv2.fillConvexPoly(mask, triangle, (1,), cv2.LINE_8, shift=4)
    return mask.astype(bool)


@pytest.fixture(scope="module", autouse=True)
def single_threaded():
    with one_thread():
        yield


@pytest.fixture(scope="module", params=[("s01", 0), ("s01", 1), ("s05", 4)], ids=["ego", "front", "behind"])
def case(request, sample_root: Path):
    """Return (root, plan, view, painter of the whole sequence, motion)."""
    subject, view = request.param
    plan = next(p for p in plan_sequences(SPEC) if p.subject == subject)
    motion, rigs = sequence.build_motion(sample_root / "body_models" / "mano", SPEC, plan)
    blotches = sequence.subject_generator(SPEC.seed, subject, sequence.SKIN_STREAM)
    scene = render.SequencePainter.prepare(motion, rigs, sequence.make_look(subject, SPEC.seed), blotches)
    return sample_root, plan, view, scene, motion


def test_projected_ground_truth_is_where_the_hands_are_drawn(case) -> None:
    root, plan, view, scene, motion = case
    painter = sequence.view_painter(scene, motion, SPEC, plan, view)
    mano = load_raw(root, plan.subject, plan.name, "mano")
    for gt_index in (1, 6):
        row = gt_index + plan.ioi_offset - 1  # image number = gt_index + ioi_offset; the first image is number 1
        for side in ("right", "left"):
            world = hand_vertices(root, side, mano[side], gt_index)
            truth = project(root, plan.subject, plan.name, view, gt_index, world)
            drawn = painter.uv[row, scene.parts[side]][:778]
            assert np.abs(truth[:, :2] - drawn).max() < 0.02
            assert np.abs(truth[:, 2] - painter.depth[row, scene.parts[side]][:778]).max() < 1e-4


def test_silhouette_equals_that_of_the_reprojected_mesh(case) -> None:
    root, plan, view, scene, motion = case
    mano = load_raw(root, plan.subject, plan.name, "mano")
    for side in ("right", "left"):
        painter = sequence.view_painter(scene, motion, SPEC, plan, view)
        part = scene.parts[side]
        own = (scene.faces >= part.start).all(axis=1) & (scene.faces < part.stop).all(axis=1)
        height, width = painter.camera.height, painter.camera.width
        depth = np.full((2 * height, 2 * width), projection.FAR_M, np.float32)
        colour = np.zeros((*depth.shape, 3), np.float32)
        row = 3 + plan.ioi_offset - 1
        uv = projection.to_fine(painter.uv[row], (0, 0))
        both = np.concatenate([scene.faces[own], scene.faces[own][:, ::-1]])  # one can look into the open wrist
        projection.RASTERIZER.draw(uv, painter.depth[row], both, painter.colours[row], colour, depth)
        truth = project(root, plan.subject, plan.name, view, 3, hand_vertices(root, side, mano[side], 3))
        faces = np.load(root / "body_models" / "mano" / f"MANO_{side.upper()}.npz")["f"]
        expected = filled(truth[:, :2], faces, height, width, 2)
        drawn = depth < projection.FAR_M
        # The drawn surface is rounded, so the outlines differ by a fraction of a pixel.
        moved = filled(truth[:, :2] + 3, faces, height, width, 2)
        overlap = [(drawn & other).sum() / (drawn | other).sum() for other in (expected, moved)]
        assert overlap[0] > 0.9 and overlap[1] < overlap[0] - 0.05


def test_visible_skin_is_painted_and_hidden_skin_is_not(case, monkeypatch) -> None:
    """With magenta hands, magenta appears inside the reprojected hands only, and wherever their surface is in front."""
    root, plan, view, scene, motion = case
    monkeypatch.setattr(scene, "shutter", 0.0)
    painter = sequence.view_painter(scene, motion, SPEC, plan, view)
    for side in ("right", "left"):
        painter.colours[:, scene.parts[side]] = MAGENTA / 255
    mano = load_raw(root, plan.subject, plan.name, "mano")
    height, width = painter.camera.height, painter.camera.width
    in_front = painted = 0
    for gt_index in (2, 5):
        row = gt_index + plan.ioi_offset - 1
        image = painter.paint(row).astype(int)
        magenta = np.abs(image - MAGENTA).max(axis=-1) < 60
        allowed = np.zeros((height, width), bool)
        _, depth, (x0, y0, _, _) = painter.buffers(row, painter.backdrop.at(row))
        for side in ("right", "left"):
            world = hand_vertices(root, side, mano[side], gt_index)
            truth = project(root, plan.subject, plan.name, view, gt_index, world)
            faces = np.load(root / "body_models" / "mano" / f"MANO_{side.upper()}.npz")["f"]
            allowed |= filled(truth[:, :2], faces, height, width, 1)
            for vertex in truth[::3]:
                x, y = np.rint(vertex[:2]).astype(int)
                if not (1 <= x < width - 1 and 1 <= y < height - 1):
                    continue
                nearest = depth[2 * (y - y0) - 1 : 2 * (y - y0) + 3, 2 * (x - x0) - 1 : 2 * (x - x0) + 3]
                if abs(nearest - vertex[2]).max() < 0.004:
                    in_front += 1
                    painted += bool(magenta[y, x])
        wide = cv2.dilate(allowed.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        assert magenta.sum() > 50 and not (magenta & ~wide).any()
    assert in_front > 20 and painted / in_front > 0.85  # what the fingers touch lies at their depth too


def test_object_files_give_the_object_that_is_drawn(case) -> None:
    """mesh.obj with parts.json (0 = top, turned about -z), object.npy in millimetres, calibration: all from files."""
    root, plan, view, scene, motion = case
    folder = root / "arctic" / "meta" / "object_vtemplates" / plan.object_name
    lines = (line.split() for line in (folder / "mesh.obj").read_text().splitlines())
    vertices = np.array([[float(v) for v in line[1:]] for line in lines if line[0] == "v"])
    parts = np.array(json.loads((folder / "parts.json").read_text()))
    rigid = load_raw(root, plan.subject, plan.name, "object")[4].astype(float)
    turned = Rotation.from_rotvec([0, 0, -rigid[0]]).apply(vertices)
    world_mm = Rotation.from_rotvec(rigid[1:4]).apply(np.where(parts[:, None] == 0, turned, vertices)) + rigid[4:]
    painter = sequence.view_painter(scene, motion, SPEC, plan, view)
    truth = project(root, plan.subject, plan.name, view, 4, world_mm / 1000)
    assert np.abs(truth[:, :2] - painter.object_uv(4 + plan.ioi_offset - 1)).max() < 0.05


def test_files_hold_the_painted_images(case) -> None:
    root, plan, view, scene, motion = case
    painter = sequence.view_painter(scene, motion, SPEC, plan, view)
    for number in range(1, plan.image_count + 1):
        file = root / "arctic" / "images" / plan.subject / plan.name / str(view) / f"{number:05d}.jpg"
        image = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB).astype(int)
        if number in plan.black_images:
            assert image.max() == 0
        else:
            assert np.abs(image - painter.paint(number - 1)).mean() < 3.5
            assert image.std() > 15
