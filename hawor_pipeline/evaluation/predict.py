"""A checkpoint's predictions for shards, streamed into the predictions table.

Every valid row exactly once, in the order of the shards, whatever the batch size, the number of workers or devices. The
network sees right hands in pinhole images; the table has them on the true side, with the pixels of the lens.

Several devices share the recordings without communication: each process writes the rows of its share, and the
shares are joined in the order of the shards.
"""

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hawor_pipeline.core.types import ClipBatch
from hawor_pipeline.errors import ConfigError, DataError, NumericalError
from hawor_pipeline.evaluation.given_boxes import on_boxes, require_boxes_inside
from hawor_pipeline.evaluation.hands import PredictedHands, predictions_on_true_side, read_truth
from hawor_pipeline.evaluation.recordings import Recording, in_groups, in_shares, open_recordings, plan_recordings
from hawor_pipeline.evaluation.setting import Devices, Setting
from hawor_pipeline.evaluation.tables import RunIdentity, partition_file, table_writer
from hawor_pipeline.loading.clips import Clips, covering_clips
from hawor_pipeline.loading.dataset import ClipDataset, keep_batch
from hawor_pipeline.loading.rows import HandRows, load_rows
from hawor_pipeline.locate import open_hand_models
from hawor_pipeline.models.checkpoints import OpenedCheckpoint
from hawor_pipeline.models.hawor import HaworModel
from hawor_pipeline.shards.store import ShardSet, stored_boxes
from hawor_pipeline.sources.hand_models import HandModels

FRAMES_PER_BATCH = 128  # of all clips of a batch together
ROWS_PER_GROUP = 16_384  # rows whose annotations are in memory at once


