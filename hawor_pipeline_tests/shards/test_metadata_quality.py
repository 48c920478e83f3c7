"""Manifest, data card, version, and quality numbers against ones computed here from the table."""

import json
import shutil

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion.confidence import confidence, skip_reasons
from hawor_pipeline.conversion.prepare import convert_subjects
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.shards.dataset_metadata import build_metadata
from hawor_pipeline.shards.quality import build_quality
from hawor_pipeline.shards.store import open_shards
from hawor_pipeline_tests.conversion.twin import Twin
from hawor_pipeline_tests.shards.edited import restate


@pytest.fixture(scope="module")
def metadata(sample_shards, sample_root, tmp_path_factory):
    return build_metadata(sample_shards, sample_root, tmp_path_factory.mktemp("metadata") / "out")


@pytest.fixture(scope="module")
def quality(sample_shards, tmp_path_factory):
    return build_quality(sample_shards, tmp_path_factory.mktemp("quality") / "out")


def test_manifest_counts_and_hashes(metadata, sample_shards):
    import hashlib

    manifest = json.loads((metadata.path / "manifest.json").read_text())
    table = open_shards(sample_shards).table
    assert metadata.info["rows"] == len(table) == sum(s["rows"] for s in manifest["subjects"].values())
    assert manifest["splits"] == {"train": ["s01"], "val": ["s05"], "test": ["s03"]}
    assert metadata.info["missing_splits"] == [] and metadata.info["sources"] == ["synthetic"]
    for subject, entry in manifest["subjects"].items():
        for sequence in entry["sequences"]:
            for name, digest in sequence["sha256"].items():
                data = (sample_shards / subject / sequence["sequence"] / name).read_bytes()
                assert hashlib.sha256(data).hexdigest() == digest


def test_data_card_tells_a_person(metadata):
    card = (metadata.path / "data_card.md").read_text()
    for expected in (
        "SYNTHETIC SAMPLE",
        "withheld",
        "| s05 | present | val |",
        "splits_json/protocol_p1.json",
        "no_image",
    ):
        assert expected in card, expected


def test_version_follows_content(metadata, sample_shards, sample_root, tmp_path):
    again = build_metadata(sample_shards, sample_root, tmp_path / "again")
    assert again.info["dataset_version"] == metadata.info["dataset_version"]
    assert build_metadata(sample_shards, sample_root, tmp_path / "again").reused
    copy = tmp_path / "shards"
    shutil.copytree(sample_shards, copy)
    shutil.rmtree(copy / "s01")
    fewer = build_metadata(copy, sample_root, tmp_path / "fewer")
    assert fewer.info["dataset_version"] != metadata.info["dataset_version"]
    assert fewer.info["missing_splits"] == ["train"]


def test_unlike_settings_and_missing_shards_are_refused(sample_shards, sample_root, tmp_path):
    with pytest.raises(ConfigError, match="no converted subject"):
        build_metadata(tmp_path, sample_root, tmp_path / "out")
    copy = tmp_path / "shards"
    shutil.copytree(sample_shards, copy)
    other = ConversionConfig(target_resolution=(96, 96), views=(1,))
    convert_subjects(sample_root, None, ["s05"], copy, other, workers=0)
    with pytest.raises(DataError, match="different settings"):
        build_metadata(copy, sample_root, tmp_path / "out")


def test_quality_numbers_are_those_of_the_table(quality, sample_shards):
    shards = open_shards(sample_shards)
    visible, inside = shards.column("joint_visible"), shards.column("joint_in_frame")
    info = quality.info
    assert info["samples"] == len(shards)
    np.testing.assert_allclose(shards.column("occlusion"), 1 - visible.mean(1), atol=1e-6)
    assert info["mean_occlusion"] == pytest.approx(1 - visible.mean(), abs=1e-6)
    assert info["in_frame_share"] == pytest.approx(inside.mean())
    assert info["median_depth_m"] == pytest.approx(np.median(shards.column("joints_cam_m")[:, 0, 2]), abs=1e-6)
    joints = pq.read_table(quality.path / "joints.parquet")
    np.testing.assert_allclose(joints.column("visible_share"), visible.mean(0))
    rows = pq.read_table(quality.path / "distributions.parquet").to_pylist()
    row = next(r for r in rows if (r["stratum"], r["level"], r["measure"]) == ("view", "0", "blur"))
    blur = shards.column("blur")[shards.column("view") == 0]
    assert row["n"] == len(blur) and row["p50"] == pytest.approx(np.median(blur)) and row["max"] == blur.max()
    assert not any(value is None or (isinstance(value, float) and not np.isfinite(value)) for value in info.values())


