"""The layout of the data directory, known to this module alone."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from hawor_pipeline.errors import ConfigError, nearest

DATA_DIR_VARIABLE = "HAWOR_DATA_DIR"


@dataclass(frozen=True, slots=True)
class DataPaths:
    """Paths below one data directory (default: `data/` in the working directory)."""

    root: Path

    @classmethod
    def default(cls) -> "DataPaths":
        """`$HAWOR_DATA_DIR`, or `data` in the working directory."""
        return cls(Path(os.environ.get(DATA_DIR_VARIABLE, "data")).absolute())

    @property
    def sample(self) -> Path:
        """The built-in sample: `arctic/` and `body_models/mano/`."""
        return self.root / "sample"

    def inventory(self, source: str, subject: str) -> Path:
        """Inventory and proof sheet of one subject's raw files."""
        return self.root / "raw" / source / subject

    def shards(self, source: str) -> Path:
        """Converted shards of one source (synthetic, arctic, another dataset); sources never mix."""
        return self.root / "shards" / source

    def metadata(self, source: str) -> Path:
        """Manifest, splits and data card."""
        return self.root / "metadata" / source

    def quality(self, source: str) -> Path:
        """Quality tables and plots."""
        return self.root / "quality" / source

    @property
    def runs(self) -> Path:
        """Training runs, a folder each."""
        return self.root / "runs"

    @property
    def pretrained(self) -> Path:
        """Released weights, imported and checked."""
        return self.root / "pretrained"

    @property
    def exports(self) -> Path:
        """Networks in HaWoR's naming, a folder per run."""
        return self.root / "exports"

    @property
    def metrics(self) -> Path:
        """Metric tables, hive-partitioned by run_id."""
        return self.root / "metrics"

    @property
    def reports(self) -> Path:
        """Reports, a folder per run."""
        return self.root / "reports"

    def sample_page(self, sample_id: str) -> Path:
        """The page about one sample."""
        return self.reports / "samples" / f"{sample_id.replace('/', '_')}.html"

    def video(self, sequence: str, view: int) -> Path:
        """The video of one recording ("subject/sequence") in one view."""
        return self.reports / "films" / f"{sequence.replace('/', '_')}_{view}.mp4"

    @property
    def registry(self) -> Path:
        """Evaluated runs, champions and their checkpoints."""
        return self.root / "registry"

    @property
    def cache(self) -> Path:
        """Local copies of remote folders."""
        return self.root / "cache"

    @property
    def handoff(self) -> Path:
        """Small JSON values that assets pass to each other."""
        return self.root / "handoff"


def root_variable(dataset: str) -> str:
    """Return the environment variable that names the folder of a dataset, e.g. FREIHAND_ROOT."""
    return f"{dataset.upper()}_ROOT"


def config_dir() -> Path:
    """Return the folder of the shipped configurations: the checkout's `configs/`, or the installed copy."""
    checkout = Path(__file__).resolve().parent.parent / "configs"
    return checkout if checkout.is_dir() else Path(sys.prefix) / "share" / "hawor_pipeline" / "configs"


def experiment_file(name: str) -> Path:
    """Return the YAML of an experiment, by its name among the shipped ones or by its path.

    Raises:
        ConfigError: neither exists; the message lists the shipped names.
    """
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    path = config_dir() / "experiments" / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in path.parent.glob("*.yaml"))
        raise ConfigError(
            f"experiment {name!r} not found.{nearest(name, known)} Shipped experiments: {', '.join(known)}; "
            "or give the path of a YAML file"
        )
    return path