@dataclass(frozen=True, slots=True)
class Prediction:
    """A checkpoint, the data that it predicts, and how; another process can take it over.

    Attributes:
        checkpoint: the network and its clip length.
        setting: shards, hand models and views.
        devices: devices that predict.
        frames_per_batch: number of frames that the network is given at once; changes no number.
    """

    checkpoint: OpenedCheckpoint
    setting: Setting
    devices: Devices = Devices()  # noqa: RUF009 - frozen
    frames_per_batch: int = FRAMES_PER_BATCH


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes made to the network's input on purpose (see `robustness`).

    Attributes:
        rows: done to rows before crops are cut (to boxes, for example).
        images: done to crops (B, T, 3, S, S); also gets a row number of each clip (B,), which does not depend on how
            clips are batched.
        clips: which clips to run.
    """

    rows: Callable[[HandRows], HandRows] | None = None
    images: Callable[[Tensor, Tensor], Tensor] | None = None
    clips: Callable[[Clips], Clips] | None = None


UNCHANGED = Changes()


def choose_device(device: str) -> torch.device:
    """Return the device of that name; "auto" takes an accelerator where torch has one.

    Raises:
        ConfigError: torch cannot use it.
    """
    if device == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        return torch.zeros(1, device="cuda" if device == "gpu" else device).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device {device!r} cannot be used by torch here ({error}); ask for cpu or auto.") from error


def choose_devices(device: str, count: int) -> list[str]:
    """Name `count` devices of one kind; several on the CPU are processes.

    Raises:
        ConfigError: there are not that many.
    """
    kind = choose_device(device)
    if count < 1:
        raise ConfigError(f"devices is {count}, expected a number from 1 on.")
    if count == 1 or kind.type == "cpu":
        return [str(kind)] * count
    present = torch.accelerator.device_count()
    if count > present:
        raise ConfigError(f"{count} devices asked for, torch sees {present} of kind {kind.type}; ask for fewer.")
    return [f"{kind.type}:{number}" for number in range(count)]


def predict_checkpoint(task: Prediction, identity: RunIdentity) -> int:
    """Predict every valid row and publish the predictions table; the identity has the hash of this checkpoint.

    Returns:
        The number of rows written.

    Raises:
        ConfigError: a path, subject or device does not exist, or the network's boxes do not fit into the crops.
        DataError: no valid row, or a damaged crop.
        NumericalError: the network's output is not finite.
    """
    setting = task.setting
    require_boxes_inside(task.checkpoint.box_rule, setting)
    names = choose_devices(task.devices.device, task.devices.count)
    recordings = plan_recordings(setting.shards_dir, setting.subjects, setting.views, excluded=setting.excluded)
    groups = in_groups(recordings, ROWS_PER_GROUP)
    if len(names) == 1:
        return _predict_groups(task, setting.metrics_dir, identity, groups, names[0])
    groups = in_groups([recording for group in groups for recording in group], 1)  # finer, so that all have work
    shares = [(name, share) for name, share in zip(names, in_shares(groups, len(names)), strict=True) if share]
    return _predict_in_processes(task, identity, shares)


def _predict_in_processes(
    task: Prediction, identity: RunIdentity, shares: Sequence[tuple[str, list[list[Recording]]]]
) -> int:
    metrics_dir = task.setting.metrics_dir
    metrics_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=metrics_dir, prefix=".shares-") as folder:
        threads = max(1, torch.get_num_threads() // len(shares))
        with ProcessPoolExecutor(len(shares), multiprocessing.get_context("spawn")) as pool:
            jobs = [
                pool.submit(_predict_share, task, f"{folder}/{number}", identity, share, name, threads)
                for number, (name, share) in enumerate(shares)
            ]
            for job in jobs:
                job.result()
        with table_writer(metrics_dir, "predictions", identity) as writer:
            for number in range(len(shares)):
                writer.append(partition_file(f"{folder}/{number}", "predictions", identity.run_id))
            return writer.rows


def _predict_share(
    task: Prediction, folder: str, identity: RunIdentity, groups: list[list[Recording]], device: str, threads: int
) -> int:
    torch.set_num_threads(threads)
    return _predict_groups(task, folder, identity, groups, device)


def _predict_groups(
    task: Prediction, folder: Path | str, identity: RunIdentity, groups: Sequence[list[Recording]], device: str
) -> int:
    where = torch.device(device)
    model, setting = task.checkpoint.model.to(where), task.setting
    models = open_hand_models(setting.shards_dir, setting.mano_dir)
    with table_writer(folder, "predictions", identity) as writer:
        for group in groups:
            written = []
            shards = open_recordings(setting.shards_dir, group, setting.views)
            wanted = np.flatnonzero(shards.column("valid"))
            for rows, annotations, hands in predict_rows(model, models, task, shards, where):
                writer.write(hands.columns(annotations["sample_id"].to_pylist()))
                written.append(rows)
            if not np.array_equal(np.concatenate(written), wanted):
                raise DataError("rows of the shards are not sorted by view, side and frame; convert the subject again.")
        return writer.rows


def predict_rows(
    model: HaworModel,
    models: HandModels,
    task: Prediction,
    shards: ShardSet,
    where: torch.device,
    changes: Changes = UNCHANGED,
) -> Iterator[tuple[np.ndarray, pa.Table, PredictedHands]]:
    """Predict the valid rows of a set of shards, batch by batch, in order, by a model that is on the device `where`.

    Yields:
        Row numbers, their annotations, and the hands on their true side.

    Raises:
        NumericalError: a value is not finite.
    """
    stored = stored_boxes(task.setting.shards_dir, task.setting.subjects)
    rows = on_boxes(load_rows(shards.table), shards.table, models, stored, task.checkpoint.box_rule)
    clips = covering_clips(shards.table, task.checkpoint.clip_length)
    rows = changes.rows(rows) if changes.rows is not None else rows
    clips = changes.clips(clips) if changes.clips is not None else clips
    dataset = ClipDataset(shards, rows, clips, model.network.image_size)
    is_wanted = shards.column("valid")
    for numbers, rotmats, betas, translation in run_network(
        model,
        load_clips(dataset, task.checkpoint.clip_length, task.frames_per_batch, task.devices.num_workers),
        where,
        changes.images,
    ):
        keep = is_wanted[numbers]
        if not keep.any():
            continue
        annotations = shards.table.take(pa.array(numbers[keep]))
        rotmats, betas, translation = (v[torch.from_numpy(keep)] for v in (rotmats, betas, translation))
        yield (
            numbers[keep],
            annotations,
            predictions_on_true_side(models, read_truth(annotations), rotmats, betas, translation),
        )


def load_clips(
    dataset: ClipDataset, clip_length: int, frames_per_batch: int = FRAMES_PER_BATCH, num_workers: int = 0
) -> DataLoader:
    """Return a loader of all clips in order, in batches of about `frames_per_batch` frames."""
    clips = max(1, frames_per_batch // clip_length)
    batches = [list(range(first, min(first + clips, len(dataset)))) for first in range(0, len(dataset), clips)]
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=batches,
        collate_fn=keep_batch,  # type: ignore[arg-type]
        num_workers=num_workers,
        multiprocessing_context="forkserver" if num_workers else None,
    )


@torch.inference_mode()
def run_network(
    model: HaworModel,
    batches: DataLoader,
    device: torch.device,
    change_images: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Iterator[tuple[np.ndarray, Tensor, Tensor, Tensor]]:
    """Yield (row numbers, rotmats, betas, translation) of the frames that count, batch by batch, on the CPU in double.

    Raises:
        NumericalError: a value is not finite.
    """
    batch: ClipBatch
    for batch in batches:
        counted = batch.sample_index >= 0
        if change_images is not None:
            batch = replace(batch, images=change_images(batch.images, batch.sample_index.amax(1)))
        inputs = (
            batch.images,
            batch.box_center_px,
            batch.box_size_px,
            batch.focal_px,
            batch.principal_point_px,
        )
        output = model(*(tensor.to(device) for tensor in inputs))
        rows = batch.sample_index[counted]
        values = [v.cpu()[counted].double() for v in (output.rotmats, output.betas, output.translation_m)]
        if not all(torch.isfinite(value).all() for value in values):
            raise NumericalError(f"the network's output around row {int(rows[0])} is not finite; train it again.")
        yield rows.numpy(), values[0], values[1], values[2]
