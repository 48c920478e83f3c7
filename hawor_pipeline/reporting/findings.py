"""Advice computed from the numbers: each rule reads the tables and yields findings or nothing."""

from collections.abc import Callable, Iterable

import numpy as np

from hawor_pipeline.core.skeleton import FINGERS
from hawor_pipeline.core.units import mm_to_m
from hawor_pipeline.evaluation.bootstrap import MIN_SEQUENCES
from hawor_pipeline.reporting.evidence import Evidence, Finding, change, percent
from hawor_pipeline.reporting.results import Entry, RunResults
from hawor_pipeline.reporting.training_findings import dominant_term, fit, waiting

# Thresholds above which a rule yields a finding.
ORIENTATION_SHARE = 0.5  # of the error that a similarity alignment removes
OCCLUSION_RATIO = 1.25
VIEW_RATIO = 1.3
OUTLIER_RATIO = 1.5
LEAST_FOUND = 0.5
HARDER_RATIO = 1.15  # of a kind of samples over the rest
LEAST_ADDED = 0.02  # of the whole error
COLLECTED = (
    ("object", "object"),
    ("action", "action"),
    ("occlusion", "share of hidden joints"),
    ("truncation", "share outside the image"),
    ("depth_m", "distance in m"),
    ("speed_m_s", "speed in m/s"),
)


def find(evidence: Evidence) -> list[Finding]:
    """Return all findings, those that need action first."""
    found = [finding for rule in RULES for finding in rule(evidence)]
    return sorted(found, key=lambda finding: ("act", "watch", "good").index(finding.tone))


def _against_mean_pose(e: Evidence) -> Iterable[Finding]:
    ours = e.run.value("mpjpe_mm")
    baseline = e.baselines["mean_pose"].value("mpjpe_mm") if "mean_pose" in e.baselines else None
    if ours is None or not baseline:
        return
    gain = 1 - ours / baseline
    evidence = f"{ours:.1f} mm against {baseline:.1f} mm for a constant mean hand: {change(gain)}."
    if gain >= 0.5:
        yield Finding(
            "good", "The network uses the images", evidence, "It beats the baseline; look at the strata below."
        )
    elif gain > 0.1:
        yield Finding(
            "watch",
            "More than half of the baseline's error remains",
            evidence,
            "Train longer before tuning anything else.",
        )
    else:
        yield Finding(
            "act",
            "Hardly better than ignoring the image",
            evidence,
            "Overfit a single clip first; check learning rate and labels.",
        )


def _orientation(e: Evidence) -> Iterable[Finding]:
    whole, aligned = e.run.value("mpjpe_mm"), e.run.value("pa_mpjpe_mm")
    angle = e.run.value("global_orient_error_deg")
    if whole is None or aligned is None or not whole:
        return
    share = 1 - aligned / whole
    if share > ORIENTATION_SHARE:
        turned = f" The wrist is off by {angle:.0f}° on average." if angle is not None else ""
        yield Finding(
            "act",
            "Most of the error is the rotation of the whole hand",
            f"A similarity alignment removes {percent(share)} of the error ({whole:.1f} → {aligned:.1f} mm).{turned}",
            "Raise the weight of GLOBAL_ORIENT, widen the rotation augmentation, or add views and sequences.",
        )


def _placement(e: Evidence) -> Iterable[Finding]:
    found, off = e.run.value("detected"), e.run.value("translation_error_mm")
    if found is None or off is None or found >= LEAST_FOUND:
        return
    pixels = e.run.value("mpjpe_crop_px")
    in_image = f", joints by {pixels:.0f} px of the 256 px crop" if pixels is not None else ""
    yield Finding(
        "act",
        "The hand is placed wrongly",
        f"{percent(found)} of the hands are detected; their position is off by {mm_to_m(off):.2f} m on "
        f"average{in_image}.",
        "Depth comes late in training: more steps, a higher weight of KEYPOINTS_2D; check intrinsics and bounding "
        "boxes.",
    )


