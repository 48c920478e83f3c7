"""What importing costs, and what it must not load."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("torch", "lightning", "cv2", "wandb", "matplotlib", "plotly", "skimage")
REPOSITORY = Path(__file__).resolve().parents[1]


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
