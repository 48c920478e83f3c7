"""The asset of other datasets: present if one is named, converted once, with clear errors for missing files."""

import subprocess
import sys

import dagster as dg
import pytest

from hawor_pipeline.definitions import defs
from hawor_pipeline.orchestration.assets.external_shards import external_shards
from hawor_pipeline.orchestration.build import build_defs
from hawor_pipeline.orchestration.partitions import DATASETS, named_datasets
from hawor_pipeline.paths import root_variable
from hawor_pipeline.shards.store import open_shards
from hawor_pipeline.sources.registry import DATASETS as READ
from hawor_pipeline_tests.conftest import DATASET_ROOTS, project_environment
from hawor_pipeline_tests.sources.layouts import WRITERS

SMALL = {"ops": {"external_shards": {"config": {"overrides": {"target_resolution": [64, 64]}, "workers": 0}}}}


def materialize(dataset: str) -> dg.ExecuteInProcessResult:
    return dg.materialize([external_shards], partition_key=dataset, run_config=SMALL)


def test_every_reader_has_a_partition():
    assert DATASETS == READ
    assert {"FREIHAND_ROOT", "HO3D_ROOT", "DEXYCB_ROOT", "INTERHAND_ROOT"} <= set(DATASET_ROOTS)


def test_only_data_sets_whose_folder_is_named_are_partitions(tmp_path):
    """Load the definitions in a process that was started with these variables."""
    code = (
        "from hawor_pipeline.definitions import defs\n"
        "asset = defs.resolve_assets_def('external_shards')\n"
        "print(*asset.partitions_def.get_partition_keys())"
    )
    environment = {**project_environment(), "DEXYCB_ROOT": str(tmp_path), "HO3D_ROOT": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ho3d", "dexycb"]


@pytest.mark.skipif(bool(named_datasets()), reason="a data set is named in the environment of these tests")
def test_it_is_in_the_graph_only_where_a_folder_is_named(monkeypatch, tmp_path):
    assert "external_shards" not in {key.to_user_string() for key in defs.resolve_all_asset_keys()}
    monkeypatch.setenv("DEXYCB_ROOT", str(tmp_path))
    with_it = build_defs()
    dg.Definitions.validate_loadable(with_it)
    assert "external_shards" in {key.to_user_string() for key in with_it.resolve_all_asset_keys()}
    for job in ("full_pipeline_job", "weekly_retraining_job"):
        selected = with_it.resolve_job_def(job).asset_layer.selected_asset_keys
        assert dg.AssetKey("external_shards") not in selected
    assert with_it.resolve_job_def("external_data_job").partitions_def == external_shards.partitions_def


@pytest.mark.skipif(bool(named_datasets()), reason="a data set is named in the environment of these tests")
@pytest.mark.parametrize("dataset", ["freihand", "interhand"])
def test_a_data_set_is_converted_once(dataset, licensed_mano, tmp_path, monkeypatch):
    truth = WRITERS[dataset](tmp_path / "raw", licensed_mano)
    monkeypatch.setenv("HAWOR_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv(root_variable(dataset), str(tmp_path / "raw"))
    monkeypatch.setenv("MANO_DIR", str(licensed_mano))
    first = materialize(dataset)
    assert first.success
    shards = open_shards(tmp_path / "data" / "shards" / dataset)
    assert set(shards.table.column("sample_id").to_pylist()) == set(truth)
    metadata = first.asset_materializations_for_node("external_shards")[0].metadata
    assert metadata["rows"].value == len(truth)
    assert not metadata["reused"].value
    again = materialize(dataset)
    assert again.asset_materializations_for_node("external_shards")[0].metadata["reused"].value
    assert [check.passed for check in again.get_asset_check_evaluations()] == [True]


def test_what_is_not_named_is_asked_for(monkeypatch, tmp_path):
    monkeypatch.delenv("HO3D_ROOT", raising=False)
    with pytest.raises(dg.Failure, match=r"\$HO3D_ROOT is not set"):
        materialize("ho3d")
    (tmp_path / "train").mkdir()
    monkeypatch.setenv("HO3D_ROOT", str(tmp_path))
    monkeypatch.delenv("MANO_DIR", raising=False)
    with pytest.raises(dg.Failure, match=r"searched \$MANO_DIR \(not set\)"):
        materialize("ho3d")
