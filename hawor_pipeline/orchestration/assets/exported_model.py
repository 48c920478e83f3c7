"""The trained network for others: in HaWoR's naming, as a Lightning checkpoint and as safetensors."""

from typing import Any

import dagster as dg

from hawor_pipeline.orchestration.checks import checked, checkpoint_problem
from hawor_pipeline.orchestration.failures import RETRY_POLICY, clear_failures
from hawor_pipeline.orchestration.materialization import announce, describe
from hawor_pipeline.paths import DataPaths


@dg.asset(
    group_name="hand_mesh",
    kinds={"pytorch"},
    owners=["team:hand-mesh"],
    retry_policy=RETRY_POLICY,
    code_version="1",
    check_specs=[
        dg.AssetCheckSpec(
            "exports_open_safely",
            asset="exported_model",
            blocking=True,
            description="Both files open without running code, hold finite weights and have the recorded hash.",
        )
    ],
)
@clear_failures
def exported_model(context: dg.AssetExecutionContext, trained_checkpoint: dict[str, Any]) -> dg.MaterializeResult:
    """The network of exactly the checkpoint that `trained_checkpoint` produced, in the names that HaWoR's code uses.

    Nothing of the MANO body model is in the files, so they may be passed on. What HaWoR's own code would not compute as
    this network does is listed.
    """
    from hawor_pipeline.models.exchange import export_run

    output = DataPaths.default().exports / trained_checkpoint["run_id"]
    result = export_run(trained_checkpoint["path"], trained_checkpoint["sha256"], output)
    announce(context.log, "exported_model", result)
    files = {"hawor.ckpt": "sha256_hawor_ckpt", "model.safetensors": "sha256_model_safetensors"}
    found = {name: checkpoint_problem(output / name, result.info[digest]) for name, digest in files.items()}
    problems = {name: problem for name, problem in found.items() if problem}
    return dg.MaterializeResult(
        data_version=dg.DataVersion(result.info["sha256_model_safetensors"]),
        metadata=describe(result),
        check_results=[checked("exports_open_safely", not problems, problems=problems)],
    )
