"""A mesh to turn, and the drawing of a hand with the error of each joint."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hawor_pipeline.core.skeleton import BONES, JOINT_NAMES
from hawor_pipeline.reporting.style import FONT, INK, RUN, TRUE, Figure


def turnable_mesh(meshes: Sequence[Mapping[str, Any]], triangles: Sequence[Sequence[int]]) -> Figure:
    """Draw true and predicted mesh of a few samples; the page shows one pair at a time.

    Args:
        meshes: `true_mm` and, where predicted, `predicted_mm`: lists of (x, y, z).
        triangles: of all meshes.
    """
    corners = dict(zip("ijk", np.array(triangles).T.tolist(), strict=True))
    traces = []
    for number, mesh in enumerate(meshes):
        for name, key, color, opacity in (
            ("ground truth", "true_mm", TRUE, 0.55),
            ("prediction", "predicted_mm", RUN, 1.0),
        ):
            if key not in mesh:
                continue
            traces.append(
                {
                    "type": "mesh3d",
                    "name": name,
                    **dict(zip("xyz", np.array(mesh[key]).T.tolist(), strict=True)),
                    **corners,
                    "color": color,
                    "opacity": opacity,
                    "flatshading": False,
                    "lighting": {"ambient": 0.45, "diffuse": 0.8, "specular": 0.15, "roughness": 0.6},
                    "lightposition": {"x": -200, "y": 500, "z": 900},
                    "visible": number == 0,
                    "hoverinfo": "name",
                    "showlegend": number == 0,
                }
            )
    hidden = {"visible": False}
    layout = {
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
        "legend": {"orientation": "h", "x": 0, "y": 1},
        "scene": {
            "aspectmode": "data",
            "xaxis": hidden,
            "yaxis": hidden,
            "zaxis": hidden,
            "camera": {
                "up": {"x": 0, "y": 1, "z": 0},
                "eye": {"x": 0.2, "y": 0.3, "z": 1.9},
                "projection": {"type": "perspective"},
            },
            "dragmode": "orbit",
        },
    }
    return {"data": traces, "layout": layout}


# Places of the joints, in OpenPose order, of a right hand, palm down, in a drawing of 100 by 120.
_HAND_SPOTS = (
    (52, 110),
    (36, 98), (24, 84), (15, 71), (7, 60),
    (36, 62), (32, 43), (29, 30), (27, 18),
    (50, 58), (49, 36), (48, 22), (48, 9),
    (63, 61), (66, 41), (68, 28), (69, 16),
    (75, 68), (82, 53), (86, 43), (90, 33),
)  # fmt: skip


def hand_drawing(values: Sequence[float | None]) -> list[Mapping[str, Any]] | None:
    """Return bones, and spots with radius, colour and text, of joint errors (mm, OpenPose order); None without data."""
    known = [value for value in values if value is not None]
    if len(known) < len(JOINT_NAMES) or not max(known):
        return None
    top = max(known)
    spots: list[Mapping[str, Any]] = [
        {
            "kind": "spot",
            "x": x,
            "y": y,
            "r": round(1.2 + 4.2 * (value or 0) / top, 2),
            "color": _heat((value or 0) / top),
            "text": f"{name.replace('_', ' ')}: {value:.1f} mm",
            "label": f"{value:.0f}" if name.endswith("tip") else "",
        }
        for (x, y), name, value in zip(_HAND_SPOTS, JOINT_NAMES, values, strict=True)
    ]
    ends = [(*_HAND_SPOTS[a], *_HAND_SPOTS[b]) for a, b in BONES]
    bones = [{"kind": "bone", "x1": x1, "y1": y1, "x2": x2, "y2": y2} for x1, y1, x2, y2 in ends]
    return bones + spots


def _heat(share: float) -> str:
    low, high = np.array([222, 214, 205]), np.array([176, 58, 12])
    red, green, blue = (low + (high - low) * share).round().astype(int)
    return f"rgb({red},{green},{blue})"
