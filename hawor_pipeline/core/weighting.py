"""Weights of the loss terms: static, by normalised loss levels, or by balanced gradients.

Convention: terms are one vector in the fixed order of `TERMS`; weights are float32, without gradient, on the device of
the losses, and no step synchronises with the device. All state is in buffers, so a resumed run is equal bit for bit.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hawor_pipeline.config import DEFAULT_LOSS_WEIGHTS as DEFAULT_WEIGHTS
from hawor_pipeline.config import LOSS_TERMS as TERMS
from hawor_pipeline.errors import CheckpointError, ConfigError, nearest

Mode = Literal["static", "ema", "gradnorm_head"]

# Share of each term in the total under adaptive weighting. A share of the value is not a share of the gradient: per
# unit of value the terms in the crop and over time have ten times the gradient of the others at the head, hence their
# small shares (docs/decisions/0014-shares-of-the-loss-terms.md).
SHARES = {
    "KEYPOINTS_3D": 0.26,
    "KEYPOINTS_2D": 0.10,
    "GLOBAL_ORIENT": 0.22,
    "HAND_POSE": 0.27,
    "BETAS": 0.02,
    "MESH_VERTICES": 0.06,
    "MESH_FACES": 0.03,
    "TEMPORAL_CONSISTENCY": 0.01,
    "OCCLUSION_ROBUSTNESS": 0.03,
}

DECAY = 0.98  # of the running means, per optimiser step
CALIBRATION_STEPS = 100  # the reference level of each term is fixed after these
DRIFT_LIMIT = 4.0  # largest factor between a term's weight and its calibrated value, relative to the other terms
LOWEST_LEVEL = 1e-3  # of the calibrated level: bounds the weight of a term that reaches zero
GRADIENT_EVERY = 10  # optimiser steps between two measurements of gradient norms
_VERSION = 3  # of the shares, the rule and the terms; a run resumes only under its own version


def resolve_weights(given: Mapping[str, float] | None) -> dict[str, float]:
    """Fill a partial mapping of weights with the defaults.

    Args:
        given: weights by term; terms not named keep their default, 0 switches a term off.

    Returns:
        A weight for every term, in the order of `TERMS`.

    Raises:
        ConfigError: a name is unknown, or a weight is negative, not finite or not a number; or all are 0.

    Example:
        >>> resolve_weights({"BETAS": 0.0})["BETAS"]
        0.0
    """
    weights = dict(DEFAULT_WEIGHTS)
    for name, value in (given or {}).items():
        if name not in weights:
            raise ConfigError(f"found loss weight {name!r}, expected one of {', '.join(TERMS)}.{nearest(name, TERMS)}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise ConfigError(f"found loss weight {name}: {value!r}, expected a finite number of at least 0.")
        weights[name] = float(value)
    if not any(weights.values()):
        raise ConfigError("found all loss weights 0, expected at least one above 0.")
    return weights


class LossWeighting(nn.Module):
    """Weights of the loss terms from their values so far.

    Modes:
        static: the given weights.
        ema: w_i = share_i / level_i, level_i the running mean of term i. Relative to the level at the end of
            calibration and to the geometric mean over terms, no weight moves by more than a factor of 4, and the
            weighted sum of the levels stays at what the static weights gave at calibration, so learning rate, clipping
            threshold and AMP scale keep their meaning.
        gradnorm_head: the same with the norm of each term's gradient at the head's output in place of its level.

    In both adaptive modes a term's share is its preset times given over default weight, renormalised to sum 1.

    Args:
        weights: a weight per term, from `resolve_weights`.
        mode: see above.

    Source:
        Running-mean normalisation is the smoothed form of summing log losses (IMTL-L, Liu et al. 2021); gradient
        balance after GradNorm, Chen et al. 2018, without its learned weights.
    """

    static: Tensor
    share: Tensor
    level: Tensor
    reference: Tensor
    updates: Tensor
    pending: Tensor
    pending_count: Tensor
    clock: Tensor
    names: Tensor

    def __init__(self, weights: Mapping[str, float], mode: Mode = "ema") -> None:
        super().__init__()
        if mode not in ("static", "ema", "gradnorm_head"):
            raise ConfigError(
                f"found loss_weighting {mode!r}, expected 'static', 'ema' or 'gradnorm_head'."
                f"{nearest(str(mode), ('static', 'ema', 'gradnorm_head'))}"
            )
        self.mode = mode
        self.accumulate = 1  # forward passes per optimiser step
        ratio = torch.tensor([SHARES[name] * weights[name] / DEFAULT_WEIGHTS[name] for name in TERMS])
        self.register_buffer("static", torch.tensor([weights[name] for name in TERMS]).float(), persistent=False)
        self.register_buffer("share", (ratio / ratio.sum()).float(), persistent=False)
        for name in ("level", "reference", "updates", "pending", "pending_count"):
            self.register_buffer(name, torch.zeros(len(TERMS), dtype=torch.float32))
        self.register_buffer("clock", torch.zeros(2, dtype=torch.int64))  # optimiser steps, passes of the open step
        self.register_buffer("names", torch.tensor(list(self._signature()), dtype=torch.uint8))
        self._steps, self._passes = 0, 0  # the host's copy of the clock, so that no step reads from the device

    def _signature(self) -> bytes:
        return f"{_VERSION}:{self.mode}:{','.join(TERMS)}".encode()

    @property
    def wants_gradients(self) -> bool:
        """True if this pass is to measure gradient norms."""
        return self.mode == "gradnorm_head" and self.training and self._steps % GRADIENT_EVERY == 0

    @torch.no_grad()
    def forward(self) -> Float[Tensor, " terms"]:
        """Compute the weights of this pass from the steps before it; in the first step, from its passes so far.

        Returns:
            (terms), 0 for terms that are switched off. Static weights for terms without a value so far, and in
            evaluation mode, so that validation losses are comparable over a run and between runs.
        """
        if self.mode == "static" or not self.training:
            return self.static
        # The first step has no earlier one to learn from, yet its scale must equal that of the next: Adam's second
        # moment would remember the difference for a thousand steps. So it also uses the passes of its own, still open
        # step.
        level, reference, updates = self._moved() if self._steps == 0 else (self.level, self.reference, self.updates)
        total = (self.static * reference).sum()  # what the static weights gave at calibration
        active = (updates > 0) & (reference > 0) & (self.share > 0)
        # Inactive terms get reference and level 1, so that no 0 / 0 reaches the sums below.
        reference = torch.where(active, reference, torch.ones_like(reference))
        level = torch.where(active, torch.maximum(level, LOWEST_LEVEL * reference), reference)
        # Subtracting the mean log is dividing by the geometric mean: if all terms fall alike, no weight moves.
        drift = (reference / level).log()
        drift = drift - drift.sum() / active.sum().clamp_min(1)
        factor = drift.clamp(-math.log(DRIFT_LIMIT), math.log(DRIFT_LIMIT)).exp()
        raw = torch.where(active, self.share * factor / reference, torch.zeros_like(level))
        # Rescale so that the weighted levels sum to their static total at calibration: learning rate, gradient clipping
        # and the AMP scale keep their meaning.
        adaptive = raw * (total / (raw * level).sum().clamp_min(1e-30))
        return torch.where(active, adaptive, self.static)

    @torch.no_grad()
    def observe(self, magnitudes: Float[Tensor, " terms"], present: Bool[Tensor, " terms"]) -> None:
        """Add the values of one forward pass of training.

        Args:
            magnitudes: (terms), the losses or, for gradnorm_head, the gradient norms.
            present: (terms), terms that this batch could compute. Missing and non-finite terms are skipped.
        """
        usable = present & magnitudes.isfinite()
        self.pending += torch.where(usable, magnitudes.float(), torch.zeros_like(self.pending))
        self.pending_count += usable

    def end_pass(self) -> None:
        """Count one forward pass of training; the last pass of an optimiser step closes it."""
        self._passes += 1
        self.clock[1] += 1
        if self._passes >= self.accumulate:
            self.finish_step()

    @torch.no_grad()
    def finish_step(self) -> None:
        """Close an optimiser step: update the running means, with one reduction over all processes.

        `end_pass` calls it after `accumulate` passes; call it where a step ends early, as at the end of an epoch. It
        does nothing without an open pass.
        """
        if self._passes == 0:
            return
        if self.mode == "ema" or self.wants_gradients:
            level, reference, updates = self._moved()
            self.level.copy_(level)
            self.reference.copy_(reference)
            self.updates.copy_(updates)
            self.pending.zero_()
            self.pending_count.zero_()
        self._steps, self._passes = self._steps + 1, 0
        self.clock[0] += 1
        self.clock[1] = 0

    def _moved(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return running means, calibrated values and update counts with the passes of the open step included."""
        total, count = _summed_over_processes(self.pending, self.pending_count)
        seen = count > 0
        updates = self.updates + seen
        # A plain average at first, an exponential one later: the effect of bias correction.
        pace = (1 / updates.clamp_min(1)).clamp_min(1 - DECAY)
        level = torch.where(seen, self.level + pace * (total / count.clamp_min(1) - self.level), self.level)
        # Gradients are measured every few steps only, so their calibration takes as many steps but fewer updates.
        calibration = CALIBRATION_STEPS // (GRADIENT_EVERY if self.mode == "gradnorm_head" else 1)
        return level, torch.where(seen & (updates <= calibration), level, self.reference), updates

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        stored = state_dict.get(prefix + "names")
        if stored is not None and bytes(stored.tolist()) != self._signature():
            raise CheckpointError(
                f"the checkpoint's loss weighting is {bytes(stored.tolist()).decode(errors='replace')!r}, expected "
                f"{self._signature().decode()!r}; resume with the settings of that run or start a new one."
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._steps, self._passes = (int(value) for value in self.clock.tolist())  # the only read from the device


def _summed_over_processes(total: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return total, count
    both = torch.stack((total, count))
    distributed.all_reduce(both)
    return both[0], both[1]
