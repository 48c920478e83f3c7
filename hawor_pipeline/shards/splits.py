"""Splits into training, validation and test: read from the protocol files, or assumed and marked so without them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hawor_pipeline.errors import DataError
from hawor_pipeline.provenance import atomic_write_json
from hawor_pipeline.remote import local_copy
from hawor_pipeline.sources.arctic import SUBJECTS, VIEW_COUNT, ArcticRoot

SPLITS = ("train", "val", "test")
MAIN_PROTOCOL = "p1"
PROTOCOLS_FILE = "protocols.json"  # in a folder of shards: the protocols of their raw data
# ARCTIC's published protocols, for copies of the data without splits_json: one subject validates, one is withheld.
VALIDATION_SUBJECTS = ("s05",)
TEST_SUBJECTS = ("s03",)
# Views that a protocol evaluates on: p1 allocentric, p2 egocentric.
PROTOCOL_VIEWS = {"p1": tuple(range(1, VIEW_COUNT)), "p2": (0,)}


@dataclass(frozen=True, slots=True)
class SplitProtocol:
    """Splits of one protocol. `sequences` is empty if no file lists them; then whole subjects count."""

    name: str
    views: tuple[int, ...]
    subjects: dict[str, list[str]]  # split -> subjects
    sequences: dict[str, list[str]]  # split -> "subject/sequence"
    stated_by: str  # file it was read from, or the reason for the assumption

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def read_protocols(root: ArcticRoot) -> dict[str, SplitProtocol]:
    """Read all protocols by name.

    Raises:
        DataError: A file has other splits than train, val and test, or one sequence in two of them.
    """
    files = root.protocols
    if not files:
        return {name: _assumed(name) for name in PROTOCOL_VIEWS}
    return {name: _parse(name, splits) for name, splits in files.items()}


def main_protocol(protocols: Mapping[str, SplitProtocol]) -> SplitProtocol:
    """Return the protocol whose splits train a network: p1, else the first by name."""
    return protocols[MAIN_PROTOCOL if MAIN_PROTOCOL in protocols else sorted(protocols)[0]]


def record_protocols(shards_dir: Path | str, protocols: Mapping[str, SplitProtocol]) -> None:
    """Write protocols beside the shards, so that training does not need the raw data; without any, nothing."""
    if protocols:
        stored = {name: protocol.to_dict() for name, protocol in protocols.items()}
        atomic_write_json(Path(shards_dir) / PROTOCOLS_FILE, stored)


def recorded_protocols(shards_dir: Path | str) -> dict[str, SplitProtocol]:
    """Read the protocols that `record_protocols` wrote; empty if there are none.

    Raises:
        DataError: The file is damaged.
    """
    path = Path(shards_dir) / PROTOCOLS_FILE
    try:
        stored = json.loads(path.read_text())
        return {name: SplitProtocol(**{**values, "views": tuple(values["views"])}) for name, values in stored.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error}); run `hawor-pipeline prepare` again, it rewrites it.") from error


def held_out_subjects(shards_dir: Path | str) -> tuple[list[str], list[str]]:
    """Return the validation and the test subjects of the protocol recorded beside the shards, else ARCTIC's.

    Args:
        shards_dir: a folder of shards, or the URL of a published one.

    Raises:
        DataError: The recorded file is damaged.
    """
    protocols = recorded_protocols(local_copy(shards_dir))
    if not protocols:
        return list(VALIDATION_SUBJECTS), list(TEST_SUBJECTS)
    subjects = main_protocol(protocols).subjects
    return list(subjects["val"]), list(subjects["test"])


def _assumed(name: str) -> SplitProtocol:
    held_out = {*VALIDATION_SUBJECTS, *TEST_SUBJECTS}
    subjects = {
        "train": [subject for subject in SUBJECTS if subject not in held_out],
        "val": list(VALIDATION_SUBJECTS),
        "test": list(TEST_SUBJECTS),
    }
    reason = "assumed from ARCTIC's publication: splits_json is not there"
    return SplitProtocol(name, PROTOCOL_VIEWS[name], subjects, {split: [] for split in SPLITS}, reason)


def _parse(name: str, splits: Mapping[str, Any]) -> SplitProtocol:
    file = f"splits_json/protocol_{name}.json"
    if not isinstance(splits, Mapping) or set(splits) - set(SPLITS):
        raise DataError(f"{file}: expected lists train, val and test, found {sorted(splits)}; get the file again.")
    sequences = {split: list(splits.get(split, ())) for split in SPLITS}
    owner: dict[str, str] = {}
    for split, names in sequences.items():
        for item in names:
            if not isinstance(item, str) or item.count("/") != 1:
                raise DataError(f"{file}: found {item!r} in {split}, expected subject/sequence; get the file again.")
            if owner.setdefault(item, split) != split:
                raise DataError(f"{file}: {item} is both in {owner[item]} and in {split}; get the file again.")
    subjects = {split: sorted({item.split("/")[0] for item in names}) for split, names in sequences.items()}
    for split in ("val", "test"):
        shared = sorted(set(subjects["train"]) & set(subjects[split]))
        if shared:
            raise DataError(f"{file}: {', '.join(shared)} both in train and in {split}; expected whole subjects.")
    views = PROTOCOL_VIEWS.get(name, tuple(range(VIEW_COUNT)))
    return SplitProtocol(name, views, subjects, sequences, file)
