"""Conventions against smplx, whose names differ."""

import numpy as np
import pytest
import torch

from hawor_pipeline.core.mano import ManoLayer
from hawor_pipeline.core.mano_convention import ARCTIC, ManoConvention
from hawor_pipeline.core.rotations import axis_angle_to_rotmat
from hawor_pipeline.untrusted.mano_files import load_mano

smplx = pytest.importorskip("smplx")


ABSOLUTE = ManoConvention(mean_included=True, left_shapedirs_fixed=True)  # as HaMeR, HaWoR and WiLoR predict


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("convention", [ARCTIC, ABSOLUTE])
@pytest.mark.agreement(
    subject="conventions of hand poses",
    publication="smplx, flat_hand_mean on and off",
    compared="vertices of absolute poses against smplx.MANO",
    tolerance=1e-05,
    unit="m",
)
def test_absolute_poses_equal_those_of_smplx(mano_dir, side, convention: ManoConvention, tolerance: float):
    rng = np.random.default_rng(1)
    orient, pose, betas = (torch.tensor(rng.normal(size=(3, n)) * 0.5, dtype=torch.float32) for n in (3, 45, 10))
    file = str(mano_dir / f"MANO_{side.upper()}.npz")
    options = {"is_rhand": side == "right", "use_pca": False, "ext": "npz", "flat_hand_mean": convention.mean_included}
    theirs = smplx.MANO(file, **options)(global_orient=orient, hand_pose=pose, betas=betas)
    arrays = load_mano(mano_dir, side)
    absolute = torch.from_numpy(convention.to_absolute(pose.numpy(), arrays.hands_mean)).float()
    rotmats = axis_angle_to_rotmat(torch.cat((orient, absolute), -1).unflatten(-1, (16, 3)))
    assert (ManoLayer(arrays)(rotmats, betas).vertices - theirs.vertices).abs().max() < tolerance
