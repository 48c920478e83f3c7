"""Other data sets: exact geometry against smplx, what is left out and why, reuse, faults, mixtures."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hawor_pipeline.cli import main
from hawor_pipeline.conversion.prepare import prepare
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.evaluation.declared_metrics import SAMPLE_METRICS
from hawor_pipeline.evaluation.evaluator import evaluate_predictions, write_ground_truth
from hawor_pipeline.evaluation.tables import RunIdentity, read_table
from hawor_pipeline.loading.clips import runs_of_frames
from hawor_pipeline.shards.store import open_shards
from hawor_pipeline_tests.sources.layouts import FORMS, WRITERS

SETTINGS = {"target_resolution": (64, 64)}


@pytest.fixture(scope="module")
def mano_dir(mano_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the procedural hand as MANO is published: x of the left shape directions lacks its sign."""
    folder = tmp_path_factory.mktemp("published")
    right, left = (dict(np.load(mano_dir / f"MANO_{side}.npz")) for side in ("RIGHT", "LEFT"))
    left["shapedirs"][:, 0] = right["shapedirs"][:, 0]
    for side, arrays in (("RIGHT", right), ("LEFT", left)):
        np.savez(folder / f"MANO_{side}.npz", **arrays)
    return folder


@pytest.fixture(scope="module", params=sorted(FORMS))
def converted(request, mano_dir: Path, tmp_path_factory: pytest.TempPathFactory):
    """(name, root, output, truth, totals) of one data set in one of its published forms."""
    base = tmp_path_factory.mktemp(request.param)
    name, write = FORMS[request.param]
    truth = write(base / "raw", mano_dir)
    totals = prepare(base / "raw", base / "shards", dataset=name, mano_dir=mano_dir, settings=SETTINGS, workers=0)
    return name, base / "raw", base / "shards", truth, totals


@pytest.mark.agreement(
    subject="readers of FreiHAND, HO-3D, DexYCB, InterHand2.6M",
    publication="the datasets' toolkits (MANO with each dataset's convention)",
    compared="joints in the camera of look-alike files against smplx",
    tolerance=1e-05,
    unit="m",
)
def test_joints_equal_those_of_smplx_in_every_camera(converted, tolerance):
    _, _, output, truth, totals = converted
    shards = open_shards(output)
    found = dict(zip(shards.table.column("sample_id").to_pylist(), shards.column("joints_cam_m"), strict=True))
    assert set(found) == set(truth)
    assert totals["rows"] == len(truth)
    for name, joints in truth.items():
        np.testing.assert_allclose(found[name], joints, atol=tolerance, err_msg=name)


def test_pixels_and_boxes_follow_from_the_joints(converted):
    _, _, output, truth, _ = converted
    shards = open_shards(output)
    for index, name in enumerate(shards.table.column("sample_id").to_pylist()):
        camera, joints = shards.column("intrinsics")[index], truth[name]
        pixels = joints @ camera.T
        pixels = pixels[:, :2] / pixels[:, 2:]
        np.testing.assert_allclose(shards.column("joints_px")[index], pixels, atol=1e-2)
        middle = (pixels.min(0) + pixels.max(0)) / 2
        assert np.abs(shards.column("box_center_px")[index] - middle).max() < shards.column("box_size_px")[index] / 4


def test_the_fit_is_measured_against_the_joints_of_the_data_set(converted):
    _, _, output, _, _ = converted
    error = open_shards(output).column("fitting_err")
    assert np.all(error < 0.05), error  # mm


@pytest.mark.agreement(
    subject="evaluation of FreiHAND, HO-3D, DexYCB, InterHand2.6M",
    publication="the datasets' own joints and left models",
    compared="largest error in mm, px and degrees of labels as predictions",
    tolerance=0.02,
    unit="mm, px or deg",
)
def test_labels_as_predictions_have_no_error(converted, mano_dir, tmp_path, tolerance):
    """Manifests state with which left model and which joints a data set is measured."""
    name, _, output, _, _ = converted
    identity = RunIdentity("truth", "hint", "v1", name)
    write_ground_truth(output, mano_dir, tmp_path, identity)
    evaluate_predictions(output, mano_dir, tmp_path, identity)
    samples = read_table(tmp_path, "samples", "truth").to_pandas()
    expected = {"freihand": ["right"], "ho3d": ["right"]}.get(name, ["left", "right"])
    assert sorted(samples["side"].unique()) == expected
    errors = samples[[column for column, metric in SAMPLE_METRICS.items() if metric.unit in ("mm", "px", "deg")]]
    assert len(errors.columns) > 15
    assert errors.max().max() < tolerance, errors.max().nlargest(5)


