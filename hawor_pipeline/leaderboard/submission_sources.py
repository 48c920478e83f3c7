"""Where the predictions of an upload come from: a run's stored ones, or the network on pictures with boxes."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.evaluation.hands import read_predictions
from hawor_pipeline.evaluation.predict import choose_device
from hawor_pipeline.evaluation.tables import read_table
from hawor_pipeline.leaderboard.submission import FIRST_FRAME, ViewPredictions
from hawor_pipeline.leaderboard.submission_check import Expectation
from hawor_pipeline.models.checkpoints import load_hawor
from hawor_pipeline.prediction.boxed_frames import FrameCamera, cut_frames
from hawor_pipeline.prediction.boxes import HandBox
from hawor_pipeline.prediction.predict_boxed import predict_boxed
from hawor_pipeline.sources.arctic import EGO_VIEW, SIDES, ArcticRoot
from hawor_pipeline.sources.hand_models import HandModels
from hawor_pipeline.sources.image_files import list_images
from hawor_pipeline.untrusted.safe_load import load_npy


def expectation(root: ArcticRoot, task: str, split: str, views: Sequence[int]) -> Expectation:
    """What an upload must hold, from ARCTIC's protocol file and pictures.

    Raises:
        ConfigError: the protocol file is not there.
    """
    sequences = split_sequences(root, task, split)
    last_frame = {}
    for name in sequences:
        subject, sequence = name.split("/")
        for view in views:
            images = root.images(subject, sequence, view)
            if images:
                last_frame[f"{subject}_{sequence}_{view}"] = max(images)
    return Expectation(sequences, last_frame)


def split_sequences(root: ArcticRoot, task: str, split: str) -> list[str]:
    """ "subject/sequence" names of a task's split.

    Raises:
        ConfigError: the protocol file is not there.
    """
    name = task.split("_")[1]
    if name not in root.protocols:
        raise ConfigError(f"{root.path}/splits_json/protocol_{name}.json does not exist; it says what to upload.")
    return sorted(root.protocols[name].get(split, ()))


def from_run(
    metrics_dir: Path | str, run_id: str, sequences: Sequence[str], views: Sequence[int]
) -> Iterator[ViewPredictions]:
    """Stored predictions of a run, for sequences with ground truth.

    Raises:
        DataError: the run predicted no mesh, or nothing of a view.
    """
    table = read_table(metrics_dir, "predictions", run_id)
    if table["rotmats"].null_count:
        raise DataError(f"run {run_id!r} predicts no mesh for some samples; an upload needs MANO parameters.")
    hands = read_predictions(table.combine_chunks())
    parts = np.array([name.split("/") for name in table["sample_id"].to_pylist()])  # (N, 5)
    frames = parts[:, 3].astype(np.int64)
    for sequence in sequences:
        subject, name = sequence.split("/")
        for view in views:
            own = (parts[:, 0] == subject) & (parts[:, 1] == name) & (parts[:, 2] == str(view))
            if not own.any():
                raise DataError(f"run {run_id!r} has no prediction for {sequence} in view {view}; evaluate it there.")
            rows = {side: np.flatnonzero(own & (parts[:, 4] == side)) for side in SIDES}
            wanted = list(range(FIRST_FRAME, int(frames[own].max()) + 1))
            if wanted:
                found = {side: (frames[index], hands.take(torch.from_numpy(index))) for side, index in rows.items()}
                yield ViewPredictions(subject, name, view, wanted, found)


def from_boxes(
    checkpoint: Path | str,
    root: ArcticRoot,
    boxes: Mapping[str, Mapping[str, HandBox]],
    models: HandModels,
    sequences: Sequence[str],
    views: Sequence[int],
    *,
    clip_length: int,
    ego_camera: Path | str | None = None,
    device: str = "auto",
    settings: ConversionConfig | None = None,
) -> Iterator[ViewPredictions]:
    """The network on full pictures of sequences without ground truth.

    Args:
        checkpoint: of the network.
        root: pictures (`images`) and cameras (`meta/misc.json`).
        boxes: by picture ("s03/box_use_01/1/00010.jpg") and side, full-frame pixels.
        models: the two MANO models.
        sequences: "subject/sequence" names.
        views: cameras.
        clip_length: frames that the network sees together, as it was trained.
        ego_camera: an `.egocam.dist.npy` file, for the egocentric view: that of a withheld subject is not published.
        device: "auto", "cpu", "cuda", ...
        settings: of the conversion that the network was trained on.

    Raises:
        ConfigError: the egocentric camera is not given, or there are no full pictures.
        DataError: a picture is damaged.
    """
    where = choose_device(device)
    model = load_hawor(checkpoint).to(where)
    cameras = {
        (subject, view): _camera(root, subject, view, ego_camera)
        for subject in sorted({name.split("/")[0] for name in sequences})
        for view in views
    }
    for sequence in sequences:
        subject, name = sequence.split("/")
        for view in views:
            folder = root.path / "images" / subject / name / str(view)
            images = {number: image.path for number, image in list_images(folder).items()}
            if not images:
                raise ConfigError(f"no full pictures of {sequence}, view {view}, in {root.path}/images; unpack them.")
            own = _boxes_of(boxes, f"{sequence}/{view}/")
            frames = cut_frames(
                (subject, name, view), images, own, cameras[subject, view], settings or ConversionConfig()
            )
            hands = predict_boxed(model, frames, models, clip_length=clip_length, device=where)
            sides = np.array(frames.table["side"].to_pylist())
            numbers = frames.table["frame"].to_numpy()
            rows = {side: np.flatnonzero(sides == side) for side in SIDES}
            wanted = list(range(FIRST_FRAME, max(images) + 1))
            if wanted:
                found = {side: (numbers[index], hands.take(torch.from_numpy(index))) for side, index in rows.items()}
                yield ViewPredictions(subject, name, view, wanted, found)


def _boxes_of(boxes: Mapping[str, Mapping[str, HandBox]], prefix: str) -> dict[int, Mapping[str, HandBox]]:
    found = {name: hands for name, hands in boxes.items() if name.startswith(prefix)}
    if not found:
        raise DataError(f"the boxes file has no picture like {prefix}00010.jpg.")
    return {int(Path(name).stem): hands for name, hands in found.items()}


def _camera(root: ArcticRoot, subject: str, view: int, ego_camera: Path | str | None) -> FrameCamera:
    cameras = root.cameras(subject)
    if view != EGO_VIEW:
        return FrameCamera(cameras.image_sizes[view], cameras.intrinsics[view - 1], np.zeros(8))
    if ego_camera is None:
        raise ConfigError(
            f"the egocentric camera of {subject} is not known (its raw files are withheld); give an .egocam.dist.npy "
            "file with --ego-camera, such as that of another recording with the same headset."
        )
    raw = load_npy(ego_camera)
    try:
        intrinsics = np.asarray(raw["intrinsics"], np.float64).reshape(3, 3)
        distortion = np.asarray(raw["dist8"], np.float64).reshape(8)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"{ego_camera}: no intrinsics (3, 3) and dist8 (8,) in it ({error}); get it again.") from None
    return FrameCamera(cameras.image_sizes[EGO_VIEW], intrinsics, distortion)
