"""The whole code location: described and owned assets, valid presets, promotion only in the intended jobs."""

import ast
import os
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from hawor_pipeline import versions
from hawor_pipeline.config import load_config, read_yaml
from hawor_pipeline.definitions import defs
from hawor_pipeline.evaluation.schemas import SCHEMAS
from hawor_pipeline.orchestration.build import FOLLOWING, build_defs
from hawor_pipeline.orchestration.failures import RETRY_POLICY
from hawor_pipeline.orchestration.partitions import PROMOTION_TAG
from hawor_pipeline.orchestration.schedules import CONFIG_VARIABLE, weekly_retraining
from hawor_pipeline.orchestration.stage_asset import code_version, stage_asset
from hawor_pipeline.orchestration.table_checks import MAIN_TABLE, RUN_TABLES
from hawor_pipeline.paths import config_dir, experiment_file

SPECS = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
PIPELINE = {
    "raw_arctic_sequences",
    "subject_shards",
    "dataset_metadata",
    "quality_stats",
    "trained_checkpoint",
    "baseline_metrics",
    "evaluation_metrics",
    "final_report",
    "exported_model",
}
REGISTRY = {"challenger", "champion"}
PRESETS = sorted((config_dir() / "jobs").glob("*.yaml"))
JOB_OF_PRESET = {"weekly_retraining": "weekly_retraining_job"}


def _job(name: str) -> dg.JobDefinition:
    return defs.resolve_job_def(name)


def _assets_of(name: str) -> set[str]:
    return {key.to_user_string() for key in _job(name).asset_layer.selected_asset_keys}


def test_definitions_load():
    dg.Definitions.validate_loadable(defs)
    assert set(SPECS) >= PIPELINE | REGISTRY


@pytest.mark.parametrize("name", sorted(PIPELINE | REGISTRY))
def test_every_asset_is_explained_owned_and_versioned(name):
    spec = SPECS[name]
    assert len(spec.description or "") > 60, "a description that teaches"
    assert spec.owners
    assert spec.kinds
    assert spec.code_version
    assert spec.group_name == "hand_mesh", "several groups would hide the graph behind closed boxes"
    operation = defs.resolve_assets_def(name).op
    assert operation.retry_policy == RETRY_POLICY


def test_every_result_has_a_blocking_check():
    blocked = {
        spec.asset_key.to_user_string()
        for asset in defs.assets or []
        if isinstance(asset, dg.AssetsDefinition)
        for spec in asset.check_specs
        if spec.blocking
    }
    assert blocked >= (PIPELINE - {"final_report"}) | {"final_report", "challenger"}


def test_the_published_tables_are_all_checked():
    assert set(RUN_TABLES) <= set(SCHEMAS)
    names = {spec.name for spec in defs.resolve_assets_def("evaluation_metrics").check_specs}
    for table in RUN_TABLES:
        assert any(name.startswith(table) for name in names), table


def test_measured_columns_name_what_they_are_measured_against():
    from hawor_pipeline.evaluation.declared_metrics import SAMPLE_METRICS
    from hawor_pipeline.evaluation.schemas import columns_of, made_from
    from hawor_pipeline.shards.schema import COLUMNS

    for column in columns_of(MAIN_TABLE):
        sources = made_from(column.name)
        assert set(sources) <= set(COLUMNS)
        if column.name in SAMPLE_METRICS:
            assert sources, column.name


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_preset_is_valid(preset):
    job = _job(JOB_OF_PRESET.get(preset.stem, "full_pipeline_job"))
    values = read_yaml(preset)
    dg.validate_run_config(job, values)
    training = values.get("ops", {}).get("trained_checkpoint", {}).get("config", {})
    if training.get("experiment"):
        load_config(experiment_file(training["experiment"]), training.get("overrides"))


def test_every_experiment_has_a_preset():
    used = set()
    for preset in PRESETS:
        used.add(read_yaml(preset)["ops"]["trained_checkpoint"]["config"].get("experiment"))
    assert used >= {path.stem for path in (config_dir() / "experiments").glob("*.yaml")}


def test_a_misspelt_preset_is_refused():
    with pytest.raises(dg.DagsterInvalidConfigError, match="experimnt"):
        dg.validate_run_config(
            _job("full_pipeline_job"), {"ops": {"trained_checkpoint": {"config": {"experimnt": "demo"}}}}
        )
    with pytest.raises(dg.DagsterInvalidConfigError):
        dg.validate_run_config(
            _job("full_pipeline_job"), {"ops": {"trained_checkpoint": {"config": {"when_unchanged": "always"}}}}
        )


def test_the_launchpad_needs_nothing_filled_in():
    for job in defs.resolve_all_job_defs():
        if not job.name.startswith("__"):
            dg.validate_run_config(job, {})


def test_promotion_is_in_two_jobs_only():
    allowed = {job.name for job in defs.resolve_all_job_defs() if job.run_tags.get(PROMOTION_TAG) == "allowed"}
    assert allowed == {"promote_job", "weekly_retraining_job"}
    assert _assets_of("promote_job") == REGISTRY
    assert _assets_of("weekly_retraining_job") == PIPELINE | REGISTRY
    assert not _assets_of("full_pipeline_job") & REGISTRY


def test_nothing_launches_work_before_somebody_starts_it():
    assert defs.resolve_schedule_def("weekly_retraining").default_status == dg.DefaultScheduleStatus.STOPPED
    for name in ("new_raw_sequences", "follow_new_data"):
        assert defs.resolve_sensor_def(name).default_status == dg.DefaultSensorStatus.STOPPED
    assert defs.resolve_sensor_def("run_failure").default_status == dg.DefaultSensorStatus.RUNNING


