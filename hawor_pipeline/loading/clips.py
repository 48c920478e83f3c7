"""Grouping of rows into clips: consecutive frames of one subject, sequence, view and side."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from hawor_pipeline.shards.schema import as_numpy


@dataclass(frozen=True, slots=True)
class Clips:
    """Rows of each clip, frame by frame; `counted` is False where a row is padding."""

    rows: np.ndarray  # (C, T) int64
    counted: np.ndarray  # (C, T) bool

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: np.ndarray) -> "Clips":
        """Select clips by index."""
        return Clips(self.rows[index], self.counted[index])


def runs_of_frames(table: pa.Table) -> list[tuple[int, int]]:
    """Return [start, end) of all runs of consecutive frames of one subject, sequence, view and side."""
    frame = as_numpy(table, "frame").astype(np.int64)
    new = np.ones(table.num_rows, dtype=bool)
    if table.num_rows:
        new[1:] = np.diff(frame) != 1
        for name in ("subject", "sequence", "view", "side"):
            values = as_numpy(table, name)
            new[1:] |= values[1:] != values[:-1]
    starts = np.flatnonzero(new)
    ends = np.append(starts[1:], table.num_rows)
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def training_clips(table: pa.Table, length: int, stride: int, valid: np.ndarray) -> Clips:
    """Return clips that start `stride` frames apart, and the last clip that fits into each run.

    Clips without a valid frame are skipped. A run shorter than a clip is padded with its last frame, which then does
    not count.
    """
    spans = []
    for start, end in runs_of_frames(table):
        last = max(end - length, start)
        spans += [(first, end) for first in (*range(start, last, stride), last)]
    clips = _clips(spans, length)
    return clips.take(np.flatnonzero((valid[clips.rows] & clips.counted).any(axis=1)))


def covering_clips(table: pa.Table, length: int) -> Clips:
    """Return clips that count every row exactly once; the last clip of a run overlaps the one before it."""
    spans: list[tuple[int, int]] = []
    new_from: list[int] = []
    for start, end in runs_of_frames(table):
        for first in range(start, end, length):
            spans.append((max(min(first, end - length), start), end))
            new_from.append(first)
    clips = _clips(spans, length)
    return Clips(clips.rows, clips.counted & (clips.rows >= np.array(new_from, dtype=np.int64).reshape(-1, 1)))


def _clips(spans: list[tuple[int, int]], length: int) -> Clips:
    first = np.array([span[0] for span in spans], dtype=np.int64).reshape(-1, 1)
    last = np.array([span[1] - 1 for span in spans], dtype=np.int64).reshape(-1, 1)
    wanted = first + np.arange(length)
    return Clips(np.minimum(wanted, last), wanted <= last)
