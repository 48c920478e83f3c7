"""The sample's person as one body in SMPL-X's file format: the drawn torso, head and arms, and the synthetic hands.

Convention: SMPL-X's. Metres; at rest the person stands with stretched arms, faces +z, y is up and x points to the
person's left. The hands at rest are those of MANO's format, so MANO's rotations are those of wrists and fingers. Sizes,
data types and keys are those of SMPL-X's own `.npz` files, which smplx reads; `source` marks the files as synthetic.
Vertices that the drawn person does not need lie at the joints, in triangles without area.

A subject's template holds the shape of its arms and hands, as ARCTIC's `meta/subject_vtemplates/{subject}.obj` does.
Posed with `body_parameters`, the arms are those of `person.arm_mesh` within millimetres. A hand that reaches farther
than its arm is long stays short of it, as the drawn arm stretches.
"""

import io
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from hawor_pipeline.core.body import (
    BODY_FACE_COUNT,
    BODY_JOINT_COUNT,
    BODY_PARENTS,
    BODY_VERTEX_COUNT,
    ELBOW_BONES,
    FIRST_FINGER_BONE,
    NECK_BONE,
    SHOULDER_BONES,
    WRIST_BONES,
)
from hawor_pipeline.core.skeleton import TIP_VERTEX_IDS
from hawor_pipeline.provenance import atomic_write_bytes, atomic_write_text
from hawor_pipeline.sample.articulated_objects import SCENE_FILE
from hawor_pipeline.sample.grasp import FOREARM_M, UPPER_ARM_M, HandRig
from hawor_pipeline.sample.hand import SIDES, build_mano, stored_arrays
from hawor_pipeline.sample.hand_motion import SHOULDER_M, HandTrack, Motion
from hawor_pipeline.sample.person import ARM_RINGS, FOREARM_RINGS, arm_mesh, hem_ring, ring_faces, wrist_rim
from hawor_pipeline.sample.studio import Look, body_rotation

SOURCE = "synthetic: procedural body of hawor_pipeline, not SMPL-X"
BODY_FILE = "body.npz"  # pose correctives of the arms, written by `python -m tools.procedural_body`
GENDERS = ("NEUTRAL", "FEMALE", "MALE")
# Columns: the axes of SMPL-X's rest frame in the body frame (x to the right, y forward, z up).
BODY_FROM_SMPLX = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
RIM_VERTICES = 16  # vertices of a ring of the arm
# Inside and rim of the wrist, each further ring bare and sleeved, the two that close the tube.
_RINGS = 2 + 2 * (ARM_RINGS - 1) + 2
BARE_RINGS = np.array([0, 1, *range(2, _RINGS - 2, 2), _RINGS - 2, _RINGS - 1])
_ARM = _RINGS * RIM_VERTICES
_COPIES = np.array([1, 1, *[2] * (ARM_RINGS - 1), 1, 1])  # of each bare ring
_HAND = 778
_HEAD_BONE, _SPINE = 15, ((0.85, 1), (0.95, 0), (1.1, 3), (1.25, 6), (1.4365, 9))  # heights below which a bone rules
# Rest joints of the trunk, (y, z) or (x, y, z) of the left one of a pair; arms and fingers follow from the drawn arm
# and the hand model.
_MIDDLE = {0: (0.93, -0.05), 3: (1.03, -0.05), 6: (1.15, -0.05), 9: (1.22, -0.05), 12: (1.44, -0.045),
           15: (1.54, -0.02), 22: (1.56, 0.03)}  # fmt: skip
_PAIRS = {1: (0.09, 0.86, -0.05), 4: (0.1, 0.47, -0.05), 7: (0.1, 0.08, -0.06), 10: (0.12, 0.02, 0.07),
          13: (0.08, 1.36, -0.04), 23: (0.03, 1.62, 0.085)}  # fmt: skip
