"""Schedules. They need the daemon (`make ui` starts it) and are off until they are started in the UI."""

import os
from pathlib import Path

import dagster as dg

from hawor_pipeline.config import read_yaml
from hawor_pipeline.orchestration.jobs import weekly_retraining_job
from hawor_pipeline.orchestration.partitions import ALL_SUBJECTS_TAGS
from hawor_pipeline.orchestration.reaper import UNFINISHED
from hawor_pipeline.paths import config_dir

CRON_VARIABLE = "HAWOR_RETRAINING_CRON"
CONFIG_VARIABLE = "HAWOR_RETRAINING_CONFIG"
MONDAYS_AT_THREE = "0 3 * * 1"
_UNFINISHED_STATUSES = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, *UNFINISHED]


def retraining_config() -> Path:
    """Return the run configuration of the weekly retraining: `$HAWOR_RETRAINING_CONFIG`, or the shipped preset."""
    return Path(os.environ.get(CONFIG_VARIABLE) or config_dir() / "jobs" / "weekly_retraining.yaml")


@dg.schedule(
    name="weekly_retraining",
    job=weekly_retraining_job,
    cron_schedule=os.environ.get(CRON_VARIABLE, MONDAYS_AT_THREE),
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description=(
        "Mondays at 03:00 UTC (HAWOR_RETRAINING_CRON changes it): convert new sequences, train, evaluate, report, "
        "compare with the champion, promote. Settings, start_from among them, are in configs/jobs/"
        "weekly_retraining.yaml (HAWOR_RETRAINING_CONFIG names another file), read at each tick. "
        "Skips while an earlier run is unfinished."
    ),
)
def weekly_retraining(context: dg.ScheduleEvaluationContext):
    """Request a run, unless an earlier one is unfinished."""
    filters = dg.RunsFilter(job_name=weekly_retraining_job.name, statuses=_UNFINISHED_STATUSES)
    if unfinished := context.instance.get_runs(filters, limit=1):
        return dg.SkipReason(f"the run {unfinished[0].run_id} of an earlier tick is still going on")
    return dg.RunRequest(run_config=read_yaml(retraining_config()), tags=ALL_SUBJECTS_TAGS)


ALL_SCHEDULES = [weekly_retraining]
