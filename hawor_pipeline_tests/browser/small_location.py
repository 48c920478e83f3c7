"""The definitions of the project with the smallest sample and training, for "Materialize all"."""

from pathlib import Path

from hawor_pipeline.config import read_yaml
from hawor_pipeline.orchestration import training_config
from hawor_pipeline.orchestration.build import build_defs
from hawor_pipeline.orchestration.resources import RawData
from hawor_pipeline.paths import config_dir

_SMOKE = read_yaml(config_dir() / "jobs" / "smoke.yaml")
EXPERIMENT = Path("small.yaml")  # written by the test into the project


def _small_experiment(source: str) -> str:
    return str(EXPERIMENT.absolute())


training_config.default_experiment = _small_experiment
defs = build_defs({"raw": RawData(**_SMOKE["resources"]["raw"]["config"])})
