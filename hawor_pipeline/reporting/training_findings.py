"""Rules that read training curves."""

from collections.abc import Iterable

from hawor_pipeline.reporting.evidence import Evidence, Finding, percent

OVERFIT_RATIO = 1.3  # validation over training error
STILL_FALLING = 0.03  # relative gain over the last quarter of training
DOMINANT_SHARE = 0.6  # of one term in the weighted loss
WAITING_SHARE = 0.2  # of the time, without a batch


def fit(e: Evidence) -> Iterable[Finding]:
    """Report under- and over-fitting."""
    train, val = e.curve("mpjpe_mm", "train"), e.curve("mpjpe_mm", "val")
    if val is None:
        return
    defined = [value for value in val.values if value is not None]
    term = "mpjpe_mm" if train is not None else "loss/KEYPOINTS_3D"
    known, unseen = e.curve(term, "train"), e.curve(term, "val")
    pair = (known.last, unseen.last) if known is not None and unseen is not None else (None, None)
    if pair[0] and pair[1] and pair[1] / pair[0] > OVERFIT_RATIO:
        yield Finding(
            "act",
            "The network knows its training subjects better than others",
            f"{term}: validation {pair[1]:.3g}, training {pair[0]:.3g}, {pair[1] / pair[0]:.2f} times as much.",
            "More subjects and sequences help most; then stronger augmentation and weight decay.",
        )
    if len(defined) >= 4:
        before = min(defined[: max(1, len(defined) * 3 // 4)])
        gain = 1 - min(defined) / before if before else 0.0
        if gain > STILL_FALLING:
            yield Finding(
                "act",
                "Training stopped while it was still getting better",
                f"The last quarter of the validations lowered the best error by {percent(gain)}.",
                "Give it more steps; the learning-rate schedule stretches with them.",
            )
        elif defined[-1] > 1.1 * min(defined):
            yield Finding(
                "watch",
                "The last checkpoint is worse than the best",
                f"Best validation {min(defined):.1f} mm, last {defined[-1]:.1f} mm.",
                "Stop earlier, or lower the learning rate; the best checkpoint is the one evaluated here.",
            )


def dominant_term(e: Evidence) -> Iterable[Finding]:
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
            yield Finding(
                "watch",
                f"{name} dominates the loss",
                f"At the end it makes {percent(value / total)} of the weighted sum of {len(shares)} terms.",
                "Use adaptive weights, or lower this one, so that the other terms count.",
            )


def waiting(e: Evidence) -> Iterable[Finding]:
    """Report a loader that is too slow."""
    curve = e.curve("data_wait_share", "train")
    if curve is not None and curve.last is not None and curve.last > WAITING_SHARE:
        yield Finding(
            "act",
            "Training waits for data",
            f"{percent(curve.last)} of the time goes into waiting for the next batch.",
            "Raise num_workers and prefetch_factor, keep persistent_workers on, or store smaller crops "
            "(target_resolution).",
        )
