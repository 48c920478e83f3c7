"""The jobs. `full_pipeline_job` covers all subjects in one run; the others are its parts."""

import dagster as dg

from hawor_pipeline.orchestration.partitions import ALL_SUBJECTS_TAGS, subjects_partitions

PREPARED = ["raw_arctic_sequences", "subject_shards"]

full_pipeline_job = dg.define_asset_job(
    "full_pipeline_job",
    selection=dg.AssetSelection.all(),
    tags=ALL_SUBJECTS_TAGS,
    description=(
        "From raw sequences to the report, all subjects in one run. On a fresh clone it uses the built-in sample; with "
        "ARCTIC_ROOT and MANO_DIR set, the real data. Finished work is reused, interrupted training resumes."
    ),
)
prepare_data_job = dg.define_asset_job(
    "prepare_data_job",
    selection=dg.AssetSelection.assets(*PREPARED),
    partitions_def=subjects_partitions,
    description="Inventory and conversion of one subject (or, as a backfill, of several). Choose the partition.",
)
train_job = dg.define_asset_job(
    "train_job",
    selection=dg.AssetSelection.assets("dataset_metadata", "trained_checkpoint"),
    description="Metadata over the shards that are there, then one training run.",
)
evaluate_job = dg.define_asset_job(
    "evaluate_job",
    selection=dg.AssetSelection.assets("baseline_metrics", "evaluation_metrics"),
    description="Metric tables of the checkpoint that trained_checkpoint produced last, and of the baselines.",
)
report_job = dg.define_asset_job(
    "report_job",
    selection=dg.AssetSelection.assets("final_report"),
    description="The report of the evaluation that was made last.",
)
ALL_JOBS = [full_pipeline_job, prepare_data_job, train_job, evaluate_job, report_job]