def test_distance_to_the_object_against_the_twin(quality, sample_root):
    """Nearest distance between the hand's vertices and densely sampled object triangles."""
    row = pq.read_table(quality.path / "distances.parquet").to_pylist()[3]
    arctic = sample_root / "arctic"
    twin = Twin(arctic, sample_root / "body_models" / "mano")
    offset = twin.misc[row["subject"]]["ioi_offset"]
    hand = twin.hand(row["subject"], row["sequence"], 1, row["gt_index"] + offset, row["side"])
    pose = twin._load(row["subject"], row["sequence"])[1][row["gt_index"]].astype(float)
    folder = arctic / "meta" / "object_vtemplates" / row["sequence"].split("_")[0]
    points = []
    for part in ("top", "bottom"):
        lines = (folder / f"{part}.obj").read_text().splitlines()
        vertices = np.array([line.split()[1:4] for line in lines if line.startswith("v ")], float) / 1000
        faces = np.array(
            [[int(c.split("/")[0]) - 1 for c in line.split()[1:4]] for line in lines if line.startswith("f ")]
        )
        if part == "top":
            vertices = Rotation.from_rotvec([0, 0, -pose[0]]).apply(vertices)
        vertices = Rotation.from_rotvec(pose[1:4]).apply(vertices) + pose[4:7] / 1000
        mixes = [
            [1, 0, 0],
            [0, 1, 0],
            [0, 0, 1],
            [1 / 3, 1 / 3, 1 / 3],
            [0.6, 0.2, 0.2],
            [0.2, 0.6, 0.2],
            [0.2, 0.2, 0.6],
        ]
        points += [np.einsum("k,fkc->fc", np.array(mix), vertices[faces]) for mix in mixes]
    cloud = np.concatenate(points)
    matrix = np.asarray(twin.misc[row["subject"]]["world2cam"][0])
    world = (hand["vertices_cam"] - matrix[:3, 3]) @ matrix[:3, :3]
    nearest = cKDTree(cloud).query(world)[0].min()
    assert row["hand_object_distance_m"] == pytest.approx(nearest, abs=0.002)


def test_plots_and_outliers_are_there(quality):
    assert {path.name for path in quality.path.glob("*.png")} >= {
        "measures.png",
        "joints.png",
        "coverage.png",
        "outliers.png",
    }
    outliers = pq.read_table(quality.path / "outliers.parquet").to_pylist()
    worst = next(row for row in outliers if row["measure"] == "blur" and row["rank"] == 1)
    table = pq.read_table(quality.path / "distributions.parquet").to_pylist()
    top = next(row for row in table if row["stratum"] == "all" and row["measure"] == "blur")
    assert worst["value"] == top["max"]
    for measure in ("blur", "fitting_err"):
        names = [row["sample_id"].split("/") for row in outliers if row["measure"] == measure]
        strata = [(subject, sequence, view, side) for subject, sequence, view, _, side in names]
        moments = [(subject, sequence, frame) for subject, sequence, _, frame, _ in names]
        assert len(set(strata)) == len(strata) and len(set(moments)) == len(moments)


def test_rows_that_are_not_valid_are_no_outliers(sample_shards, tmp_path):
    """The blurriest rows are marked invalid in a copy; the worst of the others must take their place."""
    folder = tmp_path / "shards"
    shutil.copytree(sample_shards, folder)
    for path in folder.glob("*/*/annotations.parquet"):
        table = pq.read_table(path)
        kept = np.array(table["blur"]) < np.quantile(np.array(table["blur"]), 0.8)
        place = table.schema.get_field_index("valid")
        pq.write_table(table.set_column(place, table.schema.field(place), [kept]), path)
    restate(folder)
    rows = pa.concat_tables([pq.read_table(path) for path in folder.glob("*/*/annotations.parquet")]).to_pylist()
    valid = {row["sample_id"]: row["blur"] for row in rows if row["valid"]}
    result = build_quality(folder, tmp_path / "out")
    outliers = pq.read_table(result.path / "outliers.parquet").to_pylist()
    assert {row["sample_id"] for row in outliers} <= set(valid)
    assert next(row["value"] for row in outliers if row["measure"] == "blur") == pytest.approx(max(valid.values()))


@pytest.mark.parametrize("name", ["measures.png", "joints.png", "coverage.png", "outliers.png"])
def test_plots_of_the_sample_are_marked(quality, name):
    blue, green, red = cv2.split(cv2.imread(str(quality.path / name)).astype(int))
    marked = (red > 160) & (green < 90) & (blue < 80)
    height, width = marked.shape
    assert marked[-height // 6 :, width // 2 :].sum() > 200


def test_quality_of_shards_without_a_valid_row(raw_copy, tmp_path):
    settings = ConversionConfig(target_resolution=(64, 64), views=(1,), min_box_px=5000.0)
    result = convert_subjects(raw_copy, None, ["s05"], tmp_path / "shards", settings, workers=0)["s05"]
    assert result.info["rows"] > 0 and result.info["valid_rows"] == 0
    quality = build_quality(tmp_path / "shards", tmp_path / "quality")
    assert quality.info["valid_share"] == 0.0
    assert (tmp_path / "quality/measures.png").stat().st_size > 1000


def test_quality_is_reused_and_needs_samples(quality, sample_shards, sample_root, tmp_path):
    assert build_quality(sample_shards, quality.path).reused
    convert_subjects(sample_root, None, ["s03"], tmp_path / "shards", ConversionConfig(views=(1,)), workers=0)
    with pytest.raises(ConfigError, match="no samples"):
        build_quality(tmp_path / "shards", tmp_path / "out")


def test_confidence_falls_with_each_of_its_parts():
    everything = np.ones((1, 21), bool)
    half = everything.copy()
    half[0, :10] = False

    def value(inside=everything, visible=everything, blur=0.2, error=1.0):
        return float(confidence(inside, visible, np.array([blur]), np.array([error]), 1.0)[0])

    assert value() == 1.0
    assert value(inside=half) == value(visible=half) == pytest.approx(11 / 21)
    assert value(blur=1.0) == 0.0 and value(blur=0.675) == pytest.approx(0.5)
    assert value(error=2.0) == 1.0 and value(error=8.0) == pytest.approx(0.25)


def test_the_first_failed_rule_is_named():
    inside = np.ones((4, 21), bool)
    inside[2, 2:] = False
    found = skip_reasons(
        np.array([False, True, False, False]), inside, np.array([50.0, 50.0, 50.0, 5.0]), ConversionConfig()
    )
    assert found.tolist() == ["", "black_image", "few_joints_in_frame", "small_box"]
