"""Failures: retries, messages and notifications."""

import errno
import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import dagster as dg
import pytest

from hawor_pipeline.errors import ConfigError, DataError, MemoryShortage, WorkerLost
from hawor_pipeline.orchestration.checks import checked
from hawor_pipeline.orchestration.failures import (
    GATE_CHECK,
    NOTIFIED_TAG,
    WEBHOOK_VARIABLE,
    clear_failures,
    notify_of_failure,
    notify_once,
    worth_a_retry,
)
from hawor_pipeline.orchestration.sensors import run_failure


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (WorkerLost("killed"), True),
        (ConnectionResetError("reset"), True),
        (TimeoutError("late"), True),
        (OSError(errno.ESTALE, "stale handle"), True),
        (OSError(errno.ENOSPC, "disk full"), False),
        (FileNotFoundError("gone"), False),
        (DataError("damaged"), False),
        (ConfigError("misspelt"), False),
        (MemoryShortage("one clip is too much"), False),
        (KeyError("a mistake in the code"), False),
    ],
)
def test_only_what_passes_by_itself_is_tried_again(error, expected):
    assert worth_a_retry(error) is expected

    @clear_failures
    def stage():
        raise error

    if expected:
        with pytest.raises(type(error)):
            stage()
    else:
        with pytest.raises(dg.Failure) as failure:
            stage()
        assert failure.value.allow_retries is False
        assert failure.value.description.startswith(type(error).__name__)


def test_the_guard_keeps_the_signature_that_dagster_reads():
    @dg.asset
    @clear_failures
    def number(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        """Return a number."""
        return dg.MaterializeResult(metadata={"n": 1})

    result = dg.materialize([number])
    assert result.success
    assert number.op.description == "Return a number."


class Webhook:
    """Run a server that stores the requests it receives."""

    def __init__(self, status: int = 200):
        received = self.received = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *args):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}/hook?token=secret"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def webhook(monkeypatch):
    hook = Webhook()
    monkeypatch.setenv(WEBHOOK_VARIABLE, hook.address)
    yield hook
    hook.close()


def _failed_run(instance) -> dg.DagsterRun:
    run = dg.DagsterRun(job_name="weekly_retraining_job", status=dg.DagsterRunStatus.FAILURE)
    return instance.add_run(run)


def test_a_failure_is_told_once_with_what_failed_and_how_to_resume(webhook, caplog):
    caplog.set_level(logging.INFO)
    log = logging.getLogger("test")
    with dg.instance_for_test() as instance:
        run = _failed_run(instance)
        assert notify_once(instance, run.run_id, "step trained_checkpoint: DataError: disk full", log=log)
        assert not notify_once(instance, run.run_id, "again", log=log)
        assert instance.get_run_by_id(run.run_id).tags[NOTIFIED_TAG] == "true"
    (message,) = webhook.received
    assert message["job"] == "weekly_retraining_job"
    assert message["run_id"] == run.run_id
    for part in ("trained_checkpoint", "disk full", "Run the same job again"):
        assert part in message["text"]
        assert part in caplog.text


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/?token=secret", "file:///etc/passwd?token=secret", "nonsense"])
def test_a_webhook_that_fails_fails_nothing_and_betrays_no_secret(monkeypatch, caplog, address):
    monkeypatch.setenv(WEBHOOK_VARIABLE, address)
    with dg.instance_for_test() as instance:
        assert notify_once(instance, _failed_run(instance).run_id, "x", log=logging.getLogger("test"))
    assert "could not be reached" in caplog.text
    assert "secret" not in caplog.text


def test_the_hook_tells_in_runs_without_a_daemon(webhook):
    @dg.op
    def broken():
        raise dg.Failure("ConfigError: key 'x' is unknown")

    @dg.job(hooks={notify_of_failure})
    def breaking_job():
        broken()

    with dg.instance_for_test() as instance:
        assert not breaking_job.execute_in_process(instance=instance, raise_on_error=False).success
    (message,) = webhook.received
    assert "step broken: ConfigError: key 'x' is unknown" in message["text"]


@pytest.mark.parametrize("fault", [False, True])
def test_a_rejection_is_told_as_one_and_a_fault_beside_it_as_a_fault(webhook, fault):
    @dg.asset(check_specs=[dg.AssetCheckSpec(GATE_CHECK, asset="challenger", blocking=True)])
    def challenger():
        reason = "rejected: worse than run-1 in mpjpe_mm 12 against 10"
        return dg.MaterializeResult(check_results=[checked(GATE_CHECK, False, reason=reason)])

    @dg.asset(deps=[] if fault else [challenger])
    def other():
        raise dg.Failure("DataError: damaged", allow_retries=False)

    job = dg.define_asset_job("promote_job", [challenger, other], hooks={notify_of_failure})
    definitions = dg.Definitions([challenger, other], jobs=[job], executor=dg.in_process_executor)
    with dg.instance_for_test() as instance:
        run = definitions.resolve_job_def("promote_job").execute_in_process(instance=instance, raise_on_error=False)
        assert not run.success
        assert not notify_once(instance, run.run_id, "x", log=logging.getLogger("test"), steps=["challenger"])
    texts = {message["kind"]: message["text"] for message in webhook.received}
    if fault:
        assert "DataError: damaged" in texts["failure"]
    else:
        assert set(texts) == {"rejection"}
        assert "not promoted. Rejected: worse than run-1 in mpjpe_mm 12 against 10." in texts["rejection"]
        for word in ("failed", "Run the same job again"):
            assert word not in texts["rejection"]


def test_the_sensor_tells_of_runs_that_could_not(webhook):
    @dg.job
    def any_job():
        pass

    with dg.instance_for_test() as instance:
        run = _failed_run(instance)
        event = dg.DagsterEvent("PIPELINE_FAILURE", "weekly_retraining_job", message="the process of the run is gone")
        with dg.build_run_status_sensor_context(
            "run_failure", event, instance, instance.get_run_by_id(run.run_id)
        ) as context:
            failure = context.for_run_failure()
            assert run_failure(failure) is None
            assert isinstance(run_failure(failure), dg.SkipReason)
    assert [message["what"] for message in webhook.received] == ["the process of the run is gone"]
