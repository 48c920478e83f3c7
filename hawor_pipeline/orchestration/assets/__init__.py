"""The assets, a module per stage. Each loads its inputs, calls one function and returns metadata."""

from hawor_pipeline.orchestration.assets.dataset import dataset_metadata, quality_stats
from hawor_pipeline.orchestration.assets.evaluation_metrics import baseline_metrics, evaluation_metrics
from hawor_pipeline.orchestration.assets.exported_model import exported_model
from hawor_pipeline.orchestration.assets.final_report import final_report
from hawor_pipeline.orchestration.assets.promotion import challenger, champion
from hawor_pipeline.orchestration.assets.raw_sequences import raw_arctic_sequences
from hawor_pipeline.orchestration.assets.subject_shards import subject_shards
from hawor_pipeline.orchestration.assets.trained_checkpoint import trained_checkpoint

ALL_ASSETS = [
    raw_arctic_sequences,
    subject_shards,
    dataset_metadata,
    quality_stats,
    trained_checkpoint,
    baseline_metrics,
    evaluation_metrics,
    final_report,
    exported_model,
    challenger,
    champion,
]
