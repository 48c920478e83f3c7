"""Evaluation of stored predictions: streamed over recordings, against a loop over frames in Python; and its memory.

Both sides compute the same numbers (compared on the frames of both): every metric of a sample, of joints, vertices,
rotations, shape, position and image. The streamed side computes more: motion over time, the world frame, means by
stratum with their intervals, and it reads and writes the tables. `evaluate_100k` uses wall time, so the threads of the
streamed side count; `evaluate_100k_processor_time` sums all threads and is less sensitive to other load on a shared
machine. The loop has one numerical thread, as has each thread of the streamed side.
"""

import json
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from _measure import Row, from_rounds, run
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from threadpoolctl import threadpool_limits

from hawor_pipeline.core.camera import project_distorted
from hawor_pipeline.core.mano import ManoLayer
from hawor_pipeline.core.rotations import axis_angle_to_rotmat, mirror_rotmat
from hawor_pipeline.evaluation.evaluator import measure_run
from hawor_pipeline.evaluation.hands import project_predictions, read_truth
from hawor_pipeline.evaluation.recordings import annotations_of, converted_subjects, plan_recordings, sequences
from hawor_pipeline.evaluation.setting import Setting
from hawor_pipeline.evaluation.tables import RunIdentity, read_table, table_writer, to_numpy
from hawor_pipeline.sample.hand import write_mano_models
from hawor_pipeline.shards.schema import COLUMNS, to_arrow
from hawor_pipeline.shards.store import ImageWriter, write_parquet
from hawor_pipeline.sources.hand_models import HandModels
from hawor_pipeline.untrusted.mano_files import load_mano
from hawor_pipeline.workers.pool import one_thread

VIEWS, FRAMES = range(9), 139  # 2 sides x 9 views x 139 frames: 2502 samples in a recording
INTRINSICS = np.array([[2500.0, 0, 1400], [0, 2500.0, 1000], [0, 0, 1]])
LIMITS_MM = (5, 10, 15, 20)
IDENTITY = RunIdentity("stored", "arctic-all-val", "benchmark", "synthetic", "0" * 64)


def write_data(root: Path, recordings: int) -> None:
    """Generate shards without images, and predictions with errors of about a centimetre."""
    write_mano_models(root / "mano")
    layers = {side: ManoLayer(load_mano(root / "mano", side)).double() for side in ("left", "right")}
    models = HandModels.load(root / "mano")
    subject, entries = root / "shards" / "s05", []
    for number in range(recordings):
        name = f"box_use_{number:02d}"
        folder = subject / name
        folder.mkdir(parents=True)
        table = _annotations(name, layers, np.random.default_rng(number))
        write_parquet(to_arrow(table, {"source": "synthetic"}), folder / "annotations.parquet")
        ImageWriter(folder / "images.arrow").__exit__(None)
        entries.append({"sequence": name, "rows": len(table["frame"])})
    about = {"subject": "s05", "source": "synthetic", "rows": sum(entry["rows"] for entry in entries)}
    (subject / "manifest.json").write_text(json.dumps({**about, "sequences": entries}))
    with table_writer(root / "metrics", "predictions", IDENTITY) as writer:
        for annotations in sequences(root / "shards"):
            writer.write(_predictions(models, annotations).columns(annotations["sample_id"].to_pylist()))


def _annotations(name: str, layers: dict[str, ManoLayer], rng: np.random.Generator) -> dict[str, np.ndarray]:
    parts = [_track(name, view, side, layers[side], rng) for view in VIEWS for side in ("left", "right")]
    return {column: np.concatenate([part[column] for part in parts]) for column in COLUMNS}


