"""Quality of samples: occlusion, truncation, confidence, blur, fitting error, distance to the object, coverage.

Tables (Parquet) and plots (PNG) over all shards. Every number is computed from the measures of the conversion.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hawor_pipeline.core.skeleton import FINGERS, JOINT_NAMES
from hawor_pipeline.core.units import m_to_mm, rad_to_deg
from hawor_pipeline.errors import ConfigError
from hawor_pipeline.provenance import Info, StageResult, find_done, hash_json, mark_done, staging_dir
from hawor_pipeline.shards.manifest import read_manifests
from hawor_pipeline.shards.quality_plots import write_plots
from hawor_pipeline.shards.schema import DISTANCES_FILE, as_numpy
from hawor_pipeline.shards.store import ShardSet, open_shards, read_side_tables
from hawor_pipeline.versions import QUALITY_VERSION

CONTACT_M = 0.005  # a hand closer to the object than this touches it, within the accuracy of motion capture
_COLUMNS = [
    "sample_id", "subject", "object", "view", "side", "joints_cam_m", "global_orient", "hand_pose", "box_size_px",
    "joint_in_frame", "joint_visible", "occlusion", "truncation", "confidence", "blur", "fitting_err", "valid",
]  # fmt: skip
_STRATA = ("subject", "object", "view", "side")
_PERCENTILES = (5, 25, 50, 75, 95)
# Measure -> its bad end, for the outliers.
_WORST = {"occlusion": "high", "truncation": "high", "blur": "high", "fitting_err": "high", "confidence": "low"}
OUTLIERS_PER_METRIC = 6
# Bins of the viewing direction in the hand's own frame: azimuth x sine of elevation, all equal in area on the sphere.
_AZIMUTHS, _ELEVATIONS = 12, 6
_Row = dict[str, str | float]  # of a table: column to value


def build_quality(shards_dir: str | Path, output_dir: str | Path) -> StageResult:
    """Measure the quality of all shards.

    Args:
        shards_dir: Folder with a folder per subject.
        output_dir: Folder of distributions, joints, coverage and outliers as Parquet, and plots as PNG.

    Returns:
        StageResult; info has the mean or median of every measure, shares, and coverage, as plain numbers.

    Raises:
        ConfigError: There are no samples.
        DataError: A shard is damaged.
    """
    shards, output = Path(shards_dir), Path(output_dir)
    manifests = {name: manifest.to_dict() for name, manifest in read_manifests(shards).items()}
    key = hash_json({"version": QUALITY_VERSION, "manifests": manifests})
    info, why = find_done(output, key)
    if info is not None:
        return StageResult(output, True, why, key, info)
    data = open_shards(shards, columns=_COLUMNS)
    if not len(data):
        raise ConfigError(f"{shards}: no samples to measure; convert a subject that has ground truth first.")
    distances = read_side_tables(shards, manifests, DISTANCES_FILE)
    measures = _measures(data)
    tables = {
        "distributions": _distributions(data, measures),
        "joints": _joints(data),
        "coverage": _coverage(data, measures),
        "outliers": _outliers(data, measures),
    }
    info = _info(data, measures, tables, m_to_mm(as_numpy(distances, "hand_object_distance_m").astype(float)))
    with staging_dir(output) as folder:
        metadata = {"source": data.source}
        for name, table in tables.items():
            pq.write_table(table.replace_schema_metadata(metadata), folder / f"{name}.parquet", compression="zstd")
        pq.write_table(distances.replace_schema_metadata(metadata), folder / DISTANCES_FILE, compression="zstd")
        write_plots(folder, data, measures, tables, distances)
        mark_done(folder, key, info, sorted(path.name for path in folder.iterdir()))
    return StageResult(output, False, why, key, info)


def _measures(data: ShardSet) -> dict[str, np.ndarray]:
    """Compute one number per sample, by name; units in the names."""
    names = ("occlusion", "truncation", "confidence", "blur", "fitting_err", "box_size_px")
    measures = {name: data.column(name).astype(float) for name in names}
    joints = data.column("joints_cam_m").astype(float)
    azimuth, elevation = _view_direction(data, joints[:, 0])
    return {
        **measures,
        "in_frame_share": data.column("joint_in_frame").mean(1),
        "visible_share": data.column("joint_visible").mean(1),
        "depth_m": joints[:, 0, 2],
        "seen_from_azimuth_deg": azimuth,
        "seen_from_elevation_deg": elevation,
        **{f"{name}_bend_deg": bend for name, bend in _finger_bends(data).items()},
    }


def _view_direction(data: ShardSet, wrist: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the direction from the hand to the camera in the hand's own frame, degrees."""
    import torch

    from hawor_pipeline.core.rotations import axis_angle_to_rotmat

    cam_from_hand = axis_angle_to_rotmat(torch.from_numpy(data.column("global_orient").astype(float))).numpy()
    direction = np.einsum("nji,nj->ni", cam_from_hand, -wrist / np.linalg.norm(wrist, axis=1, keepdims=True))
    # mirrored to the right hand, so that both sides share bins; MANO's right palm looks along -y
    direction[:, 0] *= np.where(data.column("side") == "right", 1.0, -1.0)
    azimuth = np.arctan2(direction[:, 2], direction[:, 0])
    return rad_to_deg(azimuth), rad_to_deg(np.arcsin(np.clip(direction[:, 1], -1.0, 1.0)))