def _fingers(e: Evidence) -> Iterable[Finding]:
    baseline = e.baselines.get("mean_rotations")
    ours, theirs = e.run.value("pa_mpjpe_mm"), baseline.value("pa_mpjpe_mm") if baseline else None
    if ours is None or not theirs:
        return
    gain = 1 - ours / theirs
    if gain < 0.2:
        yield Finding(
            "watch" if gain > 0 else "act",
            "Finger poses are close to the mean pose",
            f"PA-MPJPE {ours:.1f} mm, mean rotations {theirs:.1f} mm: {change(gain)}.",
            "Fingers come late in training: more steps, a larger crop, or a higher weight of HAND_POSE.",
        )


def _occlusion(e: Evidence) -> Iterable[Finding]:
    entry = e.run.get("occlusion_robustness")
    if entry is None or entry.value is None:
        return
    low = e.run.value("mpjpe_mm", "occlusion<0.1")
    high = e.run.value("mpjpe_mm", "occlusion>0.5")
    if entry.value > OCCLUSION_RATIO and low is not None and high is not None:
        yield Finding(
            "watch",
            "Hidden hands are harder",
            f"{high:.1f} mm where more than half of the joints are hidden, {low:.1f} mm where hardly any is: "
            f"{entry.value:.2f} times as much.",
            "Raise OCCLUSION_ROBUSTNESS (0 switches it off), keep hidden hands in data_filtering, use longer clips.",
        )


def _views(e: Evidence) -> Iterable[Finding]:
    views = _defined(e.run, "view")
    if len(views) < 2:
        return
    best, worst = min(views, key=lambda v: views[v]), max(views, key=lambda v: views[v])
    if views[worst] > VIEW_RATIO * views[best]:
        yield Finding(
            "watch",
            f"View {worst} is the weakest",
            f"{views[worst]:.1f} mm there, {views[best]:.1f} mm in view {best}.",
            "Look at its worst samples below; give the view more weight in training if the labels are right.",
        )


def _sides(e: Evidence) -> Iterable[Finding]:
    left, right = e.run.get("mpjpe_mm", "side=left"), e.run.get("mpjpe_mm", "side=right")
    if left is None or right is None or left.value is None or right.value is None:
        return
    if _apart(left, right):
        weak, strong = ("left", "right") if left.value > right.value else ("right", "left")
        values = sorted((left.value, right.value), reverse=True)
        yield Finding(
            "watch",
            f"The {weak} hand is worse than the {strong}",
            f"{values[0]:.1f} mm against {values[1]:.1f} mm; their intervals do not touch.",
            "Check mirroring and left-hand labels; balance the two sides in training.",
        )


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
            yield Finding(
                "watch",
                f"The {worst} is the hardest finger",
                f"Its tip is off by {values[worst]:.1f} mm, the other tips by {others:.1f} mm on average.",
                "Weight its joints in the keypoint losses, and look at the crops: is the tip inside them?",
            )


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
        yield Finding(
            "act",
            f"{worst} stands out",
            f"{means[worst]:.1f} mm there, {middle:.1f} mm in the middle of {len(means)} sequences.",
            "Look at its proof sheet for wrong labels first; if they are right, record more like it.",
        )


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
        yield Finding(
            "watch",
            "What to record more of",
            f"{'; '.join(what for _, what in found[:3])}.",
            f"If the first were like the rest, the joint error would fall by {percent(found[0][0])}: record more of "
            "it, or give it more weight in training.",
        )


def _few_sequences(e: Evidence) -> Iterable[Finding]:
    entry = e.run.get("mpjpe_mm")
    if entry is not None and entry.sequences < MIN_SEQUENCES:
        yield Finding(
            "act",
            "Too few sequences for confidence intervals",
            f"Evaluated: {entry.sequences} of at least {MIN_SEQUENCES} sequences that an interval needs.",
            "Evaluate more recordings before comparing runs.",
        )


def _defined(run: RunResults, column: str) -> dict[str, float]:
    values = {label: run.value("mpjpe_mm", f"{column}={label}") for label in run.labels(column)}
    return {label: value for label, value in values.items() if value is not None}


Rule = Callable[[Evidence], Iterable[Finding]]
RULES: tuple[Rule, ...] = (
    _few_sequences,
    _against_mean_pose,
    fit,
    _orientation,
    _placement,
    _fingers,
    dominant_term,
    _occlusion,
    _views,
    _sides,
    _fingertips,
    _outliers,
    _to_collect,
    waiting,
)
