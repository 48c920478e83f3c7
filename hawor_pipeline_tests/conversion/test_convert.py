"""Conversion as a whole: same bytes however it is run, nothing done twice, everything accounted for."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import simplejpeg

from hawor_pipeline import ArcticDataConverter
from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion.prepare import convert_subjects, prepare
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.shards.store import open_shards
from hawor_pipeline.sources.image_files import ImageFile

SETTINGS = ConversionConfig(target_resolution=(64, 64), views=(0, 1, 4))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def convert(raw: Path, output: Path, settings=SETTINGS, workers=0, **more):
    return convert_subjects(raw, None, ["s05"], output, settings, workers=workers, **more)["s05"]


def only_sequence(raw: Path) -> str:
    return next((raw / "raw_seqs" / "s05").glob("*.mano.npy")).name.split(".")[0]


def second_sequence(raw: Path) -> str:
    """Add a retake of the only sequence with the same contents; returns its name."""
    name = only_sequence(raw)
    for part in ("mano", "object", "egocam.dist"):
        shutil.copy(raw / f"raw_seqs/s05/{name}.{part}.npy", raw / f"raw_seqs/s05/{name}_retake2.{part}.npy")
    shutil.copytree(raw / f"images/s05/{name}", raw / f"images/s05/{name}_retake2")
    return f"{name}_retake2"


def test_one_and_two_workers_and_none_give_the_same_bytes(sample_root, sample_shards, tmp_path):
    """`sample_shards` was made by two workers for all subjects at once."""
    subjects = ["s01", "s03", "s05"]
    convert_subjects(sample_root / "arctic", None, subjects, tmp_path / "none", SETTINGS, workers=0)
    convert_subjects(sample_root / "arctic", None, subjects[::-1], tmp_path / "one", SETTINGS, workers=1)
    expected = tree(sample_shards)
    assert any(name.endswith("images.arrow") for name in expected)
    assert tree(tmp_path / "none") == expected == tree(tmp_path / "one")


def test_no_path_time_or_host_is_in_any_file(sample_shards, sample_root):
    for name, data in tree(sample_shards).items():
        host = os.uname().nodename
        secrets = (str(sample_root), str(sample_shards), *([host] if len(host) > 5 else []))
        for secret in secrets:
            assert secret.encode() not in data, name


KILLED = """
import sys
from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion.prepare import convert_subjects
if __name__ == "__main__":
    settings = ConversionConfig(target_resolution=(64, 64), views=(0, 1, 4))
    convert_subjects(sys.argv[1], None, ["s01", "s05"], sys.argv[2], settings, workers=1)
