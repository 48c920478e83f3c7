"""Preflight: it measures the real thing, leaves the weights alone, and refuses what cannot work."""

import itertools
import time

import pytest
import torch

from hawor_pipeline.cli import main
from hawor_pipeline.config import dump_config
from hawor_pipeline.training import preflight as flight
from hawor_pipeline.training.module import EnhancedHaWoRTrainer
from hawor_pipeline.training.preflight import endless, preflight
from hawor_pipeline.training.trial import Trial, find_batch_size, find_learning_rate, steepest

CPU = torch.device("cpu")


@pytest.fixture
def trial(tiny) -> Trial:
    return Trial(EnhancedHaWoRTrainer(tiny(batch_size=4)), CPU)


def test_a_sound_configuration_is_ready(tiny, tmp_path, capsys):
    """From the command line; the clip is learned for real, and the hours are steps times their pace."""
    config = tiny(batch_size=4, output_dir=str(tmp_path), max_steps=1000, max_epochs=10_000)
    (tmp_path / "c.yaml").write_text(dump_config(config))
    assert main(["preflight", "--config", str(tmp_path / "c.yaml")]) == 0
    printed = capsys.readouterr().out
    facts = {line.split(":")[0]: line.split(":", 1)[1].strip() for line in printed.splitlines() if ":" in line}
    before, after = [float(word) for word in facts["learns one clip"].split() if "." in word]
    assert after < 0.5 * before
    milliseconds = float(facts["speed"].split(", ")[1].split()[0])
    hours = float(facts["to the end"].split(", ")[1].split()[0])
    assert hours == pytest.approx(1000 * milliseconds / 1000 / 3600, abs=0.006)
    assert "Ready to train." in printed and "REFUSED" not in printed
    assert {"memory", "waiting for data", "learning rate", "batch size", "checkpoints"} <= set(facts)


def test_what_does_not_fit_is_refused_with_what_to_change(tiny, monkeypatch):
    monkeypatch.setattr(EnhancedHaWoRTrainer, "predict_batch", lambda *_: torch.empty(1 << 60, dtype=torch.uint8))
    findings = preflight(tiny(batch_size=4), CPU)
    assert len(findings.refusals) == 1 and "micro_batches 1 -> 2" in findings.refusals[0]


def test_a_network_that_does_not_learn_and_data_that_come_late_are_named(tiny, monkeypatch):
    monkeypatch.setattr(Trial, "step", lambda self, batch: 1.0)
    monkeypatch.setattr(flight, "_search", lambda *_: None)

    def late(module):
        for batch in endless(module):
            time.sleep(0.02)
            yield batch

    monkeypatch.setattr(flight, "endless", late)
    findings = preflight(tiny(max_hours=1e-9), CPU)
    assert any("does not learn one clip" in reason for reason in findings.refusals)
    assert any("num_workers (now 0" in warning for warning in findings.warnings)
    assert any(warning.startswith("max_hours 1e-09 ends the run") for warning in findings.warnings)


def test_searching_leaves_the_weights_as_they_were(trial):
    before = {name: value.clone() for name, value in trial.module.state_dict().items()}
    rate = find_learning_rate(trial, endless(trial.module), steps=12)
    assert 1e-7 <= rate < 1.0
    find_batch_size(trial, trial.module.data.some_training_clips(4), most=2)
    for name, value in trial.module.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_rate_is_where_the_loss_falls_fastest():
    rates = [10.0**-power for power in range(6, 0, -1)]
    assert steepest(rates, [5.0, 4.9, 4.5, 2.0, 3.0, 60.0]) == 1e-4
    assert steepest(rates[:1], [5.0]) == 1e-6


def test_batch_sizes_double_until_memory_ends(trial, monkeypatch):
    """A device that holds four clips."""
    step = Trial.step

    def limited(self, batch):
        if len(batch) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, batch)

    monkeypatch.setattr(Trial, "step", limited)
    monkeypatch.setattr("hawor_pipeline.training.trial._no_faster", lambda tried: False)
    tried = find_batch_size(trial, trial.module.data.some_training_clips(3), most=64)
    assert [each.clips for each in tried] == [1, 2, 4]
    assert all(each.seconds_per_clip > 0 for each in tried)


def test_a_pace_counts_what_it_waits(trial, monkeypatch):
    monkeypatch.setattr(Trial, "step", lambda self, batch: time.sleep(0.01) or 1.0)
    batches = endless(trial.module)

    def late():
        for batch in itertools.islice(batches, 5):
            time.sleep(0.03)
            yield batch

    pace = trial.measure(late(), 4)
    assert 0.6 < pace.wait_share < 0.95
    assert pace.frames_per_step == 4 * 3
