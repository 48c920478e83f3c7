"""The process that trains under Dagster, seen from the step: how it is started, watched, and how it fails."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

# Private, because Dagster exports no public name for the error of a process that ends with another exit code than 0.
from dagster._core.errors import DagsterPipesExecutionError

from hawor_pipeline.config import TrainingConfig
from hawor_pipeline.errors import MemoryShortage, WorkerLost
from hawor_pipeline.orchestration.compute import Compute
from hawor_pipeline.orchestration.materialization import Metadata
from hawor_pipeline.orchestration.memory_fit import train_within_memory
from hawor_pipeline.orchestration.training_child import PROBLEM_FILE
from hawor_pipeline.training.runs import RunPlan, prepare_run

TRAINING_MODULE = "hawor_pipeline.orchestration.training_child"
_CHECKPOINT_GRACE_S = 120.0  # to write a checkpoint of a large network to a slow disk


def observation_metadata(progress: Mapping[str, Any]) -> Metadata:
    """Select the texts and finite numbers of a progress message; the event log stores neither NaN nor infinity."""
    return {
        name: value
        for name, value in progress.items()
        if isinstance(value, str) or (isinstance(value, (int, float)) and value == value and abs(value) != float("inf"))
    }


class LiveProgressReader(dg.PipesTempFileMessageReader):
    """Message reader that turns each validation into an observation of the asset, which the UI plots over time.

    A Pipes child cannot send observations, but it can send custom messages.
    """

    @contextmanager
    def read_messages(self, handler: dg.PipesMessageHandler) -> Iterator[Any]:
        """Read messages through a temporary file while the block runs."""
        context = dg.AssetExecutionContext.get()  # of the step: the messages arrive in a thread, which has none
        handle = handler.handle_message

        def observe(message: Any) -> None:
            handle(message)
            progress = (message["params"] or {}).get("payload")  # of a custom message; others have none
            if isinstance(progress, dict) and progress.get("kind") == "validation":
                context.log_event(dg.AssetObservation(context.asset_key, metadata=observation_metadata(progress)))

        handler.handle_message = observe  # type: ignore[method-assign] # of this object, for one session
        with super().read_messages(handler) as params:
            yield params


def pipes_client() -> dg.PipesSubprocessClient:
    """Return the client that starts training, shows its progress, and lets it write a checkpoint when cancelled."""
    return dg.PipesSubprocessClient(
        message_reader=LiveProgressReader(), termination_timeout_seconds=_CHECKPOINT_GRACE_S
    )


def train_in_process(
    context: dg.AssetExecutionContext,
    pipes: dg.PipesSubprocessClient,
    plan: RunPlan,
    settings: TrainingConfig,
    device: Compute,
) -> int:
    """Train to the end in processes of its own; returns the number of parts that batches were computed in.

    Raises:
        MemoryShortage: one clip at a time does not fit.
        WorkerLost: the process was killed; another try resumes.
        dagster.Failure: training raised an error that another try cannot mend.
    """
    from hawor_pipeline.training.launch import processes_of

    command = child_command(processes_of(settings))

    def attempt(parts: int) -> None:
        config_path = prepare_run(plan, settings.changed(micro_batches=parts))
        _run_child([*command, "--config", str(config_path), "--run-dir", str(plan.run_dir)], context, pipes, device)

    return train_within_memory(attempt, plan.run_dir, device.device_name, settings.batch_size, context.log.warning)


def child_command(processes: int) -> list[str]:
    """Return the command that starts training: one process, or torchrun with one per device."""
    if processes == 1:
        return [sys.executable, "-m", TRAINING_MODULE]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*torchrun, "-m", TRAINING_MODULE]


def _run_child(
    command: list[str], context: dg.AssetExecutionContext, pipes: dg.PipesSubprocessClient, device: Compute
) -> None:
    """Run the training process; the problem that it recorded becomes the error."""
    problem_file = Path(command[-1]) / PROBLEM_FILE
    problem_file.unlink(missing_ok=True)
    environment = {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"), **device.environment()}
    try:
        pipes.run(command=command, context=context, env=environment).get_results()
    except DagsterPipesExecutionError as error:
        if not problem_file.is_file():
            raise WorkerLost(
                f"the training process ended without a message (killed?), its last checkpoint is kept: {error}"
            ) from None
        problem = json.loads(problem_file.read_text())
        if problem["kind"] == "memory":
            raise MemoryShortage(problem["message"]) from None
        raise dg.Failure(problem["message"], allow_retries=False) from None
