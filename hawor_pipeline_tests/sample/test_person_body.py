"""The sample's body against the smplx package and against what the renderer draws; the rest of ARCTIC's layout."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hawor_pipeline.core.body import BODY_FACE_COUNT, BODY_POSE_PARTS, BODY_VERTEX_COUNT
from hawor_pipeline.sample import person_body as body
from hawor_pipeline.sample.person import arm_mesh, wrist_rim
from hawor_pipeline.sample.sequence import build_motion
from hawor_pipeline.sample.spec import OBJECT_NAMES, SUBJECTS, SampleSpec, plan_sequences
from hawor_pipeline.sample.studio import GENDERS, make_look
from hawor_pipeline.sources.object_mesh import read_obj
from hawor_pipeline.untrusted.safe_load import load_npz, load_pickle

smplx = pytest.importorskip("smplx")
SPEC = SampleSpec(subjects=("s02", "s05", "s08"), sequences_per_subject=1, frames=30, tempo=3)
ARCTIC_OBJECTS = {
    "capsulemachine", "box", "ketchup", "laptop", "microwave", "mixer", "notebook", "espressomachine", "waffleiron",
    "scissors", "phone",
}  # fmt: skip


def their_body(root: Path, subject: str, frames: int):
    """smplx's model of a subject, built as ARCTIC's own processing builds it."""
    template, _ = read_obj(root / "arctic" / "meta" / "subject_vtemplates" / f"{subject}.obj")
    gender = GENDERS[subject]
    return smplx.create(
        model_path=str(root / "body_models" / "smplx" / f"SMPLX_{gender.upper()}.npz"),
        model_type="smplx",
        gender=gender,
        num_pca_comps=45,
        v_template=template,
        flat_hand_mean=True,
        use_pca=False,
        batch_size=frames,
    )


@pytest.mark.parametrize("plan", plan_sequences(SPEC), ids=lambda plan: plan.name)
def test_the_posed_body_is_the_person_that_is_drawn(sample_root, mano_dir, plan):
    motion, rigs = build_motion(mano_dir, SPEC, plan)
    look = make_look(plan.subject, SPEC.seed)
    parameters = body.body_parameters(motion, rigs, look)
    layer = their_body(sample_root, plan.subject, len(motion.articulation))
    with torch.no_grad():
        posed = layer(**{name: torch.from_numpy(values) for name, values in parameters.items()}).vertices.numpy()
    ids = body.vertex_blocks()
    for side, track in motion.hands.items():
        within_reach = np.linalg.norm(track.elbow - track.joints[:, 0], axis=1) < body.FOREARM_M + 1e-4
        assert within_reach.mean() > 0.5
        hand = np.linalg.norm(posed[:, ids[side]] - track.vertices, axis=-1)
        assert hand[within_reach].max() < 2e-5
        rim = wrist_rim(rigs[side].faces)
        drawn = arm_mesh(track, rim, np.zeros((len(rim), 3)), look).vertices
        arm = drawn.reshape(len(posed), -1, len(rim), 3)[:, body.arm_rows(look)].reshape(len(posed), -1, 3)
        apart = np.linalg.norm(posed[:, ids[f"{side}_arm"]] - arm, axis=-1)[within_reach]
        assert apart.mean() < 0.003 and np.percentile(apart, 99) < 0.015


def test_the_files_pose_the_body_of_each_sequence(sample_root):
    """The parameters on disk, with the template on disk, put SMPL-X's wrists where MANO's are."""
    for file in (sample_root / "arctic" / "raw_seqs").glob("*/*.smplx.npy"):
        raw = np.load(file, allow_pickle=True).item()
        hands = np.load(str(file).replace(".smplx.", ".mano."), allow_pickle=True).item()
        frames = len(raw["transl"])
        assert {name: raw[name].shape for name in BODY_POSE_PARTS} == {
            name: (frames, 3 * bones) for name, bones in BODY_POSE_PARTS.items()
        }
        layer = their_body(sample_root, file.parent.name, frames)
        with torch.no_grad():
            joints = layer(**{name: torch.from_numpy(values) for name, values in raw.items()}).joints.numpy()
        assert joints.shape[1] == 127
        for side, wrist in (("left", 20), ("right", 21)):
            mano = smplx.MANO(
                str(sample_root / "body_models" / "mano" / f"MANO_{side.upper()}.pkl"),
                is_rhand=side == "right",
                use_pca=False,
                flat_hand_mean=False,
                batch_size=frames,
            )
            given = {name: torch.from_numpy(hands[side][key]) for name, key in
                     (("global_orient", "rot"), ("hand_pose", "pose"), ("transl", "trans"))}  # fmt: skip
            betas = torch.from_numpy(hands[side]["shape"]).expand(frames, 10)
            with torch.no_grad():
                expected = mano(**given, betas=betas).joints.numpy()
            assert np.linalg.norm(joints[:, wrist] - expected[:, 0], axis=-1).max() < 0.02


def test_every_subject_has_a_template_of_smplx_size(sample_root):
    for subject in SUBJECTS:
        vertices, faces = read_obj(sample_root / "arctic" / "meta" / "subject_vtemplates" / f"{subject}.obj")
        assert vertices.shape == (BODY_VERTEX_COUNT, 3) and faces.shape == (BODY_FACE_COUNT, 3)
        # programs that drop vertices without a triangle keep the numbering
        assert len(np.unique(faces)) == BODY_VERTEX_COUNT
        assert 1.5 < np.ptp(vertices[:, 1]) < 2.0 and 1.5 < np.ptp(vertices[:, 0]) < 2.0


def test_all_objects_of_arctic_are_there_and_are_played(sample_root):
    folder = sample_root / "arctic" / "meta" / "object_vtemplates"
    assert {entry.name for entry in folder.iterdir()} == ARCTIC_OBJECTS == set(OBJECT_NAMES)
    known = json.loads((sample_root / "arctic" / "meta" / "object_meta.json").read_text())
    assert all(0.1 < known[name]["diameter"] < 0.6 for name in ARCTIC_OBJECTS)
    for name in ARCTIC_OBJECTS:
        assert {file.name for file in (folder / name).iterdir()} >= {
            "mesh.obj", "top.obj", "bottom.obj", "parts.json", "object_params.json",
            "top_keypoints_300.json", "bottom_keypoints_300.json",
        }  # fmt: skip
    plans = plan_sequences(SampleSpec(subjects=("s04",), sequences_per_subject=16))
    assert {plan.object_name for plan in plans} == ARCTIC_OBJECTS


@pytest.mark.parametrize("side", ["RIGHT", "LEFT"])
def test_both_files_of_a_hand_hold_the_same_model(mano_dir, side):

    one, other = (
        load(mano_dir / f"MANO_{side}{suffix}") for load, suffix in ((load_npz, ".npz"), (load_pickle, ".pkl"))
    )
    assert set(one) == set(other)
    for name, value in one.items():
        np.testing.assert_array_equal(np.asarray(other[name]), value)


@pytest.mark.slow
def test_the_file_holds_what_the_generator_fits() -> None:
    from hawor_pipeline.sample.hand import stored_arrays
    from tools.procedural_body.__main__ import correctives

    stored, fitted = stored_arrays(body.BODY_FILE), correctives()
    for side, array in fitted.items():
        np.testing.assert_allclose(stored[side], array, rtol=0, atol=1e-3)
