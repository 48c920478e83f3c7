"""The manifest of one converted subject: its sequences in force, with counts and digests, and the dropped ones.

    {shards}/{subject}/manifest.json

Readers open only the sequences that a manifest lists. A conversion withdraws a sequence before it replaces the shard
and lists it again when all of it is on disk, so a killed conversion never leaves a manifest that vouches for a shard
which is half old and half new.
"""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter

from hawor_pipeline.core.mano_convention import ManoConvention
from hawor_pipeline.errors import DataError
from hawor_pipeline.provenance import STAGE_FILE, atomic_write_json, find_done, hash_json, sha256_file
from hawor_pipeline.shards.schema import MANIFEST_FILE
from hawor_pipeline.sources.registry import convention_of_source

_REQUIRED = ("source", "rows", "sequences")
_NAME = re.compile(r"(?!\.)[^/\\\0]+")  # one component of a path


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceInfo:
    """Counts and digests of one finished shard, as its stage marker stores them.

    Fields that are None are absent from the file: some measures exist for datasets with whole recordings per view
    (`unmatched_share`, `unseen`, `absent_views`), some for datasets of labelled images (`lost`, `left_out_share`,
    `made_under`), `exported_data_version` for imported WebDatasets.
    """

    rows: int
    valid_rows: int = 0
    ground_truth_frames: int = 0
    left_out: dict[str, int] = field(default_factory=dict)  # reason in the ledger -> samples
    invalid: dict[str, int] = field(default_factory=dict)  # failed rule -> rows
    body_occluder: bool | None = None  # the person's own body counts in joint_visible and occlusion
    unaccounted: int = 0  # hands with ground truth that are neither a row nor in the ledger
    sha256: dict[str, str] = field(default_factory=dict)  # file name -> digest
    bytes: int = 0
    unmatched_share: float | None = None  # of the frames of the worst view, with image or ground truth alone
    unseen: int | None = None  # hands behind a camera, or outside the image of a static one
    absent_views: list[int] | None = None  # without any image
    lost: dict[str, int] | None = None  # reason -> labelled hands; gaps of the published data are not among them
    left_out_share: float | None = None  # of the labelled hands
    made_under: str | None = None  # digest of settings, hand models and versions
    data_version: str | None = None
    exported_data_version: str | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from stored values; keys of other versions are ignored.

        Raises:
            ValueError: a required key is missing, or a value is of another type.
        """
        return TypeAdapter(cls).validate_python(values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, without the fields that are None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceEntry(SequenceInfo):
    """One sequence in force, by name."""

    sequence: str

    @classmethod
    def of(cls, sequence: str, info: SequenceInfo, data_version: str | None = None) -> Self:
        """Name the info of a finished shard; `data_version` replaces that of the info where given."""
        values = info.to_dict() | ({} if data_version is None else {"data_version": data_version})
        return cls.from_dict({**values, "sequence": sequence})


@dataclass(frozen=True, slots=True)
class SkippedSequence:
    """One sequence without samples, and the reason."""

    sequence: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything that is recorded of one converted subject."""

    subject: str = ""
    source: str = ""
    status: str = "present"  # of the ground truth: present, withheld, absent
    reason: str = ""  # why there is no ground truth
    converter_version: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    data_version: str = ""
    rows: int = 0
    valid_rows: int = 0
    sequences: tuple[SequenceEntry, ...] = ()
    left_out_sequences: tuple[SkippedSequence, ...] = ()
    withdrawn: tuple[str, ...] = ()  # sequences that are being replaced, or that failed to be
    # Side -> digest of the hand model's arrays (`digest_hand_models`); None in manifests of earlier versions.
    hand_models: dict[str, str] | None = None
    convention: ManoConvention | None = None  # of the dataset; None in manifests of earlier versions

    @property
    def mano_convention(self) -> ManoConvention:
        """The recorded convention, else that of the source's reader."""
        return self.convention or convention_of_source(self.source)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from stored values; keys of other versions are ignored.

        Raises:
            ValueError: the values are not those of a manifest.
        """
        return TypeAdapter(cls).validate_python(values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; keys that do not apply are absent."""
        values = asdict(self) | {
            "sequences": [entry.to_dict() for entry in self.sequences],
            "left_out_sequences": [asdict(each) for each in self.left_out_sequences],
            "withdrawn": list(self.withdrawn),
        }
        for name in ("withdrawn", "hand_models", "convention"):
            if not values[name]:
                del values[name]
        return values

    def listing(self, entries: Iterable[SequenceEntry]) -> Self:
        """Return the manifest with these sequences in force and the totals that follow from them."""
        entries = tuple(entries)
        return replace(
            self,
            sequences=entries,
            rows=sum(entry.rows for entry in entries),
            valid_rows=sum(entry.valid_rows for entry in entries),
            data_version=hash_json([entry.data_version for entry in entries]),
        )

    @property
    def body_occluder(self) -> bool:
        """True if the person's own body counts in `joint_visible` and `occlusion` of every sequence in force."""
        return bool(self.sequences) and all(entry.body_occluder for entry in self.sequences)

    @property
    def names(self) -> list[str]:
        """Names of the sequences in force."""
        return [entry.sequence for entry in self.sequences]

    @property
    def bytes(self) -> int:
        """Size of all shards in force."""
        return sum(entry.bytes for entry in self.sequences)

    @property
    def unaccounted(self) -> int:
        """Hands with ground truth that are neither a row nor in a ledger."""
        return sum(entry.unaccounted for entry in self.sequences)

    @property
    def left_out(self) -> dict[str, int]:
        """Reason in the ledgers to samples, over all sequences."""
        return add_counts(entry.left_out for entry in self.sequences)

    @property
    def invalid(self) -> dict[str, int]:
        """Failed rule to rows, over all sequences."""
        return add_counts(entry.invalid for entry in self.sequences)


