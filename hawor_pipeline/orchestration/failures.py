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
from collections.abc import Callable
from typing import Any, TypeVar

import dagster as dg

from hawor_pipeline.errors import HaworError, WorkerLost

Stage = TypeVar("Stage")
WEBHOOK_VARIABLE = "HAWOR_FAILURE_WEBHOOK"
NOTIFIED_TAG = "hawor/failure_notified"
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
    return f"{job_name} failed (run {run_id}): {what}. {RESUME_ADVICE}"


def notify_once(instance: dg.DagsterInstance, run_id: str, what: str, *, log: Any) -> bool:
    """Say that a run failed: in the log, and to the webhook in `$HAWOR_FAILURE_WEBHOOK` where one is set.

    Hook, sensor and reaper may all see the same failure; the first one tells.

    Returns:
        Whether this call told.
    """
    run = instance.get_run_by_id(run_id)
    if run is None or NOTIFIED_TAG in run.tags:
        return False
    instance.add_run_tags(run_id, {NOTIFIED_TAG: "true"})
    message = failure_message(run.job_name, run_id, what)
    log.error(message)
    if address := os.environ.get(WEBHOOK_VARIABLE):
        problem = _post(address, {"text": message, "job": run.job_name, "run_id": run_id, "what": what})
        if problem:  # the address may hold a secret: it is not repeated
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
    notify_once(context.instance, context.run_id, what, log=context.log)
