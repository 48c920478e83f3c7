"""A recording as a film: each frame of one view with the predicted meshes of both hands over it.

Frames are raw pictures, or, where there are none, the crops that the network saw. Time is true: a frame without a
prediction is shown without a mesh and says so.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from hawor_pipeline.core.units import ARCTIC_FPS
from hawor_pipeline.errors import ConfigError, DataError, nearest
from hawor_pipeline.evaluation.finished_runs import errors_of, last_run
from hawor_pipeline.evaluation.targets import SYNTHETIC
from hawor_pipeline.inspection.drawing import (
    PREDICTED_RGB,
    TRUE_RGB,
    ImageView,
    Mesh,
    draw_meshes,
    draw_skeleton,
    resized,
    side_by_side,
)
from hawor_pipeline.inspection.hand_images import PANEL_PX, SampleHand, decode_crop, predictions_of
from hawor_pipeline.inspection.mp4 import write_mp4
from hawor_pipeline.shards.store import ShardSet, open_shards
from hawor_pipeline.sources.arctic import SIDES, ArcticRoot
from hawor_pipeline.sources.hand_models import HandModels
from hawor_pipeline.sources.image_files import list_images

_STRIP_PX = 46  # height of the two lines of text below the picture
_FONT_SCALE = 0.5
_GREY = 238
_NEAR_M = 0.02  # a mesh that reaches nearer to the camera cannot be drawn


@dataclass(frozen=True, slots=True)
class FilmSettings:
    """What a film shows."""

    raw_root: Path | None = None  # raw pictures; None: the crops
    height_px: int = 720  # of the picture, at most
    with_truth: bool = False
    align_wrists: bool = False  # draw predictions with their wrists on the true ones
    rerun_path: Path | None = None  # also written for the rerun viewer


@dataclass(frozen=True, slots=True)
class Film:
    """A film that was written."""

    path: Path
    run_id: str
    frames: int
    height_px: int
    width_px: int

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.frames / ARCTIC_FPS


@dataclass(frozen=True, slots=True)
class Recording:
    """One view of one recording: hands by frame and side, and what a run measured of them."""

    name: str
    view: int
    run_id: str
    shards: ShardSet  # only its rows
    row_of: dict[tuple[int, str], int]
    hands: dict[tuple[int, str], SampleHand]
    error_mm: dict[tuple[int, str], float | None]

    @property
    def frames(self) -> range:
        """From the first frame to the last, gaps included."""
        numbers = [frame for frame, _ in self.row_of]
        return range(min(numbers), max(numbers) + 1)

    def hands_at(self, frame: int) -> list[SampleHand]:
        """The hands that have a row at a frame."""
        return [self.hands[frame, side] for side in SIDES if (frame, side) in self.hands]


def film_sequence(
    sequence: str,
    view: int,
    shards_dir: Path | str,
    mano_dir: Path | str,
    metrics_dir: Path | str,
    path: Path | str,
    *,
    run_id: str | None = None,
    settings: FilmSettings | None = None,
) -> Film:
    """Write the film of one recording in one view.

    Args:
        sequence: "subject/sequence".
        view: camera.
        shards_dir: shards that hold the recording.
        mano_dir: folder of the MANO models.
        metrics_dir: metric tables with the predictions.
        path: of the MP4 file.
        run_id: whose predictions; None: the run evaluated last.
        settings: what it shows.

    Raises:
        ConfigError: no such recording, view or run, or no raw pictures.
        DataError: a picture is damaged or of another size than the annotations say.
    """
    settings = settings or FilmSettings()
    recording = open_recording(sequence, view, shards_dir, mano_dir, metrics_dir, run_id)
    draw = _crop_frame if settings.raw_root is None else _full_frames(recording, settings)
    if settings.rerun_path is not None:
        from hawor_pipeline.inspection.viewer3d import write_rerun

        write_rerun(recording, settings.rerun_path, settings.raw_root)
    count, (height, width) = write_mp4(path, _with_strips(recording, draw), ARCTIC_FPS)
    return Film(Path(path), recording.run_id, count, height, width)


def open_recording(
    sequence: str,
    view: int,
    shards_dir: Path | str,
    mano_dir: Path | str,
    metrics_dir: Path | str,
    run_id: str | None = None,
) -> Recording:
    """One view of a recording with the predictions of a run; arguments as in `film_sequence`."""
    if sequence.count("/") != 1:
        raise ConfigError(f"{sequence!r} is not the name of a recording; expected subject/sequence, s05/box_grab_01.")
    subject, name = sequence.split("/")
    known = sorted(set(open_shards(shards_dir, [subject], ["sequence"]).table["sequence"].to_pylist()))
    if name not in known:
        raise ConfigError(
            f"no recording {sequence!r} in {shards_dir}.{nearest(name, known)} It has {', '.join(known)}."
        )
    shards = open_shards(shards_dir, [subject], None, [name])
    views = shards.column("view")
    if not (views == view).any():
        there = sorted(set(views.tolist()))
        raise ConfigError(f"{sequence} has no view {view}; it has {', '.join(map(str, there))}.")
    part = shards.select(views == view)
    ids = part.table["sample_id"].to_pylist()
    run = last_run(metrics_dir, "predictions", ids) if run_id is None else run_id
    if run is None:
        raise ConfigError(f"no run in {metrics_dir} has predicted {sequence} in view {view}; evaluate one first.")
    predicted = predictions_of(metrics_dir, run, ids)
    if not predicted:
        raise ConfigError(f"run {run!r} has no prediction for {sequence} in view {view}; evaluate it on this subject.")
    models, errors = HandModels.load(mano_dir), errors_of(metrics_dir, run, ids)
    keys = list(zip(part.column("frame").tolist(), part.table["side"].to_pylist(), strict=True))
    return Recording(
        name=sequence,
        view=view,
        run_id=run,
        shards=part,
        row_of={key: row for row, key in enumerate(keys)},
        hands={
            key: SampleHand(models, part.table.slice(row, 1), predicted.get(ids[row])) for row, key in enumerate(keys)
        },
        error_mm={key: errors.get(ids[row]) for row, key in enumerate(keys)},
    )


def _with_strips(recording: Recording, draw: Callable[[Recording, int], np.ndarray]) -> Iterator[np.ndarray]:
    """Each frame's picture with two lines of text below."""
    for frame in recording.frames:
        image = draw(recording, frame)
        where = f"{recording.name}  view {recording.view}  frame {frame:05d}"
        strip = np.full((_STRIP_PX, image.shape[1], 3), 255, np.uint8)
        _write(strip, where, 17)
        _write(strip, _numbers(recording, frame), 37)
        yield np.concatenate((image, strip))


