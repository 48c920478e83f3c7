"""Every headline of every protocol, as the tables have it, against float64 derivations written from the publications.

Each derivation starts from rows of annotations and predictions and uses numpy and scipy alone; only posed vertices come
from the MANO layer, which has its own comparison with smplx.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import cKDTree

from hawor_pipeline.core.camera import transform_points
from hawor_pipeline.core.rotations import axis_angle_to_rotmat
from hawor_pipeline.evaluation.declared_metrics import ALL_METRICS
from hawor_pipeline.evaluation.evaluator import evaluate_predictions
from hawor_pipeline.evaluation.hands import (
    HandTruth,
    PredictedHands,
    predicted_mesh,
    project_predictions,
    read_truth,
    true_vertices,
)
from hawor_pipeline.evaluation.measure import Measurement, measure
from hawor_pipeline.evaluation.protocols import PROTOCOLS
from hawor_pipeline.evaluation.recordings import sequences
from hawor_pipeline.evaluation.tables import RunIdentity, read_table, table_writer
from hawor_pipeline.evaluation.tracks import Tracks
from hawor_pipeline.sources.hand_models import HandModels
from hawor_pipeline_tests.shards.edited import restate

FPS = 30
SOURCES = {"freihand": "freihand", "ho3d": "ho3d", "dexycb": "dexycb"}  # else the sample's own


@dataclass(frozen=True, slots=True)
class Rows:
    """Predictions (first of each pair) and ground truth of the rows of one recording, as numpy arrays."""

    view: np.ndarray
    frame: np.ndarray
    is_right: np.ndarray
    joints: tuple[np.ndarray, np.ndarray]  # (N, 21, 3), camera
    vertices: tuple[np.ndarray, np.ndarray]  # (N, 778, 3), camera
    translation: tuple[np.ndarray, np.ndarray]  # (N, 3), camera
    pixels: tuple[np.ndarray, np.ndarray]  # (N, 21, 2)
    in_frame: np.ndarray  # (N, 21)
    cam_from_world: np.ndarray  # (N, 4, 4)

    @classmethod
    def of(cls, models: HandModels, truth: HandTruth, predicted: PredictedHands, tracks: Tracks) -> "Rows":
        mesh, _ = predicted_mesh(models, predicted.rotmats, predicted.betas, predicted.translation_m, truth.is_right)
        pairs = [
            (predicted.joints_m, truth.joints_m),
            (mesh, true_vertices(models, truth)),
            (predicted.translation_m, truth.translation_m),
            (predicted.joints_px, truth.joints_px),
        ]
        numbers = [(ours.numpy(), theirs.numpy()) for ours, theirs in pairs]
        about = (tracks.view, tracks.frame, tracks.is_right.astype(bool))
        return cls(*about, *numbers, truth.joint_in_frame.numpy(), truth.cam_from_world.numpy())

    def tracks(self, least: int = 1) -> Iterator[np.ndarray]:
        """Rows of unbroken runs of frames of one hand in one view."""
        for key in sorted({*zip(self.view.tolist(), self.is_right.tolist(), strict=True)}):
            rows = np.flatnonzero((self.view == key[0]) & (self.is_right == key[1]))
            rows = rows[np.argsort(self.frame[rows])]
            for run in np.split(rows, np.flatnonzero(np.diff(self.frame[rows]) != 1) + 1):
                if len(run) >= least:
                    yield run

    def images(self) -> list[list[int]]:
        """Rows of each image: one hand or two."""
        found: dict[tuple[int, int], list[int]] = {}
        for row, key in enumerate(zip(self.view.tolist(), self.frame.tolist(), strict=True)):
            found.setdefault(key, []).append(row)
        return list(found.values())

    def world(self, points: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Points (T, K, 3) of some rows from their cameras into the world."""
        rotation, shift = self.cam_from_world[rows, :3, :3], self.cam_from_world[rows, :3, 3]
        return np.einsum("tji,tkj->tki", rotation, points[rows] - shift[:, None])

    def relative(self, which: str) -> tuple[np.ndarray, np.ndarray]:
        """Points minus the wrist joint."""
        ours, theirs = getattr(self, which)
        return ours - self.joints[0][:, :1], theirs - self.joints[1][:, :1]


def norm(difference: np.ndarray) -> np.ndarray:
    return np.sqrt((difference**2).sum(-1))


