"""The box belongs to the weights: `predict` and `evaluate` cut by one rule, with equal numbers on the same rows."""

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from hawor_pipeline.cli import main
from hawor_pipeline.core.box_rule import RULES, BoxRule
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.evaluation.evaluate import evaluate_checkpoint
from hawor_pipeline.evaluation.given_boxes import on_boxes
from hawor_pipeline.evaluation.hands import PredictedHands, read_truth, true_vertices
from hawor_pipeline.evaluation.predict import Prediction, predict_rows
from hawor_pipeline.evaluation.recordings import open_recordings, plan_recordings
from hawor_pipeline.evaluation.setting import Devices, Setting
from hawor_pipeline.loading.datamodule import HandData
from hawor_pipeline.loading.rows import load_rows
from hawor_pipeline.models.checkpoints import open_checkpoint
from hawor_pipeline.models.hawor import HaworModel, NetworkConfig
from hawor_pipeline.prediction.boxed_frames import FrameCamera, crop_settings, cut_frames, predict_boxed
from hawor_pipeline.prediction.boxes import HandBox
from hawor_pipeline.provenance import atomic_write_json
from hawor_pipeline.shards.manifest import read_manifest
from hawor_pipeline.shards.schema import MANIFEST_FILE, as_numpy
from hawor_pipeline.shards.store import StoredBoxes, stored_boxes
from hawor_pipeline_tests.models.released_files import write_released_file
from hawor_pipeline_tests.training.conftest import tiny_config

CPU = Devices("cpu")
STORED = StoredBoxes(BoxRule(1.2), 1.5)


@pytest.fixture(scope="module")
def network():
    """A small network of HaWoR's form at the resolution of the test's shards, with an output far from its mean."""
    torch.manual_seed(3)
    sizes = {"image_size": 64, "dim": 192, "depth": 2, "heads": 3, "head_dim": 64, "head_depth": 1}
    temporal = {"head_feedforward": 64, "st_hdim": 32, "st_nlayer": 1, "motion_hdim": 32, "motion_nlayer": 1}
    model = HaworModel(NetworkConfig(**sizes, **temporal, temporal_feedforward=64)).eval()
    torch.nn.init.normal_(model.motion_module.output.weight, std=0.3)
    torch.nn.init.normal_(model.mano_head.camera_output.weight, std=0.05)
    return model


