"""Shards of other datasets, a partition per dataset; in the graph only where the folder of one is named."""

from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from hawor_pipeline.errors import DataError
from hawor_pipeline.locate import find_dataset_root, find_hand_models
from hawor_pipeline.orchestration.materialization import Metadata, image_metadata, log_and_publish, stage_metadata
from hawor_pipeline.orchestration.partitions import BESIDE_PIPELINE, datasets_partitions
from hawor_pipeline.orchestration.resources import log_progress
from hawor_pipeline.orchestration.stage_asset import stage_asset
from hawor_pipeline.orchestration.table_checks import schema_check, table_metadata
from hawor_pipeline.paths import DataPaths
from hawor_pipeline.provenance import StageResult
from hawor_pipeline.versions import CONVERTER_VERSION, EXTERNAL_VERSION


class ExternalShardsConfig(dg.Config):
    """Settings of the conversion."""

    overrides: dict[str, Any] = Field(
        default_factory=dict, description="Keys of the conversion's settings to change, e.g. target_resolution."
    )
    workers: int | None = Field(None, description="Processes; empty: one per core.")


@stage_asset(
    CONVERTER_VERSION,
    EXTERNAL_VERSION,
    tags={BESIDE_PIPELINE: "other_data"},
    kinds={"arrow", "parquet"},
    partitions_def=datasets_partitions,
    tables=["annotations"],
)
def external_shards(context: dg.AssetExecutionContext, config: ExternalShardsConfig) -> dg.MaterializeResult:
    """Training shards of a dataset other than ARCTIC, read in its published layout.

    Environment variables name the folder of each dataset (FREIHAND_ROOT, ...) and that of MANO (MANO_DIR). Sequences
    already converted from the same files with the same settings are reused. A training configuration mixes datasets,
    with weights, in `training_data_dir`.
    """
    from hawor_pipeline.shards.schema import annotations_schema

    result = _convert(context.partition_key, config, log_progress("sequence", context.log.info))
    log_and_publish(context.log, "external_shards", result)
    files = _annotation_files(result)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(result.key),
        metadata=stage_metadata(result, **_proof_sheet(result), **table_metadata(files, partition=True)),
        check_results=[schema_check("annotations", files, annotations_schema({}))],
    )


def _annotation_files(result: StageResult) -> list[Path]:
    """List the annotation tables of the sequences in the manifests; an older table beside them is ignored."""
    from hawor_pipeline.shards.manifest import read_manifests
    from hawor_pipeline.shards.schema import ANNOTATIONS_FILE

    manifests = read_manifests(result.path)
    sequences = [(subject, name) for subject in result.info["subjects"] for name in manifests[subject].names]
    return [result.path / subject / sequence / ANNOTATIONS_FILE for subject, sequence in sorted(sequences)]


def _proof_sheet(result: StageResult) -> Metadata:
    """Draw the proof sheet of the first subject; an earlier one stays where nothing was converted."""
    from hawor_pipeline.conversion.proof_sheet import PROOF_FILE, write_proof_sheet
    from hawor_pipeline.sources.registry import open_reader

    dataset = result.info["source"]
    root = find_dataset_root(dataset)
    reader = open_reader(dataset, root, find_hand_models(dataset, raw_root=root))
    subject = next((name for name in result.info["subjects"] if reader.sequences(name)), None)  # raw files are here
    if subject is None:
        return {}
    sheet = DataPaths.default().inventory(dataset, subject) / PROOF_FILE
    try:
        if not result.reused or not sheet.is_file():
            write_proof_sheet(reader, subject, sheet)
    except DataError as error:  # the shards are finished; a sheet cannot be a reason to lose them
        return {"proof_sheet_error": str(error)}
    return {"proof_sheet": image_metadata(sheet)} if sheet.is_file() else {}


def _convert(dataset: str, config: ExternalShardsConfig, progress: Any) -> StageResult:
    from hawor_pipeline.conversion.prepare import prepare
    from hawor_pipeline.shards.store import shards_version

    root, output = find_dataset_root(dataset), DataPaths.default().shards(dataset)
    totals = prepare(
        root, output, dataset=dataset, settings=config.overrides, workers=config.workers, progress=progress
    )
    converted = totals["converted_sequences"]
    why = f"{converted} of {totals['sequences']} sequences converted" if converted else "no file or setting changed"
    return StageResult(output, not converted, why, shards_version(output), totals)
