"""The recordings that an evaluation goes through, one at a time, so that memory does not depend on how many there are.

`plan_recordings` reads a few small columns of every shard before any work is done, and raises an error where there is
nothing to evaluate or a shard is damaged.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.evaluation.hands import NETWORK_COLUMNS, TRUTH_COLUMNS
from hawor_pipeline.loading.clips import runs_of_frames
from hawor_pipeline.shards.manifest import converted_names, read_manifest
from hawor_pipeline.shards.schema import IMAGES_FILE
from hawor_pipeline.shards.store import ShardSet, open_shards

KEY_COLUMNS = (
    "sample_id",
    "subject",
    "sequence",
    "object",
    "action",
    "view",
    "side",
    "frame",
    "occlusion",
    "truncation",
    "valid",
)
ANNOTATION_COLUMNS = tuple(dict.fromkeys((*KEY_COLUMNS, *TRUTH_COLUMNS, *NETWORK_COLUMNS)))
_PLAN_COLUMNS = ("subject", "sequence", "view", "side", "frame", "valid")


@dataclass(frozen=True, slots=True)
class Recording:
    """One sequence of one subject: `rows` in the views that count, `counted` of them valid."""

    subject: str
    sequence: str
    rows: int
    counted: int


def converted_subjects(shards_dir: Path | str) -> list[str]:
    """List the subjects that have shards, sorted.

    Raises:
        ConfigError: the folder does not exist.
    """
    if not Path(shards_dir).is_dir():
        raise ConfigError(f"shards folder {shards_dir} does not exist; `hawor-pipeline prepare` makes it.")
    return converted_names(shards_dir)


def plan_recordings(
    shards_dir: Path | str,
    subjects: Sequence[str] | None,
    views: Sequence[int] | None = None,
    consecutive_frames: int = 1,
    excluded: Collection[str] = (),
) -> list[Recording]:
    """List the recordings that have rows to evaluate, in the order of all tables: subject, sequence.

    Args:
        shards_dir: converted shards.
        subjects: those to list; None takes all.
        views: cameras whose images count; None takes all.
        consecutive_frames: valid frames in a row that some hand must have.
        excluded: sequences that do not count, as "subject/sequence".

    Raises:
        ConfigError: no shards there, or an unknown subject.
        DataError: a shard is damaged, or nothing is left to evaluate.
    """
    recordings, longest = [], 0
    for subject in sorted(set(converted_subjects(shards_dir) if subjects is None else subjects)):
        for sequence in _sequences_of(shards_dir, subject):
            if f"{subject}/{sequence}" in excluded:
                continue
            table = open_shards(shards_dir, [subject], list(_PLAN_COLUMNS), [sequence]).table
            table = table.filter(pa.array(in_views(table, views)))
            valid = table.filter(table["valid"])
            if valid.num_rows:
                recordings.append(Recording(subject, sequence, table.num_rows, valid.num_rows))
                longest = max(longest, max(end - start for start, end in runs_of_frames(valid)))
            if not (Path(shards_dir) / subject / sequence / IMAGES_FILE).is_file():
                raise DataError(f"{shards_dir}/{subject}/{sequence} has no {IMAGES_FILE}; run the conversion again.")
    if not recordings:
        raise DataError(_nothing(shards_dir, subjects, views))
    if longest < consecutive_frames:
        raise DataError(
            f"the longest run of valid frames of a hand in {shards_dir} is {longest}, the protocol needs "
            f"{consecutive_frames}: single images have no motion. Choose another protocol."
        )
    return recordings


def _sequences_of(shards_dir: Path | str, subject: str) -> list[str]:
    manifest = read_manifest(shards_dir, subject)
    if manifest is None:
        present = ", ".join(converted_subjects(shards_dir)) or "none"
        raise ConfigError(f"no shards of {subject} in {shards_dir} (has {present}); convert it first.")
    return manifest.names


def _nothing(shards_dir: Path | str, subjects: Sequence[str] | None, views: Sequence[int] | None) -> str:
    whose = ", ".join(subjects) if subjects else "all subjects"
    where = "any view" if views is None else f"views {', '.join(map(str, views))}"
    return f"no valid row of {whose} in {where} of {shards_dir}; convert these views, or choose another protocol."


def in_views(table: pa.Table, views: Sequence[int] | None) -> np.ndarray:
    """Test which rows are of these views; (N,) bool."""
    if views is None:
        return np.ones(table.num_rows, bool)
    return np.isin(table["view"].to_numpy(), list(views))


def open_recordings(
    shards_dir: Path | str, recordings: Sequence[Recording], views: Sequence[int] | None = None
) -> ShardSet:
    """Open annotations and images of a few recordings of one subject, valid or not, in these views."""
    subject = recordings[0].subject
    shards = open_shards(shards_dir, [subject], None, [recording.sequence for recording in recordings])
    return shards if views is None else shards.select(in_views(shards.table, views))


def annotations_of(
    shards_dir: Path | str, recordings: Sequence[Recording], views: Sequence[int] | None = None
) -> Iterator[pa.Table]:
    """Yield the valid rows of these views, a table per recording."""
    for recording in recordings:
        table = open_shards(shards_dir, [recording.subject], list(ANNOTATION_COLUMNS), [recording.sequence]).table
        table = table.filter(pa.array(in_views(table, views)))
        yield table.filter(table["valid"])


def sequences(
    shards_dir: Path | str, subjects: Sequence[str] | None = None, views: Sequence[int] | None = None
) -> Iterator[pa.Table]:
    """Yield `annotations_of` everything that `plan_recordings` finds."""
    yield from annotations_of(shards_dir, plan_recordings(shards_dir, subjects, views), views)


def in_groups(recordings: Sequence[Recording], rows: int) -> list[list[Recording]]:
    """Group neighbours of one subject, at most `rows` rows where a single recording has no more."""
    groups: list[list[Recording]] = []
    size = 0
    for recording in recordings:
        fits = groups and groups[-1][-1].subject == recording.subject and size + recording.rows <= rows
        if not fits:
            groups.append([])
            size = 0
        groups[-1].append(recording)
        size += recording.rows
    return groups


def in_shares(groups: Sequence[list[Recording]], count: int) -> list[list[list[Recording]]]:
    """Divide the groups into `count` contiguous shares with about as many rows each; few groups leave shares empty."""
    shares: list[list[list[Recording]]] = [[] for _ in range(count)]
    total = sum(recording.rows for group in groups for recording in group)
    done = 0
    for group in groups:
        size = sum(recording.rows for recording in group)
        shares[min(int((done + size / 2) * count / max(total, 1)), count - 1)].append(group)
        done += size
    return shares