def _finger_bends(data: ShardSet) -> dict[str, np.ndarray]:
    """Compute the total rotation of each finger's three joints, degrees."""
    angles = np.linalg.norm(data.column("hand_pose").astype(float).reshape(-1, 5, 3, 3), axis=-1).sum(-1)
    mano_order = ("index", "middle", "pinky", "ring", "thumb")
    return {finger: rad_to_deg(angles[:, mano_order.index(finger)]) for finger in FINGERS}


def _distributions(data: ShardSet, measures: dict[str, np.ndarray]) -> pa.Table:
    rows = []
    masks = [("all", "all", np.ones(len(data), bool))]
    for stratum in _STRATA:
        values = data.column(stratum)
        masks += [(stratum, str(level), values == level) for level in sorted(set(values.tolist()))]
    for stratum, level, mask in masks:
        for name, values in measures.items():
            part = values[mask]
            percentiles = np.percentile(part, _PERCENTILES)
            rows.append(
                {
                    "stratum": stratum,
                    "level": level,
                    "measure": name,
                    "n": len(part),
                    "mean": part.mean(),
                    "std": part.std(),
                    "min": part.min(),
                    **{f"p{p:02d}": value for p, value in zip(_PERCENTILES, percentiles, strict=True)},
                    "max": part.max(),
                }
            )
    return pa.Table.from_pylist(rows)


def _joints(data: ShardSet) -> pa.Table:
    visible, inside = data.column("joint_visible"), data.column("joint_in_frame")
    return pa.table(
        {
            "joint": list(JOINT_NAMES),
            "visible_share": visible.mean(0),
            "in_frame_share": inside.mean(0),
            "seen_share": (visible & inside).mean(0),
        }
    )


def _coverage(data: ShardSet, measures: dict[str, np.ndarray]) -> pa.Table:
    """Count hands per bin of direction, depth and finger bend."""
    rows: list[_Row] = []
    sine = np.sin(np.radians(measures["seen_from_elevation_deg"]))
    counts, azimuths, sines = np.histogram2d(
        measures["seen_from_azimuth_deg"], sine, bins=(_AZIMUTHS, _ELEVATIONS), range=((-180, 180), (-1, 1))
    )
    elevations = np.degrees(np.arcsin(np.clip(sines, -1, 1)))
    for i in range(_AZIMUTHS):
        for j in range(_ELEVATIONS):
            rows.append(_bin("seen_from_deg", (azimuths[i], azimuths[i + 1]), counts[i, j], elevations[j : j + 2]))
    for name in ("depth_m", *(f"{finger}_bend_deg" for finger in FINGERS)):
        counts, edges = np.histogram(measures[name], bins=20)
        rows += [_bin(name, edges[i : i + 2], counts[i], (np.nan, np.nan)) for i in range(len(counts))]
    return pa.Table.from_pylist(rows)


