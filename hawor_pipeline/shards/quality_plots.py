"""Plots of the quality of a dataset, from the tables of `quality`."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hawor_pipeline.core.units import m_to_mm
from hawor_pipeline.shards.schema import as_numpy
from hawor_pipeline.shards.store import ShardSet

_BLUE, _ORANGE, _GRAY, _RED = "#3b6fb6", "#e08214", "#666666", "#c0392b"
_DPI = 110
_BINS = 40
_LABELS = {
    "occlusion": "occlusion (share of joints hidden)",
    "truncation": "truncation (share of surface outside)",
    "confidence": "confidence",
    "blur": "blur (0 sharp, 1 no detail)",
    "fitting_err": "fitting error (as in the raw files)",
    "box_size_px": "box side (px of the full frame)",
}


def write_plots(
    folder: Path, data: ShardSet, measures: dict[str, np.ndarray], tables: dict[str, pa.Table], distances: pa.Table
) -> None:
    """Write measures.png, joints.png, coverage.png and outliers.png into a folder; each marks a synthetic source."""
    _measures(folder / "measures.png", data, measures, distances)
    _joints(folder / "joints.png", data, tables["joints"])
    _coverage(folder / "coverage.png", data, measures, tables["coverage"])
    _outliers(folder / "outliers.png", data, tables["outliers"])


def _axes(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, np.ndarray]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, np.atleast_1d(figure.subplots(rows, columns)).ravel()


def _save(figure: Any, path: Path, data: ShardSet, text: str) -> None:
    figure.suptitle(text, fontsize=11)
    if data.source == "synthetic":
        # in a row of its own, so that the layout keeps it clear of the title
        figure.supxlabel("SYNTHETIC SAMPLE", fontsize=9, fontweight="bold", color=_RED, x=0.99, ha="right")
    figure.savefig(path, dpi=_DPI)


def _bare(axis: Any, label: str | None = None) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    if label is not None:
        axis.set_xlabel(label, fontsize=8)


def _measures(path: Path, data: ShardSet, measures: dict[str, np.ndarray], distances: pa.Table) -> None:
    figure, axes = _axes(2, 4, (13, 5.4))
    valid = data.column("valid")
    side, views = data.column("side")[valid], data.column("view")[valid]
    shown = {name: (label, measures[name][valid]) for name, label in _LABELS.items()}
    for axis, (label, values) in zip(axes, shown.values(), strict=False):
        edges = np.histogram_bin_edges(values, _BINS)
        parts = [values[side == name] for name in ("left", "right")]
        axis.hist(parts, edges, stacked=True, color=[_ORANGE, _BLUE], label=["left", "right"])
        if len(values):
            axis.axvline(float(np.median(values)), color=_GRAY, linewidth=1, linestyle="--")
        axis.locator_params(axis="x", nbins=5)
        _bare(axis, label)
    axes[0].legend(fontsize=8, frameon=False)
    distance = m_to_mm(as_numpy(distances, "hand_object_distance_m"))
    axes[6].hist(distance, _BINS, color=_BLUE)
    _bare(axes[6], "hand to object (mm, per moment and hand)")
    levels = sorted(set(views.tolist()))
    boxes = [shown["occlusion"][1][views == view] for view in levels]
    if boxes:
        axes[7].boxplot(
            boxes, tick_labels=[str(view) for view in levels], showfliers=False, medianprops={"color": _ORANGE}
        )
    _bare(axes[7], "occlusion by view (0 egocentric)")
    excluded = len(data) - int(valid.sum())
    _save(
        figure, path, data, f"Measures of {valid.sum()} valid hands ({excluded} invalid ones excluded; dashed: median)"
    )


def _joints(path: Path, data: ShardSet, table: pa.Table) -> None:
    figure, (axis,) = _axes(1, 1, (9, 3.2))
    names = [name.replace("_", " ") for name in table.column("joint").to_pylist()]
    places = np.arange(len(names))
    axis.bar(places - 0.2, table.column("in_frame_share").to_numpy(), 0.4, color=_GRAY, label="in the image")
    axis.bar(places + 0.2, table.column("visible_share").to_numpy(), 0.4, color=_BLUE, label="not hidden")
    axis.set_xticks(places, names, rotation=60, ha="right")
    axis.set_ylim(0, 1.02)
    axis.set_ylabel("share of samples", fontsize=8)
    axis.legend(fontsize=8, frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    _bare(axis)
    _save(figure, path, data, f"Joints of {len(data)} hands")


def _coverage(path: Path, data: ShardSet, measures: dict[str, np.ndarray], table: pa.Table) -> None:
    figure, axes = _axes(1, 3, (13, 3.6))
    rows = [row for row in table.to_pylist() if row["dimension"] == "seen_from_deg"]
    azimuths = sorted({row["low"] for row in rows})
    grid = np.array([row["count"] for row in rows]).reshape(len(azimuths), -1)
    image = axes[0].imshow(grid.T, origin="lower", extent=(-180, 180, -1, 1), aspect="auto", cmap="viridis")
    axes[0].set_xlabel("camera seen from the hand: azimuth (deg)", fontsize=8)
    axes[0].set_ylabel("sine of elevation", fontsize=8)
    axes[0].tick_params(labelsize=8)
    figure.colorbar(image, ax=axes[0], label="hands")
    axes[1].hist(measures["depth_m"], _BINS, color=_BLUE)
    _bare(axes[1], "depth of the wrist (m)")
    fingers = [name.removesuffix("_bend_deg") for name in measures if name.endswith("_bend_deg")]
    bends = [measures[f"{finger}_bend_deg"] for finger in fingers]
    axes[2].boxplot(bends, tick_labels=fingers, showfliers=False, medianprops={"color": _ORANGE})
    axes[2].set_ylabel("total bend of the three joints (deg)", fontsize=8)
    _bare(axes[2])
    _save(figure, path, data, "Coverage of viewing direction, depth and pose")


def _outliers(path: Path, data: ShardSet, table: pa.Table) -> None:
    """Plot the crops of the worst samples of each measure."""
    import simplejpeg

    rows = table.to_pylist()
    if not rows:
        return
    names = list(dict.fromkeys(row["measure"] for row in rows))
    columns = max(row["rank"] for row in rows)
    figure, axes = _axes(len(names), columns, (1.7 * columns, 1.95 * len(names)))
    for axis in axes:
        axis.set_axis_off()
    for row in rows:
        axis = axes[names.index(row["measure"]) * columns + row["rank"] - 1]
        axis.imshow(simplejpeg.decode_jpeg(data.jpeg(row["row"])))
        axis.set_title(f"{row['measure']} {row['value']:.3g}\n{row['sample_id']}", fontsize=5)
    _save(figure, path, data, "Worst valid samples of each measure, one per moment")
