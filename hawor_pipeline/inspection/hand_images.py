"""True and predicted hand of one sample: meshes, and panels with them drawn over the crop."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import torch

from hawor_pipeline.core.units import m_to_mm
from hawor_pipeline.errors import DataError
from hawor_pipeline.evaluation.finished_runs import rows_of
from hawor_pipeline.evaluation.hands import (
    HandTruth,
    PredictedHands,
    predicted_mesh,
    read_predictions,
    read_truth,
    true_vertices,
)
from hawor_pipeline.evaluation.tables import list_runs
from hawor_pipeline.inspection.drawing import (
    PREDICTED_RGB,
    TRUE_RGB,
    ColoredMesh,
    ImageView,
    draw_meshes,
    draw_skeleton,
    resized,
)
from hawor_pipeline.shards.schema import as_numpy
from hawor_pipeline.shards.store import ShardSet, open_shards
from hawor_pipeline.sources.hand_models import HandModels

PANEL_PX = 256
_SAME_DEPTH_M = 0.01  # definitions of the wrist joint differ by less, hands of other data by more


def decode_crop(shards: ShardSet, row: int) -> np.ndarray:
    """Decode the stored crop of a row, BGR.

    Raises:
        DataError: it is damaged.
    """
    crop = cv2.imdecode(np.frombuffer(shards.jpeg(row), np.uint8), cv2.IMREAD_COLOR)
    if crop is None:
        name = shards.table["sample_id"][row].as_py()
        raise DataError(f"crop of {name} is damaged; convert its subject again.")
    return crop


def stored_samples(shards_dir: Path | str, sample_ids: Iterable[str]) -> dict[str, tuple[pa.Table, np.ndarray]]:
    """Read annotation (one row) and crop (BGR) of a few samples; one recording is in memory at a time.

    Raises:
        ConfigError: shards of a subject are missing.
        DataError: a sample is missing from the shards, or damaged.
    """
    by_recording: dict[tuple[str, str], list[str]] = {}
    for name in sample_ids:
        subject, sequence, *_ = name.split("/")
        by_recording.setdefault((subject, sequence), []).append(name)
    found = {}
    for (subject, sequence), names in by_recording.items():
        shards = open_shards(shards_dir, [subject], None, [sequence])
        row_of = {name: row for row, name in enumerate(shards.table["sample_id"].to_pylist())}
        for name in names:
            if name not in row_of:
                raise DataError(f"{shards_dir} has no sample {name}: the tables are of other shards. Evaluate again.")
            annotation = shards.table.slice(row_of[name], 1).combine_chunks()
            found[name] = (annotation, decode_crop(shards, row_of[name]))
    return found


def wrist_depths_m(annotations: pa.Table) -> np.ndarray:
    """Return the depth of the true wrists in the camera frame, (N,)."""
    return as_numpy(annotations, "joints_cam_m")[:, 0, 2]


def is_other_data(measured_m: float | None, stored_m: float) -> bool:
    """Test if a run measured a sample of the same name in other data, by the depth of its true wrist."""
    return measured_m is not None and abs(measured_m - stored_m) > _SAME_DEPTH_M


def require_same_data(metrics_dir: Path | str, run_id: str, annotations: pa.Table) -> None:
    """Refuse to draw a run's predictions over other data than it was measured on.

    Raises:
        DataError: a sample of the same name lies elsewhere.
    """
    if run_id not in list_runs(metrics_dir, "samples"):
        return
    stored = dict(zip(annotations["sample_id"].to_pylist(), wrist_depths_m(annotations), strict=True))
    for row in rows_of(metrics_dir, "samples", run_id, stored, ["sample_id", "depth_m"]).to_pylist():
        if is_other_data(row["depth_m"], stored[row["sample_id"]]):
            raise DataError(
                f"run {run_id!r} was measured on other data: the wrist of {row['sample_id']} is {row['depth_m']:.3f} m "
                f"from the camera there, and {stored[row['sample_id']]:.3f} m in these shards. Give the shards that it "
                "was evaluated on (--data)."
            )


def predictions_of(metrics_dir: Path | str, run_id: str, sample_ids: Iterable[str]) -> dict[str, PredictedHands]:
    """Return the predictions that a run made for these samples."""
    wanted = rows_of(metrics_dir, "predictions", run_id, sample_ids)
    hands = read_predictions(wanted)
    return {name: hands.take(slice(i, i + 1)) for i, name in enumerate(wanted["sample_id"].to_pylist())}


@dataclass
class SampleHand:
    """One sample with the prediction of a run, if any. Camera frame, true side."""

    models: HandModels
    annotation: pa.Table  # one row
    predicted: PredictedHands | None = None

    @cached_property
    def truth(self) -> HandTruth:
        """Ground truth, one row."""
        return read_truth(self.annotation)

    @cached_property
    def faces(self) -> np.ndarray:
        """(F, 3) int32, outward on this side."""
        faces = self.models.faces if bool(self.truth.is_right[0]) else self.models.faces[:, ::-1]
        return np.ascontiguousarray(faces).astype(np.int32)

    @cached_property
    def true_vertices(self) -> torch.Tensor:
        """(778, 3), metres."""
        return true_vertices(self.models, self.truth)[0]

    @cached_property
    def predicted_vertices(self) -> torch.Tensor | None:
        """(778, 3), metres; None where the run predicts no mesh or does not place it."""
        hand = self.predicted
        if hand is None or not all(torch.isfinite(v).all() for v in (hand.rotmats, hand.betas, hand.translation_m)):
            return None
        mesh, _ = predicted_mesh(
            self.models, hand.rotmats, hand.betas, hand.translation_m, self.truth.is_right, hand.own_betas
        )
        return mesh[0]

    @cached_property
    def aligned_vertices(self) -> torch.Tensor | None:
        """The predicted mesh moved so that its wrist is at the true one, as in wrist-aligned errors."""
        if self.predicted is None or self.predicted_vertices is None:
            return None
        return self.predicted_vertices - self.predicted.joints_m[0, 0] + self.truth.joints_m[0, 0]

    def meshes_mm(self) -> dict[str, list]:
        """Return the meshes around their wrists, mirrored to right and turned upright for a viewer (x right, y up)."""
        # The camera frame has y down and z forward; a viewer has y up and z backward.
        turn = np.array([1.0 if bool(self.truth.is_right[0]) else -1.0, -1.0, -1.0])
        found = {"true_mm": (self.true_vertices, self.truth.joints_m[0, 0])}
        if self.predicted is not None and self.predicted_vertices is not None:
            found["predicted_mm"] = (self.predicted_vertices, self.predicted.joints_m[0, 0])
        return {name: np.round(m_to_mm((v - wrist).numpy()) * turn, 1).tolist() for name, (v, wrist) in found.items()}

    def crop_view(self) -> ImageView:
        """Return the mapping from the camera frame to the stored crop."""
        affine = np.array(self.annotation["crop_from_image"].combine_chunks().flatten().to_pylist(), np.float64)
        return ImageView(self.truth.intrinsics[0], self.truth.distortion[0], affine.reshape(2, 3))

    def panels(self, crop: np.ndarray, panel_px: int = PANEL_PX) -> list[np.ndarray]:
        """Draw the crop with both skeletons as placed, the true mesh, and the predicted mesh at the true wrist."""
        scale = panel_px / max(crop.shape[:2])
        panel, view = resized(crop, scale), self.crop_view().scaled(scale)
        found = [self._skeletons(panel.copy(), view), self.mesh_panel(panel, view, self.true_vertices, TRUE_RGB)]
        if self.aligned_vertices is not None:
            found.append(self.mesh_panel(panel, view, self.aligned_vertices, PREDICTED_RGB))
        return found

    def mesh_panel(self, panel: np.ndarray, view: ImageView, vertices: torch.Tensor, rgb) -> np.ndarray:
        """Draw one mesh over a panel."""
        return draw_meshes(panel, view, [ColoredMesh(vertices, self.faces, rgb)])

    def _skeletons(self, panel: np.ndarray, view: ImageView) -> np.ndarray:
        draw_skeleton(panel, view.pixels(self.truth.joints_m[0]), TRUE_RGB)
        if self.predicted is not None and torch.isfinite(self.predicted.translation_m).all():
            draw_skeleton(panel, view.pixels(self.predicted.joints_m[0]), PREDICTED_RGB)
        return panel
