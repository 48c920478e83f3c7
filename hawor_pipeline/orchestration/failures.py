"""What a failure becomes: one clear message, another try where that can help, and a word to whoever should know.

Trying again helps against what passes by itself: a killed process, a connection that broke, a share that did not
answer. It does not help against a wrong path, a misspelt setting, damaged data or a full disk; those fail at once.
"""

import errno
import functools
import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import dagster as dg

from hawor_pipeline.errors import HaworError, WorkerLost

Stage = TypeVar("Stage")
WEBHOOK_VARIABLE = "HAWOR_FAILURE_WEBHOOK"
NOTIFIED_TAG = "hawor/failure_notified"
GATE_CHECK = "is_no_worse_than_the_champion"  # of the asset challenger; it fails where a run is rejected
RESUME_ADVICE = (
    "Run the same job again when the cause is mended: finished work is reused, and an interrupted training continues "
    "from its last checkpoint."
)
# Two more tries, after 5 and 10 seconds.
RETRY_POLICY = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL)
_PASSING_ERRNOS = frozenset(
    {
        errno.EIO,
        errno.EAGAIN,
        errno.ETIMEDOUT,
        errno.ESTALE,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EREMOTEIO,
    }
)
_WEBHOOK_TIMEOUT_S = 10.0


def worth_a_retry(error: BaseException) -> bool:
    """Whether the same step may well succeed if it is tried again."""
    if isinstance(error, (WorkerLost, MemoryError, ConnectionError, TimeoutError)):
        return True
    return isinstance(error, OSError) and error.errno in _PASSING_ERRNOS


def clear_failures(stage: Callable[..., Stage]) -> Callable[..., Stage]:
    """Goes below `@dg.asset`: errors that another try cannot mend fail at once, with one clear message."""

    @functools.wraps(stage)
    def guarded(*args: Any, **kwargs: Any) -> Stage:
        try:
            return stage(*args, **kwargs)
        except (dg.Failure, dg.RetryRequested):
            raise
        except Exception as error:
            if worth_a_retry(error):
                raise
            description = f"{type(error).__name__}: {error}"
            if isinstance(error, HaworError):  # the message says it all
                raise dg.Failure(description, allow_retries=False) from None
            raise dg.Failure(description, allow_retries=False) from error

    return guarded


def failure_message(job_name: str, run_id: str, what: str) -> str:
    """What failed, why, and how to go on."""
    return f"{job_name} failed (run {run_id}): {what.rstrip('.')}. {RESUME_ADVICE}"


def rejection_message(job_name: str, run_id: str, reason: str) -> str:
    """That a gate did its work: nothing is broken, and nothing has to be done."""
    return (
        f"{job_name} (run {run_id}): the challenger was not promoted. {reason[:1].upper()}{reason[1:]}. "
        "The champion stays; the report shows the comparison."
    )


def rejection(instance: dg.DagsterInstance, run_id: str, steps: Sequence[str]) -> str | None:
    """Why the gate turned the challenger of a run down; None where something else failed, too."""
    if list(steps) != ["challenger"]:
        return None
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION):
        result = entry.get_dagster_event().asset_check_evaluation_data
        if result.check_name == GATE_CHECK and not result.passed:
            return str(result.metadata["reason"].value)
    return None


def notify_once(instance: dg.DagsterInstance, run_id: str, what: str, *, log: Any, steps: Sequence[str] = ()) -> bool:
    """Say that a run failed: in the log, and to the webhook in `$HAWOR_FAILURE_WEBHOOK` where one is set.

    Hook, sensor and reaper may all see the same failure; the first one tells. A challenger that the gate rejected is
    told as that; a fault of the same run is told besides.

    Args:
        instance: whose run it is.
        run_id: the run.
        what: what failed.
        log: where to write.
        steps: the steps that failed, where they are known.

    Returns:
        Whether this call told.
    """
    run = instance.get_run_by_id(run_id)
    if run is None:
        return False
    reason, told = rejection(instance, run_id, steps), run.tags.get(NOTIFIED_TAG)
    if told == "true" or (told and reason):
        return False
    instance.add_run_tags(run_id, {NOTIFIED_TAG: "rejection" if reason else "true"})
    if reason:
        message = rejection_message(run.job_name, run_id, reason)
        log.warning(message)
    else:
        message = failure_message(run.job_name, run_id, what)
        log.error(message)
    if address := os.environ.get(WEBHOOK_VARIABLE):
        kind = "rejection" if reason else "failure"
        content = {"text": message, "kind": kind, "job": run.job_name, "run_id": run_id, "what": reason or what}
        if problem := _post(address, content):  # the address may hold a secret: it is not repeated
            log.warning(f"the failure webhook could not be reached: {problem}")
    return True


def _post(address: str, content: dict[str, str]) -> str | None:
    """Send JSON; returns what went wrong. A notification that fails must not fail anything else."""
    if not address.startswith(("http://", "https://")):
        return f"${WEBHOOK_VARIABLE} is not an http(s) address"
    request = urllib.request.Request(address, json.dumps(content).encode(), {"Content-Type": "application/json"})
    try:
        urllib.request.urlopen(request, timeout=_WEBHOOK_TIMEOUT_S).close()
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}"
    except (OSError, ValueError) as error:
        return type(error).__name__
    return None


@dg.failure_hook
def tell_of_failure(context: dg.HookContext) -> None:
    """Runs where a step failed, also without a daemon."""
    error = context.op_exception
    what = f"step {context.step_key}: {getattr(error, 'description', None) or error or 'see the run'}"
    notify_once(context.instance, context.run_id, what, log=context.log, steps=[context.step_key])
