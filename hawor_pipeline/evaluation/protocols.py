"""Evaluation protocols: subjects, views and conventions, without which numbers cannot be compared.

A protocol of a dataset (`arctic-*`, `freihand`, `ho3d`) is rejected on other data, because its name would promise a
different measurement. `hot3d-world` and `hint` name ways of measuring and accept any shards with the columns they need;
every row also has the source of its images. protocols.yaml declares them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hawor_pipeline.config import read_yaml
from hawor_pipeline.errors import ConfigError, DataError, nearest
from hawor_pipeline.shards.manifest import Manifest, read_manifests
from hawor_pipeline.shards.splits import VALIDATION_SUBJECTS, held_out_subjects

# The built-in sample has ARCTIC's layout and cameras and stands for it.
ARCTIC_SOURCES = ("arctic", "synthetic")


@dataclass(frozen=True, slots=True)
class Protocol:
    """One protocol; samples weigh equally in all of them.

    Attributes:
        name: as in the tables.
        views: cameras to evaluate; None evaluates all.
        sources: datasets of the protocol; None accepts any.
        headlines: metrics that results under this name are quoted by.
        mirror_allowed: Procrustes alignment may mirror a hand.
        consecutive_frames: frames in a row that a hand needs in at least one view.
        meaning: for people.
        quirks: what a reader must know before comparing with published numbers.
    """

    name: str
    headlines: tuple[str, ...]
    meaning: str
    quirks: str
    views: tuple[int, ...] | None = None
    sources: tuple[str, ...] | None = None
    mirror_allowed: bool = False
    consecutive_frames: int = 1


def _protocol(name: str, declared: dict[str, Any]) -> Protocol:
    lists = {key: tuple(value) for key, value in declared.items() if isinstance(value, list)}
    return Protocol(name, **{**declared, **lists, "quirks": " ".join(declared["quirks"])})


PROTOCOLS = {
    name: _protocol(name, declared)
    for name, declared in read_yaml(Path(__file__).with_suffix(".yaml"))["protocols"].items()
}
DEFAULT_PROTOCOL = "arctic-all-val"


def find_protocol(name: str) -> Protocol:
    """Return the protocol of that name.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in PROTOCOLS:
        raise ConfigError(f"unknown protocol {name!r}; there are {', '.join(PROTOCOLS)}.{nearest(name, PROTOCOLS)}")
    return PROTOCOLS[name]


def default_subjects(protocol: Protocol, shards_dir: Path | str) -> list[str]:
    """Return a protocol's default subjects: ARCTIC's validation subjects, or the published test set of other datasets.

    Where that has no rows, or none is recorded, they are all subjects.

    Raises:
        ConfigError: the folder does not exist.
    """
    manifests = _manifests(shards_dir)
    sources = {manifest.source for manifest in manifests.values()}
    if protocol.sources == ARCTIC_SOURCES or sources <= set(ARCTIC_SOURCES):
        return list(VALIDATION_SUBJECTS)
    tested = held_out_subjects(shards_dir)[1]
    return [name for name in tested if name in manifests and manifests[name].rows] or list(manifests)


def check_fits(protocol: Protocol, shards_dir: Path | str, subjects: Sequence[str]) -> str:
    """Check, from the manifests alone, that a protocol applies to these shards.

    Returns:
        The source of the shards.

    Raises:
        ConfigError: a subject is missing, or the protocol is for other data or other views.
        DataError: the subjects have no rows, or come from several sources.
    """
    source = _source_of(shards_dir, subjects)
    if protocol.sources is not None and source not in protocol.sources:
        fitting = [p.name for p in PROTOCOLS.values() if p.sources is None or source in p.sources]
        raise ConfigError(
            f"protocol {protocol.name!r} is one of {' or '.join(protocol.sources)} shards, those of {shards_dir} are "
            f"{source}; choose one of {', '.join(fitting)}, or convert that dataset (`prepare --dataset`)."
        )
    return source


def _source_of(shards_dir: Path | str, subjects: Sequence[str]) -> str:
    manifests = _manifests(shards_dir)
    if missing := sorted(set(subjects) - set(manifests)):
        raise ConfigError(
            f"no shards of {', '.join(missing)} in {shards_dir} (has {', '.join(manifests) or 'none'}); convert first."
        )
    sources = {manifests[subject].source for subject in subjects}
    if len(sources) != 1:
        raise DataError(f"evaluated subjects come from {sorted(sources)}, expected one source; keep them apart.")
    return sources.pop()


def _manifests(shards_dir: Path | str) -> dict[str, Manifest]:
    """Read the manifest of every converted subject, by name."""
    root = Path(shards_dir)
    if not root.is_dir():
        raise ConfigError(f"shards folder {root} does not exist; `hawor-pipeline prepare` makes it.")
    return read_manifests(root)
