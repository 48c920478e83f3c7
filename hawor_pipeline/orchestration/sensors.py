"""Sensors of new raw sequences and of failed runs. They need the daemon (`make ui` starts it)."""

import json
import os
import time
from pathlib import Path

import dagster as dg

from hawor_pipeline.orchestration.failures import notify_once
from hawor_pipeline.orchestration.jobs import prepare_data_job
from hawor_pipeline.orchestration.partitions import SUBJECTS
from hawor_pipeline.orchestration.resources import RawData
from hawor_pipeline.provenance import hash_json

QUIET_VARIABLE = "HAWOR_NEW_FILES_QUIET_S"
_WATCHED = ("raw_seqs", "images", "cropped_images")
_QUIET_S = 120.0  # a running copy or download writes more often than this


@dg.sensor(
    name="new_raw_sequences",
    job=prepare_data_job,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description=(
        "Watches ground truth and images below ARCTIC_ROOT and launches prepare_data_job for each subject whose "
        "files are new or changed, once no file changed for two minutes. The first tick only records. Shards of "
        "unchanged sequences are reused."
    ),
)
def new_raw_sequences(context: dg.SensorEvaluationContext, raw: RawData):
    """Request a run per subject whose listing differs from that of the last tick."""
    if raw.is_sample:
        return dg.SkipReason("ARCTIC_ROOT is not set: the built-in sample gets no new sequences")
    root = raw.locate().arctic_root
    found, touched = {}, 0.0
    for subject in SUBJECTS:
        found[subject], newest = _listing(root, subject)
        touched = max(touched, newest)
    quiet = float(os.environ.get(QUIET_VARIABLE, _QUIET_S))
    if time.time() - touched < quiet:
        return dg.SkipReason(f"files are still arriving (the last one within {quiet:.0f} s)")
    if context.cursor is None:
        context.update_cursor(json.dumps(found))
        return dg.SkipReason("first look: later changes launch runs")
    known = json.loads(context.cursor)
    context.update_cursor(json.dumps(found))
    changed = [subject for subject in SUBJECTS if found[subject] != known.get(subject)]
    if not changed:
        return dg.SkipReason("no subject has new or changed files")
    return [dg.RunRequest(run_key=f"{s}:{found[s]}", partition_key=s, tags={"hawor/new_files_of": s}) for s in changed]


def _listing(root: Path, subject: str) -> tuple[str, float]:
    """Return a hash of names, sizes and times of a subject's files and image folders, and the latest time."""
    entries: list[list[str | int]] = []
    newest = 0.0
    for file in sorted(file for kind in _WATCHED for file in (root / kind / subject).glob("*")):
        stat = file.stat()
        entries.append([f"{file.parent.parent.name}/{file.name}", stat.st_size, stat.st_mtime_ns])
        newest = max(newest, stat.st_mtime)
    return hash_json(entries), newest


@dg.run_failure_sensor(
    name="run_failure",
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "Reports failed runs that could not report themselves (a killed worker, a run that never started): in the log, "
        "and to the webhook in HAWOR_FAILURE_WEBHOOK where one is set."
    ),
)
def run_failure(context: dg.RunFailureSensorContext):
    """Report what failed and how to resume, unless the run reported it already."""
    steps = [event.step_key for event in context.get_step_failure_events() if event.step_key]
    what = f"step {', '.join(steps)}" if steps else context.failure_event.message or "its worker died"
    notified = notify_once(context.instance, context.dagster_run.run_id, what, log=context.log, steps=steps)
    return None if notified else dg.SkipReason("the run reported its failure itself")


ALL_SENSORS = [new_raw_sequences, run_failure]