def test_the_schedule_reads_its_settings_at_each_tick(tmp_path, monkeypatch):
    shipped = read_yaml(config_dir() / "jobs" / "weekly_retraining.yaml")
    own = tmp_path / "own.yaml"
    own.write_text("ops: {trained_checkpoint: {config: {start_from: champion, when_unchanged: retrain}}}\n")
    with (
        dg.instance_for_test() as instance,
        dg.build_schedule_context(
            instance=instance, scheduled_execution_time=datetime(2026, 11, 23, 3, tzinfo=UTC)
        ) as context,
    ):
        request = weekly_retraining(context)
        assert request.run_config == shipped
        assert request.run_config["ops"]["trained_checkpoint"]["config"]["when_unchanged"] == "retrain"
        monkeypatch.setenv(CONFIG_VARIABLE, str(own))
        assert weekly_retraining(context).run_config["ops"]["trained_checkpoint"]["config"]["start_from"] == "champion"
        run = instance.create_run_for_job(_job("promote_job"))
        assert isinstance(weekly_retraining(context), dg.RunRequest), run


def test_a_tick_skips_while_an_earlier_retraining_goes_on():
    with dg.instance_for_test() as instance, dg.build_schedule_context(instance=instance) as context:
        run = dg.DagsterRun(job_name="weekly_retraining_job", status=dg.DagsterRunStatus.STARTED)
        instance.add_run(run)
        skipped = weekly_retraining(context)
        assert isinstance(skipped, dg.SkipReason)
        assert run.run_id in skipped.skip_message


def test_what_follows_its_inputs_is_asked_for_when_they_change(tmp_path, monkeypatch):
    """With all inputs present, a new checkpoint requests evaluation and report, not training."""
    monkeypatch.chdir(tmp_path)
    own = build_defs()
    with dg.instance_for_test() as instance:
        _materialized(instance, sorted(PIPELINE))
        first = dg.evaluate_automation_conditions(own, instance)
        assert first.total_requested == 0
        _materialized(instance, ["trained_checkpoint"])
        second = dg.evaluate_automation_conditions(own, instance, cursor=first.cursor)
        requested = {name for name in SPECS if second.get_num_requested(dg.AssetKey(name))}
        assert requested == {"evaluation_metrics", "final_report"}
        assert requested <= set(FOLLOWING)


def _materialized(instance: dg.DagsterInstance, names: list[str]) -> None:
    for name in names:
        keys = [None]
        if SPECS[name].partitions_def is not None:
            keys = SPECS[name].partitions_def.get_partition_keys()
        for key in keys:
            instance.report_runless_asset_event(dg.AssetMaterialization(name, partition=key))


def test_the_champion_is_expected_weekly():
    policy = SPECS["champion"].freshness_policy
    assert policy is not None
    assert SPECS["trained_checkpoint"].freshness_policy is None


def test_location_loads_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Path(os.getcwd()) == tmp_path
    build_defs()
    assert list(tmp_path.iterdir()) == []


ASSET_MODULES = sorted((Path(stage_asset.__code__.co_filename).parent / "assets").glob("*.py"))
MOST_BODY_LINES = 15


def _asset_functions() -> list[tuple[Path, ast.FunctionDef, ast.Call]]:
    """Functions that become assets, each with the call of its decorator."""
    found = []
    for file in ASSET_MODULES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                for call in node.decorator_list:
                    assert isinstance(call, ast.Call), node.name
                    assert ast.unparse(call.func) == "stage_asset", node.name
                    found.append((file, node, call))
    assert {node.name for _, node, _ in found} == PIPELINE | REGISTRY | {"external_shards"}
    return found


def test_every_code_version_is_made_of_constants_of_its_stages():
    used: set[str] = set()
    for _, node, call in _asset_functions():
        names = [ast.unparse(argument) for argument in call.args]
        assert names, node.name
        used |= set(names)
        assert all(name in vars(versions) for name in names), node.name
        if node.name in SPECS:
            assert SPECS[node.name].code_version == code_version(*(getattr(versions, name) for name in names))
    assert not any("code_version" in file.read_text() for file in ASSET_MODULES)
    stages = {name for name in vars(versions) if name.endswith("_VERSION")}
    assert stages - used == {"IMPORT_VERSION"}  # import-webdataset is a command, not an asset


def test_a_raised_constant_changes_the_code_version():
    def declared(*constants: int | str) -> str:
        @stage_asset(*constants)
        def stage() -> None:
            """Do nothing."""

        return stage.specs_by_key[stage.key].code_version

    assert declared(versions.GATE_VERSION, versions.EVALUATION_VERSION) == SPECS["challenger"].code_version
    assert declared(versions.CONVERTER_VERSION) == SPECS["subject_shards"].code_version
    assert declared(versions.CONVERTER_VERSION + 1) != SPECS["subject_shards"].code_version


def test_bodies_of_assets_are_short():
    """An asset loads, calls one function and returns metadata."""
    for file, node, _ in _asset_functions():
        lines = file.read_text().splitlines()[node.body[1].lineno - 1 : node.end_lineno]  # without the docstring
        code = [line for line in lines if line.strip() and not line.strip().startswith("#")]
        assert len(code) <= MOST_BODY_LINES, f"{node.name}: {len(code)} lines"
