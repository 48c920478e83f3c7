"""The proof sheet: random frames of a subject with what the labels say drawn over them.

If offsets, cameras, units, sides or hand models were wrong, this is where a person sees it at a glance: mesh and
skeleton must lie on the hands, the box must hold the hand. A strip above says what the colours mean, and whether the
pictures are those of the synthetic sample.
"""

import dataclasses
from pathlib import Path

import cv2
import numpy as np

from hawor_pipeline.conversion.crops import is_black
from hawor_pipeline.conversion.decode import decode_image
from hawor_pipeline.conversion.hand_geometry import ViewCamera, pose_hand, see_hand, view_camera
from hawor_pipeline.conversion.image_frame import ImageFrame, find_image_frame
from hawor_pipeline.core.skeleton import BONES
from hawor_pipeline.provenance import atomic_write_bytes
from hawor_pipeline.sources.arctic import SIDES, VIEW_COUNT, ArcticRoot
from hawor_pipeline.sources.hand_models import HandModels, load_hand_models
from hawor_pipeline.sources.image_files import ImageFile
from hawor_pipeline.sources.object_mesh import load_object
from hawor_pipeline.sources.raw_sequence import RawSequence, load_sequence

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
_ATTEMPTS = 8  # per panel, to pass over black pictures


def write_proof_sheet(root: ArcticRoot, mano_dir: Path, subject: str, path: Path, *, seed: int = 0) -> list[str]:
    """Draw the sheet.

    Args:
        root: the raw data.
        mano_dir: folder of the MANO models.
        subject: one with ground truth.
        path: the JPEG to write.
        seed: which frames; the same seed shows the same frames.

    Returns:
        What the panels show: "sequence/view/frame"; empty, and no file, where no picture has ground truth.

    Raises:
        DataError: a raw file or picture is damaged.
    """
    models = load_hand_models(mano_dir)
    rng = np.random.default_rng([seed, *subject.encode()])
    panels: list[np.ndarray] = []
    names: list[str] = []
    for attempt in range(_PANELS * _ATTEMPTS):
        if len(panels) == _PANELS:
            break
        picked = _pick(root, subject, rng)
        if picked is None or picked.name in names:
            continue
        if attempt < _PANELS * _ATTEMPTS // 2 and any(name.startswith(picked.view_name) for name in names):
            continue  # first of all a picture of each view
        panel = _panel(root, models, subject, picked)
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
    sheet = cv2.cvtColor(np.vstack([_legend(root.source), *rows]), cv2.COLOR_RGB2BGR)
    atomic_write_bytes(path, cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes())
    return names


def _legend(source: str) -> np.ndarray:
    """The strip above the panels: colours in words, and a mark where the pictures are rendered."""
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


@dataclasses.dataclass(frozen=True, slots=True)
class _Picked:
    sequence: str
    view: int
    frame: int
    image: ImageFile

    @property
    def view_name(self) -> str:
        return f"{self.sequence}/{self.view}/"

    @property
    def name(self) -> str:
        return f"{self.view_name}{self.frame:05d}"


def _pick(root: ArcticRoot, subject: str, rng: np.random.Generator) -> _Picked | None:
    sequence = str(rng.choice(root.sequences(subject)))
    view = int(rng.integers(VIEW_COUNT))
    images = root.images(subject, sequence, view)
    if not images:
        return None
    frame = list(images)[int(rng.integers(len(images)))]
    return _Picked(sequence, view, frame, images[frame])


def _panel(root: ArcticRoot, models: HandModels, subject: str, picked: _Picked) -> np.ndarray | None:
    raw = load_sequence(root, subject, picked.sequence)
    cameras = root.cameras(subject)
    index = picked.frame - cameras.ioi_offset
    if not 0 <= index < len(raw):
        return None
    raw = _only(raw, index)
    camera = view_camera(raw, cameras, picked.view)
    vertices = load_object(root, raw.object).posed(
        raw.object_articulation, raw.object_rotation, raw.object_translation_m
    )
    file_frame = find_image_frame(root.image_source, camera, vertices)
    image = decode_image(picked.image.read(), picked.image, file_frame.size)
    if is_black(image):
        return None
    return _draw(image, file_frame, camera, models, raw, picked.name)


def _only(raw: RawSequence, index: int) -> RawSequence:
    """The sequence reduced to one moment."""
    part = slice(index, index + 1)
    hands = {
        side: dataclasses.replace(
            hand, **{field.name: getattr(hand, field.name)[part] for field in dataclasses.fields(hand)}
        )
        for side, hand in raw.hands.items()
    }
    arrays = ("object_articulation", "object_rotation", "object_translation_m", "ego_from_world")
    return dataclasses.replace(raw, hands=hands, **{name: getattr(raw, name)[part] for name in arrays})


def _draw(
    image: np.ndarray, file_frame: ImageFrame, camera: ViewCamera, models: HandModels, raw: RawSequence, name: str
) -> np.ndarray:
    zoom = _PANEL_WIDTH / image.shape[1]
    shrink = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
    panel = cv2.resize(image, (_PANEL_WIDTH, round(image.shape[0] * zoom)), interpolation=shrink)

    def place(pixels: np.ndarray) -> np.ndarray:
        """Full-frame pixels to 1/8 pixels of the panel (the drawing routines' fixed point)."""
        in_file = pixels * file_frame.scale[0] + file_frame.shift[0]
        return np.round(((in_file + 0.5) * zoom - 0.5) * 8).astype(np.int32)

    for side in SIDES:
        hand = pose_hand(models, side, raw.hands[side])
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
