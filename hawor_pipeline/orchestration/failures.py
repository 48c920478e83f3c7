"""Handling of failures: one clear message, a retry where it can help, and a notification.

A retry helps against transient causes: a killed process, a broken connection, a network share that did not answer. It
does not help against a wrong path, a misspelt setting, corrupt data or a full disk; those fail at once.
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
    "Run the same job again when the cause is fixed: finished work is reused, and an interrupted training resumes "
    "from its last checkpoint."
)
# Two retries, after 5 and 10 seconds.
RETRY_POLICY = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL)
_TRANSIENT_ERRNOS = frozenset(
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
    """Return whether the same step may succeed on a retry."""
    if isinstance(error, (WorkerLost, MemoryError, ConnectionError, TimeoutError)):
        return True
    return isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNOS


def clear_failures(stage: Callable[..., Stage]) -> Callable[..., Stage]:
    """Wrap a stage, below `@dg.asset`: errors that a retry cannot fix fail at once, with one clear message."""

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
            if isinstance(error, HaworError):  # its message names cause and remedy; a stack trace would hide it
                raise dg.Failure(description, allow_retries=False) from None
            raise dg.Failure(description, allow_retries=False) from error

    return guarded


def failure_message(job_name: str, run_id: str, what: str) -> str:
    """Return what failed, why, and how to resume."""
    return f"{job_name} failed (run {run_id}): {what.rstrip('.')}. {RESUME_ADVICE}"


def rejection_message(job_name: str, run_id: str, reason: str) -> str:
    """Return the message of a rejected challenger: nothing is broken, and nothing needs to be done."""
    return (
        f"{job_name} (run {run_id}): the challenger was not promoted. {reason[:1].upper()}{reason[1:]}. "
        "The champion stays; the report shows the comparison."
    )


def rejection(instance: dg.DagsterInstance, run_id: str, steps: Sequence[str]) -> str | None:
    """Return the reason why the gate rejected the challenger of a run; None where something else failed, too."""
    if list(steps) != ["challenger"]:
        return None
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION):
        result = entry.get_dagster_event().asset_check_evaluation_data
        if result.check_name == GATE_CHECK and not result.passed:
            return str(result.metadata["reason"].value)
    return None


def notify_once(instance: dg.DagsterInstance, run_id: str, what: str, *, log: Any, steps: Sequence[str] = ()) -> bool:
    """Report a failed run in the log, and to the webhook in `$HAWOR_FAILURE_WEBHOOK` where one is set.

    Hook, sensor and reaper may all see the same failure; the first one reports it. A challenger that the gate rejected
    is reported as rejected; another failure of the same run is reported as well. `log` is Dagster's or Python's.

    Returns:
        True if this call sent the report.
    """
    run = instance.get_run_by_id(run_id)
    if run is None:
        return False
    reason, notified = rejection(instance, run_id, steps), run.tags.get(NOTIFIED_TAG)
    if notified == "true" or (notified and reason):
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
    """Send JSON; returns the problem, if any. A notification that fails must not fail anything else."""
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
def notify_of_failure(context: dg.HookContext) -> None:
    """Report a failed step; unlike a sensor, a hook runs without a daemon."""
    error = context.op_exception
    what = f"step {context.step_key}: {getattr(error, 'description', None) or error or 'see the run'}"
    notify_once(context.instance, context.run_id, what, log=context.log, steps=[context.step_key])
