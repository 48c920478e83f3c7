"""Training from the command line: the same run folders, keys and resuming as under Dagster, in this process."""

from pathlib import Path

from hawor_pipeline.config import TrainingConfig
from hawor_pipeline.data.shards import shards_version
from hawor_pipeline.provenance import StageResult, hash_json
from hawor_pipeline.training.runs import RunPlan, finish_run, plan_run, prepare_run


def dataset_version_of(config: TrainingConfig) -> str:
    """The version of the shards that a configuration trains on (of a mixture: of all members and their weights)."""
    if isinstance(config.training_data_dir, str):
        return shards_version(config.training_data_dir)
    return hash_json([[shards_version(member.path), member.weight] for member in config.training_data_dir])


def plan(config: TrainingConfig) -> RunPlan:
    """The run folder that a configuration means."""
    return plan_run(config, dataset_version_of(config), Path(config.output_dir))


def train(config: TrainingConfig, *, resume: str = "auto") -> tuple[StageResult | None, int]:
    """Train, or find the finished run.

    Args:
        config: resolved configuration.
        resume: "auto" continues an unfinished run of the same settings and data; a path starts from that checkpoint.

    Returns:
        The result (None where a signal stopped training; its checkpoint is kept), and the exit code.

    Raises:
        HaworError: see `hawor_pipeline.errors`.
    """
    run = plan(config)
    if run.state != "finished":
        from hawor_pipeline.training.fit import TrainingPipeline

        prepare_run(run, config)
        pipeline = TrainingPipeline(config, run.run_dir, echo=True)
        pipeline.train(resume)
        if pipeline.stopped_by is not None:
            return None, 128 + pipeline.stopped_by
    return finish_run(run), 0