def test_a_right_model_is_not_taken_for_left_hands(mano_dir, tmp_path, capsys):
    """Also one that is called MANO_LEFT, or that is named as the folder of both."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for side in ("RIGHT", "LEFT"):
        shutil.copy(mano_dir / "MANO_RIGHT.npz", copy / f"MANO_{side}.npz")
    for dataset in ("dexycb", "interhand"):
        WRITERS[dataset](tmp_path / dataset, mano_dir)
        for given in (copy, mano_dir / "MANO_RIGHT.npz"):
            words = ["prepare", "--dataset", dataset, "--root", str(tmp_path / dataset), "--mano-dir", str(given)]
            assert main([*words, "--output-dir", str(tmp_path / "out"), "--num-workers", "0"]) != 0
            assert "found the model of a right hand, expected a left one" in capsys.readouterr().err
            assert not list((tmp_path / "out").glob("**/annotations.parquet"))


def test_what_is_left_out_has_a_reason(converted):
    name, _, output, _, totals = converted
    expected = {
        "freihand": {},
        "ho3d": {"not_annotated": 1},
        "dexycb": {"no_hand": 4},
        "interhand": {"no_mano_fit": 2},
    }.get(name, {})
    assert totals["left_out"] == expected
    ledger = Counter()
    for path in output.glob("*/*/ledger.parquet"):
        ledger.update(pq.read_table(path).column("reason").to_pylist())
    assert dict(ledger) == expected


def test_a_second_call_converts_nothing_and_changes_no_byte(converted, mano_dir):
    name, raw, output, _, totals = converted
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    again = prepare(raw, output, dataset=name, mano_dir=mano_dir, settings=SETTINGS, workers=0)
    assert (again["converted_sequences"], again["reused_sequences"]) == (0, totals["sequences"])
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_worker_count_does_not_change_bytes(converted, mano_dir, tmp_path):
    name, raw, output, _, _ = converted
    prepare(raw, tmp_path, dataset=name, mano_dir=mano_dir, settings=SETTINGS, workers=2)
    first = {p.relative_to(output): p.read_bytes() for p in output.rglob("*.arrow")}
    second = {p.relative_to(tmp_path): p.read_bytes() for p in tmp_path.rglob("*.arrow")}
    assert first == second and first


def test_no_two_images_of_freihand_form_a_clip(mano_dir, tmp_path):
    WRITERS["freihand"](tmp_path / "raw", mano_dir, 6)
    prepare(tmp_path / "raw", tmp_path / "out", dataset="freihand", mano_dir=mano_dir, settings=SETTINGS, workers=0)
    table = open_shards(tmp_path / "out").table
    assert all(end - start == 1 for start, end in runs_of_frames(table))


def test_the_command_line_reads_other_data_sets(mano_dir, tmp_path, capsys):
    WRITERS["ho3d"](tmp_path / "raw", mano_dir)
    words = ["prepare", "--dataset", "ho3d", "--root", str(tmp_path / "raw"), "--mano-dir", str(mano_dir)]
    words += ["--output-dir", str(tmp_path / "out"), "--target-resolution", "64", "64", "--num-workers", "0"]
    capsys.readouterr()  # smplx talks while the fixture is made
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "ho3d"], "--root"),
        (["--dataset", "ho3d", "--root", "/nowhere"], "/nowhere not found"),
        (["--root", "/tmp"], "--dataset"),
        ([], "--arctic-root"),
    ],
)
def test_wrong_usage_is_a_clear_error(words, message, mano_dir, tmp_path, capsys):
    full = ["prepare", "--output-dir", str(tmp_path / "out"), "--mano-dir", str(mano_dir), *words]
    assert main(full) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("dataset", "file", "content", "message"),
    [
        ("freihand", "training_*.json", "[]", "above zero"),
        ("interhand", "annotations/*/*_data.json", "{}", "no sequence of interhand found"),
        ("interhand", "annotations/*/*_camera.json", None, "_camera.json not found"),
        ("dexycb", "*/*/meta.yml", None, "no sequence of dexycb found"),
    ],
)
def test_labels_that_say_nothing_are_an_error(dataset, file, content, message, mano_dir, tmp_path):
    WRITERS[dataset](tmp_path / "raw", mano_dir)
    for path in (tmp_path / "raw").glob(file):
        if content is None:
            path.unlink()
        else:
            path.write_text(content)
    with pytest.raises((ConfigError, DataError), match=message):
        prepare(tmp_path / "raw", tmp_path / "out", dataset=dataset, mano_dir=mano_dir, settings=SETTINGS, workers=0)


def test_damage_is_named_and_finished_sequences_are_kept(mano_dir, tmp_path):
    WRITERS["dexycb"](tmp_path / "raw", mano_dir)
    damaged = next((tmp_path / "raw").glob("*/20200709_150000/*/color_000001.jpg"))
    damaged.write_bytes(damaged.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"color_000001\.jpg.*1 of 2 sequences are finished"):
        prepare(tmp_path / "raw", tmp_path / "out", dataset="dexycb", mano_dir=mano_dir, settings=SETTINGS, workers=0)
    assert [path.parent.name for path in tmp_path.glob("out/*/*/images.arrow")] == ["20200709_141754"]
    assert not list(tmp_path.glob("out/*/.*tmp"))


def test_another_hand_convention_is_noticed(mano_dir, tmp_path):
    """Poses that were fitted with another frame end far from the data set's own joints."""
    WRITERS["freihand"](tmp_path / "raw", mano_dir)
    file = tmp_path / "raw" / "training_xyz.json"
    points = np.array(json.loads(file.read_text()))
    file.write_text(json.dumps((points * [1, -1, 1]).tolist()))
    with pytest.raises(DataError, match="another"):
        prepare(tmp_path / "raw", tmp_path / "out", dataset="freihand", mano_dir=mano_dir, settings=SETTINGS, workers=0)


