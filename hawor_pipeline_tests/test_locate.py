"""Hand models, raw data and shards are found by one rule, whichever command asks."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from hawor_pipeline.cli import main
from hawor_pipeline.errors import ConfigError, DataError
from hawor_pipeline.locate import (
    check_hand_models,
    find_hand_models,
    find_raw_data,
    find_raw_root_of,
    find_shards,
    hand_models_for_footage,
    hand_models_of,
    shards_source,
)
from hawor_pipeline.sources.hand_models import digest_hand_models
from hawor_pipeline_tests.conftest import DATASET_ROOTS


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch, tmp_path):
    """No variable names a folder, and the project has no data."""
    for name in ("ARCTIC_ROOT", "MANO_DIR", *DATASET_ROOTS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HAWOR_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture
def shards(sample_shards: Path, tmp_path: Path) -> Path:
    """A copy of the sample's shards whose manifests a test may change."""
    return shutil.copytree(sample_shards, tmp_path / "shards")


def change_manifests(shards: Path, **entries) -> Path:
    """Set entries in every manifest; None removes one."""
    for file in shards.glob("*/manifest.json"):
        manifest = {**json.loads(file.read_text()), **entries}
        file.write_text(json.dumps({name: value for name, value in manifest.items() if value is not None}))
    return shards


def install_sample(sample_root: Path) -> Path:
    """Make a sample the project's own; return the folder of its hand."""
    data = Path(os.environ["HAWOR_DATA_DIR"])
    data.mkdir(exist_ok=True)
    (data / "sample").symlink_to(sample_root)
    return data / "sample" / "body_models" / "mano"


class TestRule:
    def test_the_folder_given_comes_first(self, sample_root, shards, licensed_mano, monkeypatch):
        install_sample(sample_root)
        monkeypatch.setenv("MANO_DIR", str(licensed_mano))
        given = sample_root / "body_models" / "mano"
        assert find_hand_models("arctic", given) == given
        assert find_hand_models("synthetic", licensed_mano) == licensed_mano

    def test_synthetic_data_have_the_hand_of_the_sample(self, sample_root, shards, licensed_mano, monkeypatch):
        with pytest.raises(ConfigError, match="sample-data"):
            hand_models_of(shards)
        own = install_sample(sample_root)
        assert hand_models_of(shards) == own
        monkeypatch.setenv("MANO_DIR", str(licensed_mano))
        assert hand_models_of(shards) == own

    def test_a_licensed_model_is_not_taken_for_synthetic_shards(self, shards, licensed_mano, monkeypatch):
        monkeypatch.setenv("MANO_DIR", str(licensed_mano))
        with pytest.raises(ConfigError, match="not the sample's hand"):
            hand_models_of(shards)

    def test_mano_dir_may_name_the_hand_of_a_sample_elsewhere(self, shards, mano_dir, monkeypatch):
        monkeypatch.setenv("MANO_DIR", str(mano_dir))
        assert hand_models_of(shards) == mano_dir

    def test_a_sample_elsewhere_is_found_by_arctic_root(self, sample_root, shards, licensed_mano, monkeypatch):
        monkeypatch.setenv("ARCTIC_ROOT", str(sample_root))
        monkeypatch.setenv("MANO_DIR", str(licensed_mano))
        assert hand_models_of(shards) == sample_root / "body_models" / "mano"
        assert (
            find_raw_data().source == "synthetic" and find_raw_data().mano_dir == sample_root / "body_models" / "mano"
        )

    @pytest.mark.parametrize("source", ["arctic", "freihand"])
    def test_the_sample_s_hand_is_never_taken_for_other_data(
        self, source, sample_root, shards, licensed_mano, monkeypatch
    ):
        own = install_sample(sample_root)
        change_manifests(shards, source=source, hand_models=None)
        with pytest.raises(ConfigError, match=r"\$MANO_DIR \(not set\).*mano\.is\.tue\.mpg\.de"):
            hand_models_of(shards)
        monkeypatch.setenv("MANO_DIR", str(own))
        with pytest.raises(ConfigError, match="not MANO"):
            hand_models_of(shards)
        monkeypatch.setenv("MANO_DIR", str(licensed_mano))
        assert hand_models_of(shards) == licensed_mano

    def test_models_beside_the_raw_data_come_after_the_variable(self, raw_copy, shards, licensed_mano, monkeypatch):
        (raw_copy / "SYNTHETIC").unlink()
        beside = raw_copy.parent / "body_models" / "mano"
        shutil.rmtree(beside)
        shutil.copytree(licensed_mano, beside)
        change_manifests(shards, source="arctic", hand_models=None)
        with pytest.raises(ConfigError):
            hand_models_of(shards)
        assert find_hand_models("arctic", raw_root=raw_copy) == beside
        monkeypatch.setenv("ARCTIC_ROOT", str(raw_copy))
        assert hand_models_of(shards) == beside
        monkeypatch.setenv("MANO_DIR", str(licensed_mano))
        assert hand_models_of(shards) == licensed_mano

    def test_a_folder_without_models_is_an_error(self, tmp_path, monkeypatch):
        with pytest.raises(ConfigError, match="no MANO_RIGHT"):
            find_hand_models("arctic", tmp_path / "nowhere")
        monkeypatch.setenv("MANO_DIR", str(tmp_path))
        with pytest.raises(ConfigError, match="no MANO_RIGHT"):
            find_hand_models("arctic")

    def test_footage_without_a_dataset_takes_the_sample_s_hand_last(
        self, sample_root, licensed_mano, mano_dir, tmp_path, monkeypatch
    ):
        with pytest.raises(ConfigError, match="MANO models not found for arctic data"):
            hand_models_for_footage()
        own = install_sample(sample_root)
        assert hand_models_for_footage() == (own, True)
        monkeypatch.setenv("MANO_DIR", str(licensed_mano))
        assert hand_models_for_footage() == (licensed_mano, False)
        assert hand_models_for_footage(mano_dir) == (mano_dir, True)
        monkeypatch.setenv("MANO_DIR", str(tmp_path / "nowhere"))
        with pytest.raises(ConfigError, match="no MANO_RIGHT"):
            hand_models_for_footage()


