"""What the rules of the report look at, and what they say."""

from collections.abc import Mapping
from dataclasses import dataclass

from hawor_pipeline.reporting.results import Curve, RunResults


@dataclass(frozen=True, slots=True)
class Finding:
    """`tone`: "good", "watch" or "act"."""

    tone: str
    title: str
    evidence: str
    action: str


@dataclass(slots=True)
class Evidence:
    """Everything that the rules may look at."""

    run: RunResults
    floors: Mapping[str, RunResults]
    curves: list[Curve]

    def curve(self, metric: str, split: str) -> Curve | None:
        """A training curve by name; names may carry the split as a prefix."""
        names = (metric, f"{split}/{metric}")
        return next((c for c in self.curves if c.metric in names and c.split == split and c.last is not None), None)


def percent(share: float) -> str:
    """A share for people."""
    return f"{100 * share:.0f} %"


def change(gain: float) -> str:
    """A gain in words; a negative one is a loss."""
    return f"{percent(abs(gain))} {'lower' if gain >= 0 else 'higher'}"