def test_two_data_sets_never_share_a_folder(converted, mano_dir, tmp_path):
    name, _, output, _, _ = converted
    if name != "freihand":
        pytest.skip("once is enough")
    shutil.copytree(output, tmp_path / "out")
    WRITERS["ho3d"](tmp_path / "raw", mano_dir)
    with pytest.raises(ConfigError, match="folder of its own"):
        prepare(tmp_path / "raw", tmp_path / "out", dataset="ho3d", mano_dir=mano_dir, settings=SETTINGS, workers=0)


def test_a_pickle_that_runs_something_is_refused(mano_dir, tmp_path):
    WRITERS["ho3d"](tmp_path / "raw", mano_dir)
    mark = tmp_path / "ran"
    evil = b"cos\nsystem\n(S'touch " + str(mark).encode() + b"'\ntR."
    (tmp_path / "raw" / "train" / "ABF10" / "meta" / "0001.pkl").write_bytes(evil)
    with pytest.raises(DataError, match=r"0001\.pkl"):
        prepare(tmp_path / "raw", tmp_path / "out", dataset="ho3d", mano_dir=mano_dir, settings=SETTINGS, workers=0)
    assert not mark.exists()


def test_a_mixture_of_data_sets_feeds_one_network(mano_dir, sample_shards, tmp_path):
    """Batches draw from both, by weight; left and right hands arrive as right hands with the joints of their labels."""
    from hawor_pipeline.config import TrainingConfig
    from hawor_pipeline.core.mano import ManoLayer
    from hawor_pipeline.loading.datamodule import HandData
    from hawor_pipeline.untrusted.mano_files import load_mano

    WRITERS["dexycb"](tmp_path / "raw", mano_dir, 6)
    prepare(tmp_path / "raw", tmp_path / "out", dataset="dexycb", mano_dir=mano_dir, settings=SETTINGS, workers=0)
    mixture = [{"path": str(sample_shards), "weight": 0.5}, {"path": str(tmp_path / "out"), "weight": 0.5}]
    config = TrainingConfig(
        image_size=64, clip_length=2, clip_stride=1, batch_size=8, num_workers=0, training_data_dir=mixture
    )
    data = HandData(config)
    first_of_dexycb = int(data.shards.starts[1])
    layer = ManoLayer(load_mano(mano_dir, "right")).float()
    drawn = Counter()
    for batch in data.training_loader(0):
        rows = batch.sample_index[batch.sample_index >= 0]
        drawn.update(np.where(rows.numpy() < first_of_dexycb, "sample", "dexycb").tolist())
        target = batch.target
        posed = layer(target.rotmats, target.betas).joints + target.translation_m[..., None, :]
        use = target.valid & (batch.sample_index >= 0)
        assert float((posed - target.joints_m)[use].norm(dim=-1).mean()) < 2e-3
    assert 0.35 < drawn["dexycb"] / sum(drawn.values()) < 0.65


@pytest.mark.parametrize("dataset", ["dexycb", "ho3d"])
def test_sequences_are_listed_once(dataset, mano_dir, tmp_path, monkeypatch):
    """Listing reads a file per sequence, and planning asks for sequences of each subject several times."""
    from hawor_pipeline.sources.registry import open_reader

    WRITERS[dataset](tmp_path, mano_dir)
    reader, calls = open_reader(dataset, tmp_path, mano_dir), []
    listed = type(reader).refs
    monkeypatch.setattr(type(reader), "refs", lambda self: calls.append(1) or listed(self))
    for subject in reader.subjects():
        assert reader.sequences(subject) and reader.status(subject) == ("present", "")
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("dataset", "pattern", "content"),
    [
        ("dexycb", "*_640x480.yml", "color: {fx: a}"),
        ("dexycb", "*_640x480.yml", "depth: {}"),
        ("dexycb", "meta.yml", "[]"),
        ("interhand", "*_camera.json", "null"),
        ("interhand", "*_MANO_NeuralAnnot.json", "[]"),
        ("freihand", "training_K.json", "null"),
        ("freihand", "training_mano.json", "5"),
    ],
)
def test_files_of_another_structure_are_named_errors(dataset, pattern, content, mano_dir, tmp_path, capsys):
    WRITERS[dataset](tmp_path / "raw", mano_dir)
    for path in (tmp_path / "raw").rglob(pattern):
        path.write_text(content)
    words = ["prepare", "--dataset", dataset, "--root", str(tmp_path / "raw"), "--mano-dir", str(mano_dir)]
    assert main([*words, "--output-dir", str(tmp_path / "out"), "--num-workers", "0"]) != 0
    error = capsys.readouterr().err
    assert str(tmp_path / "raw") in error and ("another structure" in error or "expected" in error), error
