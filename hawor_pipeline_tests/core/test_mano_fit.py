"""Fitting MANO to meshes of smplx gives their parameters back."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from hawor_pipeline.core.mano import ManoLayer
from hawor_pipeline.core.mano_fit import fit_meshes
from hawor_pipeline.untrusted.mano_files import load_mano
from hawor_pipeline_tests.sources.layouts import Hands


@pytest.fixture(scope="module")
def model(mano_dir):
    arrays = load_mano(mano_dir, "right")
    return ManoLayer(arrays).double().eval(), torch.tensor(arrays.skin_weights.argmax(1))


@pytest.mark.parametrize("bend", [0.0, 0.3, 0.8])
def test_meshes_of_smplx_give_their_parameters_back(bend, model, mano_dir):
    random, count = np.random.default_rng(3), 5
    pose = np.concatenate((random.normal(0, 2.0, (count, 3)), random.normal(0, bend, (count, 45))), 1)
    betas, shift = random.normal(0, 1.5, (count, 10)), random.normal(0, 0.5, (count, 3))
    hand = Hands(mano_dir).model("right", flat=True)
    with torch.no_grad():
        posed = [
            hand(
                global_orient=torch.tensor(pose[i, None, :3]),
                hand_pose=torch.tensor(pose[i, None, 3:]),
                betas=torch.tensor(betas[i, None]),
                transl=torch.tensor(shift[i, None]),
            ).vertices[0]
            for i in range(count)
        ]
    fit = fit_meshes(*model, torch.stack(posed))
    assert float(fit.error_m.max()) < 1e-6
    assert float((fit.vertices(model[0]) - torch.stack(posed)).abs().max()) < 2e-6
    turns = Rotation.from_rotvec(pose.reshape(-1, 3)).as_matrix().reshape(count, 16, 3, 3)
    np.testing.assert_allclose(fit.rotmats.numpy(), turns, atol=1e-3)
    np.testing.assert_allclose(fit.betas.numpy(), betas, atol=1e-2)


def test_a_mesh_that_is_no_hand_keeps_an_error_and_spoils_no_other(model):
    layer, parts = model
    hand = layer(
        torch.eye(3, dtype=torch.float64).expand(1, 16, 3, 3), torch.zeros(1, 10, dtype=torch.float64)
    ).vertices
    noise = torch.tensor(np.random.default_rng(0).normal(0, 0.05, (1, 778, 3)))
    fit = fit_meshes(layer, parts, torch.cat((hand, noise)))
    assert float(fit.error_m[0]) < 1e-6 and float(fit.error_m[1]) > 0.01
    assert torch.isfinite(fit.betas).all()
