"""Metric tables of a run that never happened, in the published schemas: what a report is laid out from."""

import json
from pathlib import Path

import cv2
import numpy as np

from hawor_pipeline.core.skeleton import JOINT_NAMES
from hawor_pipeline.evaluation.declared_metrics import CLEAR, HIDDEN, SAMPLE_METRICS
from hawor_pipeline.evaluation.summary import Summary
from hawor_pipeline.evaluation.tables import RunIdentity, partition_dir, table_writer

VERSION = "v-0123456789ab"
LOSSES = ("KEYPOINTS_3D", "KEYPOINTS_2D", "GLOBAL_ORIENT", "HAND_POSE", "BETAS", "MESH_VERTICES", "MESH_FACES")


def write_run(
    metrics_dir: Path,
    run_id: str,
    scale: float,
    *,
    sequences: int = 6,
    frames: int = 40,
    source: str = "synthetic",
    checkpoint: str | None = "c" * 64,
) -> RunIdentity:
    """Samples, joints and summary whose wrist-aligned error is about `scale` mm."""
    identity = RunIdentity(run_id, "arctic-p1-val", VERSION, source, checkpoint)
    rng = np.random.default_rng(len(run_id))
    summary = Summary()
    with (
        table_writer(metrics_dir, "samples", identity) as samples,
        table_writer(metrics_dir, "joints", identity) as joints,
    ):
        for number in range(sequences):
            _write_sequence(rng, scale * (0.8 + 0.1 * number), number, frames, summary, samples, joints)
    with table_writer(metrics_dir, "summary", identity) as writer:
        writer.write(summary.rows())
    return identity


