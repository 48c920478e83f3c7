"""An upload for ARCTIC's leaderboard: predictions in its published structure, one zip file.

    pose_p1_test/eval/s03_box_grab_01_1/meta_info/meta_info.imgname.pt       list of image names
    pose_p1_test/eval/s03_box_grab_01_1/preds/pred.mano.{beta,cam_t,pose}.{l,r}.pt
    pose_p1_test/eval/s03_box_grab_01_1/preds/pred.object.{cam_t,radian,rot}.pt

The server compares by position, so frames run from number 10 without a gap. It also reads the object files of uploads
that predict no object, and hangs without them: they are written, filled with zeros, and every score that needs the
object is void.

The server turns rotation matrices into axis-angle, adds MANO's mean pose there (`flat_hand_mean=False`), and poses a
left hand with the left model. Predictions here are absolute rotations, and a left hand is the mirrored right model. So
the mean pose is subtracted from the fingers, and a shape of the left model is fitted. Both are checked by repeating the
server's computation.

Source: github.com/zc-alexfan/arctic, docs/leaderboard_format.md.
"""

import io
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hawor_pipeline.core.rotations import axis_angle_to_rotmat, rotmat_to_axis_angle
from hawor_pipeline.core.units import m_to_mm
from hawor_pipeline.errors import ConfigError, DataError, NumericalError, nearest
from hawor_pipeline.evaluation.hands import PredictedHands, predicted_mesh
from hawor_pipeline.provenance import atomic_write_json, explain_disk_errors
from hawor_pipeline.sources.arctic import SIDES
from hawor_pipeline.sources.hand_models import HandModels

FIRST_FRAME = 10  # ARCTIC skips earlier images: they may be black
IMAGE_NAME = "./data/arctic_data/data/cropped_images/{subject}/{sequence}/{view}/{frame:05d}.jpg"
TASK_VIEWS = {"pose_p1": tuple(range(1, 9)), "pose_p2": (0,)}
SPLITS = ("test", "val")  # the server takes test; val is for a trial
HAND_FILES = {"beta": (10,), "cam_t": (3,), "pose": (16, 3, 3)}
OBJECT_FILES: dict[str, tuple[int, ...]] = {"cam_t": (3,), "radian": (), "rot": (3,)}
OBJECT_NOTE = (
    "hands only: the object files hold zeros, so every score that needs the object (CDev, MDev, AAE, success rate, "
    "MRRPE to the object, object acceleration) is void"
)
_ROTATION_TOLERANCE = 1e-4  # largest entry by which the server's rotations may differ
_NO_TIME = (1980, 1, 1, 0, 0, 0)  # fixed, so that equal predictions give equal bytes


@dataclass(frozen=True, slots=True)
class ViewPredictions:
    """Predictions for one view of one sequence: by side, frame numbers (N,) ascending and hands (N rows)."""

    subject: str
    sequence: str
    view: int
    frames: Sequence[int]  # every frame that the upload must hold, ascending
    hands: Mapping[str, tuple[np.ndarray, PredictedHands]]

    @property
    def name(self) -> str:
        """Folder of the view in the upload."""
        return f"{self.subject}_{self.sequence}_{self.view}"


@dataclass(frozen=True, slots=True)
class ArcticHands:
    """N hands of one side."""

    beta: Tensor  # (N, 10) of that side's model
    cam_t: Tensor  # (N, 3) metres, camera frame: added to the model's vertices
    pose: Tensor  # (N, 16, 3, 3) fingers without the mean pose
    residual_mm: Tensor  # (N,) mean vertex distance between the predicted hand and the one that the server poses


@dataclass(slots=True)
class UploadInfo:
    """Numbers about an upload, also written beside it as JSON."""

    task: str
    views: int = 0
    frames: int = 0
    held: int = 0  # hands without a prediction, filled with the one nearest in time
    left_residual_mm: float = 0.0  # mean over frames: distance that remains after fitting the left model
    object_note: str = OBJECT_NOTE
    names: list[str] = field(default_factory=list)


def task_views(task: str) -> tuple[int, ...]:
    """Return the views of a task.

    Raises:
        ConfigError: the task is unknown, or needs more than hands.
    """
    if task.startswith("field"):
        raise ConfigError(
            f"task {task!r} needs distance fields between hand and object, which no network here predicts."
        )
    if task not in TASK_VIEWS:
        raise ConfigError(f"unknown task {task!r}; there are {', '.join(TASK_VIEWS)}.{nearest(task, TASK_VIEWS)}")
    return TASK_VIEWS[task]


