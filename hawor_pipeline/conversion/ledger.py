"""Skipped samples of a conversion: the reasons in the ledger, and the limits on how much may be missing."""

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.errors import DataError
from hawor_pipeline.shards.manifest import SequenceInfo, add_counts
from hawor_pipeline.sources.arctic import EGO_VIEW
from hawor_pipeline.sources.reader import NO_IMAGE, WITHOUT_GROUND_TRUTH

# Reasons in the ledger.
NO_GROUND_TRUTH_BEFORE = "no_ground_truth_before_start"  # an image earlier than ground truth 0, by ioi_offset
NO_GROUND_TRUTH_AFTER = "no_ground_truth_after_end"
CORRUPT_IMAGE = "corrupt_image"  # cannot be decoded, as a few released images of ARCTIC
OUTSIDE_IMAGE = "outside_picture"
BEHIND_CAMERA = "behind_camera"
VIEW_ABSENT = "view_absent"
NO_JOINTS = "no_joints_to_check_the_fit"
_UNMATCHED = (NO_IMAGE, NO_GROUND_TRUTH_AFTER, CORRUPT_IMAGE)
# Reasons in a manifest, of whole sequences.
NO_IMAGES = "no_pictures"
NO_RAW_FILES = "no_raw_files"
RAW_FILES_GONE = "raw_files_gone"
# Cameras and motion capture stop a few frames apart, or a few images are missing: in a short sequence a large share.
EDGE_FRAMES = 3


class LedgerRow(NamedTuple):
    """One entry of the ledger, in the order of its columns."""

    view: int
    frame: int  # -1: the whole view
    side: str  # empty: both
    reason: str
    samples: int


def count_reasons(ledger: Iterable[LedgerRow]) -> dict[str, int]:
    """Count samples by reason."""
    return add_counts({row.reason: row.samples} for row in ledger)


def unmatched_rows(view: int, images: Collection[int], first_frame: int, moments: int) -> list[LedgerRow]:
    """List the ground truth that a view has no image of, and its images before and after the ground truth.

    Args:
        view: number of the view.
        images: numbers of its images.
        first_frame: number of the image that shows ground truth 0.
        moments: length of the ground truth.
    """
    if not images:
        return [LedgerRow(view, -1, "", VIEW_ABSENT, 2 * moments)]
    end = first_frame + moments
    return [
        *(LedgerRow(view, number, "", NO_IMAGE, 2) for number in range(first_frame, end) if number not in images),
        *(LedgerRow(view, number, "", NO_GROUND_TRUTH_BEFORE, 2) for number in images if number < first_frame),
        *(LedgerRow(view, number, "", NO_GROUND_TRUTH_AFTER, 2) for number in images if number >= end),
    ]


def with_view_losses(info: SequenceInfo, ledger: Collection[LedgerRow]) -> SequenceInfo:
    """Add the losses of a sequence that is recorded by several cameras over a common ground truth."""
    # the egocentric camera looks where the head turns, so hands outside its image are no loss
    unseen = sum(
        row.samples
        for row in ledger
        if row.reason == BEHIND_CAMERA or (row.reason == OUTSIDE_IMAGE and row.view != EGO_VIEW)
    )
    # images before ground truth 0 are not counted: the offset accounts for them
    unmatched = add_counts({str(row.view): 1} for row in ledger if row.reason in _UNMATCHED)
    worst = max((max(0, count - EDGE_FRAMES) for count in unmatched.values()), default=0)
    absent = sorted({row.view for row in ledger if row.reason == VIEW_ABSENT})
    share = worst / max(info.ground_truth_frames, 1)
    return replace(info, unmatched_share=share, unseen=unseen, absent_views=absent)


def limit_error(
    name: str, info: SequenceInfo, settings: ConversionConfig, recorded: Collection[int]
) -> DataError | None:
    """Return the error of a sequence that lost more than the allowed share, else None.

    Args:
        name: "subject/sequence".
        info: counts of the shard.
        settings: settings with the limit.
        recorded: views that any sequence of the subject has; a view that none has was not downloaded.
    """
    most = settings.max_left_out_share
    if info.left_out_share is not None:
        return None if info.left_out_share <= most else _hands_error(name, info, most)
    if (info.unmatched_share or 0.0) > most:
        return DataError(
            f"{name}: the counts of images and ground truth disagree: {info.unmatched_share:.0%} of the "
            f"{info.ground_truth_frames} frames lack one or the other in the worst view, or their image is corrupt "
            f"({info.left_out}), at most {most:.0%} may. Get the missing images or raw files, or raise "
            "max_left_out_share."
        )
    lacking = sorted(set(info.absent_views or ()) & set(recorded))
    in_a_view = 2 * info.ground_truth_frames
    lost = ((info.unseen or 0) + in_a_view * len(lacking)) / max(in_a_view * len(recorded), 1)
    share = lost if info.rows else 1.0
    if share <= most:
        return None
    return DataError(
        f"{name}: {share:.0%} of the hands with ground truth are in no image that is there ({info.left_out}"
        f"{f', views {lacking}' if lacking else ''}), at most {most:.0%} may. Get the missing images, or name the "
        "views to take with --views; hands behind a camera or outside its image point to wrong cameras in "
        "meta/misc.json. Or raise max_left_out_share."
    )


def with_hand_losses(
    info: SequenceInfo, ledger: Iterable[LedgerRow], seen: Collection[tuple[int, str]]
) -> SequenceInfo:
    """Add the losses of a sequence of labelled images.

    Gaps of the published data lose no hand: hands without ground truth, and those outside one camera's image that
    another camera shows. EDGE_FRAMES missing images are no loss either.

    Args:
        info: counts of the shard.
        ledger: all its entries.
        seen: (frame, side) of the hands that have a row in any view.
    """
    lost = count_reasons(
        row
        for row in ledger
        if row.reason not in WITHOUT_GROUND_TRUTH
        and not (row.reason == OUTSIDE_IMAGE and (row.frame, row.side) in seen)
    )
    count = sum(lost.values())
    counted = count - min(lost.get(NO_IMAGE, 0), EDGE_FRAMES)
    return replace(info, lost=lost, left_out_share=counted / max(info.rows + count, 1))


def _hands_error(name: str, info: SequenceInfo, most: float) -> DataError:
    reasons = info.lost or {}
    return DataError(
        f"{name}: {info.left_out_share:.0%} of the {info.rows + sum(reasons.values())} labelled hands are skipped "
        f"({reasons}), at most {most:.0%} may. Get the missing or corrupt images and labels again, or raise "
        "max_left_out_share."
    )


def fit_error(name: str, fitting_err_mm: np.ndarray, limit_mm: float) -> DataError | None:
    """Return the error of a sequence whose labels and joints disagree throughout, else None.

    Half of the hands further off than the limit means another convention, or mixed-up files.
    """
    if not len(fitting_err_mm) or float(np.median(fitting_err_mm)) <= limit_mm:
        return None
    return DataError(
        f"{name}: MANO's joints are {np.median(fitting_err_mm):.0f} mm (median) from the dataset's own, at most "
        f"{limit_mm:.0f} expected; labels and images are not of one release, or the hand model is another"
    )
