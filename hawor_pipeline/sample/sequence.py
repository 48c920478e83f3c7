"""One sequence: its motion, the images of every view, and the ground truth as ARCTIC stores it."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from hawor_pipeline.core.units import ARCTIC_FPS, m_to_mm
from hawor_pipeline.sample.backdrop import Backdrop, HeadBackdrop, StaticBackdrop
from hawor_pipeline.sample.grasp import HandRig
from hawor_pipeline.sample.hand import SIDES
from hawor_pipeline.sample.hand_motion import Motion, make_motion
from hawor_pipeline.sample.person_body import body_parameters
from hawor_pipeline.sample.render import SequencePainter, ViewPainter
from hawor_pipeline.sample.spec import SampleSpec, SequencePlan
from hawor_pipeline.sample.studio import (
    Camera,
    Room,
    make_cameras,
    make_look,
    make_room,
    scale_camera,
    subject_generator,
)
from hawor_pipeline.untrusted.mano_files import load_mano

JPEG_QUALITY = 90
JPEG_COMMENT = b"synthetic: rendered by hawor_pipeline, not part of ARCTIC"
SKIN_STREAM, BACKDROP_STREAM = 4, 10
FIRST_SEQUENCE_STREAM = 100  # random streams below it belong to the subject
LARGEST_KEPT_PX = 1000  # backdrops of wider images are rendered again for every sequence
CROP_SIDE_PX = 1000
EGO_CROP_SCALE = 0.3
CROP_RENDER_SCALE = 0.5  # full frames behind the crops are drawn at this scale, about the crops' resolution


@lru_cache(maxsize=2)
def _models(mano: Path):
    return {"right": load_mano(mano, "right"), "left": load_mano(mano, "left")}


@lru_cache(maxsize=2)
def _room(subject: str, seed: int) -> Room:
    return make_room(subject, seed)


def _static_backdrop(subject: str, spec: SampleSpec, view: int) -> StaticBackdrop:
    """Return a view's backdrop, shared by the sequences of a subject unless eight of them would fill the memory."""
    small = drawn_camera(subject, spec, view).width <= LARGEST_KEPT_PX
    return _kept_backdrop(subject, spec, view) if small else _make_backdrop(subject, spec, view)


def _make_backdrop(subject: str, spec: SampleSpec, view: int) -> StaticBackdrop:
    room, look = _room(subject, spec.seed), make_look(subject, spec.seed)
    rng = subject_generator(spec.seed, subject, BACKDROP_STREAM + view)
    return StaticBackdrop(drawn_camera(subject, spec, view), room, look, rng)


_kept_backdrop = lru_cache(maxsize=8)(_make_backdrop)


def drawn_camera(subject: str, spec: SampleSpec, view: int) -> Camera:
    """Return the rendered camera: the one in the files, or for crops the one they are cut from."""
    camera = make_cameras(subject, spec.seed, spec.image_scale)[view]
    return _crop_camera(camera) if spec.image_source == "cropped_images" else camera


def view_painter(
    scene: SequencePainter, motion: Motion, spec: SampleSpec, plan: SequencePlan, view: int
) -> ViewPainter:
    """Build the painter of one view of a sequence; frame i is image i + 1."""
    camera = drawn_camera(plan.subject, spec, view)
    rng = np.random.default_rng([spec.seed, int(plan.subject[1:]), plan.number, view])
    backdrop: Backdrop
    if view == 0:
        room, look = _room(plan.subject, spec.seed), make_look(plan.subject, spec.seed)
        backdrop = HeadBackdrop(camera, motion.ego_from_world, room, look, rng)
    else:
        backdrop = _static_backdrop(plan.subject, spec, view)
    return ViewPainter(scene, camera, backdrop, rng)


def make_rigs(mano: Path, subject: str, seed: int) -> dict[str, HandRig]:
    """Build the hands of one subject."""
    betas = make_look(subject, seed).betas
    return {side: HandRig(_models(mano)[side], side, betas[side]) for side in SIDES}


def build_motion(mano: Path, spec: SampleSpec, plan: SequencePlan) -> tuple[Motion, dict[str, HandRig]]:
    """Build the motion of a sequence over all images and all ground-truth frames."""
    look, rigs = make_look(plan.subject, spec.seed), make_rigs(mano, plan.subject, spec.seed)
    rng = subject_generator(spec.seed, plan.subject, FIRST_SEQUENCE_STREAM + plan.number)
    count = max(plan.image_count, plan.frames - 1 + plan.ioi_offset)
    first = 1 - plan.ioi_offset
    step_s = spec.tempo / ARCTIC_FPS
    return make_motion(rigs, plan.object_name, plan.action, first, count, rng, look.heading, step_s), rigs


def write_sequence(folder: Path, mano: Path, spec: SampleSpec, plan: SequencePlan) -> dict[str, object]:
    """Write `folder/{view}/%05d.jpg` and return the ground truth by file suffix, empty where it is withheld."""
    motion, rigs = build_motion(mano, spec, plan)
    for view, images in paint_views(motion, rigs, spec, plan, range(1, plan.image_count + 1)):
        (folder / str(view)).mkdir()
        for number, image in images:
            (folder / str(view) / f"{number:05d}.jpg").write_bytes(encode(image))
    return ground_truth(motion, rigs, spec, plan) if plan.has_ground_truth else {}