def _bin(dimension: str, edges: Any, count: float, second: Any) -> _Row:
    return {
        "dimension": dimension,
        "low": float(edges[0]),
        "high": float(edges[1]),
        "second_low": float(second[0]),  # elevation, for directions
        "second_high": float(second[1]),
        "count": int(count),
    }


def _outliers(data: ShardSet, measures: dict[str, np.ndarray]) -> pa.Table:
    """Select the worst valid samples of each measure, those worse than the median.

    At most one per moment of a sequence, and one per sequence, view and side: the same hand in many views, or in
    neighbouring frames of one view, counts once.
    """
    ids, valid = data.column("sample_id"), np.flatnonzero(data.column("valid"))
    schema = [("measure", pa.string()), ("rank", pa.int32()), ("sample_id", pa.string()), ("value", pa.float64())]
    rows: list[_Row] = []
    for name, worst in _WORST.items():
        badness = measures[name] if worst == "high" else -measures[name]
        typical = np.median(badness[valid]) if len(valid) else np.inf
        taken: set[tuple[str, ...]] = set()
        rank = 0
        for row in valid[np.argsort(-badness[valid], kind="stable")]:
            subject, sequence, view, frame, side = ids[row].split("/")
            if badness[row] <= typical or rank == OUTLIERS_PER_METRIC:
                break
            moment, recording = (subject, sequence, frame), (subject, sequence, view, side)
            if moment in taken or recording in taken:
                continue
            taken |= {moment, recording}
            rank += 1
            value = float(measures[name][row])
            rows.append({"measure": name, "rank": rank, "sample_id": ids[row], "value": value, "row": int(row)})
    return pa.Table.from_pylist(rows, pa.schema([*schema, ("row", pa.int64())]))


def _pose_dimensions(data: ShardSet) -> int:
    """Count the principal directions that hold 95 % of the variance of the finger pose."""
    pose = data.column("hand_pose").astype(float)
    variance = np.linalg.svd(pose - pose.mean(0), compute_uv=False) ** 2
    return int(np.searchsorted(np.cumsum(variance), 0.95 * variance.sum()) + 1) if variance.sum() else 0


def _info(
    data: ShardSet, measures: dict[str, np.ndarray], tables: dict[str, pa.Table], distance_mm: np.ndarray
) -> Info:
    coverage = tables["coverage"].to_pylist()
    directions = [row["count"] for row in coverage if row["dimension"] == "seen_from_deg"]
    return {
        "source": data.source,
        "samples": len(data),
        "valid_share": float(data.column("valid").mean()),
        **{f"mean_{name}": float(measures[name].mean()) for name in ("occlusion", "truncation", "confidence", "blur")},
        "heavily_occluded_share": float((measures["occlusion"] > 0.5).mean()),
        "truncated_share": float((measures["truncation"] > 0).mean()),
        "in_frame_share": float(measures["in_frame_share"].mean()),
        "visible_share": float(measures["visible_share"].mean()),
        "median_fitting_err": float(np.median(measures["fitting_err"])),
        "median_box_px": float(np.median(measures["box_size_px"])),
        "median_depth_m": float(np.median(measures["depth_m"])),
        "median_hand_object_distance_mm": float(np.median(distance_mm)) if len(distance_mm) else None,
        "contact_share": float((distance_mm < m_to_mm(CONTACT_M)).mean()) if len(distance_mm) else None,
        "direction_coverage": float(np.mean([count > 0 for count in directions])),
        "pose_dimensions_95": _pose_dimensions(data),
        "per_view": [
            {"view": row["level"], "measure_n": row["n"], "mean_occlusion": row["mean"]}
            for row in tables["distributions"].to_pylist()
            if row["stratum"] == "view" and row["measure"] == "occlusion"
        ],
    }