# Vertices that smplx takes for further joints: the tips of the digits (thumb to pinky), face and feet.
_TIPS = {"right": (8079, 7669, 7794, 7905, 8022), "left": (5361, 4933, 5058, 5169, 5286)}
_MARKS = {
    9120: (0.0, 1.6, 0.1), 9929: (-0.03, 1.62, 0.095), 9448: (0.03, 1.62, 0.095), 616: (-0.075, 1.6, 0.0),
    6: (0.075, 1.6, 0.0), 5770: (0.1, 0.01, 0.12), 5780: (0.16, 0.01, 0.1), 8846: (0.11, 0.02, -0.12),
    8463: (-0.1, 0.01, 0.12), 8474: (-0.16, 0.01, 0.1), 8635: (-0.11, 0.02, -0.12),
}  # fmt: skip


@cache
def vertex_blocks() -> dict[str, np.ndarray]:
    """Return the vertex ids of each block of the body: `right`, `left`, `right_arm`, `left_arm`, `trunk`, `joints`.

    Every block keeps its order, but the ids that smplx takes for further joints belong to the vertices there.
    """
    trunk = len(stored_arrays(SCENE_FILE)["body.vertices"])
    sizes = {"right": _HAND, "left": _HAND, "right_arm": _ARM, "left_arm": _ARM, "trunk": trunk}
    reserved = {*_MARKS, *_TIPS["right"], *_TIPS["left"]}
    free = iter(sorted(set(range(BODY_VERTEX_COUNT)) - reserved))
    ids = {}
    for name, size in (sizes | {"joints": BODY_JOINT_COUNT}).items():
        tips = dict(zip(TIP_VERTEX_IDS, _TIPS.get(name, ()), strict=False))
        ids[name] = np.array([tips[k] if k in tips else next(free) for k in range(size)])
    return ids


def _rest_joints(rigs: Mapping[str, HandRig]) -> np.ndarray:
    """Return the joints (55, 3) of a person with these hands, in the rest frame."""
    joints = np.zeros((BODY_JOINT_COUNT, 3))
    for bone, (height, depth) in _MIDDLE.items():
        joints[bone] = (0.0, height, depth)
    for bone, place in _PAIRS.items():
        joints[bone], joints[bone + 1] = place, place * np.array([-1, 1, 1])
    for side, rig in rigs.items():
        outward = np.array([-rig.sign, 0.0, 0.0])
        shoulder = BODY_FROM_SMPLX.T @ (SHOULDER_M * np.array([rig.sign, 1, 1]))
        joints[SHOULDER_BONES[side]] = shoulder
        joints[ELBOW_BONES[side]] = shoulder + UPPER_ARM_M * outward
        wrist = joints[WRIST_BONES[side]] = joints[ELBOW_BONES[side]] + FOREARM_M * outward
        fingers = slice(FIRST_FINGER_BONE[side], FIRST_FINGER_BONE[side] + 15)
        joints[fingers] = rig.rest_joints[1:] - rig.root + wrist
    return joints


def _rest_track(rig: HandRig, joints: np.ndarray) -> HandTrack:
    """Return the hand and the arm at rest, as one frame of a track in SMPL-X's rest frame."""
    still, place = np.zeros((1, 3)), joints[WRIST_BONES[rig.side]] - rig.root
    vertices, found = rig.mesh(still, np.zeros((1, 45)), place[None])
    back = found[:, 0] - found[:, [5, 9, 13, 17]].mean(axis=1)
    return HandTrack(
        orient=still,
        pose=-rig.mean[None],
        translation=place[None],
        betas=rig.betas,
        vertices=vertices,
        joints=found,
        elbow=joints[ELBOW_BONES[rig.side]][None],
        shoulder=joints[SHOULDER_BONES[rig.side]],
        away=back / np.linalg.norm(back, axis=-1, keepdims=True),
    )


