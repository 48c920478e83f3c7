"""Training runs on disk: the run of a configuration, and its state (new, unfinished or finished). Loads no torch.

The key of a run is a hash of everything that determines its numbers: the configuration without machine settings, the
content of the files it names (pretrained weights, validation shards, the checkpoint it continues from), the dataset
version, and the version of the training code. Equal keys mean the same folder, so an interrupted run is resumed.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hawor_pipeline.config import TrainingConfig, dump_config
from hawor_pipeline.errors import CheckpointError, ConfigError
from hawor_pipeline.provenance import (
    StageResult,
    atomic_write_text,
    find_done,
    hash_json,
    mark_done,
    sha256_file,
)
from hawor_pipeline.versions import TRAINING_VERSION

# Settings without effect on the numbers of a run. Of the files that they name, the content is part of the key.
_MACHINE_KEYS = """
accelerator micro_batches num_threads num_workers pin_memory prefetch_factor persistent_workers strategy
training_data_dir validation_data_dir pretrained_weights mano_model_path output_dir log_dir experiment_name
log_every_n_steps log_images_every_n_steps use_tensorboard use_wandb wandb_project wandb_entity save_top_k
save_every_n_epochs save_every_n_steps
"""
MACHINE_KEYS = frozenset(_MACHINE_KEYS.split())
CONFIG_FILE = "config.yaml"
RESULT_FILE = "result.json"
LAST_CHECKPOINT = Path("checkpoints") / "last.ckpt"
BEST_CHECKPOINT = Path("checkpoints") / "best.ckpt"


@dataclass(frozen=True, slots=True)
class RunPlan:
    """Folder and state of a run."""

    run_id: str
    run_dir: Path
    key: str
    state: Literal["new", "unfinished", "finished"]
    why: str


def run_key(config: TrainingConfig, dataset_version: str, start: Path | str | None = None) -> str:
    """Hash everything that determines the numbers of a run.

    Args:
        config: resolved configuration.
        dataset_version: of the training shards.
        start: checkpoint of another run that this run continues from.

    Raises:
        ConfigError: a file or directory that it names does not exist.
    """
    settings = {key: value for key, value in config.model_dump(mode="json").items() if key not in MACHINE_KEYS}
    content: dict[str, str] = {}
    if config.pretrained_weights is not None:
        content["pretrained_weights"] = _file_hash(config.pretrained_weights, "pretrained_weights")
    if config.validation_data_dir is not None:
        from hawor_pipeline.shards.store import shards_version  # loads numpy and pyarrow, which the web UI does without

        content["validation_data"] = shards_version(config.validation_data_dir)
    if start is not None:
        content["start"] = _file_hash(start, "checkpoint to resume from")
    named = {"settings": settings, "dataset": dataset_version, "training": TRAINING_VERSION, "content": content}
    return hash_json(named)


def _file_hash(path: Path | str, what: str) -> str:
    if not Path(path).is_file():
        raise ConfigError(f"{what} {path} does not exist; give the path of a checkpoint file")
    return sha256_file(path)


def plan_run(
    config: TrainingConfig,
    dataset_version: str,
    runs_dir: Path,
    when_unchanged: Literal["reuse", "retrain"] = "reuse",
    start: Path | str | None = None,
) -> RunPlan:
    """Find the run of a configuration: finished (to reuse), unfinished (to resume), or new.

    Args:
        config, dataset_version: see `run_key`.
        runs_dir: folder with one folder per run.
        when_unchanged: `retrain` starts another run if one with the same key is finished.
        start: checkpoint of another run to continue from; such a run has a key and a folder of its own.

    Raises:
        ConfigError: a file or directory that the configuration names does not exist.
    """
    key = run_key(config, dataset_version, start)
    name = re.sub(r"[^A-Za-z0-9_]+", "_", config.experiment_name)
    base = f"{name if name[:1].isalpha() else 'run_' + name}-{key[:10]}"
    attempt = 1
    while True:
        run_id = base if attempt == 1 else f"{base}-{attempt}"
        run_dir = runs_dir / run_id
        info, why = find_done(run_dir, key)
        if info is None:
            unfinished = (run_dir / LAST_CHECKPOINT).is_file()
            state: Literal["new", "unfinished"] = "unfinished" if unfinished else "new"
            reason = "an unfinished run with the same settings and data exists; it resumes" if unfinished else why
            return RunPlan(run_id, run_dir, key, state, reason)
        if when_unchanged == "reuse":
            return RunPlan(run_id, run_dir, key, "finished", why)
        attempt += 1


def prepare_run(plan: RunPlan, config: TrainingConfig) -> Path:
    """Write the resolved configuration into the folder of the run; return its path."""
    path = plan.run_dir / CONFIG_FILE
    atomic_write_text(path, dump_config(config))
    return path


def finish_run(plan: RunPlan) -> StageResult:
    """Record a run whose training process succeeded.

    Returns:
        The result, with the numbers of the training process and `checkpoint_sha256` of the best checkpoint as info.

    Raises:
        CheckpointError: the training process left no result or no checkpoint.
    """
    info, why = find_done(plan.run_dir, plan.key)
    if info is not None:
        return StageResult(plan.run_dir, True, why, plan.key, info)
    try:
        result = json.loads((plan.run_dir / RESULT_FILE).read_text())
        status = result["status"]
        digest = sha256_file(plan.run_dir / BEST_CHECKPOINT)
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"training in {plan.run_dir} ended without a usable result ({error}); run the same command again to resume"
        ) from error
    if status != "completed":
        raise CheckpointError(
            f"training in {plan.run_dir} is {status} at step {result.get('step')}; run the same command again to resume"
        )
    info = {**result, "run_id": plan.run_id, "checkpoint_sha256": digest}
    mark_done(plan.run_dir, plan.key, info, [CONFIG_FILE, RESULT_FILE, str(BEST_CHECKPOINT)])
    return StageResult(plan.run_dir, False, plan.why, plan.key, info)
