"""How small values pass between assets: as JSON files that a person can read. Nothing is pickled."""

import json
from typing import Any

import dagster as dg

from hawor_pipeline.paths import DataPaths
from hawor_pipeline.provenance import atomic_write_json


class JsonIOManager(dg.ConfigurableIOManager):
    """Stores an asset's value (a mapping such as {path, sha256}) as `data/handoff/<asset>.json`."""

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write the value; assets without one write nothing."""
        if obj is not None:
            atomic_write_json(DataPaths.default().handoff / f"{context.asset_key.to_python_identifier()}.json", obj)

    def load_input(self, context: dg.InputContext) -> Any:
        """Read the value that the upstream asset stored last."""
        path = DataPaths.default().handoff / f"{context.asset_key.to_python_identifier()}.json"
        if not path.is_file():
            raise dg.Failure(
                f"{context.asset_key.to_user_string()} was never materialised here ({path} is missing); "
                "materialise it first, or run full_pipeline_job"
            )
        return json.loads(path.read_text())
