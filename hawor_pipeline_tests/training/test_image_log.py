"""Pictures while training: they show what they say, and change no number."""

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hawor_pipeline.core.types import HandPrediction
from hawor_pipeline.inspection.drawing import PREDICTED_RGB, TRUE_RGB
from hawor_pipeline.training.fit import TrainingPipeline
from hawor_pipeline.training.image_log import PANEL_PX, draw_hands
from hawor_pipeline.training.module import EnhancedHaWoRTrainer


def test_images_reach_disk_and_tensorboard_and_change_nothing(tiny, tmp_path):
    losses = []
    for name, every in (("with", 2), ("without", 0)):
        config = tiny(max_steps=4, use_tensorboard=True, log_images_every_n_steps=every)
        TrainingPipeline(config, tmp_path / name).train()
        rows = pq.read_table(tmp_path / name / "training.parquet").to_pylist()
        losses.append([row["value"] for row in rows if row["metric"] in ("loss", "mpjpe_mm")])
    assert losses[0] == losses[1]
    files = sorted((tmp_path / "with" / "pictures").iterdir())
    assert [file.name for file in files] == ["step-00000002.png", "step-00000004.png"]
    assert cv2.imread(str(files[0])).shape == (2 * PANEL_PX, 6 * PANEL_PX + 12, 3)
    assert not (tmp_path / "without" / "pictures").exists()
    events = EventAccumulator(str(tmp_path / "with" / "logs" / "tensorboard"))
    events.Reload()
    assert [image.step for image in events.Images("predictions")] == [2, 4]


@pytest.fixture
def truth_as_prediction(tiny, monkeypatch):
    """A module whose prediction is the ground truth, and its first validation clips."""
    module = EnhancedHaWoRTrainer(tiny())
    clips = module.data.some_validation_clips(3)
    target = clips.target
    hand = module.mano(target.rotmats, target.betas)
    prediction = HandPrediction(
        target.rotmats, target.betas, torch.zeros(3, 3, 3), target.translation_m, target.joints_m,
        hand.vertices + target.translation_m[..., None, :], target.joints_crop,
    )  # fmt: skip
    monkeypatch.setattr(module, "predict_batch", lambda batch: prediction)
    return module, clips


def test_a_perfect_prediction_covers_the_truth(truth_as_prediction):
    """The predicted skeleton is drawn last, so nothing of the true one is left; the mesh lies over the hand."""
    module, clips = truth_as_prediction
    image = draw_hands(module, clips).astype(int)
    left, right = image[:, :PANEL_PX], image[:, PANEL_PX : 2 * PANEL_PX]

    def close(panel, rgb):
        return np.abs(panel[..., ::-1] - 255 * np.array(rgb)).max(-1) < 12

    assert close(left, PREDICTED_RGB).sum() > 100
    assert close(left, TRUE_RGB).sum() < 0.02 * close(left, PREDICTED_RGB).sum()
    changed = np.abs(right - left).max(-1) > 40
    joints = (clips.target.joints_crop[0, 1].numpy() + 0.5) * PANEL_PX
    inside = ((joints > 4) & (joints < PANEL_PX - 4)).all(-1)
    near = [changed[int(y) - 3 : int(y) + 4, int(x) - 3 : int(x) + 4].any() for x, y in joints[inside]]
    assert np.mean(near) > 0.6
