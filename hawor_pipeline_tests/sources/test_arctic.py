"""Finding the data, and what its layout means."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.shards.splits import read_protocols
from hawor_pipeline.sources.arctic import ArcticRoot, split_sequence_name
from hawor_pipeline.sources.image_files import list_images
from hawor_pipeline.sources.object_mesh import read_obj


@pytest.mark.parametrize("nested", ["", "data", "unpack/arctic_data/data", "arctic_data/data"])
@pytest.mark.parametrize("below", ["", "raw_seqs", "raw_seqs/s05", "meta"])
def test_root_is_found_from_any_level(tmp_path, nested, below):
    root = tmp_path / "arctic" / nested
    (root / "meta").mkdir(parents=True)
    (root / "raw_seqs" / "s05").mkdir(parents=True)
    (root / "meta" / "misc.json").write_text("{}")
    start = root / below if below else tmp_path / "arctic"
    assert ArcticRoot.locate(start).path == root


def test_an_unrelated_parent_is_never_taken(tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "misc.json").write_text("{}")
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(ConfigError, match=r"meta/misc\.json"):
        ArcticRoot.locate(tmp_path / "elsewhere")


def test_source_is_said_by_the_files(raw_copy):
    assert ArcticRoot.locate(raw_copy).source == "synthetic"
    (raw_copy / "SYNTHETIC").unlink()
    assert ArcticRoot.locate(raw_copy).source == "arctic"


def test_status_of_subjects(sample_root, tmp_path):
    root = ArcticRoot.locate(sample_root)
    assert [root.status(s) for s in ("s01", "s03", "s02")] == ["present", "withheld", "absent"]
    copy = tmp_path / "arctic"
    shutil.copytree(sample_root / "arctic" / "meta", copy / "meta")
    assert ArcticRoot.locate(copy).status("s03") == "withheld"  # also where no protocol file says so
    assert len(root.subjects()) == 10
    with pytest.raises(ConfigError, match="Did you mean 's01'"):
        root.status("s011")


@pytest.mark.parametrize(
    "name, expected",
    [
        ("box_grab_01", ("box", "grab")),
        ("phone_use_04_retake", ("phone", "use")),
        ("mixer_use_01_retake2", ("mixer", "use")),
    ],
)
def test_sequence_names(name, expected):
    assert split_sequence_name(name) == expected


def test_sequences_need_one_raw_file_and_other_files_are_ignored(tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "misc.json").write_text("{}")
    folder = tmp_path / "raw_seqs" / "s01"
    folder.mkdir(parents=True)
    for name in ("a_use_01.mano.npy", "b_use_01.egocam.dist.npy", "c_use_01.smplx.npy", "notes.txt", ".DS_Store"):
        (folder / name).touch()
    assert ArcticRoot(tmp_path).sequences("s01") == ["a_use_01", "b_use_01"]


def test_images_are_listed_by_number(tmp_path):
    for name in ("00010.jpg", "00002.jpg", "x.jpg", "00003.png"):
        (tmp_path / name).touch()
    assert list(list_images(tmp_path)) == [2, 10]
    assert list_images(tmp_path / "nowhere") == {}


def test_objects_are_read_as_triangles(tmp_path):
    path = tmp_path / "top.obj"
    path.write_text("# c\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvn 0 0 1\nf 1/1/1 2/2/1 3/3/1 4/4/1\nf -4 -3 -2\n")
    vertices, faces = read_obj(path)
    assert vertices.shape == (4, 3)
    np.testing.assert_array_equal(faces, [[0, 1, 2], [0, 2, 3], [0, 1, 2]])


def test_protocols_are_read_where_present_and_said_where_not(sample_root, raw_copy):
    read = read_protocols(ArcticRoot.locate(sample_root))
    assert set(read) == {"p1", "p2"} and read["p1"].stated_by == "splits_json/protocol_p1.json"
    assert (read["p1"].subjects["val"], read["p1"].subjects["test"]) == (["s05"], ["s03"])
    assert (read["p1"].views, read["p2"].views) == (tuple(range(1, 9)), (0,))
    shutil.rmtree(raw_copy / "splits_json")
    assumed = read_protocols(ArcticRoot.locate(raw_copy))["p1"]
    assert "assumed" in assumed.stated_by and len(assumed.subjects["train"]) == 8


@pytest.mark.parametrize(
    "splits, message",
    [
        ({"train": ["s01/a_use_01"], "val": ["s01/a_use_01"]}, "both in train and in val"),
        ({"train": ["s01/a_use_01"], "val": ["s01/b_use_01"]}, "s01 both in train and in val"),
        ({"train": ["s01"], "val": []}, "expected subject/sequence"),
        ({"training": []}, "expected lists train, val and test"),
    ],
)
def test_contradicting_protocols_are_refused(raw_copy, splits, message):
    (raw_copy / "splits_json" / "protocol_p1.json").write_text(json.dumps(splits))
    with pytest.raises(DataError, match=message):
        read_protocols(ArcticRoot.locate(raw_copy))


def test_light_modules_import_no_torch():
    modules = ["sources.arctic", "sources.image_files", "shards.store", "shards.schema", "shards.splits"]
    modules += ["shards.dataset_metadata", "conversion.inventory", "conversion.planning", "conversion.convert"]
    modules += ["conversion.prepare", "sources.fingerprint", "sources.registry", "workers.engine"]
    code = "import sys\n" + "".join(f"import hawor_pipeline.{name}\n" for name in modules)
    code += "assert 'torch' not in sys.modules and 'cv2' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
