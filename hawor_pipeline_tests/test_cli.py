"""The command line: exit codes, one clear message, nothing half-written."""

import io
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from hawor_pipeline.cli import build_parser, main


def run(capsys, *words) -> tuple[int, str, str]:
    """Run a command; returns exit code, stdout, stderr."""
    try:
        code = main([str(word) for word in words])
    except SystemExit as exit_:  # argparse
        code = exit_.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def raw_copy(sample_root: Path, tmp_path: Path) -> Path:
    """A copy of the tiny sample that a test may damage."""
    copy = tmp_path / "raw"
    shutil.copytree(sample_root, copy)
    return copy


def prepare(capsys, raw: Path, output: Path, *more) -> tuple[int, str, str]:
    words = ("prepare", "--arctic-root", raw / "arctic", "--mano-dir", raw / "body_models" / "mano")
    sizes = ("--target-resolution", 64, 64, "--views", 0, 1, 4, "--subjects", "s01", "--num-workers", 0)
    return run(capsys, *words, "--output-dir", output, *sizes, *more)


def published(output: Path) -> list[str]:
    """Names of shards and of anything that a failure left behind."""
    return sorted(path.name for path in output.glob("*/*") if path.is_dir()) if output.exists() else []


def assert_one_clear_message(code: int, expected_code: int, err: str, *words: str) -> None:
    assert code == expected_code, err
    assert "Traceback" not in err
    for word in words:
        assert word in err, err


