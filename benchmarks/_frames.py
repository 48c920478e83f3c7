"""Raw data for measurements: moments of the sample, painted at ARCTIC's sizes in all nine views and repeated.

A sequence of `copies` times the same moments, under different names, costs as much to read as a real one, and takes
seconds to generate instead of hours.
"""

import io
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from hawor_pipeline.sample.sequence import build_motion, paint_views
from hawor_pipeline.sample.spec import SampleSpec, plan_sequences
from hawor_pipeline.sample.write import ensure_sample
from hawor_pipeline.sources.arctic import BODY_PART, RAW_PARTS
from hawor_pipeline.workers.pool import one_thread

SUBJECT = "s01"
MOMENTS = (1, 4, 6)  # ground-truth frames that are painted
BYTES = {"images": 350_000, "cropped_images": 60_000}  # of an image, as in ARCTIC's downloads
_QUALITIES = range(95, 29, -1)


@dataclass(frozen=True, slots=True)
class Images:
    """Painted moments as JPEG by view and moment."""

    image_source: str
    jpegs: dict[tuple[int, int], bytes]

    @property
    def mean_bytes(self) -> float:
        """Mean size of one image in bytes."""
        return float(np.mean([len(jpeg) for jpeg in self.jpegs.values()]))


def make_base(root: Path) -> SampleSpec:
    """Write metadata, hand models and ground truth of one short sequence at ARCTIC's sizes."""
    spec = SampleSpec((SUBJECT,), 1, 8, (1,), image_source="cropped_images")
    ensure_sample(root, spec, workers=1)
    return spec


def paint(root: Path, spec: SampleSpec, image_source: str, views: tuple[int, ...] = tuple(range(9))) -> Images:
    """Paint the moments in all views, and encode them to about the file size of ARCTIC's images."""
    spec = replace(spec, image_source=image_source, views=views)
    (plan,) = plan_sequences(spec)
    mano = root / "body_models" / "mano"
    numbers = [moment + plan.ioi_offset for moment in MOMENTS]
    with one_thread():
        motion, rigs = build_motion(mano, spec, plan)
        painted = {
            (view, number - plan.ioi_offset): image
            for view, images in paint_views(motion, rigs, spec, plan, numbers)
            for number, image in images
        }
    probe = list(painted.values())[:: max(1, len(painted) // 4)]
    quality = next(q for q in _QUALITIES if np.mean([len(_encode(p, q)) for p in probe]) <= BYTES[image_source])
    return Images(image_source, {key: _encode(image, quality) for key, image in painted.items()})


def _encode(image: np.ndarray, quality: int) -> bytes:
    encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return encoded.tobytes()


def write_source(base: Path, root: Path, images: Images, copies: int, sequences: int) -> list[str]:
    """Write raw data in ARCTIC's layout below `root`, with links as copies, and return the names of the sequences."""
    arctic = root / "arctic"
    for folder in ("meta", "splits_json"):
        shutil.copytree(base / "arctic" / folder, arctic / folder)
    shutil.copy(base / "arctic" / "SYNTHETIC", arctic)
    shutil.copytree(base / "body_models", root / "body_models")
    first = next((base / "arctic" / "raw_seqs" / SUBJECT).glob("*.mano.npy")).name.split(".")[0]
    offset = json.loads((arctic / "meta" / "misc.json").read_text())[SUBJECT]["ioi_offset"]
    stem = "_".join(first.split("_")[:2])
    names = [f"{stem}_{number:02d}" for number in range(1, sequences + 1)]
    for name in names:
        _write_arrays(base, arctic, first, name, copies)
        for (view, moment), jpeg in images.jpegs.items():
            folder = arctic / images.image_source / SUBJECT / name / str(view)
            folder.mkdir(parents=True, exist_ok=True)
            paths = [folder / f"{offset + c * len(MOMENTS) + MOMENTS.index(moment):05d}.jpg" for c in range(copies)]
            paths[0].write_bytes(jpeg)
            for path in paths[1:]:
                path.hardlink_to(paths[0])
    return names


def _write_arrays(base: Path, arctic: Path, first: str, name: str, copies: int) -> None:
    """Return the raw arrays of the selected moments, repeated."""
    (arctic / "raw_seqs" / SUBJECT).mkdir(parents=True, exist_ok=True)
    chosen = np.tile(np.array(MOMENTS), copies)
    for part in (*RAW_PARTS, BODY_PART):
        raw = np.load(base / "arctic" / "raw_seqs" / SUBJECT / f"{first}.{part}.npy", allow_pickle=True)
        value = raw.item() if raw.dtype == object else raw
        frames = 8
        buffer = io.BytesIO()
        np.save(buffer, np.asarray(_repeat(value, chosen, frames)), allow_pickle=True)
        (arctic / "raw_seqs" / SUBJECT / f"{name}.{part}.npy").write_bytes(buffer.getvalue())


def _repeat(value, chosen: np.ndarray, frames: int):
    """Select the moments in every array whose first axis is time."""
    if isinstance(value, dict):
        return {name: each if name == "dist8" else _repeat(each, chosen, frames) for name, each in value.items()}
    if isinstance(value, np.ndarray) and value.ndim and len(value) == frames:
        return value[chosen]
    return value