def arm_rows(look: Look) -> np.ndarray:
    """Return the rings of `person.arm_mesh` that the rings of the body's arm coincide with.

    The drawn arm has two rings at the hem of the sleeve, and its place depends on the look. The body has two of every
    ring; where there is no hem, both coincide.
    """
    hem = hem_ring(look)
    bare = [1 + k + (k > hem) for k in range(1, ARM_RINGS)]
    sleeved = [1 + k + (k >= hem) for k in range(1, ARM_RINGS)]
    pairs = [ring for pair in zip(bare, sleeved, strict=True) for ring in pair]
    return np.array([0, 1, *pairs, ARM_RINGS + 2, ARM_RINGS + 3])


def subject_template(look: Look, rigs: Mapping[str, HandRig]) -> np.ndarray:
    """Return the rest vertices (10475, 3) of a subject, metres."""
    ids, joints = vertex_blocks(), _rest_joints(rigs)
    template = np.tile(joints[0], (BODY_VERTEX_COUNT, 1))
    template[list(_MARKS)] = list(_MARKS.values())
    template[ids["joints"]] = joints
    template[ids["trunk"]] = stored_arrays(SCENE_FILE)["body.vertices"] @ BODY_FROM_SMPLX
    for side, rig in rigs.items():
        track = _rest_track(rig, joints)
        rim = wrist_rim(rig.faces)
        arm = arm_mesh(track, rim, np.zeros((len(rim), 3)), look).vertices[0].reshape(-1, RIM_VERTICES, 3)
        template[ids[side]] = track.vertices[0]
        template[ids[f"{side}_arm"]] = arm[arm_rows(look)].reshape(-1, 3)
    return template


def _arm_weights(side: str) -> np.ndarray:
    """Return the skin weights (_ARM, 55) of an arm.

    The drawn centre line is a Bezier curve of the wrist's and the forearm's directions. Its term of the wrist is that
    of linear blend skinning with the weight `turning / along` of the wrist.
    """
    u = np.linspace(0, 1, FOREARM_RINGS)
    turning = 0.9 * (1 - u) ** 2 * u
    along = turning + 1.65 * (1 - u) * u**2 + u**3
    wrist = np.concatenate([[1.0], turning[1:] / along[1:]])
    of_ring = np.zeros((ARM_RINGS, BODY_JOINT_COUNT))
    of_ring[:FOREARM_RINGS, WRIST_BONES[side]] = wrist
    of_ring[:FOREARM_RINGS, ELBOW_BONES[side]] = 1 - wrist
    of_ring[FOREARM_RINGS - 1 :, SHOULDER_BONES[side]] = 1.0
    of_ring[FOREARM_RINGS - 1, [ELBOW_BONES[side], SHOULDER_BONES[side]]] = 0.5
    rings = np.array([0, 0, *range(1, ARM_RINGS), ARM_RINGS - 1, ARM_RINGS - 1])
    return np.repeat(of_ring[np.repeat(rings, _COPIES)], RIM_VERTICES, axis=0)


def skin_weights() -> np.ndarray:
    """Return the weight (10475, 55) of each bone for each vertex."""
    ids = vertex_blocks()
    weights = np.zeros((BODY_VERTEX_COUNT, BODY_JOINT_COUNT))
    weights[:, 0] = 1.0
    owned = np.concatenate([part for name, part in ids.items()])
    weights[owned] = 0.0
    weights[ids["joints"], np.arange(BODY_JOINT_COUNT)] = 1.0
    stored = stored_arrays(SCENE_FILE)
    torso = int(stored["body.torso_vertices"])
    for vertex, (x, _, height) in zip(ids["trunk"][:torso], stored["body.vertices"][:torso], strict=True):
        bone = next((bone for below, bone in _SPINE if height < below), NECK_BONE)
        weights[vertex, bone + (bone == 1 and x > 0)] = 1.0
    weights[ids["trunk"][torso:], _HEAD_BONE] = 1.0
    for side in SIDES:
        bones = [WRIST_BONES[side], *range(FIRST_FINGER_BONE[side], FIRST_FINGER_BONE[side] + 15)]
        weights[ids[side][:, None], bones] = build_mano(side)["weights"]
        weights[ids[f"{side}_arm"]] = _arm_weights(side)
    return weights


