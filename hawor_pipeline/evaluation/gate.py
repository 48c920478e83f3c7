"""The gate before a promotion: no target metric may be worse beyond the interval of the paired difference.

A rejection is a result, not a fault: `decide` returns it. Without five sequences there is no interval, and then the
sign of the difference decides. No torch here: the report shows the same decision from the same function.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from hawor_pipeline.errors import DataError
from hawor_pipeline.evaluation.compare import Difference, compare_runs
from hawor_pipeline.evaluation.finished_runs import sequence_counts
from hawor_pipeline.evaluation.registry import Champion, Registry
from hawor_pipeline.evaluation.tables import baseline_run_id, column_names, list_runs, read_identity
from hawor_pipeline.evaluation.targets import TARGETS

TARGET_METRICS = tuple(target.metric for target in TARGETS)
Outcome = Literal["first", "better_or_equal", "rejected", "is_champion"]


@dataclass(frozen=True, slots=True)
class Decision:
    """Decision about a challenger, with its reason.

    `outcome`: "first" (there was no champion), "better_or_equal" (passes the gate), "rejected", "is_champion" (it is
    the champion already; nothing to decide).
    """

    run_id: str
    champion_run_id: str | None
    protocol: str
    dataset_version: str
    source: str
    outcome: Outcome
    reason: str
    differences: tuple[Difference, ...] = ()

    @property
    def passed(self) -> bool:
        """Test if the challenger may become, or stay, champion."""
        return self.outcome != "rejected"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and for the metadata of an asset."""
        plain = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "differences"}
        return {**plain, "passed": self.passed, "differences": [item.to_dict() for item in self.differences]}


def decide(
    metrics_dir: Path | str, registry: Registry, run_id: str, metrics: Sequence[str] = TARGET_METRICS
) -> Decision:
    """Judge an evaluated run against the champion of its protocol and data version. Promotes nothing.

    None of `metrics` may be worse. A champion of an older version of the data is judged by its tables on this version
    (`rivals.evaluate_rivals` makes them).

    Raises:
        DataError: the challenger, or the champion on this data, was not evaluated, or on other samples.
    """
    identity = read_identity(metrics_dir, "samples", run_id)
    about = (identity.protocol, identity.dataset_version, identity.source)
    champion = find_champion(registry, *about)
    if champion is None:
        reason = f"nothing was champion of {identity.protocol} on this data before it"
        return Decision(run_id, None, *about, "first", reason)
    name = champion.record.run_id
    if champion.record.checkpoint_sha256 == identity.checkpoint_sha256:
        return Decision(run_id, name, *about, "is_champion", "the same checkpoint is the champion already")
    counts = sequence_counts(metrics_dir, run_id)
    other = find_champion_tables(metrics_dir, champion, identity.protocol, identity.dataset_version, counts)
    if other is None:
        raise DataError(
            f"champion {name!r} has no tables of these samples by {identity.protocol} on data version "
            f"{identity.dataset_version[:12]}; evaluate it there first (`evaluation.rivals.evaluate_rivals`)."
        )
    differences = tuple(compare_runs(metrics_dir, run_id, other, metrics))
    undefined = [item.metric for item in differences if item.difference is None]
    if undefined:
        reason = f"rejected: {', '.join(undefined)} cannot be compared, no sample has a value in both runs"
        return Decision(run_id, name, *about, "rejected", reason, differences)
    worse = [item for item in differences if item.worse]
    if worse:
        reason = f"rejected: worse than {name} in {'; '.join(map(describe, worse))}"
        return Decision(run_id, name, *about, "rejected", reason, differences)
    reason = f"no target metric is worse than that of {name}: {'; '.join(map(describe, differences))}"
    return Decision(run_id, name, *about, "better_or_equal", reason, differences)


def find_champion(registry: Registry, protocol: str, dataset_version: str, source: str) -> Champion | None:
    """Return the champion of this protocol and data version, else the latest of the same source."""
    return registry.champion(protocol, dataset_version) or registry.latest_champion(protocol, source)


def find_champion_tables(
    metrics_dir: Path | str,
    champion: Champion,
    protocol: str,
    dataset_version: str,
    counts: Mapping[str, int],
    columns: Iterable[str] = (),
) -> str | None:
    """Find the run_id under which the champion was evaluated by this protocol on these samples, or None.

    Tables that are damaged count as missing: they are made again from the champion's checkpoint.

    Args:
        metrics_dir: folder of the tables.
        champion: whose checkpoint.
        protocol, dataset_version: of the tables.
        counts: samples of each sequence, see `sequence_counts`.
        columns: that the samples table must have; older versions lack some.
    """
    wanted = (champion.record.checkpoint_sha256, protocol, dataset_version)
    runs, plain = list_runs(metrics_dir, "samples"), baseline_run_id("champion", dataset_version)
    derived = [run for run in runs if run == plain or run.startswith(f"{plain}-")]
    for run_id in (*(run for run in runs if run == champion.record.run_id), *derived):
        try:
            identity = read_identity(metrics_dir, "samples", run_id)
            if (
                (identity.checkpoint_sha256, identity.protocol, identity.dataset_version) == wanted
                and set(columns) <= column_names(metrics_dir, "samples", run_id)
                and sequence_counts(metrics_dir, run_id) == counts
            ):
                return run_id
        except DataError:
            continue
    return None


def describe(item: Difference) -> str:
    """Describe a difference: "mpjpe_mm 12.1 against 12.9 (-0.80, 95 % -1.10 .. -0.50 mm, 8 sequences)"."""
    unit = "" if item.unit == "1" else f" {item.unit}"
    if item.ci_low is None:
        spread = f"{item.difference:+.4g}{unit}, {item.note}"
    else:
        spread = f"{item.difference:+.4g}, 95 % {item.ci_low:+.4g} .. {item.ci_high:+.4g}{unit}"
    return f"{item.metric} {item.value:.4g} against {item.other:.4g} ({spread}, {item.sequences} sequences)"
