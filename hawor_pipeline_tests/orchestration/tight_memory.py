"""The project's definitions, trained by a process in which more than four clips at once are out of memory."""

from hawor_pipeline.orchestration.assets import training
from hawor_pipeline.orchestration.build import build_defs

training.TRAINING_MODULE = "hawor_pipeline_tests.orchestration.tight_memory_child"
defs = build_defs()
