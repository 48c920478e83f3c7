"""The documentation: generated pages are up to date, links resolve, commands run unchanged."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hawor_pipeline
from hawor_pipeline.cli import build_parser
from hawor_pipeline.config import ConversionConfig, TrainingConfig

ROOT = Path(hawor_pipeline.__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data" / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]

HOUSE_WORDS = re.compile(r"\b(?:says?|said|tells?|told|pictures?|floors?|left out|data sets?|knocks?)\b", re.IGNORECASE)
# The meanings of shard columns are bytes of every shard, so their three occurrences stay until the format changes.
MOST_HOUSE_WORDS = {"shards.md": 3}


def generator():
    """Load docs/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "name",
    [
        "configuration.md",
        "command-line.md",
        "metric-tables.md",
        "training-metrics.md",
        "metrics-and-losses.md",
        "shards.md",
        "agreement.md",
    ],
)
def test_generated_pages_are_fresh(name):
    written = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert written == generator().PAGES[name](), "run: python docs/generate.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_names_exist(page: Path):
    for name in re.findall(r"\bhawor_pipeline(?:\.\w+)+", page.read_text(encoding="utf-8")):
        parts = name.split(".")
        while not (ROOT.joinpath(*parts).with_suffix(".py").exists() or ROOT.joinpath(*parts, "__init__.py").exists()):
            parts.pop()
        rest = name.split(".")[len(parts) :]
        found = importlib.import_module(".".join(parts)) if rest else None
        assert not rest or hasattr(found, rest[0]), f"{page}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_are_in_plain_technical_english(page: Path):
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    found = HOUSE_WORDS.findall(text)
    assert len(found) <= MOST_HOUSE_WORDS.get(page.name, 0), found


def test_every_setting_and_command_is_in_the_reference():
    settings = (ROOT / "docs" / "reference" / "configuration.md").read_text(encoding="utf-8")
    for schema in (TrainingConfig, ConversionConfig):
        for name in schema.model_fields:
            assert f"`{name}" in settings, name
    commands = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    (choices,) = [action.choices for action in build_parser()._actions if action.dest == "command"]
    for name in choices:
        assert f"## {name}\n" in commands, name


def test_every_column_and_reason_of_the_shards_is_in_the_reference():
    from hawor_pipeline.conversion import confidence, ledger
    from hawor_pipeline.shards.schema import COLUMNS

    page = (ROOT / "docs" / "reference" / "shards.md").read_text(encoding="utf-8")
    for name in COLUMNS:
        assert f"| `{name}` |" in page, name
    for module in (ledger, confidence):
        codes = [value for name, value in vars(module).items() if name.isupper() and isinstance(value, str)]
        assert codes
        for code in codes:
            assert f"| `{code}` |" in page, code


def test_every_metric_and_loss_is_in_the_reference_with_its_formula():
    from hawor_pipeline.core import losses, metrics

    page = (ROOT / "docs" / "reference" / "metrics-and-losses.md").read_text(encoding="utf-8")
    entries = {part.splitlines()[0]: part for part in page.split("#### ")[1:]}
    assert "Convention: `pred` and `target` are in metres" in page and "The result is a scalar without unit" in page
    for name in (*metrics.__all__, *losses.__all__):
        assert "- Source: " in entries[name], name
    for name in metrics.__all__:
        assert "- Formula: " in entries[name] and "- Returns: " in entries[name], name


def test_every_comparison_with_a_publication_is_on_the_page_and_uses_the_tolerance_it_declares():
    page = (ROOT / "docs" / "reference" / "agreement.md").read_text(encoding="utf-8")
    declared = generator().agreements()
    for agreement in declared:
        file, function = agreement.test.split("::")
        tree = ast.parse((ROOT / "hawor_pipeline_tests" / file).read_text(encoding="utf-8"))
        (test,) = (node for node in tree.body if getattr(node, "name", "") == function)
        used = [node for node in ast.walk(test) if isinstance(node, ast.Name) and node.id == "tolerance"]
        assert used and "tolerance" in [argument.arg for argument in test.args.args], agreement.test
        assert f"`{agreement.test}`" in page and agreement.publication in page
    rooms = {agreement.test.split("/")[0] for agreement in declared}
    assert rooms >= {"core", "conversion", "sources", "evaluation", "leaderboard", "models"}


def test_every_protocol_is_compared_with_its_publication():
    from hawor_pipeline.evaluation.protocols import PROTOCOLS

    subjects = " ".join(agreement.subject for agreement in generator().agreements())
    for name in PROTOCOLS:
        assert re.sub(r"^arctic-.*", "protocols arctic-*", name) in subjects, name


def test_commands_named_in_the_pages_exist():
    (choices,) = [action.choices for action in build_parser()._actions if action.dest == "command"]
    for page in PAGES:
        blocks = re.findall(r"```(?:bash)?\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for name in re.findall(r"^hawor-pipeline ([a-z-]+)", "\n".join(blocks), flags=re.MULTILINE):
            assert name in choices, f"{page.name}: hawor-pipeline {name}"


@pytest.mark.slow
def test_the_tutorial_runs_as_it_stands(tmp_path: Path):
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    script = "\n".join(re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL))
    assert script.count("hawor-pipeline") == 6
    shim = tmp_path / "bin" / "hawor-pipeline"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m hawor_pipeline.cli "$@"\n')
    shim.chmod(0o755)
    environment = {**os.environ, "PATH": f"{shim.parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert list(tmp_path.glob("tutorial/reports/*/report.html"))