"""


def test_killed_then_finished_equals_undisturbed(sample_root, sample_shards, tmp_path):
    """SIGKILL as soon as something was published or is being written; the next run cleans up and completes."""
    script, output = tmp_path / "run.py", tmp_path / "shards"
    script.write_text(KILLED)
    command = [sys.executable, str(script), str(sample_root / "arctic"), str(output)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if any(output.glob("s0*/*")):
            break
        time.sleep(0.005)
    assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(output.glob("*/manifest.json"))
    workers_gone = time.monotonic() + 10
    while list(output.glob("s0*/.*.tmp")) and time.monotonic() < workers_gone:
        leftover = next(output.glob("s0*/.*.tmp"), None)
        if leftover is None or not Path(f"/proc/{leftover.name.split('.')[-2]}").exists():
            break  # the worker has followed its parent
        time.sleep(0.02)
    convert_subjects(sample_root / "arctic", None, ["s01", "s03", "s05"], output, SETTINGS, workers=0)
    assert tree(output) == tree(sample_shards)
    assert not list(output.rglob("*.tmp")) and not list(output.rglob("*.old"))


def test_second_run_reuses_and_says_so(raw_copy, tmp_path):
    first = convert(raw_copy, tmp_path / "out")
    assert not first.reused and first.info["rows"] > 0 and "no finished result" in first.why
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in tree(tmp_path / "out")}
    again = convert(raw_copy, tmp_path / "out")
    assert again.reused and again.key == first.key and again.info["reused_sequences"] == 1
    assert before == {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in tree(tmp_path / "out")}


def test_adding_a_sequence_converts_that_one_only(raw_copy, tmp_path):
    convert(raw_copy, tmp_path / "out")
    name, added = only_sequence(raw_copy), second_sequence(raw_copy)
    kept = tree(tmp_path / "out" / "s05" / name)
    result = convert(raw_copy, tmp_path / "out")
    assert (result.info["converted_sequences"], result.info["reused_sequences"]) == (1, 1)
    assert added in result.why and f"{name}:" not in result.why
    assert tree(tmp_path / "out" / "s05" / name) == kept
    table = open_shards(tmp_path / "out").table
    assert set(table.column("sequence").to_pylist()) == {name, added}
    assert set(table.column("object").to_pylist()) == {name.split("_")[0]}


def test_a_touched_file_is_hashed_again_but_only_a_changed_one_converts(raw_copy, tmp_path):
    convert(raw_copy, tmp_path / "out")
    image = sorted((raw_copy / "images").rglob("*/4/*.jpg"))[3]
    os.utime(image)
    assert convert(raw_copy, tmp_path / "out").reused
    other = sorted((raw_copy / "images").rglob("*/4/*.jpg"))[4]
    shutil.copy(other, image)
    changed = convert(raw_copy, tmp_path / "out")
    assert not changed.reused and "changed" in changed.why


def test_settings_that_matter_reconvert_and_those_that_do_not_do_not(raw_copy, tmp_path):
    convert(raw_copy, tmp_path / "out")
    assert convert(raw_copy, tmp_path / "out", SETTINGS.model_copy(update={"max_left_out_share": 0.9})).reused
    result = convert(raw_copy, tmp_path / "out", SETTINGS.model_copy(update={"box_scale": 1.4}))
    assert not result.reused and "settings" in result.why


def test_naming_a_sequence_keeps_the_others(raw_copy, tmp_path):
    name, added = only_sequence(raw_copy), second_sequence(raw_copy)
    convert(raw_copy, tmp_path / "out", sequences=[name])
    result = convert(raw_copy, tmp_path / "out", sequences=[added])
    assert result.info["sequences"] == 2 and result.info["converted_sequences"] == 1
    limited = convert(raw_copy, tmp_path / "out", SETTINGS.model_copy(update={"max_sequences_per_subject": 1}))
    assert limited.info["sequences"] == 1


def test_every_frame_is_a_row_or_in_the_ledger(raw_copy, tmp_path):
    """Rows and ledger entries together are every hand of every ground-truth frame in every view, once."""
    name = only_sequence(raw_copy)
    offset = json.loads((raw_copy / "meta/misc.json").read_text())["s05"]["ioi_offset"]
    removed = raw_copy / f"images/s05/{name}/1/{offset + 2:05d}.jpg"
    removed.unlink()
    shutil.rmtree(raw_copy / f"images/s05/{name}/4")
    result = convert(raw_copy, tmp_path / "out")
    frames = np.load(raw_copy / f"raw_seqs/s05/{name}.object.npy").shape[0]
    rows = pq.read_table(tmp_path / f"out/s05/{name}/annotations.parquet", partitioning=None).to_pylist()
    ledger = pq.read_table(tmp_path / f"out/s05/{name}/ledger.parquet", partitioning=None).to_pylist()
    seen = {(row["view"], row["frame"], row["side"]) for row in rows}
    lost = set()
    for entry in ledger:
        sides = [entry["side"]] if entry["side"] else ["left", "right"]
        numbers = range(offset, offset + frames) if entry["frame"] < 0 else [entry["frame"]]
        if entry["reason"].startswith("no_ground_truth"):
            assert not offset <= entry["frame"] < offset + frames
            continue
        assert entry["samples"] == len(sides) * len(numbers)
        lost |= {(entry["view"], number, side) for number in numbers for side in sides}
    everything = {(v, n, s) for v in (0, 1, 4) for n in range(offset, offset + frames) for s in ("left", "right")}
    assert seen | lost == everything and not seen & lost
    assert (1, offset + 2, "left") in lost
    assert any(entry["reason"] == "view_absent" and entry["view"] == 4 for entry in ledger)
    assert result.info["unaccounted_frames"] == 0


def test_black_frames_stay_as_invalid_rows(raw_copy, tmp_path):
    import simplejpeg

    name = only_sequence(raw_copy)
    offset = json.loads((raw_copy / "meta/misc.json").read_text())["s05"]["ioi_offset"]
    path = raw_copy / f"images/s05/{name}/1/{offset:05d}.jpg"
    height, width = simplejpeg.decode_jpeg_header(path.read_bytes())[:2]
    path.write_bytes(simplejpeg.encode_jpeg(np.zeros((height, width, 3), np.uint8), colorspace="RGB"))
    result = convert(raw_copy, tmp_path / "out")
    table = open_shards(tmp_path / "out").table.to_pylist()
    bad = [row for row in table if not row["valid"]]
    assert {(row["view"], row["frame"], row["skip_reason"]) for row in bad} == {(1, offset, "black_image")}
    assert result.info["rows"] - result.info["valid_rows"] == len(bad) == 2


def test_shape_may_be_given_per_sequence_or_per_frame(raw_copy, tmp_path):
    convert(raw_copy, tmp_path / "a")
    path = raw_copy / f"raw_seqs/s05/{only_sequence(raw_copy)}.mano.npy"
    raw = np.load(path, allow_pickle=True).item()
    for hand in raw.values():
        shape = np.asarray(hand["shape"])
        frames = len(hand["rot"])
        hand["shape"] = np.tile(shape, (frames, 1)) if shape.ndim == 1 else shape[0]
    np.save(path, raw, allow_pickle=True)
    convert(raw_copy, tmp_path / "b")
    first, second = open_shards(tmp_path / "a"), open_shards(tmp_path / "b")
    np.testing.assert_array_equal(first.column("betas"), second.column("betas"))
    np.testing.assert_array_equal(first.column("joints_px"), second.column("joints_px"))


def test_subjects_without_ground_truth_have_zero_rows_and_the_reason(sample_root, tmp_path):
    results = convert_subjects(sample_root, None, ["s03", "s02"], tmp_path, SETTINGS, workers=0)
    assert results["s03"].info["rows"] == results["s02"].info["rows"] == 0
    assert "withheld" in results["s03"].why and "not downloaded" in results["s02"].why
    assert (results["s03"].info["status"], results["s02"].info["status"]) == ("withheld", "absent")
    assert len(open_shards(tmp_path)) == 0


def test_public_converter_lists_what_failed_and_keeps_the_rest(raw_copy, tmp_path):
    bad = second_sequence(raw_copy)
    image = sorted((raw_copy / "images/s05" / bad / "1").glob("*.jpg"))[3]
    image.write_bytes(simplejpeg.encode_jpeg(np.full((40, 60, 3), 99, np.uint8), colorspace="RGB"))
    converter = ArcticDataConverter(raw_copy, tmp_path / "out", target_resolution=(64, 64), num_workers=0)
    statistics = converter.convert_dataset(subjects=["s05"])
    assert statistics["successful_conversions"] == 1 and statistics["failed_conversions"] == 1
    assert statistics["reused_conversions"] == 0
    assert str(image) in statistics["conversion_errors"][f"s05/{bad}"]
    assert statistics["total_subjects"] == 1 and statistics["total_sequences"] == 2
    assert statistics["total_samples"] == len(open_shards(tmp_path / "out"))
    limited = converter.convert_dataset(subjects=["s05"], max_sequences_per_subject=1)
    assert limited["failed_conversions"] == 0 and limited["reused_conversions"] == 1


def test_prepare_sums_up(raw_copy, tmp_path):
    settings = {"target_resolution": (64, 64), "views": (1,)}
    totals = prepare(raw_copy, tmp_path / "out", settings=settings, subjects=["s05", "s03"], workers=0)
    assert totals["subjects"] == ["s05"] and "withheld" in totals["subjects_without_samples"]["s03"]
    assert totals["rows"] == len(open_shards(tmp_path / "out")) and totals["source"] == "synthetic"
    with pytest.raises(ConfigError, match="target_resolution"):
        prepare(raw_copy, tmp_path / "out", settings={"target_resolutoin": (64, 64)})


def test_left_out_limit_also_holds_for_finished_shards(raw_copy, tmp_path):
    name = only_sequence(raw_copy)
    for path in sorted((raw_copy / f"images/s05/{name}/1").glob("*.jpg"))[-5:]:
        path.unlink()
    lenient = SETTINGS.model_copy(update={"max_left_out_share": 1.0})
    convert(raw_copy, tmp_path / "out", lenient)
    with pytest.raises(DataError, match="disagree"):
        convert(raw_copy, tmp_path / "out", SETTINGS.model_copy(update={"max_left_out_share": 0.0}))


def test_a_sequence_without_views_that_others_have_is_an_error(raw_copy, tmp_path):
    """A view that no sequence has was not downloaded; one that only some lack is missing."""
    name = second_sequence(raw_copy)
    every = SETTINGS.model_copy(update={"views": tuple(range(9))})  # only 0, 1 and 4 are there
    assert convert(raw_copy, tmp_path / "out", every).info["sequences"] == 2
    shutil.rmtree(raw_copy / f"images/s05/{name}/4")
    with pytest.raises(DataError, match=rf"{name}: 33% of the hands .* views \[4\]"):
        convert(raw_copy, tmp_path / "out", every)
    lenient = every.model_copy(update={"max_left_out_share": 0.4})
    assert convert(raw_copy, tmp_path / "out", lenient).info["sequences"] == 2
    with pytest.raises(DataError, match=rf"{name}: 33% of the hands"):  # also of a shard that is there
        convert(raw_copy, tmp_path / "out", every)


def test_finished_sequences_are_not_dropped_in_passing(raw_copy, tmp_path):
    """Neither by raw files that are gone, nor by one sequence under other settings."""
    name = second_sequence(raw_copy)
    convert(raw_copy, tmp_path / "out")
    before = tree(tmp_path / "out")
    smaller = SETTINGS.model_copy(update={"target_resolution": (32, 32)})
    with pytest.raises(ConfigError, match=r"1 other finished sequences .*target_resolution \[64, 64\] -> \[32, 32\]"):
        convert(raw_copy, tmp_path / "out", smaller, sequences=[name])
    (raw_copy / "raw_seqs/s05").rename(tmp_path / "kept")
    found = convert(raw_copy, tmp_path / "out")
    assert found.info["kept_without_raw_files"] and "2 finished sequences of an earlier conversion" in found.why
    assert tree(tmp_path / "out") == before
    (tmp_path / "kept").rename(raw_copy / "raw_seqs/s05")
    (raw_copy / "images/s05").rename(tmp_path / "kept")
    with pytest.raises(DataError, match="found no images of any sequence"):
        convert(raw_copy, tmp_path / "out")
    assert tree(tmp_path / "out") == before
    (tmp_path / "kept").rename(raw_copy / "images/s05")
    assert convert(raw_copy, tmp_path / "out").reused
    for path in (raw_copy / "raw_seqs/s05").glob(f"{name}.*"):
        path.unlink()
    for _ in range(2):  # it is said again
        info = convert(raw_copy, tmp_path / "out").info
        assert (info["sequences"], info["left_out_sequences"]) == (1, 1)
    listed = json.loads((tmp_path / "out/s05/manifest.json").read_text())["left_out_sequences"]
    assert listed == [{"sequence": name, "reason": "raw_files_gone"}]
    assert convert(raw_copy, tmp_path / "out", smaller).info["converted_sequences"] == 1


def test_one_subject_without_raw_files_does_not_stop_the_others(sample_root, raw_copy, tmp_path):
    settings = SETTINGS.model_copy(update={"views": (1,)})
    for folder in ("raw_seqs", "images"):
        shutil.copytree(sample_root / "arctic" / folder / "s01", raw_copy / folder / "s01")
    convert(raw_copy, tmp_path / "out", settings)
    shutil.rmtree(raw_copy / "raw_seqs/s05")
    results = convert_subjects(raw_copy, None, ["s01", "s05"], tmp_path / "out", settings, workers=0)
    assert results["s05"].info["rows"] > 0 and results["s05"].info["kept_without_raw_files"]
    assert results["s01"].info["rows"] > 0 and results["s01"].info["converted_sequences"] == 1


def test_sequences_may_come_one_by_one(raw_copy, tmp_path):
    """Verdicts do not depend on which are named, and one that was let pass before does not stop another."""
    name, first = second_sequence(raw_copy), only_sequence(raw_copy)
    kept = tmp_path / "kept"
    shutil.copytree(raw_copy / f"images/s05/{name}", kept)
    shutil.rmtree(raw_copy / f"images/s05/{name}")
    for view in (1, 4):
        shutil.rmtree(raw_copy / f"images/s05/{first}/{view}")
    assert convert(raw_copy, tmp_path / "out", sequences=[first]).info["sequences"] == 1  # no sequence has 1 and 4 yet
    shutil.copytree(kept, raw_copy / f"images/s05/{name}")
    assert convert(raw_copy, tmp_path / "out", sequences=[name]).info["sequences"] == 2
    with pytest.raises(DataError, match=rf"{first}: 67% of the hands"):
        convert(raw_copy, tmp_path / "other", sequences=[first])


def test_places_and_numbers_that_cannot_be_meant_are_refused(raw_copy, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file; expected a folder"):
        convert(raw_copy, tmp_path / "file")
    with pytest.raises(ConfigError, match="lies among the raw files"):
        convert(raw_copy, raw_copy / "images/out")
    with pytest.raises(ConfigError, match="-1 workers"):
        convert(raw_copy, tmp_path / "out", workers=-1)
    with pytest.raises(ConfigError, match=rf"unknown sequence 'else' of s05; found 1: {only_sequence(raw_copy)}"):
        convert(raw_copy, tmp_path / "out", sequences=["else"])


def test_nothing_at_all_is_an_error_with_the_reason(raw_copy, tmp_path):
    with pytest.raises(DataError, match=r"no sample was made: .*s03 is withheld"):
        prepare(raw_copy, tmp_path / "out", subjects=["s03"], workers=0)


def test_raw_files_without_a_frame_are_an_error(raw_copy, tmp_path):
    name = only_sequence(raw_copy)
    for part in ("object", "mano", "egocam.dist"):
        path = raw_copy / f"raw_seqs/s05/{name}.{part}.npy"
        np.save(path, _without_frames(np.load(path, allow_pickle=True)), allow_pickle=True)
    with pytest.raises(DataError, match=rf"{name}\.mano\.npy: left\.rot has shape \(0, 3\): no frame"):
        convert(raw_copy, tmp_path / "out")


def _without_frames(values):
    if values.dtype != object:
        return values[:0]
    fixed = ("shape", "intrinsics", "dist8")

    def cut(entry):
        return {
            key: cut(value) if isinstance(value, dict) else value if key in fixed or not np.ndim(value) else value[:0]
            for key, value in entry.items()
        }

    return cut(values.item())


def test_hands_that_a_camera_cannot_see_are_in_the_ledger_not_projected_wildly(raw_copy, tmp_path):
    """View 1 is turned round, view 4 looks far to the side: no sample of either, and the reason for each."""
    path = raw_copy / "meta/misc.json"
    misc = json.loads(path.read_text())
    turn = np.diag([-1.0, 1.0, -1.0, 1.0])
    misc["s05"]["world2cam"][0] = (turn @ np.array(misc["s05"]["world2cam"][0])).tolist()
    misc["s05"]["intris_mat"][3][0][2] += 1e5
    path.write_text(json.dumps(misc))
    with pytest.raises(DataError, match=r"wrong cameras in meta/misc\.json"):
        convert(raw_copy, tmp_path / "out")
    result = convert(raw_copy, tmp_path / "out", SETTINGS.model_copy(update={"max_left_out_share": 1.0}))
    assert set(open_shards(tmp_path / "out").column("view").tolist()) == {0}
    folder = next((tmp_path / "out/s05").glob("*/ledger.parquet"))
    ledger = pq.read_table(folder, partitioning=None).to_pylist()
    reasons = {(row["view"], row["reason"]) for row in ledger if row["side"]}
    assert reasons == {(1, "behind_camera"), (4, "outside_picture")}
    assert result.info["unaccounted_frames"] == 0


def test_a_subject_whose_images_were_not_downloaded_does_not_stop_the_others(raw_copy, sample_root, tmp_path):
    shutil.copytree(sample_root / "arctic/raw_seqs/s01", raw_copy / "raw_seqs/s01")
    results = convert_subjects(raw_copy, None, ["s01", "s05"], tmp_path / "out", SETTINGS, workers=0)
    assert results["s05"].info["rows"] > 0
    assert results["s01"].info["rows"] == 0 and "found no images" in results["s01"].why
    assert str(raw_copy) not in (tmp_path / "out/s01/manifest.json").read_text()


@pytest.mark.parametrize("file", ["images.arrow", "annotations.parquet", "ledger.parquet"])
def test_a_damaged_file_of_the_same_size_is_converted_again(raw_copy, tmp_path, file):
    convert(raw_copy, tmp_path / "out")
    whole = tree(tmp_path / "out")
    path = tmp_path / "out/s05" / only_sequence(raw_copy) / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    result = convert(raw_copy, tmp_path / "out")
    assert not result.reused and "not as it was written" in result.why
    assert tree(tmp_path / "out") == whole


def test_images_are_read_once_in_a_first_conversion(raw_copy, tmp_path, monkeypatch):
    reads: list[str] = []
    read = ImageFile.read
    monkeypatch.setattr(ImageFile, "read", lambda self: (reads.append(str(self)), read(self))[1])
    first = convert(raw_copy, tmp_path / "out")
    assert len(reads) == len(set(reads)) == len(list((raw_copy / "images").rglob("*.jpg")))
    reads.clear()
    assert convert(raw_copy, tmp_path / "out").reused and not reads
    shutil.rmtree(tmp_path / "out" / ".cache")
    again = convert(raw_copy, tmp_path / "out")
    assert again.reused and again.key == first.key and len(reads) == len(set(reads)) > 0


def test_a_failing_refresh_of_one_sequence_takes_that_one_back_and_keeps_the_others(raw_copy, tmp_path):
    name, added = only_sequence(raw_copy), second_sequence(raw_copy)
    convert(raw_copy, tmp_path / "out")
    image = sorted((raw_copy / "images/s05" / added / "1").glob("*.jpg"))[3]
    whole = image.read_bytes()
    image.write_bytes(simplejpeg.encode_jpeg(np.full((40, 60, 3), 99, np.uint8), colorspace="RGB"))
    with pytest.raises(DataError, match="60x40 pixels, expected"):
        convert(raw_copy, tmp_path / "out", sequences=[added])
    manifest = json.loads((tmp_path / "out/s05/manifest.json").read_text())
    assert [entry["sequence"] for entry in manifest["sequences"]] == [name] and manifest["withdrawn"] == [added]
    assert set(open_shards(tmp_path / "out").column("sequence")) == {name}
    image.write_bytes(whole)
    convert(raw_copy, tmp_path / "out", sequences=[name])  # the withdrawn one comes back: it was not given up
    assert set(open_shards(tmp_path / "out").column("sequence")) == {name, added}


REFRESH_KILLED = """
import os, sys
from pathlib import Path
from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.conversion import convert_sequence
from hawor_pipeline.conversion.prepare import convert_subjects
convert_sequence.mark_done = lambda *_: os._exit(9)  # as if killed before the shard was published
settings = ConversionConfig(target_resolution=(64, 64), views=(0, 1, 4))
convert_subjects(sys.argv[1], None, ["s05"], sys.argv[2], settings, sequences=[sys.argv[3]], workers=0)
"""


def test_a_killed_refresh_forgets_no_sequence(raw_copy, tmp_path):
    name, added = only_sequence(raw_copy), second_sequence(raw_copy)
    convert(raw_copy, tmp_path / "out")
    whole = tree(tmp_path / "out" / "s05")
    image = sorted((raw_copy / "images/s05" / added / "1").glob("*.jpg"))[3]
    kept = image.read_bytes()
    shutil.copy(sorted((raw_copy / "images/s05" / added / "1").glob("*.jpg"))[4], image)
    command = [sys.executable, "-c", REFRESH_KILLED, str(raw_copy), str(tmp_path / "out"), added]
    assert subprocess.run(command, capture_output=True).returncode == 9
    assert set(open_shards(tmp_path / "out").column("sequence")) == {name}
    image.write_bytes(kept)
    convert(raw_copy, tmp_path / "out", sequences=[name])
    assert tree(tmp_path / "out" / "s05") == whole
