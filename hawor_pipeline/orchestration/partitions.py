"""The ten subjects of ARCTIC as partitions, and the run tags that jobs carry."""

import dagster as dg

SUBJECTS = tuple(f"s{number:02d}" for number in range(1, 11))
subjects_partitions = dg.StaticPartitionsDefinition(list(SUBJECTS))
# Job tags that make one run cover all subjects, from the command line and from the UI alike.
ALL_SUBJECTS_TAGS = {
    "dagster/asset_partition_range_start": SUBJECTS[0],
    "dagster/asset_partition_range_end": SUBJECTS[-1],
}
PROMOTION_TAG = "hawor/promotion"  # "allowed" in the jobs that may make a challenger the champion
PURPOSE_TAG = "hawor/purpose"  # what a run is for; filters the list of runs
