"""A checkpoint's predictions for shards, streamed into the predictions table.

Every valid row exactly once, in the order of the shards, whatever the batch size. The network sees right hands in
pinhole pictures; what is stored is on the true side, and its pixels are those of the lens.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hawor_pipeline.core.types import ClipBatch
from hawor_pipeline.data.clips import covering_clips
from hawor_pipeline.data.dataset import ClipDataset, keep_batch
from hawor_pipeline.data.rows import load_rows
from hawor_pipeline.data.shards import open_shards
from hawor_pipeline.errors import ConfigError, DataError, NumericalError
from hawor_pipeline.evaluation.evaluator import counts, no_rows
from hawor_pipeline.evaluation.hands import HandModels, predictions_on_true_side, read_truth
from hawor_pipeline.evaluation.tables import RunIdentity, table_writer
from hawor_pipeline.models.checkpoints import load_hawor
from hawor_pipeline.models.hawor import HaworModel

FRAMES_PER_BATCH = 128  # of all clips of a batch together


def choose_device(device: str) -> torch.device:
    """The device of that name; "auto" takes an accelerator where torch has one.

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


def predict_checkpoint(
    checkpoint: Path | str,
    shards_dir: Path | str,
    mano_dir: Path | str,
    metrics_dir: Path | str,
    identity: RunIdentity,
    *,
    subjects: Sequence[str] | None = None,
    views: Sequence[int] | None = None,
    clip_length: int = 16,
    device: str = "auto",
    num_workers: int = 0,
    frames_per_batch: int = FRAMES_PER_BATCH,
) -> int:
    """Predict every valid row and publish the predictions table.

    Args:
        checkpoint: of this project, or in HaWoR's naming.
        shards_dir: converted shards.
        mano_dir: folder of the MANO models.
        metrics_dir: where the table goes, under `predictions/run_id=...`.
        identity: the run; its checkpoint hash must be of this file.
        subjects: whose rows; None takes all.
        views: pictures of which cameras; None takes all.
        clip_length: frames that the network sees together, as it was trained.
        device: "auto", "cpu", "cuda", ...
        num_workers: processes that decode crops; 0 decodes here.
        frames_per_batch: how many frames go through the network at once; changes no number.

    Returns:
        How many rows were written.

    Raises:
        CheckpointError: the file cannot be read safely or does not fit.
        ConfigError: a path, subject or device does not exist.
        DataError: no valid row, or a damaged crop.
        NumericalError: the network says something that is not finite.
    """
    where = choose_device(device)
    model = load_hawor(checkpoint).to(where)
    shards = open_shards(shards_dir, subjects)
    if views is not None:  # whole tracks, valid or not: a clip is consecutive frames
        shards = shards.select(np.isin(shards.column("view"), list(views)))
    is_wanted = counts(shards.table, None)
    wanted = np.flatnonzero(is_wanted)
    if not len(wanted):
        raise DataError(no_rows(shards_dir, subjects, views))
    models = HandModels.load(mano_dir)
    dataset = ClipDataset(
        shards, load_rows(shards.table), covering_clips(shards.table, clip_length), model.network.image_size
    )
    clips_per_batch = max(1, frames_per_batch // clip_length)
    batches = [
        list(range(first, min(first + clips_per_batch, len(dataset))))
        for first in range(0, len(dataset), clips_per_batch)
    ]
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=batches,
        collate_fn=keep_batch,  # type: ignore[arg-type]
        num_workers=num_workers,
        multiprocessing_context="forkserver" if num_workers else None,
    )
    written = []
    with table_writer(metrics_dir, "predictions", identity) as writer:
        for rows, rotmats, betas, translation in run_network(model, loader, where):
            keep = is_wanted[rows]
            rows, part = rows[keep], torch.from_numpy(keep)
            if len(rows):
                annotations = shards.table.take(pa.array(rows))
                truth = read_truth(annotations)
                hands = predictions_on_true_side(models, truth, rotmats[part], betas[part], translation[part])
                writer.write(hands.columns(annotations["sample_id"].to_pylist()))
                written.append(rows)
    if not np.array_equal(np.concatenate(written), wanted):
        raise DataError("rows of the shards are not sorted by view, side and frame; convert the subject again.")
    return len(wanted)


@torch.inference_mode()
def run_network(
    model: HaworModel, batches: DataLoader, device: torch.device
) -> Iterator[tuple[np.ndarray, Tensor, Tensor, Tensor]]:
    """(row numbers, rotmats, betas, translation) of the frames that count, batch by batch, on the CPU in double.

    Raises:
        NumericalError: a value is not finite.
    """
    batch: ClipBatch
    for batch in batches:
        counted = batch.sample_index >= 0
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
