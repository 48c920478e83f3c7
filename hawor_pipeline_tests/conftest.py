"""Fixtures of many tests: a tiny sample, its shards, and a project with a finished run of the main job."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hawor_pipeline.paths import root_variable
from hawor_pipeline.sources.registry import DATASETS

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--faults N`, the number of faults that the campaign over the pipeline injects; benchmarks inject more."""
    parser.addoption("--faults", type=int, default=4, help="faults injected over the pipeline (default 4)")


@pytest.fixture
def tolerance(request: pytest.FixtureRequest) -> float:
    """Return the tolerance that a test's marker `agreement` declares, as the page of agreement states it."""
    return request.node.get_closest_marker("agreement").kwargs["tolerance"]


@pytest.fixture(scope="session")
def sample_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generate the smallest built-in sample: s01 (train), s03 (withheld), s05 (validation); ego, two static views."""
    from hawor_pipeline.sample.spec import SampleSpec
    from hawor_pipeline.sample.write import ensure_sample

    root = tmp_path_factory.mktemp("sample")
    spec = SampleSpec(
        subjects=("s01", "s03", "s05"), sequences_per_subject=1, frames=8, views=(0, 1, 4), image_scale=0.15
    )
    ensure_sample(root, spec, workers=2)
    return root


@pytest.fixture(scope="session")
def sample_shards(sample_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convert `sample_root` to shards."""
    from hawor_pipeline.config import ConversionConfig
    from hawor_pipeline.conversion.prepare import convert_subjects

    output = tmp_path_factory.mktemp("shards")
    settings = ConversionConfig(target_resolution=(64, 64), views=(0, 1, 4))
    mano = sample_root / "body_models" / "mano"
    convert_subjects(sample_root / "arctic", mano, ["s01", "s03", "s05"], output, settings, workers=2)
    return output


DATASET_ROOTS = tuple(root_variable(dataset) for dataset in DATASETS)


def project_environment() -> dict[str, str]:
    """Return an environment without any variable of this project."""
    dropped = ("DAGSTER_HOME", "ARCTIC_ROOT", "MANO_DIR", "HAWOR_DATA_DIR", "HAWOR_DAGSTER_RUN_ID", *DATASET_ROOTS)
    environment = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**environment, "PYTHONWARNINGS": "ignore", "PYTHONPATH": str(REPOSITORY), "OMP_WAIT_POLICY": "PASSIVE"}


def run_full_pipeline(
    project: Path, preset: str = "smoke.yaml", timeout: float = 800, location: str = "hawor_pipeline.definitions"
) -> subprocess.CompletedProcess:
    """Run `dagster job execute` of the main job in a project folder, as in the README."""
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", location]
    command += ["-j", "full_pipeline_job", "-c", str(REPOSITORY / "configs" / "jobs" / preset)]
    return subprocess.run(
        command, cwd=project, env=project_environment(), capture_output=True, text=True, timeout=timeout
    )


@pytest.fixture(scope="session")
def finished_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which the whole pipeline has run once on a small sample."""
    project = tmp_path_factory.mktemp("project")
    for name in ("dagster.yaml", "workspace.yaml"):
        shutil.copy(REPOSITORY / name, project)
    done = run_full_pipeline(project)
    assert done.returncode == 0, done.stderr[-6000:]
    (project / "first_run.log").write_text(done.stderr)
    return project


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Return the folder of screenshots of browser tests: build/screenshots."""
    folder = REPOSITORY / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def mano_dir(sample_root: Path) -> Path:
    """Return the folder of the procedural hand, which replaces MANO."""
    return sample_root / "body_models" / "mano"


@pytest.fixture(scope="session")
def licensed_mano(mano_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a hand model that replaces a licensed MANO: of another size, and not marked as the sample's."""
    import numpy as np

    folder = tmp_path_factory.mktemp("licensed")
    for side in ("RIGHT", "LEFT"):
        arrays = dict(np.load(mano_dir / f"MANO_{side}.npz"))
        del arrays["source"]
        np.savez(folder / f"MANO_{side}.npz", **{**arrays, "v_template": arrays["v_template"] * 1.1})
    return folder


@pytest.fixture(scope="session")
def models(mano_dir: Path):
    """Load both hand models in double precision."""
    from hawor_pipeline.sources.hand_models import HandModels

    return HandModels.load(mano_dir)


@pytest.fixture(scope="session")
def annotations(sample_shards: Path):
    """Return the annotations of one recording of s05: both hands, the ego view and two static ones."""
    from hawor_pipeline.evaluation.recordings import sequences

    return next(sequences(sample_shards, ["s05"]))


@pytest.fixture(scope="session")
def truth(annotations):
    """Return the ground truth of `annotations`."""
    from hawor_pipeline.evaluation.hands import read_truth

    return read_truth(annotations)


@pytest.fixture(scope="session")
def tracks(annotations):
    """Return the tracks of `annotations`."""
    from hawor_pipeline.evaluation.evaluator import tracks_of

    return tracks_of(annotations)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a checkpoint with random weights."""
    import torch

    from hawor_pipeline.config import TrainingConfig
    from hawor_pipeline.models.hawor import HaworModel, NetworkConfig

    torch.manual_seed(0)
    sizes = {"st_hdim": 32, "st_nlayer": 1, "motion_hdim": 32, "motion_nlayer": 1}
    model = HaworModel(NetworkConfig.of_training(TrainingConfig(backbone_size="tiny", image_size=64, **sizes)))
    path = tmp_path_factory.mktemp("checkpoint") / "random.ckpt"
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    parameters = {"config": {"clip_length": 3}}
    torch.save({"state_dict": state, "network": model.network.to_dict(), "hyper_parameters": parameters}, path)
    return path


@pytest.fixture(scope="session")
def analysed(checkpoint: Path, sample_shards: Path, mano_dir: Path, tmp_path_factory: pytest.TempPathFactory):
    """Evaluate a checkpoint with random weights in all ways. Tests must not change its folder."""
    from hawor_pipeline_tests.evaluation.analyst import analyse

    return analyse(tmp_path_factory.mktemp("analysed"), checkpoint, sample_shards, mano_dir)


@pytest.fixture
def raw_copy(sample_root: Path, tmp_path: Path) -> Path:
    """Copy one subject of the sample: arctic/ and body_models/ (s05; ego and two static views)."""
    arctic = tmp_path / "raw" / "arctic"
    for folder in ("meta", "splits_json"):
        shutil.copytree(sample_root / "arctic" / folder, arctic / folder)
    for folder in ("raw_seqs", "images"):
        shutil.copytree(sample_root / "arctic" / folder / "s05", arctic / folder / "s05")
    shutil.copy(sample_root / "arctic" / "SYNTHETIC", arctic)
    shutil.copytree(sample_root / "body_models", tmp_path / "raw" / "body_models")
    return arctic
