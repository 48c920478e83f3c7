"""Uploads for ARCTIC's leaderboard: the published structure, the server's geometry, and a check that finds faults."""

import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import smplx
import torch

from hawor_pipeline.cli import main
from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion.prepare import convert_subjects
from hawor_pipeline.core.rotations import axis_angle_to_rotmat
from hawor_pipeline.errors import DataError, NumericalError
from hawor_pipeline.evaluation.hands import ground_truth_predictions
from hawor_pipeline.evaluation.recordings import sequences
from hawor_pipeline.leaderboard import submission, submission_sources
from hawor_pipeline.leaderboard.submission import to_arctic
from hawor_pipeline.leaderboard.submission_check import check_upload
from hawor_pipeline.models.checkpoints import open_checkpoint
from hawor_pipeline.prediction.boxes import HandBox, read_boxes
from hawor_pipeline.sample.spec import SampleSpec
from hawor_pipeline.sample.write import ensure_sample
from hawor_pipeline.shards.store import open_shards
from hawor_pipeline.sources.arctic import ArcticRoot
from hawor_pipeline.sources.hand_models import HandModels, digest_hand_models
from hawor_pipeline_tests.evaluation.truth_run import write_truth_run

FRAMES = 14
SETTINGS = ConversionConfig(target_resolution=(64, 64), views=(0, 1))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample of s05, long enough to have images from number 10 on; the ego view and one static view."""
    root = tmp_path_factory.mktemp("long")
    ensure_sample(root, SampleSpec(("s05",), 1, FRAMES, (0, 1), image_scale=0.15), workers=1)
    return root


@pytest.fixture(scope="module")
def shards(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("long_shards")
    convert_subjects(source / "arctic", source / "body_models" / "mano", ["s05"], output, SETTINGS, workers=1)
    return output


@pytest.fixture(scope="module")
def hand_models(source: Path) -> HandModels:
    return HandModels.load(source / "body_models" / "mano")


@pytest.fixture
def one_static_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task of the static views, with the one that the small sample has."""
    monkeypatch.setitem(submission.TASK_VIEWS, "pose_p1", (1,))