@pytest.fixture(scope="module", params=["hawor", "hamer"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def released(network, kind, tmp_path_factory) -> Path:
    """A file of another project as downloaded."""
    return write_released_file(tmp_path_factory.mktemp("released") / f"{kind}.ckpt", network, kind)


@pytest.fixture(scope="module")
def opened(sample_shards):
    """Rows of s05 in all views, the lens of the ego view included."""
    return open_recordings(sample_shards, plan_recordings(sample_shards, ["s05"]))


def tight(models, table):
    """Lowest and highest pixels of the ground truth's vertices (N, 4), by OpenCV's projection."""
    truth = read_truth(table)
    found = []
    for points, k, lens in zip(
        true_vertices(models, truth).numpy(), truth.intrinsics.numpy(), truth.distortion.numpy(), strict=True
    ):
        pixels = cv2.projectPoints(points, np.zeros(3), np.zeros(3), k, lens)[0][:, 0]
        found.append((*pixels.min(0), *pixels.max(0)))
    return np.array(found)


def test_the_tight_box_is_that_of_the_conversion(opened, models):
    """So the stored square follows from it by the stored rule, for every valid row and both kinds of camera."""
    valid = as_numpy(opened.table, "valid").astype(bool)
    low_high = tight(models, opened.table)
    width, height = (low_high[:, 2:] - low_high[:, :2]).T
    stored = as_numpy(opened.table, "box_size_px")
    np.testing.assert_allclose(1.2 * np.maximum(height, 4 / 3 * width)[valid], stored[valid], rtol=2e-4)
    rows = load_rows(opened.table)
    for rule in (RULES["hawor"], BoxRule(1.6), BoxRule(1.2, 2.0)):
        found = on_boxes(rows, opened.table, models, STORED, rule)
        expected = rule.scale * np.maximum(height, rule.aspect * width) / stored
        ratio = (found.box_size_px / rows.box_size_px).numpy()
        np.testing.assert_allclose(ratio[valid], expected[valid], rtol=5e-4)
        assert torch.equal(found.box_center_px, rows.box_center_px)
    assert on_boxes(rows, opened.table, models, STORED, STORED.rule) is rows
    hawor = on_boxes(rows, opened.table, models, STORED, RULES["hawor"]).box_size_px / rows.box_size_px
    assert 0.75 - 1e-6 <= float(hawor.min()) < 0.9 and float(hawor.max()) <= 1 + 1e-6


@pytest.mark.parametrize("rule", ["pipeline", "hawor", "1.5,1.3333333333333333"])
@pytest.mark.parametrize("view", [0, 1])
def test_predictions_of_full_frames_equal_those_of_shards(
    rule, view, network, tmp_path, sample_root, sample_shards, mano_dir, models
):
    """On the same rows and boxes, by the rule of the weights or another one; another rule gives other numbers."""
    checkpoint = open_checkpoint(write_released_file(tmp_path / "hawor.ckpt", network), box_rule=rule)
    setting = Setting.of(sample_shards, mano_dir, tmp_path, "v1", ["s05"])
    recordings = plan_recordings(sample_shards, ["s05"])
    shards = open_recordings(sample_shards, recordings, [view])
    task = Prediction(checkpoint, setting, CPU)
    parts = list(predict_rows(checkpoint.model, models, task, shards, torch.device("cpu")))
    table = shards.table.filter(shards.table["valid"])
    stored = torch.cat([hands.joints_m for _, _, hands in parts])
    assert len(stored) == table.num_rows >= 10
    boxes: dict[int, dict[str, HandBox]] = {}
    for row, box in zip(table.to_pylist(), tight(models, table), strict=True):
        boxes.setdefault(row["frame"], {})[row["side"]] = HandBox(*map(float, box))
    row = table.slice(0, 1).to_pylist()[0]
    folder = sample_root / "arctic" / "images" / "s05" / row["sequence"] / str(view)
    images = [(int(path.stem), path) for path in sorted(folder.glob("*.jpg"))]
    size = (row["image_height"], row["image_width"])
    camera = FrameCamera(size, np.array(row["intrinsics"]).reshape(3, 3), np.array(row["distortion"]))
    settings = crop_settings(checkpoint)
    frames = cut_frames(("s05", row["sequence"], view), images, boxes, camera, settings, checkpoint.box_rule)
    assert frames.table["frame"].to_pylist() == table["frame"].to_pylist()
    again: PredictedHands = predict_boxed(checkpoint, frames, models, torch.device("cpu"))
    assert float((again.joints_m - stored).abs().max()) < 3e-4
    other = replace(checkpoint, box_rule=BoxRule(1.2 if rule == "hawor" else 1.0))
    changed = list(predict_rows(other.model, models, replace(task, checkpoint=other), shards, torch.device("cpu")))
    assert float((torch.cat([hands.joints_m for _, _, hands in changed]) - stored).abs().max()) > 1e-3


def test_released_files_are_evaluated_as_downloaded(released, kind, sample_shards, mano_dir, tmp_path, capsys):
    """HaMeR's boxes reach beyond the crops of a default conversion, which is said with what to convert."""
    words = ["evaluate", "--checkpoint", str(released), "--data", str(sample_shards), "--output", str(tmp_path / "m")]
    words += ["--mano-dir", str(mano_dir), "--device", "cpu", "--run-id", "run"]
    if kind == "hamer":
        assert main(words) == 2
        message = capsys.readouterr().err
        assert "needs 2 x max(h, 4 w / 3), up to 1.67 times as far" in message and "box_scale 2," in message
        assert not list((tmp_path / "m").glob("*/run_id=*"))
        words += ["--box-rule", "pipeline"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert ("1.2 x max(h, w)" if kind == "hawor" else "1.2 x max(h, 4 w / 3)") in shown


def test_another_rule_is_another_evaluation(network, sample_shards, mano_dir, tmp_path):
    path = write_released_file(tmp_path / "hawor.ckpt", network)
    setting = Setting.of(sample_shards, mano_dir, tmp_path / "m", "v1", ["s05"])
    first = evaluate_checkpoint(open_checkpoint(path), setting, "run", devices=CPU)
    assert evaluate_checkpoint(open_checkpoint(path), setting, "run", devices=CPU).reused
    other = evaluate_checkpoint(open_checkpoint(path, box_rule="pipeline"), setting, "run", devices=CPU)
    assert not other.reused and other.info["box_rule"] == "1.2 x max(h, 4 w / 3)"
    assert abs(first.info["metrics"]["mpjpe_mm"] - other.info["metrics"]["mpjpe_mm"]) > 0.01
    with pytest.raises(ConfigError, match=r"Convert the dataset with box_scale 1.9"):
        evaluate_checkpoint(open_checkpoint(path, box_rule="1.9,1"), setting, "other", devices=CPU)


def rewritten(shards: Path, output: Path, *subjects: str) -> Path:
    """Shards whose manifests state a box scale of 1.4 for some subjects."""
    shutil.copytree(shards, output)
    for subject in subjects:
        manifest = read_manifest(output, subject)
        changed = replace(manifest, settings=manifest.settings | {"box_scale": 1.4})
        atomic_write_json(output / subject / MANIFEST_FILE, changed.to_dict())
    return output


def test_the_boxes_of_shards_are_those_of_their_settings(sample_shards, tmp_path):
    assert stored_boxes(sample_shards) == STORED
    mixed = rewritten(sample_shards, tmp_path / "mixed", "s05")
    assert stored_boxes(mixed, ["s05"]) == StoredBoxes(BoxRule(1.4), 1.5)
    with pytest.raises(DataError, match=r"found \(box_scale, crop_margin\) \(1.2, 1.5\), \(1.4, 1.5\)"):
        stored_boxes(mixed)


def test_training_records_the_boxes_of_its_data(sample_shards, tmp_path):
    other = rewritten(sample_shards, tmp_path / "other", "s01", "s05")
    config = tiny_config(tmp_path).model_copy(update={"training_data_dir": str(other), "validation_data_dir": None})
    assert HandData(config).box_rule == BoxRule(1.4)
    config = config.model_copy(update={"validation_data_dir": str(sample_shards)})
    with pytest.raises(ConfigError, match="several rules of the bounding box"):
        _ = HandData(config).box_rule


@pytest.mark.parametrize("own", [RULES["hawor"], RULES["hamer"], BoxRule(1.4), BoxRule(0.8), BoxRule(1.1, 2.0)])
def test_crops_hold_the_boxes_of_every_rule(own, tmp_path, network):
    model = HaworModel(network.network.on_boxes(own))
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state, "network": model.network.to_dict()}, tmp_path / "own.ckpt")
    for text in (None, "pipeline", "1.5,1.3", "3,0.5"):
        checkpoint = open_checkpoint(tmp_path / "own.ckpt", box_rule=text)
        settings = crop_settings(checkpoint)
        assert checkpoint.box_rule.largest_ratio(BoxRule(settings.box_scale)) <= settings.crop_margin
        assert settings.target_resolution == (64, 64)
    assert crop_settings(open_checkpoint(tmp_path / "own.ckpt", box_rule="1.5,1.3")).box_scale == 1.2
    assert crop_settings(open_checkpoint(tmp_path / "own.ckpt")).box_scale == pytest.approx(
        {1.2: 1.2, 2.0: 2.0, 1.4: 1.4, 0.8: 1.0, 1.1: 1.65}[own.scale]
    )
