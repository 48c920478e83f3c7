"""The trained network in HaWoR's naming, as a Lightning checkpoint and as safetensors."""

import dagster as dg

from hawor_pipeline.orchestration.checks import checked, checkpoint_problem
from hawor_pipeline.orchestration.materialization import log_and_publish, stage_metadata
from hawor_pipeline.orchestration.resources import Handoff
from hawor_pipeline.orchestration.stage_asset import stage_asset
from hawor_pipeline.paths import DataPaths
from hawor_pipeline.versions import EXPORT_VERSION


@stage_asset(
    EXPORT_VERSION,
    kinds={"pytorch"},
    blocking={
        "exports_open_safely": "The files open without running code, hold finite weights and have the recorded hash."
    },
)
def exported_model(context: dg.AssetExecutionContext, trained_checkpoint: Handoff) -> dg.MaterializeResult:
    """The network of exactly the checkpoint that `trained_checkpoint` produced, under the names of HaWoR's code.

    The files hold no part of the MANO body model and may be passed on. The Lightning checkpoint is written only where
    HaWoR's code computes the same with it; the metadata list every difference from that code.
    """
    from hawor_pipeline.models.exchange import export_run

    output = DataPaths.default().exports / trained_checkpoint["run_id"]
    result = export_run(trained_checkpoint["path"], trained_checkpoint["sha256"], output)
    log_and_publish(context.log, "exported_model", result)
    digests = {"hawor.ckpt": "sha256_hawor_ckpt", "model.safetensors": "sha256_model_safetensors"}
    written = {name: result.info[digest] for name, digest in digests.items() if digest in result.info}
    found = {name: checkpoint_problem(output / name, sha256) for name, sha256 in written.items()}
    problems = {name: problem for name, problem in found.items() if problem}
    return dg.MaterializeResult(
        data_version=dg.DataVersion(result.info["sha256_model_safetensors"]),
        metadata=stage_metadata(result),
        check_results=[checked("exports_open_safely", not problems, problems=problems)],
    )
