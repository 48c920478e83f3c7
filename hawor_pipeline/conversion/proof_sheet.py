"""The proof sheet: random frames of a subject with their labels drawn over them.

It shows wrong offsets, cameras, units, sides or hand models at a glance: mesh and skeleton must lie on the hands, the
bounding box around the hand. A strip above explains the colours and marks images of the synthetic sample.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from hawor_pipeline.conversion.crops import is_black
from hawor_pipeline.conversion.decode import decode_image
from hawor_pipeline.conversion.hand_geometry import pose_hand, see_hand
from hawor_pipeline.core.skeleton import BONES
from hawor_pipeline.provenance import atomic_write_bytes
from hawor_pipeline.sources.arctic import SIDES, VIEW_COUNT
from hawor_pipeline.sources.hand_models import HandModels, load_hand_models
from hawor_pipeline.sources.image_frame import ImageFrame, ViewCamera
from hawor_pipeline.sources.reader import HandLabels, Reader, SequenceRef

PROOF_FILE = "proof.jpg"
_PANELS = 6
_COLUMNS = 3
_PANEL_WIDTH = 560
_JPEG_QUALITY = 85
_BOX_SCALE = 1.2  # boxes are drawn as the default settings make them
_COLORS = {"right": (80, 220, 255), "left": (255, 190, 60)}  # RGB
_SKELETON, _STRIP, _WARNING = (255, 255, 255), (40, 40, 40), (255, 90, 90)
_STRIP_HEIGHT, _SWATCH = 40, 18  # px
_FONT, _FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.6
_ATTEMPTS = 8  # per panel, to skip black images


def write_proof_sheet(reader: Reader, subject: str, path: Path, *, seed: int = 0) -> list[str]:
    """Draw the sheet.

    Args:
        reader: the raw data.
        subject: one with ground truth.
        path: the JPEG to write.
        seed: choice of the frames; the same seed shows the same frames.

    Returns:
        Names of the panels, "sequence/view/frame"; empty, and no file, where no image has ground truth.

    Raises:
        DataError: a raw file or image is damaged.
    """
    models = load_hand_models(reader.mano_dir, reader.convention)
    rng = np.random.default_rng([seed, *subject.encode()])
    panels: list[np.ndarray] = []
    names: list[str] = []
    for attempt in range(_PANELS * _ATTEMPTS):
        if len(panels) == _PANELS:
            break
        picked = _pick(reader, subject, rng)
        if picked is None or picked.name in names:
            continue
        if attempt < _PANELS * _ATTEMPTS // 2 and any(name.startswith(picked.view_name) for name in names):
            continue  # first of all an image of each view
        panel = _panel(reader, models, picked)
        if panel is not None:
            names.append(picked.name)
            panels.append(panel)
    if not panels:
        return []
    height = max(panel.shape[0] for panel in panels)
    blank = np.full((height, _PANEL_WIDTH, 3), 255, np.uint8)
    tiles = [cv2.copyMakeBorder(p, 0, height - p.shape[0], 0, 0, cv2.BORDER_CONSTANT, value=(255,) * 3) for p in panels]
    tiles += [blank] * (-len(tiles) % _COLUMNS)
    rows = [np.hstack(tiles[start : start + _COLUMNS]) for start in range(0, len(tiles), _COLUMNS)]
    sheet = cv2.cvtColor(np.vstack([_legend(reader.source), *rows]), cv2.COLOR_RGB2BGR)
    atomic_write_bytes(path, cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes())
    return names


def _legend(source: str) -> np.ndarray:
    """Draw the strip above the panels: the colours, and a mark where the images are rendered."""
    strip = np.full((_STRIP_HEIGHT, _COLUMNS * _PANEL_WIDTH, 3), _STRIP, np.uint8)
    meanings = [(_COLORS[side], f"{side} hand: mesh and box") for side in SIDES]
    base, x = _STRIP_HEIGHT // 2 + 6, 12
    for color, text in [*meanings, (_SKELETON, "bones between the 21 joints")]:
        top = (_STRIP_HEIGHT - _SWATCH) // 2
        strip[top : top + _SWATCH, x : x + _SWATCH] = color
        x += _SWATCH + 8
        cv2.putText(strip, text, (x, base), _FONT, _FONT_SCALE, _SKELETON, 1, cv2.LINE_AA)
        x += cv2.getTextSize(text, _FONT, _FONT_SCALE, 1)[0][0] + 32
    if source == "synthetic":
        mark = "SYNTHETIC SAMPLE"
        left = strip.shape[1] - cv2.getTextSize(mark, _FONT, _FONT_SCALE, 2)[0][0] - 12
        cv2.putText(strip, mark, (left, base), _FONT, _FONT_SCALE, _WARNING, 2, cv2.LINE_AA)
    return strip


@dataclass(frozen=True, slots=True)
class _Picked:
    ref: SequenceRef
    view: int
    frame: int

    @property
    def view_name(self) -> str:
        return f"{self.ref.sequence}/{self.view}/"

    @property
    def name(self) -> str:
        return f"{self.view_name}{self.frame:05d}"


def _pick(reader: Reader, subject: str, rng: np.random.Generator) -> _Picked | None:
    refs = reader.sequences(subject)
    if not refs:
        return None
    ref = refs[int(rng.integers(len(refs)))]
    if reader.records_views:  # list one view only: a listing of nine is slow on a network disk
        view = int(rng.integers(VIEW_COUNT))
        images = reader.images(ref, [view])
    else:
        images = reader.images(ref, ())
        view = list(images)[int(rng.integers(len(images)))] if images else 0
    if not images.get(view):
        return None
    return _Picked(ref, view, list(images[view])[int(rng.integers(len(images[view])))])


def _panel(reader: Reader, models: HandModels, picked: _Picked) -> np.ndarray | None:
    for take in reader.takes(picked.ref, reader.labels_of(picked.ref), [picked.view]):
        index = picked.frame - take.first_frame
        if picked.view in take.images and 0 <= index < len(take):
            break
    else:
        return None
    image_file, moment = take.images[picked.view][picked.frame], take.moment(index)
    if not moment.hands:
        return None
    file_frame = moment.file_frame(picked.view)
    image = decode_image(image_file.read(), image_file, file_frame.size)
    if is_black(image):
        return None
    return _draw(image, file_frame, moment.cameras[picked.view], models, moment.hands, picked.name)


def _draw(
    image: np.ndarray,
    file_frame: ImageFrame,
    camera: ViewCamera,
    models: HandModels,
    hands: Mapping[str, HandLabels],
    name: str,
) -> np.ndarray:
    zoom = _PANEL_WIDTH / image.shape[1]
    shrink = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
    panel = cv2.resize(image, (_PANEL_WIDTH, round(image.shape[0] * zoom)), interpolation=shrink)

    def place(pixels: np.ndarray) -> np.ndarray:
        """Map full-frame pixels to 1/8 pixels of the panel, the fixed point of OpenCV's drawing routines."""
        in_file = pixels * file_frame.scale[0] + file_frame.shift[0]
        return np.round(((in_file + 0.5) * zoom - 0.5) * 8).astype(np.int32)

    for side, labels in hands.items():
        hand = pose_hand(models, side, labels)
        seen = see_hand(hand, camera, _BOX_SCALE, file_frame.shows)
        _, vertices, projectable = camera.project(hand.vertices_m)
        if not projectable.all() or np.isnan(seen.box_size_px[0]):
            continue
        color, overlay = _COLORS[side], panel.copy()
        triangles = place(vertices[0])[models.arrays[side].faces]
        cv2.polylines(overlay, list(triangles), True, color, 1, cv2.LINE_AA, 3)
        panel = cv2.addWeighted(overlay, 0.45, panel, 0.55, 0)
        joints = place(seen.joints_px[0])
        for a, b in BONES:
            cv2.line(panel, joints[a].tolist(), joints[b].tolist(), _SKELETON, 2, cv2.LINE_AA, 3)
        half = seen.box_size_px[0] / 2
        corners = place(np.stack((seen.box_center_px[0] - half, seen.box_center_px[0] + half)))
        cv2.rectangle(panel, corners[0].tolist(), corners[1].tolist(), color, 2, cv2.LINE_AA, 3)
    (width, height), _ = cv2.getTextSize(name, _FONT, 0.5, 1)
    label = panel[: height + 14, : width + 16]
    label[:] = label // 4
    cv2.putText(panel, name, (8, height + 6), _FONT, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return panel