class TestDigests:
    def test_models_that_are_not_those_of_the_shards_are_refused(self, shards, mano_dir, licensed_mano):
        change_manifests(shards, hand_models=digest_hand_models(mano_dir))
        assert hand_models_of(shards, mano_dir) == mano_dir
        with pytest.raises(ConfigError, match=r"not those of the shards.*expected left .*, found .* and right"):
            hand_models_of(shards, licensed_mano)

    def test_older_manifests_are_not_checked(self, shards, licensed_mano):
        change_manifests(shards, hand_models=None)
        check_hand_models(shards, licensed_mano)
        assert hand_models_of(shards, licensed_mano) == licensed_mano

    def test_npz_and_pkl_of_one_model_are_alike(self, shards, mano_dir, tmp_path):
        import scipy.sparse

        change_manifests(shards, hand_models=digest_hand_models(mano_dir))
        for side in ("RIGHT", "LEFT"):
            arrays = dict(np.load(mano_dir / f"MANO_{side}.npz"))
            arrays["J_regressor"] = scipy.sparse.csc_matrix(arrays["J_regressor"])
            (tmp_path / f"MANO_{side}.pkl").write_bytes(pickle.dumps(arrays, protocol=2))
        assert hand_models_of(shards, tmp_path) == tmp_path


class TestShards:
    def test_mixed_sources_are_refused(self, shards, mano_dir):
        file = shards / "s01" / "manifest.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "source": "arctic"}))
        with pytest.raises(DataError, match="arctic and synthetic"):
            shards_source(shards)
        with pytest.raises(DataError, match="arctic and synthetic"):
            hand_models_of(shards, mano_dir)

    def test_the_sample_cannot_be_mixed_with_other_data(self, sample_shards, shards, mano_dir, licensed_mano):
        change_manifests(shards, source="arctic", hand_models=None)
        with pytest.raises(DataError, match="cannot be mixed"):
            hand_models_of([sample_shards, shards], mano_dir)
        assert hand_models_of([shards, shards], licensed_mano) == licensed_mano

    def test_published_shards_are_like_local_ones(self, shards, sample_root):
        fsspec = pytest.importorskip("fsspec")
        from hawor_pipeline.remote import publish_folder

        fsspec.filesystem("memory").store.clear()
        own = install_sample(sample_root)
        publish_folder(shards, "memory://bucket/synthetic")
        assert shards_source("memory://bucket/synthetic") == "synthetic"
        assert hand_models_of("memory://bucket/synthetic") == own
        assert (find_shards("memory://bucket/synthetic", "s01") / "s01" / "manifest.json").is_file()

    def test_raw_data_must_be_of_the_source_of_the_shards(self, shards, sample_root, raw_copy, monkeypatch):
        with pytest.raises(ConfigError, match="--arctic-root"):
            find_raw_root_of(shards)
        assert find_raw_root_of(shards, sample_root).path == sample_root / "arctic"
        (raw_copy / "SYNTHETIC").unlink()
        with pytest.raises(ConfigError, match="holds arctic data, expected synthetic"):
            find_raw_root_of(shards, raw_copy)
        monkeypatch.setenv("ARCTIC_ROOT", str(raw_copy))
        with pytest.raises(ConfigError, match="--arctic-root"):
            find_raw_root_of(shards)
        assert find_raw_root_of(change_manifests(shards, source="arctic")).path == raw_copy