def _faces() -> np.ndarray:
    ids = vertex_blocks()
    parts = [ids["trunk"][stored_arrays(SCENE_FILE)["body.faces"]]]
    for side in SIDES:
        rings = ids[f"{side}_arm"][ring_faces(_RINGS, RIM_VERTICES)]
        parts += [ids[side][build_mano(side)["f"].astype(int)], rings]
    drawn = np.concatenate(parts)
    spare = np.setdiff1d(np.arange(BODY_VERTEX_COUNT), drawn)
    filler = np.resize(spare, BODY_FACE_COUNT - len(drawn))  # every spare vertex is in some triangle
    return np.concatenate([drawn, np.repeat(filler[:, None], 3, axis=1)])


def build_smplx(look: Look, rigs: Mapping[str, HandRig]) -> dict[str, np.ndarray]:
    """Build the arrays of the body model, as in SMPL-X's files; the template is that of these hands.

    Returns:
        `v_template` (10475, 3) m, `f` (20908, 3), `shapedirs` (10475, 3, 20) of ten shapes and ten expressions, of
        which only the first, the body's size, is not zero, `posedirs` (10475, 3, 486), `J_regressor` (55, 10475),
        `weights` (10475, 55), `kintree_table` (2, 55), `hands_mean{l,r}` (45,), `hands_components{l,r}` (45, 45),
        landmarks on the head, and the string `source`.
    """
    ids = vertex_blocks()
    template, faces = subject_template(look, rigs), _faces()
    shapedirs = np.zeros((BODY_VERTEX_COUNT, 3, 20), np.float32)
    shapedirs[..., 0] = 0.03 * template
    posedirs = np.zeros((BODY_VERTEX_COUNT, 3, 9 * (BODY_JOINT_COUNT - 1)), np.float32)
    regressor = np.zeros((BODY_JOINT_COUNT, BODY_VERTEX_COUNT), np.float32)
    regressor[np.arange(BODY_JOINT_COUNT), ids["joints"]] = 1.0
    hands: dict[str, np.ndarray] = {}
    for side in SIDES:
        hand, first = build_mano(side), FIRST_FINGER_BONE[side]
        posedirs[ids[side], :, 9 * (first - 1) : 9 * (first + 14)] = hand["posedirs"]
        fitted = stored_arrays(BODY_FILE)[side][np.repeat(np.arange(len(BARE_RINGS)), _COPIES)]
        for part, bone in enumerate((ELBOW_BONES[side], WRIST_BONES[side])):
            columns = slice(9 * (bone - 1), 9 * bone)
            posedirs[ids[f"{side}_arm"], :, columns] = fitted[..., 9 * part : 9 * part + 9].reshape(-1, 3, 9)
        hands |= {f"hands_{name}{side[0]}": hand[f"hands_{name}"] for name in ("mean", "components")}
    face = np.flatnonzero(np.isin(faces, ids["trunk"][-260:]).all(axis=1))
    return {
        "v_template": template.astype(np.float32),
        "f": faces.astype(np.uint32),
        "shapedirs": shapedirs,
        "posedirs": posedirs,
        "J_regressor": regressor,
        "weights": skin_weights().astype(np.float32),
        "kintree_table": np.stack([np.array(BODY_PARENTS) % 2**32, np.arange(BODY_JOINT_COUNT)]).astype(np.uint32),
        **hands,
        "lmk_faces_idx": np.resize(face, 51),
        "lmk_bary_coords": np.full((51, 3), 1 / 3),
        "dynamic_lmk_faces_idx": np.resize(face, (79, 17)),
        "dynamic_lmk_bary_coords": np.full((79, 17, 3), 1 / 3),
        "source": np.array(SOURCE),
    }