@pytest.fixture(scope="module")
def metrics_dir(source: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("metrics")
    write_truth_run(folder, shards, source / "body_models" / "mano")
    return folder


def export(source: Path, metrics_dir: Path, output: Path, *more: str) -> int:
    words = ["export-leaderboard", "--run", "truth", "--split", "val", "--metrics", metrics_dir, "--output", output]
    words += ["--arctic-root", source / "arctic", "--mano-dir", source / "body_models" / "mano", *more]
    return main([str(word) for word in words])


def load(path: Path, name: str):
    with zipfile.ZipFile(path) as archive:
        return torch.load(io.BytesIO(archive.read(name)), weights_only=True)


@pytest.mark.agreement(
    subject="upload to ARCTIC's leaderboard",
    publication="ARCTIC's server (smplx, pose relative to the mean)",
    compared="joints that the server poses from the upload against the predicted ones; right hands",
    tolerance=1e-05,
    unit="m",
)
def test_the_server_poses_what_was_predicted(source, shards, hand_models, tolerance: float) -> None:
    """Uploaded parameters through smplx, as the server does, against the true joints."""
    annotations = next(iter(sequences(shards, ["s05"])))
    truth = ground_truth_predictions(hand_models, annotations)
    sides = np.array(annotations["side"].to_pylist())
    for side in ("left", "right"):
        hands = truth.take(torch.from_numpy(np.flatnonzero(sides == side)))
        upload = to_arctic(hand_models, hands, side)
        rotvec = torch.from_numpy(
            np.stack([_scipy_rotvec(matrix) for matrix in upload.pose.reshape(-1, 3, 3).numpy()])
        ).reshape(-1, 48)
        mano = smplx.create(
            str(source / "body_models" / "mano" / f"MANO_{side.upper()}.npz"),
            "mano",
            is_rhand=side == "right",
            use_pca=False,
            flat_hand_mean=False,
            batch_size=len(rotvec),
            ext="npz",
        )
        posed = mano(global_orient=rotvec[:, :3].float(), hand_pose=rotvec[:, 3:].float(), betas=upload.beta)
        joints = posed.joints + upload.cam_t[:, None]
        wrist = joints[:, 0].double()
        assert torch.allclose(wrist, hands.joints_m[:, 0], atol=tolerance)
        # a left hand is the nearest that the left model can do
        bound = tolerance if side == "right" else 1.5e-3
        index_base = joints[:, 1].double()
        assert (index_base - hands.joints_m[:, 5]).norm(dim=-1).max() < bound
        assert upload.residual_mm.max() < (1e-3 if side == "right" else 1.5)


def _scipy_rotvec(matrix: np.ndarray) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    return Rotation.from_matrix(matrix).as_rotvec()


def test_left_shape_is_recovered_where_the_left_model_is_the_mirrored_right_one(hand_models) -> None:
    betas = torch.randn(3, 10, dtype=torch.float64)
    fitted, residual_mm = hand_models.mirrored_betas("right", betas.numpy())
    surface = hand_models.layers["left"](torch.eye(3, dtype=torch.float64).expand(3, 16, 3, 3), torch.tensor(fitted))
    goal = hand_models.layers["right"](torch.eye(3, dtype=torch.float64).expand(3, 16, 3, 3), betas).vertices
    goal = goal * torch.tensor([-1.0, 1, 1])
    distance_m = (surface.vertices - goal).norm(dim=-1).mean(-1)
    assert distance_m.mean() < 1.5e-3
    np.testing.assert_allclose(1e3 * distance_m, residual_mm, atol=1e-4)


def test_a_finger_that_cannot_be_said_relative_to_the_mean_is_an_error(shards, hand_models) -> None:
    hands = ground_truth_predictions(hand_models, next(iter(sequences(shards, ["s05"])))).take(slice(0, 1))
    means = hand_models.layers["left"].hands_mean.reshape(15, 3)
    joint = int(means.norm(dim=-1).argmax())
    mean = means[joint] / means[joint].norm()
    across = torch.linalg.cross(mean, torch.tensor([1.0, 0, 0], dtype=torch.float64))
    axis = 0.6 * across / across.norm() - 0.8 * mean  # not along the mean, so the angle beyond pi matters
    hands.rotmats[0, 1 + joint] = axis_angle_to_rotmat(axis * 3.1)
    with pytest.raises(NumericalError, match="turned so far"):
        to_arctic(hand_models, hands, "left")


def test_structure_is_the_published_one_and_checks_clean(
    source, metrics_dir, tmp_path, one_static_view, capsys
) -> None:
    path = tmp_path / "pose_p1_val.zip"
    assert export(source, metrics_dir, path) == 0
    out = capsys.readouterr().out
    assert "every score that needs the object" in out
    assert "Checked, complete" in out
    with zipfile.ZipFile(path) as archive:
        names = sorted(archive.namelist())
    folder = names[0].rsplit("/", 2)[0]
    assert folder.startswith("pose_p1_val/eval/s05_")
    assert folder.endswith("_1")
    hands = [f"{folder}/preds/pred.mano.{key}.{side}.pt" for key in ("beta", "cam_t", "pose") for side in "lr"]
    objects = [f"{folder}/preds/pred.object.{key}.pt" for key in ("cam_t", "radian", "rot")]
    assert names == sorted([f"{folder}/meta_info/meta_info.imgname.pt", *hands, *objects])
    images = load(path, f"{folder}/meta_info/meta_info.imgname.pt")
    sequence = folder.removeprefix("pose_p1_val/eval/s05_").removesuffix("_1")
    assert images[0] == f"./data/arctic_data/data/cropped_images/s05/{sequence}/1/00010.jpg"
    count = len(images)
    shapes = {name: tuple(load(path, name).shape) for name in hands + objects}
    assert shapes[hands[4]] == (count, 16, 3, 3)
    assert shapes[objects[1]] == (count,)
    assert json.loads(path.with_suffix(".json").read_text())["frames"] == count


def test_same_predictions_same_bytes(source, metrics_dir, tmp_path, one_static_view) -> None:
    for name in ("a", "b"):
        export(source, metrics_dir, tmp_path / f"{name}.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_images_with_boxes_give_what_shards_give(
    source, shards, hand_models, checkpoint, tmp_path, one_static_view, monkeypatch
) -> None:
    """The withheld subject's way, tried on one with ground truth: same boxes, same crops, same predictions."""
    table = open_shards(shards, ["s05"]).table
    lines = ["image,side,x_min,y_min,x_max,y_max"]
    for row in table.to_pylist():
        x, y = row["box_center_px"]
        half = row["box_size_px"] / SETTINGS.box_scale / 2
        image = "/".join(row["sample_id"].split("/")[:4]) + ".jpg"
        lines.append(f"{image},{row['side']},{x - half * 0.6},{y - half},{x + half * 0.6},{y + half}")
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    blind = tmp_path / "blind"
    shutil.copytree(source / "arctic", blind)
    shutil.rmtree(blind / "raw_seqs")
    root = ArcticRoot.locate(blind)
    from hawor_pipeline.evaluation.predict import Prediction, predict_checkpoint
    from hawor_pipeline.evaluation.setting import Devices, Setting
    from hawor_pipeline.evaluation.tables import RunIdentity

    identity = RunIdentity("seen", "arctic-all-val", "v1", "synthetic", "x")
    mano = source / "body_models" / "mano"
    opened = open_checkpoint(checkpoint)
    setting = Setting.of(shards, mano, tmp_path, "v1", ["s05"])
    predict_checkpoint(Prediction(opened, setting, Devices("cpu")), identity)
    names = submission_sources.expectation(root, "pose_p1", "val", ()).sequences
    ego = next((source / "arctic" / "raw_seqs" / "s05").glob("*.egocam.dist.npy"))
    for views in ((1,), (0,)):
        boxed = next(
            iter(
                submission_sources.from_boxes(
                    submission_sources.BoxedNetwork(opened, hand_models, "cpu", SETTINGS),
                    root,
                    read_boxes(tmp_path / "boxes.csv"),
                    names,
                    views,
                    ego_camera=ego,
                )
            )
        )
        stored = next(iter(submission_sources.from_run(tmp_path, "seen", names, views)))
        assert list(boxed.frames)[: len(stored.frames)] == list(stored.frames)
        for side in ("left", "right"):
            frames, hands = stored.hands[side]
            found, again = boxed.hands[side]
            assert found.tolist() == frames.tolist()
            # boxes went through a CSV, and intrinsics through float32: pixels of the crop may differ in the last bit
            assert torch.allclose(again.joints_m, hands.joints_m, atol=2e-3), side


def test_missing_hands_are_refused_or_held_and_counted(
    source, metrics_dir, hand_models, tmp_path, one_static_view
) -> None:
    root = ArcticRoot.locate(source / "arctic")
    names = submission_sources.expectation(root, "pose_p1", "val", ()).sequences
    (view,) = submission_sources.from_run(metrics_dir, "truth", names, (1,))
    frames, hands = view.hands["left"]
    last = frames == view.frames[-1]
    view.hands["left"] = (frames[~last], hands.take(torch.from_numpy(~last)))
    with pytest.raises(DataError, match=r"1 of \d+ frames have no prediction of the left hand.*--missing hold"):
        submission.write_upload(tmp_path / "a.zip", "pose_p1", "val", [view], hand_models)
    assert not list(tmp_path.iterdir())
    info = submission.write_upload(tmp_path / "a.zip", "pose_p1", "val", [view], hand_models, hold_missing=True)
    assert info.held == 1
    folder = f"pose_p1_val/eval/{view.name}/preds"
    beta, pose = (load(tmp_path / "a.zip", f"{folder}/pred.mano.{key}.l.pt") for key in ("beta", "pose"))
    assert torch.equal(pose[-1], pose[-2])
    assert torch.equal(beta[-1], beta[-2])


def changed(path: Path, output: Path, drop: str = "", replace: dict | None = None) -> Path:
    """A copy of an upload without the file whose name ends so, or with other contents."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(output, "w") as new:
        for name in old.namelist():
            if drop and name.endswith(drop):
                continue
            data = old.read(name)
            for suffix, value in (replace or {}).items():
                if name.endswith(suffix):
                    buffer = io.BytesIO()
                    torch.save(value, buffer)
                    data = buffer.getvalue()
            new.writestr(name, data)
    return output


def test_the_check_names_what_the_server_would_hang_on(source, metrics_dir, tmp_path, one_static_view) -> None:
    path = tmp_path / "good.zip"
    export(source, metrics_dir, path)
    with zipfile.ZipFile(path) as archive:
        folder = archive.namelist()[0].split("/")[2]
        names_file = next(name for name in archive.namelist() if name.endswith("imgname.pt"))
    names = load(path, names_file)
    count = len(names)
    only_split = ["pose_p1_val: the server takes pose_p1_test only"]
    assert check_upload(path) == only_split

    def problems(**change) -> str:
        found = check_upload(changed(path, tmp_path / "bad.zip", **change))
        return "; ".join(found[1:])

    assert "pred.object.rot.pt is missing" in problems(drop="pred.object.rot.pt")
    assert "shape" in problems(replace={"mano.pose.l.pt": torch.zeros(count, 48)})
    assert "not rotations" in problems(replace={"mano.pose.l.pt": torch.zeros(count, 16, 3, 3)})
    assert "not finite" in problems(replace={"mano.beta.r.pt": torch.full((count, 10), torch.nan)})
    assert "torch.float64" in problems(replace={"mano.beta.r.pt": torch.zeros(count, 10, dtype=torch.float64)})
    assert "without a gap" in problems(
        replace={"imgname.pt": names[:1] + names[2:] + [names[-1].replace("000", "001")]}
    )
    assert "is not named like" in problems(replace={"imgname.pt": [f"x{name}" for name in names]})
    other = [name.replace("/1/", "/2/") for name in names]
    assert f"has images of {folder[:-1]}2" in problems(replace={"imgname.pt": other})
    assert "not a list" in problems(replace={"imgname.pt": torch.zeros(3)})
    (tmp_path / "no.zip").write_bytes(b"no zip")
    assert check_upload(tmp_path / "no.zip") == ["no.zip is not a zip file"]


def test_a_damaged_upload_is_exit_1_with_the_reasons(source, metrics_dir, tmp_path, one_static_view, capsys) -> None:
    export(source, metrics_dir, tmp_path / "good.zip")
    bad = changed(tmp_path / "good.zip", tmp_path / "bad.zip", drop="pred.object.radian.pt")
    capsys.readouterr()
    assert main(["export-leaderboard", "--check", str(bad)]) == 1
    error = capsys.readouterr().err
    assert "would not be evaluated" in error
    assert "pred.object.radian.pt is missing" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "pose_p3"], "Did you mean 'pose_p"),
        (["--task", "field_p1"], "distance fields"),
        (["--checkpoint", "x.ckpt"], "--checkpoint PATH with --boxes"),
        (["--box-rule", "hawor"], "--box-rule needs --checkpoint"),
    ],
)
def test_wrong_usage_is_2(source, metrics_dir, tmp_path, words, message, capsys) -> None:
    assert export(source, metrics_dir, tmp_path / "a.zip", *words) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_boxes_are_squares_like_those_of_the_conversion() -> None:
    assert HandBox(0, 0, 12, 20).square(1.2)[1] == pytest.approx(24)


def test_data_of_another_source_or_other_hand_models_are_refused(
    source, shards, metrics_dir, tmp_path, one_static_view, licensed_mano, monkeypatch, capsys
):
    monkeypatch.setenv("HAWOR_DATA_DIR", str(tmp_path / "data"))
    arctic = shutil.copytree(source / "arctic", tmp_path / "arctic")
    (arctic / "SYNTHETIC").unlink()
    assert export(source, metrics_dir, tmp_path / "a.zip", "--arctic-root", str(arctic)) == 2
    assert "'truth' predicts synthetic data" in capsys.readouterr().err
    own = shutil.copytree(shards, tmp_path / "data" / "shards" / "synthetic")
    (manifest,) = own.glob("*/manifest.json")
    digests = digest_hand_models(source / "body_models" / "mano")
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "hand_models": digests}))
    assert export(source, metrics_dir, tmp_path / "a.zip", "--mano-dir", str(licensed_mano)) == 2
    assert "not those of the shards" in capsys.readouterr().err
    assert not (tmp_path / "a.zip").exists()
