"""The asset `trained_checkpoint` with training processes on generated shards: memory, devices, invalid settings."""

import json
import shutil
from pathlib import Path

import dagster as dg
import pytest
import yaml

from hawor_pipeline.config import dump_config
from hawor_pipeline.orchestration import training_process
from hawor_pipeline.orchestration.assets import ALL_ASSETS
from hawor_pipeline.orchestration.companions import ReportServer
from hawor_pipeline.orchestration.compute import ComputeResource
from hawor_pipeline.orchestration.resources import JsonIOManager, RawData
from hawor_pipeline.orchestration.tracking import TensorBoardResource, WandbResource
from hawor_pipeline_tests.training.conftest import hand_data, tiny

__all__ = ["hand_data", "tiny"]  # fixtures of the training tests
pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]
CHILD = "hawor_pipeline_tests.orchestration.tight_memory_child"


@pytest.fixture
def project(hand_data: Path, tmp_path: Path, monkeypatch) -> Path:
    """Create a data directory with the dataset as the upstream asset writes it."""
    monkeypatch.setenv("HAWOR_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("ARCTIC_ROOT", raising=False)
    data = tmp_path / "data"
    (data / "handoff").mkdir(parents=True)
    (data / "sample" / "arctic").mkdir(parents=True)
    shutil.copytree(hand_data / "mano", data / "sample" / "body_models" / "mano")
    dataset = {
        "shards": str(hand_data / "shards"),
        "source": "synthetic",
        "dataset_version": "v1",
        "splits": {"train": ["s01"], "val": ["s05"]},
    }
    (data / "handoff" / "dataset_metadata.json").write_text(json.dumps(dataset))
    return tmp_path


def _train(project: Path, config, **settings) -> tuple[dg.ExecuteInProcessResult, dict]:
    path = project / "experiment.yaml"
    path.write_text(dump_config(config))
    resources = {
        "raw": RawData(),
        "compute": ComputeResource(accelerator="cpu"),
        "tensorboard": TensorBoardResource(enabled=False),
        "wandb": WandbResource(),
        "reports": ReportServer(),
        "json_io_manager": JsonIOManager(),
        "pipes": training_process.pipes_client(),
    }
    asset = {"config": {"experiment": str(path), **settings}}
    result = dg.materialize(
        ALL_ASSETS,
        selection=dg.AssetSelection.assets("trained_checkpoint"),
        resources=resources,
        run_config={"ops": {"trained_checkpoint": asset}},
        raise_on_error=False,
    )
    events = result.asset_materializations_for_node("trained_checkpoint") if result.success else []
    return result, {name: value.value for event in events for name, value in event.metadata.items()}


def test_out_of_memory_under_torchrun_leads_to_smaller_parts_of_the_same_batch(project, tiny, monkeypatch):
    """Both processes raise torch's error above two clips; the run continues and reports it."""
    monkeypatch.setattr(training_process, "TRAINING_MODULE", CHILD)
    config = tiny(batch_size=8, devices=2, max_steps=3, save_every_n_steps=1)
    result, metadata = _train(project, config)
    assert result.success
    assert metadata["micro_batches"] == 2
    run = project / "data" / "runs" / metadata["run_id"]
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert (saved["batch_size"], saved["micro_batches"]) == (8, 2)
    assert json.loads((run / "memory.json").read_text())["micro_batches"] == 2
    starts = [json.loads(line) for line in (run / "progress.jsonl").read_text().splitlines() if '"start"' in line]
    assert starts[-1]["frames_per_step"] == 2 * 8 * 3  # devices, clips, frames of a clip
    assert metadata["memory_peak_mb"] > 100


def test_a_wrong_setting_fails_with_the_message_of_the_training_process(project, tiny):
    result, _ = _train(project, tiny(val_subjects=["s09"], max_steps=2))
    assert not result.success
    failure = result.failure_data_for_node("trained_checkpoint")
    text = f"{failure.error.message} {failure.user_failure_data.description}"
    assert "s09" in text
    assert failure.user_failure_data.label == "intentional-failure"