def umeyama(points: np.ndarray, target: np.ndarray, with_scale: bool = True) -> Callable[[np.ndarray], np.ndarray]:
    """The similarity without reflection of Umeyama 1991, as SLAHMR and HaWoR use it."""
    mean, target_mean = points.mean(0), target.mean(0)
    u, d, vt = np.linalg.svd((target - target_mean).T @ (points - mean) / len(points))
    sign = np.diag([1, 1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ sign @ vt
    scale = np.trace(np.diag(d) @ sign) / ((points - mean) ** 2).sum() * len(points) if with_scale else 1.0
    return lambda x: scale * (x - mean) @ rotation.T + target_mean


def mirroring(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Aligned points by FreiHAND's rule: orthogonal Procrustes of scipy, which may reflect."""
    a, b = target - target.mean(0), points - points.mean(0)
    size_a, size_b = np.linalg.norm(a), np.linalg.norm(b)
    rotation, scale = orthogonal_procrustes(a / size_a, b / size_b)
    return (b / size_b) @ rotation.T * scale * size_a + target.mean(0)


def aligned(rows: Rows, which: str, mirror: bool) -> list[np.ndarray]:
    pairs = zip(*getattr(rows, which), strict=True)
    return [norm((mirroring(p, t) if mirror else umeyama(p, t)(p)) - t) for p, t in pairs]


def area(errors: np.ndarray) -> float:
    """FreiHAND's area: a curve per joint over all samples, mean over joints."""
    limits = np.linspace(0, 0.05, 100)
    errors = np.asarray(errors)
    curves = np.array([[(errors[:, k] <= limit).mean() for limit in limits] for k in range(errors.shape[1])])
    return float(np.mean([np.trapezoid(curve, limits) / 0.05 for curve in curves]))


def f_score(rows: Rows, limit: float) -> float:
    scores = []
    for points, target in zip(*rows.vertices, strict=True):
        near = mirroring(points, target)
        one, two = (cKDTree(target).query(near)[0] < limit).mean(), (cKDTree(near).query(target)[0] < limit).mean()
        scores.append(2 * one * two / (one + two) if one + two else 0.0)
    return float(np.mean(scores))


def second(points: np.ndarray) -> np.ndarray:
    return (points[2:] - 2 * points[1:-1] + points[:-2]) * FPS**2


def arctic_acc(rows: Rows) -> float:
    """ACC of ARCTIC: root-relative vertices, mean of an image's hands, then of images."""
    ours, theirs = rows.relative("vertices")
    value = np.full(len(ours), np.nan)
    for run in rows.tracks(3):
        value[run[1:-1]] = norm(second(ours[run]) - second(theirs[run])).mean(1)
    images = [np.nanmean(value[image]) for image in rows.images() if np.isfinite(value[image]).any()]
    return float(np.mean(images))


def arctic_mpjpe(rows: Rows) -> float:
    ours, theirs = rows.relative("joints")
    value = 1000 * norm(ours - theirs).mean(1)
    return float(np.mean([value[image].mean() for image in rows.images()]))


def mrrpe(rows: Rows) -> float:
    values = []
    for image in rows.images():
        if len(image) == 2:
            right, left = sorted(image, key=lambda row: not rows.is_right[row])
            ours, theirs = (joints[left, 0] - joints[right, 0] for joints in rows.joints)
            values.append(1000 * norm(ours - theirs))
    return float(np.mean(values))


def world_error(rows: Rows, first: int | None) -> float:
    values = []
    for run in rows.tracks(3):
        ours, theirs = (rows.world(joints, run) for joints in rows.joints)
        for start in range(0, len(run), 100):
            p, t = ours[start : start + 100], theirs[start : start + 100]
            fit = umeyama(p[:first].reshape(-1, 3), t[:first].reshape(-1, 3))
            values.append(1000 * norm(fit(p) - t).mean(1))
    return float(np.concatenate(values).mean())


def world_acceleration(rows: Rows) -> float:
    """HaWoR's Accel: joints in the world; the script cuts the first and the last of its values off."""
    values = []
    for run in rows.tracks(3):
        ours, theirs = (second(rows.world(joints, run)) for joints in rows.joints)
        values.append(norm(ours - theirs).mean(1)[1:-1])
    return float(np.concatenate(values).mean())


def world_jitter(rows: Rows) -> float:
    values = []
    for run in rows.tracks(4):
        p = rows.world(rows.joints[0], run)
        values.append(norm((p[3:] - 3 * p[2:-1] + 3 * p[1:-2] - p[:-3]) * FPS**3).mean(1))
    return float(np.concatenate(values).mean())


def rte(rows: Rows) -> float:
    """HaWoR's RTE as a share: MANO's translation in the world, which keeps its distance to the wrist."""
    values = []
    for run in rows.tracks(3):
        paths = []
        for joints, translation in zip(rows.joints, rows.translation, strict=True):
            paths.append(rows.world(joints, run)[:, 0] + translation[run] - joints[run, 0])
        ours, theirs = paths
        values.append(
            norm(umeyama(ours, theirs, with_scale=False)(ours) - theirs) / norm(np.diff(theirs, axis=0)).sum()
        )
    return float(np.concatenate(values).mean())


def hint(rows: Rows, share: float) -> float:
    """PCK of HInt: a rate per joint, mean over joints."""
    ours, theirs = rows.pixels
    hits: list[list[bool]] = [[] for _ in range(21)]
    for p, t, inside in zip(ours, theirs, rows.in_frame, strict=True):
        if not inside.any():
            continue
        side = (t[inside].max(0) - t[inside].min(0)).max()
        for joint in np.flatnonzero(inside):
            hits[joint].append(bool(norm(p[joint] - t[joint]) <= share * side))
    return float(np.mean([np.mean(one) for one in hits if one]))


def st(rows: Rows) -> float:
    values = []
    for p, t in zip(*rows.joints, strict=True):
        scale = norm(t[9] - t[0]) / norm(p[9] - p[0])
        values.append(1000 * norm(scale * (p - p[0]) + t[0] - t).mean())
    return float(np.mean(values))


def mean_mm(errors: np.ndarray | list[np.ndarray]) -> float:
    return float(1000 * np.mean([np.mean(error) for error in errors]))


def derivations(mirror: bool) -> dict[str, Callable[[Rows], float]]:
    """The published formula of each headline; by `mirror`, whether the publication's alignment may reflect."""
    return {
        "mpjpe_mm": lambda rows: mean_mm(norm(np.subtract(*rows.relative("joints")))),
        "mpjpe_camera_mm": lambda rows: mean_mm(norm(np.subtract(*rows.joints))),
        "mpvpe_mm": lambda rows: mean_mm(norm(np.subtract(*rows.relative("vertices")))),
        "pa_mpjpe_mm": lambda rows: mean_mm(aligned(rows, "joints", mirror)),
        "pa_mpvpe_mm": lambda rows: mean_mm(aligned(rows, "vertices", mirror)),
        "pa_pck_auc": lambda rows: area(np.array(aligned(rows, "joints", mirror))),
        "pa_vertex_pck_auc": lambda rows: area(np.array(aligned(rows, "vertices", mirror))),
        "pck_auc": lambda rows: area(norm(np.subtract(*rows.relative("joints")))),
        "camera_pck_auc": lambda rows: area(norm(np.subtract(*rows.joints))),
        "pa_f_score_5mm": lambda rows: f_score(rows, 0.005),
        "pa_f_score_15mm": lambda rows: f_score(rows, 0.015),
        "st_mpjpe_mm": st,
        "mpjpe_image_mm": arctic_mpjpe,
        "mrrpe_mm": mrrpe,
        "accel_vertices_image_m_s2": arctic_acc,
        "w_mpjpe_mm": lambda rows: world_error(rows, 2),
        "wa_mpjpe_mm": lambda rows: world_error(rows, None),
        "rte_track": rte,
        "accel_world_error_m_s2": world_acceleration,
        "jitter_world": world_jitter,
        **{f"pck_joints_{percent}pct": (lambda rows, p=percent: hint(rows, p / 100)) for percent in (5, 10, 15)},
    }


def noisy(models: HandModels, truth: HandTruth, seed: int = 0) -> PredictedHands:
    """Predictions that are wrong in pose, shape and place by amounts of the size of a network's."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    n = len(truth)
    rotmats = axis_angle_to_rotmat(0.15 * noise(n, 16, 3)) @ truth.rotmats
    betas = truth.betas_as_right + 0.3 * noise(n, 10)
    return project_predictions(models, truth, rotmats, betas, truth.translation_m + 0.01 * noise(n, 3))


@pytest.fixture(scope="module")
def evaluated(sample_shards: Path, mano_dir: Path, models: HandModels, tmp_path_factory) -> Callable:
    """Tables of noisy predictions by each protocol, and the same rows as arrays; one hand of one image is invalid."""
    root = tmp_path_factory.mktemp("published")
    shards = root / "shards"
    shutil.copytree(sample_shards / "s05", shards / "s05")
    path = next((shards / "s05").glob("*/annotations.parquet"))
    table = pq.read_table(path)
    valid = np.array(table["valid"])
    valid[np.flatnonzero(valid & (np.array(table["view"]) == 1))[0]] = False
    index = table.schema.get_field_index("valid")
    pq.write_table(table.set_column(index, table.schema.field(index), pa.array(valid)), path)
    restate(shards)
    manifest = shards / "s05" / "manifest.json"
    content = json.loads(manifest.read_text())

    def evaluate(protocol: str) -> tuple[Rows, dict[str, float]]:
        source = SOURCES.get(protocol, "synthetic")
        manifest.write_text(json.dumps({**content, "source": source}))
        identity = RunIdentity(f"noisy-{protocol}", protocol, "v1", source)
        (annotations,) = sequences(shards, ["s05"], PROTOCOLS[protocol].views)
        truth = read_truth(annotations)
        predicted = noisy(models, truth)
        with table_writer(root, "predictions", identity) as writer:
            writer.write(predicted.columns(annotations["sample_id"].to_pylist()))
        evaluate_predictions(shards, mano_dir, root, identity, ["s05"])
        summary = read_table(root, "summary", identity.run_id).to_pylist()
        found = {r["metric"]: r["value"] for r in summary if (r["stratum"], r["level"]) == ("all", "sample")}
        tracks = Tracks(*(annotations[name].to_numpy() for name in ("view", "is_right", "frame")))
        stored = [torch.from_numpy(v.numpy().astype(np.float32).astype(np.float64)) for v in _tensors(predicted)]
        return Rows.of(models, truth, PredictedHands(*stored), tracks), found

    return evaluate


def _tensors(predicted: PredictedHands) -> list[torch.Tensor]:
    names = ("rotmats", "betas", "translation_m", "joints_m", "joints_px", "own_betas")
    return [getattr(predicted, name) for name in names]


def relative_difference(rows: Rows, found: dict[str, float], protocol: str) -> dict[str, float]:
    formulas = derivations(PROTOCOLS[protocol].mirror_allowed)
    expected = {name: formulas[name](rows) for name in PROTOCOLS[protocol].headlines}
    return {name: abs(found[name] - value) / abs(value) for name, value in expected.items()}


def check(evaluated: Callable, protocol: str, tolerance: float) -> None:
    differences = relative_difference(*evaluated(protocol), protocol)
    assert max(differences.values()) <= tolerance, differences


def test_every_headline_has_a_derivation_and_is_a_declared_metric() -> None:
    for protocol in PROTOCOLS.values():
        assert set(protocol.headlines) <= set(derivations(True)) & set(ALL_METRICS), protocol.name


@pytest.mark.parametrize("protocol", ["arctic-all-val", "arctic-p1-val", "arctic-p2-val"])
@pytest.mark.agreement(
    subject="protocols arctic-*",
    publication="ARCTIC (Fan et al. 2023), eval_modules.py: MPJPE, MRRPE, ACC of vertices",
    compared="headlines of the summary table, float64 derivation with images that have one hand",
    tolerance=1e-4,
    unit="relative",
)
def test_arctic(evaluated: Callable, protocol: str, tolerance: float) -> None:
    check(evaluated, protocol, tolerance)


@pytest.mark.agreement(
    subject="protocol freihand",
    publication="FreiHAND (Zimmermann et al. 2019), eval.py: Procrustes, F-scores, areas of joints and vertices",
    compared="headlines of the summary table, float64 derivation with scipy's orthogonal_procrustes",
    tolerance=1e-4,
    unit="relative",
)
def test_freihand(evaluated: Callable, tolerance: float) -> None:
    check(evaluated, "freihand", tolerance)


@pytest.mark.agreement(
    subject="protocol ho3d",
    publication="HO-3D (Hampali et al. 2020), eval.py: scale-translation and Procrustes alignment, F-scores, areas",
    compared="headlines of the summary table, float64 derivation",
    tolerance=1e-4,
    unit="relative",
)
def test_ho3d(evaluated: Callable, tolerance: float) -> None:
    check(evaluated, "ho3d", tolerance)


@pytest.mark.agreement(
    subject="protocol dexycb",
    publication="DexYCB (Chao et al. 2021), hpe_eval.py: absolute, root-relative and Procrustes MPJPE and areas",
    compared="headlines of the summary table, float64 derivation",
    tolerance=1e-4,
    unit="relative",
)
def test_dexycb(evaluated: Callable, tolerance: float) -> None:
    check(evaluated, "dexycb", tolerance)


@pytest.mark.agreement(
    subject="protocol hint",
    publication="HInt in HaMeR (Pavlakos et al. 2024), EvaluatorPCK",
    compared="headlines of the summary table, loop over joints",
    tolerance=1e-9,
    unit="relative",
)
def test_hint(evaluated: Callable, tolerance: float) -> None:
    check(evaluated, "hint", tolerance)


@pytest.mark.agreement(
    subject="protocol hot3d-world",
    publication="HaWoR (Zhang et al. 2025), eval_hawor_hot3d.py: PA, W, WA, RTE, Accel; compute_jitter",
    compared="headlines of the summary table, float64 derivation",
    tolerance=1e-4,
    unit="relative",
)
def test_hot3d_world(evaluated: Callable, tolerance: float) -> None:
    check(evaluated, "hot3d-world", tolerance)


@pytest.mark.agreement(
    subject="metrics of long tracks",
    publication="HaWoR, eval_hawor_hot3d.py: chunks of 100 frames, RTE of a whole track",
    compared="measurement of tracks of 230 and 60 frames under a moving camera, float64 derivation",
    tolerance=1e-8,
    unit="relative",
)
def test_long_tracks_are_cut_into_chunks_for_the_alignment_alone(
    models: HandModels, truth: HandTruth, tolerance: float
) -> None:
    tracks, moving = long_tracks(truth)
    predicted = noisy(models, moving, seed=1)
    rows = Rows.of(models, moving, predicted, tracks)
    measured = measure(moving, predicted, models, tracks)
    found = {name: float(np.nanmean(values)) for name, values in {**measured.metrics, **measured.of_sequence}.items()}
    names = ("w_mpjpe_mm", "wa_mpjpe_mm", "rte_track", "accel_world_error_m_s2", "jitter_world")
    formulas = derivations(mirror=False)
    for name in (*names, "accel_vertices_image_m_s2", "mpjpe_image_mm", "mrrpe_mm"):
        expected = formulas[name](rows)
        assert abs(found[name] - expected) <= tolerance * expected, name
    assert measured.metrics["rte"].mean() > 1.5 * measured.metrics["rte_track"].mean()  # paths of chunks are shorter
    _expect_ends(measured)


def _expect_ends(measured: Measurement) -> None:
    """Two frames at each end of a track have no acceleration in the world, one has none of vertices."""
    for name, frames in (("accel_world_error_m_s2", 2), ("accel_vertices_error_m_s2", 1)):
        missing = np.flatnonzero(np.isnan(measured.metrics[name]))
        expected = [[start + k, end - 1 - k] for start, end in ((0, 230), (230, 290)) for k in range(frames)]
        assert missing.tolist() == sorted(np.concatenate(expected).tolist()), name


def long_tracks(truth: HandTruth) -> tuple[Tracks, HandTruth]:
    """A right hand over 230 frames and a left one over the last 60 of them, which wander before a turning camera."""
    right, left = (int(torch.nonzero(side)[0]) for side in (truth.is_right, ~truth.is_right))
    moving: HandTruth = truth.take(torch.tensor([right] * 230 + [left] * 60))
    frame = np.concatenate([np.arange(230), np.arange(170, 230)])
    t = torch.from_numpy(frame / FPS)[:, None]
    path = 0.1 * torch.cat((torch.sin(2 * t), torch.cos(3 * t), torch.sin(t) ** 2), 1)
    turns = axis_angle_to_rotmat(torch.cat((0.2 * t, torch.sin(t), 0 * t), 1))
    cameras = torch.eye(4, dtype=torch.float64).repeat(len(frame), 1, 1)
    cameras[:, :3, :3], cameras[:, :3, 3] = turns, path.flip(-1)
    moved = replace(moving, joints_m=moving.joints_m + path[:, None], translation_m=moving.translation_m + path)
    tracks = Tracks(np.zeros(len(frame), int), moving.is_right.numpy(), frame)
    return tracks, replace(moved, cam_from_world=cameras)


def test_a_hand_still_in_the_world_has_no_jitter_there_however_the_camera_moves(
    models: HandModels, truth: HandTruth
) -> None:
    tracks, moving = long_tracks(truth)
    joints = transform_points(moving.cam_from_world, moving.joints_m[:1].expand_as(moving.joints_m))
    still = noisy(models, moving)
    shift = still.translation_m - still.joints_m[:, 0]
    still = replace(still, joints_m=joints, translation_m=joints[:, 0] + shift)
    measured = measure(moving, still, models, tracks).of_sequence
    assert measured["jitter_world"].max() < 1e-6 * measured["jitter"].mean()
