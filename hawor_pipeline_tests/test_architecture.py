"""The shape of the package: what importing costs, the map of the rooms, and ratchets that only tighten."""

import ast
import functools
import gc
import re
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

HEAVY = ("torch", "lightning", "cv2", "wandb", "matplotlib", "plotly", "skimage")
REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "hawor_pipeline"
MAP = REPOSITORY / "docs" / "rooms.md"

# Upper limits of what the package has. Lower them when the code gets better; never raise them.
MOST_LINES = 38_350
MOST_LINES_OF_A_ROOM = 0.15  # share of the package
MOST_FILES_OF_A_ROOM = 40
MOST_LINES_OF_A_FUNCTION = 60
MOST_PARAMETERS = 8
MOST_SMALL_MODULES = 5  # below 60 lines with a single importer: candidates to merge
MOST_UNTYPED_RECORDS = 92  # lines with dict[str, Any]
MOST_SHARED_MODULE_NAMES = 3
MOST_QUESTIONS = 0  # docstrings that begin with a question word
MOST_HOUSE_WORDS = 2  # in 10,000 words of docstrings

QUESTION = re.compile(r"(What|Which|How|Where|Whether|Who|Whom|Why|When)\b")
HOUSE_WORDS = re.compile(r"\b(says?|said|saying|tells?|told|knocks?|broom|pictures?|floors?|left out)\b", re.IGNORECASE)


def _loaded(statement: str, names: tuple[str, ...]) -> list[str]:
    code = f"{statement}\nimport sys\nprint([name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    return eval(done.stdout)  # noqa: S307 - a list of names that the line above printed


@pytest.mark.parametrize(
    "statement", ["import hawor_pipeline", "import hawor_pipeline.definitions", "import hawor_pipeline.cli"]
)
def test_the_front_doors_load_nothing_heavy(statement):
    assert _loaded(statement, HEAVY) == []


@pytest.mark.parametrize(
    "statement", ["import hawor_pipeline.reporting.build_report", "import hawor_pipeline.training.runs"]
)
def test_light_rooms_load_no_torch(statement):
    assert _loaded(statement, ("torch", "lightning")) == []


@pytest.mark.parametrize(
    "statement",
    [
        "import hawor_pipeline.training.fit",
        "import hawor_pipeline.evaluation.evaluate",
        "import hawor_pipeline.conversion.convert",
    ],
)
def test_training_evaluation_and_conversion_need_neither_dagster_nor_smplx(statement):
    blocked = "import sys\nfor name in ('dagster', 'dagster_pipes', 'smplx'): sys.modules[name] = None\n"
    assert _loaded(blocked + statement, ("lightning_utilities_not_there",)) == []


