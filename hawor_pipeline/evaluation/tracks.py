"""Neighbours in time among the rows of a recording, and pairs of hands in one image."""

from dataclasses import dataclass

import numpy as np


@dataclass(slots=True)
class Tracks:
    """Camera, hand and frame number of each row, which make neighbours in time."""

    view: np.ndarray  # (N,)
    is_right: np.ndarray  # (N,) bool
    frame: np.ndarray  # (N,)

    def follows(self) -> np.ndarray:
        """Test if the row before is the same hand in the same view, one frame earlier; (N,) bool."""
        result = np.zeros(len(self.frame), bool)
        same = (np.diff(self.view) == 0) & (self.is_right[1:] == self.is_right[:-1])
        result[1:] = same & (np.diff(self.frame) == 1)
        return result

    def runs(self) -> list[tuple[int, int]]:
        """Return [start, end) of rows that are consecutive frames of one hand in one view."""
        starts = np.flatnonzero(~self.follows())
        return list(zip(starts.tolist(), np.append(starts[1:], len(self.frame)).tolist(), strict=True))

    def windows(self, length: int) -> np.ndarray:
        """Return the first rows of runs of `length` consecutive frames, (M,)."""
        follows = self.follows()
        if len(follows) < length:
            return np.zeros(0, np.int64)
        runs = np.lib.stride_tricks.sliding_window_view(follows, length)[:, 1:].all(1)
        return np.flatnonzero(runs)

    def images(self) -> np.ndarray:
        """Return a number of each row's image, (N,)."""
        return self.view.astype(np.int64) * 10_000_000 + self.frame

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows of the right and of the left hand that are in one image."""
        image = self.images()
        right, left = np.flatnonzero(self.is_right), np.flatnonzero(~self.is_right)
        _, of_right, of_left = np.intersect1d(image[right], image[left], return_indices=True)
        return right[of_right], left[of_left]
