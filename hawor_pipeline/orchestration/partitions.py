"""The ten subjects of ARCTIC and the other datasets as partitions, and the run tags of jobs."""

import os

import dagster as dg

from hawor_pipeline.paths import root_variable
from hawor_pipeline.sources.registry import DATASETS

SUBJECTS = tuple(f"s{number:02d}" for number in range(1, 11))
subjects_partitions = dg.StaticPartitionsDefinition(list(SUBJECTS))


def named_datasets() -> list[str]:
    """Return the other datasets whose folder is named."""
    return [dataset for dataset in DATASETS if os.environ.get(root_variable(dataset))]


# Only named ones, because a backfill of everything takes every partition. Where none is named, the asset is omitted.
datasets_partitions = dg.StaticPartitionsDefinition(named_datasets() or list(DATASETS))
# Job tags that make one run cover all subjects, from the command line and from the UI alike.
ALL_SUBJECTS_TAGS = {
    "dagster/asset_partition_range_start": SUBJECTS[0],
    "dagster/asset_partition_range_end": SUBJECTS[-1],
}
PROMOTION_TAG = "hawor/promotion"  # "allowed" in the jobs that may make a challenger the champion
BESIDE_PIPELINE = "hawor/beside_the_pipeline"  # of assets in the graph that the pipeline does not make
PURPOSE_TAG = "hawor/purpose"  # purpose of a run; filters the list of runs
