"""The weekly retraining, launched twice by a daemon, the second time without new data."""

import shutil
from pathlib import Path

import dagster as dg
import pytest
import yaml

from hawor_pipeline.orchestration.partitions import SUBJECTS
from hawor_pipeline.orchestration.schedules import CONFIG_VARIABLE, CRON_VARIABLE
from hawor_pipeline_tests.conftest import REPOSITORY
from hawor_pipeline_tests.orchestration.daemon import dagster_command, opened_instance, running_daemon, wait_for

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1500), pytest.mark.campaign]
JOB = "weekly_retraining_job"
_RUN_S = 700.0


def _write_config(path: Path, start_from: str) -> None:
    config = yaml.safe_load((REPOSITORY / "configs" / "jobs" / "smoke.yaml").read_text())
    config["ops"]["trained_checkpoint"]["config"] |= {"when_unchanged": "retrain", "start_from": start_from}
    path.write_text(yaml.safe_dump(config))


@pytest.fixture(scope="module")
def retrained(finished_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a project in which the schedule has launched two runs, the second from the champion of the first."""
    project = tmp_path_factory.mktemp("weekly") / "project"
    shutil.copytree(finished_project, project)
    config = project / "weekly.yaml"
    _write_config(config, "scratch")
    environment = {CRON_VARIABLE: "* * * * *", CONFIG_VARIABLE: str(config)}
    with running_daemon(project, **environment):
        dagster_command(project, "schedule", "start", "weekly_retraining", **environment)
        wait_for(lambda: len(_ended(project)) >= 1, _RUN_S, "the first run ends")
        _write_config(config, "champion")
        wait_for(lambda: len(_runs(project)) >= 2, _RUN_S, "the second run is launched")
        dagster_command(project, "schedule", "stop", "weekly_retraining", **environment)
        wait_for(lambda: len(_ended(project)) >= 2, _RUN_S, "the second run ends")
    return project


def _runs(project: Path) -> list[dg.DagsterRun]:
    """Return the runs of the schedule, the oldest first."""
    with opened_instance(project) as instance:
        return list(reversed(instance.get_runs(dg.RunsFilter(job_name=JOB))))


def _ended(project: Path) -> list[dg.DagsterRun]:
    return [run for run in _runs(project) if run.is_finished]


def _metadata(instance: dg.DagsterInstance, run: dg.DagsterRun, asset: str) -> list[dict]:
    """Return the metadata of the materialisations of an asset in a run."""
    records = instance.fetch_materializations(dg.AssetKey(asset), limit=60).records
    return [
        {name: value.value for name, value in record.asset_materialization.metadata.items()}
        for record in records
        if record.run_id == run.run_id
    ]


def test_the_first_run_makes_the_first_champion(retrained):
    first, _ = _ended(retrained)[:2]
    assert first.status == dg.DagsterRunStatus.SUCCESS
    assert first.tags["dagster/schedule_name"] == "weekly_retraining"
    with opened_instance(retrained) as instance:
        (challenger,) = _metadata(instance, first, "challenger")
        (champion,) = _metadata(instance, first, "champion")
    assert challenger["outcome"] == "first"
    assert champion["promoted"] is True


def test_the_second_run_converts_nothing_retrains_and_compares(retrained):
    first, second = _ended(retrained)[:2]
    with opened_instance(retrained) as instance:
        for asset in ("raw_arctic_sequences", "subject_shards"):
            found = _metadata(instance, second, asset)
            assert len(found) == len(SUBJECTS)
            assert all(metadata["reused"] is True for metadata in found)
        (before,) = _metadata(instance, first, "trained_checkpoint")
        (trained,) = _metadata(instance, second, "trained_checkpoint")
        assert trained["reused"] is False
        assert trained["run_id"] != before["run_id"]
        config = yaml.safe_load((retrained / "data" / "runs" / trained["run_id"] / "config.yaml").read_text())
        assert str(retrained / "data" / "registry") in config["pretrained_weights"]
        (challenger,) = _metadata(instance, second, "challenger")
        assert challenger["champion"] == before["run_id"]
        assert challenger["outcome"] in ("better_or_equal", "rejected")
        assert challenger["differences"].records
        promoted = [metadata["promoted"] for metadata in _metadata(instance, second, "champion")]
        (report,) = _metadata(instance, second, "final_report")
    if challenger["outcome"] == "rejected":  # the gate ends the run; nothing is promoted, the report is there
        assert second.status == dg.DagsterRunStatus.FAILURE
        assert promoted == []
    else:
        assert second.status == dg.DagsterRunStatus.SUCCESS
        assert promoted == [True]
    assert report["path"]


def test_ticks_that_found_a_run_going_on_skipped(retrained):
    with opened_instance(retrained) as instance:
        (state,) = [s for s in instance.all_instigator_state() if s.name == "weekly_retraining"]
        ticks = instance.get_ticks(state.instigator_origin_id, state.selector_id)
    launched = [tick for tick in ticks if tick.run_ids]
    assert len(launched) == len({run_id for tick in launched for run_id in tick.run_ids})
    assert len(_ended(retrained)) == len(launched)
    assert all("still going on" in tick.skip_reason for tick in ticks if tick.skip_reason)
