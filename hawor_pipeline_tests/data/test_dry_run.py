"""The estimate before a conversion against the conversion itself, and that it writes nothing."""

import json

import pytest

from hawor_pipeline.cli import main
from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.data.convert import convert_subject
from hawor_pipeline.data.dry_run import dry_run

SETTINGS = ConversionConfig(target_resolution=(64, 64), views=(0, 1, 4))


def test_estimate_equals_what_conversion_then_makes(raw_copy, tmp_path):
    said = dry_run(raw_copy, tmp_path / "out", SETTINGS, subjects=["s05", "s03"], workers=1)
    assert not (tmp_path / "out").exists()
    made = convert_subject(raw_copy, None, "s05", tmp_path / "out", SETTINGS, workers=0)
    assert said["crops"] == pytest.approx(made.info["rows"], rel=0.02)
    assert said["gigabytes"] * 1e9 == pytest.approx(made.info["bytes"], rel=0.5, abs=5e5)
    assert said["sequences_to_convert"] == 1 and said["hours"] >= 0 and said["enough_disk"]
    assert "withheld" in said["subjects_without_samples"]["s03"]
    again = dry_run(raw_copy, tmp_path / "out", SETTINGS, subjects=["s05"], workers=1)
    assert (again["sequences_to_convert"], again["sequences_reused"], again["crops"]) == (0, 1, 0)


def test_command_says_it_and_names_what_would_fail(raw_copy, tmp_path, capsys):
    array = next((raw_copy / "raw_seqs/s05").glob("*.object.npy"))
    array.write_bytes(array.read_bytes()[:-9])
    arguments = ["prepare", "--arctic-root", str(raw_copy), "--output-dir", str(tmp_path / "out"), "--dry-run"]
    assert main([*arguments, "--subjects", "s05"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert array.name in said["problems"][0] and said["crops"] == 0
    assert main([*arguments, "--subjects", "s99"]) == 2
