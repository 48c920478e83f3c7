"""What the network must be able to do at all: learn one clip by heart."""

from pathlib import Path

import pytest
import torch

from hawor_pipeline.config import TrainingConfig
from hawor_pipeline.core.mano import ManoLayer
from hawor_pipeline.core.metrics import mpjpe
from hawor_pipeline.core.rotations import axis_angle_to_rotmat
from hawor_pipeline.core.units import MM_PER_M
from hawor_pipeline.models.hawor import HaworModel, NetworkConfig
from hawor_pipeline.untrusted.mano_files import load_mano
from hawor_pipeline_tests.models.test_hawor import clip_inputs
from hawor_pipeline_tests.training.hand_shards import write_mano

FRAMES, STEPS = 4, 600


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_clip_to_below_a_millimetre(tmp_path: Path):
    """Joints where they are in the camera frame, learned from joints and rotations."""
    torch.manual_seed(0)
    mano = ManoLayer(load_mano(write_mano(tmp_path), "right"))
    sizes = {"st_hdim": 64, "st_nlayer": 1, "motion_hdim": 64, "motion_nlayer": 1}
    config = TrainingConfig(image_size=64, backbone_size="tiny", seed=0, **sizes)
    model = HaworModel(NetworkConfig.of_training(config)).train()
    inputs = clip_inputs(1, FRAMES)
    with torch.no_grad():
        pose = axis_angle_to_rotmat(0.4 * torch.randn(1, FRAMES, 16, 3))
        target = mano(pose, 0.5 * torch.randn(1, FRAMES, 10)).joints + torch.tensor([0.05, -0.03, 0.6])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        hands = model(**inputs)
        joints = mano(hands.rotmats, hands.betas).joints + hands.translation_m[..., None, :]
        error = (joints - target).norm(dim=-1).mean()
        loss = error + 0.1 * (hands.rotmats - pose).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    assert float(error) * MM_PER_M < 1.0, "camera frame"
    assert float(mpjpe(joints, target).mean()) * MM_PER_M < 1.0, "relative to the wrist"
