"""What many tests share, made once: a tiny sample, its shards, and a project in which the whole job has run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--faults N`: how many faults the campaign over the pipeline injects; benchmarks inject more."""
    parser.addoption("--faults", type=int, default=4, help="faults injected over the pipeline (default 4)")


@pytest.fixture(scope="session")
def sample_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in sample at its smallest: s01 (train), s03 (withheld), s05 (validation); ego and two static views."""
    from hawor_pipeline.data.sample import SampleSpec, ensure_sample

    root = tmp_path_factory.mktemp("sample")
    spec = SampleSpec(
        subjects=("s01", "s03", "s05"), sequences_per_subject=1, frames=8, views=(0, 1, 4), image_scale=0.15
    )
    ensure_sample(root, spec, workers=2)
    return root


@pytest.fixture(scope="session")
def sample_shards(sample_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of `sample_root`."""
    from hawor_pipeline.config import ConversionConfig
    from hawor_pipeline.data.convert import convert_subjects

    output = tmp_path_factory.mktemp("shards")
    settings = ConversionConfig(target_resolution=(64, 64), views=(0, 1, 4))
    mano = sample_root / "body_models" / "mano"
    convert_subjects(sample_root / "arctic", mano, ["s01", "s03", "s05"], output, settings, workers=2)
    return output


DATASET_ROOTS = ("FREIHAND_ROOT", "HO3D_ROOT", "DEXYCB_ROOT", "INTERHAND_ROOT")


def project_environment() -> dict[str, str]:
    """The environment of a person who never set anything for this project."""
    dropped = ("DAGSTER_HOME", "ARCTIC_ROOT", "MANO_DIR", "HAWOR_DATA_DIR", "HAWOR_DAGSTER_RUN_ID", *DATASET_ROOTS)
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**environment, "PYTHONWARNINGS": "ignore", "PYTHONPATH": str(REPOSITORY), "OMP_WAIT_POLICY": "PASSIVE"}


def run_full_pipeline(
    project: Path, preset: str = "smoke.yaml", timeout: float = 800, location: str = "hawor_pipeline.definitions"
) -> subprocess.CompletedProcess:
    """`dagster job execute` of the main job in a project folder, as the README says."""
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", location]
    command += ["-j", "full_pipeline_job", "-c", str(REPOSITORY / "configs" / "jobs" / preset)]
    return subprocess.run(
        command, cwd=project, env=project_environment(), capture_output=True, text=True, timeout=timeout
    )


@pytest.fixture(scope="session")
def finished_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the whole pipeline has run once on a small sample."""
    project = tmp_path_factory.mktemp("project")
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(REPOSITORY / name, project)
    done = run_full_pipeline(project)
    assert done.returncode == 0, done.stderr[-6000:]
    (project / "first_run.log").write_text(done.stderr)
    return project


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Where browser tests leave their pictures, for people to look at: build/screenshots."""
    folder = REPOSITORY / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
