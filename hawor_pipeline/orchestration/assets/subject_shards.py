"""Training shards, a partition per subject."""

from typing import Any

import dagster as dg
from pydantic import Field

from hawor_pipeline.config import ConversionConfig, build, read_yaml
from hawor_pipeline.orchestration.checks import checked
from hawor_pipeline.orchestration.failures import RETRY_POLICY, clear_failures
from hawor_pipeline.orchestration.materialization import announce, describe
from hawor_pipeline.orchestration.partitions import subjects_partitions
from hawor_pipeline.orchestration.resources import RawData, said
from hawor_pipeline.orchestration.table_checks import schema_check, schema_check_specs, table_metadata
from hawor_pipeline.paths import DataPaths, config_dir


class ShardsAssetConfig(dg.Config):
    """How to convert."""

    data_config: str = Field("", description="Path of a YAML; empty: the sample's preset, or configs/data_config.yaml.")
    overrides: dict[str, Any] = Field(default_factory=dict, description="Keys of it to change, e.g. views.")
    workers: int | None = Field(None, description="Processes; empty: one per core.")


def conversion_settings(config: ShardsAssetConfig, *, is_sample: bool) -> ConversionConfig:
    """The conversion settings of a run."""
    default = "demo_data.yaml" if is_sample else "data_config.yaml"
    path = config.data_config or str(config_dir() / default)
    return build(ConversionConfig, {**read_yaml(path), **config.overrides}, origin=path)


@dg.asset(
    group_name="hand_mesh",
    kinds={"arrow", "parquet"},
    owners=["team:hand-mesh"],
    partitions_def=subjects_partitions,
    backfill_policy=dg.BackfillPolicy.single_run(),
    deps=["raw_arctic_sequences"],
    retry_policy=RETRY_POLICY,
    code_version="1",
    check_specs=[
        dg.AssetCheckSpec(
            "every_frame_is_accounted_for",
            asset="subject_shards",
            blocking=True,
            description="Frames with ground truth are rows of a shard or stand in the ledger with a reason.",
        ),
        *schema_check_specs("subject_shards", ["annotations"]),
    ],
)
@clear_failures
def subject_shards(context: dg.AssetExecutionContext, config: ShardsAssetConfig, raw: RawData) -> dg.MaterializeResult:
    """Training shards of one subject: exact labels and crops of both hands, a row per hand, frame and view.

    Sequences that are converted already with the same raw files and settings are kept. A subject without ground truth
    has zero rows and the reason.
    """
    from hawor_pipeline.conversion.convert import convert_subjects
    from hawor_pipeline.shards.schema import ANNOTATIONS_FILE, annotations_schema
    from hawor_pipeline.shards.store import shards_version

    where = raw.locate()
    settings = conversion_settings(config, is_sample=raw.is_sample)
    results = convert_subjects(
        where.arctic_root,
        where.mano_dir,
        list(context.partition_keys),
        DataPaths.default().shards(where.source),
        settings,
        workers=config.workers,
        progress=said("sequence", context.log.info),
    )
    announce(context.log, "subject_shards", results)
    files = {subject: sorted(result.path.glob(f"*/{ANNOTATIONS_FILE}")) for subject, result in results.items()}
    for subject, result in results.items():
        rows = table_metadata(files[subject], partition=True)
        context.add_asset_metadata(describe(result, **rows), partition_key=subject)
    unaccounted = {subject: n for subject, result in results.items() if (n := result.info["unaccounted_frames"])}
    return dg.MaterializeResult(
        # of all subjects: Dagster has one data version for all partitions of a run
        data_version=dg.DataVersion(shards_version(DataPaths.default().shards(where.source))),
        check_results=[
            checked("every_frame_is_accounted_for", not unaccounted, unaccounted=unaccounted),
            schema_check("annotations", [file for part in files.values() for file in part], annotations_schema({})),
        ],
    )