class _Boom:
    """Runs a command when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def malicious_npy(mark: Path) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.array({"right": _Boom(mark)}, dtype=object), allow_pickle=True)
    return buffer.getvalue()


def test_every_command_has_help_and_a_function():
    parser = build_parser()
    (commands,) = [action for action in parser._actions if hasattr(action, "choices") and action.choices]
    assert set(commands.choices) >= {
        "demo", "ui", "sample-data", "prepare", "create-config", "train", "evaluate", "report", "doctor",
        "migrate-config",
        "show", "video", "export-leaderboard", "predict",
    }  # fmt: skip
    for name, command in commands.choices.items():
        assert callable(command.get_default("execute")), name


def test_wrong_usage_is_2(capsys):
    assert run(capsys, "prepaer")[0] == 2
    assert run(capsys, "prepare", "--arctic-root", "x")[0] == 2


def test_prepare_works_and_works_again(capsys, sample_root, tmp_path):
    code, out, _ = prepare(capsys, sample_root, tmp_path / "out")
    assert code == 0
    assert json.loads(out)["converted_sequences"] == 1
    code, out, _ = prepare(capsys, sample_root, tmp_path / "out")
    assert code == 0
    assert (json.loads(out)["converted_sequences"], json.loads(out)["reused_sequences"]) == (0, 1)


def test_a_missing_root_is_2(capsys, sample_root, tmp_path):
    code, _, err = run(
        capsys,
        "prepare",
        "--arctic-root",
        tmp_path / "nowhere",
        "--output-dir",
        tmp_path / "out",
        "--mano-dir",
        sample_root,
    )
    assert_one_clear_message(code, 2, err, "nowhere", "does not exist")
    assert not (tmp_path / "out").exists()


def test_missing_mano_is_2(capsys, raw_copy, tmp_path, monkeypatch):
    monkeypatch.delenv("MANO_DIR", raising=False)
    shutil.rmtree(raw_copy / "body_models")
    code, _, err = prepare(capsys, raw_copy, tmp_path / "out")
    assert_one_clear_message(code, 2, err, "MANO", "mano.is.tue.mpg.de")
    assert not (tmp_path / "out").exists()


def test_an_unknown_subject_is_2(capsys, sample_root, tmp_path):
    code, _, err = prepare(capsys, sample_root, tmp_path / "out", "--subjects", "s77")
    assert_one_clear_message(code, 2, err, "s77", "s01")


def test_a_misspelt_key_is_2(capsys, tmp_path):
    (tmp_path / "c.yaml").write_text("learningrate: 1e-4\n")
    code, _, err = run(capsys, "train", "--config", tmp_path / "c.yaml")
    assert_one_clear_message(code, 2, err, "learningrate", "learning_rate")
    code, _, err = run(capsys, "train", "--config", tmp_path / "none.yaml")
    assert_one_clear_message(code, 2, err, "none.yaml", "create-config")


def test_jpegs_cut_short_are_named_where_they_are_too_many(capsys, raw_copy, tmp_path):
    images = sorted((raw_copy / "arctic" / "images" / "s01").glob("*/1/*.jpg"))
    for image in images:
        image.write_bytes(image.read_bytes()[:900])
    code, _, err = prepare(capsys, raw_copy, tmp_path / "out")
    assert_one_clear_message(code, 1, err, images[1].name)
    assert published(tmp_path / "out") == []


def test_an_npy_cut_short_is_named(capsys, raw_copy, tmp_path):
    (file,) = (raw_copy / "arctic" / "raw_seqs" / "s01").glob("*.mano.npy")
    file.write_bytes(file.read_bytes()[:-200])
    code, _, err = prepare(capsys, raw_copy, tmp_path / "out")
    assert_one_clear_message(code, 1, err, file.name)
    assert published(tmp_path / "out") == []


def test_frame_counts_that_disagree_are_named(capsys, raw_copy, tmp_path):
    (file,) = (raw_copy / "arctic" / "raw_seqs" / "s01").glob("*.object.npy")
    np.save(file, np.load(file)[:-3])
    code, _, err = prepare(capsys, raw_copy, tmp_path / "out")
    assert_one_clear_message(code, 1, err, "frames")
    assert published(tmp_path / "out") == []


def test_a_malicious_npy_is_refused_and_does_not_run(capsys, raw_copy, tmp_path):
    (file,) = (raw_copy / "arctic" / "raw_seqs" / "s01").glob("*.mano.npy")
    file.write_bytes(malicious_npy(tmp_path / "mark"))
    code, _, err = prepare(capsys, raw_copy, tmp_path / "out")
    assert_one_clear_message(code, 1, err, file.name, "system")
    assert not (tmp_path / "mark").exists()


def test_a_malicious_pkl_is_refused_and_does_not_run(capsys, raw_copy, tmp_path):
    mano = raw_copy / "body_models" / "mano"
    (mano / "MANO_RIGHT.npz").unlink()
    (mano / "MANO_RIGHT.pkl").write_bytes(pickle.dumps({"v_template": _Boom(tmp_path / "mark")}))
    code, _, err = prepare(capsys, raw_copy, tmp_path / "out")
    assert_one_clear_message(code, 1, err, "MANO_RIGHT.pkl", "system")
    assert not (tmp_path / "mark").exists()


def test_a_malicious_checkpoint_is_refused_and_does_not_run(capsys, sample_root, sample_shards, tmp_path):
    import torch

    torch.save({"state_dict": {}, "extra": _Boom(tmp_path / "mark")}, tmp_path / "bad.ckpt")
    mano = sample_root / "body_models" / "mano"
    code, _, err = run(
        capsys, "evaluate", "--checkpoint", tmp_path / "bad.ckpt", "--data", sample_shards, "--output", tmp_path / "m",
        "--mano-dir", mano,
    )  # fmt: skip
    assert_one_clear_message(code, 1, err, "bad.ckpt")
    assert not (tmp_path / "mark").exists()
    assert not list((tmp_path / "m").glob("*/run_id=*"))


def test_a_full_disk_is_1_and_keeps_what_was_finished(capsys, sample_root, tmp_path, monkeypatch):
    import errno

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code, _, err = prepare(capsys, sample_root, tmp_path / "out")
    assert_one_clear_message(code, 1, err, "disk full")
    assert published(tmp_path / "out") == []
    assert prepare(capsys, sample_root, tmp_path / "out")[0] == 0


def test_create_config_writes_something_that_loads_and_never_overwrites(capsys, tmp_path):
    from hawor_pipeline.config import TrainingConfig, load_config

    assert run(capsys, "create-config", tmp_path / "c.yaml")[0] == 0
    assert load_config(tmp_path / "c.yaml") == TrainingConfig()
    code, _, err = run(capsys, "create-config", tmp_path / "c.yaml")
    assert_one_clear_message(code, 2, err, "exists")
    code, _, err = run(capsys, "create-config", tmp_path / "d.yaml", "--experiment", "dmo")
    assert_one_clear_message(code, 2, err, "demo")


def test_create_config_writes_the_format_of_the_file_name(capsys, tmp_path):
    import json

    from hawor_pipeline.config import TrainingConfig, load_config

    for name in ("c.json", "d.JSON"):
        assert run(capsys, "create-config", tmp_path / name)[0] == 0
        written = json.loads((tmp_path / name).read_text())
        assert written == TrainingConfig().model_dump(mode="json")
        assert load_config(tmp_path / name) == TrainingConfig()
    assert run(capsys, "create-config", tmp_path / "e.json", "--experiment", "demo")[0] == 0
    assert load_config(tmp_path / "e.json").backbone_size == "tiny"
    assert run(capsys, "create-config", tmp_path / "f.yml")[0] == 0
    assert "#" in (tmp_path / "f.yml").read_text()
    for name in ("g.toml", "g"):
        code, _, err = run(capsys, "create-config", tmp_path / name)
        assert_one_clear_message(code, 2, err, f"'{name}'", ".json")
        assert not (tmp_path / name).exists()


def test_doctor_reports_what_is_present(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("ARCTIC_ROOT", raising=False)
    code, out, _ = run(capsys, "doctor")
    assert code == 0
    assert "everything required is present" in out
    monkeypatch.setenv("ARCTIC_ROOT", str(tmp_path / "nowhere"))
    code, out, _ = run(capsys, "doctor")
    assert code == 1
    assert "nowhere" in out


def test_training_shows_plain_lines_where_there_is_no_terminal(capsys):
    from hawor_pipeline.training.progress import show_training

    show = show_training()
    show({"kind": "start", "step": 40, "total_steps": 400, "frames_per_step": 32, "training_clips": 7,
          "validation_clips": 2, "parameters": 3_600_000, "device": "cpu"})  # fmt: skip
    for step in range(41, 401):
        show({"kind": "step", "step": step, "total_steps": 400, "epoch": 0, "loss": 2.0 if step < 400 else None})
    show(
        {"kind": "validation", "step": 400, "epoch": 1, "val/mpjpe_mm": 51.234, "val/loss": None, "val/loss/BETAS": 1.0}
    )
    show({"kind": "warning", "message": "37% of the time is spent waiting for data"})
    show({"kind": "end", "status": "completed", "step": 400, "total_steps": 400, "ended_by": "steps"})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "400 steps of 32 frames on cpu, resumed at step 40: 7 clips train, 2 validate, 3.6 M weights"
    assert 15 <= sum(line.startswith("step ") for line in lines) <= 21
    assert "step 400 of 400, loss not finite, about 0.0 min left" in lines
    assert lines[-3:] == [
        "validation at step 400: loss not defined, mpjpe_mm 51.23",
        "37% of the time is spent waiting for data",
        "completed at step 400 of 400 (steps)",
    ]
    assert not any("\r" in line for line in lines)