def add_counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Sum counts by name, in the order of the names."""
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return dict(sorted(total.items()))


def read_manifest(shards_dir: Path | str, subject: str) -> Manifest | None:
    """Read the manifest of one subject; None where it was not converted.

    Raises:
        DataError: it cannot be read.
    """
    file = Path(shards_dir) / subject / MANIFEST_FILE
    try:
        values = json.loads(file.read_text())
        manifest = Manifest.from_dict(values)
        _check_stored(manifest, values)
        return manifest
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{file}: not readable ({error}); remove it and run the conversion again, finished work is reused."
        ) from None


def _check_stored(manifest: Manifest, values: Mapping[str, Any]) -> None:
    """Raise a ValueError where stored values are not a whole manifest."""
    if missing := [name for name in _REQUIRED if name not in values]:
        raise ValueError(f"it lacks {', '.join(missing)}")
    names = [*manifest.names, *(skipped.sequence for skipped in manifest.left_out_sequences), *manifest.withdrawn]
    if wrong := [name for name in names if not _NAME.fullmatch(name)]:
        raise ValueError(f"it lists sequence {wrong[0]!r}, expected the name of a folder")
    if len(set(manifest.names)) != len(manifest.names):
        raise ValueError("it lists a sequence twice")
    for entry in manifest.sequences:
        if min(entry.rows, entry.valid_rows) < 0:
            raise ValueError(f"{entry.sequence} has {entry.rows} rows, {entry.valid_rows} of them valid")
        if wrong := [name for name in entry.sha256 if not _NAME.fullmatch(name)]:
            raise ValueError(f"it lists file {wrong[0]!r}, expected the name of a file")


def converted_names(shards_dir: Path | str) -> list[str]:
    """Return the subjects that have a manifest, sorted; none where the folder does not exist."""
    return sorted(path.parent.name for path in Path(shards_dir).glob(f"*/{MANIFEST_FILE}"))


def read_manifests(shards_dir: Path | str) -> dict[str, Manifest]:
    """Read the manifests of all converted subjects, by name.

    Raises:
        DataError: one cannot be read.
    """
    found = {name: read_manifest(shards_dir, name) for name in converted_names(shards_dir)}
    return {name: manifest for name, manifest in found.items() if manifest is not None}


def write_manifest(shards_dir: Path | str, manifest: Manifest) -> None:
    """Write the manifest of one subject; a file that already holds the same is not touched."""
    path = Path(shards_dir) / manifest.subject / MANIFEST_FILE
    if not path.exists() or read_manifest(shards_dir, manifest.subject) != manifest:
        atomic_write_json(path, manifest.to_dict())


def withdraw(shards_dir: Path | str, subject: str, names: Collection[str]) -> None:
    """Take sequences that are about to be replaced out of a manifest.

    Their names stay in `withdrawn`, so that a conversion which is killed meanwhile forgets none.
    """
    manifest = read_manifest(shards_dir, subject)
    if manifest is None:
        return
    removed = set(manifest.withdrawn) | (set(manifest.names) & set(names))
    kept = manifest.listing(entry for entry in manifest.sequences if entry.sequence not in names)
    write_manifest(shards_dir, replace(kept, withdrawn=tuple(sorted(removed))))


def find_shard(folder: Path, key: str) -> tuple[SequenceInfo | None, str]:
    """Find a whole finished shard under a key, and the reason why there is none.

    Returns:
        (info, why): info is None where the sequence must be converted; why is one sentence for people.
    """
    values, why = find_done(folder, key)
    if values is None:
        return None, why
    try:
        info = SequenceInfo.from_dict(values)
        if shard_is_whole(folder, info):
            return info, why
    except (ValueError, TypeError, FileNotFoundError):
        return None, "the earlier result's marker could not be read"
    return None, "a file of the earlier result is not as it was written"


def shard_is_whole(folder: Path, info: SequenceInfo) -> bool:
    """Check that the files of a shard hold what was written; only files newer than the marker are read for that."""
    finished = (folder / STAGE_FILE).stat().st_mtime_ns
    states = {name: (folder / name).stat() for name in info.sha256}
    if info.bytes != sum(state.st_size for state in states.values()):
        return False
    later = [name for name, state in states.items() if state.st_mtime_ns > finished]
    return all(sha256_file(folder / name) == info.sha256[name] for name in later)
