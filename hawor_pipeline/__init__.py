"""From raw ARCTIC sequences to trained, evaluated and reported RGB-to-hand-mesh models (HaWoR)."""

import importlib

__version__ = "0.1.0"

# Public names and the module each lives in; imported on first use, so that `import hawor_pipeline` stays light.
_PUBLIC = {
    "EnhancedTrainingLoss": "hawor_pipeline.core.loss",
    "TrainingEvaluator": "hawor_pipeline.evaluation.training_evaluator",
    "TrainingMetrics": "hawor_pipeline.evaluation.training_evaluator",
    "ArcticDataConverter": "hawor_pipeline.conversion.converter",
    "EnhancedHaWoRTrainer": "hawor_pipeline.training.module",
    "TrainingPipeline": "hawor_pipeline.training.fit",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'hawor_pipeline' has no attribute {name!r}")
