"""No number depends on how the work was cut up: batches, order of subjects, workers, devices."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from hawor_pipeline.errors import ConfigError
from hawor_pipeline.evaluation import recordings
from hawor_pipeline.evaluation.evaluator import measure_run
from hawor_pipeline.evaluation.predict import Prediction, choose_devices, predict_checkpoint
from hawor_pipeline.evaluation.recordings import Recording, in_groups, in_shares
from hawor_pipeline.evaluation.setting import Devices, Setting
from hawor_pipeline.evaluation.tables import RunIdentity, read_table, to_numpy
from hawor_pipeline.models.checkpoints import open_checkpoint
from hawor_pipeline.shards.store import open_shards

SUBJECTS = ["s01", "s05"]


def predicted(folder: Path, task: Prediction, name: str, **how) -> pa.Table:
    """Predictions and samples of one way of doing it."""
    identity = RunIdentity(name, "arctic-all-val", "v1", "synthetic", "x")
    task = replace(task, **how)
    predict_checkpoint(task, identity)
    measure_run(replace(task.setting, metrics_dir=folder), identity)
    return read_table(folder, "predictions", name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("streaming")


@pytest.fixture(scope="module")
def task(checkpoint: Path, sample_shards: Path, mano_dir: Path, folder: Path) -> Prediction:
    setting = Setting.of(sample_shards, mano_dir, folder, "v1", SUBJECTS)
    return Prediction(open_checkpoint(checkpoint), setting, Devices("cpu"))


@pytest.fixture(scope="module")
def usual(folder: Path, task: Prediction) -> pa.Table:
    return predicted(folder, task, "usual")


def same(folder: Path, usual: pa.Table, table: pa.Table, name: str) -> None:
    assert table["sample_id"].equals(usual["sample_id"])
    for column, shape in (("rotmats", (16, 3, 3)), ("betas", (10,)), ("joints_cam_m", (21, 3)), ("joints_px", (21, 2))):
        ours, theirs = to_numpy(table[column], shape), to_numpy(usual[column], shape)
        assert np.allclose(ours, theirs, rtol=1e-5, atol=1e-5), column
    expected, found = (summary_of(folder, run) for run in ("usual", name))
    assert expected.keys() == found.keys()
    for key, (value, n) in expected.items():
        assert found[key][1] == n, key
        if value is None:
            assert found[key][0] is None, key
        else:
            assert found[key][0] == pytest.approx(value, rel=1e-4, abs=1e-4), key


def summary_of(folder: Path, run: str) -> dict[tuple, tuple]:
    columns = read_table(folder, "summary", run).to_pydict()
    keys = zip(columns["stratum"], columns["level"], columns["metric"], strict=True)
    return dict(zip(keys, zip(columns["value"], columns["n"], strict=True), strict=True))


@pytest.mark.parametrize(
    ("name", "how"),
    [
        pytest.param("two-processes", {"devices": Devices("cpu", 2)}, marks=pytest.mark.slow),
        pytest.param("three-processes", {"devices": Devices("cpu", 3)}, marks=pytest.mark.slow),
    ],
)
def test_devices_change_nothing(folder: Path, task: Prediction, usual, name: str, how: dict) -> None:
    same(folder, usual, predicted(folder, task, name, **how), name)
    assert not list(folder.glob(".shares-*"))


def test_order_of_subjects_changes_nothing(folder: Path, task: Prediction, usual: pa.Table) -> None:
    setting = replace(task.setting, subjects=("s05", "s01"))
    same(folder, usual, predicted(folder, task, "other-order", setting=setting), "other-order")


@pytest.mark.parametrize(
    ("name", "change"),
    [("small-batches", {"frames_per_batch": 3}), ("workers", {"devices": Devices("cpu", num_workers=2)})],
)
def test_batches_and_workers_change_nothing(folder: Path, task: Prediction, usual, name: str, change: dict) -> None:
    same(folder, usual, predicted(folder, task, name, **change), name)


def test_groups_change_nothing(
    folder: Path, task: Prediction, usual: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hawor_pipeline.evaluation.predict.ROWS_PER_GROUP", 1)
    same(folder, usual, predicted(folder, task, "one-by-one"), "one-by-one")


def test_every_sample_once(usual: pa.Table, sample_shards: Path) -> None:
    table = open_shards(sample_shards, SUBJECTS).table
    assert usual["sample_id"].to_pylist() == table.filter(table["valid"])["sample_id"].to_pylist()


def test_shares_are_disjoint_in_order_and_alike() -> None:
    rng = np.random.default_rng(0)
    every = [Recording(f"s{i // 5:02d}", f"box_use_{i:02d}", int(rng.integers(1, 900)), 1) for i in range(23)]
    groups = in_groups(every, 1000)
    assert [r for group in groups for r in group] == every
    assert all(len({r.subject for r in group}) == 1 for group in groups)
    assert all(sum(r.rows for r in group) <= 1000 or len(group) == 1 for group in groups)
    for count in (1, 2, 3, 7):
        shares = in_shares(in_groups(every, 1), count)
        assert [r for share in shares for group in share for r in group] == every
        sizes = [sum(r.rows for group in share for r in group) for share in shares]
        assert max(sizes) - min(sizes) < 2 * 900
    assert sum(map(bool, in_shares(in_groups(every[:2], 1), 5))) == 2


def test_more_devices_than_there_are_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="expected a number from 1 on"):
        choose_devices("cpu", 0)
    assert choose_devices("cpu", 3) == ["cpu"] * 3


def test_reading_holds_one_recording(sample_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of the shards at once never is more than one recording."""
    asked = []
    opened = recordings.open_shards

    def spy(shards_dir, subjects=None, columns=None, sequences=None):
        result = opened(shards_dir, subjects, columns, sequences)
        asked.append(len(set(zip(result.column("subject"), result.column("sequence"), strict=True))))
        return result

    monkeypatch.setattr(recordings, "open_shards", spy)
    found = recordings.plan_recordings(sample_shards, SUBJECTS)
    assert len(list(recordings.annotations_of(sample_shards, found))) == len(found) == 2
    assert set(asked) == {1}
