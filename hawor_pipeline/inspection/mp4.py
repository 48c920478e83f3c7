"""MP4 files that play everywhere: H.264, 4:2:0, index first."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from hawor_pipeline.errors import DataError
from hawor_pipeline.provenance import atomic_write_bytes, explain_disk_errors

_QUALITY = "20"  # constant rate factor: about visually lossless for skin and meshes


def write_mp4(path: Path | str, frames: Iterable[np.ndarray], fps: float) -> tuple[int, tuple[int, int]]:
    """Write images as one MP4 file, which appears when it is complete.

    Args:
        path: of the file; an existing one is replaced.
        frames: (height, width, 3) uint8 BGR, all of one size. H.264 needs even sizes, so an odd last row or column is
            dropped.
        fps: frames per second.

    Returns:
        Number of frames, and their (height, width).

    Raises:
        DataError: there is no frame, they differ in size, or the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.unfinished.mp4")
    try:
        with explain_disk_errors(path):
            count, size = _encode(unfinished, frames, fps)
            if not count:
                raise DataError(f"no frame to write to {path}; nothing was written.")
            atomic_write_bytes(path, unfinished.read_bytes())
    finally:
        unfinished.unlink(missing_ok=True)
    return count, size


def _encode(path: Path, frames: Iterable[np.ndarray], fps: float) -> tuple[int, tuple[int, int]]:
    count, size = 0, (0, 0)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as file:
        stream = file.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": _QUALITY}
        for image in frames:
            even = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
            if not count:
                size = even.shape[:2]
                stream.height, stream.width = size
            if even.shape[:2] != size:
                raise DataError(f"frame {count} is {even.shape[1]}x{even.shape[0]}, the first {size[1]}x{size[0]}.")
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="bgr24")):
                file.mux(packet)
            count += 1
        if count:
            for packet in stream.encode(None):
                file.mux(packet)
    return count, size
