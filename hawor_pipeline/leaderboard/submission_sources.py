"""Uploads from stored predictions of a run, or from a network applied to images with bounding boxes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.evaluation.hands import PredictedHands, read_predictions
from hawor_pipeline.evaluation.predict import choose_device
from hawor_pipeline.evaluation.tables import read_identity, read_table
from hawor_pipeline.leaderboard.submission import FIRST_FRAME, UploadInfo, ViewPredictions, task_views, write_upload
from hawor_pipeline.leaderboard.submission_check import Expectation, check_upload
from hawor_pipeline.locate import check_hand_models, find_hand_models, find_raw_root
from hawor_pipeline.models.checkpoints import OpenedCheckpoint, open_checkpoint
from hawor_pipeline.paths import DataPaths
from hawor_pipeline.prediction.boxed_frames import FrameCamera, crop_settings, cut_frames, predict_boxed
from hawor_pipeline.prediction.boxes import HandBox, read_boxes
from hawor_pipeline.sources.arctic import EGO_VIEW, SIDES, ArcticRoot
from hawor_pipeline.sources.hand_models import HandModels
from hawor_pipeline.sources.image_files import list_images
from hawor_pipeline.untrusted.safe_load import load_npy


@dataclass(frozen=True, slots=True)
class UploadRequest:
    """An upload to write: its task, and the origin of predictions, cameras and hand models."""

    output: Path  # the zip file
    task: str = "pose_p1"  # one of `submission.TASK_VIEWS`
    split: str = "test"  # one of `submission.SPLITS`
    run_id: str | None = None  # run whose stored predictions are uploaded, or
    checkpoint: Path | None = None  # network that is applied to the images, with
    box_rule: str | None = None  # rule of its boxes, for `BoxRule.parse`; None: that of the weights
    boxes: Path | None = None  # a CSV file as described in `prediction.boxes`
    arctic_root: Path | None = None  # None: found by `locate`
    mano_dir: Path | None = None  # None: found by `locate`
    ego_camera: Path | None = None  # `.egocam.dist.npy`, for the ego view: that of a withheld subject is not published
    metrics_dir: Path | None = None  # metric tables of `run_id`; None: those of the project
    hold_missing: bool = False  # fill a hand without a prediction with the one nearest in time
    device: str = "auto"


@dataclass(frozen=True, slots=True)
class BoxedNetwork:
    """A network for images with bounding boxes."""

    checkpoint: OpenedCheckpoint
    models: HandModels
    device: str = "auto"
    settings: ConversionConfig | None = None  # of the crops; None: as the network's boxes and resolution need


def export_upload(request: UploadRequest) -> tuple[UploadInfo, list[str]]:
    """Write an upload and check it.

    Returns:
        Numbers about the upload, and what the server would reject.

    Raises:
        ConfigError: something named does not exist, or the hand models are not those of the data.
        DataError: predictions are missing or of other data, or an image is damaged.
    """
    if (request.run_id is None) == (request.checkpoint is None):
        raise ConfigError("no source of predictions: give --run RUN_ID, or --checkpoint PATH with --boxes FILE.csv.")
    if request.box_rule is not None and request.checkpoint is None:
        raise ConfigError("--box-rule needs --checkpoint: stored predictions have the boxes that they were made with.")
    views, root = task_views(request.task), find_raw_root(request.arctic_root)
    expected = expectation(root, request.task, request.split, views)
    sequences = sorted(expected.sequences or ())
    folder = find_hand_models(root.source, request.mano_dir, root.path)
    if (shards := DataPaths.default().shards(root.source)).is_dir():
        check_hand_models(shards, folder)
    models = HandModels.load(folder)
    if request.run_id is not None:
        metrics_dir = request.metrics_dir or DataPaths.default().metrics
        source = read_identity(metrics_dir, "predictions", request.run_id).source
        if source != root.source:
            raise ConfigError(f"run {request.run_id!r} predicts {source} data, but {root.path} holds {root.source}.")
        predictions = from_run(metrics_dir, request.run_id, sequences, views)
    else:
        assert request.checkpoint is not None
        if request.boxes is None:
            raise ConfigError("--checkpoint needs --boxes FILE.csv: without ground truth, hands need bounding boxes.")
        boxes, checkpoint = read_boxes(request.boxes), open_checkpoint(request.checkpoint, box_rule=request.box_rule)
        network = BoxedNetwork(checkpoint, models, request.device)
        predictions = from_boxes(network, root, boxes, sequences, views, ego_camera=request.ego_camera)
    hold = request.hold_missing
    info = write_upload(request.output, request.task, request.split, predictions, models, hold_missing=hold)
    problems = check_upload(request.output, expected)
    if request.split != "test":  # only the server cares about the split
        problems = [problem for problem in problems if "the server takes" not in problem]
    return info, problems


def expectation(root: ArcticRoot, task: str, split: str, views: Sequence[int]) -> Expectation:
    """Derive the contents that an upload must have from ARCTIC's protocol file and images.

    Raises:
        ConfigError: the protocol file is missing.
    """
    protocol = task.split("_")[1]
    if protocol not in root.protocols:
        raise ConfigError(
            f"{root.path}/splits_json/protocol_{protocol}.json does not exist; it lists the sequences to upload."
        )
    sequences = sorted(root.protocols[protocol].get(split, ()))
    last_frame = {}
    for name in sequences:
        subject, sequence = name.split("/")
        for view in views:
            images = root.images(subject, sequence, view)
            if images:
                last_frame[f"{subject}_{sequence}_{view}"] = max(images)
    return Expectation(sequences, last_frame)


def from_run(
    metrics_dir: Path | str, run_id: str, sequences: Sequence[str], views: Sequence[int]
) -> Iterator[ViewPredictions]:
    """Read the stored predictions of a run, for sequences with ground truth.

    Raises:
        DataError: the run predicted no mesh, or has no prediction of a view.
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
            sides = np.where(own, parts[:, 4], "")
            yield from _view_predictions((subject, name, view), frames, sides, hands, int(frames[own].max()))


