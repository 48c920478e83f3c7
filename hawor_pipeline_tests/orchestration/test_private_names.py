"""Private names of Dagster and Lightning: exactly those listed, each with its reason, and all there as pinned."""

import ast
import importlib
from pathlib import Path

import pytest

import hawor_pipeline

PACKAGE = Path(hawor_pipeline.__file__).parent
# File, module and name to the reason that no public name will do.
IMPORTED = {
    ("orchestration/training_process.py", "dagster._core.errors", "DagsterPipesExecutionError"): "raised by Pipes",
    ("orchestration/executor.py", "dagster._core.events", "EngineEventData"): "metadata of an engine event",
    ("orchestration/launcher.py", "dagster._core.launcher.base", "CheckRunHealthResult"): "returned by the interface",
    ("orchestration/launcher.py", "dagster._core.launcher.base", "WorkerStatus"): "returned by the interface",
}
# Named in a string: an event carries only the name of its error's class.
NAMED = {("orchestration/executor.py", "dagster._core.executor.child_process_executor", "ChildProcessCrashException")}


def _private_imports() -> set[tuple[str, str, str]]:
    found = set()
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [(node.module, alias.name) for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [(alias.name, "") for alias in node.names]
            for module, name in names:
                parts = [*module.split("."), name]
                if parts[0] in ("dagster", "lightning") and any(part.startswith("_") for part in parts):
                    found.add((file.relative_to(PACKAGE).as_posix(), module, name))
    return found


def test_no_other_private_name_is_imported():
    assert _private_imports() == set(IMPORTED)


@pytest.mark.parametrize(("file", "module", "name"), sorted({*IMPORTED, *NAMED}))
def test_it_exists_in_the_pinned_version_and_its_file_names_it(file, module, name):
    assert hasattr(importlib.import_module(module), name)
    assert name in (PACKAGE / file).read_text()


def test_no_private_attribute_of_dagster_is_used():
    """Attributes with an underscore belong to `self`, `cls` or a class of the same module."""
    for file in sorted((PACKAGE / "orchestration").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                owner = node.value.id if isinstance(node.value, ast.Name) else ""
                allowed = owner in ("self", "cls", "usage") or node.attr == "_replace"  # public method of a namedtuple
                assert allowed, f"{file.name}:{node.lineno}: {owner}.{node.attr}"
