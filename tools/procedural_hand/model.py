"""The arrays of `hawor_pipeline/sample/hand.npz`: the right hand's model and its rest skeleton."""

from dataclasses import asdict

import numpy as np

from hawor_pipeline.sample.hand import GRASP_ANGLES, angles_to_pose
from tools.procedural_hand.deformation import blend_weights, joint_regressor, pose_correctives, shape_motion
from tools.procedural_hand.mesh import right_hand_mesh
from tools.procedural_hand.skeleton import SKELETON

GRASPS = {name: angles_to_pose(angles, SKELETON) for name, angles in GRASP_ANGLES.items()}
"""(45,) absolute axis-angle of each named grasp, right hand, radians."""

RELAXED_POSE = GRASPS["relaxed"]
"""(45,) the model's `hands_mean`, right hand: a slightly closed, resting hand."""


def hand_arrays() -> dict[str, np.ndarray]:
    """Generate the arrays of the file.

    Returns:
        MANO's `v_template` (778, 3) m, `f` (1538, 3), `shapedirs` (778, 3, 10), `J_regressor` (16, 778), `J` (16, 3),
        `weights` (778, 16), `hands_mean` (45,), `hands_components` (45, 45), `hands_coeffs` (grasps, 45); the fields of
        `RestSkeleton`; and instead of `posedirs`, which is ten times as large, `bulge_index` (2, N) joint - 1 and
        vertex, `bulge_cosine` and `bulge_sine` (N, 3) m.

    Raises:
        NumericalError: the mesh missed MANO's counts.
    """
    vertices, faces = right_hand_mesh()
    weights = blend_weights(vertices, faces)
    shapedirs = shape_motion(vertices, weights)
    regressor = joint_regressor(vertices, shapedirs)
    cosine, sine = pose_correctives(vertices, faces, weights)
    bulges = (cosine != 0).any(axis=-1) | (sine != 0).any(axis=-1)
    components, coefficients = _pose_components()
    return {
        "v_template": vertices,
        "f": faces.astype(np.uint16),
        "shapedirs": shapedirs,
        "J_regressor": regressor,
        "J": regressor @ vertices,
        "weights": weights,
        "hands_mean": RELAXED_POSE,
        "hands_components": components,
        "hands_coeffs": coefficients,
        "bulge_index": np.stack(np.nonzero(bulges)).astype(np.uint16),
        "bulge_cosine": cosine[bulges],
        "bulge_sine": sine[bulges],
        **asdict(SKELETON),
    }


def _pose_components() -> tuple[np.ndarray, np.ndarray]:
    """Return orthonormal directions (45, 45) of hand pose, principal ones of the grasps first, and the grasps in them.

    The sign of a singular vector is arbitrary, so each is turned to make its largest entry positive.
    """
    offsets = np.stack([pose - RELAXED_POSE for pose in GRASPS.values()])
    components = np.linalg.svd(offsets, full_matrices=True)[2]
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
    components = components * np.sign(largest)
    return components, offsets @ components.T
