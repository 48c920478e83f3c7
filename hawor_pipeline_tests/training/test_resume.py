"""Interrupted runs go on as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from hawor_pipeline.config import dump_config
from hawor_pipeline.errors import CheckpointError
from hawor_pipeline.training import fit
from hawor_pipeline.training.fit import TrainingPipeline
from hawor_pipeline.training.module import EnhancedHaWoRTrainer
from hawor_pipeline.untrusted.safe_load import load_checkpoint
from hawor_pipeline_tests.training.conftest import tiny_config

STEPS = 8  # in epochs of 4, each validated


KILLED_RUNS = """
import os, signal, sys
from hawor_pipeline.training import fit
from hawor_pipeline.training.fit import TrainingPipeline
from hawor_pipeline.training.keeping import CheckpointKeeper

save = CheckpointKeeper.save_last

def run(folder, step, moment):
    def killing(keeper, trainer):
        if trainer.global_step == step and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        save(keeper, trainer)
        if trainer.global_step == step and moment == "after":
            os.kill(os.getpid(), signal.SIGKILL)

    CheckpointKeeper.save_last = killing
    TrainingPipeline(sys.argv[1], folder).train()

for case in sys.argv[2:]:
    folder, step, moment = case.split(":")
    child = os.fork()  # nothing has computed yet, so there are no threads to lose
    if child == 0:
        run(folder, int(step), moment)
        os._exit(0)
    print(case, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def _train(config, folder, stop_at: tuple[str, int] | None = None) -> TrainingPipeline:
    """Train; with `stop_at` a SIGTERM arrives when a line of that kind and step is reported."""

    def interrupt(line):
        if (line["kind"], line.get("step")) == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    pipeline = TrainingPipeline(config, folder, on_progress=interrupt)
    pipeline.train()
    return pipeline


def _assert_same_run(one: Path, other: Path) -> None:
    """Weights and optimiser of both checkpoints, every row that is not a speed, and the result."""
    for name in ("last.ckpt", "best.ckpt"):
        saved = [load_checkpoint(folder / "checkpoints" / name) for folder in (one, other)]
        for part in ("state_dict", "raw_weights", "optimizer_states", "lr_schedulers", "averaged_steps"):
            _assert_equal(*(checkpoint[part] for checkpoint in saved))
    for split in ("train", "val"):
        for metric in ("loss", "grad_norm", "mpjpe_mm", "pa_mpjpe_mm", "learning_rate"):
            assert _curve(one, split, metric) == _curve(other, split, metric), (split, metric)
    results = [json.loads((folder / "result.json").read_text()) for folder in (one, other)]
    assert [result.pop("seconds") > 0 for result in results] == [True, True]
    assert results[0] == results[1]


def _assert_equal(one, other) -> None:
    """Bit for bit, however nested."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            _assert_equal(one[name], other[name])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            _assert_equal(*pair)
    else:
        assert one == other


def _curve(folder: Path, split: str, metric: str) -> dict[int, float]:
    rows = pq.read_table(folder / "training.parquet").to_pylist()
    found = [(row["step"], row["value"]) for row in rows if (row["split"], row["metric"]) == (split, metric)]
    assert len(found) == len({step for step, _ in found}), "a step is logged twice"
    return dict(found)


@pytest.fixture(scope="module")
def whole(hand_data, tmp_path_factory) -> Path:
    """A run that nothing interrupted, to compare with."""
    folder = tmp_path_factory.mktemp("whole")
    _train(_config(hand_data), folder)
    return folder


def _config(hand_data: Path):
    return tiny_config(hand_data, max_steps=STEPS, save_every_n_steps=3, ema_decay=0.8)


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        pytest.param("step", 5, id="middle_of_epoch"),
        pytest.param("validation", 4, id="validation"),
        pytest.param("step", 4, id="end_of_epoch", marks=pytest.mark.slow),
        pytest.param("step", STEPS - 1, id="before_the_last_step", marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_goes_on_bit_identically(hand_data, whole, tmp_path, kind, step):
    """Also where the signal arrives during a validation, which is finished, and none is added by the stop."""
    config = _config(hand_data)
    first = _train(config, tmp_path, (kind, step))
    assert first.stopped_by == signal.SIGTERM
    stopped = json.loads((tmp_path / "result.json").read_text())
    assert (stopped["status"], stopped["ended_by"], stopped["step"]) == ("interrupted", "signal", step)
    assert _train(config, tmp_path).stopped_by is None
    _assert_same_run(whole, tmp_path)
    assert set(_curve(tmp_path, "train", "loss")) == set(range(1, STEPS + 1))
    assert set(_curve(tmp_path, "val", "mpjpe_mm")) == {4, 8}


@pytest.mark.parametrize("kind", [pytest.param("step", marks=pytest.mark.slow), "validation"])
def test_a_signal_in_the_last_step_interrupts_nothing(hand_data, whole, tmp_path, kind):
    assert _train(_config(hand_data), tmp_path, (kind, STEPS)).stopped_by is None
    _assert_same_run(whole, tmp_path)


@pytest.mark.slow
def test_runs_killed_around_a_checkpoint_end_as_if_never_killed(hand_data, whole, tmp_path):
    """SIGKILL just before and just after the checkpoint of a validation, and of the last step."""
    config = _config(hand_data)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    folders = {f"{moment}-{step}": (step, moment) for step in (4, STEPS) for moment in ("before", "after")}
    cases = [f"{tmp_path / name}:{step}:{moment}" for name, (step, moment) in folders.items()]
    command = [sys.executable, "-c", KILLED_RUNS, str(tmp_path / "config.yaml"), *cases]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:4] == [f"{case} -9" for case in cases]
    for name, (step, moment) in folders.items():
        saved = load_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt")["global_step"]
        assert saved == (step if moment == "after" else {4: 3, STEPS: 6}[step])
        assert not (tmp_path / name / "result.json").exists()
        _train(config, tmp_path / name)
        _assert_same_run(whole, tmp_path / name)


@pytest.mark.slow
def test_killed_process_goes_on_from_its_last_checkpoint(tiny, tmp_path):
    config = tiny(max_steps=16, save_every_n_steps=2)
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    run = tmp_path / "run"
    command = [sys.executable, "-m", "hawor_pipeline.training.fit", "--config", str(path), "--run-dir", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if json.loads(line).get("step", 0) >= 5:
            process.kill()
            break
    process.wait()
    process.stdout.close()
    saved = load_checkpoint(run / "checkpoints" / "last.ckpt")["global_step"]
    assert saved >= 2
    steps = []
    pipeline = TrainingPipeline(config, run, on_progress=lambda line: steps.append(line["step"]))
    trainer, _ = pipeline.train()
    assert steps[0] == saved
    assert trainer.global_step == 16
    assert set(_curve(run, "train", "loss")) == set(range(1, 17))


def test_hours_that_are_over_end_the_run_with_a_validation(tiny, tmp_path):
    config = tiny(max_steps=STEPS, max_hours=1e-9)
    assert _train(config, tmp_path).stopped_by is None
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["status"], result["ended_by"], result["step"]) == ("completed", "max_hours", 1)
    assert set(_curve(tmp_path, "val", "mpjpe_mm")) == {1}
    assert load_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["global_step"] == 1


def test_a_run_folder_has_one_writer(tiny, tmp_path, monkeypatch):
    """A second process is told so, and finds nothing changed when the first is gone."""
    monkeypatch.setattr(fit, "LOCK_WAIT_SECONDS", 0.3)
    code = (
        "import fcntl, sys; handle = open(sys.argv[1], 'w'); fcntl.flock(handle, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(CheckpointError, match="another process trains"):
            TrainingPipeline(tiny(max_steps=2), tmp_path).train()
        assert not (tmp_path / "config.yaml").exists()
        other.kill()
    TrainingPipeline(tiny(max_steps=2), tmp_path).train()
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "completed"


def test_a_damaged_checkpoint_is_refused(tiny, tmp_path):
    config = tiny(max_steps=2)
    _train(config, tmp_path)
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        TrainingPipeline(config, tmp_path).train()


def test_a_checkpoint_of_another_network_is_refused(tiny, tmp_path):
    _train(tiny(max_steps=2), tmp_path)
    with pytest.raises(CheckpointError, match="st_hdim"):
        TrainingPipeline(tiny(max_steps=3, st_hdim=64), tmp_path).train()


def test_signal_handlers_are_those_from_before_the_run(tiny, tmp_path, monkeypatch):
    """A handler that stays would swallow a later signal, and keep the trainer of each finished run in memory."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    TrainingPipeline(tiny(max_steps=1), tmp_path / "done").train()
    assert [signal.getsignal(number) for number in numbers] == before
    monkeypatch.setattr(EnhancedHaWoRTrainer, "training_step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        TrainingPipeline(tiny(max_steps=1), tmp_path / "failed").train()
    assert [signal.getsignal(number) for number in numbers] == before
