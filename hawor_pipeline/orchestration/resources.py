"""Resources of a machine: raw data, body models, and the store of small values. The device is in `compute.py`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from hawor_pipeline.locate import RawLocation, find_raw_data, uses_sample
from hawor_pipeline.paths import DataPaths
from hawor_pipeline.provenance import StageResult, atomic_write_json

Handoff = dict[str, Any]  # value that an asset passes on: a small JSON object


class RawData(dg.ConfigurableResource):
    """ARCTIC at `$ARCTIC_ROOT`, or the built-in sample where that is not set.

    The sample is generated when it is absent or stale. `$ARCTIC_ROOT` set to something that does not exist is an error.
    """

    sequences_per_subject: int = Field(default=6, description="Sample only: sequences of each subject.")
    frames: int = Field(default=9, description="Sample only: frames of each sequence.")
    image_scale: float = Field(default=0.25, description="Sample only: scale of ARCTIC's 2800x2000 px images.")
    tempo: float = Field(default=4.0, description="Sample only: speed of motion; above 1, short sequences vary more.")
    seed: int = Field(default=0, description="Sample only: random seed.")

    @property
    def is_sample(self) -> bool:
        """Return True where the built-in sample takes the place of ARCTIC."""
        return uses_sample()

    @property
    def source(self) -> str:
        """Name under which shards and results of this source are stored."""
        return "synthetic" if self.is_sample else self.locate().source

    def ensure(self, log: Callable[[str], None]) -> StageResult | None:
        """Generate the sample where it is used and absent or stale; None for real data."""
        if not self.is_sample:
            return None
        from hawor_pipeline.sample.spec import SampleSpec
        from hawor_pipeline.sample.write import ensure_sample

        spec = SampleSpec(
            sequences_per_subject=self.sequences_per_subject,
            frames=self.frames,
            image_scale=self.image_scale,
            seed=self.seed,
            tempo=self.tempo,
        )
        return ensure_sample(DataPaths.default().sample, spec, progress=log_progress("sample sequence", log))

    def locate(self) -> RawLocation:
        """Find raw data and MANO.

        Raises:
            ConfigError: `$ARCTIC_ROOT` or the MANO models are missing.
        """
        return find_raw_data()


def log_progress(what: str, log: Callable[[str], None], lines: int = 8) -> Callable[[int, int], None]:
    """Return a progress callback (done, total) that logs about `lines` lines in total."""

    def progress(done: int, total: int) -> None:
        if done == total or done % max(total // lines, 1) == 0:
            log(f"{what} {done} of {total}")

    return progress


class JsonIOManager(dg.ConfigurableIOManager):
    """Stores an asset's value (a mapping such as {path, sha256}) as `data/handoff/<asset>.json`. Nothing is pickled."""

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write the value; assets without one write nothing."""
        if obj is not None:
            atomic_write_json(_handoff_file(context.asset_key), obj)

    def load_input(self, context: dg.InputContext) -> Any:
        """Read the value that the upstream asset stored last."""
        path = _handoff_file(context.asset_key)
        if not path.is_file():
            raise dg.Failure(
                f"{context.asset_key.to_user_string()} was never materialised here ({path} is missing); "
                "materialise it first, or run full_pipeline_job"
            )
        return json.loads(path.read_text())


def _handoff_file(key: dg.AssetKey) -> Path:
    return DataPaths.default().handoff / f"{key.to_python_identifier()}.json"