def _track(name: str, view: int, side: str, layer: ManoLayer, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Generate one smoothly moving hand in one view."""
    wave = np.sin(np.arange(FRAMES)[:, None] / rng.uniform(8, 30, 48) + rng.uniform(0, 6, 48))
    pose = rng.normal(0, 0.3, 48) + 0.15 * wave
    betas = np.tile(rng.normal(0, 0.5, 10), (FRAMES, 1))
    place = np.array([0.0, 0.0, rng.uniform(0.6, 1.4)]) + 0.05 * wave[:, :3]
    rotmats = axis_angle_to_rotmat(torch.from_numpy(pose).unflatten(-1, (16, 3)))
    with torch.no_grad():
        joints = layer(rotmats, torch.from_numpy(betas)).joints + torch.from_numpy(place)[:, None]
    lens = torch.zeros(FRAMES, 8, dtype=torch.float64)
    pixels, _ = project_distorted(joints, torch.from_numpy(INTRINSICS).expand(FRAMES, 3, 3), lens)
    size = 1.3 * np.ptp(pixels.numpy(), axis=1).max(1)
    center = pixels.numpy().mean(1)
    scale = 256 / size
    columns = {
        "sample_id": [f"s05/{name}/{view}/{frame:05d}/{side}" for frame in range(FRAMES)],
        "crop_from_image": np.stack(
            [[[s, 0, 128 - s * x], [0, s, 128 - s * y]] for s, (x, y) in zip(scale, center, strict=True)]
        ),
        "frame": np.arange(FRAMES), "gt_index": np.arange(FRAMES), "global_orient": pose[:, :3],
        "hand_pose": pose[:, 3:], "betas": betas, "betas_as_right": betas, "translation_m": place,
        "joints_cam_m": joints.numpy(), "joints_world_m": joints.numpy(), "joints_px": pixels.numpy(),
        "box_center_px": center, "box_size_px": size, "joint_visible": rng.random((FRAMES, 21)) < 0.7,
    }  # fmt: skip
    constants = {
        "subject": "s05", "sequence": name, "object": "box", "action": "use", "side": side, "skip_reason": "",
        "view": view, "image_height": 2000, "image_width": 2800, "is_right": side == "right",
        "joint_in_frame": np.ones(21, bool), "valid": True, "intrinsics": INTRINSICS, "cam_from_world": np.eye(4),
        "distortion": np.zeros(8), "betas_as_right_residual_mm": 0.0, "occlusion": 0.3, "truncation": 0.0,
        "confidence": 1.0, "blur": 0.0, "fitting_err": 0.0,
    }  # fmt: skip
    repeated = {key: np.broadcast_to(value, (FRAMES, *np.shape(value))) for key, value in constants.items()}
    return {key: np.asarray(value) for key, value in (repeated | columns).items()}


def _predictions(models: HandModels, annotations):
    truth = read_truth(annotations)
    generator = torch.Generator().manual_seed(len(truth))

    def noise(scale: float, *shape: int) -> torch.Tensor:
        return scale * torch.randn(len(truth), *shape, generator=generator, dtype=torch.float64)

    rotmats = truth.rotmats @ axis_angle_to_rotmat(noise(0.12, 16, 3))
    return project_predictions(
        models, truth, rotmats, truth.betas_as_right + noise(0.3, 10), truth.translation_m + noise(0.02, 3)
    )


class FrameByFrame:
    """A common script: a loop over frames, one hand at a time, with NumPy and SciPy."""

    def __init__(self, root: Path):
        models = {side: load_mano(root / "mano", side) for side in ("left", "right")}
        self.layers = {side: ManoLayer(model) for side, model in models.items()}
        self.shape_dirs = np.asarray(models["right"].shape_dirs, float)
        (self.annotations,) = annotations_of(root / "shards", plan_recordings(root / "shards", None)[:1])
        self.rows = read_table(root / "metrics", "predictions", "stored").slice(0, self.annotations.num_rows)

    @torch.no_grad()
    def measure(self, count: int) -> list[dict[str, float]]:
        """Compute the metrics of every n-th sample of the first recording."""
        truth = read_truth(self.annotations)
        joints = to_numpy(self.rows["joints_cam_m"], (21, 3)).astype(float)
        pixels = to_numpy(self.rows["joints_px"], (21, 2)).astype(float)
        rotmats = to_numpy(self.rows["rotmats"], (16, 3, 3)).astype(float)
        betas = to_numpy(self.rows["betas"], (10,)).astype(float)
        places = to_numpy(self.rows["translation_m"], (3,)).astype(float)
        found = []
        for row in np.linspace(0, len(truth) - 1, count).astype(int):
            hand = (joints[row], pixels[row], rotmats[row], betas[row])
            frame = truth.take(slice(row, row + 1))
            values = self._frame(frame, *hand) | self._place_and_image(frame, joints[row], pixels[row], places[row])
            found.append({"row": int(row), **values})
        return found

    def _frame(self, truth, joints, pixels, rotmats, betas) -> dict[str, float]:
        ours, theirs = joints - joints[0], (truth.joints_m[0] - truth.joints_m[0, 0]).numpy()
        error = 1000 * np.linalg.norm(ours - theirs, axis=1)
        aligned = 1000 * np.linalg.norm(_aligned(ours, theirs) - theirs, axis=1)
        scale = np.linalg.norm(theirs[9]) / np.linalg.norm(ours[9])
        seen = truth.joint_visible[0].numpy()
        values = {"mpjpe_mm": error.mean(), "pa_mpjpe_mm": aligned.mean()}
        values |= {"mpjpe_visible_mm": _mean(error[seen]), "mpjpe_hidden_mm": _mean(error[~seen])}
        values["st_mpjpe_mm"] = 1000 * np.linalg.norm(scale * ours - theirs, axis=1).mean()
        values |= {f"pck_3d_{limit}mm": (error <= limit).mean() for limit in LIMITS_MM}
        values |= {"pck_auc": _area(error), "pa_pck_auc": _area(aligned)}
        turn = Rotation.from_matrix(rotmats.transpose(0, 2, 1) @ truth.rotmats[0].numpy()).magnitude()
        values |= {"global_orient_error_deg": np.degrees(turn[0]), "pose_error_deg": np.degrees(turn[1:]).mean()}
        shape = betas - truth.betas_as_right[0].numpy()
        values["betas_error"] = np.linalg.norm(shape)
        values["shape_error_mm"] = 1000 * np.linalg.norm(self.shape_dirs @ shape, axis=1).mean()
        return values | self._surface(truth, rotmats, betas)

    def _place_and_image(self, truth, joints, pixels, place) -> dict[str, float]:
        true_px, inside = truth.joints_px[0].numpy(), truth.joint_in_frame[0].numpy()
        off = np.linalg.norm(pixels - true_px, axis=1)[inside]
        in_crop = off * 256 / float(truth.box_size_px)
        of_box = off / np.ptp(true_px[inside], axis=0).max()
        overlap = _box_overlap(pixels, true_px)
        values = {
            "mpjpe_camera_mm": 1000 * np.linalg.norm(joints - truth.joints_m[0].numpy(), axis=1).mean(),
            "translation_error_mm": 1000 * np.linalg.norm(place - truth.translation_m[0].numpy()),
            "mpjpe_px": off.mean(), "mpjpe_crop_px": in_crop.mean(),
            "box_iou": overlap, "detected": float(overlap >= 0.5),
        }  # fmt: skip
        values |= {f"pck_2d_{limit}px": (in_crop <= limit).mean() for limit in (5, 10, 15)}
        return values | {f"pck_box_{percent}pct": (of_box <= percent / 100).mean() for percent in (5, 10, 15)}

    def _surface(self, truth, rotmats, betas) -> dict[str, float]:
        is_right = bool(truth.is_right)
        true_mesh = self.layers["right" if is_right else "left"](truth.rotmats.float(), truth.betas.float())
        pose, shape = torch.from_numpy(rotmats)[None], torch.from_numpy(betas)[None].float()
        mesh = self.layers["right"]((pose if is_right else mirror_rotmat(pose)).float(), shape)
        flip = np.array([1.0 if is_right else -1.0, 1.0, 1.0])
        ours = (mesh.vertices[0] - mesh.joints[0, 0]).numpy() * flip
        theirs = (true_mesh.vertices[0] - true_mesh.joints[0, 0]).numpy()
        after = _aligned(ours, theirs)
        tree = cKDTree(theirs)
        forward, backward = tree.query(ours)[0], cKDTree(ours).query(theirs)[0]
        values = {
            "mpvpe_mm": 1000 * np.linalg.norm(ours - theirs, axis=1).mean(),
            "pa_mpvpe_mm": 1000 * np.linalg.norm(after - theirs, axis=1).mean(),
            "chamfer_mm": 1000 * (forward.mean() + backward.mean()),
        }
        near = tree.query(after)[0], cKDTree(after).query(theirs)[0]
        for name, (precise, recalled) in (("f_score", (forward, backward)), ("pa_f_score", near)):
            for limit in (5, 15):
                p, r = (precise < limit / 1000).mean(), (recalled < limit / 1000).mean()
                values[f"{name}_{limit}mm"] = 2 * p * r / (p + r) if p + r else 0.0
        return values


def _aligned(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Compute the best similarity transform of a cloud onto another, without reflection (Umeyama 1991)."""
    a, b = ours - ours.mean(0), theirs - theirs.mean(0)
    u, s, vh = np.linalg.svd(a.T @ b)
    sign = np.array([1, 1, np.sign(np.linalg.det(u @ vh))])
    return (s * sign).sum() / (a**2).sum() * a @ (u * sign) @ vh + theirs.mean(0)


def _mean(values: np.ndarray) -> float:
    return values.mean() if len(values) else np.nan


def _area(error_mm: np.ndarray) -> float:
    """Compute the area under the curve of the share of joints within 0 to 50 mm."""
    return np.trapezoid([(error_mm <= limit).mean() for limit in np.linspace(0, 50, 100)], dx=50 / 99) / 50


def _box_overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the intersection over union of the boxes around two sets of joints."""
    low, high = np.maximum(first.min(0), second.min(0)), np.minimum(first.max(0), second.max(0))
    common = np.clip(high - low, 0, None).prod()
    return common / (np.ptp(first, axis=0).prod() + np.ptp(second, axis=0).prod() - common)


class PeakMemory:
    """Monitor of the peak resident memory of this process in a block, and its growth in the second half."""

    def __enter__(self) -> "PeakMemory":
        self.samples: list[tuple[float, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._stop.wait(0.05):
            self.samples.append((time.perf_counter(), process.memory_info().rss))

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def growth(self) -> float:
        """Return the peak of the second half of the time over that of the first."""
        times, sizes = np.array(self.samples).T
        late = times > (times[0] + times[-1]) / 2
        return sizes[late].max() / sizes[~late].max()


def _check_same(loop: list[dict[str, float]], root: Path) -> None:
    samples = read_table(root / "metrics", "samples", "stored")
    for found in loop:
        row = found.pop("row")
        for name, value in found.items():
            tolerance = 0.006 if name.endswith("pck_auc") else 2e-3 * max(1.0, abs(value))
            streamed = samples[name][row].as_py()
            same = np.isnan(value) if streamed is None else abs(streamed - value) <= tolerance
            if not same:
                raise SystemExit(f"{name} of row {row}: {samples[name][row]} streamed, {value} frame by frame")


def _now() -> np.ndarray:
    """Return wall time and processor time in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def measure(quick: bool) -> list[Row]:
    """Run the loop before and after one streamed evaluation, all in this process."""
    recordings, loops = (4, 60) if quick else (40, 250)
    found: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_data(root, recordings)
        slow = FrameByFrame(root)
        slow.measure(5)
        shards = root / "shards"
        about = (IDENTITY.dataset_version, converted_subjects(shards), IDENTITY.protocol)
        setting = Setting.of(shards, root / "mano", root / "metrics", *about)

        def timed_loop() -> np.ndarray:
            began = _now()
            with one_thread(), threadpool_limits(1):
                found.extend(slow.measure(loops))
            return (_now() - began) / loops

        per_loop = [timed_loop(), timed_loop()]
        with PeakMemory() as memory:
            began = _now()
            done = measure_run(setting, IDENTITY)
            streamed = (_now() - began) / done["samples"]
        per_loop += [timed_loop(), timed_loop()]
        _check_same(found, root)
    print(f"{done['samples']} samples; ms each of wall time and processor time: {np.round(1000 * streamed, 2)}, ")
    print(f"frame by frame {np.round(1000 * np.median(per_loop, 0), 2)}")
    clock, processor = (np.array(per_loop) / streamed).T
    peak_mb = max(size for _, size in memory.samples) / 1e6
    rows = [
        from_rounds("evaluate_100k", clock, "ratio", 5.0, "higher"),
        from_rounds("evaluate_100k_processor_time", processor, "ratio", 3.0, "higher"),
        from_rounds("evaluate_100k_peak_memory_mb", [peak_mb], "MB", 1500.0, "lower"),
    ]
    if not quick:  # half of the samples must be more than the rows that the table writers hold back
        rows.append(from_rounds("evaluate_100k_memory_growth", [memory.growth()], "ratio", 1.1, "lower"))
    return rows


if __name__ == "__main__":
    run(measure, "Evaluation of stored predictions")