def body_parameters(motion: Motion, rigs: Mapping[str, HandRig], look: Look) -> dict[str, np.ndarray]:
    """Return the parameters that pose a subject's template, (T, 3 x bones) axis-angle and `transl` (T, 3) metres.

    *Convention*: as in ARCTIC's `smplx.npy`: hand poses are absolute (`flat_hand_mean=True`).
    """
    frames = len(motion.articulation)
    world = Rotation.from_matrix(body_rotation(look) @ BODY_FROM_SMPLX)
    pelvis = _rest_joints(rigs)[0]
    body = np.zeros((frames, 21, 3))
    for side, track in motion.hands.items():
        for bone, turn in _arm_turns(track, rigs[side], world).items():
            body[:, bone - 1] = turn.as_rotvec()
    poses = {
        "transl": np.tile(world.apply(pelvis) - pelvis, (frames, 1)),
        "global_orient": np.tile(world.as_rotvec(), (frames, 1)),
        "body_pose": body.reshape(frames, -1),
        **{name: np.zeros((frames, 3)) for name in ("jaw_pose", "leye_pose", "reye_pose")},
        **{f"{side}_hand_pose": motion.hands[side].pose + rigs[side].mean for side in SIDES},
    }
    return {name: values.astype(np.float32) for name, values in poses.items()}


def _arm_turns(track: HandTrack, rig: HandRig, world: Rotation) -> dict[int, Rotation]:
    """Return the local rotations (T) of shoulder, elbow and wrist.

    The drawn arm does not twist: each bone follows the next one towards the hand by the smallest rotation.
    """
    inward = np.array([rig.sign, 0.0, 0.0])  # from the wrist to the shoulder, at rest
    hand = Rotation.from_rotvec(track.orient)
    forearm = _aligned(hand, inward, track.elbow - track.joints[:, 0])
    upper = _aligned(forearm, inward, track.shoulder - track.elbow)
    return {
        SHOULDER_BONES[rig.side]: world.inv() * upper,
        ELBOW_BONES[rig.side]: upper.inv() * forearm,
        WRIST_BONES[rig.side]: forearm.inv() * hand,
    }


def _aligned(turn: Rotation, axis: np.ndarray, goal: np.ndarray) -> Rotation:
    """Return `turn` (T) followed by the smallest rotation after which `axis` points along `goal` (T, 3)."""
    now, goal = turn.apply(axis), goal / np.linalg.norm(goal, axis=-1, keepdims=True)
    normal = np.cross(now, goal)
    sine = np.linalg.norm(normal, axis=-1, keepdims=True)
    angle = np.arctan2(sine, (now * goal).sum(-1, keepdims=True))
    return Rotation.from_rotvec(normal / np.maximum(sine, 1e-12) * angle) * turn


def write_body_models(directory: Path, look: Look, rigs: Mapping[str, HandRig]) -> None:
    """Write SMPLX_NEUTRAL.npz, SMPLX_FEMALE.npz and SMPLX_MALE.npz, which are equal; same bytes each time."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **build_smplx(look, rigs))  # type: ignore[arg-type]
    for gender in GENDERS:
        atomic_write_bytes(directory / f"SMPLX_{gender}.npz", buffer.getvalue())


def write_subject_templates(folder: Path, templates: Mapping[str, np.ndarray]) -> None:
    """Write `{subject}.obj` of each subject's rest vertices (10475, 3), metres."""
    faces = "".join(f"f {a} {b} {c}\n" for a, b, c in (_faces() + 1).tolist())
    for subject, vertices in templates.items():
        lines = "".join(f"v {x:.6f} {y:.6f} {z:.6f}\n" for x, y, z in vertices.tolist())
        note = "# synthetic: made by hawor_pipeline, not part of ARCTIC; metres\n"
        atomic_write_text(folder / f"{subject}.obj", note + lines + faces)
