"""Numbers of a batch: perfect output has no error, unknown is NaN, and means weigh samples equally."""

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from hawor_pipeline.core.mano import ManoLayer
from hawor_pipeline.core.types import ClipBatch, HandPrediction
from hawor_pipeline.errors import ConfigError
from hawor_pipeline.evaluation.training_evaluator import TrainingEvaluator
from hawor_pipeline.evaluation.training_metrics import TrainingMetrics
from hawor_pipeline.loading.clips import covering_clips
from hawor_pipeline.loading.dataset import ClipDataset
from hawor_pipeline.loading.rows import load_rows
from hawor_pipeline.shards.store import open_shards
from hawor_pipeline.untrusted.mano_files import load_mano


class Network(torch.nn.Module):
    """Stands for a network in training: one layer, and the hand model."""

    def __init__(self, mano_dir: Path):
        super().__init__()
        self.head = torch.nn.Linear(2, 2)
        self.mano = ManoLayer(load_mano(mano_dir, "right"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x)


@pytest.fixture(scope="module")
def batch(sample_shards: Path) -> ClipBatch:
    shards = open_shards(sample_shards, ["s05"])
    dataset = ClipDataset(shards, load_rows(shards.table), covering_clips(shards.table, 5), 64)
    return dataset[list(range(len(dataset)))]


@pytest.fixture
def network(mano_dir: Path) -> Network:
    return Network(mano_dir)


def perfect(batch: ClipBatch, network: Network) -> HandPrediction:
    target = batch.target
    mesh = network.mano(target.rotmats, target.betas)
    return HandPrediction(
        rotmats=target.rotmats,
        betas=target.betas,
        camera=torch.zeros(*target.valid.shape, 3),
        translation_m=target.translation_m,
        joints_m=target.joints_m,
        vertices_m=mesh.vertices + target.translation_m.unsqueeze(-2),
        joints_crop=target.joints_crop,
    )


def evaluator(network: Network, folder: Path) -> TrainingEvaluator:
    return TrainingEvaluator(network, device="cpu", use_tensorboard=False, log_dir=folder)


def test_perfect_output_has_no_error(batch: ClipBatch, network: Network, tmp_path: Path) -> None:
    found = evaluator(network, tmp_path).evaluate_batch(batch, perfect(batch, network), 0.0, {}, 1, 0, False)
    assert found.samples == int((batch.target.valid & (batch.sample_index >= 0)).sum()) > 0
    for name, value in found.to_dict().items():
        if name.startswith("pck") or name.endswith("detection_rate"):
            assert value == 1.0, name
        elif name.startswith(("mpjpe", "mano", "mesh", "temporal")):
            assert abs(value) < 2e-2, name


def test_shift_and_turn_are_seen_in_their_own_metrics(batch: ClipBatch, network: Network, tmp_path: Path) -> None:
    output = perfect(batch, network)
    shift = torch.tensor([0.0, 0.0, 0.02])
    moved = replace(
        output,
        translation_m=output.translation_m + shift,
        joints_m=output.joints_m + shift,
        vertices_m=output.vertices_m + shift,
        joints_crop=output.joints_crop + torch.tensor([7 / 256, 0.0]),
    )
    found = evaluator(network, tmp_path).evaluate_batch(batch, moved, 0.0, {}, 1, 0, True)
    assert found.mano_trans_error == pytest.approx(20.0, abs=1e-2)
    assert found.mpjpe_2d == pytest.approx(7.0, abs=1e-2)
    assert (found.pck_2d_5px, found.pck_2d_10px) == (0.0, 1.0)
    assert found.mpjpe_3d < 1e-2
    assert found.mesh_vertices_error < 2e-2


def test_what_is_not_known_is_nan_or_empty(batch: ClipBatch, tmp_path: Path, network: Network) -> None:
    plain = torch.nn.Linear(2, 2)
    judge = TrainingEvaluator(plain, device="cpu", use_tensorboard=False, log_dir=tmp_path)
    found = judge.evaluate_batch(batch, perfect(batch, network), 1.0, {"BETAS": 0.5}, 1, 0, True)
    for name in ("mesh_vertices_error", "mesh_faces_error", "mesh_surface_error", "inference_time"):
        assert math.isnan(getattr(found, name)), name
    assert found.gradient_norms == found.learning_rates == {}
    nothing = replace(batch, sample_index=torch.full_like(batch.sample_index, -1))
    empty = judge.evaluate_batch(nothing, perfect(batch, network), 1.0, {}, 2, 0, True)
    assert empty.samples == 0
    assert math.isnan(empty.mpjpe_3d)
    assert math.isnan(empty.left_hand_detection_rate)


def test_norms_rates_time_and_memory_are_of_the_model(batch: ClipBatch, network: Network, tmp_path: Path) -> None:
    judge = evaluator(network, tmp_path)
    judge.optimizer = torch.optim.SGD(network.parameters(), lr=0.125)
    network(torch.ones(1, 2)).sum().backward()
    found = judge.evaluate_batch(
        batch, perfect(batch, network), torch.tensor(2.0), {"A": torch.tensor(3.0)}, 1, 0, True
    )
    expected = math.sqrt(sum(float(p.grad.square().sum()) for p in network.head.parameters()))
    assert found.gradient_norms == {"head": pytest.approx(expected)}
    assert found.learning_rates == {"0": 0.125}
    assert found.inference_time > 0
    assert found.memory_usage > 10
    assert (found.loss, found.loss_components) == (2.0, {"A": 3.0})


def test_report_weighs_samples_not_batches(batch: ClipBatch, network: Network, tmp_path: Path) -> None:
    judge = evaluator(network, tmp_path)
    output = perfect(batch, network)
    shift = torch.tensor([0.0, 0.0, 0.03])
    few = replace(
        batch, sample_index=torch.where(torch.arange(batch.sample_index.shape[1]) == 0, batch.sample_index, -1)
    )
    judge.evaluate_batch(batch, output, 0.0, {}, 1, 3, False)
    judge.evaluate_batch(few, replace(output, translation_m=output.translation_m + shift), 0.0, {}, 2, 3, False)
    a, b = (row[3].samples for row in judge.history)
    assert a > b > 0
    report = judge.generate_training_report(tmp_path / "report")
    summary = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert summary["val"]["mano_trans_error"] == pytest.approx(30 * b / (a + b), abs=1e-2)
    assert "| mano_trans_error | mm |" in report.read_text()
    table = pq.read_table(tmp_path / "report" / "metrics.parquet")
    assert set(table["split"].to_pylist()) == {"val"}
    assert not np.isnan(table["value"].drop_null().to_numpy()).any()


def test_report_has_curves_and_best_values_in_its_default_folder(
    batch: ClipBatch, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = tmp_path / "training_reports" / "notes.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    judge = evaluator(network, tmp_path)
    output = perfect(batch, network)
    for epoch, (shift, loss) in enumerate(((0.03, 2.0), (0.01, 1.0), (0.02, 1.5))):
        moved = replace(output, translation_m=output.translation_m + torch.tensor([0.0, 0.0, shift]))
        for split in (True, False):
            judge.evaluate_batch(batch, moved, loss, {"BETAS": loss / 2}, 10 * epoch, epoch, split)
    report = judge.generate_training_report()
    assert report == Path("training_reports/training_report.md")
    text = report.read_text()
    (row,) = [line.split(" | ") for line in text.splitlines() if line.startswith("| mano_trans_error |")]
    assert row[1:6] == ["mm", "20", "20", "10 (epoch 1)", "10 (epoch 1)"]
    (row,) = [line.split(" | ") for line in text.splitlines() if line.startswith("| loss |")]
    assert row[2:6] == ["1.5", "1.5", "1 (epoch 1)", "1 (epoch 1)"]
    (row,) = [line.split(" | ") for line in text.splitlines() if line.startswith("| pck_3d_15mm |")]
    assert row[4] == "1 (epoch 0)"  # the earliest of equals
    (row,) = [line.split(" | ") for line in text.splitlines() if line.startswith("| memory_usage |")]
    assert row[4] == "–"  # no better side
    for name in ("training_curves.png", "metrics_evolution.png"):
        assert name in text
        assert (report.parent / name).read_bytes().startswith(b"\x89PNG")
    assert kept.read_text() == "mine"
    judge.generate_training_report()  # a second one replaces the first


def test_report_before_any_batch_is_empty(network: Network, tmp_path: Path) -> None:
    report = evaluator(network, tmp_path).generate_training_report(tmp_path / "empty")
    assert "| metric | unit |" in report.read_text()
    assert not list(report.parent.glob("*.png"))
    assert json.loads((report.parent / "summary.json").read_text()) == {"train": {}, "val": {}}


def test_tensorboard_gets_the_numbers(batch: ClipBatch, network: Network, tmp_path: Path) -> None:
    judge = TrainingEvaluator(network, device="cpu", log_dir=tmp_path / "logs")
    judge.evaluate_batch(batch, perfect(batch, network), 0.0, {}, 1, 0, True)
    assert list((tmp_path / "logs").glob("events.out.tfevents*"))


def test_closed_evaluator_leaves_the_model_alone(batch: ClipBatch, network: Network, tmp_path: Path) -> None:
    with evaluator(network, tmp_path) as judge:
        network(torch.ones(1, 2))
        assert judge.evaluate_batch(batch, perfect(batch, network), 0.0, {}, 1, 0, True).inference_time > 0
    assert not network._forward_hooks
    assert not network._forward_pre_hooks


PROMISED = (
    "mpjpe_3d mpjpe_3d_pa pck_3d_5mm pck_3d_10mm pck_3d_15mm pck_3d_20mm mpjpe_2d pck_2d_5px pck_2d_10px pck_2d_15px "
    "mano_pose_error mano_shape_error mano_global_orient_error mano_trans_error mesh_vertices_error mesh_faces_error "
    "mesh_surface_error temporal_consistency_3d temporal_consistency_2d temporal_consistency_mano hand_detection_rate "
    "left_hand_detection_rate right_hand_detection_rate occlusion_robustness loss_components gradient_norms "
    "learning_rates inference_time memory_usage"
)


@pytest.mark.parametrize("name", PROMISED.split(" "))
def test_promised_fields_are_there_and_unknown_before_anything_is_measured(name: str) -> None:
    value = TrainingMetrics().to_dict()[name]
    assert value == {} if isinstance(value, dict) else math.isnan(value)


def test_every_field_has_unit_and_formula() -> None:
    assert all(f.metadata["unit"] and f.metadata["formula"] for f in fields(TrainingMetrics))


def test_metrics_are_updated_from_a_dictionary() -> None:
    found = TrainingMetrics(mpjpe_3d=9.0, loss_components={"BETAS": 1.0})
    found.update_from_dict(
        {"mpjpe_2d": torch.tensor(4.5), "samples": 7, "loss_components": {"HAND_POSE": torch.tensor(0.5)}}
    )
    assert (found.mpjpe_3d, found.mpjpe_2d, found.samples) == (9.0, 4.5, 7)
    assert found.loss_components == {"BETAS": 1.0, "HAND_POSE": 0.5}
    assert type(found.mpjpe_2d) is float
    copy = TrainingMetrics()
    copy.update_from_dict(found.to_dict())
    assert copy.flat() == pytest.approx(found.flat(), nan_ok=True)
    copy.loss_components["BETAS"] = 2.0
    assert found.loss_components["BETAS"] == 1.0  # nothing is shared


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mpjpe_3D": 1.0}, "mpjpe_3D.*mpjpe_3d"),
        ({"to_dict": 1.0}, "to_dict"),
        ({"mpjpe_3d": "good"}, "mpjpe_3d: 'good', expected a number"),
        ({"mpjpe_3d": torch.zeros(2)}, "expected a number"),
        ({"loss_components": 1.0}, "loss_components: 1.0, expected a mapping"),
        ({"loss_components": {"BETAS": None}}, "loss_components/BETAS: None, expected a number"),
    ],
)
def test_an_update_that_does_not_fit_is_refused_and_changes_nothing(values: dict, message: str) -> None:
    found = TrainingMetrics(mpjpe_2d=3.0)
    with pytest.raises(ConfigError, match=message):
        found.update_from_dict({"mpjpe_2d": 5.0, **values})
    assert found.mpjpe_2d == 3.0
