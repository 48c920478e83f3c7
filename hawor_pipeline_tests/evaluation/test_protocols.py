"""Protocols: their conventions change the numbers as they say, and what they do not fit is refused before any work."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from hawor_pipeline.cli import main
from hawor_pipeline.core.camera import transform_points
from hawor_pipeline.core.rotations import axis_angle_to_rotmat
from hawor_pipeline.errors import CheckpointError, ConfigError, DataError
from hawor_pipeline.evaluation.declared_metrics import ALL_METRICS
from hawor_pipeline.evaluation.evaluate import evaluate_checkpoint
from hawor_pipeline.evaluation.evaluator import evaluate_predictions, write_ground_truth
from hawor_pipeline.evaluation.hands import HandTruth, PredictedHands, ground_truth_predictions
from hawor_pipeline.evaluation.measure import measure
from hawor_pipeline.evaluation.protocols import PROTOCOLS, default_subjects, find_protocol
from hawor_pipeline.evaluation.rivals import evaluate_rivals
from hawor_pipeline.evaluation.setting import Devices, Setting
from hawor_pipeline.evaluation.tables import RunIdentity, read_table, table_writer
from hawor_pipeline.evaluation.tracks import Tracks
from hawor_pipeline.models.checkpoints import open_checkpoint
from hawor_pipeline.sources.hand_models import HandModels
from hawor_pipeline_tests.shards.edited import restate

CPU = Devices("cpu")


@pytest.fixture
def perfect(models: HandModels, annotations: pa.Table) -> PredictedHands:
    return ground_truth_predictions(models, annotations)


@pytest.fixture
def shards(sample_shards: Path, tmp_path: Path) -> Path:
    """A copy of the shards of s05 that a test may change."""
    shutil.copytree(sample_shards / "s05", tmp_path / "shards" / "s05")
    return tmp_path / "shards"


def rename_source(shards: Path, source: str) -> None:
    path = shards / "s05" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "source": source}))


def refused(shards: Path, mano_dir: Path, checkpoint: Path, folder: Path, error: type, message: str, **changes) -> None:
    about = {"dataset_version": "v1", "subjects": ["s05"], **changes}
    with pytest.raises(error, match=message):
        evaluate_checkpoint(
            open_checkpoint(checkpoint), Setting.of(shards, mano_dir, folder / "metrics", **about), "x", devices=CPU
        )
    assert not list((folder / "metrics").glob("*/run_id=*")), "work was done before it was refused"


def test_every_protocol_says_what_it_is() -> None:
    arctic = {"arctic-all-val", "arctic-p1-val", "arctic-p2-val"}
    expected = arctic | {"freihand", "ho3d", "dexycb", "hot3d-world", "hint"}
    assert set(PROTOCOLS) == expected
    for protocol in PROTOCOLS.values():
        assert protocol.meaning
        assert protocol.quirks
        assert set(protocol.headlines) <= set(ALL_METRICS)


def test_protocol_of_other_data_is_refused(shards, mano_dir, checkpoint, tmp_path) -> None:
    message = "'freihand' is one of freihand shards.*are synthetic; choose one of arctic-all-val.*hot3d-world, hint"
    refused(shards, mano_dir, checkpoint, tmp_path, ConfigError, message, protocol="freihand")
    rename_source(shards, "freihand")
    message = "'arctic-p1-val' is one of arctic or synthetic"
    refused(shards, mano_dir, checkpoint, tmp_path, ConfigError, message, protocol="arctic-p1-val")


def test_views_that_are_not_there_are_refused(shards, mano_dir, checkpoint, tmp_path) -> None:
    path = next((shards / "s05").glob("*/annotations.parquet"))
    table = pa.parquet.read_table(path)
    pa.parquet.write_table(table.filter(pa.compute.not_equal(table["view"], 0)), path)
    manifest = shards / "s05" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["sequences"][0]["rows"] = pa.parquet.read_metadata(path).num_rows
    manifest.write_text(json.dumps(content))
    restate(shards)
    message = "no valid row of s05 in views 0"
    refused(shards, mano_dir, checkpoint, tmp_path, DataError, message, protocol="arctic-p2-val")


def test_single_images_have_no_motion_to_measure(shards, mano_dir, checkpoint, tmp_path) -> None:
    path = next((shards / "s05").glob("*/annotations.parquet"))
    table = pa.parquet.read_table(path)
    spread = pa.array(table["frame"].to_numpy() * 2, pa.int32())
    index = table.schema.get_field_index("frame")
    pa.parquet.write_table(table.set_column(index, table.schema.field(index), spread), path)
    restate(shards)
    message = "longest run of valid frames of a hand in .* is 1, the protocol needs 5"
    refused(shards, mano_dir, checkpoint, tmp_path, DataError, message, protocol="hot3d-world")


def test_shards_without_rows_are_refused(shards, mano_dir, checkpoint, tmp_path) -> None:
    path = shards / "s05" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sequences": []}))
    refused(shards, mano_dir, checkpoint, tmp_path, DataError, "no valid row of s05 in views")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", mano_dir, checkpoint, tmp_path, ConfigError, "no shards of s05")


@pytest.mark.parametrize(("name", "content"), [("annotations.parquet", b"PAR1"), ("images.arrow", None)])
def test_damaged_shards_are_refused(shards, mano_dir, checkpoint, tmp_path, name: str, content: bytes | None) -> None:
    path = next((shards / "s05").glob(f"*/{name}"))
    path.unlink() if content is None else path.write_bytes(content)
    refused(shards, mano_dir, checkpoint, tmp_path, DataError, name)


def test_checkpoint_of_another_network_is_refused(shards, mano_dir, checkpoint, tmp_path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["state_dict"].popitem()
    torch.save(content, tmp_path / "short.ckpt")
    refused(shards, mano_dir, tmp_path / "short.ckpt", tmp_path, CheckpointError, "does not fit")


def test_sequences_that_were_trained_on_do_not_count(sample_shards, mano_dir, checkpoint, tmp_path) -> None:
    """A split by share of sequences: the seen ones are left out; a subject that was seen whole is refused."""
    (seen,) = (path.parent.name for path in (sample_shards / "s01").glob("*/annotations.parquet"))
    content = torch.load(checkpoint, weights_only=True)
    content["split"] = {"training": [f"s01/{seen}"]}
    torch.save(content, tmp_path / "share.ckpt")
    setting = Setting.of(sample_shards, mano_dir, tmp_path / "metrics", "v1", ["s01", "s05"])
    result = evaluate_checkpoint(open_checkpoint(tmp_path / "share.ckpt"), setting, "x", devices=CPU)
    assert result.info["left_out_sequences"] == [f"s01/{seen}"]
    assert set(read_table(tmp_path / "metrics", "samples", "x")["subject"].to_pylist()) == {"s05"}
    smoothed = evaluate_rivals("x", setting).info["run_ids"]["smoothed"]
    assert read_table(tmp_path / "metrics", "samples", smoothed).num_rows == result.info["samples"]
    content["split"] = {"training": ["s05"]}
    torch.save(content, tmp_path / "whole.ckpt")
    with pytest.raises(ConfigError, match="was trained on s05"):
        evaluate_checkpoint(open_checkpoint(tmp_path / "whole.ckpt"), setting, "y", devices=CPU)


def test_default_subjects_are_the_validation_subjects_or_all(shards: Path) -> None:
    (shards / "s05").rename(shards / "eval")
    assert default_subjects(find_protocol("arctic-p1-val"), shards) == ["s05"]
    path = shards / "eval" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "source": "freihand"}))
    assert default_subjects(find_protocol("freihand"), shards) == default_subjects(find_protocol("hint"), shards)
    assert default_subjects(find_protocol("freihand"), shards) == ["eval"]


def test_freihand_alignment_may_mirror_and_arctic_may_not(shards: Path, mano_dir: Path, tmp_path: Path) -> None:
    """Joints that are mirrored in the camera: no error where alignment may mirror."""
    found = {}
    for source, protocol in (("synthetic", "arctic-all-val"), ("freihand", "freihand")):
        rename_source(shards, source)
        identity = RunIdentity("truth", protocol, "v1", source)
        write_ground_truth(shards, mano_dir, tmp_path, identity)
        table = read_table(tmp_path, "predictions", "truth")
        joints = np.array(table["joints_cam_m"].to_pylist()) * np.array([-1.0, 1.0, 1.0])
        names = ("rotmats", "betas", "translation_m", "joints_px")
        columns = {name: np.array(table[name].to_pylist()) for name in names}
        with table_writer(tmp_path, "predictions", identity) as writer:
            writer.write({"sample_id": table["sample_id"].to_pylist(), "joints_cam_m": joints, **columns})
        found[protocol] = evaluate_predictions(shards, mano_dir, tmp_path, identity)["metrics"]
    assert found["freihand"]["pa_mpjpe_mm"] < 1e-3
    assert found["freihand"]["pa_pck_auc"] > 0.99
    assert found["arctic-all-val"]["pa_mpjpe_mm"] > 1
    assert found["freihand"]["mpjpe_mm"] == pytest.approx(found["arctic-all-val"]["mpjpe_mm"])


def world(truth: HandTruth, joints: torch.Tensor) -> torch.Tensor:
    return transform_points(torch.linalg.inv(truth.cam_from_world), joints)


def test_world_errors_forgive_one_similarity_per_chunk(
    models: HandModels, truth: HandTruth, perfect: PredictedHands, tracks: Tracks
) -> None:
    turn = axis_angle_to_rotmat(torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64))
    moved = 1.1 * world(truth, perfect.joints_m) @ turn.T + torch.tensor([0.2, 0.0, -0.1], dtype=torch.float64)
    values = measure(truth, replace(perfect, joints_m=transform_points(truth.cam_from_world, moved)), models, tracks)
    for name in ("w_mpjpe_mm", "wa_mpjpe_mm"):
        assert np.nanmax(values.metrics[name]) < 1e-3, name
    assert np.nanmin(values.metrics["mpjpe_camera_mm"]) > 10
    assert np.isfinite(values.metrics["w_mpjpe_mm"]).all()


def test_drift_is_seen_from_where_it_was_fitted(
    models: HandModels, truth: HandTruth, perfect: PredictedHands, tracks: Tracks
) -> None:
    """A hand that drifts by 5 mm a frame: a fit to two frames splits their 5 mm, a fit to all takes the middle."""
    frame, last = np.zeros(len(truth)), np.zeros(len(truth))
    for start, end in tracks.runs():
        frame[start:end], last[start:end] = np.arange(end - start), end - start - 1
    drift = torch.from_numpy(frame)[:, None, None] * torch.tensor([0.005, 0.0, 0.0], dtype=torch.float64)
    moved = transform_points(truth.cam_from_world, world(truth, perfect.joints_m) + drift)
    values = measure(truth, replace(perfect, joints_m=moved), models, tracks).metrics
    assert np.allclose(values["w_mpjpe_mm"], 5 * np.abs(frame - 0.5), rtol=0.01)
    assert np.allclose(values["wa_mpjpe_mm"], 5 * np.abs(frame - last / 2), atol=1.5)  # a little goes into the scale


def test_hint_counts_joints_by_the_tight_box(
    models: HandModels, truth: HandTruth, perfect: PredictedHands, tracks: Tracks
) -> None:
    inside = truth.joint_in_frame.numpy()
    pixels = np.where(inside[..., None], truth.joints_px.numpy(), np.nan)
    side = (np.nanmax(pixels, 1) - np.nanmin(pixels, 1)).max(1)
    shift = np.zeros((len(truth), 21, 2))
    shift[..., 0] = side[:, None] * np.linspace(0.001, 0.2, 21)
    moved = replace(perfect, joints_px=truth.joints_px + torch.from_numpy(shift))
    measured = measure(truth, moved, models, tracks)
    for percent in (5, 10, 15):
        hit = np.linspace(0.001, 0.2, 21) <= percent / 100
        expected = [hit[row].mean() for row in inside]
        assert np.allclose(measured.metrics[f"pck_box_{percent}pct"], expected, atol=1e-9)
    expected = np.broadcast_to(np.linspace(0.001, 0.2, 21), inside.shape)
    assert np.allclose(measured.joint_error_box[inside], expected[inside])


def test_evaluate_prints_the_headlines_of_the_protocol_first(
    sample_shards: Path, mano_dir: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["evaluate", "--checkpoint", checkpoint, "--data", sample_shards, "--output", tmp_path / "m"]
    assert main([*map(str, words), "--mano-dir", str(mano_dir), "--protocol", "hot3d-world", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    headlines, others = printed.split("headlines of hot3d-world:")[1].split("other metrics:")
    names = [line.split(":")[0].strip() for line in headlines.strip().splitlines()]
    assert names == list(PROTOCOLS["hot3d-world"].headlines)
    assert "not available" not in headlines
    assert "  accel_error_m_s2: " in others


def test_mean_over_joints_weighs_joints_equally(analysed) -> None:
    rows = read_table(analysed.metrics, "summary", "random").to_pylist()
    joints = {
        row["stratum"]: row["value"]
        for row in rows
        if row["metric"] == "pck_box_15pct" and row["level"] == "joint" and row["stratum"].startswith("joint=")
    }
    assert len(joints) == 21
    (found,) = (r for r in rows if (r["metric"], r["level"], r["stratum"]) == ("pck_box_15pct", "joint", "all"))
    assert found["value"] == pytest.approx(np.mean(list(joints.values())))
