"""Check of this machine: what is present, what is missing, what to do."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hawor_pipeline.errors import ConfigError, DataError, HaworError
from hawor_pipeline.paths import root_variable

if TYPE_CHECKING:
    from hawor_pipeline.sources.arctic import ArcticRoot

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
class Diagnosis:
    """Result of one check: `found` describes the state, `advice` the remedy where it is not ok."""

    name: str
    ok: bool
    required: bool
    found: str
    advice: str = ""


def examine() -> list[Diagnosis]:
    """Check versions, accelerator, disk, ARCTIC, MANO, other datasets that are named, and what tests need."""
    return [
        _python(),
        *(_package(name, required=True) for name in REQUIRED_PACKAGES),
        *(_package(name, required=False) for name in ORCHESTRATION_PACKAGES),
        _decoding(),
        _accelerator(),
        _disk(),
        _arctic(),
        _mano(),
        *_other_datasets(),
        _chromium(),
    ]


def render(diagnoses: list[Diagnosis]) -> str:
    """Format a line per check, with the remedy below where it failed, and a summary."""
    lines = []
    for diagnosis in diagnoses:
        mark = "ok  " if diagnosis.ok else ("MISS" if diagnosis.required else "none")
        lines.append(f"[{mark}] {diagnosis.name}: {diagnosis.found}")
        if not diagnosis.ok and diagnosis.advice:
            lines.append(f"       {diagnosis.advice}")
    missing = sum(diagnosis.required and not diagnosis.ok for diagnosis in diagnoses)
    lines.append(f"{missing} required things are missing" if missing else "everything required is present")
    return "\n".join(lines)


def _python() -> Diagnosis:
    version = ".".join(map(str, sys.version_info[:3]))
    return Diagnosis("Python", sys.version_info >= (3, 11), True, version, "Python 3.11 or newer is needed")


def _package(name: str, *, required: bool) -> Diagnosis:
    try:
        return Diagnosis(name, True, required, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Diagnosis(name, False, required, "not installed", "make setup installs it")


def _accelerator() -> Diagnosis:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Diagnosis("Accelerator", False, False, "no NVIDIA driver; everything runs on CPU")
    listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=30, check=False).stdout.strip()
    if importlib.util.find_spec("torch") is None:
        return Diagnosis("Accelerator", False, False, f"{listed}; torch is not installed")
    import torch

    if torch.cuda.is_available():
        return Diagnosis("Accelerator", True, False, f"{listed}; torch {torch.__version__} can use it")
    return Diagnosis(
        "Accelerator",
        False,
        bool(listed),
        f"{listed or 'driver without device'}; torch {torch.__version__} cannot use it",
        "install a CUDA build of the pinned torch: make setup TORCH_INDEX_URL=...",
    )


def _decoding() -> Diagnosis:
    try:
        from hawor_pipeline.conversion.decode import thread_decoder
    except ImportError:
        return Diagnosis("Decoding", False, False, "packages are missing")
    regions = thread_decoder().decodes_regions
    found = "regions of images, cut out by numba" if regions else "whole images only"
    return Diagnosis("Decoding", regions, False, found, "install numba, else conversion takes twice as long")


def _disk() -> Diagnosis:
    free_gb = shutil.disk_usage(Path.cwd()).free / 1e9
    return Diagnosis("Disk", free_gb > _DEMO_DISK_GB, True, f"{free_gb:.1f} GB free here", f"free {_DEMO_DISK_GB} GB")


def _arctic() -> Diagnosis:
    root = os.environ.get("ARCTIC_ROOT")
    if not root:
        return Diagnosis("ARCTIC", True, False, "ARCTIC_ROOT is not set: the built-in synthetic sample is used")
    from hawor_pipeline.sources.arctic import ArcticRoot

    try:
        located = ArcticRoot.locate(Path(root))
    except HaworError as error:
        return Diagnosis(
            "ARCTIC", False, True, str(error), "set ARCTIC_ROOT to the download, or unset it for the sample"
        )
    return _contents(located)


def _contents(root: "ArcticRoot") -> Diagnosis:
    """Count the sequences by subject; without raw sequences, or without images of them, nothing can be converted."""
    sequences = {subject: root.sequences(subject) for subject in root.subjects()}
    shown = {subject: sum(_has_images(root, subject, name) for name in sequences[subject]) for subject in sequences}
    known = {subject: len(names) for subject, names in sequences.items() if names}
    lacking, advice = [], []
    if not known:
        lacking.append("no raw sequences")
        advice.append(f"unpack ARCTIC's raw_seqs.zip, so that {root.path / 'raw_seqs'} holds s01/*.mano.npy and so on")
    if not (any(shown.values()) if known else _images_of_any(root)):
        lacking.append("no images of any sequence" if known else "no images")
        advice.append(
            f"unpack images to {root.path / 'images'} or {root.path / 'cropped_images'}/SUBJECT/SEQUENCE/VIEW, or "
            "keep ARCTIC's zips in downloads/data/images_zips or cropped_images_zips"
        )
    if lacking:
        return Diagnosis("ARCTIC", False, True, f"{root.path} holds {' and '.join(lacking)}", "; ".join(advice))
    counts = ", ".join(f"{subject} {_of(shown[subject], count)}" for subject, count in known.items())
    found = f"{root.path} ({root.source}, {root.image_source}); sequences with images: {counts}"
    for status in ("withheld", "absent"):
        others = [subject for subject in sequences if root.status(subject) == status]
        found += f"; {status}: {', '.join(others)}" if others else ""
    return Diagnosis("ARCTIC", True, True, found)


def _of(part: int, whole: int) -> str:
    return str(whole) if part == whole else f"{part} of {whole}"


def _has_images(root: "ArcticRoot", subject: str, sequence: str) -> bool:
    """Return True where any view of a sequence has an image; a damaged zip counts as none."""
    from hawor_pipeline.sources.arctic import VIEW_COUNT

    try:
        return any(root.images(subject, sequence, view) for view in range(VIEW_COUNT))
    except (ConfigError, DataError):
        return False


def _images_of_any(root: "ArcticRoot") -> bool:
    try:
        return any(root.imaged_sequences(subject) for subject in root.subjects())
    except ConfigError:
        return False


def _mano() -> Diagnosis:
    required = bool(os.environ.get("ARCTIC_ROOT"))
    if not required and not os.environ.get("MANO_DIR"):
        return Diagnosis("MANO", True, False, "MANO_DIR is not set: the sample has its own hand")
    from hawor_pipeline import locate
    from hawor_pipeline.untrusted.mano_files import load_mano

    try:
        source = locate.find_raw_root().source if required else "arctic"
        folder = locate.find_hand_models(source)
        for side in ("right", "left"):
            load_mano(folder, side)
    except HaworError as error:
        return Diagnosis("MANO", False, required, str(error), "https://mano.is.tue.mpg.de")
    return Diagnosis("MANO", True, False, str(folder))


def _other_datasets() -> list[Diagnosis]:
    """Check the datasets whose folder an environment variable names."""
    try:
        from hawor_pipeline.sources.registry import DATASETS
    except ImportError:
        return [Diagnosis("Other datasets", False, False, "packages are missing")]
    return [_dataset(name) for name in DATASETS if os.environ.get(root_variable(name))]


def _dataset(name: str) -> Diagnosis:
    """Check that a dataset has its published layout, and that hand models for it are found."""
    from hawor_pipeline.locate import find_hand_models
    from hawor_pipeline.sources.registry import open_reader

    variable = root_variable(name)
    root = Path(os.environ[variable])
    try:
        open_reader(name, root, root)
    except HaworError as error:
        return Diagnosis(variable, False, True, str(error), f"set {variable} to the download of {name}, or unset it")
    try:
        find_hand_models(name, raw_root=root)
    except HaworError as error:
        advice = "set MANO_DIR to the folder of MANO_RIGHT and MANO_LEFT"
        return Diagnosis(variable, False, True, f"{root}, but {error}", advice)
    return Diagnosis(variable, True, True, str(root))


def _chromium() -> Diagnosis:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return Diagnosis("Chromium", path is not None, False, path or "not found", "only the browser tests need it")
