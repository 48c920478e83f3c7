"""TensorBoard and Weights & Biases of training runs, linked from the run's page.

Training writes their files by itself (`training/loggers.py`); the resources switch them on and hold their addresses.
Neither needs an account or prompts.
"""

import json
import os
from pathlib import Path
from urllib.parse import quote

import dagster as dg
from pydantic import Field

from hawor_pipeline.orchestration.companions import TENSORBOARD_ADDRESS, TENSORBOARD_VARIABLE

WANDB_LINK_FILE = "wandb.json"  # written by the training process when its W&B run begins


class TensorBoardResource(dg.ConfigurableResource):
    """TensorBoard's logs of training runs; `hawor-pipeline ui` starts its server beside Dagster's."""

    enabled: bool = Field(default=True, description="Whether training writes TensorBoard logs.")
    address: str = Field(default="", description=f"Empty: ${TENSORBOARD_VARIABLE}, or {TENSORBOARD_ADDRESS}.")

    def settings(self) -> dict[str, bool]:
        """Return the training settings of this resource; they do not change the result."""
        return {} if self.enabled else {"use_tensorboard": False}

    def link(self, run_dir: Path) -> dict[str, dg.MetadataValue]:
        """Return metadata with links to a run's curves."""
        if not self.enabled:
            return {}
        base = self.address or os.environ.get(TENSORBOARD_VARIABLE) or TENSORBOARD_ADDRESS
        pattern = quote(f"^{run_dir.name}/", safe="")
        return {
            "tensorboard": dg.MetadataValue.url(f"{base}/?runFilter={pattern}#timeseries"),
            "tensorboard_command": dg.MetadataValue.text(f"tensorboard --logdir {run_dir.parent}"),
        }


class WandbResource(dg.ConfigurableResource):
    """Weights & Biases: off by default; without a key it logs offline and shows the command to sync."""

    enabled: bool = Field(default=False, description="Whether training logs to Weights & Biases.")
    project: str = Field(default="", description="Project; empty: that of the experiment.")
    entity: str = Field(default="", description="Team or user; empty: that of the experiment.")

    def settings(self) -> dict[str, bool | str]:
        """Return the training settings of this resource; they do not change the result."""
        if not self.enabled:
            return {}
        named = {"wandb_project": self.project, "wandb_entity": self.entity}
        return {"use_wandb": True, **{key: value for key, value in named.items() if value}}

    def link(self, run_dir: Path) -> dict[str, dg.MetadataValue]:
        """Return the run's page on the server, or the command that syncs an offline run."""
        try:
            found = json.loads((run_dir / WANDB_LINK_FILE).read_text())
        except (OSError, json.JSONDecodeError):
            return {}
        if found.get("url"):
            return {"wandb": dg.MetadataValue.url(found["url"])}
        return {"wandb_sync": dg.MetadataValue.text(f"wandb sync {found['folder']}/*run-*")}
