"""Campaigns of faults on a conversion, scaled down: `pytest -m slow --faults N`; in full in benchmarks/."""

import importlib
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def campaign():
    """benchmarks/faults_conversion.py."""
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("faults_conversion")
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def small(campaign, tmp_path_factory) -> Path:
    return campaign.make_sample(tmp_path_factory.mktemp("small"), 1)


@pytest.fixture(scope="module")
def faults(request) -> int:
    """Faults that the campaigns inject by the option."""
    return request.config.getoption("--faults")


def test_killed_again_and_again_then_finished(campaign, tmp_path, faults):
    arctic = campaign.make_sample(tmp_path / "sample", 2)
    assert campaign.kill_often(arctic, tmp_path, max(2, faults // 2)) == (0, 0, 0)


@pytest.mark.parametrize("kind", ["structural", "checked"])
def test_damaged_inputs_end_in_an_error_or_in_the_ledger(campaign, small, tmp_path, faults, kind):
    counts = campaign.damage_often(small, tmp_path, 10 * faults, kind, seed=7)
    assert set(counts) <= {"error", "ledger", "unharmed"} and sum(counts.values()) == 10 * faults
    assert counts["error"] > 3 * faults
