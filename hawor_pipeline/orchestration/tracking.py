"""Where a training run can be watched: TensorBoard and Weights & Biases, linked from the run's page.

Only public interfaces of both: training writes their files by itself (`training/loggers.py`), and the resources say
whether to and where to look. None of them needs an account or asks a question.
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
        """Training settings that follow from this resource; they do not change what is learned."""
        return {} if self.enabled else {"use_tensorboard": False}

    def link(self, run_dir: Path) -> dict[str, dg.MetadataValue]:
        """Metadata that leads to a run's curves."""
        if not self.enabled:
            return {}
        base = self.address or os.environ.get(TENSORBOARD_VARIABLE) or TENSORBOARD_ADDRESS
        pattern = quote(f"^{run_dir.name}/", safe="")
        return {
            "tensorboard": dg.MetadataValue.url(f"{base}/?runFilter={pattern}#timeseries"),
            "tensorboard_command": dg.MetadataValue.text(f"tensorboard --logdir {run_dir.parent}"),
        }


class WandbResource(dg.ConfigurableResource):
    """Weights & Biases: off unless asked for; without a key it logs offline and says how to send it later."""

    enabled: bool = Field(default=False, description="Whether training logs to Weights & Biases.")
    project: str = Field(default="", description="Project; empty: as the experiment says.")
    entity: str = Field(default="", description="Team or user; empty: as the experiment says.")

    def settings(self) -> dict[str, bool | str]:
        """Training settings that follow from this resource; they do not change what is learned."""
        if not self.enabled:
            return {}
        named = {"wandb_project": self.project, "wandb_entity": self.entity}
        return {"use_wandb": True, **{key: value for key, value in named.items() if value}}

    def link(self, run_dir: Path) -> dict[str, dg.MetadataValue]:
        """The run's page on the server, or the command that sends an offline run there."""
        try:
            found = json.loads((run_dir / WANDB_LINK_FILE).read_text())
        except (OSError, json.JSONDecodeError):
            return {}
        if found.get("url"):
            return {"wandb": dg.MetadataValue.url(found["url"])}
        return {"wandb_sync": dg.MetadataValue.text(f"wandb sync {found['folder']}/*run-*")}
