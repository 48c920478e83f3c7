"""The standing body of the sample: torso and head, without arms."""

import numpy as np

from hawor_pipeline.sample.person import ring_faces

TROUSERS, SHIRT, SKIN, HAIR, BAND = range(5)  # rows of the materials in `person.body_mesh`
_SIDES = 18
_TORSO = (  # height, half width, half depth, middle y
    (0.0, 0.17, 0.11, -0.05), (0.45, 0.19, 0.12, -0.05), (0.849, 0.183, 0.125, -0.05), (0.851, 0.186, 0.128, -0.05),
    (1.02, 0.16, 0.115, -0.05), (1.2, 0.175, 0.125, -0.055), (1.32, 0.19, 0.115, -0.06), (1.39, 0.175, 0.085, -0.06),
    (1.43, 0.1, 0.065, -0.055), (1.436, 0.066, 0.066, -0.045), (1.437, 0.058, 0.06, -0.045),
    (1.54, 0.05, 0.058, -0.02),
)  # fmt: skip


def body_arrays() -> dict[str, np.ndarray]:
    """Build the body: vertices (N, 3) in metres in the body frame, torso first, faces, and each vertex's material."""
    profile = np.array(_TORSO)
    angle = np.linspace(0, 2 * np.pi, _SIDES, endpoint=False)
    c, s = np.cos(angle), np.sin(angle)
    squared = np.sign(c) * np.abs(c) ** 0.8, np.sign(s) * np.abs(s) ** 0.8
    torso = np.stack(
        [
            profile[:, 1, None] * squared[0],
            profile[:, 3, None] + profile[:, 2, None] * squared[1],
            np.broadcast_to(profile[:, 0, None], (len(profile), _SIDES)),
        ],
        axis=-1,
    ).reshape(-1, 3)
    heights = torso[:, 2]
    dressed = np.where(heights < 0.85, TROUSERS, np.where(heights < 1.4365, SHIRT, SKIN))
    skull, skull_faces, skull_surface = _head()
    return {
        "vertices": np.concatenate([torso, skull]),
        "faces": np.concatenate([ring_faces(len(profile), _SIDES), skull_faces + len(torso)]),
        "surface": np.concatenate([dressed, skull_surface]),
        "torso_vertices": np.array(len(torso)),
    }


def _head() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    latitude = np.linspace(-np.pi / 2 + 0.02, np.pi / 2 - 0.02, 13)
    longitude = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    ring = np.cos(latitude)[:, None]
    unit = np.stack(
        [ring * np.cos(longitude), ring * np.sin(longitude), np.broadcast_to(np.sin(latitude)[:, None], (13, 20))], -1
    )
    points = unit * np.array([0.076, 0.095, 0.12])
    tilt = np.radians(32)
    turn = np.array([[1, 0, 0], [0, np.cos(tilt), np.sin(tilt)], [0, -np.sin(tilt), np.cos(tilt)]])
    hairy = (unit[..., 2] > 0.35) | (unit[..., 1] < -0.1) & (unit[..., 2] > -0.45)
    band = hairy & (np.abs(unit[..., 2] - 0.55) < 0.13)
    surface = np.where(band, BAND, np.where(hairy, HAIR, SKIN))
    return points.reshape(-1, 3) @ turn.T + np.array([0.0, 0.005, 1.615]), ring_faces(13, 20), surface.ravel()
