"""The inventory of the raw sequences, a partition per subject."""

from itertools import chain

import dagster as dg

from hawor_pipeline.orchestration.checks import checked
from hawor_pipeline.orchestration.materialization import Metadata, image_metadata, log_and_publish, stage_metadata
from hawor_pipeline.orchestration.partitions import subjects_partitions
from hawor_pipeline.orchestration.resources import RawData
from hawor_pipeline.orchestration.stage_asset import stage_asset
from hawor_pipeline.orchestration.table_checks import table_metadata
from hawor_pipeline.paths import DataPaths
from hawor_pipeline.provenance import StageResult, hash_json, sha256_file
from hawor_pipeline.versions import INVENTORY_VERSION


@stage_asset(
    INVENTORY_VERSION,
    kinds={"numpy", "parquet"},
    partitions_def=subjects_partitions,
    backfill_policy=dg.BackfillPolicy.single_run(),
    blocking={"raw_files_are_readable": "No ground truth of the run's subjects is corrupt; corrupt images are logged."},
)
def raw_arctic_sequences(context: dg.AssetExecutionContext, raw: RawData) -> dg.MaterializeResult:
    """Inventory of the raw ARCTIC sequences: a row per sequence and view, hashes, frame counts, missing files.

    Without ARCTIC_ROOT this is the built-in synthetic sample, which is generated here when it is absent or stale. A
    subject that ARCTIC withholds (s03), or that was not downloaded, has zero rows and the reason.
    """
    sample = raw.ensure(context.log.info)
    if sample is not None:
        log_and_publish(context.log, "built-in sample", sample)
    results = _inventories(raw, list(context.partition_keys))
    log_and_publish(context.log, "raw_arctic_sequences", results)
    for subject, result in results.items():
        context.add_asset_metadata(_inventory_metadata(result), partition_key=subject)
    damaged = _log_damage(context, results)
    readable = not any(result.info["unreadable"] for result in results.values())
    return dg.MaterializeResult(
        metadata={} if sample is None else {"sample_reused": sample.reused, "sample_why": sample.why},
        data_version=dg.DataVersion(_content(raw.locate().source)),
        check_results=[checked("raw_files_are_readable", readable, damaged=damaged)],
    )


def _log_damage(context: dg.AssetExecutionContext, results: dict[str, StageResult]) -> dict[str, list[str]]:
    """Log every corrupt file; return them by subject."""
    damaged = {subject: result.info["damaged"] for subject, result in results.items() if result.info.get("damaged")}
    for problem in chain.from_iterable(damaged.values()):
        context.log.error(f"corrupt: {problem}. Download the file again; nothing else was lost.")
    return damaged


def _inventories(raw: RawData, subjects: list[str]) -> dict[str, StageResult]:
    from hawor_pipeline.conversion.inventory import inventory_subject

    where, paths = raw.locate(), DataPaths.default()
    folders = {subject: paths.inventory(where.source, subject) for subject in subjects}
    return {
        subject: inventory_subject(where.arctic_root, subject, folder, mano_dir=where.mano_dir)
        for subject, folder in folders.items()
    }


def _inventory_metadata(result: StageResult) -> Metadata:
    from hawor_pipeline.conversion.inventory import INVENTORY_FILE

    sheet = result.path / "proof.jpg"
    more = {"proof_sheet": image_metadata(sheet)} if sheet.is_file() else {}
    return stage_metadata(result, **more, **table_metadata([result.path / INVENTORY_FILE], partition=True))


def _content(source: str) -> str:
    """Hash the content of the raw files of all subjects, which the inventories list by hash.

    Dagster has one data version for all partitions of a run. Over all subjects, it stays the same when a file was only
    touched or when the inventory of one subject finds nothing new.
    """
    from hawor_pipeline.conversion.inventory import INVENTORY_FILE

    tables = sorted(DataPaths.default().inventory(source, "").glob(f"*/{INVENTORY_FILE}"))
    return hash_json({file.parent.name: sha256_file(file) for file in tables})
