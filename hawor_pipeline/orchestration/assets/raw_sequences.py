"""The inventory of the raw sequences, a partition per subject."""

from pathlib import Path
from typing import Any

import dagster as dg

from hawor_pipeline.orchestration.checks import checked
from hawor_pipeline.orchestration.failures import RETRY_POLICY, clear_failures
from hawor_pipeline.orchestration.materialization import announce, describe, image
from hawor_pipeline.orchestration.partitions import subjects_partitions
from hawor_pipeline.orchestration.resources import RawData
from hawor_pipeline.orchestration.table_checks import table_metadata
from hawor_pipeline.paths import DataPaths
from hawor_pipeline.provenance import StageResult, hash_json, sha256_file


@dg.asset(
    group_name="hand_mesh",
    kinds={"numpy", "parquet"},
    owners=["team:hand-mesh"],
    partitions_def=subjects_partitions,
    backfill_policy=dg.BackfillPolicy.single_run(),
    retry_policy=RETRY_POLICY,
    code_version="1",
    check_specs=[
        dg.AssetCheckSpec(
            "raw_files_are_readable",
            asset="raw_arctic_sequences",
            blocking=True,
            description="No raw file of the subjects at hand is damaged.",
        )
    ],
)
@clear_failures
def raw_arctic_sequences(context: dg.AssetExecutionContext, raw: RawData) -> dg.MaterializeResult:
    """What is there of the raw ARCTIC sequences: a row per sequence and view, hashes, frame counts, what is missing.

    Without ARCTIC_ROOT this is the built-in synthetic sample, which is generated here when it is absent or stale. A
    subject that ARCTIC withholds (s03), or that was not downloaded, has zero rows and the reason.
    """
    from hawor_pipeline.conversion.inventory import INVENTORY_FILE, inventory_subject

    sample = raw.ensure(context.log.info)
    where, paths = raw.locate(), DataPaths.default()
    results = {
        subject: inventory_subject(
            where.arctic_root, subject, paths.inventory(where.source, subject), mano_dir=where.mano_dir
        )
        for subject in context.partition_keys
    }
    if sample is not None:
        announce(context.log, "built-in sample", sample)
    announce(context.log, "raw_arctic_sequences", results)
    for subject, result in results.items():
        sheet = result.path / "proof.jpg"
        more = {"proof_sheet": image(sheet)} if sheet.is_file() else {}
        rows = table_metadata([result.path / INVENTORY_FILE], partition=True)
        context.add_asset_metadata(describe(result, **more, **rows), partition_key=subject)
        for problem in result.info["damaged"]:
            context.log.error(f"damaged: {problem}. Get the file again; nothing else was lost.")
    return _summary(results, sample, _content(paths.inventory(where.source, "")))


def _content(folder: Path) -> str:
    """Hash of what is in the raw files of all subjects: the tables hold their hashes.

    A file that was only touched changes nothing, and neither does an inventory of one subject alone that finds what
    was there: Dagster has one data version for all partitions of a run.
    """
    from hawor_pipeline.conversion.inventory import INVENTORY_FILE

    tables = sorted(folder.glob(f"*/{INVENTORY_FILE}"))
    return hash_json({file.parent.name: sha256_file(file) for file in tables})


def _summary(results: dict[str, StageResult], sample: StageResult | None, version: str) -> dg.MaterializeResult:
    damaged = {subject: result.info["damaged"] for subject, result in results.items() if result.info.get("damaged")}
    made: dict[str, Any] = {} if sample is None else {"sample_reused": sample.reused, "sample_why": sample.why}
    return dg.MaterializeResult(
        metadata=made,
        data_version=dg.DataVersion(version),
        check_results=[
            checked("raw_files_are_readable", not damaged, damaged=damaged),
        ],
    )
