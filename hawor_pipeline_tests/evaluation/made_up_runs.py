"""Samples tables of runs that never happened, with errors that a test chooses."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hawor_pipeline.evaluation.declared_metrics import SAMPLE_METRICS
from hawor_pipeline.evaluation.tables import RunIdentity, table_writer


def write_samples(
    metrics_dir: Path,
    run_id: str,
    recordings: Sequence[Mapping[str, np.ndarray]],
    *,
    checkpoint: str | None = None,
    protocol: str = "arctic-p1-val",
    version: str = "v1",
) -> RunIdentity:
    """A samples table with one mapping of metric to values (N,) per recording; all else is undefined."""
    identity = RunIdentity(run_id, protocol, version, "synthetic", checkpoint)
    with table_writer(metrics_dir, "samples", identity) as writer:
        for number, metrics in enumerate(recordings):
            writer.write(_columns(f"box_use_{number:02d}", metrics))
    return identity


def _columns(sequence: str, metrics: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    n = len(next(iter(metrics.values())))
    keys = {
        "sample_id": [f"s05/{sequence}/1/{frame:05d}/right" for frame in range(n)],
        "subject": ["s05"] * n,
        "sequence": [sequence] * n,
        "object": ["box"] * n,
        "action": ["use"] * n,
        "view": [1] * n,
        "side": ["right"] * n,
        "frame": range(n),
    }
    numbers = ("occlusion", "truncation", "depth_m", "speed_m_s", "box_size_px")
    undefined = {name: np.full(n, np.nan) for name in SAMPLE_METRICS}
    return {
        **{name: np.array(values) for name, values in keys.items()},
        **{name: np.full(n, 0.3) for name in numbers},
        **undefined,
        **metrics,
    }