def write_upload(
    path: Path | str,
    task: str,
    split: str,
    predictions: Iterable[ViewPredictions],
    models: HandModels,
    *,
    hold_missing: bool = False,
) -> UploadInfo:
    """Write the zip file, a view at a time; it appears when it is complete, with its numbers beside it as JSON.

    Args:
        path: of the zip file.
        task: one of `TASK_VIEWS`.
        split: one of `SPLITS`.
        predictions: views, in any order.
        models: the two MANO models.
        hold_missing: fill a hand without a prediction with the one nearest in time, and count it; otherwise it is an
            error. The server has a place for every frame.

    Raises:
        ConfigError: unknown task or split.
        DataError: a hand is missing in a frame (or, with `hold_missing`, in a whole view), or the disk is full.
    """
    path, top = Path(path), f"{task}_{split}"
    task_views(task)
    if split not in SPLITS:
        raise ConfigError(f"unknown split {split!r}; there are {', '.join(SPLITS)}.{nearest(split, SPLITS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    info, residuals = UploadInfo(top), []
    try:
        with explain_disk_errors(path), zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as archive:
            for view in predictions:
                sides, held = _sides(models, view, hold_missing)
                _write_view(archive, f"{top}/eval/{view.name}", view, sides)
                info.views, info.frames = info.views + 1, info.frames + len(view.frames)
                info.held += held
                info.names.append(view.name)
                residuals.append(sides["left"].residual_mm)
        if not info.views:
            raise DataError("there is nothing to upload: no view has a frame from number 10 on.")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    info.left_residual_mm = float(torch.cat(residuals).mean())
    atomic_write_json(path.with_suffix(".json"), asdict(info))
    return info


def _sides(models: HandModels, view: ViewPredictions, hold_missing: bool) -> tuple[dict[str, ArcticHands], int]:
    """Return both hands for every frame, and the number of held ones."""
    wanted, held, sides = np.asarray(view.frames), 0, {}
    for side in SIDES:
        frames, hands = view.hands[side]
        if not len(frames) or (not hold_missing and not np.isin(wanted, frames).all()):
            lacking = int((~np.isin(wanted, frames)).sum())
            advice = "give boxes for them"
            advice += ", or hold the nearest prediction (--missing hold)" if len(frames) else ""
            raise DataError(
                f"{view.name}: {lacking} of {len(wanted)} frames have no prediction of the {side} hand, and the server "
                f"has a place for every one; {advice}."
            )
        held += int((~np.isin(wanted, frames)).sum())
        nearest_row = np.abs(wanted[:, None] - frames[None]).argmin(1)
        sides[side] = to_arctic(models, hands.take(torch.from_numpy(nearest_row)), side)
    return sides, held


def _write_view(archive: zipfile.ZipFile, folder: str, view: ViewPredictions, sides: Mapping[str, ArcticHands]) -> None:
    count = len(view.frames)
    names = [
        IMAGE_NAME.format(subject=view.subject, sequence=view.sequence, view=view.view, frame=frame)
        for frame in view.frames
    ]
    _add(archive, f"{folder}/meta_info/meta_info.imgname.pt", names)
    for side, hands in sides.items():
        for key in HAND_FILES:
            _add(archive, f"{folder}/preds/pred.mano.{key}.{side[0]}.pt", getattr(hands, key))
    for key, shape in OBJECT_FILES.items():
        _add(archive, f"{folder}/preds/pred.object.{key}.pt", torch.zeros(count, *shape))


def _add(archive: zipfile.ZipFile, name: str, value: object) -> None:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    entry = zipfile.ZipInfo(name, _NO_TIME)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, buffer.getvalue())


def to_arctic(models: HandModels, hands: PredictedHands, side: str) -> ArcticHands:
    """Turn predictions of one side into ARCTIC's parameters.

    Args:
        models: the two MANO models, as ARCTIC's were: left shape directions as in the file.
        hands: N rows on their true side, with rotations, shape and translation.
        side: left or right.

    Raises:
        NumericalError: a finger rotation has no axis-angle relative to the mean (its angle would exceed pi).
    """
    layer = models.layers[side]
    mean = layer.hands_mean.reshape(15, 3)
    relative = rotmat_to_axis_angle(hands.rotmats[:, 1:]) - mean  # (N, 15, 3)
    pose = torch.cat((hands.rotmats[:, :1], axis_angle_to_rotmat(relative)), 1)
    beta = hands.betas
    if side == "left":
        mirrored = torch.from_numpy(models.mirrored_betas("right", hands.betas.numpy())[0])
        beta = hands.own_betas.where(torch.isfinite(hands.own_betas), mirrored)
    # Both models turn about their root joint, which must land on the predicted wrist.
    cam_t = hands.joints_m[:, 0] - layer.rest_joints(beta)[:, 0]
    absolute = posed_by_server(pose, mean)
    wrong = (absolute - hands.rotmats).abs().amax((1, 2, 3))
    if (wrong > _ROTATION_TOLERANCE).any():
        row = int(wrong.argmax())
        raise NumericalError(
            f"row {row} ({side} hand): a finger is turned so far that MANO's mean pose cannot be subtracted "
            f"(rotations differ by {float(wrong[row]):.2g}); no real hand does this, inspect the prediction."
        )
    is_right = torch.full((len(hands),), side == "right")
    predicted, _ = predicted_mesh(models, hands.rotmats, hands.betas, hands.translation_m, is_right, hands.own_betas)
    theirs = layer(absolute, beta).vertices + cam_t[:, None]
    residual = m_to_mm(torch.linalg.vector_norm(predicted - theirs, dim=-1).mean(-1))
    return ArcticHands(beta.float(), cam_t.float(), pose.float(), residual)


def posed_by_server(pose: Tensor, mean: Tensor) -> Tensor:
    """Compute the absolute rotations (N, 16, 3, 3) that the server poses; `mean` is (15, 3), rad."""
    fingers = axis_angle_to_rotmat(rotmat_to_axis_angle(pose[:, 1:]) + mean)
    return torch.cat((pose[:, :1], fingers), 1)
