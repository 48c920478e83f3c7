"""Training shards, a partition per subject."""

from itertools import chain
from typing import Any

import dagster as dg
from pydantic import Field

from hawor_pipeline.config import ConversionConfig, build, read_yaml
from hawor_pipeline.orchestration.checks import checked
from hawor_pipeline.orchestration.materialization import log_and_publish, stage_metadata
from hawor_pipeline.orchestration.partitions import subjects_partitions
from hawor_pipeline.orchestration.resources import RawData, log_progress
from hawor_pipeline.orchestration.stage_asset import stage_asset
from hawor_pipeline.orchestration.table_checks import schema_check, table_metadata
from hawor_pipeline.paths import DataPaths, config_dir
from hawor_pipeline.provenance import StageResult
from hawor_pipeline.versions import CONVERTER_VERSION


class ShardsAssetConfig(dg.Config):
    """Settings of the conversion."""

    data_config: str = Field("", description="Path of a YAML; empty: the sample's preset, or configs/data_config.yaml.")
    overrides: dict[str, Any] = Field(default_factory=dict, description="Keys of it to change, e.g. views.")
    workers: int | None = Field(None, description="Processes; empty: one per core.")


def conversion_settings(config: ShardsAssetConfig, *, is_sample: bool) -> ConversionConfig:
    """Build the conversion settings of a run."""
    default = "demo_data.yaml" if is_sample else "data_config.yaml"
    path = config.data_config or str(config_dir() / default)
    return build(ConversionConfig, {**read_yaml(path), **config.overrides}, origin=path)


@stage_asset(
    CONVERTER_VERSION,
    kinds={"arrow", "parquet"},
    partitions_def=subjects_partitions,
    backfill_policy=dg.BackfillPolicy.single_run(),
    deps=["raw_arctic_sequences"],
    blocking={
        "every_frame_is_accounted_for": "Every frame with ground truth is a row of a shard or in the ledger with a "
        "reason."
    },
    tables=["annotations"],
)
def subject_shards(context: dg.AssetExecutionContext, config: ShardsAssetConfig, raw: RawData) -> dg.MaterializeResult:
    """Training shards of one subject: exact labels and crops of both hands, a row per hand, frame and view.

    Sequences already converted from the same raw files with the same settings are reused. A subject without ground
    truth has zero rows and the reason.
    """
    from hawor_pipeline.shards.schema import ANNOTATIONS_FILE, annotations_schema
    from hawor_pipeline.shards.store import shards_version

    results = _convert(config, raw, context)
    log_and_publish(context.log, "subject_shards", results)
    files = {subject: sorted(result.path.glob(f"*/{ANNOTATIONS_FILE}")) for subject, result in results.items()}
    for subject, result in results.items():
        rows = table_metadata(files[subject], partition=True)
        context.add_asset_metadata(stage_metadata(result, **rows), partition_key=subject)
    unaccounted = {subject: n for subject, result in results.items() if (n := result.info["unaccounted_frames"])}
    checks = [
        checked("every_frame_is_accounted_for", not unaccounted, unaccounted=unaccounted),
        schema_check("annotations", list(chain.from_iterable(files.values())), annotations_schema({})),
    ]
    # Dagster has one data version for all partitions of a run: that of the shards of all subjects.
    version = shards_version(DataPaths.default().shards(raw.source))
    return dg.MaterializeResult(data_version=dg.DataVersion(version), check_results=checks)


def _convert(config: ShardsAssetConfig, raw: RawData, context: dg.AssetExecutionContext) -> dict[str, StageResult]:
    from hawor_pipeline.conversion.prepare import convert_subjects

    where = raw.locate()
    return convert_subjects(
        where.arctic_root,
        where.mano_dir,
        list(context.partition_keys),
        DataPaths.default().shards(where.source),
        conversion_settings(config, is_sample=raw.is_sample),
        workers=config.workers,
        progress=log_progress("sequence", context.log.info),
    )
