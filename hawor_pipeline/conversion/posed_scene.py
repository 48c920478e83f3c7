"""One take in the world frame: posed hands, visibility in all its views, distances to its object."""

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import torch

from hawor_pipeline.conversion.hand_geometry import WorldHand, pose_hand
from hawor_pipeline.conversion.visibility import Body, SkinFaces, joint_visibility
from hawor_pipeline.core.units import m_to_mm
from hawor_pipeline.sources.hand_models import HandModels
from hawor_pipeline.sources.object_part import least_distance
from hawor_pipeline.sources.reader import HandLabels, Take


@dataclass(slots=True)
class PosedTake:
    """A take with its hands posed. T is the number of moments."""

    take: Take
    hands: dict[str, WorldHand]
    visible: dict[str, np.ndarray]  # side -> (views, T, 21), for the moments that any view shows
    distances: list[tuple[int, str, float]] = field(default_factory=list)  # index, side, hand to object in metres


def pose_take(take: Take, models: HandModels) -> PosedTake:
    """Pose the hands of a take and cast its rays.

    Args:
        take: labels, cameras and images.
        models: both hand models, with the dataset's convention.
    """
    hands = {side: _pose(models, side, labels) for side, labels in take.hands.items()}
    visible = {side: np.zeros((len(take.cameras), len(take), 21), bool) for side in hands}
    posed = PosedTake(take, hands, visible)
    if hands:
        shown = {frame - take.first_frame for images in take.images.values() for frame in images}
        measure_contacts(posed, models, sorted(shown & set(range(len(take)))))
    return posed


def _pose(models: HandModels, side: str, labels: HandLabels) -> WorldHand:
    hand = pose_hand(models, side, labels)
    if labels.fitting_err is not None:
        return hand
    return dataclasses.replace(hand, fitting_err=_fitting_error_mm(models, side, hand, labels))


def _fitting_error_mm(models: HandModels, side: str, hand: WorldHand, labels: HandLabels) -> np.ndarray:
    """Return the mean distance of the posed model's joints to the dataset's own, (T,); NaN where it states none."""
    errors = np.full(len(hand.joints_m), np.nan)
    if labels.joints_m is None:
        return errors
    joints = models.own_joints(side, torch.from_numpy(hand.vertices_m), torch.from_numpy(hand.joints_m)).numpy()
    for index in np.flatnonzero(np.isfinite(labels.joints_m).any((1, 2))):
        errors[index] = m_to_mm(np.nanmean(np.linalg.norm(joints[index] - labels.joints_m[index], axis=-1)))
    return errors


def measure_contacts(posed: PosedTake, models: HandModels, moments: list[int]) -> None:
    """Compute visibility in all views and the distance to the object, at the moments that are shown."""
    take, sides = posed.take, list(posed.hands)
    skin = SkinFaces.from_models(
        {side: models.arrays[side].faces for side in sides}, {side: models.arrays[side].skin_weights for side in sides}
    )
    centres = np.stack([camera.centres_m for camera in take.cameras.values()])  # (views, T, 3)
    parts = None if take.posed_object is None else take.posed_object.parts()
    worn = [take.body is not None and view in take.body.worn_views for view in take.cameras]
    for index in moments:
        vertices = {side: posed.hands[side].vertices_m[index] for side in sides}
        joints = {side: posed.hands[side].joints_m[index] for side in sides}
        here = () if parts is None else parts[index]
        body = None if take.body is None else Body(take.body.at(index), worn)
        seen = joint_visibility(vertices, joints, centres[:, index], skin, here, body)
        for side in sides:
            posed.visible[side][:, index] = seen[side]
            if here:
                posed.distances.append((index, side, least_distance(here, vertices[side])))
