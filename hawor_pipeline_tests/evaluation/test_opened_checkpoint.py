"""An evaluation opens its checkpoint once, and never reads the optimiser in it."""

import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hawor_pipeline.errors import CheckpointError
from hawor_pipeline.evaluation.evaluate import evaluate_checkpoint
from hawor_pipeline.evaluation.setting import Devices, Setting
from hawor_pipeline.evaluation.tables import read_table
from hawor_pipeline.models.checkpoints import open_checkpoint
from hawor_pipeline.provenance import sha256_file

REPOSITORY = Path(__file__).resolve().parents[2]
OPTIMISER_MB = 256
# Prints the resident pages (kB) of the checkpoint's mapping, after a forward pass that needs every weight.
RESIDENT = """
import sys
import torch
from hawor_pipeline.models.checkpoints import open_checkpoint

opened = open_checkpoint(sys.argv[1])
total = sum(float(parameter.detach().sum()) for parameter in opened.model.parameters())
resident, inside = 0, False
for line in open("/proc/self/smaps"):
    if "-" in line.split(" ")[0] and ":" not in line.split(" ")[0]:
        inside = line.rstrip().endswith(sys.argv[1])
    elif inside and line.startswith("Rss:"):
        resident += int(line.split()[1])
print(f"resident {resident} weights {sum(p.numel() * 4 for p in opened.model.parameters()) // 1024}")
"""


@pytest.fixture
def with_optimiser(checkpoint: Path, tmp_path: Path) -> Path:
    """The same weights beside an optimiser that is many times larger."""
    content = torch.load(checkpoint, weights_only=True)
    moments = {0: {"exp_avg": torch.full((OPTIMISER_MB << 18,), 0.5)}}
    content["optimizer_states"] = [{"state": moments, "param_groups": []}]
    torch.save(content, tmp_path / "whole.ckpt")
    return tmp_path / "whole.ckpt"


def test_the_optimiser_is_mapped_but_never_read(with_optimiser: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT, str(with_optimiser)], capture_output=True, text=True, cwd=REPOSITORY
    )
    found = re.search(r"resident (\d+) weights (\d+)", done.stdout)
    assert found, done.stderr
    resident, weights = (int(number) for number in found.groups())
    assert weights <= resident < weights + 8192, "only the weights are read, and what the kernel reads ahead"


def test_an_evaluation_opens_its_checkpoint_once_and_measures_the_same(
    with_optimiser: Path, analysed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads, hashed = [], []

    def counted(calls: list[str], function):
        def call(path, *args, **options):
            calls.append(str(path))
            return function(path, *args, **options)

        return call

    monkeypatch.setattr(torch, "load", counted(loads, torch.load))
    monkeypatch.setattr("hawor_pipeline.models.checkpoints.sha256_file", counted(hashed, sha256_file))
    monkeypatch.setattr("hawor_pipeline.evaluation.evaluate.sha256_file", counted(hashed, sha256_file))
    before = analysed.setting
    setting = Setting.of(before.shards_dir, before.mano_dir, tmp_path / "m", before.dataset_version, before.subjects)
    result = evaluate_checkpoint(
        open_checkpoint(with_optimiser), setting, "again", devices=Devices("cpu"), robustness_samples=20
    )
    assert loads == [str(with_optimiser)], "the file is loaded once, for the weights, the clip length and the split"
    assert hashed == [str(with_optimiser)], "and read once more, for its hash"
    assert result.info["metrics"] == analysed.run.info["metrics"]
    for table in ("samples", "joints", "predictions", "summary", "robustness"):
        ours, theirs = read_table(setting.metrics_dir, table, "again"), read_table(before.metrics_dir, table, "random")
        assert ours.drop_columns("checkpoint_sha256").equals(theirs.drop_columns("checkpoint_sha256")), table


def test_another_process_opens_the_file_itself(checkpoint: Path) -> None:
    opened = open_checkpoint(checkpoint)
    content = pickle.dumps(opened)
    assert len(content) < 1000, "no weights travel"
    copy = pickle.loads(content)  # noqa: S301 - written above
    assert (copy.sha256, copy.clip_length, copy.trained_on) == (sha256_file(checkpoint), 3, ())
    for ours, theirs in zip(copy.model.parameters(), opened.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_clip_length_that_is_no_number_of_frames_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"]["config"]["clip_length"] = 0
    torch.save(content, tmp_path / "zero.ckpt")
    with pytest.raises(CheckpointError, match="clip_length is 0"):
        open_checkpoint(tmp_path / "zero.ckpt")
