"""A project folder after a whole evaluation: baselines, a run, its curves, its rivals and its robustness."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hawor_pipeline.evaluation.evaluate import evaluate_baselines, evaluate_checkpoint
from hawor_pipeline.evaluation.rivals import evaluate_rivals
from hawor_pipeline.evaluation.setting import Devices, Setting
from hawor_pipeline.models.checkpoints import open_checkpoint
from hawor_pipeline.provenance import StageResult

RUN, VERSION = "random", "v1"


@dataclass(frozen=True, slots=True)
class Analysed:
    """The folder, and what the stages returned."""

    root: Path
    checkpoint: Path
    setting: Setting
    baselines: StageResult
    run: StageResult
    rivals: StageResult

    @property
    def metrics(self) -> Path:
        """The metric tables."""
        return self.root / "data" / "metrics"


def analyse(root: Path, checkpoint: Path, shards: Path, mano_dir: Path) -> Analysed:
    """Evaluate a checkpoint in all ways."""
    curves = {"step": [1, 2] * 2, "epoch": [0] * 4, "split": ["train"] * 4, "metric": ["loss/BETAS"] * 2 + ["rate"] * 2}
    pq.write_table(pa.table({**curves, "value": [2.0, 1.0, 5.0, 6.0]}), root / "training.parquet")
    setting = Setting.of(shards, mano_dir, root / "data" / "metrics", VERSION, ["s05"])
    baselines = evaluate_baselines(setting, ["s01", "s03"])
    run = evaluate_checkpoint(
        open_checkpoint(checkpoint),
        setting,
        RUN,
        devices=Devices("cpu"),
        training_table=root / "training.parquet",
        robustness_samples=20,
        registry_dir=root / "registry",
    )
    rivals = evaluate_rivals(RUN, setting, registry_dir=root / "registry", devices=Devices("cpu"))
    return Analysed(root, checkpoint, setting, baselines, run, rivals)
