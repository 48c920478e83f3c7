"""Training pipeline for 3D hand meshes from RGB video: conversion, training, evaluation and reports (HaWoR)."""

import importlib

__version__ = "0.1.0"

# Public names by module; imported on first use, so that `import hawor_pipeline` loads no torch.
_PUBLIC = {
    "EnhancedTrainingLoss": "hawor_pipeline.core.loss",
    "TrainingEvaluator": "hawor_pipeline.evaluation.training_evaluator",
    "TrainingMetrics": "hawor_pipeline.evaluation.training_metrics",
    "ArcticDataConverter": "hawor_pipeline.conversion.prepare",
    "EnhancedHaWoRTrainer": "hawor_pipeline.training.module",
    "TrainingPipeline": "hawor_pipeline.training.fit",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str):
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'hawor_pipeline' has no attribute {name!r}")