def _numbers(recording: Recording, frame: int) -> str:
    """Second line: errors of both hands, the run, and whether the data are rendered."""
    words = []
    for side in SIDES:
        error = recording.error_mm.get((frame, side))
        words.append(f"{side} {'-' if error is None else f'{error:.0f} mm'}")
    if not any(hand.predicted is not None for hand in recording.hands_at(frame)):
        words.append("not predicted")
    synthetic = ["SYNTHETIC SAMPLE"] if recording.shards.source == SYNTHETIC else []
    return "  ".join([*words, recording.run_id, *synthetic])


def _write(strip: np.ndarray, text: str, y: int) -> None:
    """One line of text, as large as fits."""
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, _FONT_SCALE, 1)
    scale = _FONT_SCALE * min(1.0, (strip.shape[1] - 12) / width)
    cv2.putText(strip, text, (6, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (50, 50, 50), 1, cv2.LINE_AA)


def _crop_frame(recording: Recording, frame: int) -> np.ndarray:
    """A row per hand: skeletons, true mesh, predicted mesh over its crop; grey where there is none."""
    rows = []
    for side in SIDES:
        hand = recording.hands.get((frame, side))
        empty = np.full((PANEL_PX, PANEL_PX, 3), _GREY, np.uint8)
        panels = hand.panels(decode_crop(recording.shards, recording.row_of[frame, side])) if hand is not None else []
        rows.append(side_by_side((panels + [empty] * 3)[:3]))
    gap = np.full((6, rows[0].shape[1], 3), 255, np.uint8)
    return np.concatenate((rows[0], gap, rows[1]))


def _full_frames(recording: Recording, settings: FilmSettings) -> Callable[[Recording, int], np.ndarray]:
    """Draws raw pictures with both predicted meshes in them."""
    assert settings.raw_root is not None
    images = raw_images(recording, settings.raw_root)

    def draw(recording: Recording, frame: int) -> np.ndarray:
        image = read_image(images[frame], recording) if frame in images else _blank(recording)
        scale = min(1.0, settings.height_px / image.shape[0])
        image = resized(image, scale) if scale < 1 else image
        hands = recording.hands_at(frame)
        views = [ImageView(hand.truth.intrinsics[0], hand.truth.distortion[0], np.eye(2, 3)) for hand in hands]
        predicted = [hand.aligned_vertices if settings.align_wrists else hand.predicted_vertices for hand in hands]
        meshes = [
            Mesh(vertices, hand.faces, PREDICTED_RGB)
            for hand, vertices in zip(hands, predicted, strict=True)
            if vertices is not None and in_front(vertices)
        ]
        if meshes:
            image = draw_meshes(image, views[0].scaled(scale), meshes)
        if settings.with_truth:
            for hand, view in zip(hands, views, strict=True):
                draw_skeleton(image, view.scaled(scale).pixels(hand.truth.joints_m[0]), TRUE_RGB)
        return image

    return draw


def in_front(vertices_m: torch.Tensor) -> bool:
    """Whether a mesh can be drawn: all of it before the camera."""
    return bool((vertices_m[:, 2] > _NEAR_M).all())


def raw_images(recording: Recording, raw_root: Path) -> dict[int, Path]:
    """Raw full-frame pictures of the recording's view by frame number.

    Raises:
        ConfigError: they are not there.
    """
    root = ArcticRoot.locate(raw_root)
    subject, sequence = recording.name.split("/")
    folder = root.path / "images" / subject / sequence / str(recording.view)
    found = {number: image.path for number, image in list_images(folder).items()}
    if not found:
        raise ConfigError(f"no full pictures in {folder}; unpack ARCTIC's images there, or ask for --crops.")
    return found


def read_image(path: Path, recording: Recording) -> np.ndarray:
    """A raw picture, BGR.

    Raises:
        DataError: it is damaged, or of another size than the annotations say.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    expected = _full_size(recording)
    if image is None or image.shape[:2] != expected:
        found = "not readable" if image is None else f"{image.shape[1]}x{image.shape[0]}"
        raise DataError(f"{path}: {found}, expected {expected[1]}x{expected[0]} as in the shards; get it again.")
    return image


def _full_size(recording: Recording) -> tuple[int, int]:
    table = recording.shards.table
    return table["image_height"][0].as_py(), table["image_width"][0].as_py()


def _blank(recording: Recording) -> np.ndarray:
    return np.full((*_full_size(recording), 3), _GREY, np.uint8)
