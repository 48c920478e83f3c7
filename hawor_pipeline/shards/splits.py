"""Which subjects and sequences train, validate and test: from the protocol files where they are, and said where not."""

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
PROTOCOLS_FILE = "protocols.json"  # in a folder of shards: the protocols of the raw data they were made from
# ARCTIC's published protocols, for copies of the data without splits_json: one subject validates, one is withheld.
VALIDATION_SUBJECTS = ("s05",)
TEST_SUBJECTS = ("s03",)
# Views that a protocol evaluates on: p1 allocentric, p2 egocentric.
PROTOCOL_VIEWS = {"p1": tuple(range(1, VIEW_COUNT)), "p2": (0,)}


@dataclass(frozen=True, slots=True)
class Protocol:
    """One protocol. `sequences` is empty where no file states them, and then whole subjects count."""

    name: str
    views: tuple[int, ...]
    subjects: dict[str, list[str]]  # split -> subjects
    sequences: dict[str, list[str]]  # split -> "subject/sequence"
    stated_by: str  # file it was read from, or why it is assumed

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def read_protocols(root: ArcticRoot) -> dict[str, Protocol]:
    """All protocols by name.

    Raises:
        DataError: a file has other splits than train, val and test, or one sequence in two of them.
    """
    files = root.protocols
    if not files:
        return {name: _assumed(name) for name in PROTOCOL_VIEWS}
    return {name: _parse(name, splits) for name, splits in files.items()}


def main_protocol(protocols: Mapping[str, Protocol]) -> Protocol:
    """The one whose splits train a network: p1 where it is there."""
    return protocols[MAIN_PROTOCOL if MAIN_PROTOCOL in protocols else sorted(protocols)[0]]


def record_protocols(shards_dir: Path | str, root: ArcticRoot) -> None:
    """Write the protocols beside the shards, so that training knows them without the raw data."""
    protocols = {name: protocol.to_dict() for name, protocol in read_protocols(root).items()}
    atomic_write_json(Path(shards_dir) / PROTOCOLS_FILE, protocols)


def recorded_protocols(shards_dir: Path | str) -> dict[str, Protocol]:
    """What `record_protocols` wrote; empty where nothing is recorded.

    Raises:
        DataError: the file is damaged.
    """
    path = Path(shards_dir) / PROTOCOLS_FILE
    try:
        stored = json.loads(path.read_text())
        return {name: Protocol(**{**values, "views": tuple(values["views"])}) for name, values in stored.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path} is damaged ({error}); run `hawor-pipeline prepare` again, it rewrites it.") from error


def held_out_subjects(shards_dir: Path | str) -> tuple[list[str], list[str]]:
    """Subjects that validate and that test, by the protocol recorded beside the shards; ARCTIC's where none is.

    Args:
        shards_dir: a folder of shards, or the URL of a published one.

    Raises:
        DataError: what is recorded is damaged.
    """
    protocols = recorded_protocols(local_copy(shards_dir))
    if not protocols:
        return list(VALIDATION_SUBJECTS), list(TEST_SUBJECTS)
    subjects = main_protocol(protocols).subjects
    return list(subjects["val"]), list(subjects["test"])


def _assumed(name: str) -> Protocol:
    held_out = {*VALIDATION_SUBJECTS, *TEST_SUBJECTS}
    subjects = {
        "train": [subject for subject in SUBJECTS if subject not in held_out],
        "val": list(VALIDATION_SUBJECTS),
        "test": list(TEST_SUBJECTS),
    }
    reason = "assumed from ARCTIC's publication: splits_json is not there"
    return Protocol(name, PROTOCOL_VIEWS[name], subjects, {split: [] for split in SPLITS}, reason)


def _parse(name: str, splits: Mapping[str, Any]) -> Protocol:
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
    return Protocol(name, views, subjects, sequences, file)
