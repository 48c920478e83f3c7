"""Fit the sample's body to the drawn arms: `python -m tools.procedural_body`, from the root of the repository.

Linear blend skinning alone leaves the posed arms up to 4 cm from the drawn ones, at the elbow. The pose correctives of
SMPL-X's format, linear in the rotation matrices of elbow and wrist, are fitted to sequences of a seed that no sample
uses, as SMPL-X's own were fitted to scans: the mean distance on other sequences falls to about 1 mm.

The same machine writes the same bytes; another one may differ in the last digits, so run it only to change the body.
"""

import io
import tempfile
from pathlib import Path

import numpy as np
import torch

import hawor_pipeline.sample
from hawor_pipeline.core.body import BODY_POSE_PARTS, ELBOW_BONES, WRIST_BONES, bone_motions
from hawor_pipeline.core.rotations import axis_angle_to_rotmat
from hawor_pipeline.provenance import atomic_write_bytes
from hawor_pipeline.sample import person_body as body
from hawor_pipeline.sample.hand import SIDES, write_mano_models
from hawor_pipeline.sample.person import arm_mesh, wrist_rim
from hawor_pipeline.sample.sequence import build_motion
from hawor_pipeline.sample.spec import SampleSpec, plan_sequences
from hawor_pipeline.sample.studio import make_look

SEQUENCES = SampleSpec(sequences_per_subject=3, frames=60, seed=5, tempo=3)
_REACH_M = body.FOREARM_M + 0.0001  # a longer forearm is a stretched one, which no pose of the body has
_RIDGE = 1e-3  # per frame


def correctives() -> dict[str, np.ndarray]:
    """Fit the correctives of both arms: (rings, 16, 3, 18) for each side, bare rings alone."""
    samples: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        write_mano_models(Path(folder))
        for plan in plan_sequences(SEQUENCES):
            for side, sample in _samples(Path(folder), plan).items():
                samples[side].append(sample)
    fitted = {}
    for side, parts in samples.items():
        features, goals = (np.concatenate(part) for part in zip(*parts, strict=True))
        normal = features.T @ features + _RIDGE * len(features) * np.eye(features.shape[1])
        found = np.linalg.solve(normal, features.T @ goals.reshape(len(goals), -1))
        rings = found.T.reshape(-1, body.RIM_VERTICES, 3, features.shape[1])
        fitted[side] = rings[body.BARE_RINGS].astype(np.float16)
    return fitted


def _samples(mano: Path, plan) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return, for each side of one sequence, the features (T, 18) and the displacements (T, V, 3) at rest."""
    motion, rigs = build_motion(mano, SEQUENCES, plan)
    look, ids = make_look(plan.subject, SEQUENCES.seed), body.vertex_blocks()
    template = body.subject_template(look, rigs)
    parameters = body.body_parameters(motion, rigs, look)
    poses = np.concatenate([parameters[name] for name in BODY_POSE_PARTS], axis=1)
    turns = axis_angle_to_rotmat(torch.from_numpy(poses.reshape(len(poses), -1, 3)).double())
    places = torch.from_numpy(parameters["transl"]).double()
    motions = bone_motions(turns, torch.from_numpy(template[ids["joints"]]), places)
    found = {}
    for side, track in motion.hands.items():
        arm = ids[f"{side}_arm"]
        whole = np.linalg.norm(track.elbow - track.joints[:, 0], axis=1) < _REACH_M
        weights = torch.from_numpy(body.skin_weights()[arm])
        blended = torch.einsum("vb,tbij->tvij", weights, motions[whole]).numpy()
        rim = wrist_rim(rigs[side].faces)
        drawn = arm_mesh(track, rim, np.zeros((len(rim), 3)), look).vertices.reshape(len(poses), -1, len(rim), 3)
        drawn = drawn[whole][:, body.arm_rows(look)].reshape(len(blended), -1, 3)
        unposed = np.linalg.solve(blended[..., :3], (drawn - blended[..., 3])[..., None])[..., 0]
        pair = turns[whole][:, [ELBOW_BONES[side], WRIST_BONES[side]]] - torch.eye(3)
        found[side] = pair.flatten(1).numpy(), unposed - template[arm]
    return found


def main() -> None:
    """Fit the correctives and replace the package's file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **correctives())  # type: ignore[arg-type]
    file = Path(hawor_pipeline.sample.__file__).with_name(body.BODY_FILE)
    atomic_write_bytes(file, buffer.getvalue())
    print(f"wrote {file} ({file.stat().st_size} bytes)")


if __name__ == "__main__":
    main()
