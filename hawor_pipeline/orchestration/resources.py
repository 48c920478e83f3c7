"""What a machine offers: the raw data, the body models, the accelerator. No experiment settings."""

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import dagster as dg
from pydantic import Field

from hawor_pipeline.errors import ConfigError
from hawor_pipeline.paths import DataPaths
from hawor_pipeline.provenance import StageResult


@dataclass(frozen=True, slots=True)
class RawLocation:
    """Where raw sequences and MANO models are, and of which source they are (synthetic or arctic)."""

    arctic_root: Path
    mano_dir: Path
    source: str


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
        return not os.environ.get("ARCTIC_ROOT")

    @property
    def source(self) -> str:
        """The name under which shards and results of this source live."""
        return "synthetic" if self.is_sample else self.locate().source

    def ensure(self, say: Callable[[str], None]) -> StageResult | None:
        """Generate the sample where it is used and not there yet; None for real data."""
        if not self.is_sample:
            return None
        from hawor_pipeline.data.sample import SampleSpec, ensure_sample

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
        from hawor_pipeline.data.arctic import ArcticRoot

        if self.is_sample:
            root = DataPaths.default().sample
            return RawLocation(root / "arctic", root / "body_models" / "mano", "synthetic")
        arctic = ArcticRoot.locate(Path(os.environ["ARCTIC_ROOT"]))
        return RawLocation(arctic.path, arctic.mano_dir(None), arctic.source)


def said(what: str, say: Callable[[str], None], lines: int = 8) -> Callable[[int, int], None]:
    """A progress callback (done, all) that says about `lines` lines in all."""

    def progress(done: int, total: int) -> None:
        if done == total or done % max(total // lines, 1) == 0:
            say(f"{what} {done} of {total}")

    return progress


@dataclass(frozen=True, slots=True)
class Compute:
    """The device a step runs on, and why."""

    accelerator: str
    device_name: str
    why: str

    def as_metadata(self) -> dict[str, str]:
        """For the step's metadata."""
        return {"device": self.device_name, "device_reason": self.why}

    as_dict = asdict


class ComputeResource(dg.ConfigurableResource):
    """Decides the device of every step that can use an accelerator."""

    accelerator: str = Field(default="auto", description="auto, cpu or cuda.")

    def resolve(self) -> Compute:
        """The device to use.

        Raises:
            ConfigError: an NVIDIA device is there that torch cannot use, or a device was asked for that is not there.
        """
        if self.accelerator not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"accelerator {self.accelerator!r} is unknown; expected auto, cpu or cuda")
        if self.accelerator == "cpu":
            return Compute("cpu", _cpu_name(), "accelerator: cpu was asked for")
        nvidia = _nvidia_device()
        if nvidia is None:
            if self.accelerator == "cuda":
                raise ConfigError("accelerator cuda was asked for, but no NVIDIA device is here; use auto or cpu")
            return Compute("cpu", _cpu_name(), "no accelerator on this machine; the same step runs on CPU")
        import torch

        if not torch.cuda.is_available():
            build = torch.version.cuda or "none: a CPU build"
            raise ConfigError(
                f"found {nvidia}, but torch {torch.__version__} cannot use it (CUDA of this build: {build}). "
                "Install a build for your driver (make setup TORCH_INDEX_URL=https://download.pytorch.org/whl/cu126), "
                "or set accelerator: cpu on the compute resource"
            )
        return Compute("cuda", torch.cuda.get_device_name(0), "an NVIDIA device that torch can use")


def _cpu_name() -> str:
    return f"CPU ({platform.machine()}, {os.cpu_count()} cores)"


def _nvidia_device() -> str | None:
    """The first NVIDIA device by the driver's own tool, without loading torch."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=30, check=False)
    lines = [line for line in listed.stdout.splitlines() if line.startswith("GPU ")]
    return lines[0] if listed.returncode == 0 and lines else None
