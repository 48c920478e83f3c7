"""What a machine offers: the raw data and the body models. No experiment settings; the device is in `compute.py`."""

from collections.abc import Callable

import dagster as dg
from pydantic import Field

from hawor_pipeline.locate import RawLocation, find_raw_data, uses_sample
from hawor_pipeline.paths import DataPaths
from hawor_pipeline.provenance import StageResult


class RawData(dg.ConfigurableResource):
    """ARCTIC at `$ARCTIC_ROOT`, or the built-in sample where that is not set.

    The sample is generated when it is absent or stale. `$ARCTIC_ROOT` set to something that does not exist is an error.
    """

    sequences_per_subject: int = Field(default=6, description="Sample only: sequences of each subject.")
    frames: int = Field(default=9, description="Sample only: frames of each sequence.")
    image_scale: float = Field(default=0.25, description="Sample only: scale of ARCTIC's 2800x2000 px pictures.")
    tempo: float = Field(default=4.0, description="Sample only: speed of motion; above 1, short sequences vary more.")
    seed: int = Field(default=0, description="Sample only: seed of everything in it.")

    @property
    def is_sample(self) -> bool:
        """Whether the built-in sample takes the place of ARCTIC."""
        return uses_sample()

    @property
    def source(self) -> str:
        """The name under which shards and results of this source live."""
        return "synthetic" if self.is_sample else self.locate().source

    def ensure(self, say: Callable[[str], None]) -> StageResult | None:
        """Generate the sample where it is used and not there yet; None for real data."""
        if not self.is_sample:
            return None
        from hawor_pipeline.sample import SampleSpec, ensure_sample

        spec = SampleSpec(
            sequences_per_subject=self.sequences_per_subject,
            frames=self.frames,
            image_scale=self.image_scale,
            seed=self.seed,
            tempo=self.tempo,
        )
        return ensure_sample(DataPaths.default().sample, spec, progress=said("sample sequence", say))

    def locate(self) -> RawLocation:
        """Find raw data and MANO.

        Raises:
            ConfigError: `$ARCTIC_ROOT` or the MANO models are missing.
        """
        return find_raw_data()


def said(what: str, say: Callable[[str], None], lines: int = 8) -> Callable[[int, int], None]:
    """A progress callback (done, all) that says about `lines` lines in all."""

    def progress(done: int, total: int) -> None:
        if done == total or done % max(total // lines, 1) == 0:
            say(f"{what} {done} of {total}")

    return progress
