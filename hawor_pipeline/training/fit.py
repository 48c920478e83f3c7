"""One training run from a configuration: `python -m hawor_pipeline.training.fit --config FILE --run-dir DIR`.

The run directory holds config.yaml, checkpoints/{last,best}.ckpt, training.parquet, progress.jsonl, result.json and,
once finished, reports/training_report.md with the curves and best values. A directory with a `last.ckpt` is resumed.
Exit codes: 0 done, 1 failed, 2 invalid configuration, 128 + n stopped by signal n with a checkpoint.
"""

import os

# OpenMP reads this when its thread pool starts, so it is set before torch is imported. Threads that spin while they
# wait starve the other processes of the machine: on two shared cores training was four to ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import fcntl
import logging
import math
import sys
import time
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping

from hawor_pipeline.config import TrainingConfig, dump_config
from hawor_pipeline.errors import CheckpointError, ConfigError, HaworError
from hawor_pipeline.evaluation.training_report import Meaning, write_training_report
from hawor_pipeline.provenance import atomic_write_json, atomic_write_text
from hawor_pipeline.training.averaging import WeightAverage
from hawor_pipeline.training.callbacks import MetricsRecorder, StepTimer
from hawor_pipeline.training.image_log import PredictionImages
from hawor_pipeline.training.keeping import CheckpointKeeper
from hawor_pipeline.training.loggers import TrainingTable, build_loggers, close_loggers
from hawor_pipeline.training.memory import explain_out_of_memory
from hawor_pipeline.training.module import EnhancedHaWoRTrainer
from hawor_pipeline.training.progress import Progress, ProgressFile, RunClock
from hawor_pipeline.training.resolve import ConfigSource, as_config
from hawor_pipeline.training.runs import CONFIG_FILE, LAST_CHECKPOINT, RESULT_FILE
from hawor_pipeline.training.stopping import Stopper

PROGRESS_FILE = "progress.jsonl"
TABLE_FILE = "training.parquet"
IMAGES_DIR = "pictures"
REPORTS_DIR = "reports"
# Units and formulas for the report of a finished run, by the first part of a metric's name.
_MEANINGS = {
    "loss": Meaning("1", "weighted sum of the terms; loss/TERM without weight"),
    "weight": Meaning("1", "weight of each term"),
    "share": Meaning("1", "share of each term in the weighted sum"),
    "mpjpe_mm": Meaning("mm", "mean joint distance, wrists put on each other"),
    "pa_mpjpe_mm": Meaning("mm", "mean joint distance after the best similarity transform"),
    "grad_norm": Meaning("1", "Euclidean norm of the gradient, before clipping"),
    "learning_rate": Meaning("1", "of the first parameter group"),
    "samples_per_second": Meaning("1/s", "frames trained on per second"),
    "data_wait_share": Meaning("1", "share of the time without a batch"),
    "seconds": Meaning("s", "time in training so far"),
}
LOCK_WAIT_SECONDS = 30.0  # a process that is being stopped needs time to write its checkpoint


