"""What a report is about and what produced it: samples, splits, hashes, versions."""

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

from hawor_pipeline import __version__
from hawor_pipeline.evaluation.tables import PART_NAME, partition_dir
from hawor_pipeline.provenance import sha256_file
from hawor_pipeline.reporting.results import RunResults, read_training_result

PACKAGES = ("torch", "lightning", "numpy", "opencv-python", "pyarrow", "plotly")


def evaluated(run: RunResults) -> dict[str, Any]:
    """What was evaluated: numbers of samples and sequences, and the labels of their strata."""
    entry = run.get("mpjpe_mm")
    columns = {name: run.labels(name) for name in ("subject", "view", "side", "object", "action")}
    return {"samples": entry.n if entry else 0, "sequences": entry.sequences if entry else 0, **columns}


def also_chosen_on(run: RunResults, run_dir: Path) -> list[str]:
    """Evaluated subjects by whose error the checkpoint was chosen."""
    result = read_training_result(run_dir)
    chosen_on = {name.split("/")[0] for name in result["split"]["validation"]} if result else set()
    return sorted(chosen_on & set(run.labels("subject")))


def provenance(run: RunResults, config: Path) -> list[tuple[str, str]]:
    """Names, hashes and versions that the numbers come from."""
    rows = [
        ("Run", run.run_id),
        ("Protocol", run.protocol),
        ("Source of the data", run.source),
        ("Dataset version", run.dataset_version),
        ("Checkpoint, sha256", run.checkpoint_sha256 or "none"),
        ("Summary table, sha256", sha256_file(partition_dir(run.metrics_dir, "summary", run.run_id) / PART_NAME)),
        ("Configuration, sha256", sha256_file(config) if config.is_file() else "no configuration in the run's folder"),
        ("hawor_pipeline", __version__),
    ]
    return [*rows, *packages().items()]


def packages() -> dict[str, str]:
    """Versions of the packages that numbers and drawings depend on."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed where this report was made"
    return found
