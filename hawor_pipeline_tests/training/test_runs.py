"""Which run a configuration means: the same key for the same numbers, and only then."""

import shutil

import pytest

from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.provenance import atomic_write_json
from hawor_pipeline.shards.splits import SplitProtocol, recorded_protocols
from hawor_pipeline.training.launch import plan, train
from hawor_pipeline.training.resolve import with_recorded_split
from hawor_pipeline.training.runs import run_key
from hawor_pipeline.untrusted.safe_load import load_checkpoint
from hawor_pipeline_tests.training.conftest import tiny_config
from hawor_pipeline_tests.training.hand_shards import write_mano, write_shards


def test_machine_matters_do_not_change_the_key(tiny):
    base = run_key(tiny(), "v1")
    assert run_key(tiny(num_workers=3, log_images_every_n_steps=5, output_dir="elsewhere"), "v1") == base
    assert run_key(tiny(), "v2") != base
    assert run_key(tiny(learning_rate=2e-3), "v1") != base
    assert run_key(tiny(ema_decay=0.9), "v1") != base


def test_the_content_of_pretrained_weights_counts_and_not_their_path(tiny, tmp_path):
    for name, content in (("a.ckpt", b"one"), ("b.ckpt", b"one"), ("c.ckpt", b"two")):
        (tmp_path / name).write_bytes(content)
    keys = {
        name: run_key(tiny(pretrained_weights=str(tmp_path / name)), "v") for name in ("a.ckpt", "b.ckpt", "c.ckpt")
    }
    assert keys["a.ckpt"] == keys["b.ckpt"] != keys["c.ckpt"]
    assert keys["a.ckpt"] != run_key(tiny(), "v")
    with pytest.raises(ConfigError, match=r"pretrained_weights .*none\.ckpt does not exist"):
        run_key(tiny(pretrained_weights=str(tmp_path / "none.ckpt")), "v")


def test_the_content_of_validation_data_counts(tiny, hand_data, tmp_path):
    mano = write_mano(tmp_path / "mano")
    for name, seed in (("one", 1), ("same", 1), ("other", 2)):
        write_shards(tmp_path / name, mano, subjects=("s05",), frames=3, views=(1,), seed=seed)
    keys = {name: run_key(tiny(validation_data_dir=str(tmp_path / name)), "v") for name in ("one", "same", "other")}
    assert keys["one"] == keys["same"] != keys["other"]
    assert keys["one"] != run_key(tiny(), "v")


def test_going_on_from_a_checkpoint_is_a_run_of_its_own(hand_data, tmp_path, monkeypatch):
    """It starts at that checkpoint's step, is found again, and leaves the first run as it was."""
    config = tiny_config(hand_data, max_steps=3, output_dir=str(tmp_path / "runs"))
    first, code = train(config)
    assert code == 0
    start = first.path / "checkpoints" / "last.ckpt"
    before = start.read_bytes()
    longer = tiny_config(hand_data, max_steps=5, output_dir=str(tmp_path / "runs"))
    second, _ = train(longer, resume=str(start))
    assert second.path not in (first.path, plan(longer).run_dir)
    assert start.read_bytes() == before
    assert load_checkpoint(second.path / "checkpoints" / "last.ckpt")["global_step"] == 5
    steps = [line for line in (second.path / "progress.jsonl").read_text().splitlines() if '"kind": "start"' in line]
    assert len(steps) == 1 and '"step": 3' in steps[0]
    again, _ = train(longer, resume=str(start))
    assert again.reused and again.path == second.path
    with pytest.raises(ConfigError, match=r"none\.ckpt does not exist"):
        train(longer, resume=str(tmp_path / "none.ckpt"))


def test_the_split_of_the_protocol_that_was_recorded_with_the_shards(tiny, hand_data, tmp_path):
    shards = tmp_path / "shards"
    shutil.copytree(hand_data / "shards", shards)
    config = tiny(training_data_dir=str(shards))
    assert with_recorded_split(config) == config  # nothing is recorded
    subjects = {"train": ["s05"], "val": ["s01", "s09"], "test": []}
    protocol = SplitProtocol("p1", (1,), subjects, {"train": [], "val": [], "test": []}, "splits_json/protocol_p1.json")
    atomic_write_json(shards / "protocols.json", {"p1": protocol.to_dict()})
    assert with_recorded_split(config).val_subjects == ["s01"]  # s09 is not among these shards
    assert with_recorded_split(tiny(training_data_dir=str(shards), val_subjects=["s05"])).val_subjects == ["s05"]
    assert plan(with_recorded_split(config)).key != plan(config).key
    (shards / "protocols.json").write_text("[1]")
    with pytest.raises(DataError, match=r"protocols\.json is damaged"):
        recorded_protocols(shards)


def test_two_runs_of_one_key_share_no_folder_with_another(tiny, tmp_path):
    one, other = plan(tiny(output_dir=str(tmp_path))), plan(tiny(output_dir=str(tmp_path), seed=7))
    assert one.run_dir != other.run_dir
    assert one == plan(tiny(output_dir=str(tmp_path), num_workers=2))


def test_prepare_records_the_protocols_of_the_raw_data(sample_root, tmp_path):
    from hawor_pipeline.shards.splits import read_protocols, record_protocols
    from hawor_pipeline.sources.arctic import ArcticRoot

    root = ArcticRoot.locate(sample_root / "arctic")
    record_protocols(tmp_path, read_protocols(root))
    assert recorded_protocols(tmp_path) == read_protocols(root)
    assert recorded_protocols(tmp_path)["p1"].subjects["val"] == ["s05"]