def paint_views(
    motion: Motion, rigs: dict[str, HandRig], spec: SampleSpec, plan: SequencePlan, numbers: Iterable[int]
) -> Iterator[tuple[int, Iterator[tuple[int, np.ndarray]]]]:
    """Yield each view with its images by number, full frames or crops according to the specification."""
    blotches = subject_generator(spec.seed, plan.subject, SKIN_STREAM)
    painter = SequencePainter.prepare(motion, rigs, make_look(plan.subject, spec.seed), blotches)
    for view in spec.views:
        yield view, _paint(view_painter(painter, motion, spec, plan, view), spec, plan, view, numbers)


def _paint(
    one: ViewPainter, spec: SampleSpec, plan: SequencePlan, view: int, numbers: Iterable[int]
) -> Iterator[tuple[int, np.ndarray]]:
    cropped = spec.image_source == "cropped_images" and view > 0
    full = make_cameras(plan.subject, spec.seed, spec.image_scale)[view]
    for number in numbers:
        black = number in plan.black_images
        size = (one.camera.height, one.camera.width, 3)
        image = np.zeros(size, np.uint8) if black else one.paint(number - 1)
        if cropped:
            image = _crop(image, crop_window(one.object_uv(number - 1), one.camera, full))
        yield number, image


def encode(image: np.ndarray) -> bytes:
    """Encode as JPEG, with a comment that marks the image as synthetic."""
    data = simplejpeg.encode_jpeg(image, quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="420")
    # A COM segment right after the two bytes of SOI; its length counts the two length bytes.
    comment = b"\xff\xfe" + (len(JPEG_COMMENT) + 2).to_bytes(2, "big") + JPEG_COMMENT
    return data[:2] + comment + data[2:]


def _crop_camera(camera: Camera) -> Camera:
    """Return the camera whose full frames the crops are cut from; the ego view's crop is the whole frame, smaller."""
    if camera.view > 0:
        return scale_camera(camera, CROP_RENDER_SCALE)
    intrinsics = np.diag([EGO_CROP_SCALE, EGO_CROP_SCALE, 1]) @ camera.intrinsics
    width, height = round(camera.width * EGO_CROP_SCALE), round(camera.height * EGO_CROP_SCALE)
    return Camera(0, height, width, intrinsics, None, camera.distortion)


def crop_window(object_uv: np.ndarray, drawn: Camera, full: Camera) -> np.ndarray:
    """Return ARCTIC's crop of a static view as a map (2, 3) from pixels of the drawn image to pixels of the crop.

    The bounding box is 1.7 times the object's larger side (at least 600 px), the crop 1.5 times that, 1000 pixels wide.
    """
    scale = full.width / drawn.width
    uv = (object_uv + 0.5) * scale - 0.5
    low, high = uv.min(axis=0), uv.max(axis=0)
    side = 1.5 * max(1.7 * float((high - low).max()), 600.0)
    zoom = CROP_SIDE_PX / side
    corner = (low + high) / 2 - side / 2
    # full = (drawn + 0.5) * scale - 0.5, crop = (full - corner) * zoom
    shift = (0.5 * scale - 0.5 - corner) * zoom
    return np.array([[zoom * scale, 0, shift[0]], [0, zoom * scale, shift[1]]])


def _crop(image: np.ndarray, window: np.ndarray) -> np.ndarray:
    return cv2.warpAffine(image, window, (CROP_SIDE_PX, CROP_SIDE_PX), flags=cv2.INTER_LINEAR)


def ground_truth(motion: Motion, rigs: dict[str, HandRig], spec: SampleSpec, plan: SequencePlan) -> dict[str, object]:
    """Return arrays of the frames 0..frames-1 as in `raw_seqs`: `mano`, `object`, `egocam.dist`, `smplx`."""
    ego = make_cameras(plan.subject, spec.seed, spec.image_scale)[0]
    keep = slice(-motion.first, -motion.first + plan.frames)
    rng = np.random.default_rng([spec.seed, int(plan.subject[1:]), plan.number, 99])
    mano = {}
    for side in SIDES:
        track = motion.hands[side]
        mano[side] = {
            "rot": track.orient[keep],
            "pose": track.pose[keep],
            "trans": track.translation[keep],
            "shape": track.betas,
            "fitting_err": _fitting_error(plan.frames, rng),
        }
    rigid = np.concatenate(
        [motion.articulation[keep, None], motion.object_rotation[keep], m_to_mm(motion.object_translation[keep])],
        axis=1,
    )
    pose = motion.ego_from_world[keep]
    egocam = {
        "R_k_cam_np": pose[:, :3, :3],
        "T_k_cam_np": pose[:, :3, 3:],
        "intrinsics": ego.intrinsics,
        "dist8": ego.distortion,
        "R0": pose[0, :3, :3],
        "T0": pose[0, :3, 3:],
        "source": "synthetic",
    }
    body = body_parameters(motion, rigs, make_look(plan.subject, spec.seed))
    return {
        "mano": mano,
        "object": rigid.astype(np.float32),
        "egocam.dist": egocam,
        "smplx": {name: values[keep] for name, values in body.items()},
    }


def _fitting_error(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a residual per frame (metres) that drifts around 3 mm with occasional jumps, as fits to markers do."""
    noise = rng.normal(0, 1, frames)
    drift = np.empty(frames)
    value = rng.normal()
    # A first-order autoregression of variance 0.43^2 / (1 - 0.9^2), about 1: exp of it makes a log-normal drift.
    for i in range(frames):
        value = 0.9 * value + 0.43 * noise[i]
        drift[i] = value
    jumps = np.where(rng.random(frames) < 0.02, rng.uniform(2, 4, frames), 1.0)
    return (0.003 * np.exp(0.3 * drift) * jumps).astype(np.float32)
