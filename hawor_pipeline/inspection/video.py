"""Videos of recordings: each frame of one view with the predicted meshes of both hands over it.

Frames are raw full frames or, without raw data, the crops that the network received. The video keeps the recording's
time: a frame without a prediction is shown without a mesh, labelled "not predicted".
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from hawor_pipeline.core.units import ARCTIC_FPS
from hawor_pipeline.inspection.drawing import (
    PREDICTED_RGB,
    TRUE_RGB,
    ColoredMesh,
    ImageView,
    draw_meshes,
    draw_skeleton,
    resized,
    side_by_side,
)
from hawor_pipeline.inspection.hand_images import PANEL_PX, decode_crop
from hawor_pipeline.inspection.mp4 import write_mp4
from hawor_pipeline.inspection.recording_view import RecordingView, open_recording
from hawor_pipeline.inspection.viewer3d import write_rerun
from hawor_pipeline.sources.arctic import SIDES, SYNTHETIC

_STRIP_PX = 46  # height of the two lines of text below the image
_FONT_SCALE = 0.5
_GREY = 238


@dataclass(frozen=True, slots=True)
class VideoSettings:
    """Content of a video."""

    raw_root: Path | None = None  # raw data with full frames; None: the crops
    height_px: int = 720  # of the image, at most
    with_truth: bool = False  # draw the skeletons of the ground truth
    align_wrists: bool = False  # move each prediction so that its wrist is at the true one
    rerun_path: Path | None = None  # also write a file for the rerun viewer


@dataclass(frozen=True, slots=True)
class WrittenVideo:
    """A finished video file."""

    path: Path
    run_id: str
    frames: int
    height_px: int
    width_px: int

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.frames / ARCTIC_FPS


def write_video(
    sequence: str,
    view: int,
    shards_dir: Path | str,
    mano_dir: Path | str | None,
    metrics_dir: Path | str,
    path: Path | str,
    *,
    run_id: str | None = None,
    settings: VideoSettings | None = None,
) -> WrittenVideo:
    """Write the video of one recording in one view.

    Args:
        sequence: "subject/sequence".
        view: camera.
        shards_dir: shards that hold the recording.
        mano_dir: folder of the MANO models; None: found by `locate.hand_models_of`.
        metrics_dir: metric tables with the predictions.
        path: of the MP4 file.
        run_id: run whose predictions are drawn; None: the run evaluated last.
        settings: content of the video.

    Raises:
        ConfigError: no such recording, view or run, no raw frames, or the hand models are not those of the shards.
        DataError: a frame is damaged, or its size differs from the annotations.
    """
    settings = settings or VideoSettings()
    recording = open_recording(sequence, view, shards_dir, mano_dir, metrics_dir, run_id)
    draw = _crop_frame if settings.raw_root is None else _full_frames(recording, settings, settings.raw_root)
    if settings.rerun_path is not None:
        write_rerun(recording, settings.rerun_path, settings.raw_root)
    count, (height, width) = write_mp4(path, _with_strips(recording, draw), ARCTIC_FPS)
    return WrittenVideo(Path(path), recording.run_id, count, height, width)


def _with_strips(recording: RecordingView, draw: Callable[[RecordingView, int], np.ndarray]) -> Iterator[np.ndarray]:
    """Yield each frame's image with two lines of text below."""
    for frame in recording.frames:
        image = draw(recording, frame)
        strip = np.full((_STRIP_PX, image.shape[1], 3), 255, np.uint8)
        _write(strip, f"{recording.name}  view {recording.view}  frame {frame:05d}", 17)
        _write(strip, _numbers(recording, frame), 37)
        yield np.concatenate((image, strip))


def _numbers(recording: RecordingView, frame: int) -> str:
    """Format the second line: errors of both hands, the run, and whether the data are synthetic."""
    words = []
    for side in SIDES:
        error = recording.error_mm.get((frame, side))
        words.append(f"{side} {'-' if error is None else f'{error:.0f} mm'}")
    if not any(hand.predicted is not None for hand in recording.hands_at(frame)):
        words.append("not predicted")
    synthetic = ["SYNTHETIC SAMPLE"] if recording.shards.source == SYNTHETIC else []
    return "  ".join([*words, recording.run_id, *synthetic])


def _write(strip: np.ndarray, text: str, y: int) -> None:
    """Write one line of text, as large as fits."""
    (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, _FONT_SCALE, 1)
    scale = _FONT_SCALE * min(1.0, (strip.shape[1] - 12) / width)
    cv2.putText(strip, text, (6, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (50, 50, 50), 1, cv2.LINE_AA)


def _crop_frame(recording: RecordingView, frame: int) -> np.ndarray:
    """Draw a row per hand: skeletons, true mesh, predicted mesh over its crop; grey where there is none."""
    rows = []
    for side in SIDES:
        hand = recording.hands.get((frame, side))
        empty = np.full((PANEL_PX, PANEL_PX, 3), _GREY, np.uint8)
        panels = hand.panels(decode_crop(recording.shards, recording.row_of[frame, side])) if hand is not None else []
        rows.append(side_by_side((panels + [empty] * 3)[:3]))
    gap = np.full((6, rows[0].shape[1], 3), 255, np.uint8)
    return np.concatenate((rows[0], gap, rows[1]))


def _full_frames(
    recording: RecordingView, settings: VideoSettings, raw_root: Path
) -> Callable[[RecordingView, int], np.ndarray]:
    """Return a function that draws both predicted meshes over a raw frame."""
    images = recording.raw_images(raw_root)

    def draw(recording: RecordingView, frame: int) -> np.ndarray:
        if frame in images:
            image = recording.read_image(images[frame])
        else:
            image = np.full((*recording.full_size, 3), _GREY, np.uint8)
        scale = min(1.0, settings.height_px / image.shape[0])
        image = resized(image, scale) if scale < 1 else image
        hands = recording.hands_at(frame)
        views = [ImageView(hand.truth.intrinsics[0], hand.truth.distortion[0], np.eye(2, 3)) for hand in hands]
        predicted = [hand.aligned_vertices if settings.align_wrists else hand.predicted_vertices for hand in hands]
        meshes = [
            ColoredMesh(vertices, hand.faces, PREDICTED_RGB)
            for hand, vertices in zip(hands, predicted, strict=True)
            if vertices is not None
        ]
        if meshes := [mesh for mesh in meshes if mesh.in_front]:
            image = draw_meshes(image, views[0].scaled(scale), meshes)
        if settings.with_truth:
            for hand, view in zip(hands, views, strict=True):
                draw_skeleton(image, view.scaled(scale).pixels(hand.truth.joints_m[0]), TRUE_RGB)
        return image

    return draw