def _write_sequence(rng, scale, number, frames, summary, samples, joints) -> None:
    object_name, action = ("box", "phone", "mixer")[number % 3], ("grab", "use")[number % 2]
    sequence = f"{object_name}_{action}_{number:02d}"
    keys: dict[str, list] = {
        k: [] for k in ("subject", "sequence", "object", "action", "view", "side", "frame", "sample_id")
    }
    for view in (0, 1, 4):
        for side in ("left", "right"):
            for frame in range(frames // 2):
                sample_id = f"s05/{sequence}/{view}/{frame:05d}/{side}"
                row = ("s05", sequence, object_name, action, view, side, frame, sample_id)
                for name, value in zip(keys, row, strict=True):
                    keys[name].append(value)
    n = len(keys["view"])
    occlusion = rng.beta(1.2, 2.5, n)
    reach = np.array([0.0, *[r for _ in range(5) for r in (0.5, 0.8, 1.1, 1.4)]])
    error = scale * (0.7 + 0.8 * occlusion)[:, None] * reach * rng.gamma(4, 0.25, (n, 21))
    columns = {k: np.array(v) for k, v in keys.items()}
    metrics = {name: np.full(n, np.nan) for name in SAMPLE_METRICS}
    mean = error.mean(1)
    metrics |= {
        "mpjpe_mm": mean,
        "pa_mpjpe_mm": 0.35 * mean,
        "mpvpe_mm": 0.95 * mean,
        "mpjpe_crop_px": 0.3 * mean,
        "global_orient_error_deg": 0.5 * mean,
        "pose_error_deg": np.full(n, 9.0) + rng.normal(0, 1, n),
        "detected": (mean < 2 * scale).astype(float),
        "pck_auc": np.clip(1 - error / 50, 0, 1).mean(1),
        "pck_2d_10px": (0.3 * error < 10).mean(1),
    }
    metrics |= {f"pck_3d_{limit}mm": (error <= limit).mean(1) for limit in (5, 10, 15, 20)}
    extra = {
        "occlusion": occlusion,
        "truncation": np.zeros(n),
        "depth_m": rng.uniform(0.4, 1.4, n),
        "speed_m_s": rng.uniform(0, 1, n),
        "box_size_px": np.full(n, 180.0),
    }
    samples.write(columns | extra | metrics)
    visible = rng.random((n, 21)) > occlusion[:, None]
    joints.write(
        {
            "sample_id": np.repeat(columns["sample_id"], 21),
            "joint": np.tile(np.array(JOINT_NAMES), n),
            "error_mm": error.reshape(-1),
            "error_px": 0.3 * error.reshape(-1),
            "visible": visible.reshape(-1),
        }
    )
    strata = {k: columns[k].astype(str) for k in ("subject", "object", "action", "view", "side")}
    strata["occlusion"] = np.select(
        [occlusion < 0.1, occlusion < 0.25, occlusion < 0.5], ["0.00-0.10", "0.10-0.25", "0.25-0.50"], "0.50-1.00"
    )
    strata[HIDDEN], strata[CLEAR] = occlusion > 0.5, occlusion < 0.1
    index = summary.add_sequence(metrics, strata)
    for joint, name in enumerate(JOINT_NAMES):
        summary.add(index, f"joint={name}", "joint", "mpjpe_mm", error[:, joint])
    summary.add(index, "visible=true", "joint", "mpjpe_mm", error[visible])
    summary.add(index, "visible=false", "joint", "mpjpe_mm", error[~visible])


def write_training(metrics_dir: Path, identity: RunIdentity, steps: int = 300) -> None:
    """A training table with falling losses."""
    rows: list[tuple] = []
    rng = np.random.default_rng(0)
    for step in range(0, steps, 5):
        fall = np.exp(-step / 120) + 0.2
        for i, name in enumerate(LOSSES):
            rows.append((step, step // 50, "train", f"loss/{name}", fall * (i + 1) * rng.uniform(0.9, 1.1)))
            rows.append((step, step // 50, "train", f"weight/{name}", 0.1 / (i + 1)))
        rows.append((step, step // 50, "train", "loss/total", 3 * fall))
        rows += [(step, step // 50, "train", f"grad_norm/{m}", fall * k) for k, m in enumerate(("backbone", "head"), 1)]
        rows += [
            (step, step // 50, "train", "learning_rate", 5e-4 * fall),
            (step, step // 50, "train", "samples_per_second", 300 + rng.normal(0, 9)),
            (step, step // 50, "train", "memory_mb", 900 + step / 10),
            (step, step // 50, "train", "data_wait_share", 0.04),
        ]
        if step % 50 == 0:
            rows += [(step, step // 50, s, "mpjpe_mm", 110 * fall + k) for s, k in (("train", 0), ("val", 6))]
    columns = zip(*rows, strict=True)
    with table_writer(metrics_dir, "training", identity) as writer:
        names = ("step", "epoch", "split", "metric", "value")
        writer.write({name: list(column) for name, column in zip(names, columns, strict=True)})


def write_gallery(metrics_dir: Path, run_id: str) -> None:
    """Write images and meshes as the evaluation does."""
    folder = partition_dir(metrics_dir, "gallery", run_id)
    folder.mkdir(parents=True)
    items, meshes = [], []
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    ring = np.stack((40 * np.cos(angles), 80 * np.sin(angles), np.zeros(12)), 1)
    vertices = np.concatenate((ring, ring * 0.6 + (0, 0, 20)))
    faces = [[i, (i + 1) % 12, 12 + i] for i in range(12)] + [
        [12 + i, (i + 1) % 12, 12 + (i + 1) % 12] for i in range(12)
    ]
    for rank, error in (("best", 9.0), ("median", 30.0), ("worst", 88.0)):
        for number in range(2):
            image = np.full((192, 3 * 192 + 8, 3), 200, np.uint8)
            for panel in range(3):
                cv2.circle(image, (96 + panel * 196, 96), 60, (90 + 40 * panel, 140, 200), -1, cv2.LINE_AA)
            name = f"{rank}-{number + 1}.jpg"
            cv2.imwrite(str(folder / name), image)
            sample_id = f"s05/box_grab_00/{number}/00012/right"
            items.append(
                {
                    "rank": rank,
                    "sample_id": sample_id,
                    "picture": name,
                    "width": 3 * 192 + 8,
                    "height": 192,
                    "mpjpe_mm": error + number,
                    "pa_mpjpe_mm": error / 3,
                    "occlusion": 0.2,
                    "truncation": 0.0,
                }
            )
        meshes.append(
            {
                "rank": rank,
                "sample_id": sample_id,
                "mpjpe_mm": error,
                "true_mm": vertices.tolist(),
                "predicted_mm": (vertices * 1.1).tolist(),
            }
        )
    (folder / "gallery.json").write_text(json.dumps({"items": items, "meshes": meshes, "faces": faces}))


def write_everything(root: Path, run_id: str = "demo-0a1b2c3d4e", source: str = "synthetic") -> tuple[Path, Path]:
    """(run_dir, metrics_dir) with one run, three baselines, curves and a gallery."""
    metrics_dir, run_dir = root / "metrics", root / "runs" / run_id
    identity = write_run(metrics_dir, run_id, 42.0, source=source)
    for kind, scale in (("mean_pose", 104.0), ("mean_rotations", 128.0), ("subject_mean", 90.0)):
        write_run(metrics_dir, f"baseline-{kind}-{VERSION}", scale, source=source, checkpoint=None)
    write_training(metrics_dir, identity)
    write_gallery(metrics_dir, run_id)
    run_dir.mkdir(parents=True)
    (run_dir / "config.yaml").write_text("image_size: 64\nbackbone_size: tiny\nlearning_rate: 0.0005\nmax_epochs: 6\n")
    return run_dir, metrics_dir
