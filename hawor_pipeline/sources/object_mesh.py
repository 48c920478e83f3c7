"""ARCTIC's articulated objects: two rigid parts from `top.obj` and `bottom.obj`, posed in the world frame."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from hawor_pipeline.core.units import mm_to_m
from hawor_pipeline.errors import DataError
from hawor_pipeline.sources.arctic import ArcticRoot
from hawor_pipeline.sources.object_part import ObjectPart, PosedPart

# The top part turns about this axis of the object's own frame by the articulation angle (ARCTIC's convention).
ARTICULATION_AXIS = np.array([0.0, 0.0, -1.0])


@dataclass(frozen=True, slots=True)
class ObjectMesh:
    """Triangles of an object in its own frame, metres; vertices of the top part come first."""

    vertices: np.ndarray  # (V, 3)
    faces: np.ndarray  # (F, 3) int32
    top_count: int

    def posed(self, articulation: np.ndarray, rotation: np.ndarray, translation_m: np.ndarray) -> np.ndarray:
        """Vertices in the world frame.

        Args:
            articulation: (T,), radians.
            rotation: (T, 3), axis-angle.
            translation_m: (T, 3), metres.

        Returns:
            (T, V, 3), metres.

        Source: ARCTIC's object model: articulate the top part, then move both parts rigidly.
        """
        turns, frames = _rotations(articulation, rotation)
        top = self.vertices[: self.top_count] @ turns.transpose(0, 2, 1)  # (T, V_top, 3)
        bottom = np.broadcast_to(self.vertices[self.top_count :], (len(turns), len(self.vertices) - self.top_count, 3))
        return np.concatenate((top, bottom), 1) @ frames.transpose(0, 2, 1) + translation_m[:, None]

    def posed_parts(
        self, articulation: np.ndarray, rotation: np.ndarray, translation_m: np.ndarray
    ) -> list[tuple[PosedPart, ...]]:
        """The two rigid parts at each moment; arguments as of `posed`."""
        turns, frames = _rotations(articulation, rotation)
        of_top = (self.faces < self.top_count).all(1)
        top = ObjectPart(self.vertices[: self.top_count], self.faces[of_top])
        bottom = ObjectPart(self.vertices[self.top_count :], self.faces[~of_top] - self.top_count)
        return [
            (PosedPart(top, frame @ turn, shift), PosedPart(bottom, frame, shift))
            for turn, frame, shift in zip(turns, frames, translation_m, strict=True)
        ]


@dataclass(frozen=True)
class PosedObject:
    """An object over T moments in the world frame; arrays as of `ObjectMesh.posed`."""

    mesh: ObjectMesh
    articulation: np.ndarray  # (T,)
    rotation: np.ndarray  # (T, 3)
    translation_m: np.ndarray  # (T, 3)

    @cached_property
    def vertices_m(self) -> np.ndarray:
        """(T, V, 3)."""
        return self.mesh.posed(self.articulation, self.rotation, self.translation_m)

    def parts(self) -> list[tuple[PosedPart, ...]]:
        """Return the rigid parts at each moment."""
        return self.mesh.posed_parts(self.articulation, self.rotation, self.translation_m)

    def moment(self, index: int) -> "PosedObject":
        """Reduce to one moment."""
        part = slice(index, index + 1)
        return replace(
            self,
            articulation=self.articulation[part],
            rotation=self.rotation[part],
            translation_m=self.translation_m[part],
        )


def _rotations(articulation: np.ndarray, rotation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the top part in the object's frame and of the object in the world, (T, 3, 3) both."""
    import torch

    from hawor_pipeline.core.rotations import axis_angle_to_rotmat

    turns = axis_angle_to_rotmat(torch.from_numpy(articulation[:, None] * ARTICULATION_AXIS)).numpy()
    return turns, axis_angle_to_rotmat(torch.from_numpy(rotation)).numpy()


def load_object(root: ArcticRoot, name: str) -> ObjectMesh:
    """Read the two parts of an object.

    Raises:
        DataError: a part is missing or is not a triangle mesh; the message names the file.
    """
    files = [root.object_folder(name) / part for part in ("top.obj", "bottom.obj")]
    for file in files:
        if file.is_file():
            root.check_raw_file(file)
    (top, top_faces), (bottom, bottom_faces) = map(read_obj, files)
    faces = np.concatenate((top_faces, bottom_faces + len(top)))
    return ObjectMesh(mm_to_m(np.concatenate((top, bottom))), faces.astype(np.int32), len(top))


def read_obj(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) in the file's unit and triangles (F, 3) of a Wavefront file; polygons become fans.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); get ARCTIC's meta folder again.") from None
    try:
        vertices = np.array([line.split()[1:4] for line in lines if line.startswith("v ")], np.float64).reshape(-1, 3)
        corners = [[int(c.split("/")[0]) for c in line.split()[1:]] for line in lines if line.startswith("f ")]
        fans = [(c[0], c[i], c[i + 1]) for c in corners for i in range(1, len(c) - 1)]
        faces = np.array(fans, np.int64).reshape(-1, 3)
    except (ValueError, IndexError) as error:
        raise DataError(f"{path}: not a triangle mesh ({error}); get ARCTIC's meta folder again.") from None
    faces = np.where(faces < 0, faces + len(vertices), faces - 1)
    if not len(faces) or faces.min() < 0 or faces.max() >= len(vertices) or not np.isfinite(vertices).all():
        raise DataError(f"{path}: {len(vertices)} vertices and {len(faces)} triangles that do not fit; get it again.")
    return vertices, faces
