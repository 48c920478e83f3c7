"""The problem of `convergence.py`: hands of the sample as detected keypoints, and a perceptron.

Poses, shapes, cameras, views and occlusions are those of the sample. The 2D term compares projected joints: with
keypoints as input the camera scale does not diverge. Instead of pixels the network gets the joints in the crop with
errors (larger for joints that are hidden in the sample's images), their visibility, and the position of the box.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hawor_pipeline.conversion.prepare import prepare
from hawor_pipeline.core.camera import camera_from_translation, full_translation, project_pinhole
from hawor_pipeline.core.mano import ManoLayer
from hawor_pipeline.core.rotations import rot6d_to_rotmat, rotmat_to_rot6d
from hawor_pipeline.core.types import ClipBatch, HandPrediction, HandTarget
from hawor_pipeline.loading.clips import training_clips
from hawor_pipeline.loading.dataset import ClipDataset
from hawor_pipeline.loading.rows import load_rows
from hawor_pipeline.models.hawor import box_info
from hawor_pipeline.sample.spec import SampleSpec
from hawor_pipeline.sample.write import ensure_sample
from hawor_pipeline.shards.store import open_shards

TRAIN, VALIDATION, TEST = ("s01", "s02", "s04", "s06", "s07"), ("s05", "s08"), ("s09", "s10")
FRAMES, TEMPO = 9, 4.0  # of the sample, as the demo's
SMALLEST_PX = 8  # side of the crops, which are not used
CLIP = 3  # frames: the fewest that have an acceleration
HIDDEN = 256
VISIBLE_ERROR, HIDDEN_ERROR = 0.02, 0.08  # of a detected joint, standard deviation in box sides


def make_shards(folder: Path, sequences: int) -> tuple[Path, Path]:
    """Generate a sample and its shards, and return the folders of shards and hand model."""
    spec = SampleSpec(TRAIN + VALIDATION + TEST, sequences, FRAMES, tempo=TEMPO)
    ensure_sample(folder, spec, progress=_progress("sequences drawn"))
    mano = folder / "body_models" / "mano"
    settings = {"target_resolution": (64, 64)}
    prepare(folder / "arctic", folder / "shards", settings=settings, mano_dir=mano)
    return folder / "shards", mano


@dataclass(slots=True)
class Clips:
    """Ground truth of some clips."""

    vertices_m: Tensor  # (B, T, 778, 3)
    batch: ClipBatch

    def __len__(self) -> int:
        return len(self.vertices_m)

    def take(self, index: Tensor) -> "Clips":
        """Return the selected clips."""
        return Clips(self.vertices_m[index], _take(self.batch, index))

    def detect(self, generator: torch.Generator) -> Tensor:
        """Return simulated detections of each frame: (B, T, 66)."""
        target, box = self.batch.target, self.batch
        spread = torch.where(target.joint_visible, VISIBLE_ERROR, HIDDEN_ERROR)[..., None]
        joints = target.joints_crop + spread * torch.randn(target.joints_crop.shape, generator=generator)
        where = box_info(box.box_center_px, box.box_size_px, box.focal_px, box.principal_point_px)
        return torch.cat((joints.flatten(-2), target.joint_visible.float(), where), -1)


def _take(struct, index: Tensor):
    parts = {field.name: getattr(struct, field.name) for field in fields(struct)}
    return replace(struct, **{n: _take(v, index) if isinstance(v, HandTarget) else v[index] for n, v in parts.items()})


def load_clips(
    shards_dir: Path, mano: ManoLayer, subjects: tuple[str, ...], at_most: int | None = None, image_px: int = 0
) -> Clips:
    """Load all clips of some subjects, or an evenly spread part, with or without images of the given side."""
    shards = open_shards(shards_dir, subjects)
    rows = load_rows(shards.table)
    clips = training_clips(shards.table, CLIP, CLIP, rows.valid.numpy())
    if at_most is not None and len(clips) > at_most:
        clips = clips.take(np.linspace(0, len(clips) - 1, at_most).round().astype(np.int64))
    batch = ClipDataset(shards, rows, clips, image_px or SMALLEST_PX)[range(len(clips))]
    vertices = mano(batch.target.rotmats, batch.target.betas).vertices + batch.target.translation_m[..., None, :]
    return Clips(vertices, batch if image_px else replace(batch, images=batch.images[..., :0]))


class Network(nn.Module):
    """Perceptron from the features of a frame to MANO parameters and camera, as offsets from the training mean."""

    feature_mean: Tensor
    feature_spread: Tensor
    start: Tensor

    def __init__(self, training: Clips) -> None:
        super().__init__()
        batch, target, valid = training.batch, training.batch.target, training.batch.target.valid
        features = training.detect(torch.Generator().manual_seed(0))[valid]
        camera = camera_from_translation(
            target.translation_m, batch.box_center_px, batch.box_size_px, batch.focal_px, batch.principal_point_px
        )
        pose = rotmat_to_rot6d(target.rotmats[valid].mean(0)).flatten()  # becomes a rotation when it is decoded
        start = torch.cat((pose, target.betas[valid].mean(0), camera[valid].median(0).values))
        self.register_buffer("start", start)
        self.register_buffer("feature_mean", features.mean(0))
        self.register_buffer("feature_spread", features.std(0).clamp_min(1e-3))
        sizes = (features.shape[-1], HIDDEN, HIDDEN, len(start))
        first, second, last = (nn.Linear(a, b) for a, b in pairwise(sizes))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(first, nn.GELU(), second, nn.GELU(), last)

    def forward(self, features: Tensor, clips: Clips, mano: ManoLayer) -> HandPrediction:
        """Predict the hands of some clips."""
        b = clips.batch
        out = self.layers((features - self.feature_mean) / self.feature_spread) + self.start
        rotmats, betas = rot6d_to_rotmat(out[..., :96].unflatten(-1, (16, 6))), out[..., 96:106]
        camera = out[..., 106:]
        translation = full_translation(camera, b.box_center_px, b.box_size_px, b.focal_px, b.principal_point_px)
        hand = mano(rotmats, betas)
        joints, vertices = hand.joints + translation[..., None, :], hand.vertices + translation[..., None, :]
        pixels = project_pinhole(joints, b.intrinsics)
        crop = (pixels - b.box_center_px[..., None, :]) / b.box_size_px[..., None, None]
        return HandPrediction(rotmats, betas, camera, translation, joints, vertices, crop)


def _progress(what: str) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        if done == total or done % 10 == 0:
            print(f"{what}: {done} of {total}", file=sys.stderr, flush=True)

    return report
