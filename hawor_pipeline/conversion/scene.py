"""What all views of one sequence share: posed hands and object, cameras, who hides what, how far apart they are."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hawor_pipeline.conversion.hand_geometry import ViewCamera, WorldHand, pose_hand, view_camera
from hawor_pipeline.conversion.visibility import SkinFaces, joint_visibility
from hawor_pipeline.sources.arctic import SIDES, ArcticRoot
from hawor_pipeline.sources.hand_models import load_hand_models
from hawor_pipeline.sources.image_files import ImageFile
from hawor_pipeline.sources.object_mesh import ObjectMesh, load_object
from hawor_pipeline.sources.object_part import least_distance
from hawor_pipeline.sources.raw_sequence import RawSequence, load_sequence

EVERY_IMAGE = slice(None)


@dataclass(slots=True)
class Scene:
    """One sequence in the world frame. T is the number of ground-truth frames."""

    raw: RawSequence
    hands: dict[str, WorldHand]
    cameras: dict[int, ViewCamera]
    images: dict[int, dict[int, ImageFile]]  # view -> frame number -> picture
    object_vertices: np.ndarray  # (T, V, 3)
    offset: int  # number of the picture that shows ground truth 0
    visible: dict[str, np.ndarray]  # side -> (views, T, 21), for the moments that any view shows
    distances: list[tuple[int, str, float]]  # ground-truth index, side, hand to object in metres


def open_scene(
    root_path: Path,
    mano_dir: Path,
    subject: str,
    sequence: str,
    views: tuple[int, ...],
    *,
    only: slice = EVERY_IMAGE,
) -> Scene:
    """Read and pose one sequence.

    Args:
        root_path: the root of the raw data.
        mano_dir: folder of the MANO models.
        subject, sequence: which.
        views: which.
        only: of the pictures of each view, those to take.

    Raises:
        DataError: a raw file, a model or an object mesh is damaged or missing.
    """
    root = ArcticRoot(root_path)
    raw = load_sequence(root, subject, sequence)
    subject_cameras = root.cameras(subject)
    models = load_hand_models(mano_dir)
    mesh = load_object(root, raw.object)
    scene = Scene(
        raw=raw,
        hands={side: pose_hand(models, side, raw.hands[side]) for side in SIDES},
        cameras={view: view_camera(raw, subject_cameras, view) for view in views},
        images={view: dict(list(root.images(subject, sequence, view).items())[only]) for view in views},
        object_vertices=mesh.posed(raw.object_articulation, raw.object_rotation, raw.object_translation_m),
        offset=subject_cameras.ioi_offset,
        visible={side: np.zeros((len(views), len(raw), 21), bool) for side in SIDES},
        distances=[],
    )
    skin = SkinFaces.from_models(
        {side: models.arrays[side].faces for side in SIDES}, {side: models.arrays[side].skin_weights for side in SIDES}
    )
    shown = {frame - scene.offset for images in scene.images.values() for frame in images}
    measure_contacts(scene, mesh, skin, sorted(shown & set(range(len(raw)))))
    return scene


def measure_contacts(scene: Scene, mesh: ObjectMesh, skin: SkinFaces, moments: list[int]) -> None:
    """Visibility in all views and distance to the object, at the moments that are shown."""
    centres = np.stack([camera.centres_m for camera in scene.cameras.values()])  # (views, T, 3)
    raw = scene.raw
    parts = mesh.posed_parts(raw.object_articulation, raw.object_rotation, raw.object_translation_m)
    for index in moments:
        vertices = {side: scene.hands[side].vertices_m[index] for side in SIDES}
        joints = {side: scene.hands[side].joints_m[index] for side in SIDES}
        seen = joint_visibility(vertices, joints, centres[:, index], skin, parts[index])
        for side in SIDES:
            scene.visible[side][:, index] = seen[side]
            scene.distances.append((index, side, least_distance(parts[index], vertices[side])))
