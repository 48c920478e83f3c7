"""Results on an accelerator equal those on the CPU. The first test needs none: it runs the accelerator's code."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hawor_pipeline.core import alignment, metrics
from hawor_pipeline.core.losses import chamfer_loss
from hawor_pipeline.core.mano import ManoLayer
from hawor_pipeline.core.rotations import axis_angle_to_rotmat
from hawor_pipeline.untrusted.mano_files import load_mano


@pytest.mark.parametrize("allow_reflection", [False, True])
def test_closed_form_is_the_same_on_tensors_and_arrays(allow_reflection: bool) -> None:
    matrices = torch.randn(3, 3, 200, dtype=torch.float64)
    tensors = alignment._closed_form(alignment._wrap(matrices, torch.empty(5, 5, 200).double()), allow_reflection)
    arrays = alignment._closed_form(alignment._wrap(matrices.numpy(), np.empty((5, 5, 200))), allow_reflection)
    for tensor, array in zip(tensors, arrays, strict=True):
        np.testing.assert_allclose(tensor.numpy(), array, atol=1e-12)


@pytest.mark.gpu
def test_hands_metrics_and_losses_equal_the_cpus(mano_dir: Path) -> None:
    layer = ManoLayer(load_mano(mano_dir, "right"))
    rotmats, betas = axis_angle_to_rotmat(torch.randn(200, 16, 3)), torch.randn(200, 10)
    hands = layer(rotmats, betas)
    there = layer.cuda()(rotmats.cuda(), betas.cuda())
    torch.testing.assert_close(there.vertices.cpu(), hands.vertices, atol=1e-6, rtol=0)
    torch.testing.assert_close(there.joints.cpu(), hands.joints, atol=1e-6, rtol=0)
    pred, target = hands.joints + torch.randn_like(hands.joints) * 0.01, hands.joints
    for metric in (metrics.mpjpe, metrics.pa_mpjpe, metrics.acceleration_error, metrics.pck_auc):
        found = metric(pred.cuda(), target.cuda()).cpu()
        torch.testing.assert_close(found, metric(pred, target), atol=1e-6, rtol=1e-4, equal_nan=True)
    surface = hands.vertices[:4], hands.vertices[:4] + torch.randn(4, 778, 3) * 0.005
    for distance in (metrics.chamfer_distance, lambda p, t: metrics.f_score(p, t, 0.005), chamfer_loss):
        torch.testing.assert_close(
            distance(*(x.cuda() for x in surface)).cpu(), distance(*surface), atol=2e-3, rtol=1e-3
        )
