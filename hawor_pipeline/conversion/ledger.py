"""Skipped samples of a conversion: the reasons in the ledger, and the limits on how much may be missing."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.errors import DataError
from hawor_pipeline.shards.manifest import SequenceInfo, add_counts
from hawor_pipeline.sources.arctic import EGO_VIEW
from hawor_pipeline.sources.reader import WITHOUT_GROUND_TRUTH

# Reasons in the ledger.
NO_IMAGE = "no_image"  # ground truth without an image
NO_GROUND_TRUTH_BEFORE = "no_ground_truth_before_start"  # an image earlier than ground truth 0, by ioi_offset
NO_GROUND_TRUTH_AFTER = "no_ground_truth_after_end"
OUTSIDE_IMAGE = "outside_picture"
BEHIND_CAMERA = "behind_camera"
VIEW_ABSENT = "view_absent"
NO_JOINTS = "no_joints_to_check_the_fit"
# Reasons in a manifest, of whole sequences.
NO_IMAGES = "no_pictures"
RAW_FILES_GONE = "raw_files_gone"
# Cameras and motion capture stop a few frames apart; in a short sequence that would be a large share.
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


def rows_without_image(view: int, images: Collection[int], first_frame: int, moments: int) -> list[LedgerRow]:
    """List the ground truth that a view has no image of.

    Args:
        view: number of the view.
        images: numbers of its images.
        first_frame: number of the image that shows ground truth 0.
        moments: length of the ground truth.
    """
    if not images:
        return [LedgerRow(view, -1, "", VIEW_ABSENT, 2 * moments)]
    numbers = range(first_frame, first_frame + moments)
    return [LedgerRow(view, number, "", NO_IMAGE, 2) for number in numbers if number not in images]


def rows_without_ground_truth(view: int, frames: Iterable[int], first_frame: int, moments: int) -> list[LedgerRow]:
    """List the images of a view that lie before or after the ground truth."""
    found = []
    for frame in frames:
        if frame < first_frame:
            found.append(LedgerRow(view, frame, "", NO_GROUND_TRUTH_BEFORE, 2))
        elif frame >= first_frame + moments:
            found.append(LedgerRow(view, frame, "", NO_GROUND_TRUTH_AFTER, 2))
    return found


@dataclass(frozen=True, slots=True)
class ViewLosses:
    """Losses of a sequence that is recorded by several cameras over a common ground truth."""

    ground_truth_frames: int
    left_out: dict[str, int]
    unmatched_share: float
    unseen: int
    absent_views: list[int]

    @classmethod
    def of_ledger(cls, ledger: Collection[LedgerRow], frames: int) -> Self:
        """Sum up a ledger; `frames` is the length of the ground truth."""
        absent = sorted({row.view for row in ledger if row.reason == VIEW_ABSENT})
        # the egocentric camera looks where the head turns, so hands outside its image are no loss
        unseen = sum(
            row.samples
            for row in ledger
            if row.reason == BEHIND_CAMERA or (row.reason == OUTSIDE_IMAGE and row.view != EGO_VIEW)
        )
        return cls(frames, count_reasons(ledger), _unmatched_share(ledger, frames), unseen, absent)


def _unmatched_share(ledger: Iterable[LedgerRow], frames: int) -> float:
    """Return the share of frames with an image or ground truth alone, in the worst view that has images.

    Images before ground truth 0 are not counted: the offset accounts for them. Nor are the few frames per view by which
    cameras and motion capture stop apart.
    """
    unmatched = add_counts({str(row.view): 1} for row in ledger if row.reason in (NO_IMAGE, NO_GROUND_TRUTH_AFTER))
    return max((max(0, count - EDGE_FRAMES) for count in unmatched.values()), default=0) / max(frames, 1)


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
    if info.left_out_share is not None:
        return _hands_error(name, info, settings)
    losses = ViewLosses(
        info.ground_truth_frames, info.left_out, info.unmatched_share or 0.0, info.unseen or 0, info.absent_views or []
    )
    return view_error(name, losses, info.rows, settings, recorded)


def view_error(
    name: str, losses: ViewLosses, rows: int, settings: ConversionConfig, recorded: Collection[int]
) -> DataError | None:
    """Return the error of a recorded sequence that lost more than the allowed share, else None; see `limit_error`."""
    allowed = f"at most {settings.max_left_out_share:.0%} may. "
    if losses.unmatched_share > settings.max_left_out_share:
        return DataError(
            f"{name}: the counts of images and ground truth disagree: {losses.unmatched_share:.0%} of the "
            f"{losses.ground_truth_frames} frames lack one or the other in the worst view ({losses.left_out}), "
            f"{allowed}Get the missing images or raw files, or raise max_left_out_share."
        )
    lacking = sorted(set(losses.absent_views) & set(recorded))
    in_a_view = 2 * losses.ground_truth_frames
    lost = (losses.unseen + in_a_view * len(lacking)) / max(in_a_view * len(recorded), 1)
    share = lost if rows else 1.0
    if share > settings.max_left_out_share:
        return DataError(
            f"{name}: {share:.0%} of the hands with ground truth are in no image that is there ({losses.left_out}"
            f"{f', views {lacking}' if lacking else ''}), {allowed}Get the missing images, or name the views to take "
            "with --views; hands behind a camera or outside its image point to wrong cameras in meta/misc.json. Or "
            "raise max_left_out_share."
        )
    return None


def lost_hands(left_out: dict[str, int]) -> dict[str, int]:
    """Return the reasons by which labelled hands are lost: all but the dataset's own words for no ground truth."""
    return {reason: count for reason, count in left_out.items() if reason not in WITHOUT_GROUND_TRUTH}


def _hands_error(name: str, info: SequenceInfo, settings: ConversionConfig) -> DataError | None:
    share = info.left_out_share or 0.0
    if share <= settings.max_left_out_share:
        return None
    reasons = lost_hands(info.left_out)
    return DataError(
        f"{name}: {share:.0%} of the {info.rows + sum(reasons.values())} labelled hands are skipped ({reasons}), at "
        f"most {settings.max_left_out_share:.0%} may. Get the missing or corrupt labels again, or raise "
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
