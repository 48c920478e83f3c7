"""What a conversion leaves out, and why: reasons of the ledger, and when too much is missing."""

from collections.abc import Collection
from typing import Any

import numpy as np

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion.hand_geometry import SeenHand
from hawor_pipeline.errors import DataError
from hawor_pipeline.sources.arctic import EGO_VIEW, SIDES

# Reasons in the ledger.
NO_IMAGE = "no_image"  # ground truth without a picture
NO_GROUND_TRUTH_BEFORE = "no_ground_truth_before_start"  # a picture earlier than ground truth 0, as ioi_offset says
NO_GROUND_TRUTH_AFTER = "no_ground_truth_after_end"
OUTSIDE_IMAGE = "outside_picture"
BEHIND_CAMERA = "behind_camera"
VIEW_ABSENT = "view_absent"
# Cameras and motion capture stop a few frames apart; in a short sequence that would be a large share.
EDGE_FRAMES = 3


def without_image(view: int, images: Collection[int], offset: int, frames: int) -> list[tuple]:
    """Ledger rows of ground truth that a view has no picture of.

    Args:
        view: which.
        images: numbers of the pictures that are there.
        offset: number of the picture that shows ground truth 0.
        frames: of ground truth.
    """
    if not images:
        return [(view, -1, "", VIEW_ABSENT, 2 * frames)]
    numbers = range(offset, offset + frames)
    return [(view, number, "", NO_IMAGE, 2) for number in numbers if number not in images]


def wanted_sides(seen: dict[str, SeenHand], index: int, frames: int) -> tuple[list[str], list[tuple]]:
    """Sides to cut out of a picture, and (side, reason, samples) of what is left out."""
    if not 0 <= index < frames:
        return [], [("", NO_GROUND_TRUTH_BEFORE if index < 0 else NO_GROUND_TRUTH_AFTER, 2)]
    wanted, lost = [], []
    for side in SIDES:
        if np.isnan(seen[side].box_size_px[index]):
            lost.append((side, BEHIND_CAMERA, 1))
        elif not seen[side].overlaps[index]:
            lost.append((side, OUTSIDE_IMAGE, 1))
        else:
            wanted.append(side)
    return wanted, lost


def counted_by_reason(ledger: list[tuple]) -> dict[str, int]:
    """Reason to samples, of ledger rows that end in (.., reason, samples)."""
    counts: dict[str, int] = {}
    for *_, reason, samples in ledger:
        counts[reason] = counts.get(reason, 0) + samples
    return dict(sorted(counts.items()))


def invalid_by_reason(blocks: list[dict[str, np.ndarray]]) -> dict[str, int]:
    """Rule to rows that fail it, of blocks of columns."""
    return counted_by_reason([(reason, 1) for block in blocks for reason in block["skip_reason"] if reason])


def unmatched_share(ledger: list[tuple], frames: int) -> float:
    """Share of the moments of the views present that have only a picture or only ground truth.

    Pictures before ground truth 0 are not counted: the offset says that they are there. Nor are the few moments
    per view by which cameras and motion capture stop apart.
    """
    unmatched: dict[int, int] = {}
    absent = {view for view, _, _, reason, _ in ledger if reason == VIEW_ABSENT}
    views = {view for view, *_ in ledger} - absent
    for view, _, _, reason, _ in ledger:
        if reason in (NO_IMAGE, NO_GROUND_TRUTH_AFTER):
            unmatched[view] = unmatched.get(view, 0) + 1
    worst = max((max(0, unmatched.get(view, 0) - EDGE_FRAMES) for view in views), default=0)
    return worst / max(frames, 1)


def unseen_samples(ledger: list[tuple]) -> int:
    """Hands with ground truth that a camera should show and does not.

    They are behind it, or outside the picture of a static camera; the egocentric one looks where the head turns.
    """
    return sum(
        samples
        for view, _, _, reason, samples in ledger
        if reason == BEHIND_CAMERA or (reason == OUTSIDE_IMAGE and view != EGO_VIEW)
    )


def absent_views(ledger: list[tuple]) -> list[int]:
    """Views without any picture."""
    return sorted({view for view, _, _, reason, _ in ledger if reason == VIEW_ABSENT})


def left_out_error(
    name: str, info: dict[str, Any], settings: ConversionConfig, recorded: Collection[int]
) -> DataError | None:
    """The error of a sequence of which more than the allowed share is left out, else None.

    Args:
        name: of the sequence.
        info: what its conversion said.
        settings: with the limit.
        recorded: views that any sequence of the subject has; a view that none has was not downloaded.
    """
    allowed = f"at most {settings.max_left_out_share:.0%} may. "
    if info["unmatched_share"] > settings.max_left_out_share:
        return DataError(
            f"{name}: the counts of pictures and ground truth disagree: {info['unmatched_share']:.0%} of the "
            f"{info['ground_truth_frames']} frames lack one or the other in the worst view ({info['left_out']}), "
            f"{allowed}Get the missing pictures or raw files, or raise max_left_out_share."
        )
    lacking = sorted(set(info["absent_views"]) & set(recorded))
    in_a_view = 2 * info["ground_truth_frames"]
    lost = (info["unseen"] + in_a_view * len(lacking)) / max(in_a_view * len(recorded), 1)
    share = lost if info["rows"] else 1.0
    if share > settings.max_left_out_share:
        return DataError(
            f"{name}: {share:.0%} of the hands with ground truth are in no picture that is there ({info['left_out']}"
            f"{f', views {lacking}' if lacking else ''}), {allowed}Get the missing pictures, or name the views to take "
            "with --views; hands behind a camera or outside its picture point to wrong cameras in meta/misc.json. Or "
            "raise max_left_out_share."
        )
    return None
