"""Reading shards: layout, shapes, random access, other tools, and what is refused."""

import json
import pickle
import shutil

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg

from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.shards.schema import COLUMNS
from hawor_pipeline.shards.store import ImageWriter, as_numpy, open_shards

PROMISED = """\
sample_id subject sequence object action view frame gt_index side is_right image_height image_width
box_center_px box_size_px crop_from_image intrinsics cam_from_world distortion global_orient hand_pose betas
betas_as_right betas_as_right_residual_mm translation_m joints_cam_m joints_px joints_world_m joint_in_frame
joint_visible occlusion truncation confidence blur fitting_err valid skip_reason"""


@pytest.fixture(scope="module")
def shards(sample_shards):
    return open_shards(sample_shards)


def sequence_folder(shards_dir, subject="s05"):
    return next(path.parent for path in (shards_dir / subject).glob("*/annotations.parquet"))


def test_columns_shapes_and_source(shards, sample_shards):
    schema = pq.read_schema(sequence_folder(sample_shards) / "annotations.parquet")
    assert schema.names == PROMISED.split() == list(COLUMNS)
    assert schema.metadata[b"source"] == b"synthetic"
    for name in ("joints_cam_m", "cam_from_world", "crop_from_image", "joint_visible"):
        assert shards.column(name).shape == (len(shards), *COLUMNS[name].shape)
    for name, column in COLUMNS.items():
        if pa.types.is_floating(column.kind):
            assert np.isfinite(shards.column(name)).all(), name


def test_rows_are_sorted_and_named_by_what_they_are(shards):
    keys = list(zip(*(shards.column(n) for n in ("subject", "sequence", "view", "side", "frame")), strict=True))
    assert keys == sorted(keys) and len(set(keys)) == len(keys)
    for key, name in zip(keys, shards.column("sample_id"), strict=True):
        subject, sequence, view, side, frame = key
        assert name == f"{subject}/{sequence}/{view}/{frame:05d}/{side}"
    np.testing.assert_array_equal(shards.column("is_right"), shards.column("side") == "right")


def test_random_access_equals_reading_in_order(shards, sample_shards):
    in_order = []
    for directory in shards.directories:
        with pa.memory_map(str(directory / "images.arrow")) as source:
            in_order += pa.ipc.open_file(source).read_all().column("jpeg").to_pylist()
    order = np.random.default_rng(0).permutation(len(shards))
    assert len(in_order) == len(shards)
    assert all(shards.jpeg(i) == in_order[i] for i in order)
    assert simplejpeg.decode_jpeg(shards.jpeg(0)).shape == (96, 96, 3)


def test_survives_pickling_and_selection(shards):
    copy = pickle.loads(pickle.dumps(shards))  # noqa: S301 - its own bytes
    assert copy.jpeg(5) == shards.jpeg(5)
    mask = shards.column("side") == "left"
    left = shards.select(mask)
    assert len(left) == mask.sum() and left.jpeg(3) == shards.jpeg(np.flatnonzero(mask)[3])


def test_images_past_one_batch_are_found(tmp_path):
    payloads = [bytes([i % 251]) * (1 + i % 7) for i in range(600)]
    with ImageWriter(tmp_path / "images.arrow") as writer:
        for payload in payloads:
            writer.append(payload)
    from hawor_pipeline.shards.store import _ImageMap

    images = _ImageMap(tmp_path / "images.arrow")
    assert [images.record(i) for i in range(600)] == payloads
    with pytest.raises(DataError, match="no record 600"):
        images.record(600)


def test_other_tools_read_the_table(sample_shards, shards):
    pattern = str(sample_shards / "*" / "*" / "annotations.parquet")
    rows = duckdb.sql(f"select count(*), avg(box_size_px), max(len(joints_px)) from '{pattern}'").fetchall()[0]
    assert rows[0] == len(shards) and rows[2] == 42
    assert rows[1] == pytest.approx(shards.column("box_size_px").mean(), rel=1e-5)


def test_subjects_and_columns_can_be_chosen(sample_shards):
    some = open_shards(sample_shards, subjects=["s05"], columns=["sample_id", "box_center_px"])
    assert some.table.column_names == ["sample_id", "box_center_px", "shard_id", "row_in_shard"]
    assert all(name.startswith("s05/") for name in some.column("sample_id"))
    assert len(open_shards(sample_shards, subjects=["s03"])) == 0  # withheld: converted, with zero rows
    with pytest.raises(ConfigError, match="no shards of s07"):
        open_shards(sample_shards, subjects=["s07"])
    with pytest.raises(ConfigError, match="does not exist"):
        open_shards(sample_shards / "nowhere")


def test_damage_is_noticed(sample_shards, tmp_path):
    copy = tmp_path / "shards"
    shutil.copytree(sample_shards, copy)
    folder = sequence_folder(copy)
    images = (folder / "images.arrow").read_bytes()
    (folder / "images.arrow").write_bytes(images[: len(images) // 2])
    with pytest.raises(DataError, match=r"images\.arrow"):
        open_shards(copy, subjects=["s05"]).jpeg(0)
    table = pq.read_table(folder / "annotations.parquet", partitioning=None)
    pq.write_table(table.slice(1), folder / "annotations.parquet")
    with pytest.raises(DataError, match="the manifest lists"):
        open_shards(copy)
    (folder / "annotations.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"annotations\.parquet"):
        open_shards(copy)


def test_sources_never_mix(sample_shards, tmp_path):
    copy = tmp_path / "shards"
    shutil.copytree(sample_shards, copy)
    manifest = json.loads((copy / "s05" / "manifest.json").read_text())
    (copy / "s05" / "manifest.json").write_text(json.dumps({**manifest, "source": "arctic"}))
    with pytest.raises(DataError, match="arctic and synthetic"):
        open_shards(copy)


def test_as_numpy_of_an_empty_table():
    assert as_numpy(pa.schema([COLUMNS["joints_px"].field]).empty_table(), "joints_px").shape == (0, 21, 2)
