"""The jobs. `full_pipeline_job` covers all subjects in one run; the others are its parts, or add promotion."""

import dagster as dg

from hawor_pipeline.orchestration.failures import notify_of_failure
from hawor_pipeline.orchestration.partitions import (
    ALL_SUBJECTS_TAGS,
    BESIDE_PIPELINE,
    PROMOTION_TAG,
    PURPOSE_TAG,
    datasets_partitions,
    subjects_partitions,
)

PREPARED = ["raw_arctic_sequences", "subject_shards"]
PROMOTION = dg.AssetSelection.assets("challenger", "champion")
PIPELINE = dg.AssetSelection.groups("hand_mesh") - PROMOTION - dg.AssetSelection.tag(BESIDE_PIPELINE, "other_data")
HOOKS = frozenset({notify_of_failure})

full_pipeline_job = dg.define_asset_job(
    "full_pipeline_job",
    selection=PIPELINE,
    tags={**ALL_SUBJECTS_TAGS, PURPOSE_TAG: "pipeline"},
    hooks=HOOKS,
    description=(
        "From raw sequences to the report, all subjects in one run. On a fresh clone it uses the built-in sample; with "
        "ARCTIC_ROOT and MANO_DIR set, the real data. Finished work is reused, interrupted training resumes."
    ),
)
prepare_data_job = dg.define_asset_job(
    "prepare_data_job",
    selection=dg.AssetSelection.assets(*PREPARED),
    partitions_def=subjects_partitions,
    tags={PURPOSE_TAG: "data"},
    hooks=HOOKS,
    description="Inventory and conversion of one subject (or, as a backfill, of several). Choose the partition.",
)
train_job = dg.define_asset_job(
    "train_job",
    selection=dg.AssetSelection.assets("dataset_metadata", "trained_checkpoint"),
    tags={PURPOSE_TAG: "training"},
    hooks=HOOKS,
    description="Metadata over the converted shards, then one training run.",
)
evaluate_job = dg.define_asset_job(
    "evaluate_job",
    selection=dg.AssetSelection.assets("baseline_metrics", "evaluation_metrics"),
    tags={PURPOSE_TAG: "evaluation"},
    hooks=HOOKS,
    description="Metric tables of the latest trained checkpoint and of the baselines.",
)
report_job = dg.define_asset_job(
    "report_job",
    selection=dg.AssetSelection.assets("final_report"),
    tags={PURPOSE_TAG: "report"},
    hooks=HOOKS,
    description="The report of the latest evaluation.",
)
promote_job = dg.define_asset_job(
    "promote_job",
    selection=PROMOTION,
    tags={PROMOTION_TAG: "allowed", PURPOSE_TAG: "promotion"},
    hooks=HOOKS,
    description=(
        "Compare the run evaluated last with the champion, and promote it if no target metric is worse. A weaker "
        "challenger fails this run at the gate and is not promoted."
    ),
)
weekly_retraining_job = dg.define_asset_job(
    "weekly_retraining_job",
    selection=PIPELINE | PROMOTION,
    tags={**ALL_SUBJECTS_TAGS, PROMOTION_TAG: "allowed", PURPOSE_TAG: "retraining"},
    hooks=HOOKS,
    description=(
        "Convert new sequences, train, evaluate, report, compare with the champion and promote. The schedule "
        "weekly_retraining launches it with configs/jobs/weekly_retraining.yaml."
    ),
)
external_data_job = dg.define_asset_job(
    "external_data_job",
    selection=dg.AssetSelection.assets("external_shards"),
    partitions_def=datasets_partitions,
    tags={PURPOSE_TAG: "data"},
    hooks=HOOKS,
    description="Conversion of another dataset. Available where the folder of one is named; choose the partition.",
)
ALL_JOBS = [
    full_pipeline_job,
    prepare_data_job,
    train_job,
    evaluate_job,
    report_job,
    promote_job,
    weekly_retraining_job,
]