def test_every_public_name_exists():
    import hawor_pipeline

    for name in hawor_pipeline.__all__:
        assert getattr(hawor_pipeline, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hawor_pipeline.nothing


def test_the_package_names_no_path_of_a_machine():
    offending = [
        str(path)
        for path in [*REPOSITORY.glob("hawor_pipeline/**/*.py"), *REPOSITORY.glob("configs/**/*.yaml")]
        if any(marker in path.read_text() for marker in ("/home/", "/root/", "C:\\\\"))
    ]
    assert offending == []


# Parsed modules


@dataclass(frozen=True, slots=True)
class Module:
    """One parsed file of the package."""

    path: Path
    lines: tuple[str, ...]
    tree: ast.Module
    nodes: tuple[ast.AST, ...]

    @property
    def name(self) -> str:
        """Dotted name; a package's `__init__` has the name of the package."""
        parts = self.path.relative_to(REPOSITORY).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def room(self) -> str:
        """Top-level folder or module of the package."""
        return self.path.relative_to(PACKAGE).with_suffix("").parts[0]

    @property
    def where(self) -> str:
        """Path as messages and the map give it."""
        return self.path.relative_to(PACKAGE).as_posix()


@functools.cache
def modules() -> dict[str, Module]:
    """Every module of the package by its dotted name."""
    found = {}
    gc.disable()  # a million nodes and no garbage: collecting would double the time
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        module = Module(path, tuple(text.splitlines()), tree, tuple(ast.walk(tree)))
        found[module.name] = module
    gc.freeze()
    gc.enable()
    return found


@functools.cache
def imports() -> dict[str, set[str]]:
    """Modules of the package that each module imports, lazy imports included."""
    edges: dict[str, set[str]] = {name: set() for name in modules()}
    for name, module in modules().items():
        for node in module.nodes:
            targets: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(PACKAGE.name):
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = [each if each in modules() else node.module for each in inner]
            elif isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            edges[name].update(target for target in targets if target in modules() and target != name)
    return edges


def _documented() -> Iterator[tuple[str, str]]:
    """(where, docstring) of every documented module, class and function."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for module in modules().values():
        for node in module.nodes:
            if isinstance(node, kinds) and (text := ast.get_docstring(node)):
                yield f"{module.where}:{getattr(node, 'name', 'module')}", text


def _functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for module in modules().values():
        for node in module.nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{module.where}:{node.name}", node


# The map


def _table_rows(heading: str) -> list[list[str]]:
    """Cells of the table below a heading of the map, without its head."""
    section = MAP.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return rows[2:]


def test_the_map_names_every_room_and_no_other():
    entries = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    rows = [cells[0].strip("`") for cells in _table_rows("Rooms")]
    assert sorted(rows) == sorted(entries - {"__init__"})


def test_the_map_prints_the_import_order_of_the_contract():
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    block = re.search(r"## Import order\n.*?```\n(.*?)```", MAP.read_text(encoding="utf-8"), re.DOTALL)
    printed = [line.removeprefix("<- ") for line in block.group(1).splitlines()]
    assert printed == [layer.replace("hawor_pipeline.", "") for layer in reversed(layers)]
    layered = {name for layer in printed for name in layer.split(" | ")}
    assert layered == {cells[0].strip("`") for cells in _table_rows("Rooms")}, "a room without a layer"


@pytest.mark.parametrize("page", ["docs/rooms.md", "CONTRIBUTING.md"])
def test_every_path_that_the_map_names_exists(page):
    text = re.sub(r"```.*?```", "", (REPOSITORY / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    named = [name for name in re.findall(r"`([^`\s]+)`", text) if re.search(r"/|\.(py|md|yaml|toml)$", name)]
    assert len(named) > 5
    for name in named:
        assert (PACKAGE / name).exists() or (REPOSITORY / name).exists(), f"{page}: {name}"


def test_every_room_states_what_belongs_in_it_and_what_does_not():
    missing = [
        module.where
        for module in modules().values()
        if module.path.name == "__init__.py" and module.path.parent.parent == PACKAGE
        if not re.search(r"\bbelongs?\b", ast.get_docstring(module.tree) or "", re.IGNORECASE)
    ]
    assert missing == []


# An existing example of each kind, by the text that names it: the files that hold this text are those that adding
# another one touches. Experiments that set a weight name its term, too.
EXAMPLES = {
    "a dataset": "dexycb",
    "a metric": "shape_error_mm",
    "a loss term": "HAND_POSE",
    "a size of the backbone": "large",
    "a pipeline stage": "exported_model",
    "a command": "migrate-config",
    "a baseline": "subject_mean",
    "a chart in the report": "occlusion_scatter",
}


@pytest.mark.parametrize(("kind", "example"), EXAMPLES.items())
def test_adding_one_touches_the_files_that_the_map_lists(kind, example):
    (cell,) = [cells[1] for cells in _table_rows("Where does my change go?") if cells[0] == kind]
    listed = re.findall(r"`([^`]+)`", cell)
    named = {module.where for module in modules().values() if _names(module, example)}
    for path in REPOSITORY.glob("configs/*.yaml"):
        if re.search(rf"^{example}:", path.read_text(), re.MULTILINE):
            named.add(path.relative_to(REPOSITORY).as_posix())
    unlisted = [file for file in named if not file.startswith(tuple(listed))]
    assert named and unlisted == [], f"{example} is named where the map does not list it"


def _names(module: Module, example: str) -> bool:
    """Return whether a string, a function or an attribute of the module is exactly the example."""
    return any(
        (isinstance(node, ast.Constant) and node.value == example)
        or (isinstance(node, ast.FunctionDef) and node.name == example)
        or (isinstance(node, ast.Attribute) and node.attr == example)
        for node in module.nodes
    )


# Ratchets


def test_the_package_and_its_rooms_stay_small():
    lines, files = Counter(), Counter()
    for module in modules().values():
        lines[module.room] += len(module.lines)
        files[module.room] += 1
    total = sum(lines.values())
    assert total <= MOST_LINES
    room, largest = lines.most_common(1)[0]
    assert largest <= MOST_LINES_OF_A_ROOM * total, room
    assert files.most_common(1)[0][1] <= MOST_FILES_OF_A_ROOM


def test_functions_are_short_and_take_few_parameters():
    long, wide = [], []
    for where, node in _functions():
        length = node.end_lineno - node.lineno + 1
        given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = sum(each.arg not in ("self", "cls") for each in given)
        if length > MOST_LINES_OF_A_FUNCTION:
            long.append((where, length))
        if count > MOST_PARAMETERS:
            wide.append((where, count))
    assert (long, wide) == ([], [])


def test_small_modules_and_untyped_records_do_not_grow():
    importers = defaultdict(set)
    for name, targets in imports().items():
        for target in targets:
            importers[target].add(name)
    small = [
        module.where
        for name, module in modules().items()
        if len(module.lines) < 60 and module.path.stem != "__init__" and len(importers[name]) == 1
    ]
    assert len(small) <= MOST_SMALL_MODULES, small
    assert sum(line.count("dict[str, Any]") for m in modules().values() for line in m.lines) <= MOST_UNTYPED_RECORDS


def test_no_modules_import_each_other_in_a_circle():
    reach = {name: set(targets) for name, targets in imports().items()}
    # Remove modules that import nothing that is left; what remains is on a circle or leads to one.
    while free := {name for name, targets in reach.items() if not targets}:
        reach = {name: targets - free for name, targets in reach.items() if name not in free}
    # The same from the other end removes those that only lead to one.
    while free := set(reach) - {target for targets in reach.values() for target in targets}:
        reach = {name: targets for name, targets in reach.items() if name not in free}
    assert sorted(reach) == []


def test_names_are_unique():
    rooms, defined = defaultdict(set), defaultdict(list)
    for module in modules().values():
        if module.path.stem != "__init__":
            rooms[module.path.stem].add(module.room)
        for node in module.tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                defined[node.name].append(module.where)
    shared = sorted(stem for stem, found in rooms.items() if len(found) > 1)
    assert len(shared) <= MOST_SHARED_MODULE_NAMES, shared
    # `main` starts a module.
    twice = {name: found for name, found in defined.items() if len(found) > 1 and name != "main"}
    assert twice == {}


def test_docstrings_are_in_plain_technical_english():
    questions, words, found = [], 0, []
    for where, text in _documented():
        if QUESTION.match(text):
            questions.append(where)
        words += len(text.split())
        found += [f"{where}: {word}" for word in HOUSE_WORDS.findall(text)]
    assert len(questions) <= MOST_QUESTIONS, questions
    assert len(found) * 10_000 / words <= MOST_HOUSE_WORDS, found


OPENERS = {
    "open",
    "read_text",
    "read_bytes",
    "write_text",
    "write_bytes",
    "memmap",
    "fromfile",
    "loadtxt",
    "read_table",
}
FILE_CALLS = {f"{library}.{name}" for library in ("np", "numpy", "torch") for name in ("load", "save", "savez")}


def test_core_opens_no_file():
    """Neither by a call nor by an import of what serves files."""
    offending = []
    for path in sorted(REPOSITORY.glob("hawor_pipeline/core/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                found = name in FILE_CALLS or name.rpartition(".")[2] in OPENERS
            elif isinstance(node, ast.ImportFrom | ast.Import):
                modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                name = ", ".join(modules)
                found = bool({module.partition(".")[0] for module in modules} & {"pathlib", "os", "io", "pickle"})
            else:
                continue
            offending += [f"{path.relative_to(REPOSITORY)}:{node.lineno} {name}"] if found else []
    assert offending == []
