"""Recordings for the rerun viewer (https://rerun.io): meshes and camera in the world frame, over time.

rerun is an extra (`pip install hawor-pipeline[rerun]`). Its cameras have no lens distortion: in the egocentric view,
whose images are distorted, meshes and image disagree towards the rim.
"""

from pathlib import Path

import numpy as np
import torch

from hawor_pipeline.core.units import ARCTIC_FPS
from hawor_pipeline.errors import ConfigError
from hawor_pipeline.inspection.drawing import PREDICTED_RGB, TRUE_RGB
from hawor_pipeline.inspection.hand_images import SampleHand
from hawor_pipeline.inspection.recording_view import RecordingView
from hawor_pipeline.provenance import explain_disk_errors

_APPLICATION = "hawor_pipeline"


def write_rerun(recording: RecordingView, path: Path | str, raw_root: Path | None = None) -> Path:
    """Write one view of a recording as a `.rrd` file.

    Entities: `world/{left,right}/{truth,prediction}` meshes, `world/camera` with images where `raw_root`, ARCTIC's root
    with full frames, is given, and `error_mm/{left,right}`. Timelines: `frame` (number in the image's file name) and
    `time`.

    Raises:
        ConfigError: rerun is not installed, or the images are missing.
    """
    try:
        import rerun as rr
    except ImportError as error:
        raise ConfigError("rerun is not installed; get it with: pip install 'hawor-pipeline[rerun]'") from error
    images = recording.raw_images(raw_root) if raw_root is not None else {}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = rr.RecordingStream(_APPLICATION, recording_id=f"{recording.run_id}/{recording.name}/{recording.view}")
    with explain_disk_errors(path):
        stream.save(path)
        first = recording.frames[0]
        for frame in recording.frames:
            stream.set_time("frame", sequence=frame)
            stream.set_time("time", duration=(frame - first) / ARCTIC_FPS)
            hands = recording.hands_at(frame)
            if hands:
                _log_camera(rr, stream, hands[0])
            if frame in images:
                contents = images[frame].read_bytes()
                stream.log("world/camera/picture", rr.EncodedImage(contents=contents, media_type="image/jpeg"))
            for hand in hands:
                _log_hand(rr, stream, hand, recording.error_mm.get((frame, _side(hand))))
        stream.disconnect()
    return path


def _side(hand: SampleHand) -> str:
    return "right" if bool(hand.truth.is_right[0]) else "left"


def _cam_from_world(hand: SampleHand) -> np.ndarray:
    return np.array(hand.annotation["cam_from_world"].combine_chunks().flatten().to_pylist(), float).reshape(4, 4)


def _to_world(points_m: torch.Tensor, cam_from_world: np.ndarray) -> np.ndarray:
    """Transform points (N, 3) from the camera frame to the world frame."""
    # x_cam = R x + t, so x = R^T (x_cam - t); for row vectors that is a product with R from the right.
    return (points_m.numpy() - cam_from_world[:3, 3]) @ cam_from_world[:3, :3]


def _log_camera(rr, stream, hand: SampleHand) -> None:
    cam_from_world = _cam_from_world(hand)
    rotation = cam_from_world[:3, :3].T
    size = (hand.annotation["image_width"][0].as_py(), hand.annotation["image_height"][0].as_py())
    stream.log("world/camera", rr.Transform3D(translation=-rotation @ cam_from_world[:3, 3], mat3x3=rotation))
    lens = rr.Pinhole(
        image_from_camera=hand.truth.intrinsics[0].numpy(), resolution=size, camera_xyz=rr.ViewCoordinates.RDF
    )
    stream.log("world/camera/picture", lens)


def _log_hand(rr, stream, hand: SampleHand, error_mm: float | None) -> None:
    side, cam_from_world = _side(hand), _cam_from_world(hand)
    meshes = (("truth", hand.true_vertices, TRUE_RGB), ("prediction", hand.predicted_vertices, PREDICTED_RGB))
    for name, vertices, rgb in meshes:
        entity = f"world/{side}/{name}"
        if vertices is None:
            stream.log(entity, rr.Clear(recursive=False))
            continue
        color = [round(255 * channel) for channel in rgb]
        points = _to_world(vertices, cam_from_world)
        stream.log(entity, rr.Mesh3D(vertex_positions=points, triangle_indices=hand.faces, albedo_factor=color))
    if error_mm is not None:
        stream.log(f"error_mm/{side}", rr.Scalars(error_mm))