class TrainingPipeline:
    """A training run.

    Args:
        config_path: path of a YAML file, a TrainingConfig, or a mapping of its values.
        run_dir: directory of the run; None: `output_dir`/`experiment_name` of the configuration.
        on_progress: called with each progress line (start, step, validation, warning, end).
        echo: print these lines.
    """

    def __init__(
        self,
        config_path: ConfigSource,
        run_dir: str | Path | None = None,
        on_progress: Progress | None = None,
        *,
        echo: bool = False,
    ):
        self.config = as_config(config_path)
        self.run_dir = Path(run_dir or Path(self.config.output_dir) / self.config.experiment_name)
        self.report = ProgressFile(self.run_dir / PROGRESS_FILE, echo=echo, also=on_progress)
        self.stopped_by: int | None = None

    @property
    def last_checkpoint(self) -> Path:
        """Path of the checkpoint that a resumed run starts from."""
        return self.run_dir / LAST_CHECKPOINT

    def train(self, resume: str | Path | None = "auto") -> tuple[pl.Trainer, EnhancedHaWoRTrainer]:
        """Train to the end, or until a signal arrives.

        Args:
            resume: "auto" resumes from `last.ckpt` if it exists; a path resumes from that file; None starts a new run.

        Returns:
            The Lightning Trainer, and the module: `module(batch)` predicts.

        Raises:
            HaworError: see `hawor_pipeline.errors`.
        """
        (self.run_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
        with _only_writer(self.run_dir):
            return self._train(resume)

    def _train(self, resume: str | Path | None) -> tuple[pl.Trainer, EnhancedHaWoRTrainer]:
        checkpoint = self._resumed_from(resume)
        _silence_lightning()
        prepare_torch(self.config)
        module = EnhancedHaWoRTrainer(self.config)
        config = module.config
        atomic_write_text(self.run_dir / CONFIG_FILE, dump_config(config))
        table, clock, timer = TrainingTable(self.run_dir / TABLE_FILE), RunClock(), StepTimer()
        keeper = CheckpointKeeper(self.run_dir / "checkpoints", config, table)
        recorder = MetricsRecorder(config, table, timer, clock, self.report)
        stopper = Stopper(clock, config.max_hours)
        optional: list[Callback] = [WeightAverage(config.ema_decay)] if config.ema_decay else []
        if config.log_images_every_n_steps:
            optional.append(PredictionImages(self.run_dir / IMAGES_DIR, config.log_images_every_n_steps))
        trainer = build_trainer(config, self.run_dir, [recorder, *optional, stopper, keeper, timer])
        with warnings.catch_warnings(), explain_out_of_memory(config):
            warnings.filterwarnings("ignore", category=UserWarning, module="lightning.*")
            try:
                trainer.fit(module, ckpt_path=checkpoint, weights_only=True)
            finally:
                close_loggers(trainer.loggers)
        if trainer.is_global_zero:
            table.flush()
            keeper.ensure_best()
            self._finish(trainer, module, keeper, recorder, stopper)
            if self.stopped_by is None:
                write_training_report(table.rows(), self.run_dir / REPORTS_DIR, _MEANINGS, by="step")
        return trainer, module

    def _resumed_from(self, resume: str | Path | None) -> str | None:
        if resume is None or (resume == "auto" and not self.last_checkpoint.exists()):
            return None
        path = self.last_checkpoint if resume == "auto" else Path(resume)
        if not path.is_file():
            raise ConfigError(f"checkpoint {path} to resume from does not exist")
        if not zipfile.is_zipfile(path):
            raise CheckpointError(f"{path} is corrupt; remove it to start a new run, or resume from another checkpoint")
        return str(path)

    def _finish(
        self,
        trainer: pl.Trainer,
        module: EnhancedHaWoRTrainer,
        keeper: CheckpointKeeper,
        recorder: MetricsRecorder,
        stopper: Stopper,
    ) -> None:
        ended_by = "steps"
        if trainer.global_step < module.total_steps():
            self.stopped_by = stopper.received
            ended_by = "signal" if self.stopped_by else "max_hours" if stopper.out_of_time else "early_stopping"
        result = {
            "status": "completed" if self.stopped_by is None else "interrupted",
            "ended_by": ended_by,
            "step": trainer.global_step,
            "epoch": math.ceil(trainer.global_step / module.steps_per_epoch()),  # begun
            "total_steps": module.total_steps(),
            "monitor": self.config.monitor,
            "best_value": keeper.best_value(),
            "best_step": keeper.best[0][1] if keeper.best else None,
            "seconds": round(recorder.clock.seconds(), 2),
            "parameters": sum(p.numel() for p in module.model.parameters()),
            "device": str(module.device),
            "split": module.data.split.to_dict(),
            "skipped_batches": module.skipped_batches,
            "metrics": recorder.validated,
        }
        atomic_write_json(self.run_dir / RESULT_FILE, result)
        self.report({"kind": "end", **result})


@contextmanager
def _only_writer(run_dir: Path) -> Iterator[None]:
    """Lock the directory of the run; the kernel releases the lock when this process ends, for any reason."""
    if int(os.environ.get("LOCAL_RANK", "0")) != 0:
        yield
        return
    handle = os.open(run_dir / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + LOCK_WAIT_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise CheckpointError(
                        f"another process trains in {run_dir}; wait for it or stop it, then run this again"
                    ) from None
                time.sleep(0.5)
        yield
    finally:
        os.close(handle)


def prepare_torch(config: TrainingConfig) -> None:
    """Set the CPU threads and the determinism of this process as configured."""
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    # Some GPU operations have no deterministic form: a warning lets the run proceed.
    torch.use_deterministic_algorithms(config.deterministic, warn_only=torch.cuda.is_available())


def build_trainer(config: TrainingConfig, run_dir: Path, callbacks: list[Callback]) -> pl.Trainer:
    """Build Lightning's trainer as configured; this project loads, saves, logs and handles signals itself."""
    if config.early_stopping_patience:
        early = EarlyStopping(
            config.monitor,
            min_delta=config.early_stopping_min_delta,
            patience=config.early_stopping_patience,
            mode=config.mode,
            strict=False,
            verbose=False,
            check_on_train_epoch_end=False,
        )
        callbacks = [*callbacks[:1], early, *callbacks[1:]]
    interval = config.val_check_interval
    by_steps = isinstance(interval, int)
    # Lightning takes shares of an epoch, or numbers of batches; several epochs are an argument of their own.
    within = interval * config.micro_batches if by_steps else min(interval, 1.0)
    return pl.Trainer(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=config.strategy,
        precision=config.lightning_precision,  # type: ignore[arg-type]
        max_epochs=config.max_epochs,
        max_steps=config.max_steps,
        accumulate_grad_batches=config.passes_per_step,
        gradient_clip_val=config.grad_clip_val or None,
        val_check_interval=within,
        check_val_every_n_epoch=None if by_steps else max(1, round(interval)),
        num_sanity_val_steps=0,
        deterministic=("warn" if torch.cuda.is_available() else True) if config.deterministic else False,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=build_loggers(config, run_dir) or False,
        callbacks=callbacks,
        default_root_dir=run_dir,
    )


def _silence_lightning() -> None:
    """Hide Lightning's advice on loaders, logging and resuming, which does not apply here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)


def main(arguments: list[str] | None = None) -> int:
    """Run the training process and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m hawor_pipeline.training.fit", description=__doc__)
    parser.add_argument("--config", required=True, type=Path, help="resolved configuration (YAML)")
    parser.add_argument(
        "--run-dir", required=True, type=Path, help="directory of the run; resumed if it holds a checkpoint"
    )
    parser.add_argument("--resume", default="auto", help='"auto", "never", or the path of a checkpoint')
    parser.add_argument("--quiet", action="store_true", help="do not print the progress lines")
    options = parser.parse_args(arguments)
    try:
        pipeline = TrainingPipeline(options.config, options.run_dir, echo=not options.quiet)
        pipeline.train(None if options.resume == "never" else options.resume)
    except HaworError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0 if pipeline.stopped_by is None else 128 + pipeline.stopped_by


if __name__ == "__main__":
    sys.exit(main())
