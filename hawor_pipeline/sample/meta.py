"""ARCTIC's `meta` and `splits_json` of a sample: calibration, objects, protocols."""

import json
from pathlib import Path

import numpy as np

from hawor_pipeline.provenance import atomic_write_text
from hawor_pipeline.sample.articulated_objects import BOTTOM_PART, TOP_PART, ObjectModel, build_object
from hawor_pipeline.sample.spec import (
    IOI_OFFSETS,
    OBJECT_NAMES,
    SUBJECTS,
    VALIDATION_SUBJECT,
    WITHHELD_SUBJECT,
    SampleSpec,
    plan_sequences,
)
from hawor_pipeline.sample.studio import GENDERS, make_cameras

_PART_NAMES = {TOP_PART: "top", BOTTOM_PART: "bottom"}


def write_meta(arctic: Path, spec: SampleSpec) -> None:
    """Write `meta/` and `splits_json/`, with calibrations of all ten subjects as in ARCTIC's own file."""
    meta = arctic / "meta"
    _write_json(meta / "misc.json", {subject: _misc(subject, spec) for subject in SUBJECTS})
    models = [build_object(name) for name in OBJECT_NAMES]
    _write_json(meta / "object_meta.json", {m.name: {"diameter": m.diameter_m, "source": "synthetic"} for m in models})
    for model in models:
        _write_object(meta / "object_vtemplates" / model.name, model)
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for plan in plan_sequences(spec):
        split = {VALIDATION_SUBJECT: "val", WITHHELD_SUBJECT: "test"}.get(plan.subject, "train")
        splits[split].append(f"{plan.subject}/{plan.name}")
    for protocol in ("p1", "p2"):
        _write_json(arctic / "splits_json" / f"protocol_{protocol}.json", splits)


def _misc(subject: str, spec: SampleSpec) -> dict:
    cameras = make_cameras(subject, spec.seed, spec.image_scale)
    return {
        "gender": GENDERS[subject],
        "image_size": [[c.width, c.height] for c in cameras],
        "ioi_offset": IOI_OFFSETS[subject],
        "world2cam": [c.cam_from_world.tolist() for c in cameras if c.cam_from_world is not None],
        "intris_mat": [c.intrinsics.tolist() for c in cameras[1:]],
        "source": "synthetic",
    }


def _write_object(folder: Path, model: ObjectModel) -> None:
    """Write meshes, parts and bounding boxes of one object, in millimetres."""
    _write_obj(folder / "mesh.obj", model.vertices_mm, model.faces)
    parameters: dict = {"source": "synthetic"}
    for part, name in _PART_NAMES.items():
        vertices, faces = model.part_mesh(part)
        _write_obj(folder / f"{name}.obj", vertices, faces)
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        corners = [[(low, high)[(i >> axis) & 1][axis] for axis in range(3)] for i in range(8)]
        parameters[f"bbox_{name}"] = np.round(corners, 4).tolist()
        parameters[f"keypoints_{name}"] = np.round(_farthest_points(vertices, 16), 4).tolist()
        parameters[f"mocap_{name}"] = np.round(_farthest_points(vertices, 6), 4).tolist()
        _write_json(folder / f"{name}_keypoints_300.json", {"keypoints": np.round(_spread(vertices, 300), 4).tolist()})
    _write_json(folder / "parts.json", model.parts.tolist())
    _write_json(folder / "object_params.json", parameters)


def _farthest_points(vertices: np.ndarray, count: int) -> np.ndarray:
    chosen = [vertices[np.argmin(vertices.sum(axis=1))]]
    distance = np.full(len(vertices), np.inf)
    for _ in range(count - 1):
        distance = np.minimum(distance, np.linalg.norm(vertices - chosen[-1], axis=1))
        chosen.append(vertices[np.argmax(distance)])
    return np.array(chosen)


def _spread(vertices: np.ndarray, count: int) -> np.ndarray:
    return vertices[np.linspace(0, len(vertices) - 1, count).astype(int)]


def _write_obj(path: Path, vertices: np.ndarray, faces: np.ndarray) -> None:
    lines = ["# synthetic: made by hawor_pipeline, not part of ARCTIC; millimetres"]
    lines += [f"v {x:.5f} {y:.5f} {z:.5f}" for x, y, z in vertices]
    lines += [f"f {a} {b} {c}" for a, b, c in faces + 1]
    atomic_write_text(path, "\n".join(lines) + "\n")


def _write_json(path: Path, value) -> None:
    atomic_write_text(path, json.dumps(value))
