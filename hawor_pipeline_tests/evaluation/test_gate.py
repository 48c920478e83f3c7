"""Champion and challenger: who may take the place, what is kept of the champion, and what is refused."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.evaluation.gate import TARGET_METRICS, decide
from hawor_pipeline.evaluation.registry import Registry, RunRecord
from hawor_pipeline.evaluation.tables import baseline_run_id
from hawor_pipeline.provenance import sha256_file
from hawor_pipeline_tests.evaluation.made_up_runs import write_samples

PROTOCOL, VERSION = "arctic-p1-val", "v1"


def target_values(shift_mm: float, seed: int, sequences: int = 8) -> list[dict[str, np.ndarray]]:
    """All four target metrics; a shift makes errors larger and shares smaller. Noise differs with the seed."""
    common, own = np.random.default_rng(0), np.random.default_rng(seed)
    recordings = []
    for _ in range(sequences):
        error = common.gamma(4, 3, 40) + own.normal(0, 0.5, 40)
        values = {"mpjpe_mm": error + shift_mm, "mpjpe_crop_px": 0.5 * error + shift_mm}
        values |= {name: np.clip(0.9 - 0.01 * (error + shift_mm), 0, 1) for name in ("pck_3d_15mm", "pck_2d_10px")}
        recordings.append(values)
    return recordings


class Project:
    """A metrics folder, a registry, and runs with checkpoints on disk."""

    def __init__(self, root: Path):
        self.root, self.metrics, self.registry = root, root / "metrics", Registry(root / "registry")

    def run(self, run_id: str, recordings: list[dict[str, np.ndarray]], version: str = VERSION) -> RunRecord:
        checkpoint = self.root / "runs" / run_id / "best.ckpt"
        checkpoint.parent.mkdir(parents=True)
        checkpoint.write_bytes(run_id.encode() * 100)
        digest = sha256_file(checkpoint)
        write_samples(self.metrics, run_id, recordings, checkpoint=digest, protocol=PROTOCOL, version=version)
        means = {name: float(np.concatenate([r[name] for r in recordings]).mean()) for name in TARGET_METRICS}
        record = RunRecord(run_id, PROTOCOL, version, "synthetic", digest, str(checkpoint), means)
        self.registry.add(record)
        return record


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_first_run_has_nobody_to_beat(project: Project) -> None:
    record = project.run("one", target_values(0, 1))
    decision = decide(project.metrics, project.registry, "one")
    assert (decision.outcome, decision.passed, decision.champion_run_id) == ("first", True, None)
    project.registry.promote(record, decision.reason)
    again = decide(project.metrics, project.registry, "one")
    assert (again.outcome, again.passed) == ("is_champion", True)


@pytest.mark.parametrize(
    ("shift_mm", "outcome"),
    [(-2.0, "better_or_equal"), (0.0, "better_or_equal"), (0.02, "better_or_equal"), (2.0, "rejected")],
)
def test_worse_beyond_the_interval_is_rejected(project: Project, shift_mm: float, outcome: str) -> None:
    project.registry.promote(project.run("champion-1", target_values(0, 1)), "first")
    project.run("challenger-1", target_values(shift_mm, 5))
    decision = decide(project.metrics, project.registry, "challenger-1")
    assert decision.outcome == outcome
    assert decision.champion_run_id == "champion-1"
    assert [item.metric for item in decision.differences] == list(TARGET_METRICS)
    if outcome == "rejected":
        assert "rejected: worse than champion-1 in mpjpe_mm 1" in decision.reason
        assert "95 %" in decision.reason
    assert json.loads(json.dumps(decision.to_dict()))["passed"] is decision.passed
    assert project.registry.champion(PROTOCOL, VERSION).record.run_id == "champion-1"


def test_one_bad_metric_is_enough(project: Project) -> None:
    project.registry.promote(project.run("champion-1", target_values(0, 1)), "first")
    values = target_values(-2, 2)
    for recording in values:
        recording["pck_2d_10px"] = recording["pck_2d_10px"] - 0.2
    project.run("challenger-1", values)
    decision = decide(project.metrics, project.registry, "challenger-1")
    assert decision.outcome == "rejected"
    assert "pck_2d_10px" in decision.reason
    assert "mpjpe_mm" not in decision.reason


def test_without_an_interval_the_sign_decides(project: Project) -> None:
    project.registry.promote(project.run("champion-1", target_values(0, 1, sequences=3)), "first")
    project.run("worse", target_values(0.5, 1, sequences=3))
    project.run("better", target_values(-0.5, 1, sequences=3))
    worse = decide(project.metrics, project.registry, "worse")
    assert not worse.passed
    assert "3 sequences, at least 5 are needed" in worse.reason
    assert decide(project.metrics, project.registry, "better").passed


def test_unmeasured_target_is_rejected(project: Project) -> None:
    project.registry.promote(project.run("champion-1", target_values(0, 1)), "first")
    values = target_values(-2, 2)
    for recording in values:
        recording["mpjpe_crop_px"] = np.full(40, np.nan)
    project.run("blind", values)
    decision = decide(project.metrics, project.registry, "blind")
    assert not decision.passed
    assert "mpjpe_crop_px cannot be compared" in decision.reason


def test_on_new_data_the_old_champion_is_asked_for_its_tables(project: Project) -> None:
    champion = project.run("champion-1", target_values(0, 1))
    project.registry.promote(champion, "first")
    project.run("challenger-1", target_values(-1, 2), version="v2")
    with pytest.raises(DataError, match="champion 'champion-1' has no tables"):
        decide(project.metrics, project.registry, "challenger-1")
    name = baseline_run_id("champion", "v2")
    digest = champion.checkpoint_sha256
    write_samples(project.metrics, name, target_values(0, 3), checkpoint=digest, protocol=PROTOCOL, version="v2")
    decision = decide(project.metrics, project.registry, "challenger-1")
    assert (decision.outcome, decision.champion_run_id, decision.dataset_version) == (
        "better_or_equal",
        "champion-1",
        "v2",
    )


def test_champions_are_per_protocol_and_data(project: Project) -> None:
    record = project.run("one", target_values(0, 1))
    project.registry.promote(record, "first")
    assert project.registry.champion("arctic-p2-val", VERSION) is None
    assert project.registry.champion(PROTOCOL, "v2") is None
    assert project.registry.latest_champion("arctic-p2-val", "synthetic") is None
    assert project.registry.latest_champion(PROTOCOL, "arctic") is None
    assert project.registry.latest_champion(PROTOCOL, "synthetic").record.run_id == "one"


def test_promotion_keeps_the_checkpoint_and_the_history(project: Project) -> None:
    first, second = project.run("one", target_values(0, 1)), project.run("two", target_values(0, 2))
    project.registry.promote(first, "was first")
    promoted = project.registry.promote(second, "is better")
    os.remove(second.checkpoint_path)  # the run's folder may go
    kept = project.registry.checkpoint(promoted)
    assert sha256_file(kept) == second.checkpoint_sha256
    assert [c.record.run_id for c in project.registry.history(PROTOCOL, VERSION)] == ["one"]
    assert project.registry.champion(PROTOCOL, VERSION).reason == "is better"
    assert project.registry.promote(second, "again") == promoted
    assert len(project.registry.history(PROTOCOL, VERSION)) == 1
    assert [r.run_id for r in project.registry.runs(PROTOCOL, VERSION)] == ["one", "two"]
    assert asdict(project.registry.run("one", PROTOCOL, VERSION)) == asdict(first)


def test_other_bytes_than_those_evaluated_are_not_promoted(project: Project) -> None:
    record = project.run("one", target_values(0, 1))
    Path(record.checkpoint_path).write_bytes(b"trained on")
    with pytest.raises(DataError, match="was evaluated with"):
        project.registry.promote(record, "x")
    os.remove(record.checkpoint_path)
    with pytest.raises(DataError, match="is gone"):
        project.registry.promote(record, "x")
    assert project.registry.champion(PROTOCOL, VERSION) is None


def test_registry_says_what_is_wrong_with_names_and_files(project: Project) -> None:
    project.registry.promote(project.run("one", target_values(0, 1)), "first")
    with pytest.raises(ConfigError, match=r"has one\); evaluate it first"):
        project.registry.run("absent", PROTOCOL, VERSION)
    with pytest.raises(ConfigError, match="cannot name a file"):
        project.registry.champion("../up", VERSION)
    (project.root / "registry" / "champions" / PROTOCOL / f"{VERSION}.json").write_text("{")
    with pytest.raises(DataError, match="not readable JSON"):
        project.registry.champion(PROTOCOL, VERSION)
