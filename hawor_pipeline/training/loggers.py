"""Records of a run's metrics: a table that survives interruptions, TensorBoard, Weights & Biases."""

import io
import logging
import netrc
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from hawor_pipeline.config import TrainingConfig
from hawor_pipeline.errors import DataError
from hawor_pipeline.evaluation.training_report import Row
from hawor_pipeline.provenance import atomic_write_bytes, atomic_write_json

SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("epoch", pa.int32()),
        ("split", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
    ]
)
WANDB_LINK_FILE = "wandb.json"  # address of the run on Weights & Biases, or the folder to upload
log = logging.getLogger(__name__)


class TrainingTable:
    """Metrics of a run as rows (step, epoch, split, metric, value).

    The file is replaced as a whole with each checkpoint. Steps that a killed run logged after its last checkpoint are
    logged again by the resumed run, so no step appears twice.

    Args:
        path: of the Parquet file.
    """

    def __init__(self, path: Path):
        self.path = path
        self._kept = SCHEMA.empty_table()
        self._rows: list[tuple[int, int, str, str, float]] = []

    def resume(self, step: int) -> None:
        """Load the rows of an earlier process, up to the step of its checkpoint.

        Raises:
            DataError: the file is corrupt.
        """
        self._rows = []
        if not self.path.exists():
            return
        try:
            table = pq.read_table(self.path, schema=SCHEMA)
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"{self.path} is corrupt ({error}); remove it to resume without the earlier curves"
            ) from error
        self._kept = table.filter(pc.less_equal(table["step"], step)).combine_chunks()

    def add(self, step: int, epoch: int, split: str, values: Mapping[str, float]) -> None:
        """Add a row per metric."""
        self._rows += [(step, epoch, split, name, float(value)) for name, value in values.items()]

    def rows(self) -> list[Row]:
        """Return the flushed metrics, those of one step and split together."""
        found: dict[tuple[int, int, str], dict[str, float]] = {}
        for step, epoch, split, name, value in zip(*self._kept.to_pydict().values(), strict=True):
            found.setdefault((step, epoch, split), {})[name] = value
        return [Row(*place, 1.0, values) for place, values in found.items()]

    def flush(self) -> None:
        """Write all rows; without new rows the file is unchanged."""
        if not self._rows and self.path.exists():
            return
        columns = zip(*self._rows, strict=True) if self._rows else [()] * len(SCHEMA)
        new = pa.table([pa.array(values, f.type) for values, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)
        self._kept = pa.concat_tables([self._kept, new]).combine_chunks()
        self._rows = []
        buffer = io.BytesIO()
        pq.write_table(self._kept, buffer, compression="zstd")
        atomic_write_bytes(self.path, buffer.getvalue())


def build_loggers(config: TrainingConfig, run_dir: Path) -> list[Logger]:
    """Build the configured loggers; none of them prompts or needs an account."""
    loggers: list[Logger] = []
    folder = run_dir / config.log_dir
    if config.use_tensorboard:
        loggers.append(TensorBoardLogger(folder, name="tensorboard", version=""))
    if config.use_wandb:
        loggers.append(_wandb(config, run_dir, folder))
    return loggers


def close_loggers(loggers: Iterable[Logger]) -> None:
    """Flush and close loggers, so that another run in this process starts logs of its own."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


def _wandb(config: TrainingConfig, run_dir: Path, folder: Path) -> WandbLogger:
    offline = not _wandb_key()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("WANDB_SILENT", "true")
    if offline:
        log.warning("no Weights & Biases key: logging offline; upload later with `wandb sync %s/wandb/*`", folder)
    logger = WandbLogger(
        name=config.experiment_name,
        id=run_dir.name,  # a resumed run stays one run there
        resume="allow",
        project=config.wandb_project,
        entity=config.wandb_entity,
        save_dir=folder,
        offline=offline,
        log_model=False,
    )
    run = logger.experiment  # a stand-in without address on all processes but the first
    if address := getattr(run, "url", None) or offline:
        link = {"url": None if offline else address, "folder": str(folder / "wandb")}
        atomic_write_json(run_dir / WANDB_LINK_FILE, link)
    return logger


def _wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
