"""Checks before a long run: memory, data loading, learning and duration."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from hawor_pipeline.config import TrainingConfig
from hawor_pipeline.core.metrics import mpjpe
from hawor_pipeline.core.types import ClipBatch
from hawor_pipeline.core.units import MM_PER_M
from hawor_pipeline.provenance import free_bytes
from hawor_pipeline.training.callbacks import DATA_WAIT_LIMIT, data_wait_advice
from hawor_pipeline.training.fit import prepare_torch
from hawor_pipeline.training.launch import processes_of
from hawor_pipeline.training.memory import is_memory_shortage, memory_advice
from hawor_pipeline.training.module import EnhancedHaWoRTrainer
from hawor_pipeline.training.trial import BatchSize, Pace, Trial, find_batch_size, find_learning_rate

MEASURED_STEPS = 8
CLIP_STEPS = 80  # on one clip, to check that the network learns at all
CLIP_RATE = 1e-3  # learning rate of these steps; a network with pretrained weights uses the configured rate
LEARNED = 0.5  # largest share of the initial error that may remain
LEARNED_MM = 5.0  # an error below this passes too
SEARCH_STEPS = 40
LARGER = 4  # largest batch size to try, relative to the configured one
RATE_RATIO = 10.0  # a configured rate above this multiple of the found rate gives a warning
BYTES_PER_WEIGHT_KEPT = 16  # in a checkpoint: weight, average, two moments


@dataclass(slots=True)
class Findings:
    """Result of a preflight: facts, warnings, and reasons to refuse the run."""

    facts: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)


def preflight(config: TrainingConfig, device: torch.device) -> Findings:
    """Measure a configuration on one device, with its own data and network.

    Args:
        config: resolved.
        device: of the run.

    Raises:
        HaworError: the configuration or its data are not valid; see `EnhancedHaWoRTrainer`.
    """
    prepare_torch(config)
    module = EnhancedHaWoRTrainer(config)
    findings = Findings()
    _describe(findings, module, device)
    trial = Trial(module, device)
    try:
        pace = trial.measure(endless(module), MEASURED_STEPS)
    except (RuntimeError, MemoryError) as error:
        if not is_memory_shortage(error):
            raise
        findings.refusals.append("does not fit in memory: " + "; ".join(memory_advice(config)))
        return findings
    _judge_pace(findings, module, trial, pace)
    _judge_learning(findings, module, trial)
    _search(findings, module, trial)
    return findings


def endless(module: EnhancedHaWoRTrainer) -> Iterator[ClipBatch]:
    """Yield training batches, epoch after epoch, as the run would load them."""
    for epoch in itertools.count():
        yield from module.data.training_loader(epoch)


def _describe(findings: Findings, module: EnhancedHaWoRTrainer, device: torch.device) -> None:
    config, data = module.config, module.data
    weights = sum(parameter.numel() for parameter in module.model.parameters())
    trained = sum(parameter.numel() for parameter in module.model.parameters() if parameter.requires_grad)
    findings.facts["device"] = f"{device} ({processes_of(config)} processes on this machine)"
    findings.facts["network"] = f"{weights / 1e6:.1f} M weights, {trained / 1e6:.1f} M of them trained"
    findings.facts["data"] = f"{len(data.training_clips)} clips train, {len(data.validation_clips)} validate"
    findings.facts["split"] = f"{data.split.rule}: {', '.join(data.split.validation) or config.validation_data_dir}"
    kept = config.save_top_k + 2  # plus last.ckpt, and the file being written
    needed, free = weights * BYTES_PER_WEIGHT_KEPT * kept, free_bytes(Path(config.output_dir))
    findings.facts["checkpoints"] = f"about {needed / 1e9:.1f} GB in all; {free / 1e9:.1f} GB are free"
    if needed > free:
        findings.refusals.append(f"{config.output_dir} has no room for the checkpoints: free some, or set output_dir")


def _judge_pace(findings: Findings, module: EnhancedHaWoRTrainer, trial: Trial, pace: Pace) -> None:
    """Report speed, memory, waiting time, and the hours to the end."""
    config, facts = module.config, findings.facts
    if not math.isfinite(pace.loss):
        findings.refusals.append("the loss is not finite in the first steps: lower learning_rate, or set precision: 32")
    room = trial.room_bytes()
    facts["memory"] = f"{pace.peak_bytes / 1e9:.2f} GB of {room / 1e9:.1f} GB"
    facts["speed"] = f"{pace.crops_per_second:.0f} crops per second, {1e3 * pace.seconds_per_step:.0f} ms a step"
    facts["waiting for data"] = f"{pace.wait_share:.0%} of the time"
    if pace.wait_share > DATA_WAIT_LIMIT:
        findings.warnings.append(data_wait_advice(pace.wait_share, config))
    processes = processes_of(config) * config.num_nodes
    epoch = math.ceil(len(module.data.training_loader()) / config.passes_per_step / processes)
    steps = config.max_epochs * epoch
    steps = min(steps, config.max_steps) if config.max_steps > 0 else steps
    hours = steps * config.passes_per_step * pace.seconds_per_step / 3600
    facts["to the end"] = f"{steps} steps, {hours:.2f} hours without validation (epochs of {epoch} steps)"
    if config.max_hours is not None and hours > config.max_hours:
        findings.warnings.append(
            f"max_hours {config.max_hours} ends the run at about step {round(steps * config.max_hours / hours)} of "
            f"{steps}, with the learning rate still high: lower max_epochs or max_steps to what fits"
        )


def _judge_learning(findings: Findings, module: EnhancedHaWoRTrainer, trial: Trial) -> None:
    """Check that the error of one clip falls when the network trains on that clip only."""
    clip = module.data.some_training_clips(1)
    trial.restart(max(CLIP_RATE, module.config.learning_rate) if module.pretrained is None else None)
    before = _error_mm(trial, clip)
    for _ in range(CLIP_STEPS):
        trial.step(clip)
    after = _error_mm(trial, clip)
    trial.restart()
    findings.facts["learns one clip"] = f"{before:.1f} mm -> {after:.1f} mm in {CLIP_STEPS} steps"
    if not after <= max(LEARNED * before, LEARNED_MM):
        findings.refusals.append(
            f"does not learn one clip ({before:.1f} mm -> {after:.1f} mm, expected below "
            f"{max(LEARNED * before, LEARNED_MM):.1f}): look at the proof sheet of the data, then at loss_weights and "
            "learning_rate"
        )


@torch.no_grad()
def _error_mm(trial: Trial, clip: ClipBatch) -> float:
    """Return the root-relative error of the valid frames, mm."""
    clip = trial.place(clip)
    use = clip.target.valid & (clip.sample_index >= 0)
    trial.module.eval()
    with trial.precision.forward_context():
        error = MM_PER_M * mpjpe(trial.module.predict_batch(clip).joints_m, clip.target.joints_m)[use]
    trial.module.train()
    return float(error.mean())


def _search(findings: Findings, module: EnhancedHaWoRTrainer, trial: Trial) -> None:
    """Search a learning rate and a batch size to compare with the configured ones."""
    config = module.config
    rate = find_learning_rate(trial, endless(module), SEARCH_STEPS)
    findings.facts["learning rate"] = f"{config.learning_rate:g} configured, {rate:.1e} where the loss falls fastest"
    if config.learning_rate > RATE_RATIO * rate:
        findings.warnings.append(
            f"learning_rate {config.learning_rate:g} is high: the loss falls fastest at {rate:.1e}"
        )
    tried = find_batch_size(trial, module.data.some_training_clips(config.batch_size), LARGER * config.batch_size)
    findings.facts["batch size"] = f"{config.batch_size} configured; {_batch_sizes(tried)}"


def _batch_sizes(tried: list[BatchSize]) -> str:
    if not tried:
        return "not even one clip fits"
    fastest = min(tried, key=lambda each: each.seconds_per_clip)
    listed = ", ".join(f"{each.clips}: {1e3 * each.seconds_per_clip:.0f}" for each in tried)
    return f"fastest at {fastest.clips} (ms per clip by clips: {listed})"
