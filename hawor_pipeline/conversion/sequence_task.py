"""The task of converting one sequence, and the keys by which its shard is found again.

A key is a hash of everything that a shard is made from and by. ARCTIC is keyed by contents: a file that is only touched
converts nothing. Other datasets are keyed by names, sizes and times of their files, which needs no reading.
"""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hawor_pipeline.config import ConversionConfig
from hawor_pipeline.errors import ConfigError
from hawor_pipeline.provenance import hash_json, sha256_file
from hawor_pipeline.versions import CONVERTER_VERSION, EXTERNAL_VERSION

if TYPE_CHECKING:
    from hawor_pipeline.sources.reader import Reader, SequenceRef

# Settings that choose or judge sequences, but do not change the bytes of one.
_SELECTION = {"sequences", "max_sequences_per_subject", "max_left_out_share"}
_LIBRARIES = ("numpy", "opencv-python", "simplejpeg", "pyarrow", "torch", "embreex")


@dataclass(frozen=True, slots=True)
class SequenceTask:
    """Everything that a worker needs for one sequence."""

    dataset: str
    source: str
    root: Path
    mano_dir: Path
    ref: "SequenceRef"
    output: Path  # the shard's final folder
    settings: ConversionConfig
    shared: dict[str, Any]  # part of the keys of all sequences
    key: str  # "" where it follows from contents that the worker hashes
    raw: dict[str, Any] | None = None  # hashes of the raw files without the images, where contents are the key
    image_digests: dict[str, str] | None = None  # view -> digest of its images; None: hash them while converting
    recorded_views: tuple[int, ...] = ()  # views that any sequence of the subject has
    smplx_dir: Path | None = None  # None: the person's body does not count as an occluder
    needs_bodies: bool = False  # of the reader
    labels: Any = None  # result of the reader's `labels_of`


def settings_that_matter(settings: ConversionConfig) -> dict[str, Any]:
    """Return the settings that change the bytes of a shard."""
    return settings.model_dump(mode="json", exclude=_SELECTION)


def shared_key(settings: ConversionConfig, reader: "Reader", mano_dir: Path) -> dict[str, Any]:
    """Return the part of the key that all sequences have in common."""
    from hawor_pipeline.sources.hand_models import hash_hand_models

    shared = {
        "settings": settings_that_matter(settings),
        "mano": hash_hand_models(mano_dir),
        "converter": CONVERTER_VERSION,
        "libraries": {name: _version(name) for name in _LIBRARIES},
    }
    if bodies := reader.body_models():
        shared["smplx"] = {gender: sha256_file(file) for gender, file in bodies.items()}
    # the version of ARCTIC's reader is that of the converter
    return shared if reader.records_views else {**shared, "dataset": [reader.name, EXTERNAL_VERSION]}


def _version(package: str) -> str:
    """Return the version without the build tag; OpenCV goes by two names."""
    for name in (package, f"{package}-headless"):
        try:
            return version(name).split("+")[0]
        except PackageNotFoundError:
            continue
    raise ConfigError(f"the package {package} is not installed; `make setup` installs it.")


def content_key(shared: dict[str, Any], raw: dict[str, Any], ref: "SequenceRef") -> str:
    """Return the key of a sequence by the contents of its raw files."""
    return hash_json({**shared, "raw": raw, "subject": ref.subject, "sequence": ref.sequence})


def state_key(shared: dict[str, Any], labels: list, images: str, ref: "SequenceRef") -> str:
    """Return the key of a sequence by the states (name, size, time) of its label files and images."""
    return hash_json({**shared, "labels": labels, "pictures": images, "unit": [ref.subject, ref.sequence]})


def data_version(shared: dict[str, Any], raw: dict[str, Any]) -> str:
    """Return the version of a shard's data: raw contents, hand models, settings, converter and reader.

    Libraries are not part of it: they change a few pixels' rounding, not the data.
    """
    return hash_json({"raw": raw, **{name: value for name, value in shared.items() if name != "libraries"}})
