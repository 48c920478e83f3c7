"""Input and output of the rules behind the report's advice."""

from collections.abc import Mapping
from dataclasses import dataclass

from hawor_pipeline.reporting.results import Curve, RunResults


@dataclass(frozen=True, slots=True)
class Finding:
    """Advice with its evidence; `tone` is "good", "watch" or "act"."""

    tone: str
    title: str
    evidence: str
    action: str


@dataclass(slots=True)
class Evidence:
    """Results and curves that the rules may read."""

    run: RunResults
    baselines: Mapping[str, RunResults]
    curves: list[Curve]

    def curve(self, metric: str, split: str) -> Curve | None:
        """Return a training curve by name; names may carry the split as a prefix."""
        names = (metric, f"{split}/{metric}")
        return next((c for c in self.curves if c.metric in names and c.split == split and c.last is not None), None)


def percent(share: float) -> str:
    """Format a share in per cent."""
    return f"{100 * share:.0f} %"


def change(gain: float) -> str:
    """Describe a gain; a negative one is a loss."""
    return f"{percent(abs(gain))} {'lower' if gain >= 0 else 'higher'}"
