"""Shards of other data sets, a partition per data set; part of the graph where the folder of one is named."""

from typing import Any

import dagster as dg
from pydantic import Field

from hawor_pipeline.locate import find_dataset_root, find_hand_models
from hawor_pipeline.orchestration.failures import RETRY_POLICY, clear_failures
from hawor_pipeline.orchestration.materialization import announce, describe
from hawor_pipeline.orchestration.partitions import BESIDE_PIPELINE, datasets_partitions
from hawor_pipeline.orchestration.resources import said
from hawor_pipeline.orchestration.table_checks import schema_check, schema_check_specs, table_metadata
from hawor_pipeline.paths import DataPaths
from hawor_pipeline.provenance import StageResult


class ExternalShardsConfig(dg.Config):
    """How to convert."""

    overrides: dict[str, Any] = Field(
        default_factory=dict, description="Keys of the conversion's settings to change, e.g. target_resolution."
    )
    workers: int | None = Field(None, description="Processes; empty: one per core.")


@dg.asset(
    group_name="hand_mesh",
    tags={BESIDE_PIPELINE: "other_data"},
    kinds={"arrow", "parquet"},
    owners=["team:hand-mesh"],
    partitions_def=datasets_partitions,
    retry_policy=RETRY_POLICY,
    code_version="1",
    check_specs=schema_check_specs("external_shards", ["annotations"]),
)
@clear_failures
def external_shards(context: dg.AssetExecutionContext, config: ExternalShardsConfig) -> dg.MaterializeResult:
    """Training shards of FreiHAND, HO-3D, DexYCB or InterHand2.6M, read in the layout they are published in.

    The folder of each is named by an environment variable (FREIHAND_ROOT, HO3D_ROOT, DEXYCB_ROOT, INTERHAND_ROOT), that
    of MANO by MANO_DIR. Sequences that are converted already with the same files and settings are kept. A training
    configuration mixes them, with weights, in `training_data_dir`.
    """
    from hawor_pipeline.shards.schema import ANNOTATIONS_FILE, annotations_schema
    from hawor_pipeline.shards.store import read_manifest

    dataset = context.partition_key
    result = _convert(dataset, config, said("sequence", context.log.info))
    announce(context.log, "external_shards", result)
    subjects = {subject: read_manifest(result.path, subject) or {} for subject in result.info["subjects"]}
    sequences = [(subject, entry["sequence"]) for subject in subjects for entry in subjects[subject]["sequences"]]
    files = [result.path / subject / sequence / ANNOTATIONS_FILE for subject, sequence in sorted(sequences)]
    return dg.MaterializeResult(
        data_version=dg.DataVersion(result.key),
        metadata=describe(result, **table_metadata(files, partition=True)),
        check_results=[schema_check("annotations", files, annotations_schema({}))],
    )


def _convert(dataset: str, config: ExternalShardsConfig, progress: Any) -> StageResult:
    from hawor_pipeline.conversion.prepare_dataset import prepare_dataset
    from hawor_pipeline.shards.store import shards_version

    root, output = find_dataset_root(dataset), DataPaths.default().shards(dataset)
    totals = prepare_dataset(
        dataset,
        root,
        output,
        find_hand_models(dataset, raw_root=root),
        settings=config.overrides,
        workers=config.workers,
        progress=progress,
    )
    converted = totals["converted_sequences"]
    why = f"{converted} of {totals['sequences']} sequences converted" if converted else "no file or setting changed"
    return StageResult(output, not converted, why, shards_version(output), totals)
