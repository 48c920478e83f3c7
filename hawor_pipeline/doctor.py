"""What this machine has, what is missing, and what to do about it."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hawor_pipeline.errors import HaworError

REQUIRED_PACKAGES = (
    "torch",
    "lightning",
    "numpy",
    "scipy",
    "opencv-python",
    "simplejpeg",
    "pyarrow",
    "pydantic",
    "embreex",
    "jaxtyping",
)
ORCHESTRATION_PACKAGES = ("dagster", "dagster-webserver", "wandb", "tensorboard")
_DEMO_DISK_GB = 2.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: what it is, whether it is fine, whether it must be, and what to do if not."""

    name: str
    ok: bool
    required: bool
    found: str
    advice: str = ""


def examine() -> list[Finding]:
    """Look at versions, accelerator, disk, ARCTIC, MANO and earlier runs."""
    return [
        _python(),
        *(_package(name, required=True) for name in REQUIRED_PACKAGES),
        *(_package(name, required=False) for name in ORCHESTRATION_PACKAGES),
        _decoding(),
        _accelerator(),
        _disk(),
        _arctic(),
        _mano(),
        _chromium(),
    ]


def render(findings: list[Finding]) -> str:
    """A line per finding, then what to do."""
    lines = []
    for finding in findings:
        mark = "ok  " if finding.ok else ("MISS" if finding.required else "none")
        lines.append(f"[{mark}] {finding.name}: {finding.found}")
        if not finding.ok and finding.advice:
            lines.append(f"       {finding.advice}")
    missing = sum(finding.required and not finding.ok for finding in findings)
    lines.append(f"{missing} required things are missing" if missing else "everything required is there")
    return "\n".join(lines)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", sys.version_info >= (3, 11), True, version, "Python 3.11 or newer is needed")


def _package(name: str, *, required: bool) -> Finding:
    try:
        return Finding(name, True, required, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, required, "not installed", "make setup installs it")


def _accelerator() -> Finding:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Finding("Accelerator", False, False, "no NVIDIA driver; everything runs on CPU")
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=30, check=False).stdout.strip()
    if importlib.util.find_spec("torch") is None:
        return Finding("Accelerator", False, False, f"{listed}; torch is not installed")
    import torch

    if torch.cuda.is_available():
        return Finding("Accelerator", True, False, f"{listed}; torch {torch.__version__} can use it")
    return Finding(
        "Accelerator",
        False,
        bool(listed),
        f"{listed or 'driver without device'}; torch {torch.__version__} cannot use it",
        "install a CUDA build of the pinned torch: make setup TORCH_INDEX_URL=...",
    )


def _decoding() -> Finding:
    try:
        from hawor_pipeline.data.decode import thread_decoder
    except ImportError:
        return Finding("Decoding", False, False, "packages are missing")
    ways = thread_decoder().ways
    found = "regions of pictures, " + " and ".join(ways) if ways else "whole pictures only"
    return Finding("Decoding", bool(ways), False, found, "install numba, else conversion takes twice as long")


def _disk() -> Finding:
    free_gb = shutil.disk_usage(Path.cwd()).free / 1e9
    return Finding("Disk", free_gb > _DEMO_DISK_GB, True, f"{free_gb:.1f} GB free here", f"free {_DEMO_DISK_GB} GB")


def _arctic() -> Finding:
    root = os.environ.get("ARCTIC_ROOT")
    if not root:
        return Finding("ARCTIC", True, False, "ARCTIC_ROOT is not set: the built-in synthetic sample is used")
    from hawor_pipeline.data.arctic import ArcticRoot

    try:
        located = ArcticRoot.locate(Path(root))
    except HaworError as error:
        return Finding("ARCTIC", False, True, str(error), "set ARCTIC_ROOT to the download, or unset it for the sample")
    return Finding("ARCTIC", True, True, f"{located.path} ({located.source})")


def _mano() -> Finding:
    folder = os.environ.get("MANO_DIR")
    if not folder and not os.environ.get("ARCTIC_ROOT"):
        return Finding("MANO", True, False, "MANO_DIR is not set: the sample brings its own procedural hand")
    from hawor_pipeline.core.mano import load_mano
    from hawor_pipeline.data.arctic import ArcticRoot

    try:
        place = Path(folder) if folder else ArcticRoot.locate(Path(os.environ["ARCTIC_ROOT"])).mano_dir(None)
        for side in ("right", "left"):
            load_mano(place, side)
    except HaworError as error:
        return Finding("MANO", False, bool(os.environ.get("ARCTIC_ROOT")), str(error), "https://mano.is.tue.mpg.de")
    return Finding("MANO", True, False, str(place))


def _chromium() -> Finding:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return Finding("Chromium", path is not None, False, path or "not there", "only the browser tests need it")
