"""Images of predictions during training, always on the same few validation hands.

Left: the crop with the ground-truth and predicted skeletons; right: the predicted mesh over the crop. Left hands are
mirrored, as in the input of the network.
"""

from pathlib import Path
from typing import Any

import cv2
import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from hawor_pipeline.core.types import ClipBatch, HandPrediction
from hawor_pipeline.inspection.drawing import (
    PREDICTED_RGB,
    TRUE_RGB,
    ColoredMesh,
    ImageView,
    draw_meshes,
    draw_skeleton,
    side_by_side,
)
from hawor_pipeline.loading.dataset import IMAGENET_MEAN, IMAGENET_STD
from hawor_pipeline.provenance import atomic_write_bytes
from hawor_pipeline.training.module import EnhancedHaWoRTrainer
from hawor_pipeline.training.stopping import between_steps

HANDS = 6
PANEL_PX = 192
PER_ROW = 3


class PredictionImages(pl.Callback):
    """Callback that draws predictions every few optimiser steps; it changes no number of the run.

    Args:
        folder: for `step-NNNNNNNN.png`; the loggers receive the same image.
        every_n_steps: optimiser steps between two images.
    """

    def __init__(self, folder: Path, every_n_steps: int):
        self.folder, self.every_n_steps = folder, every_n_steps
        self._hands: ClipBatch | None = None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Draw predictions if due, on the first process."""
        step = trainer.global_step
        if step % self.every_n_steps or between_steps(trainer) or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, EnhancedHaWoRTrainer)
        if self._hands is None:
            self._hands = pl_module.data.some_validation_clips(HANDS)
        image = draw_hands(pl_module, self._hands)
        atomic_write_bytes(self.folder / f"step-{step:08d}.png", cv2.imencode(".png", image)[1].tobytes())
        image = np.ascontiguousarray(image[..., ::-1])  # loggers take RGB
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("predictions", image, step, dataformats="HWC")
            elif isinstance(logger, WandbLogger):
                logger.log_image("predictions", [image], step=step)


def draw_hands(module: EnhancedHaWoRTrainer, clips: ClipBatch) -> np.ndarray:
    """Draw the middle frame of every clip, two panels each, three hands per row: (height, width, 3) BGR, 8 bit."""
    was_training = module.training
    module.eval()
    with torch.no_grad():
        prediction = module.predict_batch(module.transfer_batch_to_device(clips, module.device, 0)).to("cpu")
    module.train(was_training)
    at = clips.images.shape[1] // 2
    faces = module.mano.faces.cpu().numpy().astype(np.int32)
    panels = [_panels(clips, prediction, (clip, at), faces) for clip in range(len(clips))]
    panels += [np.full_like(panels[0], 255)] * (-len(panels) % PER_ROW)
    rows = [side_by_side(panels[start : start + PER_ROW]) for start in range(0, len(panels), PER_ROW)]
    return np.concatenate(rows)


def _panels(clips: ClipBatch, prediction: HandPrediction, at: tuple[int, int], faces: np.ndarray) -> np.ndarray:
    pixels = 255 * (clips.images[at].cpu() * IMAGENET_STD[:, None, None] + IMAGENET_MEAN[:, None, None]).clamp(0, 1)
    crop = pixels.permute(1, 2, 0).round().to(torch.uint8).numpy()[..., ::-1]
    crop = cv2.resize(crop, (PANEL_PX, PANEL_PX), interpolation=cv2.INTER_CUBIC)
    view = _view(clips, at)
    skeletons = crop.copy()
    for joints, rgb in ((clips.target.joints_m[at], TRUE_RGB), (prediction.joints_m[at], PREDICTED_RGB)):
        draw_skeleton(skeletons, view.pixels(joints.double()), rgb, 1)
    mesh = ColoredMesh(prediction.vertices_m[at].double(), faces, PREDICTED_RGB)
    return np.concatenate((skeletons, draw_meshes(crop, view, [mesh])), 1)


def _view(clips: ClipBatch, at: tuple[int, int]) -> ImageView:
    """Return the view of the network's crop, resized to PANEL_PX; its camera is a pinhole."""
    scale = PANEL_PX / float(clips.box_size_px[at])
    offset = (PANEL_PX - 1) / 2 - scale * clips.box_center_px[at].double().numpy()
    image_from_full = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]])
    return ImageView(clips.intrinsics[at].double(), torch.zeros(8, dtype=torch.float64), image_from_full)
