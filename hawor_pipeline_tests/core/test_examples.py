"""The examples in the docstrings of `core` are correct, and the shapes in its signatures hold."""

import doctest
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hawor_pipeline.core

MODULES = sorted(module.name for module in pkgutil.walk_packages(hawor_pipeline.core.__path__, "hawor_pipeline.core."))
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_correct(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name), extraglobs={"torch": torch})
    assert found.failed == 0


def test_metrics_and_losses_all_have_an_example() -> None:
    from hawor_pipeline.core import losses, metrics

    for package in (metrics, losses):
        for name in package.__all__:
            assert ">>> " in getattr(package, name).__doc__, name


@pytest.mark.slow
@pytest.mark.campaign
def test_shapes_in_signatures_hold_throughout_the_tests() -> None:
    """Repeat the tests of `core` with every call checked against its annotations."""
    hook = "--jaxtyping-packages=hawor_pipeline.core,beartype.beartype"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not slow and not engine and not gpu", hook]
    done = subprocess.run(
        [*command, str(Path(__file__).parent)], cwd=REPOSITORY, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout[-4000:]
