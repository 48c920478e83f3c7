"""The inventory of the raw sequences, a partition per subject."""

from typing import Any

import dagster as dg

from hawor_pipeline.orchestration.checks import checked
from hawor_pipeline.orchestration.failures import user_errors
from hawor_pipeline.orchestration.metadata import announce, describe, picture
from hawor_pipeline.orchestration.partitions import subjects_partitions
from hawor_pipeline.orchestration.resources import RawData
from hawor_pipeline.paths import DataPaths
from hawor_pipeline.provenance import StageResult, hash_json


@dg.asset(
    group_name="hand_mesh",
    kinds={"numpy", "parquet"},
    owners=["team:hand-mesh"],
    partitions_def=subjects_partitions,
    backfill_policy=dg.BackfillPolicy.single_run(),
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
def raw_arctic_sequences(context: dg.AssetExecutionContext, raw: RawData) -> dg.MaterializeResult:
    """What is there of the raw ARCTIC sequences: a row per sequence and view, hashes, frame counts, what is missing.

    Without ARCTIC_ROOT this is the built-in synthetic sample, which is generated here when it is absent or stale. A
    subject that ARCTIC withholds (s03), or that was not downloaded, has zero rows and the reason.
    """
    from hawor_pipeline.data.inventory import inventory_subject

    with user_errors():
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
        more = {"proof_sheet": picture(sheet)} if sheet.is_file() else {}
        context.add_asset_metadata(describe(result, **more), partition_key=subject)
        for problem in result.info["damaged"]:
            context.log.error(f"damaged: {problem}. Get the file again; nothing else was lost.")
    return _summary(results, sample)


def _summary(results: dict[str, StageResult], sample: StageResult | None) -> dg.MaterializeResult:
    damaged = {subject: result.info["damaged"] for subject, result in results.items() if result.info.get("damaged")}
    made: dict[str, Any] = {} if sample is None else {"sample_reused": sample.reused, "sample_why": sample.why}
    return dg.MaterializeResult(
        metadata=made,
        data_version=dg.DataVersion(hash_json({subject: result.key for subject, result in results.items()})),
        check_results=[
            checked("raw_files_are_readable", not damaged, damaged=damaged),
        ],
    )
