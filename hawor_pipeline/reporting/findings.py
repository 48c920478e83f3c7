"""Advice computed from the numbers: each rule reads the tables and yields findings or nothing."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hawor_pipeline.config import read_yaml
from hawor_pipeline.core.skeleton import FINGERS
from hawor_pipeline.core.units import mm_to_m
from hawor_pipeline.evaluation.bootstrap import MIN_SEQUENCES
from hawor_pipeline.reporting.results import Curve, Entry, RunResults

# Thresholds above which a rule yields a finding.
ORIENTATION_SHARE = 0.5  # of the error that a similarity alignment removes
OCCLUSION_RATIO = 1.25
VIEW_RATIO = 1.3
OUTLIER_RATIO = 1.5
LEAST_FOUND = 0.5
HARDER_RATIO = 1.15  # of a kind of samples over the rest
LEAST_ADDED = 0.02  # of the whole error
OVERFIT_RATIO = 1.3  # validation over training error
STILL_FALLING = 0.03  # relative gain over the last quarter of training
DOMINANT_SHARE = 0.6  # of one term in the weighted loss
WAITING_SHARE = 0.2  # of the time, without a batch
COLLECTED = (
    ("object", "object"),
    ("action", "action"),
    ("occlusion", "share of hidden joints"),
    ("truncation", "share outside the image"),
    ("depth_m", "distance in m"),
    ("speed_m_s", "speed in m/s"),
)
_TEXTS = read_yaml(Path(__file__).with_suffix(".yaml"))


@dataclass(frozen=True, slots=True)
class Finding:
    """Advice with its evidence; `tone` is "good", "watch" or "act"."""

    tone: str
    title: str
    evidence: str
    action: str


def finding(name: str, **values: Any) -> Finding:
    """Fill in the texts of a finding, which findings.yaml has by name."""
    return Finding(**{part: text.format_map(values) for part, text in _TEXTS[name].items()})


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


def find(evidence: Evidence) -> list[Finding]:
    """Return all findings, those that need action first."""
    found = [one for rule in RULES for one in rule(evidence)]
    return sorted(found, key=lambda one: ("act", "watch", "good").index(one.tone))


def _against_mean_pose(e: Evidence) -> Iterable[Finding]:
    ours = e.run.value("mpjpe_mm")
    baseline = e.baselines["mean_pose"].value("mpjpe_mm") if "mean_pose" in e.baselines else None
    if ours is None or not baseline:
        return
    gain = 1 - ours / baseline
    name = "uses_images" if gain >= 0.5 else "half_of_baseline" if gain > 0.1 else "ignores_images"
    yield finding(name, ours=ours, baseline=baseline, change=change(gain))


def _orientation(e: Evidence) -> Iterable[Finding]:
    whole, aligned = e.run.value("mpjpe_mm"), e.run.value("pa_mpjpe_mm")
    angle = e.run.value("global_orient_error_deg")
    if whole is None or aligned is None or not whole:
        return
    share = 1 - aligned / whole
    if share > ORIENTATION_SHARE:
        turned = f" The wrist is off by {angle:.0f}° on average." if angle is not None else ""
        yield finding("orientation", share=percent(share), whole=whole, aligned=aligned, turned=turned)


def _placement(e: Evidence) -> Iterable[Finding]:
    found, off = e.run.value("detected"), e.run.value("translation_error_mm")
    if found is None or off is None or found >= LEAST_FOUND:
        return
    pixels = e.run.value("mpjpe_crop_px")
    in_image = f", joints by {pixels:.0f} px of the 256 px crop" if pixels is not None else ""
    yield finding("placement", found=percent(found), off=mm_to_m(off), in_image=in_image)


def _fingers(e: Evidence) -> Iterable[Finding]:
    baseline = e.baselines.get("mean_rotations")
    ours, theirs = e.run.value("pa_mpjpe_mm"), baseline.value("pa_mpjpe_mm") if baseline else None
    if ours is None or not theirs:
        return
    gain = 1 - ours / theirs
    if gain < 0.2:
        yield finding("fingers_better" if gain > 0 else "fingers_worse", ours=ours, theirs=theirs, change=change(gain))


def _occlusion(e: Evidence) -> Iterable[Finding]:
    entry = e.run.get("occlusion_robustness")
    if entry is None or entry.value is None:
        return
    low = e.run.value("mpjpe_mm", "occlusion<0.1")
    high = e.run.value("mpjpe_mm", "occlusion>0.5")
    if entry.value > OCCLUSION_RATIO and low is not None and high is not None:
        yield finding("occlusion", high=high, low=low, ratio=entry.value)


def _views(e: Evidence) -> Iterable[Finding]:
    views = _defined(e.run, "view")
    if len(views) < 2:
        return
    best, worst = min(views, key=lambda v: views[v]), max(views, key=lambda v: views[v])
    if views[worst] > VIEW_RATIO * views[best]:
        yield finding("views", worst=worst, best=best, high=views[worst], low=views[best])


def _sides(e: Evidence) -> Iterable[Finding]:
    left, right = e.run.get("mpjpe_mm", "side=left"), e.run.get("mpjpe_mm", "side=right")
    if left is None or right is None or left.value is None or right.value is None:
        return
    if _apart(left, right):
        weak, strong = ("left", "right") if left.value > right.value else ("right", "left")
        values = sorted((left.value, right.value), reverse=True)
        yield finding("sides", weak=weak, strong=strong, high=values[0], low=values[1])


def _apart(a: Entry, b: Entry) -> bool:
    if a.low is None or a.high is None or b.low is None or b.high is None:
        return False
    return a.low > b.high or b.low > a.high


def _fingertips(e: Evidence) -> Iterable[Finding]:
    tips = [e.run.value("mpjpe_mm", f"joint={finger}_tip", "joint") for finger in FINGERS]
    values = {finger: tip for finger, tip in zip(FINGERS, tips, strict=True) if tip is not None}
    if len(values) == len(FINGERS):
        worst = max(values, key=lambda finger: values[finger])
        others = float(np.mean([value for finger, value in values.items() if finger != worst]))
        if values[worst] > 1.2 * others:
            yield finding("fingertips", worst=worst, high=values[worst], others=others)


def _outliers(e: Evidence) -> Iterable[Finding]:
    columns = e.run.sample_columns("sequence", "subject", "mpjpe_mm")
    names = np.char.add(np.char.add(columns["subject"].astype(str), "/"), columns["sequence"].astype(str))
    errors = columns["mpjpe_mm"].astype(float)
    means = {name: float(np.nanmean(errors[names == name])) for name in np.unique(names)}
    if len(means) < 3:
        return
    worst = max(means, key=lambda name: means[name])
    middle = float(np.median(list(means.values())))
    if means[worst] > OUTLIER_RATIO * middle:
        yield finding("outliers", worst=worst, high=means[worst], middle=middle, count=len(means))


def _to_collect(e: Evidence) -> Iterable[Finding]:
    """Rank strata with larger errors than the rest by their share of the whole error."""
    overall = e.run.get("mpjpe_mm")
    if overall is None or not overall.value:
        return
    found = []
    for column, title in COLLECTED:
        for label in e.run.labels(column):
            entry = e.run.get("mpjpe_mm", f"{column}={label}")
            if entry is None or entry.value is None or not 0 < entry.n < overall.n:
                continue
            rest = (overall.n * overall.value - entry.n * entry.value) / (overall.n - entry.n)
            added = entry.n * (entry.value - rest) / (overall.n * overall.value)
            if entry.value > HARDER_RATIO * rest and added > LEAST_ADDED:
                share = percent(entry.n / overall.n)
                what = f"{title} {label} ({share} of the samples): {entry.value:.1f} mm, {rest:.1f} mm elsewhere"
                found.append((added, what))
    if found:
        found.sort(reverse=True)
        yield finding("to_collect", strata="; ".join(what for _, what in found[:3]), fall=percent(found[0][0]))


def _fit(e: Evidence) -> Iterable[Finding]:
    """Report under- and over-fitting."""
    train, val = e.curve("mpjpe_mm", "train"), e.curve("mpjpe_mm", "val")
    if val is None:
        return
    defined = [value for value in val.values if value is not None]
    term = "mpjpe_mm" if train is not None else "loss/KEYPOINTS_3D"
    known, unseen = e.curve(term, "train"), e.curve(term, "val")
    pair = (known.last, unseen.last) if known is not None and unseen is not None else (None, None)
    if pair[0] and pair[1] and pair[1] / pair[0] > OVERFIT_RATIO:
        yield finding("overfit", term=term, val=pair[1], train=pair[0], ratio=pair[1] / pair[0])
    if len(defined) >= 4:
        before = min(defined[: max(1, len(defined) * 3 // 4)])
        gain = 1 - min(defined) / before if before else 0.0
        if gain > STILL_FALLING:
            yield finding("still_falling", gain=percent(gain))
        elif defined[-1] > 1.1 * min(defined):
            yield finding("last_is_worse", best=min(defined), last=defined[-1])


def _dominant_term(e: Evidence) -> Iterable[Finding]:
    """Report a loss term that dominates the others."""
    shares = {
        c.metric.rsplit("/", 1)[-1]: c.last
        for c in e.curves
        if c.split == "train" and c.metric.startswith("share/") and c.last
    }
    if not shares:
        for curve in e.curves:
            name = curve.metric.rsplit("/", 1)[-1]
            weight = e.curve(f"weight/{name}", "train")
            if curve.metric.startswith("loss/") and curve.split == "train" and weight and weight.last and curve.last:
                shares[name] = weight.last * curve.last
    total = sum(shares.values())
    if total > 0:
        name, value = max(shares.items(), key=lambda item: item[1])
        if value / total > DOMINANT_SHARE:
            yield finding("dominant_term", term=name, share=percent(value / total), terms=len(shares))


def _waiting(e: Evidence) -> Iterable[Finding]:
    """Report a loader that is too slow."""
    curve = e.curve("data_wait_share", "train")
    if curve is not None and curve.last is not None and curve.last > WAITING_SHARE:
        yield finding("waiting", share=percent(curve.last))


def _few_sequences(e: Evidence) -> Iterable[Finding]:
    entry = e.run.get("mpjpe_mm")
    if entry is not None and entry.sequences < MIN_SEQUENCES:
        yield finding("few_sequences", sequences=entry.sequences, least=MIN_SEQUENCES)


def _defined(run: RunResults, column: str) -> dict[str, float]:
    values = {label: run.value("mpjpe_mm", f"{column}={label}") for label in run.labels(column)}
    return {label: value for label, value in values.items() if value is not None}


Rule = Callable[[Evidence], Iterable[Finding]]
RULES: tuple[Rule, ...] = (
    _few_sequences,
    _against_mean_pose,
    _fit,
    _orientation,
    _placement,
    _fingers,
    _dominant_term,
    _occlusion,
    _views,
    _sides,
    _fingertips,
    _outliers,
    _to_collect,
    _waiting,
)
