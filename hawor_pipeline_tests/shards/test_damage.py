"""Damaged, exchanged and replaced shards are refused by name wherever they are opened, also with their old times."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hawor_pipeline.cli import main
from hawor_pipeline.errors import DataError
from hawor_pipeline.shards.manifest import read_manifest
from hawor_pipeline.shards.schema import DISTANCES_FILE
from hawor_pipeline.shards.store import open_shards, read_side_tables, verify_shards


@pytest.fixture
def shards(sample_shards: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    shutil.copytree(sample_shards, folder)
    return folder


def folders(shards: Path, subject: str = "s05") -> list[Path]:
    return sorted(path.parent for path in (shards / subject).glob("*/images.arrow"))


def overwrite(path: Path, data: bytes) -> None:
    """Replace the contents in place and set the time of the last change back."""
    state = path.stat()
    with open(path, "r+b") as file:
        file.write(data)
        file.truncate()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def read_all(shards: Path, subject: str = "s05") -> None:
    opened = open_shards(shards, [subject])
    for row in range(len(opened)):
        opened.jpeg(row)


@pytest.mark.parametrize("seed", range(16))
def test_a_flipped_bit_anywhere_is_refused(shards: Path, seed: int):
    """The file was read before in this process, and keeps its size and time."""
    read_all(shards)
    rng = np.random.default_rng(seed)
    path = folders(shards)[0] / ("annotations.parquet" if seed % 2 else "images.arrow")
    data = bytearray(path.read_bytes())
    start, end = 0, len(data)
    if path.suffix == ".arrow":  # within a JPEG; bits of the frame around them may change nothing that is read
        jpeg = open_shards(shards, ["s05"]).jpeg(int(rng.integers(0, 20)))
        start = bytes(data).index(jpeg)
        end = start + len(jpeg)
    data[int(rng.integers(start, end))] ^= 1 << int(rng.integers(0, 8))
    overwrite(path, bytes(data))
    with pytest.raises(DataError, match=path.name):
        read_all(shards)
    assert str(path) in verify_shards(shards)[1][0]


@pytest.mark.parametrize("name", ["annotations.parquet", "images.arrow"])
def test_a_file_of_another_sequence_with_as_many_rows_is_refused(shards: Path, name: str):
    other = folders(shards, "s01")[0]
    own = folders(shards)[0]
    count = min(pq.read_metadata(folder / "annotations.parquet").num_rows for folder in (own, other))
    data = (other / name).read_bytes()
    if name == "images.arrow":  # as many records as the own file, so that the number shows nothing
        with pa.memory_map(str(other / name)) as source:
            records = pa.ipc.open_file(source).read_all().column("jpeg").to_pylist()
        rows = pq.read_metadata(own / "annotations.parquet").num_rows
        write_images(own / name, (records * (rows // count + 1))[:rows], pa.binary())
    else:
        overwrite(own / name, data)
    with pytest.raises(DataError, match=name):
        read_all(shards)


def write_images(path: Path, records: list[bytes], kind: pa.DataType) -> None:
    schema = pa.schema([pa.field("jpeg", kind, False)])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for start in range(0, len(records), 256):
            writer.write_batch(pa.record_batch([pa.array(records[start : start + 256], kind)], schema=schema))


@pytest.mark.parametrize("change", ["large_binary", "shifted", "one fewer", "empty records"])
def test_image_files_of_another_form_are_refused(shards: Path, change: str):
    opened = open_shards(shards, ["s05"])
    path = opened.directories[0] / "images.arrow"
    records = [opened.jpeg(row) for row in range(len(opened)) if opened.table["shard_id"][row].as_py() == 0]
    changed = {
        "large_binary": records,
        "shifted": records[1:] + records[:1],
        "one fewer": records[:-1],
        "empty records": [b""] * len(records),
    }[change]
    write_images(path, changed, pa.large_binary() if change == "large_binary" else pa.binary())
    with pytest.raises(DataError, match=r"images\.arrow"):
        read_all(shards)


def test_a_reader_from_before_a_conversion_gets_no_newer_images(shards: Path):
    """A loader worker that starts late maps the images after the shard was replaced."""
    opened = open_shards(shards, ["s05"])
    late = pickle.loads(pickle.dumps(opened))  # noqa: S301 - its own bytes
    before = opened.jpeg(0)
    path = opened.directories[0] / "images.arrow"
    newer = path.with_suffix(".new")
    records = [opened.jpeg(row) for row in range(len(opened)) if opened.table["shard_id"][row].as_py() == 0]
    write_images(newer, [record + b"\0" for record in records], pa.binary())
    newer.rename(path)  # as a conversion publishes
    assert opened.jpeg(0) == before  # the old map is still whole
    with pytest.raises(DataError, match="converted again after its annotations were read"):
        late.jpeg(0)


def test_side_tables_are_compared_too(shards: Path):
    path = folders(shards)[0] / DISTANCES_FILE
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    with pytest.raises(DataError, match=r"distances\.parquet: differs"):
        read_side_tables(shards, ["s05"], DISTANCES_FILE)


def test_shards_without_checksums_are_not_taken_for_checked_ones(shards: Path):
    manifest = shards / "s05" / "manifest.json"
    values = json.loads(manifest.read_text())
    for entry in values["sequences"]:
        del entry["sha256"]
    manifest.write_text(json.dumps(values))
    with pytest.raises(DataError, match="no checksums"):
        open_shards(shards, ["s05"])


def test_images_of_earlier_versions_are_compared_as_whole_files(shards: Path):
    """They have a digest of the file, and none of each record."""
    from hawor_pipeline_tests.shards.edited import restate

    for folder in folders(shards):
        table = pq.read_table(folder / "annotations.parquet", partitioning=None)
        pq.write_table(table.replace_schema_metadata({"source": "synthetic"}), folder / "annotations.parquet")
    restate(shards)
    manifest = shards / "s05" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"converter_version": 6}))
    read_all(shards)
    path = folders(shards)[0] / "images.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    overwrite(path, bytes(data))
    with pytest.raises(DataError, match=r"images\.arrow: differs"):
        read_all(shards)


def test_the_command_names_every_damaged_file(shards: Path, capsys: pytest.CaptureFixture):
    assert main(["verify", "--data", str(shards)]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert files == 4 * len(list(shards.glob("*/*/images.arrow")))
    damaged, missing = folders(shards)[0] / "images.arrow", folders(shards, "s01")[0] / "ledger.parquet"
    overwrite(damaged, damaged.read_bytes()[:-1] + b"?")
    missing.unlink()
    assert main(["verify", "--data", str(shards)]) == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert len(problems) == 2 and str(missing) in problems[0] and str(damaged) in problems[1]


def altered(values: dict, change: str) -> object:
    entry = values["sequences"][0]
    return {
        "nothing": {},
        "list": [],
        "null": None,
        "text": "manifest",
        "without sequences": {name: value for name, value in values.items() if name != "sequences"},
        "without source": {name: value for name, value in values.items() if name != "source"},
        "twice": {
            **values,
            "sequences": [entry, entry],
            "rows": 2 * entry["rows"],
            "valid_rows": 2 * entry["valid_rows"],
        },
        "path": {**values, "sequences": [{**entry, "sequence": f"../s05/{entry['sequence']}"}]},
        "absolute": {**values, "sequences": [{**entry, "sequence": "/tmp"}]},
        "file": {**values, "sequences": [{**entry, "sha256": {"../../x": "0"}}]},
        "negative rows": {**values, "sequences": [{**entry, "rows": -1}], "rows": -1},
        "rows as text": {**values, "rows": "many"},
    }[change]


CHANGES = ("nothing", "list", "null", "text", "without sequences", "without source", "twice")
CHANGES += ("path", "absolute", "file", "negative rows", "rows as text")


@pytest.mark.parametrize("change", CHANGES)
def test_a_manifest_that_is_none_is_refused(shards: Path, change: str):
    path = shards / "s05" / "manifest.json"
    path.write_text(json.dumps(altered(json.loads(path.read_text()), change)))
    with pytest.raises(DataError, match=r"manifest\.json: not readable"):
        read_manifest(shards, "s05")
    with pytest.raises(DataError, match=r"manifest\.json"):
        open_shards(shards)
