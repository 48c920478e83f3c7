"""Means over all samples of a validation, whatever the batches and processes."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class MetricSums:
    """Sums and counts by name; a mean of batch means would be wrong where batches differ in size."""

    def __init__(self) -> None:
        self._pairs: dict[str, Tensor] = {}  # (sum, count)

    def add_frames(self, values: Mapping[str, Tensor], use: Tensor, suffix: str = "") -> None:
        """Take in values of frames where `use`; `suffix` is appended to their names."""
        for name, value in values.items():
            self._add(name + suffix, torch.stack((value[use].double().sum(), use.sum().double())))

    def add_means(self, means: Mapping[str, Tensor], count: Tensor) -> None:
        """Take in means over `count` frames; NaN (nothing to say) counts nothing."""
        for name, mean in means.items():
            seen = torch.where(mean.isnan(), 0, count).double()
            self._add(name, torch.stack((mean.nan_to_num().double() * seen, seen)))

    def _add(self, name: str, pair: Tensor) -> None:
        self._pairs[name] = self._pairs[name] + pair if name in self._pairs else pair

    def means(self) -> dict[str, Tensor]:
        """Mean of each name over all processes, the same on each; NaN where nothing was seen."""
        parts = [{name: pair.cpu() for name, pair in self._pairs.items()}]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            gathered: list[Any] = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(gathered, parts[0])
            parts = gathered
        totals = {
            name: torch.stack([part[name] for part in parts if name in part]).sum(0)
            for name in sorted({name for part in parts for name in part})
        }
        return {name: (total / count).float() for name, (total, count) in totals.items()}