COMMANDS = {
    "evaluate": ["evaluate", "--checkpoint", "{checkpoint}", "--data", "{shards}", "--output", "{out}"],
    "show": ["show", "{sample}", "--data", "{shards}", "--metrics", "{metrics}", "--output", "{out}/page.html"],
    "video": [
        "video", "{sequence}", "--crops", "--data", "{shards}", "--metrics", "{metrics}", "--output", "{out}.mp4",
    ],
    "report": [
        "report", "--run", "truth", "--against", "bent", "--data", "{shards}", "--metrics", "{metrics}",
        "--output", "{out}",
    ],
    "train": ["train", "--config", "{config}"],
}  # fmt: skip


@pytest.fixture(scope="module")
def metrics(sample_shards: Path, mano_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of two runs."""
    from hawor_pipeline_tests.evaluation.truth_run import write_truth_run

    folder = tmp_path_factory.mktemp("metrics")
    write_truth_run(folder, sample_shards, mano_dir, "truth")
    write_truth_run(folder, sample_shards, mano_dir, "bent", bend_rad=0.5)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
class TestEveryCommandAlike:
    @pytest.fixture
    def run(self, command, shards, metrics, checkpoint, tmp_path, capsys):
        """Run the command; return its exit code and messages."""
        import pyarrow.parquet as pq

        (file,) = list((shards / "s05").glob("*/annotations.parquet"))[:1]
        table = pq.read_table(file, columns=["sample_id", "view"], partitioning=None)
        sample = next(row["sample_id"] for row in table.to_pylist() if row["view"] == 1)
        config = {
            "training_data_dir": str(shards), "backbone_size": "tiny", "image_size": 64, "max_steps": 1,
            "output_dir": str(tmp_path / "runs"), "accelerator": "cpu", "num_workers": 0, "clip_length": 2,
        }  # fmt: skip
        (tmp_path / "config.yaml").write_text(json.dumps(config))
        places = {
            "shards": shards, "metrics": metrics, "checkpoint": checkpoint, "out": tmp_path / "out",
            "sample": sample, "sequence": "/".join(sample.split("/")[:2]), "config": tmp_path / "config.yaml",
        }  # fmt: skip

        def run(mano: Path | None = None) -> tuple[int, str]:
            words = [word.format(**places) for word in COMMANDS[command]]
            if mano is not None:
                words += ["--set", f"mano_model_path={mano}"] if command == "train" else ["--mano-dir", str(mano)]
            code = main(words)
            return code, capsys.readouterr().err

        return run

    def test_the_sample_s_hand_is_not_taken_for_arctic(self, run, shards, sample_root):
        install_sample(sample_root)
        change_manifests(shards, source="arctic", hand_models=None)
        code, err = run()
        assert code == 2 and "MANO models not found for arctic data" in err and "Traceback" not in err

    def test_a_licensed_model_is_not_taken_for_the_sample(self, run, licensed_mano, monkeypatch):
        monkeypatch.setenv("MANO_DIR", str(licensed_mano))
        code, err = run()
        assert code == 2 and "MANO models not found for synthetic data" in err

    def test_a_wrong_model_is_refused_though_given(self, run, shards, mano_dir, licensed_mano):
        change_manifests(shards, hand_models=digest_hand_models(mano_dir))
        code, err = run(licensed_mano)
        assert code == 2 and "not those of the shards" in err

    def test_the_hand_of_the_sample_is_found(self, command, run, sample_root):
        if command == "train":
            pytest.skip("training is run by its own tests")
        install_sample(sample_root)
        assert run()[0] == 0