def from_boxes(
    network: BoxedNetwork,
    root: ArcticRoot,
    boxes: Mapping[str, Mapping[str, HandBox]],
    sequences: Sequence[str],
    views: Sequence[int],
    *,
    ego_camera: Path | str | None = None,
) -> Iterator[ViewPredictions]:
    """Apply a network to the full frames of sequences without ground truth.

    Args:
        network: network, hand models and device.
        root: images (`images`) and cameras (`meta/misc.json`).
        boxes: by image ("s03/box_use_01/1/00010.jpg") and side, full-frame pixels.
        sequences: "subject/sequence" names.
        views: cameras.
        ego_camera: an `.egocam.dist.npy` file, for the egocentric view.

    Raises:
        ConfigError: the egocentric camera is missing, or there are no full frames.
        DataError: an image is damaged.
    """
    device, rule = choose_device(network.device), network.checkpoint.box_rule
    settings = network.settings or crop_settings(network.checkpoint)
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
                raise ConfigError(f"no full frames of {sequence}, view {view}, in {root.path}/images; unpack them.")
            own, place = _boxes_of(boxes, f"{sequence}/{view}/"), (subject, name, view)
            if missing := sorted(set(own) - set(images)):
                raise DataError(f"{sequence}/{view}: a box for frame {missing[0]}, but no such image.")
            frames = cut_frames(place, images.items(), own, cameras[subject, view], settings, rule)
            hands = predict_boxed(network.checkpoint, frames, network.models, device)
            sides = np.array(frames.table["side"].to_pylist())
            yield from _view_predictions(place, frames.table["frame"].to_numpy(), sides, hands, max(images))


def _view_predictions(
    place: tuple[str, str, int], frames: np.ndarray, sides: np.ndarray, hands: PredictedHands, last_frame: int
) -> Iterator[ViewPredictions]:
    """Yield the predictions of one view from rows (N,) of it, unless it ends before the first frame of an upload."""
    rows = {side: np.flatnonzero(sides == side) for side in SIDES}
    wanted = list(range(FIRST_FRAME, last_frame + 1))
    if wanted:
        found = {side: (frames[index], hands.take(torch.from_numpy(index))) for side, index in rows.items()}
        yield ViewPredictions(*place, wanted, found)


def _boxes_of(boxes: Mapping[str, Mapping[str, HandBox]], prefix: str) -> dict[int, Mapping[str, HandBox]]:
    found = {name: hands for name, hands in boxes.items() if name.startswith(prefix)}
    if not found:
        raise DataError(f"the boxes file has no image like {prefix}00010.jpg.")
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
